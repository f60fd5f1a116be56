// Bilinear sampling of tiles of output positions.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_SAMPLING_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_SAMPLING_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/product.h"
#include "common/vec.h"
#include "deformable/deformable_kernel.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Consecutive output positions of all images.
template <typename T>
struct Tile {
  static constexpr int kRows = Gemm<T>::kTileRows;  // a multiple of all vectors' lanes

  int64_t first;  // position, counted over all images
  int64_t rows;
  // Input row and column where the first tap would be without an offset, and the input image.
  T y[kRows];
  T x[kRows];
  int64_t image[kRows];  // element offset
};

enum Corner { kTopLeft, kTopRight, kBottomLeft, kBottomRight, kNumCorners };

// Where one tap of one offset group samples, for all rows of a tile. A corner outside the image is
// absent: it is neither read nor written, and counts as zero.
template <typename T>
struct Samples {
  static constexpr int kRows = Tile<T>::kRows;
  using Int = typename MaskType<T>::Type;

  T dy[kRows];  // distance from the top left corner, in pixels; NaN if the position is
  T dx[kRows];
  T mask[kRows];
  T weight[kNumCorners][kRows];  // with the mask
  Int present[kRows];            // bit c: corner c lies in the image
  Int top[kRows];                // pixel of the top left corner
  Int left[kRows];
  int64_t top_left[kRows];  // its element offset; may lie outside of the tensor
};

inline int64_t NumTaps(const ConvGeometry& g) { return g.axis[1].kernel * g.axis[2].kernel; }

inline int64_t ImagePositions(const ConvGeometry& g) { return g.axis[1].output * g.axis[2].output; }

template <typename T>
int64_t Positions(const DeformableArgs<T>& args) {
  return args.geometry.batch * ImagePositions(args.geometry);
}

// Cycles to sample one channel of one tap, or to spread it, for the scheduler.
template <typename T>
constexpr double SampleCycles() {
  return 4.0 * sizeof(Accumulator<T>) / kVecBytes;
}

// Calls visit(offset_group, begin, end) for the parts of channels [begin, end) that share offsets.
template <typename T, typename Visit>
TFCONV_INLINE void ForEachOffsetGroup(const DeformableArgs<T>& args, int64_t begin, int64_t end,
                                      const Visit& visit) {
  const int64_t size = args.geometry.channels / args.offset_groups;
  while (begin < end) {
    const int64_t group = begin / size;
    const int64_t next = Min(end, (group + 1) * size);
    visit(group, begin, next);
    begin = next;
  }
}

template <typename T>
void PlaceTile(const ConvGeometry& g, int64_t first, int64_t rows, Tile<T>* tile) {
  const ConvAxis& h = g.axis[1];
  const ConvAxis& w = g.axis[2];
  tile->first = first;
  tile->rows = rows;
  const int64_t line = first / w.output;
  int64_t column = first % w.output;
  int64_t row = line % h.output;
  int64_t image = line / h.output;
  for (int64_t r = 0; r < rows; ++r) {
    tile->y[r] = static_cast<T>(row * h.stride - h.pad);
    tile->x[r] = static_cast<T>(column * w.stride - w.pad);
    tile->image[r] = image * h.input * w.input * g.channels;
    if (++column < w.output) continue;
    column = 0;
    if (++row < h.output) continue;
    row = 0;
    ++image;
  }
}

// Finds the corners and weights of one tap of one offset group.
template <typename T>
void FindSamples(const DeformableArgs<T>& args, const Tile<Accumulator<T>>& tile, int64_t tap,
                 int64_t offset_group, Samples<Accumulator<T>>* s) {
  using Number = Accumulator<T>;
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  using SInt = Simd<typename Samples<Number>::Int>;
  using IntVec = typename SInt::Vec;
  using Int = typename SInt::Scalar;
  const ConvGeometry& g = args.geometry;
  const int64_t rows = tile.rows;
  const int64_t taps = NumTaps(g);
  const int64_t stride = args.offset_groups * taps;
  const int64_t first = tile.first * stride + offset_group * taps + tap;
  const T* offset = args.offset + 2 * first;
  T offset_y[Samples<Number>::kRows];
  T offset_x[Samples<Number>::kRows];
  for (int64_t r = 0; r < rows; ++r) {
    offset_y[r] = offset[2 * r * stride];
    offset_x[r] = offset[2 * r * stride + 1];
  }
  if (args.mask != nullptr) {
    for (int64_t r = 0; r < rows; ++r) s->mask[r] = ToNumber(args.mask[first + r * stride]);
  } else {
    for (int64_t r = 0; r < rows; ++r) s->mask[r] = 1;
  }
  const Number tap_y = static_cast<Number>(tap / g.axis[2].kernel * g.axis[1].dilation);
  const Number tap_x = static_cast<Number>(tap % g.axis[2].kernel * g.axis[2].dilation);
  const Int height = static_cast<Int>(g.axis[1].input);
  const Int width = static_cast<Int>(g.axis[2].input);
  const Vec height_end = Vec{} + static_cast<Number>(height);
  const Vec width_end = Vec{} + static_cast<Number>(width);
  const Vec zero = {};
  // Lanes beyond the last row compute something that nobody reads.
  for (int64_t r = 0; r < rows; r += S::kLanes) {
    const Vec y = S::Load(tile.y + r) + tap_y + S::Load(offset_y + r);
    const Vec x = S::Load(tile.x + r) + tap_x + S::Load(offset_x + r);
    // Positions that touch no pixel, infinite ones included, are moved to the origin before they
    // become integers; so is NaN, for which all comparisons are false.
    const IntVec touches = (y >= Number(-1)) & (y < height_end) & (x >= Number(-1)) &
                            (x < width_end);
    const Vec safe_y = touches ? y : zero;
    const Vec safe_x = touches ? x : zero;
    IntVec top = __builtin_convertvector(safe_y, IntVec);
    IntVec left = __builtin_convertvector(safe_x, IntVec);
    // Conversion truncates; a true comparison is -1.
    top += __builtin_convertvector(top, Vec) > safe_y;
    left += __builtin_convertvector(left, Vec) > safe_x;
    const IntVec defined = (y == y) & (x == x);
    const Vec undefined = y + x;  // NaN
    const Vec dy = defined ? safe_y - __builtin_convertvector(top, Vec) : undefined;
    const Vec dx = defined ? safe_x - __builtin_convertvector(left, Vec) : undefined;
    const Vec mask = S::Load(s->mask + r);
    S::Store(s->dy + r, dy);
    S::Store(s->dx + r, dx);
    S::Store(s->weight[kTopLeft] + r, (Number(1) - dy) * (Number(1) - dx) * mask);
    S::Store(s->weight[kTopRight] + r, (Number(1) - dy) * dx * mask);
    S::Store(s->weight[kBottomLeft] + r, dy * (Number(1) - dx) * mask);
    S::Store(s->weight[kBottomRight] + r, dy * dx * mask);
    SInt::Store(s->top + r, top);
    SInt::Store(s->left + r, left);
    // Above 2^24 pixels the ends are rounded in float32: integers decide what exists.
    const IntVec has_top = touches & (top >= 0) & (top < height);
    const IntVec has_bottom = touches & (top < height - 1);
    const IntVec has_left = (left >= 0) & (left < width);
    const IntVec has_right = left < width - 1;
    SInt::Store(s->present + r, (has_top & has_left & (Int(1) << kTopLeft)) |
                                    (has_top & has_right & (Int(1) << kTopRight)) |
                                    (has_bottom & has_left & (Int(1) << kBottomLeft)) |
                                    (has_bottom & has_right & (Int(1) << kBottomRight)));
  }
  for (int64_t r = 0; r < rows; ++r) {
    s->top_left[r] =
        tile.image[r] + (static_cast<int64_t>(s->top[r]) * width + s->left[r]) * g.channels;
  }
}

constexpr int kAllCorners = (1 << kNumCorners) - 1;

// The corners of one row of samples in `image`, which has the layout of x; `absent` where there is
// none.
template <typename T, typename Element>
TFCONV_INLINE void FindCorners(const Samples<T>& s, int64_t r, int64_t pixel_stride,
                               int64_t line_stride, Element* image, Element* absent,
                               Element** corner) {
  const int present = static_cast<int>(s.present[r]);
  if (present == kAllCorners) {
    Element* top_left = image + s.top_left[r];
    corner[kTopLeft] = top_left;
    corner[kTopRight] = top_left + pixel_stride;
    corner[kBottomLeft] = top_left + line_stride;
    corner[kBottomRight] = top_left + line_stride + pixel_stride;
    return;
  }
  for (int c = 0; c < kNumCorners; ++c) {
    const int64_t shift = (c & 1 ? pixel_stride : 0) + (c & 2 ? line_stride : 0);
    corner[c] = (present >> c) & 1 ? image + (s.top_left[r] + shift) : absent;
  }
}

template <typename T>
TFCONV_INLINE void SetWeights(const Samples<T>& s, int64_t r, T* weight) {
  for (int c = 0; c < kNumCorners; ++c) weight[c] = s.weight[c][r];
}

template <typename S, typename T, typename Out>
TFCONV_INLINE int64_t Interpolate(const T* const* corner, const typename S::Scalar* weight,
                                  int64_t c, int64_t end, Out* out) {
  for (; c + S::kLanes <= end; c += S::kLanes) {
    typename S::Vec sum = S::Load(corner[kTopLeft] + c) * weight[kTopLeft];
    sum += S::Load(corner[kTopRight] + c) * weight[kTopRight];
    sum += S::Load(corner[kBottomLeft] + c) * weight[kBottomLeft];
    sum += S::Load(corner[kBottomRight] + c) * weight[kBottomRight];
    S::Store(out + c, sum);
  }
  return c;
}

// Channels [begin, end) of one set of samples; row r goes to out + r * out_stride.
template <typename Number, typename Out>
struct SampleJob {
  const Samples<Number>* samples;
  int64_t begin;
  int64_t end;
  Out* out;
};

template <typename T, typename Out>
TFCONV_INLINE void SampleRow(const DeformableArgs<T>& args,
                             const SampleJob<Accumulator<T>, Out>& job, int64_t r,
                             const T* zeros, Out* out) {
  using Number = Accumulator<T>;
  const int64_t pixel_stride = args.geometry.channels;
  const int64_t line_stride = pixel_stride * args.geometry.axis[2].input;
  const T* corner[kNumCorners];
  Number weight[kNumCorners];
  FindCorners(*job.samples, r, pixel_stride, line_stride, args.x, zeros, corner);
  SetWeights(*job.samples, r, weight);
  for (int i = 0; i < kNumCorners; ++i) corner[i] += job.begin;
  const int64_t count = job.end - job.begin;
  int64_t c = Interpolate<Simd<Number>>(corner, weight, 0, count, out);
  if constexpr (kVecBytes > 32) c = Interpolate<Simd<Number, 32>>(corner, weight, c, count, out);
  if constexpr (kVecBytes > 16) c = Interpolate<Simd<Number, 16>>(corner, weight, c, count, out);
  for (; c < count; ++c) {
    Number sum = ToNumber(corner[kTopLeft][c]) * weight[kTopLeft];
    sum += ToNumber(corner[kTopRight][c]) * weight[kTopRight];
    sum += ToNumber(corner[kBottomLeft][c]) * weight[kBottomLeft];
    sum += ToNumber(corner[kBottomRight][c]) * weight[kBottomRight];
    StoreNumber(out + c, sum);
  }
}

// Samples a tile. A few taps are collected and then sampled together, position by position: taps of
// one position, and of its neighbours, read the same pixels while the first cache holds them.
template <typename T, typename Out>
class Sampler {
 public:
  Sampler(const DeformableArgs<T>& args, Arena* arena)
      : args_(args),
        tile_(arena->Take<Tile<Number>>(1)),
        samples_(arena->Take<Samples<Number>>(kMaxJobs)),
        zeros_(arena->Take<T>(args.geometry.channels)) {}

  // Before first use.
  void Clear() {
    memset(zeros_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(T));
    tile_->rows = 0;
  }

  void StartTile(int64_t first, int64_t rows, int64_t out_stride) {
    out_stride_ = out_stride;
    if (tile_->rows == rows && tile_->first == first) return;
    PlaceTile(args_.geometry, first, rows, tile_);
  }

  // Channels [begin, end) of a tap, to be written to out + row * out_stride by Finish at last.
  void Add(int64_t tap, int64_t begin, int64_t end, Out* out) {
    ForEachOffsetGroup(args_, begin, end, [&](int64_t group, int64_t c, int64_t c_end) {
      if (num_jobs_ == kMaxJobs) Finish();
      Samples<Number>* samples = samples_ + num_jobs_;
      FindSamples(args_, *tile_, tap, group, samples);
      jobs_[num_jobs_++] = {samples, c, c_end, out + (c - begin)};
    });
  }

  void Finish() {
    for (int64_t r = 0; r < tile_->rows; ++r) {
      for (int i = 0; i < num_jobs_; ++i) {
        SampleRow(args_, jobs_[i], r, static_cast<const T*>(zeros_),
                  jobs_[i].out + r * out_stride_);
      }
    }
    num_jobs_ = 0;
  }

 private:
  using Number = Accumulator<T>;
  static constexpr int kMaxJobs = 4;

  const DeformableArgs<T>& args_;
  Tile<Number>* tile_;
  Samples<Number>* samples_;
  T* zeros_;
  int64_t out_stride_ = 0;
  SampleJob<Number, Out> jobs_[kMaxJobs];
  int num_jobs_ = 0;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_SAMPLING_H_
