// Matrix product of a tile with a packed matrix.
//
// The second matrix is packed once into panels of a few columns and serves all tiles; the tile is
// read in place, one broadcast element at a time. Tiles have a row length known at compile time:
// then all rows of a block are addressed from one register.
//
// Factors are float32 or float64 or, where the processor has dot instructions, bfloat16: then two
// neighbours along the depth are one element of 32 bits, and what is odd ends with a zero.
#ifndef TFCONV_COMMON_GEMM_H_
#define TFCONV_COMMON_GEMM_H_

#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// The type of the factors of tensors of T.
template <typename T>
struct FactorType {
  using Type = Accumulator<T>;
};
#if defined(TFCONV_HAS_DOT)
template <>
struct FactorType<Bfloat16> {
  using Type = Bfloat16;
};
#endif
template <typename T>
using Factor = typename FactorType<T>::Type;

template <typename F>
struct Gemm {
  using Number = Accumulator<F>;
  static constexpr int kLanes = Simd<Number>::kLanes;
  // Neighbours along the depth that are multiplied together.
  static constexpr int kPair = static_cast<int>(sizeof(Number) / sizeof(F));
  // Columns of a panel. The last panel has only kLanes if that is enough.
  static constexpr int kPanel = 2 * kLanes;
  // Rows whose sums are held in registers; the smaller block finishes what the larger leaves.
#if defined(__AVX512F__) || defined(TFCONV_HAS_DOT)
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
  static constexpr int kTileColumns = 2048 / static_cast<int>(sizeof(F));
  static constexpr int kTileStride = kTileColumns + 64 / static_cast<int>(sizeof(F));
  static constexpr int kTileSize = kTileRows * kTileStride;
  // Inner length of one product, such that a panel and a block of rows stay in the first cache.
  static constexpr int kDepth = 768 / static_cast<int>(sizeof(F));

  static TFCONV_INLINE int64_t NumPanels(int64_t columns) { return CeilDiv(columns, kPanel); }
  static TFCONV_INLINE int64_t PanelWidth(int64_t columns, int64_t panel) {
    return columns - panel * kPanel > kLanes ? kPanel : kLanes;
  }
  // Elements of `columns` packed columns of length `depth`; panel p starts at p * kPanel times the
  // depth in whole pairs.
  static TFCONV_INLINE int64_t PackedDepth(int64_t depth) { return RoundUp(depth, kPair); }
  static TFCONV_INLINE int64_t PackedSize(int64_t depth, int64_t columns) {
    return PackedDepth(depth) * RoundUp(columns, kLanes);
  }
};

// Two rows with their elements in turn. Without a second row it counts as zero.
inline void InterleaveRows(const Bfloat16* row, const Bfloat16* next, int64_t count,
                           Bfloat16* out) {
  using S = Simd<float>;
  int64_t j = 0;
  if (next != nullptr) {
    for (; j + S::kLanes <= count; j += S::kLanes) S::StorePairs(out + 2 * j, row + j, next + j);
  }
  for (; j < count; ++j) {
    out[2 * j] = row[j];
    out[2 * j + 1] = next != nullptr ? next[j] : Bfloat16{0};
  }
}

// Copies columns [first, columns) of a row-major matrix into one panel.
template <typename From, typename F>
void PackPanel(const From* matrix, int64_t row_stride, int64_t depth, int64_t columns,
               int64_t first, int64_t width, F* panel) {
  using S = Simd<Accumulator<F>>;
  constexpr int kPair = Gemm<F>::kPair;
  const int64_t valid = Min(width, columns - first);
  for (int64_t k = 0; k < depth; k += kPair) {
    const From* row = matrix + k * row_stride + first;
    if constexpr (kPair == 2) {
      InterleaveRows(row, k + 1 < depth ? row + row_stride : nullptr, valid, panel);
      for (int64_t j = 2 * valid; j < 2 * width; ++j) panel[j] = F{0};
    } else if (valid == width) {
      for (int64_t j = 0; j < width; j += S::kLanes) S::Store(panel + j, S::Load(row + j));
    } else {
      CopyElements(row, panel, valid);
      for (int64_t j = valid; j < width; ++j) panel[j] = 0;
    }
    panel += width * kPair;
  }
}

// Packs `depth` rows of a row-major matrix into panels of that length, row by row: matrices that are
// in no cache are read in the order in which they lie.
template <typename From, typename F>
void PackPanels(const From* matrix, int64_t row_stride, int64_t depth, int64_t columns, F* packed) {
  using G = Gemm<F>;
  const int64_t panel_depth = G::PackedDepth(depth);
  for (int64_t k = 0; k < depth; k += G::kPair) {
    for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
      const int64_t first = p * G::kPanel;
      const int64_t width = G::PanelWidth(columns, p);
      PackPanel(matrix + k * row_stride, row_stride, Min<int64_t>(G::kPair, depth - k), columns,
                first, width, packed + first * panel_depth + k * width);
    }
  }
}

// Packs the transpose of a row-major matrix [columns, rows] into one panel: row r of it is column r
// of the matrix.
template <typename From, typename F>
void PackTransposed(const From* matrix, int64_t row_stride, int64_t rows, int64_t columns,
                    int64_t width, F* panel) {
  using S = Simd<Accumulator<F>>;
  constexpr int kPair = Gemm<F>::kPair;
  constexpr int64_t kStep = S::kLanes * kPair;
  for (int64_t r = 0; r < rows; r += kStep) {
    const int64_t r_end = Min(rows, r + kStep);
    for (int64_t j = 0; j < width; j += S::kLanes) {
      if (r_end - r == kStep && j + S::kLanes <= columns) {
        typename S::Vec vectors[S::kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < S::kLanes; ++i) {
          const From* row = matrix + (j + i) * row_stride + r;
          if constexpr (kPair == 2) {
            memcpy(vectors + i, row, sizeof(vectors[i]));  // the pairs as they lie
          } else {
            vectors[i] = S::Load(row);
          }
        }
        S::Transpose(vectors);
        F* first = panel + r * width + j * kPair;
#pragma GCC unroll 16
        for (int i = 0; i < S::kLanes; ++i) {
          memcpy(first + i * width * kPair, vectors + i, sizeof(vectors[i]));
        }
        continue;
      }
      for (int64_t k = j; k < j + S::kLanes; ++k) {
        for (int64_t i = r; i < RoundUp(r_end, kPair); ++i) {
          F* element = panel + i / kPair * kPair * width + k * kPair + i % kPair;
          if (k >= columns || i >= rows) {
            *element = F{};
          } else if constexpr (kPair == 2) {
            *element = matrix[k * row_stride + i];
          } else {
            *element = ToNumber(matrix[k * row_stride + i]);
          }
        }
      }
    }
  }
}

// What is multiplied: c[r, j] (+)= sum over i, k of a(r, i, k) * b[i * depth + k, j]. With pairs,
// depth is a whole number of them.
template <typename F>
struct Product {
  const F* a;
  int64_t repeats;        // i
  int64_t repeat_stride;  // of `a` along i
  int64_t depth;          // k
  Accumulator<F>* c;
  int64_t c_stride;
  bool accumulate;
};

// sum + a * b, where `a` is one element for all lanes.
template <typename F, typename Vec>
TFCONV_INLINE Vec MultiplyAdd(Vec sum, const F* a, Vec b) {
  if constexpr (Gemm<F>::kPair == 1) {
    return sum + b * *a;
  } else {
    uint32_t pair;
    memcpy(&pair, a, sizeof(pair));
#if defined(__AVX512BF16__)
    return BitCast<Vec>(_mm512_dpbf16_ps(BitCast<__m512>(sum), BitCast<__m512bh>(b),
                                         BitCast<__m512bh>(_mm512_set1_epi32(pair))));
#else
    // The second of a pair first, as the instruction does.
    using Bits = typename VectorType<uint32_t, sizeof(Vec) / sizeof(uint32_t)>::Type;
    const Bits bits = BitCast<Bits>(b);
    sum += BitCast<Vec>(bits & 0xffff0000u) * BitCast<float>(pair & 0xffff0000u);
    return sum + BitCast<Vec>(bits << 16) * BitCast<float>(pair << 16);
#endif
  }
}

// One block of rows times one panel. a(r, k) is a[r * kTileStride + k], or with kTransposed
// a[k * kTileStride + r], where pairs of rows are interleaved. Rows and columns beyond the valid
// ones are computed and dropped.
template <typename F, int kRows, int kVecs, bool kTransposed>
void MultiplyBlock(const Product<F>& product, const F* a, const F* panel, Accumulator<F>* c,
                   int64_t rows, int64_t columns) {
  using Number = Accumulator<F>;
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  constexpr int kPair = Gemm<F>::kPair;
  constexpr int kStride = Gemm<F>::kTileStride;
  Vec sum[kRows][kVecs] = {};
  for (int64_t i = 0; i < product.repeats; ++i) {
    const F* element = a + i * product.repeat_stride;
    for (int64_t k = 0; k < product.depth; k += kPair) {
      Vec b[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) memcpy(b + v, panel + v * S::kLanes * kPair, sizeof(Vec));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const F* factor = element + r * (kTransposed ? kPair : kStride);
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) sum[r][v] = MultiplyAdd(sum[r][v], factor, b[v]);
      }
      panel += kVecs * S::kLanes * kPair;
      element += kTransposed ? kStride * kPair : kPair;
    }
  }
  if (rows == kRows && columns == kVecs * S::kLanes) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Number* row = c + r * product.c_stride;
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        if (product.accumulate) sum[r][v] += S::Load(row + v * S::kLanes);
        S::Store(row + v * S::kLanes, sum[r][v]);
      }
    }
    return;
  }
  Number buffer[kRows][kVecs * S::kLanes];
  memcpy(buffer, sum, sizeof(buffer));
  for (int64_t r = 0; r < rows; ++r) {
    Number* row = c + r * product.c_stride;
    for (int64_t j = 0; j < columns; ++j) {
      row[j] = product.accumulate ? row[j] + buffer[r][j] : buffer[r][j];
    }
  }
}

template <typename F, int kVecs, bool kTransposed>
void MultiplyPanel(const Product<F>& product, int64_t rows, const F* panel, Accumulator<F>* c,
                   int64_t columns) {
  using G = Gemm<F>;
  constexpr int kRows = G::kRows;
  constexpr int kFewRows = G::kFewRows;
  constexpr int kStep = kTransposed ? G::kPair : G::kTileStride;  // from row to row
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
    MultiplyBlock<F, kRows, kVecs, kTransposed>(product, product.a + r * kStep, panel,
                                                c + r * product.c_stride,
                                                Min<int64_t>(kRows, few_begin - r), columns);
  }
  for (r = few_begin; r < rows; r += kFewRows) {
    MultiplyBlock<F, kFewRows, kVecs, kTransposed>(product, product.a + r * kStep, panel,
                                                   c + r * product.c_stride,
                                                   Min<int64_t>(kFewRows, rows - r), columns);
  }
}

// `b` are panels of matrices of length `panel_depth`, advanced to the first row that is used; the
// last panel may be narrower, its rows are then shorter as well: `b_row` is that first row.
template <typename F, bool kTransposed>
void Multiply(const Product<F>& product, int64_t rows, const F* b, int64_t panel_depth,
              int64_t b_row, int64_t columns) {
  using G = Gemm<F>;
  for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
    const int64_t first = p * G::kPanel;
    const int64_t width = G::PanelWidth(columns, p);
    const F* panel = b + first * G::PackedDepth(panel_depth) + b_row * width;
    const int64_t valid = Min(width, columns - first);
    if (width == G::kPanel) {
      MultiplyPanel<F, 2, kTransposed>(product, rows, panel, product.c + first, valid);
    } else {
      MultiplyPanel<F, 1, kTransposed>(product, rows, panel, product.c + first, valid);
    }
  }
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_GEMM_H_
