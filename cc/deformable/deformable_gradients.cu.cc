#include <stdint.h>

#include "deformable/deformable_cuda.h"
#include "deformable/deformable_device.h"

namespace tfconv {
namespace cuda {
namespace {

// x, offset, mask, dcolumns -> doffset, dmask. Neighbouring lanes share the channels of a sample and
// add their sums up.
template <typename T>
struct OffsetGradient {
  Sampling<T> sampling;
  Columns<const T> dcolumns;
  bool wide;
  Lanes lanes;
  int64_t images;
  T* doffset;
  T* dmask;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) OffsetGradientKernel(OffsetGradient<T> task) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Sampling<T>& s = task.sampling;
  const Columns<const T>& dcolumns = task.dcolumns;
  const int row = task.lanes.row();
  const bool active = row < s.positions * s.taps;
  const int safe = active ? row : 0;  // all lanes of a warp stay for the sums
  const int position = s.by_taps.Divide(safe);
  const int tap = safe - position * s.taps;
  const int lane = task.lanes.lane();
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
      const Sample<Acc> sample = s.FindTap(image, group, position, tap);
      const T* const top_left = s.TopLeft(sample, s.Image(image, group * s.group_channels));
      const T* const upstream =
          dcolumns.data + ((image * s.positions + position) * s.taps + tap) * dcolumns.width;
      Acc sums[kNumCorners] = {};
#pragma unroll 1
      for (int c = lane * kCount; c < s.group_channels; c += task.lanes.count() * kCount) {
        const int channel = group * s.group_channels + c;
        const int count = Min(kCount, s.group_channels - c);
        Pack<T, kCount> own = {};
        if (task.wide) {
          own = LoadIf<T, kCount>(true, upstream + dcolumns.Channel(channel));
        } else {
#pragma unroll
          for (int n = 0; n < kCount; ++n) {
            if (n < count) own.value[n] = upstream[dcolumns.Channel(channel + n)];
          }
        }
#pragma unroll
        for (int corner = 0; corner < kNumCorners; ++corner) {
          const bool present = s.Present(sample, corner);
          const auto pixel = Load<T, kCount>(Behind(top_left + c, s.ToCorner(corner)),
                                             present ? count : 0, task.wide);
#pragma unroll
          for (int n = 0; n < kCount; ++n) {
            sums[corner] += Widen(pixel.value[n]) * Widen(own.value[n]);
          }
        }
      }
      for (int distance = task.lanes.count() / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int corner = 0; corner < kNumCorners; ++corner) {
          sums[corner] += __shfl_xor_sync(0xffffffffu, sums[corner], distance);
        }
      }
      if (!active || lane != 0) continue;
      // At integer positions the gradients belong to the square below and to the right.
      const Acc dy = sample.dy;
      const Acc dx = sample.dx;
      const int64_t index = s.Index(image, position, group, tap);
      if (task.doffset != nullptr) {
        task.doffset[2 * index] = Narrow<T>(
            sample.mask * ((1 - dx) * (sums[2] - sums[0]) + dx * (sums[3] - sums[1])));
        task.doffset[2 * index + 1] = Narrow<T>(
            sample.mask * ((1 - dy) * (sums[1] - sums[0]) + dy * (sums[3] - sums[2])));
      }
      if (task.dmask == nullptr) continue;
      task.dmask[index] = Narrow<T>((1 - dy) * ((1 - dx) * sums[0] + dx * sums[1]) +
                                    dy * ((1 - dx) * sums[2] + dx * sums[3]));
    }
  }
}

// The gradient for x. The samples of an image and offset group are sorted by the pixel at their top
// left, so that each pixel can gather those that touch it, in the order of the samples.

// What a pixel needs of a sample.
template <typename Acc>
struct alignas(16) Found {
  Acc dy;
  Acc dx;
  Acc mask;
  int cell;  // of the pixel at the top left; -1 if the sample touches none
};

template <typename T>
struct Lists {
  Sampling<T> sampling;
  int samples;     // of a list
  int cells;       // of an image: one for each pixel, and one more row and column before them
  int64_t images;
  unsigned* ends;  // [N, og, cells + 1]: first the sizes, then the ends, at last the beginnings
  int* order;      // [N, og, samples]: which of them lie in a cell
  Found<Accumulator<T>>* found;  // [N, og, samples]

  int64_t count() const { return images * sampling.offset_groups; }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) FindKernel(Lists<T> lists) {
  const Sampling<T>& s = lists.sampling;
  const int sample = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (sample >= lists.samples) return;
  const int position = s.by_taps.Divide(sample);
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < lists.images; image += gridDim.y) {
      const int64_t list = image * s.offset_groups + group;
      const auto found = s.FindTap(image, group, position, sample - position * s.taps);
      const int row = found.top + 1;
      const int column = found.left + 1;
      const bool touches = Inside(row, s.vertical.input + 1) &&
                           Inside(column, s.horizontal.input + 1);
      const int cell = touches ? row * (s.horizontal.input + 1) + column : -1;
      lists.found[list * lists.samples + sample] = {found.dy, found.dx, found.mask, cell};
      if (touches) atomicAdd(lists.ends + list * (lists.cells + 1) + cell, 1u);
    }
  }
}

// Turns the sizes of a list's cells into their ends.
template <typename T>
__global__ void __launch_bounds__(kThreads) ScanKernel(Lists<T> lists) {
  TFCONV_SHARED(unsigned, sums, 2 * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  unsigned* ends = lists.ends + static_cast<int64_t>(blockIdx.x) * (lists.cells + 1);
  unsigned total = 0;
  for (int begin = 0; begin <= lists.cells; begin += kThreads) {
    const int cell = begin + thread;
    unsigned* from = sums;
    unsigned* to = sums + kThreads;
    from[thread] = cell <= lists.cells ? ends[cell] : 0;
    __syncthreads();
    for (int distance = 1; distance < kThreads; distance *= 2) {
      to[thread] = from[thread] + (thread >= distance ? from[thread - distance] : 0);
      unsigned* const swap = from;
      from = to;
      to = swap;
      __syncthreads();
    }
    if (cell <= lists.cells) ends[cell] = total + from[thread];
    total += from[kThreads - 1];
    __syncthreads();
  }
}

// Puts the samples into the lists of their cells, from the ends on.
template <typename T>
__global__ void __launch_bounds__(kThreads) FillKernel(Lists<T> lists) {
  const int sample = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (sample >= lists.samples) return;
  const int64_t count = lists.images * lists.sampling.offset_groups;
  for (int64_t list = blockIdx.y; list < count; list += gridDim.y) {
    const int cell = lists.found[list * lists.samples + sample].cell;
    if (cell < 0) continue;
    const unsigned end = atomicSub(lists.ends + list * (lists.cells + 1) + cell, 1u);
    lists.order[list * lists.samples + end - 1] = sample;
  }
}

// Filling had no order: the same sums every time want one. Shell's sort, for lists are short.
template <typename T>
__global__ void __launch_bounds__(kThreads) SortKernel(Lists<T> lists) {
  const int cell = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (cell >= lists.cells) return;
  const int64_t count = lists.images * lists.sampling.offset_groups;
  for (int64_t list = blockIdx.y; list < count; list += gridDim.y) {
    const unsigned* begins = lists.ends + list * (lists.cells + 1) + cell;
    int* order = lists.order + list * lists.samples + begins[0];
    const int size = static_cast<int>(begins[1] - begins[0]);
    int gap = 1;
    while (gap < size / 4) gap = 3 * gap + 1;
    for (; gap > 0; gap = (gap - 1) / 3) {
      for (int i = gap; i < size; ++i) {
        const int own = order[i];
        int j = i;
        for (; j >= gap && order[j - gap] > own; j -= gap) order[j] = order[j - gap];
        order[j] = own;
      }
    }
  }
}

template <typename T>
struct InputGradient {
  Lists<T> lists;
  Columns<const T> dcolumns;
  Lanes lanes;
  int pixels;        // of an image
  Divisor by_width;  // of an image
  T* dx;
};

template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads, 2) InputGradientKernel(InputGradient<T> task) {
  using Acc = Accumulator<T>;
  const Lists<T>& lists = task.lists;
  const Sampling<T>& s = lists.sampling;
  const int width = s.horizontal.input;
  const int column_bytes = task.dcolumns.width * static_cast<int>(sizeof(T));
  const int pixel = task.lanes.row();
  if (pixel >= task.pixels) return;
  // A row and a column of cells lie before the pixels.
  const int cell = pixel + task.by_width.Divide(pixel) + width + 2;
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < lists.images; image += gridDim.y) {
      const int64_t list = image * s.offset_groups + group;
      const unsigned* begins = lists.ends + list * (lists.cells + 1) + cell;
      const Found<Acc>* found = lists.found + list * lists.samples;
      const int* order = lists.order + list * lists.samples;
      T* const dx = task.dx + (image * task.pixels + pixel) * s.channels;
      for (int c = task.lanes.lane() * kCount; c < s.group_channels;
           c += task.lanes.count() * kCount) {
        const int channel = group * s.group_channels + c;
        const T* const dcolumns = task.dcolumns.data +
                                  image * lists.samples * task.dcolumns.width +
                                  task.dcolumns.Channel(channel);
        Acc sum[kCount] = {};
#pragma unroll
        for (int corner = 0; corner < kNumCorners; ++corner) {
          const unsigned* own = begins - (corner >> 1) * (width + 1) - (corner & 1);
          const unsigned end = own[1];
#pragma unroll 1
          for (unsigned i = own[0]; i < end; ++i) {
            const int sample = order[i];
            const Found<Acc> f = found[sample];
            const Acc weight =
                (corner & 2 ? f.dy : 1 - f.dy) * (corner & 1 ? f.dx : 1 - f.dx) * f.mask;
            const auto upstream = LoadIf<T, kCount>(true, At(dcolumns, sample, column_bytes));
#pragma unroll
            for (int n = 0; n < kCount; ++n) sum[n] += weight * Widen(upstream.value[n]);
          }
        }
        Store<T, kCount>(dx + channel, sum);
      }
    }
  }
}

// Lists in a workspace, for the images of the arguments.
template <typename T>
Lists<T> MakeLists(const Sampling<T>& s, int64_t images, Workspace* workspace) {
  Lists<T> lists = {};
  lists.sampling = s;
  lists.samples = s.positions * s.taps;
  lists.cells = (s.vertical.input + 1) * (s.horizontal.input + 1);
  lists.images = images;
  lists.ends = workspace->Take<unsigned>(lists.count() * (lists.cells + 1));
  lists.order = workspace->Take<int>(lists.count() * lists.samples);
  lists.found = workspace->Take<Found<Accumulator<T>>>(lists.count() * lists.samples);
  return lists;
}

template <typename T>
int LaunchOffsetGradient(CudaStream stream, const DeformableArgs<T>& args, const Sampling<T>& s,
                         const Columns<const T>& dcolumns, bool wide) {
  if (args.doffset == nullptr && args.dmask == nullptr) return cudaSuccess;
  const Lanes lanes = MakeLanes(CeilDiv(s.group_channels, kVector<T>), 5);
  const OffsetGradient<T> task = {s,     dcolumns,     wide,      lanes, args.geometry.batch,
                                  args.doffset, args.dmask};
  const Grid grid = {lanes.Blocks(int64_t{s.positions} * s.taps), task.images, s.offset_groups};
  return Launch(OffsetGradientKernel<T>, grid, stream, task);
}

template <typename T>
int LaunchInputGradient(CudaStream stream, const DeformableArgs<T>& args, const Lists<T>& lists,
                        const Columns<const T>& dcolumns, bool wide) {
  const Sampling<T>& s = lists.sampling;
  if (int error = FillZeros(lists.ends, lists.count() * (lists.cells + 1), stream)) return error;
  const int64_t blocks = CeilDiv(lists.samples, kThreads);
  if (int error = Launch(FindKernel<T>, {blocks, lists.images, s.offset_groups}, stream, lists)) {
    return error;
  }
  if (int error = Launch(ScanKernel<T>, {lists.count(), 1, 1}, stream, lists)) return error;
  if (int error = Launch(FillKernel<T>, {blocks, lists.count(), 1}, stream, lists)) return error;
  const Grid cells = {CeilDiv(lists.cells, kThreads), lists.count(), 1};
  if (int error = Launch(SortKernel<T>, cells, stream, lists)) return error;

  const Lanes lanes = MakeLanes(s.group_channels / (wide ? kVector<T> : 1), 5);
  const int pixels = s.vertical.input * s.horizontal.input;
  const InputGradient<T> task = {lists,  dcolumns, lanes,
                                 pixels, MakeDivisor(s.horizontal.input), args.dx};
  const Grid grid = {lanes.Blocks(pixels), lists.images, s.offset_groups};
  return Launch(wide ? InputGradientKernel<T, kVector<T>> : InputGradientKernel<T, 1>, grid,
                stream, task);
}

}  // namespace

template <typename T>
int64_t SampleGradientsWorkspace(const DeformableArgs<T>& args, int64_t images) {
  Sampling<T> s;
  if (args.dx == nullptr || !MakeSampling(args, &s)) return 0;  // with which the launch fails
  Workspace workspace(nullptr);
  MakeLists(s, images, &workspace);
  return workspace.used();
}

template <typename T>
int LaunchSampleGradients(CudaStream stream, const DeformableArgs<T>& args, void* workspace) {
  Sampling<T> s;
  if (!MakeSampling(args, &s)) return cudaErrorInvalidValue;
  const auto dcolumns = MakeColumns(args, s, args.dcolumns);
  const bool wide = IsWide(s, dcolumns) && (args.dx == nullptr || IsAligned(args.dx));
  if (int error = LaunchOffsetGradient(stream, args, s, dcolumns, wide)) return error;
  if (args.dx == nullptr) return cudaSuccess;
  Workspace pieces(workspace);
  return LaunchInputGradient(stream, args, MakeLists(s, args.geometry.batch, &pieces), dcolumns,
                             wide);
}

#define TFCONV_INSTANTIATE(T)                                                      \
  template int64_t SampleGradientsWorkspace(const DeformableArgs<T>&, int64_t);     \
  template int LaunchSampleGradients(CudaStream, const DeformableArgs<T>&, void*);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace cuda
}  // namespace tfconv
