// Products of groups that are narrower than a vector: its lanes are columns of several groups, and
// rows are read as vectors, too. Panels would be mostly zeros.
//
// A group multiplies `depth` elements of a row by each of its `columns`. Lane l of a vector that
// begins with a whole group is of group l / columns and reads element l / columns * depth + k.
#ifndef TFCONV_COMMON_SMALL_GROUPS_H_
#define TFCONV_COMMON_SMALL_GROUPS_H_

#include <stdint.h>
#include <string.h>

#include "common/gemm.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <typename F>
class SmallGroups {
 public:
  using Number = Accumulator<F>;
  using S = Simd<Number>;
  using Vec = typename S::Vec;

  SmallGroups(int64_t depth, int64_t columns) : depth_(depth), columns_(columns) {
    for (int64_t k = 0; k < Min<int64_t>(depth, kMaxDepth); ++k) {
      for (int64_t l = 0; l < S::kLanes; ++l) {
        index_[k][l] = static_cast<typename S::Index>(l / columns * depth + k);
      }
    }
  }

  // Whether there is a kernel for them: what a vector's lanes read is in one vector.
  static bool Exist(int64_t groups, int64_t depth, int64_t columns) {
    return groups > 1 && columns < S::kLanes && S::kLanes % columns == 0 && depth <= columns &&
           (depth == 1 || depth == 2 || depth == 4 || depth == 8);
  }

  // Groups whose columns fill a vector.
  static int64_t InVector(int64_t columns) { return S::kLanes / columns; }

  // Elements from one row of weights to the next, for so many groups.
  int64_t WeightStride(int64_t groups) const { return RoundUp(groups * columns_, S::kLanes); }

  // For `rows` rows of a tile and all columns of `groups` groups,
  //   sums[r, j] (+)= sum over t, k of tile(r, t, group of j, k) * weights[t, k, j],
  // where elements of a tap are tap_stride apart from the next one's.
  void MultiplyRows(const F* tile, int64_t rows, int64_t groups, int64_t taps, int64_t tap_stride,
                    const Number* weights, int64_t weight_stride, bool accumulate, Number* sums,
                    int64_t stride) const {
    WithDepth([&](auto depth) {
      for (int64_t j = 0; j < groups * columns_; j += S::kLanes) {
        const int64_t lanes = Min<int64_t>(S::kLanes, groups * columns_ - j);
        const F* first = tile + j / columns_ * depth_;
        int64_t r = 0;
        for (; r + kRows <= rows; r += kRows) {
          MultiplyRowsOf<decltype(depth)::kValue, kRows>(
              first + r * kStride, taps, tap_stride, weights + j, weight_stride, accumulate,
              sums + r * stride + j, stride, lanes);
        }
        for (; r < rows; ++r) {
          MultiplyRowsOf<decltype(depth)::kValue, 1>(
              first + r * kStride, taps, tap_stride, weights + j, weight_stride, accumulate,
              sums + r * stride + j, stride, lanes);
        }
      }
    });
  }

  // For all taps, elements k of a group and its columns,
  //   sums[t, k, j] (+)= sum over rows of tile(r, t, group of j, k) * other[r, j],
  // where rows of sums are `stride` apart.
  template <typename T>
  void MultiplyColumns(const F* tile, int64_t rows, int64_t groups, int64_t taps,
                       int64_t tap_stride, const T* other, int64_t other_stride, bool accumulate,
                       Number* sums, int64_t stride) const {
    WithDepth([&](auto depth) {
      constexpr int kDepth = decltype(depth)::kValue;
      constexpr int kTaps = 8 / kDepth;
      for (int64_t j = 0; j < groups * columns_; j += S::kLanes) {
        const int64_t lanes = Min<int64_t>(S::kLanes, groups * columns_ - j);
        const F* first = tile + j / columns_ * depth_;
        int64_t t = 0;
        for (; t + kTaps <= taps; t += kTaps) {
          MultiplyColumnsOf<kDepth, kTaps>(first + t * tap_stride, rows, tap_stride, other + j,
                                           other_stride, accumulate,
                                           sums + t * kDepth * stride + j, stride, lanes);
        }
        for (; t < taps; ++t) {
          MultiplyColumnsOf<kDepth, 1>(first + t * tap_stride, rows, tap_stride, other + j,
                                       other_stride, accumulate, sums + t * kDepth * stride + j,
                                       stride, lanes);
        }
      }
    });
  }

 private:
  static constexpr int kMaxDepth = 8;
  static constexpr int64_t kStride = Gemm<F>::kTileStride;
  static constexpr int kRows = Gemm<F>::kRows == 14 ? 8 : 4;

  template <int kDepth>
  struct Depth {
    static constexpr int kValue = kDepth;
  };

  template <typename Body>
  TFCONV_INLINE void WithDepth(const Body& body) const {
    if (depth_ == 1) return body(Depth<1>());
    if (depth_ == 2) return body(Depth<2>());
    if (depth_ == 4) return body(Depth<4>());
    body(Depth<8>());
  }

  // Element k of each lane's group.
  template <int kDepth>
  TFCONV_INLINE Vec Pick(Vec v, int k) const {
    if constexpr (kDepth == 1) {
      if (columns_ == 1) return v;
    }
    return S::Permute(v, index_[k]);
  }

  template <typename U>
  static TFCONV_INLINE Vec LoadLanes(const U* p, int64_t lanes) {
    return lanes == S::kLanes ? S::Load(p) : S::LoadFirst(p, lanes);
  }

  static TFCONV_INLINE void StoreLanes(Number* p, Vec v, int64_t lanes) {
    if (lanes == S::kLanes) return S::Store(p, v);
    S::StoreFirst(p, v, lanes);
  }

  template <int kDepth, int kRowsOf>
  void MultiplyRowsOf(const F* tile, int64_t taps, int64_t tap_stride, const Number* weights,
                      int64_t weight_stride, bool accumulate, Number* sums, int64_t stride,
                      int64_t lanes) const {
    Vec sum[kRowsOf] = {};
    for (int64_t t = 0; t < taps; ++t) {
      Vec weight[kDepth];
      for (int k = 0; k < kDepth; ++k) weight[k] = S::Load(weights + k * weight_stride);
#pragma GCC unroll 8
      for (int r = 0; r < kRowsOf; ++r) {
        const Vec v = S::Load(tile + r * kStride);
#pragma GCC unroll 8
        for (int k = 0; k < kDepth; ++k) sum[r] += Pick<kDepth>(v, k) * weight[k];
      }
      tile += tap_stride;
      weights += kDepth * weight_stride;
    }
    for (int r = 0; r < kRowsOf; ++r) {
      if (accumulate) sum[r] += LoadLanes(sums + r * stride, lanes);
      StoreLanes(sums + r * stride, sum[r], lanes);
    }
  }

  template <int kDepth, int kTaps, typename T>
  void MultiplyColumnsOf(const F* tile, int64_t rows, int64_t tap_stride, const T* other,
                         int64_t other_stride, bool accumulate, Number* sums, int64_t stride,
                         int64_t lanes) const {
    Vec sum[kTaps][kDepth] = {};
    for (int64_t r = 0; r < rows; ++r) {
      const Vec factor = LoadLanes(other + r * other_stride, lanes);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        const Vec v = S::Load(tile + r * kStride + t * tap_stride);
#pragma GCC unroll 8
        for (int k = 0; k < kDepth; ++k) sum[t][k] += Pick<kDepth>(v, k) * factor;
      }
    }
    for (int i = 0; i < kTaps * kDepth; ++i) {
      Number* row = sums + i * stride;
      Vec result = sum[i / kDepth][i % kDepth];
      if (accumulate) result += LoadLanes(row, lanes);
      StoreLanes(row, result, lanes);
    }
  }

  int64_t depth_;
  int64_t columns_;
  typename S::Index index_[kMaxDepth][S::kLanes];
};

// Weights of one tap for the gradient of the rows: those of the groups, each [channels, filters]
// with rows row_stride apart, become `filters` rows with all channels.
template <typename T>
void TransposeGroups(const T* filter, int64_t row_stride, int64_t groups, int64_t channels,
                     int64_t filters, int64_t weight_stride, Accumulator<T>* weights) {
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t k = 0; k < channels; ++k) {
      for (int64_t j = 0; j < filters; ++j) {
        weights[j * weight_stride + g * channels + k] =
            ToNumber(filter[k * row_stride + g * filters + j]);
      }
    }
  }
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_SMALL_GROUPS_H_
