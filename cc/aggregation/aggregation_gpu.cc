// GPU kernels of Tfconv>DeformableAggregation and its gradients. The numeric part is in
// aggregation.cu.cc.
#include <vector>

#include "aggregation/aggregation_cuda.h"
#include "aggregation/aggregation_op.h"
#include "common/gpu_kernel.h"

namespace tfconv {
namespace {

using Kind = AggregationKind;

template <Kind kKind>
struct AggregationGpuOp : AggregationOp<kKind> {
  template <typename T>
  static absl::Status Run(GpuExecutor* executor, const AggregationSizes& sizes,
                          const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    const auto in = [&](int i) { return static_cast<const T*>(inputs[i].data); };
    const auto out = [&](int i) { return static_cast<T*>(outputs[i].data); };
    AggregationArgs<T> args = {};
    args.geometry = sizes.geometry;
    args.rank = sizes.rank;
    args.groups = sizes.groups;
    args.x = in(0);
    args.offset = in(1);
    args.weights = in(2);
    if constexpr (kKind == Kind::kAggregation) {
      args.y = out(0);
      return executor->Check(LaunchAggregation(executor->stream(), args));
    } else {
      args.dy = in(3);
      if constexpr (kKind == Kind::kInputGrad) {
        args.dx = out(0);
      } else {
        args.doffset = out(0);
        args.dweights = out(1);
      }
      const auto bytes = [&args](int64_t images) { return AggregationWorkspace(args, images); };
      return executor->InSlices(args.geometry.batch, bytes, [&](int64_t images, void* workspace) {
        return LaunchAggregationBackward(executor->stream(), args, images, workspace);
      });
    }
  }
};

TFCONV_REGISTER_GPU("Tfconv>DeformableAggregation", AggregationGpuOp<Kind::kAggregation>)
TFCONV_REGISTER_GPU("Tfconv>DeformableAggregationInputGrad", AggregationGpuOp<Kind::kInputGrad>)
TFCONV_REGISTER_GPU("Tfconv>DeformableAggregationSamplingGrad",
                    AggregationGpuOp<Kind::kSamplingGrad>)

}  // namespace
}  // namespace tfconv
