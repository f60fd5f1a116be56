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

// Row segments of one side, output or input.
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
  int64_t begin;
  int64_t end;
};

Segments MakeSegments(const ConvGeometry& g, bool of_input) {
  Segments s;
  s.depth = of_input ? g.axis[0].input : g.axis[0].output;
  s.height = of_input ? g.axis[1].input : g.axis[1].output;
  s.width = of_input ? g.axis[2].input : g.axis[2].output;
  s.per_row = CeilDiv(s.width, kSegment);
  s.length = s.per_row == 0 ? 0 : RoundUp(CeilDiv(s.width, s.per_row), kPositions);
  return s;
}

Segment GetSegment(const Segments& s, int64_t unit) {
  Segment segment;
  segment.begin = Min(unit % s.per_row * s.length, s.width);
  segment.end = Min(segment.begin + s.length, s.width);
  unit /= s.per_row;
  segment.height = unit % s.height;
  unit /= s.height;
  segment.depth = unit % s.depth;
  segment.image = unit / s.depth;
  return segment;
}

template <typename T>
struct GatherScratch {
  Tap* depth_taps;
  Tap* height_taps;
  Tap* column_taps;
  Line<T>* lines;
  int32_t* channel_offset;
};

template <typename T>
GatherScratch<T> TakeGatherScratch(const InvolutionArgs<T>& args, Arena* arena) {
  const ConvGeometry& g = args.geometry;
  GatherScratch<T> s;
  s.depth_taps = arena->Take<Tap>(g.axis[0].kernel);
  s.height_taps = arena->Take<Tap>(g.axis[1].kernel);
  s.column_taps = arena->Take<Tap>(g.axis[2].kernel);
  s.lines = arena->Take<Line<T>>(g.axis[0].kernel * g.axis[1].kernel);
  s.channel_offset = arena->Take<int32_t>(RoundUp(g.channels, Simd<T>::kLanes));
  return s;
}

// Forward, and with kTransposed the gradient for x: every result gathers what it needs, so rows
// are independent and nothing is added across threads.
template <typename T, bool kTransposed>
void Gather(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  const ConvGeometry& g = args.geometry;
  Arena arena(scratch);
  const GatherScratch<T> s = TakeGatherScratch(args, &arena);
  const int64_t taps = NumTaps(g);
  const int64_t channels_per_group = g.channels / args.groups;
  // The last vector of a position may be partial: its other lanes repeat the last channel's kernel.
  for (int64_t c = 0; c < RoundUp(g.channels, Simd<T>::kLanes); ++c) {
    s.channel_offset[c] = static_cast<int32_t>(Min(c, g.channels - 1) / channels_per_group * taps);
  }
  Row<T> row;
  row.axis = g.axis[2];
  row.channels = g.channels;
  row.channels_per_group = channels_per_group;
  row.taps = taps;
  row.kernel_stride = args.groups * taps;
  row.gathered = kTransposed ? g.axis[2].output : g.axis[2].input;
  row.lines = s.lines;
  row.column_taps = s.column_taps;
  row.channel_offset = s.channel_offset;
  const T* in = kTransposed ? args.dy : args.x;
  T* out = kTransposed ? args.dx : args.y;
  const int64_t in_depth = kTransposed ? g.axis[0].output : g.axis[0].input;
  const int64_t in_height = kTransposed ? g.axis[1].output : g.axis[1].input;

  const Segments segments = MakeSegments(g, kTransposed);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Segment segment = GetSegment(segments, unit);
    const int64_t row_index =
        (segment.image * segments.depth + segment.depth) * segments.height + segment.height;
    row.out = out + row_index * segments.width * g.channels;
    const int64_t num_depth = FindTaps<kTransposed>(g.axis[0], segment.depth, s.depth_taps);
    const int64_t num_height = FindTaps<kTransposed>(g.axis[1], segment.height, s.height_taps);
    row.num_lines = 0;
    for (int64_t i = 0; i < num_depth; ++i) {
      for (int64_t j = 0; j < num_height; ++j) {
        const Tap depth = s.depth_taps[i];
        const Tap height = s.height_taps[j];
        const int64_t line_index =
            (segment.image * in_depth + depth.index) * in_height + height.index;
        const int64_t first_tap = (depth.tap * g.axis[1].kernel + height.tap) * g.axis[2].kernel;
        const int64_t first_kernel =
            kTransposed ? line_index * row.gathered : row_index * segments.width;
        s.lines[row.num_lines++] = {in + line_index * row.gathered * g.channels,
                                    args.kernel + first_kernel * row.kernel_stride + first_tap};
      }
    }
    RunSegment<T, kTransposed>(row, segment.begin, segment.end);
  }
}

template <typename T, bool kTransposed>
PassPlan PlanGather(const InvolutionArgs<T>& args) {
  const ConvGeometry& g = args.geometry;
  const Segments s = MakeSegments(g, kTransposed);
  Arena arena(nullptr);
  TakeGatherScratch(args, &arena);
  PassPlan plan;
  plan.units = g.batch * s.depth * s.height * s.per_row;
  if (g.channels == 0) plan.units = 0;
  plan.cycles_per_unit =
      Max<int64_t>(1, s.length * NumTaps(g) * g.channels * static_cast<int64_t>(sizeof(T)) / 32);
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
struct KernelScratch {
  T* zeros;
  const T** pixels;
};

template <typename T>
KernelScratch<T> TakeKernelScratch(const InvolutionArgs<T>& args, Arena* arena) {
  KernelScratch<T> s;
  s.zeros = arena->Take<T>(args.geometry.channels);
  s.pixels = arena->Take<const T*>(NumTaps(args.geometry) + Simd<T>::kLanes);
  return s;
}

// dkernel of one position: products summed over the channels of a group, for as many taps at a time
// as a vector has lanes. `pixels` has an input pixel per tap, then zeros up to a whole vector.
template <typename S>
void KernelGradientAligned(const typename S::Scalar* const* pixels, const typename S::Scalar* dy,
                           int64_t groups, int64_t taps, int64_t channels_per_group,
                           typename S::Scalar* dkernel) {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = g * channels_per_group;
    T* out = dkernel + g * taps;
    int64_t t = 0;
    // A few taps left over are summed one by one rather than as a vector of mostly zeros.
    for (; t + kLanes / 8 < taps; t += kLanes) {
      Vec sum[kLanes];
      const Vec upstream = S::Load(dy + first);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sum[i] = S::Load(pixels[t + i] + first) * upstream;
      for (int64_t c = kLanes; c < channels_per_group; c += kLanes) {
        const Vec more = S::Load(dy + first + c);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) sum[i] += S::Load(pixels[t + i] + first + c) * more;
      }
      const Vec sums = S::SumLanes(sum);
      if (t + kLanes <= taps) {
        S::Store(out + t, sums);
      } else {
        memcpy(out + t, &sums, static_cast<size_t>(taps - t) * sizeof(T));
      }
    }
    for (; t < taps; ++t) {
      Vec sum = {};
      for (int64_t c = 0; c < channels_per_group; c += kLanes) {
        sum += S::Load(pixels[t] + first + c) * S::Load(dy + first + c);
      }
      out[t] = S::SumLanes(sum);
    }
  }
}

template <typename S>
void KernelGradientMixed(const typename S::Scalar* const* pixels, const typename S::Scalar* dy,
                         int64_t groups, int64_t taps, int64_t channels_per_group,
                         typename S::Scalar* dkernel) {
  using T = typename S::Scalar;
  for (int64_t t = 0; t < taps; ++t) {
    const T* pixel = pixels[t];
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * channels_per_group;
      T sum = 0;
      int64_t c = 0;
      if (channels_per_group >= S::kLanes) {
        typename S::Vec sums = {};
        for (; c + S::kLanes <= channels_per_group; c += S::kLanes) {
          sums += S::Load(pixel + first + c) * S::Load(dy + first + c);
        }
        sum = S::SumLanes(sums);
      }
      for (; c < channels_per_group; ++c) sum += pixel[first + c] * dy[first + c];
      dkernel[g * taps + t] = sum;
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
  const ConvGeometry& g = args.geometry;
  Arena arena(scratch);
  const KernelScratch<T> s = TakeKernelScratch(args, &arena);
  memset(s.zeros, 0, static_cast<size_t>(g.channels) * sizeof(T));
  const int64_t taps = NumTaps(g);
  for (int i = 0; i < Simd<T>::kLanes; ++i) s.pixels[taps + i] = s.zeros;
  const int64_t channels_per_group = g.channels / args.groups;

  auto gradient = KernelGradientMixed<Simd<T>>;
  const int bytes = AlignedBytes<T>(channels_per_group);
  if (bytes == 16) gradient = KernelGradientAligned<Simd<T, 16>>;
  if constexpr (kVecBytes >= 32) {
    if (bytes == 32) gradient = KernelGradientAligned<Simd<T, 32>>;
  }
  if constexpr (kVecBytes >= 64) {
    if (bytes == 64) gradient = KernelGradientAligned<Simd<T, 64>>;
  }
  const Segments segments = MakeSegments(g, false);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Segment segment = GetSegment(segments, unit);
    const int64_t row =
        ((segment.image * segments.depth + segment.depth) * segments.height + segment.height) *
        segments.width;
    for (int64_t p = segment.begin; p < segment.end; ++p) {
      FindPixels(args, segment, p, static_cast<const T*>(s.zeros), s.pixels);
      gradient(s.pixels, args.dy + (row + p) * g.channels, args.groups, taps, channels_per_group,
               args.dkernel + (row + p) * args.groups * taps);
    }
  }
}

template <typename T>
PassPlan PlanBackwardKernel(const InvolutionArgs<T>& args) {
  const ConvGeometry& g = args.geometry;
  const Segments s = MakeSegments(g, false);
  Arena arena(nullptr);
  TakeKernelScratch(args, &arena);
  PassPlan plan;
  plan.units = g.batch * s.depth * s.height * s.per_row;
  plan.cycles_per_unit =
      Max<int64_t>(1, s.length * NumTaps(g) *
                          Max<int64_t>(1, g.channels * static_cast<int64_t>(sizeof(T)) / 16));
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
InvolutionKernels<T> Table() {
  InvolutionKernels<T> kernels;
  kernels.forward = {PlanGather<T, false>, Gather<T, false>};
  kernels.backward_input = {PlanGather<T, true>, Gather<T, true>};
  kernels.backward_kernel = {PlanBackwardKernel<T>, BackwardKernel<T>};
  return kernels;
}

}  // namespace

void GetKernels(InvolutionKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(InvolutionKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
