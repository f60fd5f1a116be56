// Descriptions of Tfconv>DeformableSample, Tfconv>DeformableConv and their gradients (see
// common/cpu_kernel.h).
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_OP_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_OP_H_

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"
#include "deformable/deformable_shapes.h"

namespace tfconv {

// For the order of the inputs see deformable_shapes.h.
template <DeformableKind kKind>
struct DeformableOp {
  using Sizes = DeformableSizes;

  static const char* Name() { return NameOf(kKind); }

  template <typename Context>
  absl::Status Read(Context* context) {
    return attributes.Read(kKind, context);
  }

  absl::Status Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                     std::vector<Dims>* outputs) const;

  template <typename T>
  static absl::Status Run(Executor* executor, const Sizes& sizes, const std::vector<Buffer>& inputs,
                          const std::vector<Buffer>& outputs);

  DeformableAttributes attributes;
};

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_OP_H_
