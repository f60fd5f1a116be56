#include <stdint.h>

#include <numeric>

#include "deformable/deformable_cuda.h"
#include "deformable/deformable_device.h"

namespace tfconv {
namespace cuda {
namespace {

// x, offset, mask -> columns. A thread has all taps of a position, and kCount channels at a time;
// its neighbours have the next ones.
template <typename T, int kRank>
struct SampleTask {
  Sampling<T, kRank> sampling;
  Columns<T> columns;
  Lanes lanes;
  int64_t images;
  int pieces;          // of the channels, each in one group of either kind where kCount > 1
  int piece_channels;
  Divisor by_pieces;   // of an offset group
};

// The kernel has kSide taps along both of two axes, if that is positive.
template <typename T, int kCount, int kSide, int kRank>
__global__ void __launch_bounds__(kThreads, 2) SampleKernel(SampleTask<T, kRank> task) {
  using Acc = Accumulator<T>;
  [[maybe_unused]] constexpr int kColumns = kSide > 0 ? kSide : 1;
  [[maybe_unused]] constexpr int kRows = kSide > 3 ? 1 : kColumns;  // the code of more would not stay in the cache
  constexpr int kLast = kRank - 1;
  constexpr int kLines = kRank > 1 ? kRank - 2 : 0;  // the last axis but one
  const Sampling<T, kRank>& s = task.sampling;
  const Columns<T>& columns = task.columns;
  const int kernel_depth = kRank > 2 ? s.axis[0].kernel : 1;
  const int kernel_height = kSide > 0 ? kSide : kRank > 1 ? s.axis[kLines].kernel : 1;
  const int kernel_width = kSide > 0 ? kSide : s.axis[kLast].kernel;
  const int position = task.lanes.row();
  if (position >= s.positions) return;
  int places[kRank];
  s.Split(s.by_output, position, places);
  // Channels are counted in bytes.
  const int first = task.lanes.lane() * kCount * static_cast<int>(sizeof(T));
  const int step = task.lanes.count() * kCount * static_cast<int>(sizeof(T));
  const int end = task.piece_channels * static_cast<int>(sizeof(T));
  for (int piece = static_cast<int>(blockIdx.z); piece < task.pieces; piece += gridDim.z) {
    const int channel = piece * task.piece_channels;
    for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
      const int64_t index = s.Index(image, position, task.by_pieces.Divide(piece), 0);
      const T* const x = s.Image(image, channel);
      T* to = columns.data + (image * s.positions + position) * s.taps * columns.width +
              (kCount > 1 ? columns.Channel(channel) : 0);
      const T* moved = s.offset + kRank * index;
      const T* mask = s.mask + index;
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
            const Sample<Acc, kRank> sample = s.Find(moved, mask, starts);
            const T* const near = s.Near(sample, x);
            const T* corners[kCorners<kRank>];
            Acc weights[kCorners<kRank>];
            bool present[kCorners<kRank>];
#pragma unroll
            for (int corner = 0; corner < kCorners<kRank>; ++corner) {
              corners[corner] = Behind(near, s.ToCorner(corner));
              weights[corner] = CornerWeight<kRank>(sample.delta, corner) * sample.mask;
              present[corner] = s.Present(sample, corner);
            }
#pragma unroll 1
            for (int c = first; c < end; c += step) {
              Acc values[kCount] = {};
#pragma unroll
              for (int corner = 0; corner < kCorners<kRank>; ++corner) {
                const auto pack = LoadIf<T, kCount>(present[corner], Behind(corners[corner], c));
#pragma unroll
                for (int n = 0; n < kCount; ++n) {
                  values[n] += Widen(pack.value[n]) * weights[corner];
                }
              }
              Store<T, kCount>(
                  kCount > 1 ? Behind(to, c)
                             : to + columns.Channel(channel + c / static_cast<int>(sizeof(T))),
                  values);
            }
            moved += kRank;
            ++mask;
            to += columns.width;
          }
        }
      }
    }
  }
}

template <typename T, int kRank>
void (*ChooseSample(const Sampling<T, kRank>& s, bool wide))(SampleTask<T, kRank>) {
  if (!wide) return SampleKernel<T, 1, 0, kRank>;
  if constexpr (kRank == 2) {
    const int side = s.axis[0].kernel == s.axis[1].kernel ? s.axis[0].kernel : 0;
    if (side == 3) return SampleKernel<T, kVector<T>, 3, kRank>;
    if (side == 5) return SampleKernel<T, kVector<T>, 5, kRank>;
    if (side == 7) return SampleKernel<T, kVector<T>, 7, kRank>;
  }
  return SampleKernel<T, kVector<T>, 0, kRank>;
}

template <int kRank, typename T>
int LaunchSample(CudaStream stream, const DeformableArgs<T>& args) {
  SampleTask<T, kRank> task = {};
  const Sampling<T, kRank>& s = task.sampling;
  if (!MakeSampling(args, &task.sampling)) return cudaErrorInvalidValue;
  task.columns = MakeColumns(args, s, args.columns);
  task.images = args.geometry.batch;
  const bool wide = IsWide(s, task.columns);
  task.piece_channels = wide ? std::gcd(s.group_channels, task.columns.width) : s.group_channels;
  if (task.piece_channels == 0) return cudaSuccess;
  task.pieces = s.channels / task.piece_channels;
  task.by_pieces = MakeDivisor(task.pieces / s.offset_groups);
  // Several turns for a thread, so that finding a sample is a small part of the work.
  task.lanes = wide ? MakeLanes(task.piece_channels / kVector<T>, 3)
                    : MakeLanes(task.piece_channels, 5);
  const Grid grid = {task.lanes.Blocks(s.positions), task.images, task.pieces};
  return Launch(ChooseSample(s, wide), grid, stream, task);
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchDeformableSample(CudaStream stream, const DeformableArgs<T>& args) {
  return cuda::WithRank(args.rank, [&](auto rank) {
    return cuda::LaunchSample<rank.value>(stream, args);
  });
}

template int LaunchDeformableSample(CudaStream, const DeformableArgs<float>&);
template int LaunchDeformableSample(CudaStream, const DeformableArgs<double>&);
template int LaunchDeformableSample(CudaStream, const DeformableArgs<Half>&);
template int LaunchDeformableSample(CudaStream, const DeformableArgs<Bfloat16>&);

}  // namespace tfconv
