// The convolution: columns of some images at a time, and products.
#include <stdint.h>

#include "deformable/deformable_cuda.h"
#include "deformable/deformable_device.h"
#include "deformable/deformable_images.h"

namespace tfconv {
namespace cuda {
namespace {

// Sizes of the products.
template <typename T>
struct Sizes {
  explicit Sizes(const DeformableArgs<T>& args)
      : rank(args.rank) {
    for (const ConvAxis& axis : args.geometry.axis) {
      positions *= axis.output;
      taps *= axis.kernel;
      pixels *= axis.input;
    }
    samples = positions * args.offset_groups * taps;
    depth = taps * (args.geometry.channels / args.groups);
  }

  int64_t rank;
  int64_t positions = 1;
  int64_t taps = 1;
  int64_t pixels = 1;
  int64_t samples;  // of an image
  int64_t depth;    // of a group's columns
};

template <typename T>
struct Pieces {
  Pieces(const DeformableArgs<T>& args, int64_t images, void* memory) : workspace(memory) {
    const Sizes<T> sizes(args);
    lists = workspace.Take<char>(SampleGradientsWorkspace(args, images));
    if (args.dcolumns != nullptr) return;
    columns = workspace.Take<T>(images * sizes.positions * sizes.taps * args.geometry.channels);
    if (args.dfilter == nullptr || images >= args.geometry.batch) return;
    part = workspace.Take<T>(sizes.depth * args.filters);
    total = workspace.Take<Accumulator<T>>(sizes.depth * args.filters);
  }

  Workspace workspace;
  char* lists = nullptr;
  T* columns = nullptr;  // or their gradient
  T* part = nullptr;     // of dfilter, from some images
  Accumulator<T>* total = nullptr;
};

template <typename T>
struct PartSum {
  int64_t size;
  bool is_first;
  const T* part;
  Accumulator<T>* total;
  T* result;  // null until all parts are there
};

template <typename T>
__global__ void __launch_bounds__(kThreads) PartSumKernel(PartSum<T> s) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= s.size) return;
  const Accumulator<T> sum = Widen(s.part[i]) + (s.is_first ? 0 : s.total[i]);
  s.total[i] = sum;
  if (s.result != nullptr) s.result[i] = Narrow<T>(sum);
}

template <typename T>
int LaunchPartSum(CudaStream stream, const DeformableArgs<T>& args, const Pieces<T>& pieces,
                  int64_t size, bool is_first, bool is_last) {
  const PartSum<T> sum = {size, is_first, pieces.part, pieces.total,
                          is_last ? args.dfilter : nullptr};
  return Launch(PartSumKernel<T>, {CeilDiv<int64_t>(size, kThreads), 1, 1}, stream, sum);
}

template <typename T>
ConvProducts<T> MakeProducts(const Multiplier<T>& multiply, const DeformableArgs<T>& args,
                             const Sizes<T>& sizes) {
  return {multiply,    args.geometry.batch * sizes.positions, sizes.depth, args.filters,
          args.groups, 1};
}

template <typename T>
int Convolve(CudaStream stream, const DeformableArgs<T>& args, const Multiplier<T>& multiply,
             int64_t images, void* workspace) {
  const Sizes<T> sizes(args);
  const Pieces<T> pieces(args, images, workspace);
  const int64_t batch = args.geometry.batch;
  if (sizes.depth == 0) {
    return FillZeros(args.y, batch * sizes.positions * args.filters, stream);
  }
  if (sizes.positions * args.filters == 0) return cudaSuccess;
  for (int64_t first = 0; first < batch; first += images) {
    DeformableArgs<T> some = ImagesOf(args, first, Min(images, batch - first));
    some.columns = pieces.columns;
    if (int error = LaunchDeformableSample(stream, some)) return error;
    const ConvProducts<T> products = MakeProducts(multiply, some, sizes);
    if (int error = products.Forward(some.columns, some.filter, some.y)) return error;
  }
  return cudaSuccess;
}

template <typename T>
int Backward(CudaStream stream, const DeformableArgs<T>& args, const Multiplier<T>& multiply,
             int64_t images, void* workspace) {
  const Sizes<T> sizes(args);
  const Pieces<T> pieces(args, images, workspace);
  const int64_t batch = args.geometry.batch;
  const bool is_conv = args.dcolumns == nullptr;
  const int64_t filter_size = is_conv ? sizes.depth * args.filters : 0;
  if (batch * sizes.samples * args.geometry.channels == 0 || (is_conv && filter_size == 0)) {
    // Nothing is summed, not even where offsets are NaN.
    const int64_t size = batch * sizes.pixels * args.geometry.channels;
    if (int error = FillZeros(args.dx, size, stream)) return error;
    if (int error = FillZeros(args.doffset, sizes.rank * batch * sizes.samples, stream)) return error;
    if (int error = FillZeros(args.dmask, batch * sizes.samples, stream)) return error;
    return FillZeros(args.dfilter, filter_size, stream);
  }
  for (int64_t first = 0; first < batch; first += images) {
    DeformableArgs<T> some = ImagesOf(args, first, Min(images, batch - first));
    if (is_conv) {
      const ConvProducts<T> products = MakeProducts(multiply, some, sizes);
      if (args.dfilter != nullptr) {
        some.columns = pieces.columns;
        T* const dfilter = pieces.part != nullptr ? pieces.part : args.dfilter;
        if (int error = LaunchDeformableSample(stream, some)) return error;
        if (int error = products.BackwardFilter(some.columns, some.dy, dfilter)) return error;
      }
      if (pieces.part != nullptr) {
        const bool is_last = first + images >= batch;
        if (int error = LaunchPartSum(stream, args, pieces, filter_size, first == 0, is_last)) {
          return error;
        }
      }
      if (args.dx == nullptr && args.doffset == nullptr && args.dmask == nullptr) continue;
      some.dcolumns = pieces.columns;
      if (int error = products.BackwardColumns(some.dy, some.filter, pieces.columns)) return error;
    }
    if (int error = LaunchSampleGradients(stream, some, pieces.lists)) return error;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchDeformableConv(CudaStream stream, const DeformableArgs<T>& args,
                         const Multiplier<T>& multiply, int64_t images, void* workspace) {
  return cuda::Convolve(stream, args, multiply, images, workspace);
}

template <typename T>
int LaunchDeformableBackward(CudaStream stream, const DeformableArgs<T>& args,
                             const Multiplier<T>& multiply, int64_t images, void* workspace) {
  return cuda::Backward(stream, args, multiply, images, workspace);
}

template <typename T>
int64_t DeformableWorkspace(const DeformableArgs<T>& args, int64_t images) {
  return cuda::Pieces<T>(args, images, nullptr).workspace.used();
}

#define TFCONV_INSTANTIATE(T)                                                                    \
  template int LaunchDeformableConv(CudaStream, const DeformableArgs<T>&, const Multiplier<T>&,   \
                                    int64_t, void*);                                              \
  template int LaunchDeformableBackward(CudaStream, const DeformableArgs<T>&,                     \
                                        const Multiplier<T>&, int64_t, void*);                    \
  template int64_t DeformableWorkspace(const DeformableArgs<T>&, int64_t);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
