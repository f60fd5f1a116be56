// GPU kernels of Tfconv>Involution and Tfconv>InvolutionGrad. The numeric part is in
// involution.cu.cc.
#include <vector>

#include "common/gpu_kernel.h"
#include "involution/involution_cuda.h"
#include "involution/involution_op.h"

namespace tfconv {
namespace {

template <bool kIsGrad>
struct InvolutionGpuOp : InvolutionOp<kIsGrad> {
  template <typename T>
  static absl::Status Run(GpuExecutor* executor, const InvolutionSizes& sizes,
                          const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    InvolutionArgs<T> args = {};
    args.geometry = sizes.geometry;
    args.groups = sizes.groups;
    args.x = static_cast<const T*>(inputs[0].data);
    args.kernel = static_cast<const T*>(inputs[1].data);
    if (!kIsGrad) {
      args.y = static_cast<T*>(outputs[0].data);
      return executor->Check(LaunchInvolution(executor->stream(), args));
    }
    args.dy = static_cast<const T*>(inputs.back().data);
    args.dx = static_cast<T*>(outputs[0].data);
    args.dkernel = static_cast<T*>(outputs.back().data);
    const int error = LaunchInvolutionBackwardInput(executor->stream(), args);
    if (auto s = executor->Check(error); !s.ok()) return s;
    return executor->Check(LaunchInvolutionBackwardKernel(executor->stream(), args));
  }
};

TFCONV_REGISTER_GPU("Tfconv>Involution", InvolutionGpuOp<false>)
TFCONV_REGISTER_GPU("Tfconv>InvolutionGrad", InvolutionGpuOp<true>)

}  // namespace
}  // namespace tfconv
