// GPU kernels of Tfconv>PerExampleConv and its gradients. The numeric part is in per_example.cu.cc.
#include <vector>

#include "common/gpu_kernel.h"
#include "per_example/per_example_cuda.h"
#include "per_example/per_example_op.h"

namespace tfconv {
namespace {

using Kind = PerExampleKind;

template <Kind kKind>
struct PerExampleGpuOp : PerExampleOp<kKind> {
  template <typename T>
  static absl::Status Run(GpuExecutor* executor, const PerExampleSizes& sizes,
                          const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    T* output = static_cast<T*>(outputs[0].data);
    PerExampleArgs<T> args = {};
    args.geometry = sizes.geometry;
    args.groups = sizes.groups;
    args.filters = sizes.filters;
    args.x = static_cast<const T*>(inputs[0].data);
    args.filter = static_cast<const T*>(inputs[1].data);
    if (kKind != Kind::kConv) args.dy = static_cast<const T*>(inputs.back().data);
    (kKind == Kind::kConv ? args.y : kKind == Kind::kInputGrad ? args.dx : args.dfilter) = output;
    const auto bytes = [&args](int64_t count) { return PerExampleWorkspace(args, count); };
    return executor->InSlices(args.geometry.batch, bytes, [&](int64_t count, void* workspace) {
      return LaunchPerExample(executor->stream(), args, executor->template multiplier<T>(), count,
                              workspace);
    });
  }
};

TFCONV_REGISTER_GPU("Tfconv>PerExampleConv", PerExampleGpuOp<Kind::kConv>)
TFCONV_REGISTER_GPU("Tfconv>PerExampleConvInputGrad", PerExampleGpuOp<Kind::kInputGrad>)
TFCONV_REGISTER_GPU("Tfconv>PerExampleConvFilterGrad", PerExampleGpuOp<Kind::kFilterGrad>)

}  // namespace
}  // namespace tfconv
