// GPU kernels of Tfconv>Involution and its gradients. The numeric part is in involution.cu.cc.
#include <vector>

#include "common/gpu_kernel.h"
#include "involution/involution_cuda.h"
#include "involution/involution_op.h"

namespace tfconv {
namespace {

template <InvolutionKind kKind>
struct InvolutionGpuOp : InvolutionOp<kKind> {
  template <typename T>
  static absl::Status Run(GpuExecutor* executor, const InvolutionSizes& sizes,
                          const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    using Kind = InvolutionKind;
    InvolutionArgs<T> args = {};
    args.geometry = sizes.geometry;
    args.groups = sizes.groups;
    args.x = static_cast<const T*>(inputs[0].data);
    args.kernel = static_cast<const T*>(inputs[1].data);
    if (kKind == Kind::kInvolution) {
      args.y = static_cast<T*>(outputs[0].data);
      return executor->Check(LaunchInvolution(executor->stream(), args));
    }
    args.dy = static_cast<const T*>(inputs.back().data);
    if (kKind != Kind::kKernelGrad) {
      args.dx = static_cast<T*>(outputs[0].data);
      const int error = LaunchInvolutionBackwardInput(executor->stream(), args);
      if (auto s = executor->Check(error); !s.ok()) return s;
    }
    if (kKind == Kind::kInputGrad) return absl::OkStatus();
    args.dkernel = static_cast<T*>(outputs.back().data);
    return executor->Check(LaunchInvolutionBackwardKernel(executor->stream(), args));
  }
};

TFCONV_REGISTER_GPU("Tfconv>Involution", InvolutionGpuOp<InvolutionKind::kInvolution>)
TFCONV_REGISTER_GPU("Tfconv>InvolutionGrad", InvolutionGpuOp<InvolutionKind::kGrad>)
TFCONV_REGISTER_GPU("Tfconv>InvolutionInputGrad", InvolutionGpuOp<InvolutionKind::kInputGrad>)
TFCONV_REGISTER_GPU("Tfconv>InvolutionKernelGrad", InvolutionGpuOp<InvolutionKind::kKernelGrad>)

}  // namespace
}  // namespace tfconv
