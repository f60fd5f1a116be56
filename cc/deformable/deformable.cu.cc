#include <math.h>
#include <stdint.h>

#include "common/cuda_product.h"
#include "deformable/deformable_cuda.h"

namespace tfconv {
namespace cuda {
namespace {

constexpr int kNumCorners = 4;  // top left, top right, bottom left, bottom right
constexpr int kSpan = 16;       // neighbouring positions of an image that a block works on

// Where one tap of one offset group samples at one position. A corner outside the image is absent:
// it is neither read nor written, and counts as zero.
template <typename Acc>
struct Sample {
  Acc dy;  // distance from the top left corner, in pixels; NaN if the position is
  Acc dx;
  Acc mask;
  int top;
  int left;
  bool touches;  // whether there is a corner in the image

  TFCONV_DEVICE Acc Weight(int corner) const {
    return (corner & 2 ? dy : 1 - dy) * (corner & 1 ? dx : 1 - dx);
  }
};

// What the kernels read of the arguments.
template <typename T>
struct Sampling {
  using Acc = Accumulator<T>;

  Axes axes;
  int channels;
  int offset_groups;
  int taps;
  int positions;  // of an image
  Chunks chunks;  // of the offset groups' channels
  const T* x;
  const T* offset;
  const T* mask;

  TFCONV_DEVICE int height() const { return axes.axis[1].input; }
  TFCONV_DEVICE int width() const { return axes.axis[2].input; }

  // Index of a mask, and half of that of its offsets.
  TFCONV_DEVICE int64_t Index(int64_t image, int position, int group, int tap) const {
    return ((image * positions + position) * offset_groups + group) * taps + tap;
  }

  TFCONV_DEVICE Sample<Acc> Find(int64_t index, int h, int w, int tap_h, int tap_w) const {
    const Axis& vertical = axes.axis[1];
    const Axis& horizontal = axes.axis[2];
    const Acc y = static_cast<Acc>(h * vertical.stride - vertical.pad) +
                  static_cast<Acc>(tap_h * vertical.dilation) + Widen(offset[2 * index]);
    const Acc x_ = static_cast<Acc>(w * horizontal.stride - horizontal.pad) +
                   static_cast<Acc>(tap_w * horizontal.dilation) + Widen(offset[2 * index + 1]);
    Sample<Acc> s;
    s.mask = mask != nullptr ? Widen(mask[index]) : Acc(1);
    // Positions that touch no pixel, infinite ones included, are moved to the origin before they
    // become integers; so is NaN, for which all comparisons are false.
    s.touches = y >= Acc(-1) && y < static_cast<Acc>(vertical.input) && x_ >= Acc(-1) &&
                x_ < static_cast<Acc>(horizontal.input);
    const Acc safe_y = s.touches ? y : Acc(0);
    const Acc safe_x = s.touches ? x_ : Acc(0);
    s.top = static_cast<int>(floor(safe_y));
    s.left = static_cast<int>(floor(safe_x));
    const bool defined = y == y && x_ == x_;
    s.dy = defined ? safe_y - static_cast<Acc>(s.top) : y + x_;
    s.dx = defined ? safe_x - static_cast<Acc>(s.left) : y + x_;
    // Above 2^24 pixels the ends are rounded in float32: integers decide what exists.
    s.touches = s.touches && s.top < vertical.input && s.left < horizontal.input;
    return s;
  }

  TFCONV_DEVICE Sample<Acc> FindTap(int64_t image, int position, int group, int tap) const {
    const Axis& horizontal = axes.axis[2];
    return Find(Index(image, position, group, tap), position / horizontal.output,
                position % horizontal.output, tap / horizontal.kernel, tap % horizontal.kernel);
  }

  // Channels from `channel` on of one corner; zeros where it is absent.
  template <int kCount>
  TFCONV_DEVICE Pack<T, kCount> Corner(const Sample<Acc>& s, int64_t image, int corner, int channel,
                                       int count, bool aligned) const {
    const int row = s.top + (corner >> 1);
    const int column = s.left + (corner & 1);
    const bool present =
        s.touches && row >= 0 && row < height() && column >= 0 && column < width();
    const int64_t pixel = (image * height() + row) * width() + column;
    return Load<T, kCount>(x + pixel * channels + channel, present ? count : 0, aligned);
  }

  template <int kCount>
  TFCONV_DEVICE void Interpolate(const Sample<Acc>& s, int64_t image, int channel, int count,
                                 bool aligned, Acc* values) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = 0;
#pragma unroll
    for (int corner = 0; corner < kNumCorners; ++corner) {
      const Pack<T, kCount> pack = Corner<kCount>(s, image, corner, channel, count, aligned);
      const Acc weight = s.Weight(corner) * s.mask;
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] += Widen(pack.value[i]) * weight;
    }
  }
};

// False if 32-bit arithmetic does not reach.
template <typename T>
bool MakeSampling(const DeformableArgs<T>& args, Sampling<T>* s) {
  constexpr int64_t kLimit = 1 << 30;
  const ConvGeometry& g = args.geometry;
  const int64_t taps = g.axis[1].kernel * g.axis[2].kernel;
  const int64_t positions = g.axis[1].output * g.axis[2].output;
  if (!MakeAxes(g, &s->axes) || g.channels >= kLimit || args.filters >= kLimit ||
      taps * args.offset_groups * kSpan >= kLimit || taps * g.channels * kSpan >= kLimit ||
      (g.axis[1].input + 1) * (g.axis[2].input + 1) >= kLimit || positions * taps >= kLimit) {
    return false;
  }
  s->channels = static_cast<int>(g.channels);
  s->offset_groups = static_cast<int>(args.offset_groups);
  s->taps = static_cast<int>(taps);
  s->positions = static_cast<int>(positions);
  s->chunks = MakeChunks<T>(g.channels, args.offset_groups);
  s->x = args.x;
  s->offset = args.offset;
  s->mask = args.mask;
  return true;
}

template <typename T>
int64_t NumSpans(const Sampling<T>& s) {
  return CeilDiv(s.positions, kSpan);
}

// x, offset, mask -> columns. Neighbouring threads have neighbouring channels.
template <typename T>
struct SampleTask {
  Sampling<T> sampling;
  bool aligned;
  T* columns;
  int64_t units;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) SampleKernel(SampleTask<T> task) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Sampling<T>& s = task.sampling;
  const int spans = CeilDiv(s.positions, kSpan);
  const int per_position = s.taps * s.chunks.count;
  for (int64_t unit = blockIdx.x; unit < task.units; unit += gridDim.x) {
    const int64_t image = unit / spans;
    const int first = static_cast<int>(unit % spans) * kSpan;
    const int work = Min(kSpan, s.positions - first) * per_position;
    for (int e = static_cast<int>(threadIdx.x); e < work; e += kThreads) {
      const Chunk chunk = GetChunk<T>(s.chunks, e % s.chunks.count);
      const int sample = e / s.chunks.count;
      const int tap = sample % s.taps;
      const int position = first + sample / s.taps;
      Acc values[kCount];
      s.template Interpolate<kCount>(s.FindTap(image, position, chunk.group, tap), image,
                                     chunk.first, chunk.count, task.aligned, values);
      const int64_t row = (image * s.positions + position) * s.taps + tap;
      Store<T, kCount>(task.columns + row * s.channels + chunk.first, values, chunk.count,
                       task.aligned);
    }
  }
}

// x, offset, mask, dcolumns -> doffset, dmask. A few neighbouring threads share the channels of a
// sample and add their sums up. D is the type of dcolumns.
template <typename T, typename D>
struct OffsetGradient {
  Sampling<T> sampling;
  bool aligned;
  bool dcolumns_aligned;
  int lanes;  // threads of a sample, a power of two
  const D* dcolumns;
  T* doffset;
  T* dmask;
  int64_t units;
};

template <typename T, typename D>
__global__ void __launch_bounds__(kThreads) OffsetGradientKernel(OffsetGradient<T, D> task) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Sampling<T>& s = task.sampling;
  const int spans = CeilDiv(s.positions, kSpan);
  const int per_position = s.taps * s.offset_groups;
  const int lane = static_cast<int>(threadIdx.x) % task.lanes;
  const int step = kThreads / task.lanes;
  for (int64_t unit = blockIdx.x; unit < task.units; unit += gridDim.x) {
    const int64_t image = unit / spans;
    const int first = static_cast<int>(unit % spans) * kSpan;
    const int work = Min(kSpan, s.positions - first) * per_position;
    for (int begin = 0; begin < work; begin += step) {
      // All threads stay for the sums.
      const int e = begin + static_cast<int>(threadIdx.x) / task.lanes;
      const int tap = e % s.taps;
      const int group = e / s.taps % s.offset_groups;
      const int position = first + e / per_position;
      const bool active = e < work;
      Acc sums[kNumCorners] = {};
      Sample<Acc> sample = {};
      if (active) {
        sample = s.FindTap(image, position, group, tap);
        const int64_t row = (image * s.positions + position) * s.taps + tap;
        for (int i = lane; i < s.chunks.per_group; i += task.lanes) {
          const Chunk chunk = GetChunk<T>(s.chunks, group * s.chunks.per_group + i);
          const auto upstream = Load<D, kCount>(task.dcolumns + row * s.channels + chunk.first,
                                                chunk.count, task.dcolumns_aligned);
#pragma unroll
          for (int corner = 0; corner < kNumCorners; ++corner) {
            const auto pack = s.template Corner<kCount>(sample, image, corner, chunk.first,
                                                        chunk.count, task.aligned);
#pragma unroll
            for (int c = 0; c < kCount; ++c) {
              sums[corner] += Widen(pack.value[c]) * Widen(upstream.value[c]);
            }
          }
        }
      }
      for (int distance = task.lanes / 2; distance > 0; distance /= 2) {
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
      task.doffset[2 * index] = Narrow<T>(
          sample.mask * ((1 - dx) * (sums[2] - sums[0]) + dx * (sums[3] - sums[1])));
      task.doffset[2 * index + 1] = Narrow<T>(
          sample.mask * ((1 - dy) * (sums[1] - sums[0]) + dy * (sums[3] - sums[2])));
      if (task.dmask == nullptr) continue;
      task.dmask[index] = Narrow<T>((1 - dy) * ((1 - dx) * sums[0] + dx * sums[1]) +
                                    dy * ((1 - dx) * sums[2] + dx * sums[3]));
    }
  }
}

// The gradient for x. The samples of an image and offset group are sorted by the pixel at their top
// left, so that each pixel can gather those that touch it.

// A sample in its pixel's list.
template <typename Acc>
struct alignas(4 * sizeof(Acc) > 16 ? 16 : 4 * sizeof(Acc)) Entry {
  Acc dy;
  Acc dx;
  Acc mask;
  int sample;  // position * taps + tap
};

template <typename T>
struct Lists {
  Sampling<T> sampling;
  int cells;         // of an image: one for each pixel, and one more row and column before them
  unsigned* ends;    // [N, og, cells + 1]: first the sizes, then the ends, at last the beginnings
  Entry<Accumulator<T>>* entries;  // [N, og, positions * taps]
  int64_t lists;     // N * og
  int64_t units;

  TFCONV_DEVICE int Cell(const Sample<Accumulator<T>>& s) const {
    return (s.top + 1) * (sampling.width() + 1) + s.left + 1;
  }
};

// Adds the samples to the sizes of their cells, or with kFill puts them into the lists from the
// ends on.
template <typename T, bool kFill>
__global__ void __launch_bounds__(kThreads) CountKernel(Lists<T> lists) {
  const Sampling<T>& s = lists.sampling;
  const int samples = s.positions * s.taps;
  const int blocks = CeilDiv(samples, kThreads);
  for (int64_t unit = blockIdx.x; unit < lists.units; unit += gridDim.x) {
    const int64_t list = unit / blocks;
    const int sample = static_cast<int>(unit % blocks) * kThreads + static_cast<int>(threadIdx.x);
    if (sample >= samples) continue;
    const auto found = s.FindTap(list / s.offset_groups, sample / s.taps,
                                 static_cast<int>(list % s.offset_groups), sample % s.taps);
    if (!found.touches) continue;
    unsigned* end = lists.ends + list * (lists.cells + 1) + lists.Cell(found);
    if (kFill) {
      lists.entries[list * samples + atomicSub(end, 1u) - 1] = {found.dy, found.dx, found.mask,
                                                                sample};
    } else {
      atomicAdd(end, 1u);
    }
  }
}

// The same as filling with CountKernel, but in a fixed order: a block has all samples of a list.
template <typename T>
__global__ void __launch_bounds__(kThreads) OrderedFillKernel(Lists<T> lists) {
  TFCONV_SHARED(int, cell_of, kThreads);
  const Sampling<T>& s = lists.sampling;
  const int samples = s.positions * s.taps;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t list = blockIdx.x; list < lists.lists; list += gridDim.x) {
    unsigned* ends = lists.ends + list * (lists.cells + 1);
    for (int begin = 0; begin < samples; begin += kThreads) {
      const int sample = begin + thread;
      Sample<Accumulator<T>> found = {};
      if (sample < samples) {
        found = s.FindTap(list / s.offset_groups, sample / s.taps,
                          static_cast<int>(list % s.offset_groups), sample % s.taps);
      }
      const int cell = found.touches ? lists.Cell(found) : -1;
      cell_of[thread] = cell;
      __syncthreads();
      unsigned before = 0;  // samples of the same cell
      unsigned after = 0;
      for (int i = 0; i < kThreads; ++i) {
        before += i < thread && cell_of[i] == cell;
        after += i > thread && cell_of[i] == cell;
      }
      const unsigned end = cell >= 0 ? ends[cell] : 0;
      __syncthreads();
      if (cell < 0) continue;
      lists.entries[list * samples + end - 1 - before] = {found.dy, found.dx, found.mask, sample};
      if (after == 0) ends[cell] = end - 1 - before;
    }
    __syncthreads();
  }
}

// Turns the sizes of a list's cells into their ends.
template <typename T>
__global__ void __launch_bounds__(kThreads) ScanKernel(Lists<T> lists) {
  TFCONV_SHARED(unsigned, sums, 2 * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t list = blockIdx.x; list < lists.lists; list += gridDim.x) {
    unsigned* ends = lists.ends + list * (lists.cells + 1);
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
}

template <typename T, typename D>
struct InputGradient {
  Lists<T> lists;
  bool aligned;
  bool dcolumns_aligned;
  const D* dcolumns;
  T* dx;
  int64_t units;
};

template <typename T, typename D>
__global__ void __launch_bounds__(kThreads) InputGradientKernel(InputGradient<T, D> task) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Lists<T>& lists = task.lists;
  const Sampling<T>& s = lists.sampling;
  const int spans = CeilDiv(s.height() * s.width(), kSpan);
  const int samples = s.positions * s.taps;
  for (int64_t unit = blockIdx.x; unit < task.units; unit += gridDim.x) {
    const int64_t image = unit / spans;
    const int first = static_cast<int>(unit % spans) * kSpan;
    const int work = Min(kSpan, s.height() * s.width() - first) * s.chunks.count;
    for (int e = static_cast<int>(threadIdx.x); e < work; e += kThreads) {
      const Chunk chunk = GetChunk<T>(s.chunks, e % s.chunks.count);
      const int pixel = first + e / s.chunks.count;
      const int h = pixel / s.width();
      const int w = pixel - h * s.width();
      const int64_t list = image * s.offset_groups + chunk.group;
      const unsigned* begins = lists.ends + list * (lists.cells + 1);
      const Entry<Acc>* entries = lists.entries + list * samples;
      const D* dcolumns = task.dcolumns + image * samples * s.channels + chunk.first;
      Acc sum[kCount] = {};
      for (int corner = 0; corner < kNumCorners; ++corner) {
        const int cell = (h + 1 - (corner >> 1)) * (s.width() + 1) + w + 1 - (corner & 1);
        const unsigned end = begins[cell + 1];
        for (unsigned i = begins[cell]; i < end; ++i) {
          const Entry<Acc> entry = entries[i];
          const Acc weight = (corner & 2 ? entry.dy : 1 - entry.dy) *
                             (corner & 1 ? entry.dx : 1 - entry.dx) * entry.mask;
          const auto upstream =
              Load<D, kCount>(dcolumns + static_cast<int64_t>(entry.sample) * s.channels,
                              chunk.count, task.dcolumns_aligned);
#pragma unroll
          for (int c = 0; c < kCount; ++c) sum[c] += weight * Widen(upstream.value[c]);
        }
      }
      const int64_t at = image * s.height() * s.width() + pixel;
      Store<T, kCount>(task.dx + at * s.channels + chunk.first, sum, chunk.count, task.aligned);
    }
  }
}

// The columns as a factor of a product, sampled while they are loaded.
template <typename T>
struct ColumnsSource {
  using Element = T;
  using Acc = Accumulator<T>;

  Sampling<T> sampling;
  Axes axes;
  int depth;
  int height;
  int width;
  int channels;  // of a group of the convolution
  int first;     // channel of the group
  int group_size;  // channels that share offsets
  bool aligned;

  TFCONV_DEVICE ColumnsSource For(int64_t, int64_t group) const {
    ColumnsSource source = *this;
    source.first = static_cast<int>(group) * channels;
    return source;
  }

  TFCONV_DEVICE void Get(const Position& position, const TapChannel& tap, int count,
                         Acc* run) const {
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) run[i] = 0;
    if (count == 0) return;
    const int channel = first + tap.channel;
    const int64_t index =
        sampling.Index(position.image, position.h * width + position.w, channel / group_size,
                       tap.j * axes.axis[2].kernel + tap.k);
    sampling.template Interpolate<kRun<T>>(
        sampling.Find(index, position.h, position.w, tap.j, tap.k), position.image, channel, count,
        aligned, run);
  }
};

template <typename T>
ColumnsSource<T> MakeColumnsSource(const DeformableArgs<T>& args, const Sampling<T>& s) {
  const int channels = static_cast<int>(args.geometry.channels / args.groups);
  const int group_size = s.channels / s.offset_groups;
  return {s,
          s.axes,
          1,
          s.axes.axis[1].output,
          s.axes.axis[2].output,
          channels,
          0,
          group_size,
          RunsAligned(args.x, {channels, group_size})};
}

template <typename T>
int Convolve(CudaStream stream, const DeformableArgs<T>& args) {
  Sampling<T> s;
  if (!MakeSampling(args, &s)) return cudaErrorInvalidValue;
  const int64_t channels = args.geometry.channels / args.groups;
  const int64_t filters = args.filters / args.groups;
  Product<ColumnsLoader<ColumnsSource<T>, true>, MatrixLoader<T, false>, T> product = {};
  product.a = MakeColumnsSource(args, s);
  product.b = {args.filter, 1, args.filters, 1, 0, filters, RunsAligned(args.filter, {filters})};
  product.result = {args.y,  args.filters, filters, 0, 0, filters, RunsAligned(args.y, {filters}),
                    nullptr};
  product.rows = args.geometry.batch * s.positions;
  product.columns = filters;
  product.depth = s.taps * channels;
  product.examples = 1;
  product.groups = args.groups;
  return LaunchProduct(stream, product);
}

template <typename T>
DepthParts FilterParts(const DeformableArgs<T>& args, const Sampling<T>& s) {
  return MakeDepthParts(s.taps * (args.geometry.channels / args.groups),
                        args.filters / args.groups, args.geometry.batch * s.positions, args.groups);
}

template <typename T>
int BackwardFilter(CudaStream stream, const DeformableArgs<T>& args, void* workspace) {
  Sampling<T> s;
  if (!MakeSampling(args, &s)) return cudaErrorInvalidValue;
  const int64_t channels = args.geometry.channels / args.groups;
  const int64_t filters = args.filters / args.groups;
  Product<ColumnsLoader<ColumnsSource<T>, false>, MatrixLoader<T, false>, T> product = {};
  product.a = MakeColumnsSource(args, s);
  product.b = {args.dy, 1, args.filters, 1, 0, filters, RunsAligned(args.dy, {filters})};
  product.result = {args.dfilter, args.filters,
                    filters,      0,
                    0,            filters,
                    RunsAligned(args.dfilter, {filters}), static_cast<Accumulator<T>*>(workspace)};
  product.rows = s.taps * channels;
  product.columns = filters;
  product.depth = args.geometry.batch * s.positions;
  product.examples = 1;
  product.groups = args.groups;
  return LaunchProduct(stream, product, FilterParts(args, s));
}

// dy, filter -> dcolumns
template <typename T>
int BackwardColumns(CudaStream stream, const DeformableArgs<T>& args, const Sampling<T>& s,
                    Accumulator<T>* dcolumns) {
  using Acc = Accumulator<T>;
  const int64_t channels = args.geometry.channels / args.groups;
  const int64_t filters = args.filters / args.groups;
  const int64_t rows = args.geometry.batch * s.positions;
  // The result has the type that is computed in: for half and bfloat16 another than the factors'.
  Product<MatrixLoader<T, true>, MatrixLoader<T, true>, Acc> product = {};
  product.a = {args.dy, args.filters, 0, filters, 0, filters, RunsAligned(args.dy, {filters})};
  product.b = {args.filter, args.filters, 0, filters, 0, filters,
               RunsAligned(args.filter, {filters})};
  product.b.group_stride = filters;
  product.result = {dcolumns, int64_t{s.taps} * s.channels,       channels, s.channels,
                    0,        channels, RunsAligned(dcolumns, {channels}), nullptr};
  product.rows = rows;
  product.columns = s.taps * channels;
  product.depth = filters;
  product.examples = 1;
  product.groups = args.groups;
  return LaunchProduct(stream, product);
}

constexpr int64_t kAlignment = 256;

// Divides a workspace, or counts its bytes if there is none.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename U>
  U* Take(int64_t count) {
    char* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += CeilDiv(count * static_cast<int64_t>(sizeof(U)), kAlignment) * kAlignment;
    return reinterpret_cast<U*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// The columns' gradient of a convolution is stored for so many images at a time.
constexpr int64_t kMaxColumnBytes = 128 << 20;

template <typename T>
int64_t ImagesAtATime(const DeformableArgs<T>& args, const Sampling<T>& s) {
  if (args.dcolumns != nullptr) return args.geometry.batch;
  const int64_t bytes = int64_t{s.positions} * s.taps * s.channels * sizeof(Accumulator<T>);
  return Max<int64_t>(1, Min(args.geometry.batch, kMaxColumnBytes / Max<int64_t>(1, bytes)));
}

template <typename T>
struct BackwardWorkspace {
  BackwardWorkspace(const DeformableArgs<T>& args, const Sampling<T>& s, Workspace* workspace) {
    const int64_t images = ImagesAtATime(args, s);
    lists.sampling = s;
    lists.cells = (s.axes.axis[1].input + 1) * (s.axes.axis[2].input + 1);
    lists.lists = images * s.offset_groups;
    lists.ends = workspace->Take<unsigned>(lists.lists * (lists.cells + 1));
    lists.entries =
        workspace->Take<Entry<Accumulator<T>>>(lists.lists * s.positions * s.taps);
    if (args.dcolumns != nullptr) return;
    dcolumns = workspace->Take<Accumulator<T>>(images * s.positions * s.taps * s.channels);
  }

  Lists<T> lists = {};
  Accumulator<T>* dcolumns = nullptr;
};

// The gradients of sampling.
template <typename T, typename D>
int BackwardSamples(CudaStream stream, const DeformableArgs<T>& args, const D* dcolumns,
                    Lists<T> lists, bool deterministic) {
  const Sampling<T>& s = lists.sampling;
  const int64_t batch = args.geometry.batch;
  const bool aligned = ChunksAligned<T>(s.x, s.chunks);
  const bool dcolumns_aligned =
      s.chunks.size % kVector<T> == 0 && IsAligned<D, kVector<T>>(dcolumns);

  int lanes = 1;
  while (lanes < 32 && lanes < s.chunks.per_group) lanes *= 2;
  const OffsetGradient<T, D> of_offset = {s,        aligned,      dcolumns_aligned, lanes,
                                          dcolumns, args.doffset, args.dmask, batch * NumSpans(s)};
  if (int error = Launch(OffsetGradientKernel<T, D>, of_offset.units, stream, of_offset)) {
    return error;
  }

  lists.lists = batch * s.offset_groups;
  if (int error = FillZeros(lists.ends, lists.lists * (lists.cells + 1), stream)) return error;
  lists.units = lists.lists * CeilDiv(s.positions * s.taps, kThreads);
  if (int error = Launch(CountKernel<T, false>, lists.units, stream, lists)) return error;
  if (int error = Launch(ScanKernel<T>, lists.lists, stream, lists)) return error;
  const int error = deterministic
                        ? Launch(OrderedFillKernel<T>, lists.lists, stream, lists)
                        : Launch(CountKernel<T, true>, lists.units, stream, lists);
  if (error) return error;

  const int pixels = s.axes.axis[1].input * s.axes.axis[2].input;
  const InputGradient<T, D> of_input = {lists,
                                        ChunksAligned<T>(args.dx, s.chunks),
                                        dcolumns_aligned,
                                        dcolumns,
                                        args.dx,
                                        batch * CeilDiv(pixels, kSpan)};
  return Launch(InputGradientKernel<T, D>, of_input.units, stream, of_input);
}

template <typename T>
int Backward(CudaStream stream, const DeformableArgs<T>& args, bool deterministic,
             void* workspace) {
  Sampling<T> s;
  if (!MakeSampling(args, &s)) return cudaErrorInvalidValue;
  const ConvGeometry& g = args.geometry;
  const int64_t pixels = g.axis[1].input * g.axis[2].input;
  const int64_t samples = int64_t{s.positions} * s.taps * s.offset_groups;  // of an image
  const bool is_conv = args.dcolumns == nullptr;
  if (g.batch * samples == 0 || g.channels == 0 || (is_conv && args.filters == 0)) {
    // Nothing is summed, not even where offsets are NaN.
    if (int error = FillZeros(args.dx, g.batch * pixels * g.channels, stream)) return error;
    if (int error = FillZeros(args.doffset, 2 * g.batch * samples, stream)) return error;
    return FillZeros(args.dmask, g.batch * samples, stream);
  }
  Workspace pieces(workspace);
  BackwardWorkspace<T> temporary(args, s, &pieces);
  if (!is_conv) {
    return BackwardSamples(stream, args, args.dcolumns, temporary.lists, deterministic);
  }
  const int64_t images = ImagesAtATime(args, s);
  for (int64_t image = 0; image < g.batch; image += images) {
    DeformableArgs<T> some = args;
    some.geometry.batch = Min(images, g.batch - image);
    some.x += image * pixels * g.channels;
    some.dx += image * pixels * g.channels;
    some.dy += image * s.positions * args.filters;
    some.offset += 2 * image * samples;
    some.doffset += 2 * image * samples;
    if (args.mask != nullptr) {
      some.mask += image * samples;
      some.dmask += image * samples;
    }
    Lists<T> lists = temporary.lists;
    if (!MakeSampling(some, &lists.sampling)) return cudaErrorInvalidValue;
    if (int error = BackwardColumns(stream, some, s, temporary.dcolumns)) return error;
    if (int error =
            BackwardSamples(stream, some, static_cast<const Accumulator<T>*>(temporary.dcolumns),
                            lists, deterministic)) {
      return error;
    }
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchDeformableSample(CudaStream stream, const DeformableArgs<T>& args) {
  cuda::SampleTask<T> task = {};
  if (!cuda::MakeSampling(args, &task.sampling)) return cudaErrorInvalidValue;
  const cuda::Chunks& chunks = task.sampling.chunks;
  task.aligned = cuda::ChunksAligned<T>(args.x, chunks) &&
                 cuda::ChunksAligned<T>(args.columns, chunks);
  task.columns = args.columns;
  task.units = args.geometry.batch * cuda::NumSpans(task.sampling);
  return cuda::Launch(cuda::SampleKernel<T>, task.units, stream, task);
}

template <typename T>
int LaunchDeformableConv(CudaStream stream, const DeformableArgs<T>& args) {
  return cuda::Convolve(stream, args);
}

template <typename T>
int LaunchDeformableBackward(CudaStream stream, const DeformableArgs<T>& args, bool deterministic,
                             void* workspace) {
  return cuda::Backward(stream, args, deterministic, workspace);
}

template <typename T>
int64_t DeformableBackwardWorkspace(const DeformableArgs<T>& args) {
  cuda::Sampling<T> s;
  if (!cuda::MakeSampling(args, &s)) return 0;  // the launch fails
  cuda::Workspace workspace(nullptr);
  cuda::BackwardWorkspace<T>(args, s, &workspace);
  return workspace.used();
}

template <typename T>
int LaunchDeformableBackwardFilter(CudaStream stream, const DeformableArgs<T>& args,
                                   void* workspace) {
  return cuda::BackwardFilter(stream, args, workspace);
}

template <typename T>
int64_t DeformableBackwardFilterWorkspace(const DeformableArgs<T>& args) {
  cuda::Sampling<T> s;
  if (!cuda::MakeSampling(args, &s)) return 0;  // the launch fails
  const int64_t parts = cuda::FilterParts(args, s).count;
  const int64_t size = s.taps * (args.geometry.channels / args.groups) * args.filters;
  return parts == 1 ? 0 : parts * size * static_cast<int64_t>(sizeof(Accumulator<T>));
}

#define TFCONV_INSTANTIATE(T)                                                               \
  template int LaunchDeformableSample(CudaStream, const DeformableArgs<T>&);                 \
  template int LaunchDeformableConv(CudaStream, const DeformableArgs<T>&);                   \
  template int LaunchDeformableBackward(CudaStream, const DeformableArgs<T>&, bool, void*);  \
  template int64_t DeformableBackwardWorkspace(const DeformableArgs<T>&);                    \
  template int LaunchDeformableBackwardFilter(CudaStream, const DeformableArgs<T>&, void*);  \
  template int64_t DeformableBackwardFilterWorkspace(const DeformableArgs<T>&);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
