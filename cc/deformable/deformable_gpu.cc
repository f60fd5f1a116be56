// GPU kernels of Tfconv>DeformableSample, Tfconv>DeformableConv and their gradients. The numeric
// part is in deformable.cu.cc.
#include <vector>

#include "common/gpu_kernel.h"
#include "deformable/deformable_cuda.h"
#include "deformable/deformable_op.h"

namespace tfconv {
namespace {

using Kind = DeformableKind;

template <typename T>
const T* InputData(const std::vector<Buffer>& inputs, int input) {
  if (input < 0 || input >= static_cast<int>(inputs.size())) return nullptr;
  return static_cast<const T*>(inputs[static_cast<size_t>(input)].data);
}

template <Kind kKind>
struct DeformableGpuOp : DeformableOp<kKind> {
  template <typename T>
  static absl::Status Run(GpuExecutor* executor, const DeformableSizes& sizes,
                          const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    DeformableArgs<T> args = {};
    args.geometry = sizes.geometry;
    args.offset_groups = sizes.offset_groups;
    args.groups = sizes.groups;
    args.filters = sizes.filters;
    args.x = InputData<T>(inputs, kX);
    args.offset = InputData<T>(inputs, kOffset);
    args.mask = InputData<T>(inputs, MaskInput(kKind));
    args.filter = InputData<T>(inputs, FilterInput(kKind));
    args.dcolumns = InputData<T>(inputs, DcolumnsInput(kKind));
    args.dy = InputData<T>(inputs, DyInput(kKind));
    T* first = static_cast<T*>(outputs[0].data);
    if (kKind == Kind::kSample) {
      args.columns = first;
      return executor->Check(LaunchDeformableSample(executor->stream(), args));
    }
    if (kKind == Kind::kConv) {
      args.y = first;
      return executor->Check(LaunchDeformableConv(executor->stream(), args));
    }
    tensorflow::Tensor keep;
    void* workspace;
    if (kKind == Kind::kConvFilterGrad) {
      args.dfilter = first;
      const int64_t bytes = DeformableBackwardFilterWorkspace(args);
      if (auto s = executor->Allocate(bytes, &keep, &workspace); !s.ok()) return s;
      return executor->Check(LaunchDeformableBackwardFilter(executor->stream(), args, workspace));
    }
    args.dx = first;
    args.doffset = static_cast<T*>(outputs[1].data);
    if (inputs.size() > static_cast<size_t>(MaskInput(kKind))) {
      args.dmask = static_cast<T*>(outputs.back().data);
    }
    const int64_t bytes = DeformableBackwardWorkspace(args);
    if (auto s = executor->Allocate(bytes, &keep, &workspace); !s.ok()) return s;
    return executor->Check(LaunchDeformableBackward(executor->stream(), args,
                                                    executor->deterministic(), workspace));
  }
};

TFCONV_REGISTER_GPU("Tfconv>DeformableSample", DeformableGpuOp<Kind::kSample>)
TFCONV_REGISTER_GPU("Tfconv>DeformableSampleGrad", DeformableGpuOp<Kind::kSampleGrad>)
TFCONV_REGISTER_GPU("Tfconv>DeformableConv", DeformableGpuOp<Kind::kConv>)
TFCONV_REGISTER_GPU("Tfconv>DeformableConvInputGrad", DeformableGpuOp<Kind::kConvInputGrad>)
TFCONV_REGISTER_GPU("Tfconv>DeformableConvFilterGrad", DeformableGpuOp<Kind::kConvFilterGrad>)

}  // namespace
}  // namespace tfconv
