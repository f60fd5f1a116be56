// Descriptions of Tfconv>Involution, Tfconv>SpanInvolution and their gradients (see
// common/cpu_kernel.h).
#ifndef TFCONV_INVOLUTION_INVOLUTION_OP_H_
#define TFCONV_INVOLUTION_INVOLUTION_OP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"

namespace tfconv {

// kGrad is both gradients of kInvolution in one op: graphs that were saved by earlier versions have
// it.
enum class InvolutionKind {
  kInvolution,
  kGrad,
  kInputGrad,
  kKernelGrad,
  kSpan,
  kSpanInputGrad,
  kSpanGrad
};

// As in messages.
const char* NameOf(InvolutionKind kind);

// Whether kernels are made from features.
constexpr bool HasSpan(InvolutionKind kind) { return kind >= InvolutionKind::kSpan; }

constexpr bool IsGrad(InvolutionKind kind) {
  return kind != InvolutionKind::kInvolution && kind != InvolutionKind::kSpan;
}

// The input that dy is.
constexpr int DyInput(InvolutionKind kind) { return HasSpan(kind) ? 4 : 2; }

struct InvolutionSizes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t groups;
  int64_t num_features;
};

// Inputs x, kernel or features, span and bias, and, for the gradients, dy.
template <InvolutionKind kKind>
struct InvolutionOp {
  using Sizes = InvolutionSizes;

  static const char* Name() { return NameOf(kKind); }

  template <typename Context>
  absl::Status Read(Context* context) {
    attributes.op_name = Name();
    return attributes.Read(context, true);
  }

  absl::Status Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                     std::vector<Dims>* outputs) const;

  template <typename T>
  static absl::Status Run(Executor* executor, const Sizes& sizes, const std::vector<Buffer>& inputs,
                          const std::vector<Buffer>& outputs);

  ConvAttributes attributes;
};

}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_OP_H_
