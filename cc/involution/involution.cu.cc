#include <stdint.h>

#include "common/cuda_device.h"
#include "involution/involution_cuda.h"

namespace tfconv {
namespace cuda {
namespace {

// Forward, and with kTransposed the gradient for x: every result gathers what it needs. A thread
// has kCount channels. The kernel's height and width are kSide, if that is positive: there is no
// depth then, and with kTransposed no stride.
template <typename T>
struct Gather {
  Axes axes;
  Planes planes;  // of the results
  Lanes lanes;    // along the chunks
  int chunks;     // of kCount channels
  Divisor by_chunks;  // of a group
  int channels;
  int kernel_channels;  // taps of all groups
  int taps;
  const T* in;
  const T* kernel;
  T* out;
  Grid grid;
};

template <typename T, int kCount, int kSide, bool kTransposed>
__global__ void __launch_bounds__(kThreads) GatherKernel(Gather<T> g) {
  using Acc = Accumulator<T>;
  [[maybe_unused]] constexpr int kUnroll = kSide > 0 ? kSide : 1;
  constexpr bool kUnit = kSide > 0;
  const Axis& depth = g.axes.axis[0];
  const Axis& height = g.axes.axis[1];
  const Axis& width = g.axes.axis[2];
  const int in_depth = kTransposed ? depth.output : depth.input;
  const int in_height = kTransposed ? height.output : height.input;
  const int in_width = kTransposed ? width.output : width.input;
  const int pixel_bytes = g.channels * static_cast<int>(sizeof(T));
  const int kernel_bytes = g.kernel_channels * static_cast<int>(sizeof(T));
  const int position = g.lanes.row();
  if (position >= g.planes.positions) return;
  for (int64_t z = blockIdx.z; z < g.grid.z; z += gridDim.z) {
    const int chunk = static_cast<int>(z) * g.lanes.count() + g.lanes.lane();
    if (chunk >= g.chunks) continue;
    const T* const in = g.in + chunk * kCount;
    const T* const kernel = g.kernel + g.by_chunks.Divide(chunk) * g.taps;
    for (int64_t plane = blockIdx.y; plane < g.grid.y; plane += gridDim.y) {
      const Position at = GetPosition(g.planes, plane, position);
      const int64_t result = plane * g.planes.positions + position;
      Acc sum[kCount] = {};
      for (int i = 0; i < (kSide > 0 ? 1 : depth.kernel); ++i) {
        const int d = kSide > 0 ? 0 : Source<kTransposed>(depth, at.d, i);
        if (!Inside(d, in_depth)) continue;
#pragma unroll kUnroll
        for (int j = 0; j < (kSide > 0 ? kSide : height.kernel); ++j) {
          const int h = Source<kTransposed, kUnit>(height, at.h, j);
          if (!Inside(h, in_height)) continue;
          const int64_t line =
              ((static_cast<int64_t>(at.image) * in_depth + d) * in_height + h) * in_width;
          const T* const pixels = in + line * g.channels;
          const T* const weights = kernel + (kTransposed ? line : result) * g.kernel_channels +
                                   (i * height.kernel + j) * width.kernel;
#pragma unroll kUnroll
          for (int k = 0; k < (kSide > 0 ? kSide : width.kernel); ++k) {
            const int w = Source<kTransposed, kUnit>(width, at.w, k);
            const bool inside = Inside(w, in_width);
            const T* const own = kTransposed ? At(weights + k, w, kernel_bytes) : weights + k;
            const Acc weight = Widen(LoadIf<T, 1>(inside, own).value[0]);
            const auto elements = LoadIf<T, kCount>(inside, At(pixels, w, pixel_bytes));
#pragma unroll
            for (int c = 0; c < kCount; ++c) sum[c] += weight * Widen(elements.value[c]);
          }
        }
      }
      Store<T, kCount>(g.out + result * g.channels + chunk * kCount, sum);
    }
  }
}

// False if 32-bit arithmetic does not reach.
template <typename T>
bool Fits(const InvolutionArgs<T>& args, Axes* axes) {
  constexpr int64_t kLimit = 1 << 26;  // of the elements at a position
  const ConvAxis* axis = args.geometry.axis;
  return args.groups * axis[0].kernel * axis[1].kernel * axis[2].kernel < kLimit &&
         args.geometry.channels < kLimit && MakeAxes(args.geometry, axes);
}

template <int kCount, bool kTransposed, typename T>
int LaunchGather(CudaStream stream, const InvolutionArgs<T>& args) {
  const ConvGeometry& geometry = args.geometry;
  const ConvAxis* axis = geometry.axis;
  Gather<T> g = {};
  const auto size = [axis](int i) { return kTransposed ? axis[i].input : axis[i].output; };
  if (!Fits(args, &g.axes) ||
      !MakePlanes(geometry.batch, size(0), size(1), size(2), &g.planes)) {
    return cudaErrorInvalidValue;
  }
  g.in = kTransposed ? args.dy : args.x;
  g.out = kTransposed ? args.dx : args.y;
  g.kernel = args.kernel;
  g.channels = static_cast<int>(geometry.channels);
  g.chunks = g.channels / kCount;
  g.by_chunks = MakeDivisor(g.chunks / args.groups);
  g.taps = static_cast<int>(axis[0].kernel * axis[1].kernel * axis[2].kernel);
  g.kernel_channels = static_cast<int>(args.groups) * g.taps;
  g.lanes = MakeLanes(g.chunks, 5);
  g.grid = {g.lanes.Blocks(g.planes.positions), g.planes.count,
            CeilDiv(g.chunks, g.lanes.count())};
  void (*kernel)(Gather<T>) = GatherKernel<T, kCount, 0, kTransposed>;
  const bool is_plane = axis[0].input == 1 && axis[0].output == 1 && axis[0].kernel == 1;
  const bool has_unit = !kTransposed || (axis[1].stride == 1 && axis[2].stride == 1);
  if (kCount > 1 && is_plane && has_unit && axis[1].kernel == axis[2].kernel) {
    if (axis[1].kernel == 3) kernel = GatherKernel<T, kVector<T>, 3, kTransposed>;
    if (axis[1].kernel == 5) kernel = GatherKernel<T, kVector<T>, 5, kTransposed>;
    if (axis[1].kernel == 7) kernel = GatherKernel<T, kVector<T>, 7, kTransposed>;
  }
  return Launch(kernel, g.grid, stream, g);
}

// By 16 bytes where the channels of a group lie on them.
template <bool kTransposed, typename T>
int LaunchGather(CudaStream stream, const InvolutionArgs<T>& args) {
  const T* const in = kTransposed ? args.dy : args.x;
  const T* const out = kTransposed ? args.dx : args.y;
  const bool wide = args.geometry.channels / args.groups % kVector<T> == 0 && IsAligned(in) &&
                    IsAligned(out);
  return wide ? LaunchGather<kVector<T>, kTransposed>(stream, args)
              : LaunchGather<1, kTransposed>(stream, args);
}

// The gradient for the kernel: a thread has an element, and neighbours write neighbours.
template <typename T>
struct KernelGradient {
  Axes axes;
  Planes planes;
  Lanes lanes;  // along the elements at a position
  int elements;
  int channels;
  int group_channels;
  Divisor by_taps;
  Divisor by_height;  // of the kernel
  Divisor by_width;   // of the kernel
  bool aligned;
  const T* x;
  const T* dy;
  T* dkernel;
  Grid grid;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) KernelGradientKernel(KernelGradient<T> g) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Axis& depth = g.axes.axis[0];
  const Axis& height = g.axes.axis[1];
  const Axis& width = g.axes.axis[2];
  const int position = g.lanes.row();
  if (position >= g.planes.positions) return;
  for (int64_t z = blockIdx.z; z < g.grid.z; z += gridDim.z) {
    const int element = static_cast<int>(z) * g.lanes.count() + g.lanes.lane();
    if (element >= g.elements) continue;
    const int group = g.by_taps.Divide(element);
    const int tap = element - group * g.by_taps.value;
    const int line = g.by_width.Divide(tap);
    const int i = g.by_height.Divide(line);
    const int j = line - i * g.by_height.value;
    const int k = tap - line * g.by_width.value;
    for (int64_t plane = blockIdx.y; plane < g.grid.y; plane += gridDim.y) {
      const Position at = GetPosition(g.planes, plane, position);
      const int64_t result = plane * g.planes.positions + position;
      const int d = Source<false>(depth, at.d, i);
      const int h = Source<false>(height, at.h, j);
      const int w = Source<false>(width, at.w, k);
      const bool inside =
          Inside(d, depth.input) && Inside(h, height.input) && Inside(w, width.input);
      const int64_t row = (static_cast<int64_t>(at.image) * depth.input + d) * height.input + h;
      const T* const x = g.x + (row * width.input + w) * g.channels + group * g.group_channels;
      const T* const dy = g.dy + result * g.channels + group * g.group_channels;
      Acc sum = 0;
#pragma unroll 1
      for (int c = 0; c < g.group_channels; c += kCount) {
        const int count = Min(kCount, g.group_channels - c);
        const auto upstream = Load<T, kCount>(dy + c, count, g.aligned);
        const auto values = Load<T, kCount>(x + c, inside ? count : 0, g.aligned && inside);
#pragma unroll
        for (int n = 0; n < kCount; ++n) sum += Widen(values.value[n]) * Widen(upstream.value[n]);
      }
      g.dkernel[result * g.elements + element] = Narrow<T>(sum);
    }
  }
}

template <typename T>
int LaunchKernelGradient(CudaStream stream, const InvolutionArgs<T>& args) {
  const ConvGeometry& geometry = args.geometry;
  const ConvAxis* axis = geometry.axis;
  KernelGradient<T> g = {};
  if (!Fits(args, &g.axes) || !MakePlanes(geometry.batch, axis[0].output, axis[1].output,
                                          axis[2].output, &g.planes)) {
    return cudaErrorInvalidValue;
  }
  g.x = args.x;
  g.dy = args.dy;
  g.dkernel = args.dkernel;
  const int64_t taps = axis[0].kernel * axis[1].kernel * axis[2].kernel;
  g.elements = static_cast<int>(args.groups * taps);
  g.channels = static_cast<int>(geometry.channels);
  g.group_channels = static_cast<int>(geometry.channels / args.groups);
  g.by_taps = MakeDivisor(taps);
  g.by_height = MakeDivisor(axis[1].kernel);
  g.by_width = MakeDivisor(axis[2].kernel);
  g.aligned = g.group_channels % kVector<T> == 0 && IsAligned(g.x) && IsAligned(g.dy);
  g.lanes = MakeLanes(g.elements, 5);
  g.grid = {g.lanes.Blocks(g.planes.positions), g.planes.count,
            CeilDiv(g.elements, g.lanes.count())};
  return Launch(KernelGradientKernel<T>, g.grid, stream, g);
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchInvolution(CudaStream stream, const InvolutionArgs<T>& args) {
  return cuda::LaunchGather<false>(stream, args);
}

template <typename T>
int LaunchInvolutionBackwardInput(CudaStream stream, const InvolutionArgs<T>& args) {
  return cuda::LaunchGather<true>(stream, args);
}

template <typename T>
int LaunchInvolutionBackwardKernel(CudaStream stream, const InvolutionArgs<T>& args) {
  return cuda::LaunchKernelGradient(stream, args);
}

#define TFCONV_INSTANTIATE(T)                                                      \
  template int LaunchInvolution(CudaStream, const InvolutionArgs<T>&);              \
  template int LaunchInvolutionBackwardInput(CudaStream, const InvolutionArgs<T>&); \
  template int LaunchInvolutionBackwardKernel(CudaStream, const InvolutionArgs<T>&);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
