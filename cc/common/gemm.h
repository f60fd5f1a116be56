// Matrix product of a tile with a packed matrix.
//
// The second matrix is packed once into panels of a few columns and serves all tiles; the tile is
// read in place, one broadcast element at a time. Tiles have a row length known at compile time:
// then all rows of a block are addressed from one register.
#ifndef TFCONV_COMMON_GEMM_H_
#define TFCONV_COMMON_GEMM_H_

#include <stdint.h>
#include <string.h>

#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <typename T>
struct Gemm {
  static constexpr int kLanes = Simd<T>::kLanes;
  // Columns of a panel. The last panel has only kLanes if that is enough.
  static constexpr int kPanel = 2 * kLanes;
  // Rows whose sums are held in registers; the smaller block finishes what the larger leaves.
#if defined(__AVX512F__)
  static constexpr int kRows = 14;
  static constexpr int kFewRows = 8;
#elif defined(__AVX2__)
  static constexpr int kRows = 6;
  static constexpr int kFewRows = 4;
#elif defined(__aarch64__)
  static constexpr int kRows = 8;
  static constexpr int kFewRows = 4;
#else
  static constexpr int kRows = 6;
  static constexpr int kFewRows = 4;
#endif
  // Rows of a tile.
  static constexpr int kTileRows = kRows == 14 ? 112 : 96;
  // Elements of a tile's row that are used, and from one row to the next. The difference keeps the
  // rows apart in the cache.
  static constexpr int kTileColumns = 2048 / static_cast<int>(sizeof(T));
  static constexpr int kTileStride = kTileColumns + 64 / static_cast<int>(sizeof(T));
  // Inner length of one product, such that a panel and a block of rows stay in the first cache.
  static constexpr int kDepth = 768 / static_cast<int>(sizeof(T));

  static TFCONV_INLINE int64_t NumPanels(int64_t columns) { return CeilDiv(columns, kPanel); }
  static TFCONV_INLINE int64_t PanelWidth(int64_t columns, int64_t panel) {
    return columns - panel * kPanel > kLanes ? kPanel : kLanes;
  }
  // Elements of `columns` packed columns of length `depth`; panel p starts at p * depth * kPanel.
  static TFCONV_INLINE int64_t PackedSize(int64_t depth, int64_t columns) {
    return depth * RoundUp(columns, kLanes);
  }
};

// Copies columns [first, columns) of a row-major matrix into one panel.
template <typename From, typename T>
void PackPanel(const From* matrix, int64_t row_stride, int64_t depth, int64_t columns,
               int64_t first, int64_t width, T* panel) {
  using S = Simd<T>;
  const int64_t valid = Min(width, columns - first);
  for (int64_t k = 0; k < depth; ++k) {
    const From* row = matrix + k * row_stride + first;
    if (valid == width) {
      for (int64_t j = 0; j < width; j += S::kLanes) S::Store(panel + j, S::Load(row + j));
    } else {
      CopyElements(row, panel, valid);
      for (int64_t j = valid; j < width; ++j) panel[j] = 0;
    }
    panel += width;
  }
}

// Packs `depth` rows of a row-major matrix into panels of that length, row by row: matrices that are
// in no cache are read in the order in which they lie.
template <typename From, typename T>
void PackPanels(const From* matrix, int64_t row_stride, int64_t depth, int64_t columns, T* packed) {
  using G = Gemm<T>;
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
      const int64_t first = p * G::kPanel;
      const int64_t width = G::PanelWidth(columns, p);
      PackPanel(matrix + k * row_stride, row_stride, 1, columns, first, width,
                packed + first * depth + k * width);
    }
  }
}

// Packs the transpose of a row-major matrix [columns, rows] into one panel: panel[r * width + j] is
// its element [j, r].
template <typename From, typename T>
void PackTransposed(const From* matrix, int64_t row_stride, int64_t rows, int64_t columns,
                    int64_t width, T* panel) {
  using S = Simd<T>;
  for (int64_t r = 0; r < rows; r += S::kLanes) {
    const int64_t r_end = Min(rows, r + S::kLanes);
    for (int64_t j = 0; j < width; j += S::kLanes) {
      if (r_end - r == S::kLanes && j + S::kLanes <= columns) {
        typename S::Vec vectors[S::kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < S::kLanes; ++i) {
          vectors[i] = S::Load(matrix + (j + i) * row_stride + r);
        }
        S::Transpose(vectors);
#pragma GCC unroll 16
        for (int i = 0; i < S::kLanes; ++i) S::Store(panel + (r + i) * width + j, vectors[i]);
        continue;
      }
      for (int64_t k = j; k < j + S::kLanes; ++k) {
        for (int64_t i = r; i < r_end; ++i) {
          panel[i * width + k] = k < columns ? ToNumber(matrix[k * row_stride + i]) : T(0);
        }
      }
    }
  }
}

// What is multiplied: c[r, j] (+)= sum over i, k of a(r, i, k) * b[i * depth + k, j].
template <typename T>
struct Product {
  const T* a;
  int64_t repeats;        // i
  int64_t repeat_stride;  // of `a` along i
  int64_t depth;          // k
  T* c;
  int64_t c_stride;
  bool accumulate;
};

// One block of rows times one panel. a(r, k) is a[r * kTileStride + k], or with kTransposed
// a[k * kTileStride + r]. Rows and columns beyond the valid ones are computed and dropped.
template <typename T, int kRows, int kVecs, bool kTransposed>
void MultiplyBlock(const Product<T>& product, const T* a, const T* panel, T* c, int64_t rows,
                   int64_t columns) {
  using S = Simd<T>;
  using Vec = typename S::Vec;
  constexpr int kStride = Gemm<T>::kTileStride;
  Vec sum[kRows][kVecs] = {};
  for (int64_t i = 0; i < product.repeats; ++i) {
    const T* element = a + i * product.repeat_stride;
    for (int64_t k = 0; k < product.depth; ++k) {
      Vec b[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) b[v] = S::Load(panel + v * S::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const T factor = element[kTransposed ? r : r * kStride];
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) sum[r][v] += b[v] * factor;
      }
      panel += kVecs * S::kLanes;
      element += kTransposed ? kStride : 1;
    }
  }
  if (rows == kRows && columns == kVecs * S::kLanes) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      T* row = c + r * product.c_stride;
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        if (product.accumulate) sum[r][v] += S::Load(row + v * S::kLanes);
        S::Store(row + v * S::kLanes, sum[r][v]);
      }
    }
    return;
  }
  T buffer[kRows][kVecs * S::kLanes];
  memcpy(buffer, sum, sizeof(buffer));
  for (int64_t r = 0; r < rows; ++r) {
    T* row = c + r * product.c_stride;
    for (int64_t j = 0; j < columns; ++j) {
      row[j] = product.accumulate ? row[j] + buffer[r][j] : buffer[r][j];
    }
  }
}

template <typename T, int kVecs, bool kTransposed>
void MultiplyPanel(const Product<T>& product, int64_t rows, const T* panel, T* c, int64_t columns) {
  constexpr int kRows = Gemm<T>::kRows;
  constexpr int kFewRows = Gemm<T>::kFewRows;
  // As many small blocks as waste the fewest rows.
  int64_t few = 0;
  int64_t waste = kRows;
  for (int64_t n = 0; n <= kRows && (n - 1) * kFewRows < rows; ++n) {
    const int64_t left = Max<int64_t>(0, rows - n * kFewRows);
    const int64_t wasted = RoundUp(left, kRows) + n * kFewRows - rows;
    if (wasted < waste) {
      waste = wasted;
      few = n;
    }
  }
  const int64_t few_begin = Max<int64_t>(0, rows - few * kFewRows);
  int64_t r = 0;
  for (; r < few_begin; r += kRows) {
    MultiplyBlock<T, kRows, kVecs, kTransposed>(
        product, product.a + r * (kTransposed ? 1 : Gemm<T>::kTileStride), panel,
        c + r * product.c_stride, Min<int64_t>(kRows, few_begin - r), columns);
  }
  for (r = few_begin; r < rows; r += kFewRows) {
    MultiplyBlock<T, kFewRows, kVecs, kTransposed>(
        product, product.a + r * (kTransposed ? 1 : Gemm<T>::kTileStride), panel,
        c + r * product.c_stride, Min<int64_t>(kFewRows, rows - r), columns);
  }
}

// `b` are panels of matrices of length `panel_depth`, advanced to the first row that is used; the
// last panel may be narrower, its rows are then shorter as well: `b_row` is that first row.
template <typename T, bool kTransposed>
void Multiply(const Product<T>& product, int64_t rows, const T* b, int64_t panel_depth,
              int64_t b_row, int64_t columns) {
  using G = Gemm<T>;
  for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
    const int64_t first = p * G::kPanel;
    const int64_t width = G::PanelWidth(columns, p);
    const T* panel = b + first * panel_depth + b_row * width;
    const int64_t valid = Min(width, columns - first);
    if (width == G::kPanel) {
      MultiplyPanel<T, 2, kTransposed>(product, rows, panel, product.c + first, valid);
    } else {
      MultiplyPanel<T, 1, kTransposed>(product, rows, panel, product.c + first, valid);
    }
  }
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_GEMM_H_
