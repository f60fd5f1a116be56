// Descriptions of Tfconv>PerExampleConv and its gradients (see common/cpu_kernel.h).
#ifndef TFCONV_PER_EXAMPLE_PER_EXAMPLE_OP_H_
#define TFCONV_PER_EXAMPLE_PER_EXAMPLE_OP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"

namespace tfconv {

enum class PerExampleKind { kConv, kInputGrad, kFilterGrad };

// As in messages.
const char* NameOf(PerExampleKind kind);

struct PerExampleSizes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t groups;
  int64_t filters;
};

// Inputs x, filter and, for the gradients, dy.
template <PerExampleKind kKind>
struct PerExampleOp {
  using Sizes = PerExampleSizes;

  static const char* Name() { return NameOf(kKind); }

  template <typename Context>
  absl::Status Read(Context* context) {
    attributes.op_name = Name();
    return attributes.Read(context, false);
  }

  absl::Status Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                     std::vector<Dims>* outputs) const;

  template <typename T>
  static absl::Status Run(Executor* executor, const Sizes& sizes, const std::vector<Buffer>& inputs,
                          const std::vector<Buffer>& outputs);

  ConvAttributes attributes;
};

}  // namespace tfconv

#endif  // TFCONV_PER_EXAMPLE_PER_EXAMPLE_OP_H_
