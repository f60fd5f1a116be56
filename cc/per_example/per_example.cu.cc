// Columns of some examples at a time, and products.
#include <stdint.h>

#include "common/cuda_device.h"
#include "per_example/per_example_cuda.h"

namespace tfconv {
namespace cuda {
namespace {

// Columns are [examples, groups, positions, taps, channels of a group]. Filling them goes from the
// output positions; with kTransposed each pixel of x adds up what it was copied to. A thread has one
// position and kCount channels at a time.
template <typename T>
struct ColumnsTask {
  Axes axes;
  Lanes lanes;
  Divisor by_width;   // of the positions that threads have
  Divisor by_height;
  Divisor by_group;   // of the channels
  int channels;
  int pixel_bytes;
  int taps;
  int rows;           // positions that threads have, of an example
  int positions;      // of y, of an example
  int pixels;         // of x, of an example
  int64_t examples;
  const T* in;
  T* out;
};

template <typename T, int kCount, bool kTransposed>
__global__ void __launch_bounds__(kThreads) ColumnsKernel(ColumnsTask<T> task) {
  using Acc = Accumulator<T>;
  const Axis& depth = task.axes.axis[0];
  const Axis& height = task.axes.axis[1];
  const Axis& width = task.axes.axis[2];
  const int sizes[] = {kTransposed ? depth.output : depth.input,
                       kTransposed ? height.output : height.input,
                       kTransposed ? width.output : width.input};
  const int row = task.lanes.row();
  if (row >= task.rows) return;
  const int line = task.by_width.Divide(row);
  const int at_w = row - line * task.by_width.value;
  const int at_d = task.by_height.Divide(line);
  const int at_h = line - at_d * task.by_height.value;
  const int column_bytes = task.by_group.value * static_cast<int>(sizeof(T));
  for (int64_t example = blockIdx.y; example < task.examples; example += gridDim.y) {
    for (int c = task.lanes.lane() * kCount; c < task.channels; c += task.lanes.count() * kCount) {
      const int group = task.by_group.Divide(c);
      // Of the first position and tap.
      const int64_t column = (example * task.channels + group * task.by_group.value) *
                                 (static_cast<int64_t>(task.positions) * task.taps) +
                             c - group * task.by_group.value;
      const int64_t pixel = example * task.pixels * task.channels + c;
      const T* const in = task.in + (kTransposed ? column : pixel);
      T* const out = task.out + (kTransposed ? pixel : column);
      Acc sum[kCount] = {};
      int tap = 0;
      for (int i = 0; i < depth.kernel; ++i) {
        const int d = Source<kTransposed>(depth, at_d, i);
        for (int j = 0; j < height.kernel; ++j) {
          const int h = Source<kTransposed>(height, at_h, j);
          const bool line_inside = Inside(d, sizes[0]) && Inside(h, sizes[1]);
          for (int k = 0; k < width.kernel; ++k, ++tap) {
            const int w = Source<kTransposed>(width, at_w, k);
            const bool inside = line_inside && Inside(w, sizes[2]);
            const int other = inside ? (d * sizes[1] + h) * sizes[2] + w : 0;
            if (kTransposed) {
              const auto values = LoadIf<T, kCount>(
                  inside, At(in + tap * int64_t{task.by_group.value}, other,
                             column_bytes * task.taps));
#pragma unroll
              for (int n = 0; n < kCount; ++n) sum[n] += Widen(values.value[n]);
            } else {
              const auto values = LoadIf<T, kCount>(inside, At(in, other, task.pixel_bytes));
              T* const to = out + (static_cast<int64_t>(row) * task.taps + tap) *
                                      task.by_group.value;
              *reinterpret_cast<Pack<T, kCount>*>(to) = values;
            }
          }
        }
      }
      if (kTransposed) Store<T, kCount>(At(out, row, task.pixel_bytes), sum);
    }
  }
}

// Sizes of the products.
template <typename T>
struct Sizes {
  explicit Sizes(const PerExampleArgs<T>& args)
      : channels(args.geometry.channels), width(channels / args.groups) {
    for (const ConvAxis& axis : args.geometry.axis) {
      inputs *= axis.input;
      outputs *= axis.output;
      taps *= axis.kernel;
    }
    x = inputs * channels;
    y = outputs * args.filters;
    columns = outputs * taps * channels;
    filter = taps * width * args.filters;
  }

  int64_t channels;
  int64_t width;  // channels of a group
  int64_t inputs = 1;
  int64_t outputs = 1;
  int64_t taps = 1;
  int64_t x;  // elements of an example
  int64_t y;
  int64_t columns;
  int64_t filter;
};

// x -> columns, or with kTransposed columns -> dx.
template <bool kTransposed, typename T>
int LaunchColumns(CudaStream stream, const PerExampleArgs<T>& args, T* columns) {
  constexpr int64_t kLimit = 1 << 30;
  constexpr int64_t kMaxChannels = 1 << 27;  // so that a pixel's bytes fit
  const Sizes<T> sizes(args);
  const ConvAxis* axis = args.geometry.axis;
  ColumnsTask<T> task = {};
  if (!MakeAxes(args.geometry, &task.axes) || sizes.channels >= kMaxChannels ||
      sizes.inputs >= kLimit || sizes.outputs >= kLimit || sizes.taps >= kLimit ||
      sizes.taps * sizes.width >= kMaxChannels) {
    return cudaErrorInvalidValue;
  }
  const auto size = [axis](int i) { return kTransposed ? axis[i].input : axis[i].output; };
  task.by_width = MakeDivisor(size(2));
  task.by_height = MakeDivisor(size(1));
  task.by_group = MakeDivisor(sizes.width);
  task.channels = static_cast<int>(sizes.channels);
  task.pixel_bytes = task.channels * static_cast<int>(sizeof(T));
  task.taps = static_cast<int>(sizes.taps);
  task.rows = static_cast<int>(kTransposed ? sizes.inputs : sizes.outputs);
  task.positions = static_cast<int>(sizes.outputs);
  task.pixels = static_cast<int>(sizes.inputs);
  task.examples = args.geometry.batch;
  task.in = kTransposed ? columns : args.x;
  task.out = kTransposed ? args.dx : columns;
  const bool wide =
      sizes.width % kVector<T> == 0 && IsAligned(task.in) && IsAligned(task.out);
  task.lanes = MakeLanes(sizes.channels / (wide ? kVector<T> : 1), 5);
  const auto kernel = wide ? ColumnsKernel<T, kVector<T>, kTransposed>
                           : ColumnsKernel<T, 1, kTransposed>;
  return Launch(kernel, {task.lanes.Blocks(task.rows), task.examples, 1}, stream, task);
}

template <typename T>
int Convolve(CudaStream stream, const PerExampleArgs<T>& args, const Multiplier<T>& multiply,
             T* columns) {
  const Sizes<T> s(args);
  const ConvProducts<T> products = {multiply,     s.outputs,   s.taps * s.width,
                                    args.filters, args.groups, args.geometry.batch};
  if (args.dx != nullptr) {
    if (int error = products.BackwardColumns(args.dy, args.filter, columns)) return error;
    return LaunchColumns<true>(stream, args, columns);
  }
  if (int error = LaunchColumns<false>(stream, args, columns)) return error;
  return args.y != nullptr ? products.Forward(columns, args.filter, args.y)
                           : products.BackwardFilter(columns, args.dy, args.dfilter);
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchPerExample(CudaStream stream, const PerExampleArgs<T>& args,
                     const Multiplier<T>& multiply, int64_t examples, void* workspace) {
  const cuda::Sizes<T> s(args);
  const int64_t batch = args.geometry.batch;
  if (s.x == 0 || s.y == 0 || s.filter == 0) {  // nothing is summed
    if (int error = cuda::FillZeros(args.y, batch * s.y, stream)) return error;
    if (int error = cuda::FillZeros(args.dx, batch * s.x, stream)) return error;
    return cuda::FillZeros(args.dfilter, batch * s.filter, stream);
  }
  for (int64_t first = 0; first < batch; first += examples) {
    PerExampleArgs<T> some = args;
    some.geometry.batch = cuda::Min(examples, batch - first);
    const auto advance = [first](auto*& tensor, int64_t size) {
      if (tensor != nullptr) tensor += first * size;
    };
    advance(some.x, s.x);
    advance(some.dx, s.x);
    advance(some.y, s.y);
    advance(some.dy, s.y);
    advance(some.filter, s.filter);
    advance(some.dfilter, s.filter);
    if (int error = cuda::Convolve(stream, some, multiply, static_cast<T*>(workspace))) {
      return error;
    }
  }
  return cudaSuccess;
}

template <typename T>
int64_t PerExampleWorkspace(const PerExampleArgs<T>& args, int64_t examples) {
  return examples * cuda::Sizes<T>(args).columns * static_cast<int64_t>(sizeof(T));
}

#define TFCONV_INSTANTIATE(T)                                                                  \
  template int LaunchPerExample(CudaStream, const PerExampleArgs<T>&, const Multiplier<T>&,     \
                                int64_t, void*);                                                \
  template int64_t PerExampleWorkspace(const PerExampleArgs<T>&, int64_t);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
