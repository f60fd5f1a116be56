// Where taps that are moved by offsets read in images of one to three axes: the corners of the cell
// that a position lies in, their weights in linear interpolation, and its derivatives.
//
// Axes are the op's own, the first one first. Bit kRank - 1 - axis of a corner's number says whether
// it is the far one along that axis.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_CORNERS_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_CORNERS_H_

#include <stdint.h>

#include "common/gemm.h"
#include "common/geometry.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <int kRank>
constexpr int kCorners = 1 << kRank;

// A rank that is known when the code is compiled: WithRank() calls visit(Rank<...>()).
template <int kValue>
struct Rank {
  static constexpr int value = kValue;
};
template <typename Visit>
TFCONV_INLINE void WithRank(int rank, const Visit& visit) {
  if (rank == 2) return visit(Rank<2>());
  if (rank == 3) return visit(Rank<3>());
  visit(Rank<1>());
}

inline int64_t NumTaps(const ConvGeometry& g) {
  return g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
}

inline int64_t ImagePositions(const ConvGeometry& g) {
  return g.axis[0].output * g.axis[1].output * g.axis[2].output;
}

inline int64_t ImagePixels(const ConvGeometry& g) {
  return g.axis[0].input * g.axis[1].input * g.axis[2].input;
}

// Axis `axis` of an operation of rank kRank.
template <int kRank>
TFCONV_INLINE const ConvAxis& AxisOf(const ConvGeometry& g, int axis) {
  return g.axis[kMaxSpatialAxes - kRank + axis];
}

// Consecutive output positions of all images.
template <typename T>
struct Tile {
  static constexpr int kRows = Gemm<T>::kTileRows;  // a multiple of all vectors' lanes

  int64_t first;  // position, counted over all images
  int64_t rows;
  // Where the first tap would be without an offset, along the geometry's axes, and the input image.
  T start[kMaxSpatialAxes][kRows];
  int64_t image[kRows];  // element offset
};

// Where one tap of one offset group samples, for all rows of a tile. A corner outside the image is
// absent: it is neither read nor written, and counts as zero.
template <typename T, int kRank>
struct Samples {
  static constexpr int kRows = Tile<T>::kRows;
  using Int = typename MaskType<T>::Type;

  T delta[kRank][kRows];  // distance from the near corner, in pixels; NaN if the position is
  T mask[kRows];
  T weight[kCorners<kRank>][kRows];  // with the mask
  Int present[kRows];                // bit c: corner c lies in the image
  Int near[kRank][kRows];            // pixel of the corner that is near along all axes
  int64_t first[kRows];              // its element offset; may lie outside of the tensor
};

template <typename T>
void PlaceTile(const ConvGeometry& g, int64_t first, int64_t rows, Tile<T>* tile) {
  tile->first = first;
  tile->rows = rows;
  const ConvAxis& last = g.axis[2];
  const int64_t image_size = ImagePixels(g) * g.channels;
  int64_t line = first / last.output;
  int64_t column = first % last.output;
  for (int64_t r = 0; r < rows; ++line, column = 0) {
    const int64_t end = Min(rows, r + last.output - column);
    const int64_t plane = line / g.axis[1].output;
    const T starts[] = {
        static_cast<T>(plane % g.axis[0].output * g.axis[0].stride - g.axis[0].pad),
        static_cast<T>(line % g.axis[1].output * g.axis[1].stride - g.axis[1].pad)};
    const int64_t image = plane / g.axis[0].output * image_size;
    for (; r < end; ++r, ++column) {
      tile->start[0][r] = starts[0];
      tile->start[1][r] = starts[1];
      tile->start[2][r] = static_cast<T>(column * last.stride - last.pad);
      tile->image[r] = image;
    }
  }
}

// Finds the corners and weights of one tap of one offset group. Offsets and, unless they are all 1,
// masks of the tile's first row are at `offset` and `mask`; those of the next one are kRank * stride
// and stride elements further.
template <int kRank, typename T>
void FindSamples(const ConvGeometry& g, const Tile<Accumulator<T>>& tile, int64_t tap,
                 const T* offset, const T* mask, int64_t stride,
                 Samples<Accumulator<T>, kRank>* s) {
  using Number = Accumulator<T>;
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  using SInt = Simd<typename Samples<Number, kRank>::Int>;
  using IntVec = typename SInt::Vec;
  using Int = typename SInt::Scalar;
  const int64_t rows = tile.rows;
  T offsets[kRank][Tile<Number>::kRows];
  for (int64_t r = 0; r < rows; ++r, offset += kRank * stride) {
    offsets[0][r] = offset[0];
    if constexpr (kRank > 1) offsets[1][r] = offset[1];
    if constexpr (kRank > 2) offsets[2][r] = offset[2];
  }
  if (mask != nullptr) {
    for (int64_t r = 0; r < rows; ++r) s->mask[r] = ToNumber(mask[r * stride]);
  } else {
    for (int64_t r = 0; r < rows; ++r) s->mask[r] = 1;
  }
  Number from_start[kRank];  // of the tap
  Int size[kRank];
  Vec size_end[kRank];
#pragma GCC unroll 3
  for (int i = kRank - 1; i >= 0; --i) {
    const ConvAxis& axis = AxisOf<kRank>(g, i);
    from_start[i] = static_cast<Number>((i > 0 ? tap % axis.kernel : tap) * axis.dilation);
    tap /= axis.kernel;
    size[i] = static_cast<Int>(axis.input);
    size_end[i] = Vec{} + static_cast<Number>(size[i]);
  }
  const Vec zero = {};
  // Lanes beyond the last row compute something that nobody reads.
  for (int64_t r = 0; r < rows; r += S::kLanes) {
    Vec position[kRank];
    IntVec touches = {}, defined = {};
    Vec undefined = {};  // NaN where a position is
#pragma GCC unroll 3
    for (int i = 0; i < kRank; ++i) {
      const Number* start = tile.start[kMaxSpatialAxes - kRank + i];
      const Vec p = S::Load(start + r) + from_start[i] + S::Load(offsets[i] + r);
      // Positions that touch no pixel, infinite ones included, are moved to the origin before they
      // become integers; so is NaN, for which all comparisons are false.
      const IntVec inside = (p >= Number(-1)) & (p < size_end[i]);
      touches = i == 0 ? inside : touches & inside;
      defined = i == 0 ? p == p : defined & (p == p);
      undefined = i == 0 ? p : undefined + p;
      position[i] = p;
    }
    Vec far[kRank];  // the weights of either side
    IntVec has_near[kRank], has_far[kRank];
#pragma GCC unroll 3
    for (int i = 0; i < kRank; ++i) {
      const Vec safe = touches ? position[i] : zero;
      const Vec floor = S::Floor(safe);
      const IntVec near = __builtin_convertvector(floor, IntVec);
      far[i] = defined ? safe - floor : undefined;
      S::Store(s->delta[i] + r, far[i]);
      SInt::Store(s->near[i] + r, near);
      // Above 2^24 pixels the ends are rounded in float32: integers decide what exists.
      has_near[i] = (near >= 0) & (near < size[i]);
      has_far[i] = near < size[i] - 1;
    }
    has_near[0] &= touches;
    has_far[0] &= touches;
    const Vec own_mask = S::Load(s->mask + r);
    IntVec present = {};
#pragma GCC unroll 8
    for (int c = 0; c < kCorners<kRank>; ++c) {
      Vec weight = {};
      IntVec has = {};
#pragma GCC unroll 3
      for (int i = 0; i < kRank; ++i) {
        const bool is_far = (c >> (kRank - 1 - i)) & 1;
        const Vec along = is_far ? far[i] : Number(1) - far[i];
        const IntVec in = is_far ? has_far[i] : has_near[i];
        weight = i == 0 ? along : weight * along;
        has = i == 0 ? in : has & in;
      }
      S::Store(s->weight[c] + r, weight * own_mask);
      present |= has & (Int(1) << c);
    }
    SInt::Store(s->present + r, present);
  }
  for (int64_t r = 0; r < rows; ++r) {
    int64_t pixel = s->near[0][r];
#pragma GCC unroll 2
    for (int i = 1; i < kRank; ++i) pixel = pixel * size[i] + s->near[i][r];
    s->first[r] = tile.image[r] + pixel * g.channels;
  }
}

// Elements from the nearest corner to each corner.
template <int kRank>
struct CornerShifts {
  TFCONV_INLINE explicit CornerShifts(const ConvGeometry& g) {
    int64_t stride = g.channels;
#pragma GCC unroll 3
    for (int bit = 0; bit < kRank; ++bit) {
      strides[bit] = stride;
      stride *= AxisOf<kRank>(g, kRank - 1 - bit).input;
    }
  }

  TFCONV_INLINE int64_t operator[](int corner) const {
    int64_t shift = 0;
#pragma GCC unroll 3
    for (int bit = 0; bit < kRank; ++bit) shift += (corner >> bit) & 1 ? strides[bit] : 0;
    return shift;
  }

  int64_t strides[kRank];
};

// The corners of one row of samples in `image`, which has the layout of x; `absent` where there is
// none.
template <typename T, int kRank, typename Element>
TFCONV_INLINE void FindCorners(const Samples<T, kRank>& s, int64_t r,
                               const CornerShifts<kRank>& shifts, Element* image, Element* absent,
                               Element** corner) {
  constexpr int kAll = (1 << kCorners<kRank>) - 1;
  const int present = static_cast<int>(s.present[r]);
  if (present == kAll) {
    Element* first = image + s.first[r];
#pragma GCC unroll 8
    for (int c = 0; c < kCorners<kRank>; ++c) corner[c] = first + shifts[c];
    return;
  }
  for (int c = 0; c < kCorners<kRank>; ++c) {
    corner[c] = (present >> c) & 1 ? image + (s.first[r] + shifts[c]) : absent;
  }
}

// The value between those of the corners, without the mask.
template <int kRank, typename T>
TFCONV_INLINE T Between(const T* values, const T* delta) {
  if constexpr (kRank == 0) {
    return values[0];
  } else {
    const T near = Between<kRank - 1>(values, delta + 1);
    const T far = Between<kRank - 1>(values + kCorners<kRank - 1>, delta + 1);
    return (1 - delta[0]) * near + delta[0] * far;
  }
}

// Its derivative along an axis. At integer positions it is that of the cell towards the far corners,
// which floor() has chosen.
template <int kRank, typename T>
TFCONV_INLINE T Slope(const T* values, const T* delta, int axis) {
  const int bit = kRank - 1 - axis;
  T differences[kCorners<kRank - 1>];
#pragma GCC unroll 4
  for (int i = 0; i < kCorners<kRank - 1>; ++i) {
    const int near = (i >> bit << (bit + 1)) | (i & ((1 << bit) - 1));
    differences[i] = values[near | (1 << bit)] - values[near];
  }
  if constexpr (kRank == 1) {
    return differences[0] + 0 * delta[0];  // NaN where the position is
  } else {
    T others[kRank - 1] = {};
    for (int i = 0; i + 1 < kRank; ++i) others[i] = delta[i < axis ? i : i + 1];
    return Between<kRank - 1>(differences, others);
  }
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_CORNERS_H_
