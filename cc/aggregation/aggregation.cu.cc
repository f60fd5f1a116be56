// What deformable sampling finds, summed over the taps: weights are the samples' masks, and groups the
// offset groups.
#include <stdint.h>

#include "aggregation/aggregation_cuda.h"
#include "deformable/deformable_cuda.h"
#include "deformable/deformable_device.h"

namespace tfconv {
namespace cuda {
namespace {

// A thread has kCount channels of a position, and its neighbours have the next ones.
template <typename T, int kRank>
struct Aggregation {
  Sampling<T, kRank> sampling;
  Lanes lanes;
  int64_t images;
  T* y;
};

// The kernel has kSide taps along both of two axes, if that is positive.
template <typename T, int kCount, int kSide, int kRank>
__global__ void __launch_bounds__(kThreads, 2) AggregateKernel(Aggregation<T, kRank> task) {
  using Acc = Accumulator<T>;
  [[maybe_unused]] constexpr int kColumns = kSide > 0 ? kSide : 1;
  [[maybe_unused]] constexpr int kRows = kSide > 3 ? 1 : kColumns;  // the code of more would not stay in the cache
  constexpr int kLast = kRank - 1;
  constexpr int kLines = kRank > 1 ? kRank - 2 : 0;  // the last axis but one
  const Sampling<T, kRank>& s = task.sampling;
  const int kernel_depth = kRank > 2 ? s.axis[0].kernel : 1;
  const int kernel_height = kSide > 0 ? kSide : kRank > 1 ? s.axis[kLines].kernel : 1;
  const int kernel_width = kSide > 0 ? kSide : s.axis[kLast].kernel;
  const int position = task.lanes.row();
  if (position >= s.positions) return;
  int places[kRank];
  s.Split(s.by_output, position, places);
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
      const int64_t index = s.Index(image, position, group, 0);
      T* const y = task.y + (image * s.positions + position) * s.channels;
#pragma unroll 1
      for (int c = task.lanes.lane() * kCount; c < s.group_channels;
           c += task.lanes.count() * kCount) {
        const int channel = group * s.group_channels + c;
        const T* const x = s.Image(image, channel);
        const T* moved = s.offset + kRank * index;
        const T* weight = s.mask + index;
        Acc sums[kCount] = {};
        int starts[kRank];
#pragma unroll 1
        for (int d = 0; d < kernel_depth; ++d) {
          if constexpr (kRank > 2) starts[0] = Source<false>(s.axis[0], places[0], d);
#pragma unroll kRows
          for (int i = 0; i < kernel_height; ++i) {
            if constexpr (kRank > 1) {
              starts[kLines] = Source<false>(s.axis[kLines], places[kLines], i);
            }
#pragma unroll kColumns
            for (int j = 0; j < kernel_width; ++j) {
              starts[kLast] = Source<false>(s.axis[kLast], places[kLast], j);
              const Sample<Acc, kRank> sample = s.Find(moved, weight, starts);
              const T* const near = s.Near(sample, x);
#pragma unroll
              for (int corner = 0; corner < kCorners<kRank>; ++corner) {
                const Acc factor = CornerWeight<kRank>(sample.delta, corner) * sample.mask;
                const auto pack = LoadIf<T, kCount>(s.Present(sample, corner),
                                                    Behind(near, s.ToCorner(corner)));
#pragma unroll
                for (int n = 0; n < kCount; ++n) sums[n] += Widen(pack.value[n]) * factor;
              }
              moved += kRank;
              ++weight;
            }
          }
        }
        Store<T, kCount>(y + channel, sums);
      }
    }
  }
}

template <typename T, int kRank>
void (*ChooseAggregate(const Sampling<T, kRank>& s, bool wide))(Aggregation<T, kRank>) {
  if (!wide) return AggregateKernel<T, 1, 0, kRank>;
  if constexpr (kRank == 2) {
    const int side = s.axis[0].kernel == s.axis[1].kernel ? s.axis[0].kernel : 0;
    if (side == 3) return AggregateKernel<T, kVector<T>, 3, kRank>;
    if (side == 5) return AggregateKernel<T, kVector<T>, 5, kRank>;  // of 7, registers do not do
  }
  return AggregateKernel<T, kVector<T>, 0, kRank>;
}

// As sampling has the arguments.
template <typename T>
DeformableArgs<T> SamplingOf(const AggregationArgs<T>& args) {
  DeformableArgs<T> s = {};
  s.geometry = args.geometry;
  s.rank = static_cast<int>(args.rank);
  s.offset_groups = args.groups;
  s.groups = 1;
  s.sums_taps = true;
  s.x = args.x;
  s.offset = args.offset;
  s.mask = args.weights;
  s.dcolumns = args.dy;
  s.dx = args.dx;
  s.doffset = args.doffset;
  s.dmask = args.dweights;
  return s;
}

template <int kRank, typename T>
int LaunchAggregate(CudaStream stream, const AggregationArgs<T>& args) {
  Aggregation<T, kRank> task = {};
  const Sampling<T, kRank>& s = task.sampling;
  if (!MakeSampling(SamplingOf(args), &task.sampling)) return cudaErrorInvalidValue;
  const bool wide =
      s.group_channels % kVector<T> == 0 && IsAligned(args.x) && IsAligned(args.y);
  task.images = args.geometry.batch;
  task.y = args.y;
  task.lanes = MakeLanes(s.group_channels / (wide ? kVector<T> : 1), 5);
  const Grid grid = {task.lanes.Blocks(s.positions), task.images,
                     s.channels == 0 ? 0 : s.offset_groups};
  return Launch(ChooseAggregate(s, wide), grid, stream, task);
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchAggregation(CudaStream stream, const AggregationArgs<T>& args) {
  return cuda::WithRank(static_cast<int>(args.rank), [&](auto rank) {
    return cuda::LaunchAggregate<rank.value>(stream, args);
  });
}

template <typename T>
int LaunchAggregationBackward(CudaStream stream, const AggregationArgs<T>& args, int64_t images,
                              void* workspace) {
  return LaunchDeformableBackward(stream, cuda::SamplingOf(args), Multiplier<T>(), images,
                                  workspace);
}

template <typename T>
int64_t AggregationWorkspace(const AggregationArgs<T>& args, int64_t images) {
  return DeformableWorkspace(cuda::SamplingOf(args), images);
}

#define TFCONV_INSTANTIATE(T)                                                                   \
  template int LaunchAggregation(CudaStream, const AggregationArgs<T>&);                         \
  template int LaunchAggregationBackward(CudaStream, const AggregationArgs<T>&, int64_t, void*); \
  template int64_t AggregationWorkspace(const AggregationArgs<T>&, int64_t);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
