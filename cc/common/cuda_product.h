// Products of matrices of which the factors are computed while they are loaded: convolutions whose
// columns are never stored.
#ifndef TFCONV_COMMON_CUDA_PRODUCT_H_
#define TFCONV_COMMON_CUDA_PRODUCT_H_

#include <stdint.h>

#include <initializer_list>

#include "common/cuda_device.h"

namespace tfconv {
namespace cuda {

constexpr int kTile = 64;  // rows and columns of a block's part of the result
constexpr int kQuad = 4;   // rows and columns of a thread's part
constexpr int kPitch = kTile + kQuad;
constexpr int kSide = kTile / kQuad;  // threads along a side of the result

// The elements of a factor that a thread loads at once: 16 bytes, or 32 of double.
template <typename T>
constexpr int kRun = sizeof(T) == 2 ? 8 : 4;

// Depth of the factors' tiles in shared memory: every thread loads one run of each.
template <typename T>
constexpr int kDepth = kRun<T> * kThreads / kTile;
constexpr int64_t kMaxDepth = kDepth<Half>;

static_assert(kSide * kSide == kThreads, "");

// The factors are called A, with the rows of the result, and B, with its columns; both are "lines"
// here. A factor is given by a source, plain data for all products of a batch, and loaded by
//
//   Source::For(example, group)     the source of one product
//   Loader(source, lines, depth)    its ends
//   Start(line, d), Load(run), Advance()
//
// Load gets kRun elements, zeros beyond the ends: for kAlongDepth those of one line at successive
// depths, else those of successive lines. Advance moves on by kDepth.

// A matrix in memory. Element d of a line is at line * line_stride + d * depth_stride; for
// kAlongDepth, where d counts blocks of `width` elements, at
// line * line_stride + d / width * depth_stride + d % width.
template <typename T>
struct MatrixSource {
  const T* data;
  int64_t line_stride;
  int64_t depth_stride;
  int64_t width;
  int64_t example_stride;
  int64_t group_stride;
  bool aligned;  // whether runs are

  TFCONV_DEVICE MatrixSource For(int64_t example, int64_t group) const {
    MatrixSource source = *this;
    source.data += example * example_stride + group * group_stride;
    return source;
  }
};

template <typename T>
TFCONV_DEVICE void LoadRun(const T* data, int count, bool aligned, Accumulator<T>* run) {
  const Pack<T, kRun<T>> pack = Load<T, kRun<T>>(data, count, aligned);
#pragma unroll
  for (int i = 0; i < kRun<T>; ++i) run[i] = Widen(pack.value[i]);
}

template <typename T, bool kAlongDepth_>
class MatrixLoader {
 public:
  static constexpr bool kAlongDepth = kAlongDepth_;
  using Source = MatrixSource<T>;
  using Element = T;

  TFCONV_DEVICE MatrixLoader(const Source& source, int64_t lines, int64_t depth)
      : source_(source), lines_(lines), depth_(depth) {}

  TFCONV_DEVICE void Start(int64_t line, int64_t d) {
    line_ = line;
    d_ = d;
    block_ = kAlongDepth ? d / source_.width : 0;
    within_ = kAlongDepth ? d % source_.width : 0;
  }

  TFCONV_DEVICE void Load(Accumulator<T>* run) const {
    if constexpr (!kAlongDepth) {
      const int64_t count = d_ < depth_ ? Min<int64_t>(kRun<T>, lines_ - line_) : 0;
      LoadRun(source_.data + d_ * source_.depth_stride + line_, static_cast<int>(count),
               source_.aligned, run);
      return;
    }
    const T* line = source_.data + line_ * source_.line_stride;
    const int64_t count = line_ < lines_ ? Min<int64_t>(kRun<T>, depth_ - d_) : 0;
    if (within_ + count <= source_.width) {
      LoadRun(line + block_ * source_.depth_stride + within_, static_cast<int>(count),
               source_.aligned, run);
      return;
    }
    int64_t block = block_;
    int64_t within = within_;
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) {
      run[i] = i < count ? Widen(line[block * source_.depth_stride + within]) : Accumulator<T>(0);
      if (++within < source_.width) continue;
      within = 0;
      ++block;
    }
  }

  TFCONV_DEVICE void Advance() {
    d_ += kDepth<T>;
    if constexpr (kAlongDepth) {
      for (within_ += kDepth<T>; within_ >= source_.width; within_ -= source_.width) ++block_;
    }
  }

 private:
  Source source_;
  int64_t lines_;
  int64_t depth_;
  int64_t line_ = 0;
  int64_t d_ = 0;
  int64_t block_ = 0;
  int64_t within_ = 0;
};

// A position of one side, counted over all images.
struct Position {
  int64_t image;
  int d;
  int h;
  int w;
};

// A tap, and a channel of a group.
struct TapChannel {
  int i;
  int j;
  int k;
  int channel;
};

// The columns of a convolution: a row for each position, in it the pixels under all taps. A source
// of it has
//
//   Element                     the type of the tensors
//   int depth, height, width    positions of an image
//   Axes axes; int channels     taps of the axes, channels of a group
//   bool aligned                runs have neighbouring channels, and may be loaded at once
//   Get(position, tap, count, run)
//
// where Get is called with a count of 1 unless runs are aligned.
template <typename Source_, bool kAlongDepth_>
class ColumnsLoader {
 public:
  static constexpr bool kAlongDepth = kAlongDepth_;
  using Source = Source_;
  using Element = typename Source::Element;
  using Acc = Accumulator<Element>;

  TFCONV_DEVICE ColumnsLoader(const Source& source, int64_t lines, int64_t depth)
      : source_(source), lines_(lines), depth_(depth) {}

  TFCONV_DEVICE void Start(int64_t line, int64_t d) {
    line_ = line;
    d_ = d;
    int64_t p = kAlongDepth ? line : d;
    position_.w = static_cast<int>(p % source_.width);
    p /= source_.width;
    position_.h = static_cast<int>(p % source_.height);
    p /= source_.height;
    position_.d = static_cast<int>(p % source_.depth);
    position_.image = p / source_.depth;
    int64_t t = kAlongDepth ? d : line;
    tap_.channel = static_cast<int>(t % source_.channels);
    t /= source_.channels;
    tap_.k = static_cast<int>(t % source_.axes.axis[2].kernel);
    t /= source_.axes.axis[2].kernel;
    tap_.j = static_cast<int>(t % source_.axes.axis[1].kernel);
    tap_.i = static_cast<int>(t / source_.axes.axis[1].kernel);
  }

  TFCONV_DEVICE void Load(Acc* run) const {
    int64_t left = kAlongDepth ? depth_ - d_ : lines_ - line_;
    if (kAlongDepth ? line_ >= lines_ : d_ >= depth_) left = 0;
    const int count = static_cast<int>(Max<int64_t>(0, Min<int64_t>(kRun<Element>, left)));
    if (source_.aligned) return source_.Get(position_, tap_, count, run);
    TapChannel tap = tap_;
#pragma unroll
    for (int i = 0; i < kRun<Element>; ++i) {
      Acc one[kRun<Element>] = {};
      if (i < count) source_.Get(position_, tap, 1, one);
      run[i] = one[0];
      MoveTap(1, &tap);
    }
  }

  TFCONV_DEVICE void Advance() {
    d_ += kDepth<Element>;
    if constexpr (kAlongDepth) {
      MoveTap(kDepth<Element>, &tap_);
    } else {
      for (position_.w += kDepth<Element>; position_.w >= source_.width;
           position_.w -= source_.width) {
        if (++position_.h < source_.height) continue;
        position_.h = 0;
        if (++position_.d < source_.depth) continue;
        position_.d = 0;
        ++position_.image;
      }
    }
  }

 private:
  TFCONV_DEVICE void MoveTap(int channels, TapChannel* tap) const {
    for (tap->channel += channels; tap->channel >= source_.channels;
         tap->channel -= source_.channels) {
      if (++tap->k < source_.axes.axis[2].kernel) continue;
      tap->k = 0;
      if (++tap->j < source_.axes.axis[1].kernel) continue;
      tap->j = 0;
      ++tap->i;
    }
  }

  Source source_;
  int64_t lines_;
  int64_t depth_;
  int64_t line_ = 0;
  int64_t d_ = 0;
  Position position_ = {};
  TapChannel tap_ = {};
};

// Where a product goes: element (row, column) to
// data + row * row_stride + column / width * block_stride + column % width; with several parts of
// the depth in the same order, but dense, to partial.
template <typename T>
struct Result {
  T* data;
  int64_t row_stride;
  int64_t width;
  int64_t block_stride;
  int64_t example_stride;
  int64_t group_stride;
  bool aligned;  // whether quads are
  Accumulator<T>* partial;
};

// A batch of products, one for each example and group.
template <typename A, typename B, typename T>
struct Product {
  typename A::Source a;
  typename B::Source b;
  Result<T> result;
  int64_t rows;
  int64_t columns;
  int64_t depth;
  int64_t examples;
  int64_t groups;
  int64_t parts;       // that the depth is cut into
  int64_t part_depth;  // a multiple of kMaxDepth
};

// Two blocks at a time on a multiprocessor, so that one loads while the other multiplies.
template <typename A, typename B, typename T>
__global__ void __launch_bounds__(kThreads, 2) ProductKernel(Product<A, B, T> product) {
  using Acc = Accumulator<T>;
  constexpr int kCount = kRun<typename A::Element>;
  constexpr int kStep = kDepth<typename A::Element>;
  constexpr int kLines = kTile / kCount;  // threads along the lines, where a run has several
  constexpr int kRuns = kStep / kCount;   // threads along the depth, where a run has one
  TFCONV_SHARED(Acc, a_tile, kStep * kPitch);
  TFCONV_SHARED(Acc, b_tile, kStep * kPitch);
  const int thread = static_cast<int>(threadIdx.x);
  // Where the thread's runs of the factors belong.
  const int a_line = A::kAlongDepth ? thread / kRuns : thread % kLines * kCount;
  const int a_depth = A::kAlongDepth ? thread % kRuns * kCount : thread / kLines;
  const int b_line = B::kAlongDepth ? thread / kRuns : thread % kLines * kCount;
  const int b_depth = B::kAlongDepth ? thread % kRuns * kCount : thread / kLines;
  // And its part of the result.
  const int own_row = thread / kSide * kQuad;
  const int own_column = thread % kSide * kQuad;
  const int64_t row_tiles = CeilDiv<int64_t>(product.rows, kTile);
  const int64_t column_tiles = CeilDiv<int64_t>(product.columns, kTile);
  const int64_t units =
      product.examples * product.groups * product.parts * row_tiles * column_tiles;

  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    int64_t rest = unit;
    const int64_t column_begin = rest % column_tiles * kTile;
    rest /= column_tiles;
    const int64_t row_begin = rest % row_tiles * kTile;
    rest /= row_tiles;
    const int64_t part = rest % product.parts;
    rest /= product.parts;
    const int64_t group = rest % product.groups;
    const int64_t example = rest / product.groups;
    const int64_t begin = part * product.part_depth;
    const int64_t end = Min(product.depth, begin + product.part_depth);

    Acc sum[kQuad][kQuad] = {};
    if (begin < end) {
      A a(product.a.For(example, group), product.rows, end);
      B b(product.b.For(example, group), product.columns, end);
      a.Start(row_begin + a_line, begin + a_depth);
      b.Start(column_begin + b_line, begin + b_depth);
      // Each turn multiplies the tiles that the turn before has stored, and loads meanwhile.
      for (int64_t d = begin - kStep; d < end; d += kStep) {
        const bool more = d + kStep < end;
        Acc a_run[kCount];
        Acc b_run[kCount];
        if (more) {
          a.Load(a_run);
          b.Load(b_run);
          a.Advance();
          b.Advance();
        }
        if (d >= begin) {
#pragma unroll 8
          for (int k = 0; k < kStep; ++k) {
            const auto a_part = Load<Acc, kQuad>(a_tile + k * kPitch + own_row, kQuad, true);
            const auto b_part = Load<Acc, kQuad>(b_tile + k * kPitch + own_column, kQuad, true);
#pragma unroll
            for (int i = 0; i < kQuad; ++i) {
#pragma unroll
              for (int j = 0; j < kQuad; ++j) sum[i][j] += a_part.value[i] * b_part.value[j];
            }
          }
        }
        __syncthreads();
        if (more) {
#pragma unroll
          for (int i = 0; i < kCount; ++i) {
            a_tile[A::kAlongDepth ? (a_depth + i) * kPitch + a_line
                                  : a_depth * kPitch + a_line + i] = a_run[i];
            b_tile[B::kAlongDepth ? (b_depth + i) * kPitch + b_line
                                  : b_depth * kPitch + b_line + i] = b_run[i];
          }
        }
        __syncthreads();
      }
    }

    const Result<T>& result = product.result;
    const int64_t column = column_begin + own_column;
    const int count = static_cast<int>(Min<int64_t>(kQuad, product.columns - column));
    T* base = result.data + example * result.example_stride + group * result.group_stride;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const int64_t row = row_begin + own_row + i;
      if (row >= product.rows || count <= 0) continue;
      if (product.parts > 1) {
        const int64_t products = product.examples * product.groups;
        const int64_t index = (part * products + example * product.groups + group) * product.rows;
        Acc* to = result.partial + (index + row) * product.columns + column;
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          if (j < count) to[j] = sum[i][j];
        }
        continue;
      }
      T* to = base + row * result.row_stride;
      if (result.aligned) {
        to += column / result.width * result.block_stride + column % result.width;
        Store<T, kQuad>(to, sum[i], count, true);
        continue;
      }
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const int64_t c = column + j;
        if (j < count) {
          to[c / result.width * result.block_stride + c % result.width] = Narrow<T>(sum[i][j]);
        }
      }
    }
  }
}

// Adds the parts up, in their order.
template <typename T>
struct PartSum {
  Result<T> result;
  int64_t rows;
  int64_t columns;
  int64_t groups;
  int64_t parts;
  int64_t size;  // elements of a part
};

template <typename T>
__global__ void __launch_bounds__(kThreads) PartSumKernel(PartSum<T> s) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.size;
       i += step) {
    Accumulator<T> sum = 0;
    for (int64_t part = 0; part < s.parts; ++part) sum += s.result.partial[part * s.size + i];
    const int64_t column = i % s.columns;
    int64_t rest = i / s.columns;
    const int64_t row = rest % s.rows;
    rest /= s.rows;
    s.result.data[rest / s.groups * s.result.example_stride +
                  rest % s.groups * s.result.group_stride + row * s.result.row_stride + column] =
        Narrow<T>(sum);
  }
}

// Few products of great depth are cut, so that there are blocks enough for a GPU. Depends on the
// sizes only: results do not depend on the device.
struct DepthParts {
  int64_t count;
  int64_t depth;
};

inline DepthParts MakeDepthParts(int64_t rows, int64_t columns, int64_t depth, int64_t products) {
  constexpr int64_t kWantedBlocks = 512;
  constexpr int64_t kMinDepth = 512;
  const int64_t blocks =
      Max<int64_t>(1, CeilDiv<int64_t>(rows, kTile) * CeilDiv<int64_t>(columns, kTile) * products);
  const int64_t wanted = Min(CeilDiv(kWantedBlocks, blocks), CeilDiv(depth, kMinDepth));
  const int64_t part = CeilDiv(CeilDiv(depth, Max<int64_t>(1, wanted)), kMaxDepth) * kMaxDepth;
  return {Max<int64_t>(1, CeilDiv(depth, Max<int64_t>(1, part))), part};
}

// Computes all products; `parts` as from MakeDepthParts, with partial sums if there are several.
template <typename A, typename B, typename T>
int LaunchProduct(CudaStream stream, Product<A, B, T> product, const DepthParts& parts) {
  product.parts = parts.count;
  product.part_depth = parts.depth;
  const int64_t products = product.examples * product.groups;
  const int64_t tiles =
      CeilDiv<int64_t>(product.rows, kTile) * CeilDiv<int64_t>(product.columns, kTile);
  if (int error = Launch(ProductKernel<A, B, T>, products * parts.count * tiles, stream, product)) {
    return error;
  }
  if (parts.count == 1) return cudaSuccess;
  const int64_t size = products * product.rows * product.columns;
  const PartSum<T> sum = {product.result, product.rows, product.columns,
                          product.groups, parts.count,  size};
  return Launch(PartSumKernel<T>, CeilDiv<int64_t>(size, kThreads), stream, sum);
}

template <typename A, typename B, typename T>
int LaunchProduct(CudaStream stream, const Product<A, B, T>& product) {
  return LaunchProduct(stream, product, {1, CeilDiv(product.depth, kMaxDepth) * kMaxDepth});
}

// Whether runs of matrices of these strides lie on their alignment.
template <typename T>
bool RunsAligned(const T* data, std::initializer_list<int64_t> strides) {
  for (const int64_t stride : strides) {
    if (stride % kRun<T> != 0) return false;
  }
  return IsAligned<T, kRun<T>>(data);
}

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_COMMON_CUDA_PRODUCT_H_
