// Descriptions of Tfconv>LocalAttention and its gradient (see common/cpu_kernel.h).
#ifndef TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_OP_H_
#define TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_OP_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"
#include "local_attention/local_attention_kernel.h"

namespace tfconv {

// Per spatial axis, in the op's own rank.
struct AttentionAttributes {
  std::string op_name;  // for messages
  ConvAttributes windows;
  int64_t heads = 0;
  int64_t biases = 0;  // 0 or 1
  std::string edges;   // "MASKED" or "SHIFTED"
  std::vector<int64_t> causal;  // 0 or 1
  std::vector<int64_t> scale;   // a mantissa, and the power of two that it is multiplied by

  // `Context` is an InferenceContext or an OpKernelConstruction.
  template <typename Context>
  absl::Status Read(Context* context) {
    windows.op_name = op_name;
    if (auto s = windows.Read(context, true); !s.ok()) return s;
    if (auto s = context->GetAttr("num_heads", &heads); !s.ok()) return s;
    if (auto s = context->GetAttr("num_biases", &biases); !s.ok()) return s;
    if (auto s = context->GetAttr("edges", &edges); !s.ok()) return s;
    if (auto s = context->GetAttr("causal", &causal); !s.ok()) return s;
    if (auto s = context->GetAttr("scale", &scale); !s.ok()) return s;
    return Check();
  }

  int rank() const { return windows.rank(); }
  // Ends messages about sizes.
  std::string ToString() const;

 private:
  absl::Status Check() const;
};

// Inputs query, key, value, the bias if there is one, and for the gradient dy.
template <bool kGrad>
struct LocalAttentionOp {
  using Sizes = AttentionGeometry;

  static const char* Name() { return kGrad ? "LocalAttentionGrad" : "LocalAttention"; }

  template <typename Context>
  absl::Status Read(Context* context) {
    attributes.op_name = Name();
    return attributes.Read(context);
  }

  absl::Status Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                     std::vector<Dims>* outputs) const;

  template <typename T>
  static absl::Status Run(Executor* executor, const Sizes& sizes, const std::vector<Buffer>& inputs,
                          const std::vector<Buffer>& outputs);

  AttentionAttributes attributes;
};

}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_OP_H_
