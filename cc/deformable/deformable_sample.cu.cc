#include <stdint.h>

#include <numeric>

#include "deformable/deformable_cuda.h"
#include "deformable/deformable_device.h"

namespace tfconv {
namespace cuda {
namespace {

// x, offset, mask -> columns. A thread has all taps of a position, and kCount channels at a time;
// its neighbours have the next ones.
template <typename T>
struct SampleTask {
  Sampling<T> sampling;
  Columns<T> columns;
  Lanes lanes;
  int64_t images;
  int pieces;          // of the channels, each in one group of either kind where kCount > 1
  int piece_channels;
  Divisor by_pieces;   // of an offset group
};

template <typename T, int kCount, int kSide>
__global__ void __launch_bounds__(kThreads, 2) SampleKernel(SampleTask<T> task) {
  using Acc = Accumulator<T>;
  [[maybe_unused]] constexpr int kColumns = kSide > 0 ? kSide : 1;
  [[maybe_unused]] constexpr int kRows = kSide > 3 ? 1 : kColumns;  // the code of more would not stay in the cache
  const Sampling<T>& s = task.sampling;
  const Columns<T>& columns = task.columns;
  const int kernel_height = kSide > 0 ? kSide : s.vertical.kernel;
  const int kernel_width = kSide > 0 ? kSide : s.horizontal.kernel;
  const int position = task.lanes.row();
  if (position >= s.positions) return;
  const int h = s.by_width.Divide(position);
  const int w = position - h * s.by_width.value;
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
      const T* moved = s.offset + 2 * index;
      const T* mask = s.mask + index;
#pragma unroll kRows
      for (int i = 0; i < kernel_height; ++i) {
        const int y_start = Source<false>(s.vertical, h, i);
#pragma unroll kColumns
        for (int j = 0; j < kernel_width; ++j) {
          const Sample<Acc> sample =
              s.Find(moved, mask, y_start, Source<false>(s.horizontal, w, j));
          const T* const top_left = s.TopLeft(sample, x);
          const T* corners[kNumCorners];
          Acc weights[kNumCorners];
          bool present[kNumCorners];
#pragma unroll
          for (int corner = 0; corner < kNumCorners; ++corner) {
            corners[corner] = Behind(top_left, s.ToCorner(corner));
            weights[corner] = sample.Weight(corner) * sample.mask;
            present[corner] = s.Present(sample, corner);
          }
#pragma unroll 1
          for (int c = first; c < end; c += step) {
            Acc values[kCount] = {};
#pragma unroll
            for (int corner = 0; corner < kNumCorners; ++corner) {
              const auto pack = LoadIf<T, kCount>(present[corner], Behind(corners[corner], c));
#pragma unroll
              for (int n = 0; n < kCount; ++n) values[n] += Widen(pack.value[n]) * weights[corner];
            }
            Store<T, kCount>(
                kCount > 1 ? Behind(to, c)
                           : to + columns.Channel(channel + c / static_cast<int>(sizeof(T))),
                values);
          }
          moved += 2;
          ++mask;
          to += columns.width;
        }
      }
    }
  }
}

template <typename T>
void (*ChooseSample(const Sampling<T>& s, bool wide))(SampleTask<T>) {
  const int side = s.vertical.kernel == s.horizontal.kernel ? s.vertical.kernel : 0;
  if (!wide) return SampleKernel<T, 1, 0>;
  if (side == 3) return SampleKernel<T, kVector<T>, 3>;
  if (side == 5) return SampleKernel<T, kVector<T>, 5>;
  if (side == 7) return SampleKernel<T, kVector<T>, 7>;
  return SampleKernel<T, kVector<T>, 0>;
}

template <typename T>
int LaunchSample(CudaStream stream, const DeformableArgs<T>& args) {
  SampleTask<T> task = {};
  const Sampling<T>& s = task.sampling;
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
  return cuda::LaunchSample(stream, args);
}

template int LaunchDeformableSample(CudaStream, const DeformableArgs<float>&);
template int LaunchDeformableSample(CudaStream, const DeformableArgs<double>&);
template int LaunchDeformableSample(CudaStream, const DeformableArgs<Half>&);
template int LaunchDeformableSample(CudaStream, const DeformableArgs<Bfloat16>&);

}  // namespace tfconv
