// Descriptions of Tfconv>Involution and Tfconv>InvolutionGrad (see common/cpu_kernel.h).
#ifndef TFCONV_INVOLUTION_INVOLUTION_OP_H_
#define TFCONV_INVOLUTION_INVOLUTION_OP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"

namespace tfconv {

struct InvolutionSizes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t groups;
};

// Inputs x, kernel and, for the gradient, dy.
template <bool kIsGrad>
struct InvolutionOp {
  using Sizes = InvolutionSizes;

  static const char* Name() { return kIsGrad ? "InvolutionGrad" : "Involution"; }

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
