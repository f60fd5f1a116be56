// GPU kernels of Tfconv>DeformableSample, Tfconv>DeformableConv and their gradients. The numeric
// part is in deformable_*.cu.cc.
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
    args.rank = static_cast<int>(sizes.rank);
    args.offset_groups = sizes.offset_groups;
    args.groups = HasFilter(kKind) ? sizes.groups : 1;
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
    } else if (kKind == Kind::kConvFilterGrad) {
      args.dfilter = first;
    } else {
      args.dx = first;
      args.doffset = static_cast<T*>(outputs[1].data);
      if (args.mask != nullptr) args.dmask = static_cast<T*>(outputs.back().data);
    }
    const auto launch =
        kKind == Kind::kConv ? LaunchDeformableConv<T> : LaunchDeformableBackward<T>;
    const auto bytes = [&args](int64_t images) { return DeformableWorkspace(args, images); };
    return executor->InSlices(args.geometry.batch, bytes, [&](int64_t images, void* workspace) {
      return launch(executor->stream(), args, executor->template multiplier<T>(), images,
                    workspace);
    });
  }
};

TFCONV_REGISTER_GPU("Tfconv>DeformableSample", DeformableGpuOp<Kind::kSample>)
TFCONV_REGISTER_GPU("Tfconv>DeformableSampleGrad", DeformableGpuOp<Kind::kSampleGrad>)
TFCONV_REGISTER_GPU("Tfconv>DeformableConv", DeformableGpuOp<Kind::kConv>)
TFCONV_REGISTER_GPU("Tfconv>DeformableConvInputGrad", DeformableGpuOp<Kind::kConvInputGrad>)
TFCONV_REGISTER_GPU("Tfconv>DeformableConvFilterGrad", DeformableGpuOp<Kind::kConvFilterGrad>)

}  // namespace
}  // namespace tfconv
