#include <stdint.h>

#include "common/cuda_device.h"
#include "involution/involution_cuda.h"

namespace tfconv {
namespace cuda {
namespace {

constexpr int kSlab = 4;                            // chunks of channels of a block
constexpr int kPositions = kThreads / kSlab;        // positions of a block
constexpr int kTileHeight = 8;                      // of them, where there are as many rows
constexpr int kSharedPacks = 2048;                  // 32 KB
constexpr int64_t kMaxKernelChannels = 1 << 26;     // of a position

// Forward, and with kTransposed the gradient for x: every result gathers what it needs. A block
// has a tile of the results of one image, and of the gathered tensor what lies under it.
template <typename T>
struct Gather {
  Axes axes;
  Chunks chunks;
  int channels;
  int groups;
  int taps;
  bool aligned;
  int tile_height;
  int tile_width;
  int tiles_high;
  int tiles_wide;
  int slabs;
  int rows;  // of the gathered tensor under a tile; 0 if they are not copied to shared memory
  int columns;
  int64_t units;
  const T* in;
  const T* kernel;
  T* out;
};

// First element of the gathered tensor under a tile.
template <bool kTransposed>
TFCONV_DEVICE int FirstUnder(const Axis& axis, int position) {
  if (!kTransposed) return position * axis.stride - axis.pad;
  const int reach = position + axis.pad - (axis.kernel - 1) * axis.dilation;
  return reach <= 0 ? 0 : CeilDiv(reach, axis.stride);
}

template <typename T, bool kTransposed>
__global__ void __launch_bounds__(kThreads) GatherKernel(Gather<T> g) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  using Elements = Pack<T, kCount>;
  TFCONV_SHARED(Elements, tile, kSharedPacks);
  const Axis depth_axis = g.axes.axis[0];
  const Axis height_axis = g.axes.axis[1];
  const Axis width_axis = g.axes.axis[2];
  const int depth = kTransposed ? depth_axis.input : depth_axis.output;
  const int height = kTransposed ? height_axis.input : height_axis.output;
  const int width = kTransposed ? width_axis.input : width_axis.output;
  const int in_depth = kTransposed ? depth_axis.output : depth_axis.input;
  const int in_height = kTransposed ? height_axis.output : height_axis.input;
  const int in_width = kTransposed ? width_axis.output : width_axis.input;
  const int64_t kernel_stride = static_cast<int64_t>(g.groups) * g.taps;
  const int thread = static_cast<int>(threadIdx.x);
  const int position = thread / kSlab;

  for (int64_t unit = blockIdx.x; unit < g.units; unit += gridDim.x) {
    int64_t rest = unit;
    const Chunk chunk =
        GetChunk<T>(g.chunks, static_cast<int>(rest % g.slabs) * kSlab + thread % kSlab);
    rest /= g.slabs;
    const int w_begin = static_cast<int>(rest % g.tiles_wide) * g.tile_width;
    rest /= g.tiles_wide;
    const int h_begin = static_cast<int>(rest % g.tiles_high) * g.tile_height;
    rest /= g.tiles_high;
    const int d = static_cast<int>(rest % depth);
    const int64_t image = rest / depth;
    const int h = h_begin + position / g.tile_width;
    const int w = w_begin + position % g.tile_width;
    const bool active = chunk.count > 0 && h < height && w < width;
    const int first_row = FirstUnder<kTransposed>(height_axis, h_begin);
    const int first_column = FirstUnder<kTransposed>(width_axis, w_begin);
    const int64_t result = ((image * depth + d) * height + h) * width + w;
    const T* group_kernel = g.kernel + static_cast<int64_t>(chunk.group) * g.taps;

    Acc sum[kCount] = {};
    for (int i = 0; i < depth_axis.kernel; ++i) {
      const int in_d = Source<kTransposed>(depth_axis, d, i);
      if (in_d < 0) continue;  // for the whole block
      const int64_t plane = (image * in_depth + in_d) * in_height;
      if (g.rows > 0) {
        __syncthreads();  // nobody needs what was there before
        for (int p = position; p < g.rows * g.columns; p += kPositions) {
          const int row = first_row + p / g.columns;
          const int column = first_column + p % g.columns;
          if (row < 0 || row >= in_height || column < 0 || column >= in_width) continue;
          const T* pixel = g.in + ((plane + row) * in_width + column) * g.channels;
          tile[p * kSlab + thread % kSlab] =
              Load<T, kCount>(pixel + chunk.first, chunk.count, g.aligned);
        }
        __syncthreads();
      }
      if (!active) continue;
      for (int j = 0; j < height_axis.kernel; ++j) {
        const int in_h = Source<kTransposed>(height_axis, h, j);
        if (in_h < 0) continue;
        const int64_t line = (plane + in_h) * in_width;
        const int tap = (i * height_axis.kernel + j) * width_axis.kernel;
        const T* weights = group_kernel + (kTransposed ? line : result) * kernel_stride + tap;
        for (int k = 0; k < width_axis.kernel; ++k) {
          const int in_w = Source<kTransposed>(width_axis, w, k);
          if (in_w < 0) continue;
          const Acc weight = Widen(weights[k + (kTransposed ? in_w * kernel_stride : 0)]);
          Elements elements;
          if (g.rows > 0) {
            const int p = (in_h - first_row) * g.columns + in_w - first_column;
            elements = tile[p * kSlab + thread % kSlab];
          } else {
            elements = Load<T, kCount>(g.in + (line + in_w) * g.channels + chunk.first, chunk.count,
                                       g.aligned);
          }
#pragma unroll
          for (int c = 0; c < kCount; ++c) sum[c] += weight * Widen(elements.value[c]);
        }
      }
    }
    if (!active) continue;
    Store<T, kCount>(g.out + result * g.channels + chunk.first, sum, chunk.count, g.aligned);
  }
}

bool Fits(const ConvGeometry& geometry, int64_t groups, Axes* axes) {
  int64_t kernel_channels = groups;
  for (const ConvAxis& axis : geometry.axis) kernel_channels *= axis.kernel;
  return kernel_channels < kMaxKernelChannels && geometry.channels < INT32_MAX / 2 &&
         MakeAxes(geometry, axes);
}

// Most elements of the gathered tensor under `length` neighbouring results.
template <bool kTransposed>
int64_t CountUnder(const ConvAxis& axis, int64_t length) {
  const int64_t taps = (axis.kernel - 1) * axis.dilation;
  if (kTransposed) return (length - 1 + taps) / axis.stride + 1;
  return (length - 1) * axis.stride + taps + 1;
}

template <bool kTransposed, typename T>
int LaunchGather(CudaStream stream, const InvolutionArgs<T>& args) {
  const ConvGeometry& geometry = args.geometry;
  const ConvAxis* axis = geometry.axis;
  Gather<T> g = {};
  if (!Fits(geometry, args.groups, &g.axes)) return cudaErrorInvalidValue;
  g.in = kTransposed ? args.dy : args.x;
  g.out = kTransposed ? args.dx : args.y;
  g.kernel = args.kernel;
  g.channels = static_cast<int>(geometry.channels);
  g.groups = static_cast<int>(args.groups);
  g.taps = static_cast<int>(axis[0].kernel * axis[1].kernel * axis[2].kernel);
  g.chunks = MakeChunks<T>(geometry.channels, args.groups);
  g.aligned = ChunksAligned<T>(g.in, g.chunks) && ChunksAligned<T>(g.out, g.chunks);
  const int64_t depth = kTransposed ? axis[0].input : axis[0].output;
  const int64_t height = kTransposed ? axis[1].input : axis[1].output;
  const int64_t width = kTransposed ? axis[2].input : axis[2].output;
  g.tile_height = height >= kTileHeight ? kTileHeight : 1;
  g.tile_width = kPositions / g.tile_height;
  g.tiles_high = static_cast<int>(CeilDiv<int64_t>(height, g.tile_height));
  g.tiles_wide = static_cast<int>(CeilDiv<int64_t>(width, g.tile_width));
  g.slabs = CeilDiv(g.chunks.count, kSlab);
  const int64_t rows = CountUnder<kTransposed>(axis[1], g.tile_height);
  const int64_t columns = CountUnder<kTransposed>(axis[2], g.tile_width);
  if (rows <= kSharedPacks && columns <= kSharedPacks && rows * columns * kSlab <= kSharedPacks) {
    g.rows = static_cast<int>(rows);
    g.columns = static_cast<int>(columns);
  }
  g.units = geometry.batch * depth * g.tiles_high * g.tiles_wide * g.slabs;
  return Launch(GatherKernel<T, kTransposed>, g.units, stream, g);
}

// The gradient for the kernel. A block has neighbouring positions of a row, and a thread an element
// at a time: neighbouring threads write neighbouring elements.
template <typename T>
struct KernelGradient {
  Axes axes;
  int channels;
  int group_channels;
  int groups;
  int taps;
  bool aligned;
  int segments;  // of a row
  int64_t units;
  const T* x;
  const T* dy;
  T* dkernel;
};

constexpr int kSegment = 16;  // positions of a block

template <typename T>
__global__ void __launch_bounds__(kThreads) KernelGradientKernel(KernelGradient<T> g) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kVector<T>;
  const Axis depth_axis = g.axes.axis[0];
  const Axis height_axis = g.axes.axis[1];
  const Axis width_axis = g.axes.axis[2];
  const int per_position = g.groups * g.taps;
  for (int64_t unit = blockIdx.x; unit < g.units; unit += gridDim.x) {
    const int w_begin = static_cast<int>(unit % g.segments) * kSegment;
    const int64_t row = unit / g.segments;
    const int h = static_cast<int>(row % height_axis.output);
    const int64_t plane = row / height_axis.output;
    const int d = static_cast<int>(plane % depth_axis.output);
    const int64_t image = plane / depth_axis.output;
    const int64_t first = row * width_axis.output + w_begin;
    const int elements = Min(kSegment, width_axis.output - w_begin) * per_position;
    for (int e = static_cast<int>(threadIdx.x); e < elements; e += kThreads) {
      const int position = e / per_position;
      const int group = (e - position * per_position) / g.taps;
      const int tap = (e - position * per_position) % g.taps;
      const int line = tap / width_axis.kernel;
      const int in_d = Source<false>(depth_axis, d, line / height_axis.kernel);
      const int in_h = Source<false>(height_axis, h, line % height_axis.kernel);
      const int in_w = Source<false>(width_axis, w_begin + position, tap % width_axis.kernel);
      const bool inside = in_d >= 0 && in_h >= 0 && in_w >= 0;
      const int64_t pixel =
          ((image * depth_axis.input + in_d) * height_axis.input + in_h) * width_axis.input + in_w;
      const int first_channel = group * g.group_channels;
      const T* x = g.x + pixel * g.channels + first_channel;
      const T* dy = g.dy + (first + position) * g.channels + first_channel;
      Acc sum = 0;
      for (int c = 0; c < g.group_channels; c += kCount) {
        const int count = Min(kCount, g.group_channels - c);
        const auto upstream = Load<T, kCount>(dy + c, count, g.aligned);
        const auto values = Load<T, kCount>(x + c, inside ? count : 0, g.aligned);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sum += Widen(values.value[i]) * Widen(upstream.value[i]);
      }
      g.dkernel[first * per_position + e] = Narrow<T>(sum);
    }
  }
}

template <typename T>
int LaunchKernelGradient(CudaStream stream, const InvolutionArgs<T>& args) {
  const ConvGeometry& geometry = args.geometry;
  const ConvAxis* axis = geometry.axis;
  KernelGradient<T> g = {};
  if (!Fits(geometry, args.groups, &g.axes)) return cudaErrorInvalidValue;
  g.x = args.x;
  g.dy = args.dy;
  g.dkernel = args.dkernel;
  g.channels = static_cast<int>(geometry.channels);
  g.groups = static_cast<int>(args.groups);
  g.group_channels = g.channels / g.groups;
  g.taps = static_cast<int>(axis[0].kernel * axis[1].kernel * axis[2].kernel);
  const Chunks chunks = MakeChunks<T>(geometry.channels, args.groups);
  g.aligned = ChunksAligned<T>(g.x, chunks) && ChunksAligned<T>(g.dy, chunks);
  g.segments = static_cast<int>(CeilDiv<int64_t>(axis[2].output, kSegment));
  g.units = geometry.batch * axis[0].output * axis[1].output * g.segments;
  return Launch(KernelGradientKernel<T>, g.units, stream, g);
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
