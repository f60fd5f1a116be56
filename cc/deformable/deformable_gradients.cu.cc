#include <stdint.h>

#include "deformable/deformable_cuda.h"
#include "deformable/deformable_device.h"

namespace tfconv {
namespace cuda {
namespace {

// x, offset, mask, dcolumns -> doffset, dmask. Neighbouring lanes share the channels of a sample and
// add their sums up.
template <typename T, int kRank>
struct OffsetGradient {
  Sampling<T, kRank> sampling;
  Columns<const T> dcolumns;
  bool wide;
  Lanes lanes;
  int64_t images;
  T* doffset;
  T* dmask;
};

template <typename T, int kRank>
__global__ void __launch_bounds__(kThreads, 2)
    OffsetGradientKernel(OffsetGradient<T, kRank> task) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Sampling<T, kRank>& s = task.sampling;
  const Columns<const T>& dcolumns = task.dcolumns;
  const int row = task.lanes.row();
  const bool active = row < s.positions * s.taps;
  const int safe = active ? row : 0;  // all lanes of a warp stay for the sums
  const int position = s.by_taps.Divide(safe);
  const int tap = safe - position * s.taps;
  const int lane = task.lanes.lane();
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
      const Sample<Acc, kRank> sample = s.FindTap(image, group, position, tap);
      const T* const near = s.Near(sample, s.Image(image, group * s.group_channels));
      const T* const upstream = dcolumns.Row(image * s.positions + position, tap);
      Acc sums[kCorners<kRank>] = {};
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
        for (int corner = 0; corner < kCorners<kRank>; ++corner) {
          const bool present = s.Present(sample, corner);
          const auto pixel = Load<T, kCount>(Behind(near + c, s.ToCorner(corner)),
                                             present ? count : 0, task.wide);
#pragma unroll
          for (int n = 0; n < kCount; ++n) {
            sums[corner] += Widen(pixel.value[n]) * Widen(own.value[n]);
          }
        }
      }
      task.lanes.AddUp(sums);
      if (!active || lane != 0) continue;
      const int64_t index = s.Index(image, position, group, tap);
      if (task.doffset != nullptr) {
#pragma unroll
        for (int i = 0; i < kRank; ++i) {
          task.doffset[kRank * index + i] =
              Narrow<T>(sample.mask * Slope<kRank>(sums, sample.delta, i));
        }
      }
      if (task.dmask == nullptr) continue;
      task.dmask[index] = Narrow<T>(Between<kRank>(sums, sample.delta));
    }
  }
}

// The gradient for x. The samples of an image and offset group are sorted by the pixel at their near
// corner, so that each pixel can gather those that touch it, in the order of the samples.

// What a pixel needs of a sample.
template <typename Acc, int kRank>
struct alignas(16) Found {
  Acc delta[kRank];
  Acc mask;
  int cell;  // of the pixel at the near corner; -1 if the sample touches none
};

template <typename T, int kRank>
struct Lists {
  Sampling<T, kRank> sampling;
  int samples;     // of a list
  int cells;       // of an image: one for each pixel, and along each axis one more before them
  int strides[kRank];  // cells between neighbours along the axes
  int64_t images;
  unsigned* ends;  // [N, og, cells + 1]: first the sizes, then the ends, at last the beginnings
  int* order;      // [N, og, samples]: which of them lie in a cell
  Found<Accumulator<T>, kRank>* found;  // [N, og, samples]

  int64_t count() const { return images * sampling.offset_groups; }
};

template <typename T, int kRank>
__global__ void __launch_bounds__(kThreads) FindKernel(Lists<T, kRank> lists) {
  const Sampling<T, kRank>& s = lists.sampling;
  const int sample = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (sample >= lists.samples) return;
  const int position = s.by_taps.Divide(sample);
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < lists.images; image += gridDim.y) {
      const int64_t list = image * s.offset_groups + group;
      const auto found = s.FindTap(image, group, position, sample - position * s.taps);
      Found<Accumulator<T>, kRank> result = {};
      bool touches = true;
      int cell = 0;
#pragma unroll
      for (int i = 0; i < kRank; ++i) {
        result.delta[i] = found.delta[i];
        touches = Inside(found.near[i] + 1, s.axis[i].input + 1) && touches;
        cell += (found.near[i] + 1) * lists.strides[i];
      }
      result.mask = found.mask;
      result.cell = touches ? cell : -1;
      lists.found[list * lists.samples + sample] = result;
      if (touches) atomicAdd(lists.ends + list * (lists.cells + 1) + cell, 1u);
    }
  }
}

// Turns the sizes of a list's cells into their ends.
template <typename T, int kRank>
__global__ void __launch_bounds__(kThreads) ScanKernel(Lists<T, kRank> lists) {
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
template <typename T, int kRank>
__global__ void __launch_bounds__(kThreads) FillKernel(Lists<T, kRank> lists) {
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
template <typename T, int kRank>
__global__ void __launch_bounds__(kThreads) SortKernel(Lists<T, kRank> lists) {
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

template <typename T, int kRank>
struct InputGradient {
  Lists<T, kRank> lists;
  Columns<const T> dcolumns;
  Lanes lanes;
  Divisor by_input[kRank];
  T* dx;
};

template <typename T, int kCount, int kRank>
__global__ void __launch_bounds__(kThreads, 2) InputGradientKernel(InputGradient<T, kRank> task) {
  using Acc = Accumulator<T>;
  const Lists<T, kRank>& lists = task.lists;
  const Sampling<T, kRank>& s = lists.sampling;
  const int column_bytes = task.dcolumns.width * static_cast<int>(sizeof(T));
  const bool has_row_each = task.dcolumns.rows == s.taps;
  const int pixel = task.lanes.row();
  if (pixel >= s.pixels) return;
  int at[kRank];
  s.Split(task.by_input, pixel, at);
  int cell = 0;
#pragma unroll
  for (int i = 0; i < kRank; ++i) cell += (at[i] + 1) * lists.strides[i];
  for (int group = static_cast<int>(blockIdx.z); group < s.offset_groups; group += gridDim.z) {
    for (int64_t image = blockIdx.y; image < lists.images; image += gridDim.y) {
      const int64_t list = image * s.offset_groups + group;
      const unsigned* begins = lists.ends + list * (lists.cells + 1) + cell;
      const Found<Acc, kRank>* found = lists.found + list * lists.samples;
      const int* order = lists.order + list * lists.samples;
      T* const dx = task.dx + (image * s.pixels + pixel) * s.channels;
      for (int c = task.lanes.lane() * kCount; c < s.group_channels;
           c += task.lanes.count() * kCount) {
        const int channel = group * s.group_channels + c;
        const T* const dcolumns =
            task.dcolumns.Row(image * s.positions, 0) + task.dcolumns.Channel(channel);
        Acc sum[kCount] = {};
#pragma unroll
        for (int corner = 0; corner < kCorners<kRank>; ++corner) {
          const unsigned* own = begins;
#pragma unroll
          for (int i = 0; i < kRank; ++i) own -= IsFar<kRank>(corner, i) ? lists.strides[i] : 0;
          const unsigned end = own[1];
#pragma unroll 1
          for (unsigned i = own[0]; i < end; ++i) {
            const int sample = order[i];
            const Found<Acc, kRank> f = found[sample];
            const Acc weight = CornerWeight<kRank>(f.delta, corner) * f.mask;
            const int row = has_row_each ? sample : s.by_taps.Divide(sample);
            const auto upstream = LoadIf<T, kCount>(true, At(dcolumns, row, column_bytes));
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
template <typename T, int kRank>
Lists<T, kRank> MakeLists(const Sampling<T, kRank>& s, int64_t images, Workspace* workspace) {
  Lists<T, kRank> lists = {};
  lists.sampling = s;
  lists.samples = s.positions * s.taps;
  lists.cells = 1;
  for (int i = kRank - 1; i >= 0; --i) {
    lists.strides[i] = lists.cells;
    lists.cells *= s.axis[i].input + 1;
  }
  lists.images = images;
  lists.ends = workspace->Take<unsigned>(lists.count() * (lists.cells + 1));
  lists.order = workspace->Take<int>(lists.count() * lists.samples);
  lists.found = workspace->Take<Found<Accumulator<T>, kRank>>(lists.count() * lists.samples);
  return lists;
}

template <typename T, int kRank>
int LaunchOffsetGradient(CudaStream stream, const DeformableArgs<T>& args,
                         const Sampling<T, kRank>& s, const Columns<const T>& dcolumns, bool wide) {
  if (args.doffset == nullptr && args.dmask == nullptr) return cudaSuccess;
  const Lanes lanes = MakeLanes(CeilDiv(s.group_channels, kVector<T>), 5);
  const OffsetGradient<T, kRank> task = {s,     dcolumns,     wide,      lanes, args.geometry.batch,
                                         args.doffset, args.dmask};
  const Grid grid = {lanes.Blocks(int64_t{s.positions} * s.taps), task.images, s.offset_groups};
  return Launch(OffsetGradientKernel<T, kRank>, grid, stream, task);
}

template <typename T, int kRank>
int LaunchInputGradient(CudaStream stream, const DeformableArgs<T>& args,
                        const Lists<T, kRank>& lists, const Columns<const T>& dcolumns, bool wide) {
  const Sampling<T, kRank>& s = lists.sampling;
  if (int error = FillZeros(lists.ends, lists.count() * (lists.cells + 1), stream)) return error;
  const int64_t blocks = CeilDiv(lists.samples, kThreads);
  const Grid samples = {blocks, lists.images, s.offset_groups};
  if (int error = Launch(FindKernel<T, kRank>, samples, stream, lists)) return error;
  if (int error = Launch(ScanKernel<T, kRank>, {lists.count(), 1, 1}, stream, lists)) return error;
  const Grid sorted = {blocks, lists.count(), 1};
  if (int error = Launch(FillKernel<T, kRank>, sorted, stream, lists)) return error;
  const Grid cells = {CeilDiv(lists.cells, kThreads), lists.count(), 1};
  if (int error = Launch(SortKernel<T, kRank>, cells, stream, lists)) return error;

  const Lanes lanes = MakeLanes(s.group_channels / (wide ? kVector<T> : 1), 5);
  InputGradient<T, kRank> task = {lists, dcolumns, lanes, {}, args.dx};
  for (int i = 0; i < kRank; ++i) task.by_input[i] = MakeDivisor(s.axis[i].input);
  const Grid grid = {lanes.Blocks(s.pixels), lists.images, s.offset_groups};
  return Launch(wide ? InputGradientKernel<T, kVector<T>, kRank> : InputGradientKernel<T, 1, kRank>,
                grid, stream, task);
}

template <int kRank, typename T>
int64_t WorkspaceOfLists(const DeformableArgs<T>& args, int64_t images) {
  Sampling<T, kRank> s;
  if (args.dx == nullptr || !MakeSampling(args, &s)) return 0;  // with which the launch fails
  Workspace workspace(nullptr);
  MakeLists(s, images, &workspace);
  return workspace.used();
}

template <int kRank, typename T>
int LaunchGradients(CudaStream stream, const DeformableArgs<T>& args, void* workspace) {
  Sampling<T, kRank> s;
  if (!MakeSampling(args, &s)) return cudaErrorInvalidValue;
  const auto dcolumns = MakeColumns(args, s, args.dcolumns);
  const bool wide = IsWide(s, dcolumns) && (args.dx == nullptr || IsAligned(args.dx));
  if (int error = LaunchOffsetGradient(stream, args, s, dcolumns, wide)) return error;
  if (args.dx == nullptr) return cudaSuccess;
  Workspace pieces(workspace);
  return LaunchInputGradient(stream, args, MakeLists(s, args.geometry.batch, &pieces), dcolumns,
                             wide);
}

}  // namespace

template <typename T>
int64_t SampleGradientsWorkspace(const DeformableArgs<T>& args, int64_t images) {
  return WithRank(args.rank,
                  [&](auto rank) { return WorkspaceOfLists<rank.value>(args, images); });
}

template <typename T>
int LaunchSampleGradients(CudaStream stream, const DeformableArgs<T>& args, void* workspace) {
  return WithRank(args.rank,
                  [&](auto rank) { return LaunchGradients<rank.value>(stream, args, workspace); });
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
