// The left factor of a convolution as a matrix product: a row for each position, in it the pixels
// under all taps. Never formed as a whole, but copied tile by tile.
#ifndef TFCONV_PER_EXAMPLE_PIXEL_GRID_H_
#define TFCONV_PER_EXAMPLE_PIXEL_GRID_H_

#include <stdint.h>
#include <string.h>

#include "common/gemm.h"
#include "common/geometry.h"
#include "common/product.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Along one axis, position i and tap j read pixel first + i * step + j * tap_step, which is zero
// outside of [0, size).
struct GridAxis {
  int64_t size;
  int64_t positions;
  int64_t taps;
  int64_t first;
  int64_t step;
  int64_t tap_step;
};

// Positions and taps are counted row by row, the last axis fastest.
template <typename T>
struct PixelGrid {
  const T* image;
  int64_t channels;  // elements from one pixel to the next
  GridAxis axis[kMaxSpatialAxes];
};

template <typename T>
int64_t NumPositions(const PixelGrid<T>& grid) {
  return grid.axis[0].positions * grid.axis[1].positions * grid.axis[2].positions;
}

template <typename T>
int64_t NumGridTaps(const PixelGrid<T>& grid) {
  return grid.axis[0].taps * grid.axis[1].taps * grid.axis[2].taps;
}

template <typename T>
TFCONV_INLINE void ClearElements(T* to, int64_t count) {
  memset(to, 0, static_cast<size_t>(count) * sizeof(T));
}

// Positions [begin, end) of an axis at which a tap reads a pixel of the image.
struct Interval {
  int64_t begin;
  int64_t end;
};

TFCONV_INLINE Interval Inside(const GridAxis& axis, int64_t tap) {
  const int64_t first = axis.first + tap * axis.tap_step;
  Interval inside;
  inside.begin = first >= 0 ? 0 : Min(axis.positions, CeilDiv(-first, axis.step));
  const int64_t left = axis.size - first;
  inside.end = left <= 0 ? 0 : Min(axis.positions, CeilDiv(left, axis.step));
  inside.end = Max(inside.begin, inside.end);
  return inside;
}

// Copies `count` elements of the pixels under one tap, or under several taps that read neighbouring
// pixels, at `positions` along the last axis; zeros outside of `inside`. Position i reads the image
// from element `start + i * pixel_step` on.
template <typename T, typename F>
TFCONV_INLINE void CopyPixels(const T* image, int64_t start, int64_t pixel_step, Interval inside,
                              Interval positions, int64_t count, F* row) {
  constexpr int64_t kStride = Gemm<F>::kTileStride;
  int64_t i = positions.begin;
  for (; i < Min(inside.begin, positions.end); ++i, row += kStride) ClearElements(row, count);
  for (; i < Min(inside.end, positions.end); ++i, row += kStride) {
    CopyElements(image + (start + i * pixel_step), row, count);
  }
  for (; i < positions.end; ++i, row += kStride) ClearElements(row, count);
}

// Copies a part of the matrix into a tile: rows [row, row_end), and of each the pixels' channels
// [c, c_end) under the taps [tap, tap_end).
template <typename T, typename F>
void CopyTileOfGrid(const PixelGrid<T>& grid, int64_t row, int64_t row_end, int64_t tap,
                    int64_t tap_end, int64_t c, int64_t c_end, F* tile) {
  constexpr int64_t kStride = Gemm<F>::kTileStride;
  const GridAxis& plane = grid.axis[0];
  const GridAxis& line = grid.axis[1];
  const GridAxis& last = grid.axis[2];
  const int64_t width = c_end - c;
  const int64_t pixel_step = last.step * grid.channels;
  // Neighbouring taps may read neighbouring pixels: then they are copied together.
  const bool adjacent = last.tap_step == 1 && width == grid.channels;
  for (int64_t done = tap; done < tap_end;) {
    const int64_t k = done % last.taps;
    const int64_t j = done / last.taps % line.taps;
    const int64_t i = done / last.taps / line.taps;
    const int64_t together = adjacent ? Min(last.taps - k, tap_end - done) : 1;
    F* column = tile + (done - tap) * width;
    done += together;
    const int64_t last_first = last.first + k * last.tap_step;
    Interval inside = Inside(last, k);
    if (together > 1) {
      // At which the last of them is inside as well. The rest is copied tap by tap.
      const Interval other = Inside(last, k + together - 1);
      inside.begin = Max(inside.begin, other.begin);
      inside.end = Max(inside.begin, Min(inside.end, other.end));
    }
    for (int64_t r = row; r < row_end;) {
      const int64_t p = r % last.positions;
      const int64_t q = r / last.positions;
      Interval positions = {p, Min(last.positions, p + row_end - r)};
      const int64_t y = line.first + q % line.positions * line.step + j * line.tap_step;
      const int64_t z = plane.first + q / line.positions * plane.step + i * plane.tap_step;
      const bool outside = y < 0 || y >= line.size || z < 0 || z >= plane.size;
      F* to = column + (r - row) * kStride;
      r += positions.end - positions.begin;
      if (outside) {
        CopyPixels(grid.image, 0, 0, {positions.end, positions.end}, positions, together * width,
                   to);
        continue;
      }
      const int64_t start = ((z * line.size + y) * last.size + last_first) * grid.channels + c;
      if (together == 1) {
        CopyPixels(grid.image, start, pixel_step, inside, positions, width, to);
        continue;
      }
      const auto one_by_one = [&](Interval some) {
        if (some.begin >= some.end) return;
        for (int64_t t = 0; t < together; ++t) {
          CopyPixels(grid.image, start + t * grid.channels, pixel_step, Inside(last, k + t), some,
                     width, to + (some.begin - p) * kStride + t * width);
        }
      };
      const Interval all = {Max(p, Min(inside.begin, positions.end)),
                            Max(p, Min(inside.end, positions.end))};
      one_by_one({p, all.begin});
      CopyPixels(grid.image, start, pixel_step, all, all, together * width,
                 to + (all.begin - p) * kStride);
      one_by_one({all.end, positions.end});
    }
  }
}

// A source of rows for common/product.h.
template <typename T>
struct GridRows {
  PixelGrid<T> grid;
  int64_t channels;  // of a group

  template <typename F>
  void Fill(int64_t row, int64_t row_end, const DepthBlock& block, F* tile) const {
    const int64_t first = block.group * channels + block.channel;
    const int64_t count = block.groups() * block.channels();
    CopyTileOfGrid(grid, row, row_end, block.tap, block.tap_end, first, first + count, tile);
  }
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_PER_EXAMPLE_PIXEL_GRID_H_
