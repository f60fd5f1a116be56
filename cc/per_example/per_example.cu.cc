#include <stdint.h>

#include "common/cuda_product.h"
#include "per_example/per_example_cuda.h"

namespace tfconv {
namespace cuda {
namespace {

// The pixels of x under the taps of y's positions, or with kTransposed those of dy over the taps of
// x's positions.
template <typename T, bool kTransposed>
struct PixelSource {
  using Element = T;
  using Acc = Accumulator<T>;

  const T* data;
  Axes axes;
  int depth;
  int height;
  int width;
  int channels;
  int64_t pixel_stride;
  int64_t image_stride;
  bool aligned;

  TFCONV_DEVICE PixelSource For(int64_t example, int64_t group) const {
    PixelSource source = *this;
    source.data += example * image_stride + group * channels;
    return source;
  }

  TFCONV_DEVICE void Get(const Position& position, const TapChannel& tap, int count,
                         Acc* run) const {
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) run[i] = 0;
    if (count == 0) return;
    const int d = Source<kTransposed>(axes.axis[0], position.d, tap.i);
    const int h = Source<kTransposed>(axes.axis[1], position.h, tap.j);
    const int w = Source<kTransposed>(axes.axis[2], position.w, tap.k);
    const int lines = kTransposed ? axes.axis[1].output : axes.axis[1].input;
    const int columns = kTransposed ? axes.axis[2].output : axes.axis[2].input;
    const int64_t pixel = (static_cast<int64_t>(d) * lines + h) * columns + w;
    LoadRun(data + pixel * pixel_stride + tap.channel, d < 0 || h < 0 || w < 0 ? 0 : count,
             aligned, run);
  }
};

struct Sizes {
  Axes axes;
  int64_t inputs;
  int64_t outputs;
  int64_t taps;
  int64_t channels;  // of a group
  int64_t filters;   // of a group
};

template <typename T>
bool MakeSizes(const PerExampleArgs<T>& args, Sizes* s) {
  s->inputs = s->outputs = s->taps = 1;
  for (const ConvAxis& axis : args.geometry.axis) {
    s->inputs *= axis.input;
    s->outputs *= axis.output;
    s->taps *= axis.kernel;
  }
  s->channels = args.geometry.channels / args.groups;
  s->filters = args.filters / args.groups;
  constexpr int64_t kLimit = 1 << 30;
  return args.geometry.channels < kLimit && args.filters < kLimit &&
         MakeAxes(args.geometry, &s->axes);
}

template <typename T>
PixelSource<T, false> PixelsOfX(const PerExampleArgs<T>& args, const Sizes& s) {
  const Axis* axis = s.axes.axis;
  const int64_t channels = args.geometry.channels;
  return {args.x,
          s.axes,
          axis[0].output,
          axis[1].output,
          axis[2].output,
          static_cast<int>(s.channels),
          channels,
          s.inputs * channels,
          RunsAligned(args.x, {s.channels})};
}

template <typename T>
PixelSource<T, true> PixelsOfDy(const PerExampleArgs<T>& args, const Sizes& s) {
  const Axis* axis = s.axes.axis;
  return {args.dy,
          s.axes,
          axis[0].input,
          axis[1].input,
          axis[2].input,
          static_cast<int>(s.filters),
          args.filters,
          s.outputs * args.filters,
          RunsAligned(args.dy, {s.filters})};
}

template <typename T>
int64_t FilterSize(const PerExampleArgs<T>& args, const Sizes& s) {
  return s.taps * s.channels * args.filters;
}

template <typename T>
int Convolve(CudaStream stream, const PerExampleArgs<T>& args) {
  Sizes s;
  if (!MakeSizes(args, &s)) return cudaErrorInvalidValue;
  Product<ColumnsLoader<PixelSource<T, false>, true>, MatrixLoader<T, false>, T> product = {};
  product.a = PixelsOfX(args, s);
  product.b = {args.filter, 1,         args.filters,
               1,           FilterSize(args, s), s.filters,
               RunsAligned(args.filter, {s.filters})};
  product.result = {args.y,    args.filters, s.filters, 0, s.outputs * args.filters,
                    s.filters, RunsAligned(args.y, {s.filters}), nullptr};
  product.rows = s.outputs;
  product.columns = s.filters;
  product.depth = s.taps * s.channels;
  product.examples = args.geometry.batch;
  product.groups = args.groups;
  return LaunchProduct(stream, product);
}

template <typename T>
int BackwardInput(CudaStream stream, const PerExampleArgs<T>& args) {
  Sizes s;
  if (!MakeSizes(args, &s)) return cudaErrorInvalidValue;
  Product<ColumnsLoader<PixelSource<T, true>, true>, MatrixLoader<T, true>, T> product = {};
  product.a = PixelsOfDy(args, s);
  product.b = {args.filter,         args.filters, s.channels * args.filters, s.filters,
               FilterSize(args, s), s.filters,    RunsAligned(args.filter, {s.filters})};
  product.result = {args.dx,    args.geometry.channels, s.channels,
                    0,          s.inputs * args.geometry.channels,
                    s.channels, RunsAligned(args.dx, {s.channels}), nullptr};
  product.rows = s.inputs;
  product.columns = s.channels;
  product.depth = s.taps * s.filters;
  product.examples = args.geometry.batch;
  product.groups = args.groups;
  return LaunchProduct(stream, product);
}

template <typename T>
DepthParts FilterParts(const PerExampleArgs<T>& args, const Sizes& s) {
  return MakeDepthParts(s.taps * s.channels, s.filters, s.outputs,
                        args.geometry.batch * args.groups);
}

template <typename T>
int BackwardFilter(CudaStream stream, const PerExampleArgs<T>& args, void* workspace) {
  Sizes s;
  if (!MakeSizes(args, &s)) return cudaErrorInvalidValue;
  if (s.inputs == 0) {  // nothing is summed, not even where dy is infinite
    return FillZeros(args.dfilter, args.geometry.batch * FilterSize(args, s), stream);
  }
  Product<ColumnsLoader<PixelSource<T, false>, false>, MatrixLoader<T, false>, T> product = {};
  product.a = PixelsOfX(args, s);
  product.b = {args.dy,    1, args.filters, 1, s.outputs * args.filters,
               s.filters,  RunsAligned(args.dy, {s.filters})};
  product.result = {args.dfilter, args.filters, s.filters, 0, FilterSize(args, s),
                    s.filters,    RunsAligned(args.dfilter, {s.filters}),
                    static_cast<Accumulator<T>*>(workspace)};
  product.rows = s.taps * s.channels;
  product.columns = s.filters;
  product.depth = s.outputs;
  product.examples = args.geometry.batch;
  product.groups = args.groups;
  return LaunchProduct(stream, product, FilterParts(args, s));
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchPerExample(CudaStream stream, const PerExampleArgs<T>& args) {
  return cuda::Convolve(stream, args);
}

template <typename T>
int LaunchPerExampleBackwardInput(CudaStream stream, const PerExampleArgs<T>& args) {
  return cuda::BackwardInput(stream, args);
}

template <typename T>
int LaunchPerExampleBackwardFilter(CudaStream stream, const PerExampleArgs<T>& args,
                                   void* workspace) {
  return cuda::BackwardFilter(stream, args, workspace);
}

template <typename T>
int64_t PerExampleBackwardFilterWorkspace(const PerExampleArgs<T>& args) {
  cuda::Sizes s;
  if (!cuda::MakeSizes(args, &s)) return 0;  // the launch fails
  const int64_t parts = cuda::FilterParts(args, s).count;
  const int64_t size = args.geometry.batch * cuda::FilterSize(args, s);
  return parts == 1 ? 0 : parts * size * static_cast<int64_t>(sizeof(Accumulator<T>));
}

#define TFCONV_INSTANTIATE(T)                                                             \
  template int LaunchPerExample(CudaStream, const PerExampleArgs<T>&);                     \
  template int LaunchPerExampleBackwardInput(CudaStream, const PerExampleArgs<T>&);        \
  template int LaunchPerExampleBackwardFilter(CudaStream, const PerExampleArgs<T>&, void*); \
  template int64_t PerExampleBackwardFilterWorkspace(const PerExampleArgs<T>&);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
