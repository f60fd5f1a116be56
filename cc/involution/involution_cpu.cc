#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/vec.h"
#include "involution/involution_kernel.h"
#include "involution/involution_rows.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

// Rows longer than this are cut, so that one-dimensional inputs occupy all threads.
constexpr int64_t kSegment = 64;

int64_t NumTaps(const ConvGeometry& g) {
  return g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
}

// Segments of output rows.
struct Segments {
  int64_t depth;
  int64_t height;
  int64_t width;
  int64_t per_row;
  int64_t length;
};

struct Segment {
  int64_t image;
  int64_t depth;
  int64_t height;
  Range columns;
};

Segments MakeSegments(const ConvGeometry& g) {
  Segments s;
  s.depth = g.axis[0].output;
  s.height = g.axis[1].output;
  s.width = g.axis[2].output;
  s.per_row = CeilDiv(s.width, kSegment);
  s.length = s.per_row == 0 ? 0 : RoundUp(CeilDiv(s.width, s.per_row), kPositions);
  return s;
}

Segment GetSegment(const Segments& s, int64_t unit) {
  Segment segment;
  segment.columns.begin = Min(unit % s.per_row * s.length, s.width);
  segment.columns.end = Min(segment.columns.begin + s.length, s.width);
  unit /= s.per_row;
  segment.height = unit % s.height;
  unit /= s.height;
  segment.depth = unit % s.depth;
  segment.image = unit / s.depth;
  return segment;
}

// The row of output positions that a segment lies in.
int64_t RowOf(const Segments& s, const Segment& segment) {
  return (segment.image * s.depth + segment.depth) * s.height + segment.height;
}

template <typename T, Direction kDirection>
struct RowScratch {
  using S = Simd<Accumulator<T>>;

  RowScratch(const InvolutionArgs<T>& args, Arena* arena) {
    const ConvGeometry& g = args.geometry;
    const int64_t taps = NumTaps(g);
    lines = arena->Take<Line<typename LineElement<T, kDirection>::Type>>(g.axis[0].kernel *
                                                                         g.axis[1].kernel);
    groups = arena->Take<typename S::Index>(RoundUp(g.channels, S::kLanes));
    int64_t size = 0;
    if (RowBytes<T>(g.channels / args.groups) == 0) {
      size = kMixedPositions * MixedSize<S>(taps);
    } else if (kIsHalf<T>) {
      size = kPositions * args.groups * taps;
    }
    weights = arena->Take<Accumulator<T>>(size);
  }

  Line<typename LineElement<T, kDirection>::Type>* lines;
  typename S::Index* groups;
  Accumulator<T>* weights;
};

// All but what differs from row to row.
template <typename T, Direction kDirection>
Row<T, kDirection> MakeRow(const InvolutionArgs<T>& args, const RowScratch<T, kDirection>& s) {
  const ConvGeometry& g = args.geometry;
  Row<T, kDirection> row = {};
  row.axis = g.axis[2];
  row.channels = g.channels;
  row.channels_per_group = g.channels / args.groups;
  row.taps = NumTaps(g);
  row.kernel_stride = args.groups * row.taps;
  const int64_t positions = g.axis[0].output * g.axis[1].output * g.axis[2].output;
  row.kernel_end = args.kernel + g.batch * positions * row.kernel_stride;
  row.lines = s.lines;
  row.groups = s.groups;
  row.weights = s.weights;
  // The last vector of a position may be partial: its other lanes repeat the last channel's group.
  using S = Simd<Accumulator<T>>;
  for (int64_t c = 0; c < RoundUp(g.channels, S::kLanes); ++c) {
    s.groups[c] =
        static_cast<typename S::Index>(Min(c, g.channels - 1) / row.channels_per_group);
  }
  return row;
}

template <typename T>
void Forward(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  const ConvGeometry& g = args.geometry;
  Arena arena(scratch);
  const RowScratch<T, Direction::kForward> s(args, &arena);
  Row<T, Direction::kForward> row = MakeRow(args, s);
  row.columns = {0, g.axis[2].input};
  const Segments segments = MakeSegments(g);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Segment segment = GetSegment(segments, unit);
    const int64_t first = RowOf(segments, segment) * segments.width;
    row.kernel = args.kernel + first * row.kernel_stride;
    row.y = args.y + first * g.channels;
    const Taps planes = FindTaps(g.axis[0], segment.depth, 0, g.axis[0].input);
    const Taps lines = FindTaps(g.axis[1], segment.height, 0, g.axis[1].input);
    row.num_lines = 0;
    for (int64_t i = 0; i < planes.count; ++i) {
      for (int64_t j = 0; j < lines.count; ++j) {
        const int64_t plane = segment.image * g.axis[0].input + planes.first_index +
                              i * g.axis[0].dilation;
        const int64_t line = plane * g.axis[1].input + lines.first_index + j * g.axis[1].dilation;
        s.lines[row.num_lines++] = {
            args.x + line * g.axis[2].input * g.channels,
            ((planes.first_tap + i) * g.axis[1].kernel + lines.first_tap + j) * g.axis[2].kernel};
      }
    }
    RunSegment(row, segment.columns);
  }
}

template <typename T>
PassPlan PlanForward(const InvolutionArgs<T>& args) {
  const ConvGeometry& g = args.geometry;
  const Segments s = MakeSegments(g);
  Arena arena(nullptr);
  RowScratch<T, Direction::kForward> scratch(args, &arena);
  PassPlan plan;
  plan.units = g.channels == 0 ? 0 : g.batch * s.depth * s.height * s.per_row;
  plan.cycles_per_unit = Max<int64_t>(
      1, s.length * NumTaps(g) * g.channels * static_cast<int64_t>(sizeof(Accumulator<T>)) / 32);
  plan.scratch_bytes = arena.used();
  return plan;
}

// The gradient for x: each unit owns a band of lines of dx, cut into segments where they are long.
// It visits the output positions that reach the band, and adds to it while a cache holds it.
struct Bands {
  int64_t depth;
  int64_t height;
  int64_t width;
  int64_t per_row;  // segments
  int64_t length;
  int64_t per_column;
  int64_t lines;
};

template <typename T>
Bands MakeBands(const InvolutionArgs<T>& args) {
  constexpr int64_t kMinUnits = 16;
  constexpr int64_t kBytes = 1 << 18;
  const ConvGeometry& g = args.geometry;
  Bands b = {g.axis[0].input, g.axis[1].input, g.axis[2].input, 0, 0, 0, 0};
  if (g.batch == 0 || g.channels == 0 || b.depth == 0 || b.height == 0 || b.width == 0) return b;
  b.per_row = CeilDiv(b.width, kSegment);
  b.length = CeilDiv(b.width, b.per_row);
  const int64_t line_bytes = b.length * g.channels * static_cast<int64_t>(sizeof(Accumulator<T>));
  const int64_t wanted = CeilDiv(kMinUnits, g.batch * b.depth * b.per_row);
  b.lines = Min(Max<int64_t>(1, kBytes / line_bytes), CeilDiv(b.height, wanted));
  b.per_column = CeilDiv(b.height, b.lines);
  b.lines = CeilDiv(b.height, b.per_column);
  return b;
}

template <typename T>
struct BandScratch {
  BandScratch(const InvolutionArgs<T>& args, const Bands& bands, Arena* arena)
      : rows(args, arena),
        sums(arena->Take<Accumulator<T>>(
            kIsHalf<T> ? bands.lines * bands.length * args.geometry.channels : 0)) {}

  RowScratch<T, Direction::kBackward> rows;
  Accumulator<T>* sums;  // of a band, if dx has another type
};

template <typename T>
void BackwardInput(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  using Sum = Accumulator<T>;
  const ConvGeometry& g = args.geometry;
  const Bands bands = MakeBands(args);
  Arena arena(scratch);
  const BandScratch<T> s(args, bands, &arena);
  Row<T, Direction::kBackward> row = MakeRow(args, s.rows);
  const ConvAxis& d_axis = g.axis[0];
  const ConvAxis& h_axis = g.axis[1];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t w = unit % bands.per_row * bands.length;
    const int64_t h = unit / bands.per_row % bands.per_column * bands.lines;
    const int64_t slice = unit / bands.per_row / bands.per_column;  // of all images
    const int64_t h_end = Min(h + bands.lines, bands.height);
    row.columns = {w, Min(w + bands.length, bands.width)};
    const int64_t line_size = (row.columns.end - w) * g.channels;
    const int64_t dx_stride = bands.width * g.channels;
    T* dx = args.dx + (slice * bands.height + h) * dx_stride + w * g.channels;
    Sum* sums;
    int64_t stride;
    if constexpr (kIsHalf<T>) {
      sums = s.sums;
      stride = line_size;
    } else {
      sums = dx;
      stride = dx_stride;
    }
    for (int64_t i = 0; i < h_end - h; ++i) {
      memset(sums + i * stride, 0, static_cast<size_t>(line_size) * sizeof(Sum));
    }
    const int64_t depth = slice % bands.depth;
    const Range rows = FindOutputs(h_axis, h, h_end);
    const Range positions = FindOutputs(g.axis[2], w, row.columns.end);
    const Range planes = FindOutputs(d_axis, depth, depth + 1);
    for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
      const Taps depth_taps = FindTaps(d_axis, plane, depth, depth + 1);
      if (depth_taps.count == 0) continue;
      for (int64_t output = rows.begin; output < rows.end; ++output) {
        const Taps lines = FindTaps(h_axis, output, h, h_end);
        if (lines.count == 0) continue;
        row.num_lines = lines.count;
        for (int64_t j = 0; j < lines.count; ++j) {
          s.rows.lines[j] = {
              sums + (lines.first_index + j * h_axis.dilation) * stride,
              (depth_taps.first_tap * h_axis.kernel + lines.first_tap + j) * g.axis[2].kernel};
        }
        const int64_t first =
            ((slice / bands.depth * d_axis.output + plane) * h_axis.output + output) *
            g.axis[2].output;
        row.kernel = args.kernel + first * row.kernel_stride;
        row.dy = args.dy + first * g.channels;
        RunSegment(row, positions);
      }
    }
    if constexpr (kIsHalf<T>) {
      for (int64_t i = 0; i < h_end - h; ++i) {
        CopyElements(sums + i * stride, dx + i * dx_stride, line_size);
      }
    }
  }
}

template <typename T>
PassPlan PlanBackwardInput(const InvolutionArgs<T>& args) {
  const ConvGeometry& g = args.geometry;
  const Bands b = MakeBands(args);
  Arena arena(nullptr);
  BandScratch<T> scratch(args, b, &arena);
  PassPlan plan;
  plan.units = g.batch * b.depth * b.per_row * b.per_column;
  plan.cycles_per_unit =
      Max<int64_t>(1, b.lines * b.length * NumTaps(g) * g.channels *
                          static_cast<int64_t>(sizeof(Accumulator<T>)) / 32);
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
struct KernelScratch {
  KernelScratch(const InvolutionArgs<T>& args, Arena* arena) {
    constexpr int64_t kLanes = Simd<Accumulator<T>>::kLanes;
    const int64_t taps = NumTaps(args.geometry);
    zeros = arena->Take<T>(args.geometry.channels);
    pixels = arena->Take<const T*>(taps + kLanes);
    sums = arena->Take<Accumulator<T>>(args.groups * taps + kLanes);
  }

  T* zeros;
  const T** pixels;
  Accumulator<T>* sums;  // dkernel of one position, and room behind
};

// dkernel of one position and the group from channel c on: products summed over the channels, for
// as many taps at a time as a vector has lanes. `pixels` has an input pixel per tap, then zeros up
// to a whole vector. `dkernel` is that of all groups.
template <typename S, typename T>
void KernelGradientAligned(const T* const* pixels, const T* dy, int64_t c, int64_t,
                           int64_t channels_per_group, int64_t taps, Accumulator<T>* dkernel) {
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  const int64_t end = c + channels_per_group;
  dkernel += c / channels_per_group * taps;
  int64_t t = 0;
  // A few taps left over are summed one by one rather than as a vector of mostly zeros.
  for (; t + kLanes / 8 < taps; t += kLanes) {
    Vec sum[kLanes];
    const Vec upstream = S::Load(dy + c);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sum[i] = S::Load(pixels[t + i] + c) * upstream;
    for (int64_t next = c + kLanes; next < end; next += kLanes) {
      const Vec more = S::Load(dy + next);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sum[i] += S::Load(pixels[t + i] + next) * more;
    }
    // What lies beyond the taps is overwritten by the next group.
    S::Store(dkernel + t, S::SumLanes(sum));
  }
  for (; t < taps; ++t) {
    Vec sum = {};
    for (int64_t next = c; next < end; next += kLanes) {
      sum += S::Load(pixels[t] + next) * S::Load(dy + next);
    }
    dkernel[t] = S::SumLanes(sum);
  }
}

// The same for groups that are no multiple of any vector, and a vector of channels: lanes are
// channels while products are made, and taps while they are summed.
template <typename S, typename T>
void KernelGradientMixed(const T* const* pixels, const T* dy, int64_t c, int64_t channels,
                         int64_t channels_per_group, int64_t taps, Accumulator<T>* dkernel) {
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  const int64_t left = taps % kLanes;
  // Up to here whole vectors are stored; a few taps left over are stored one by one.
  const int64_t end = left > kLanes / 8 ? taps - left + kLanes : taps - left;
  const int64_t count = Min<int64_t>(kLanes, channels - c);
  const auto load = [&](const T* p) {
    return count < kLanes ? S::LoadFirst(p + c, count) : S::Load(p + c);
  };
  const Vec upstream = load(dy);
  Accumulator<T>* const first_sums = dkernel + c / channels_per_group * taps;
  const int64_t first_in_group = c % channels_per_group;
  // The last taps first: what lies beyond them is overwritten by the next group's.
  for (int64_t t = end - kLanes; t >= 0; t -= kLanes) {
    Vec products[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) products[i] = load(pixels[t + i]) * upstream;
    S::Transpose(products);
    Accumulator<T>* sums = first_sums + t;
    int64_t in_group = first_in_group;
    Vec sum = {};
    if (in_group > 0) sum = S::Load(sums);
    for (int64_t i = 0; i < count; ++i) {
      sum += products[i];
      if (++in_group < channels_per_group && i + 1 < count) continue;
      S::Store(sums, sum);
      sums += taps;
      in_group = 0;
      sum = Vec{};
    }
  }
  for (int64_t t = end; t < taps; ++t) {
    Accumulator<T> products[kLanes];
    S::Store(products, load(pixels[t]) * upstream);
    Accumulator<T>* sums = first_sums + t;
    int64_t in_group = first_in_group;
    for (int64_t i = 0; i < count; ++i) {
      *sums = (in_group == 0 ? 0 : *sums) + products[i];
      if (++in_group < channels_per_group) continue;
      sums += taps;
      in_group = 0;
    }
  }
}

// Input pixel of every tap of one output position; `zeros` where it lies outside.
template <typename T>
void FindPixels(const InvolutionArgs<T>& args, const Segment& segment, int64_t position,
                const T* zeros, const T** pixels) {
  const ConvGeometry& g = args.geometry;
  const ConvAxis& d_axis = g.axis[0];
  const ConvAxis& h_axis = g.axis[1];
  const ConvAxis& w_axis = g.axis[2];
  const int64_t w0 = position * w_axis.stride - w_axis.pad;
  for (int64_t i = 0; i < d_axis.kernel; ++i) {
    const int64_t d = segment.depth * d_axis.stride - d_axis.pad + i * d_axis.dilation;
    for (int64_t j = 0; j < h_axis.kernel; ++j) {
      const int64_t h = segment.height * h_axis.stride - h_axis.pad + j * h_axis.dilation;
      const bool exists = d >= 0 && d < d_axis.input && h >= 0 && h < h_axis.input;
      const int64_t line = ((segment.image * d_axis.input + d) * h_axis.input + h) * w_axis.input;
      for (int64_t k = 0; k < w_axis.kernel; ++k) {
        const int64_t w = w0 + k * w_axis.dilation;
        *pixels++ = exists && w >= 0 && w < w_axis.input ? args.x + (line + w) * g.channels : zeros;
      }
    }
  }
}

template <typename T>
void BackwardKernel(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  using Sum = Accumulator<T>;
  const ConvGeometry& g = args.geometry;
  Arena arena(scratch);
  const KernelScratch<T> s(args, &arena);
  memset(s.zeros, 0, static_cast<size_t>(g.channels) * sizeof(T));
  const int64_t taps = NumTaps(g);
  for (int64_t i = 0; i < Simd<Sum>::kLanes; ++i) s.pixels[taps + i] = s.zeros;
  const int64_t channels_per_group = g.channels / args.groups;
  const int64_t kernel_size = args.groups * taps;
  // Without channels, they stay zero.
  memset(s.sums, 0, static_cast<size_t>(kernel_size) * sizeof(Sum));

  auto gradient = KernelGradientMixed<Simd<Sum>, T>;
  int64_t step = Simd<Sum>::kLanes;
  const int bytes = AlignedBytes<Sum>(channels_per_group);
  if (bytes == 16) gradient = KernelGradientAligned<Simd<Sum, 16>, T>;
  if constexpr (kVecBytes >= 32) {
    if (bytes == 32) gradient = KernelGradientAligned<Simd<Sum, 32>, T>;
  }
  if constexpr (kVecBytes >= 64) {
    if (bytes == 64) gradient = KernelGradientAligned<Simd<Sum, 64>, T>;
  }
  if (bytes > 0) step = channels_per_group;
  const Segments segments = MakeSegments(g);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Segment segment = GetSegment(segments, unit);
    const int64_t row = RowOf(segments, segment) * segments.width;
    for (int64_t p = segment.columns.begin; p < segment.columns.end; ++p) {
      FindPixels(args, segment, p, static_cast<const T*>(s.zeros), s.pixels);
      const T* dy = args.dy + (row + p) * g.channels;
      for (int64_t c = 0; c < g.channels; c += step) {
        gradient(s.pixels, dy, c, g.channels, channels_per_group, taps, s.sums);
      }
      CopyElements(s.sums, args.dkernel + (row + p) * kernel_size, kernel_size);
    }
  }
}

template <typename T>
PassPlan PlanBackwardKernel(const InvolutionArgs<T>& args) {
  const ConvGeometry& g = args.geometry;
  const Segments s = MakeSegments(g);
  Arena arena(nullptr);
  KernelScratch<T> scratch(args, &arena);
  PassPlan plan;
  plan.units = g.batch * s.depth * s.height * s.per_row;
  const int64_t channel_bytes = g.channels * static_cast<int64_t>(sizeof(Accumulator<T>));
  plan.cycles_per_unit =
      Max<int64_t>(1, s.length * NumTaps(g) * Max<int64_t>(1, channel_bytes / 16));
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
InvolutionKernels<T> Table() {
  InvolutionKernels<T> kernels;
  kernels.forward = {PlanForward<T>, Forward<T>};
  kernels.backward_input = {PlanBackwardInput<T>, BackwardInput<T>};
  kernels.backward_kernel = {PlanBackwardKernel<T>, BackwardKernel<T>};
  return kernels;
}

}  // namespace

void GetKernels(InvolutionKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(InvolutionKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
void GetKernels(InvolutionKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(InvolutionKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
