// The sums of local attention: products of one head's vector with those of its neighbours, the
// softmax, and sums of neighbours that it weighs.
#ifndef TFCONV_LOCAL_ATTENTION_WINDOW_SUMS_H_
#define TFCONV_LOCAL_ATTENTION_WINDOW_SUMS_H_

#include <stdint.h>

#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <typename Sum>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Bits = uint32_t;
  static constexpr float kRound = 0x1.8p23f;
  static constexpr float kLeast = -126.0f;
  static constexpr int kMantissa = 23;
  static constexpr int kDegree = 7;
};
template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLeast = -1022.0;
  static constexpr int kMantissa = 52;
  static constexpr int kDegree = 13;
};

constexpr double kLn2 = 0.69314718055994531;
constexpr double kLog2E = 1.4426950408889634;

// The coefficients of the series of 2^x.
struct Exp2Series {
  static constexpr int kTerms = 14;
  double term[kTerms];

  constexpr Exp2Series() : term() {
    term[0] = 1;
    for (int i = 1; i < kTerms; ++i) term[i] = term[i - 1] * kLn2 / i;
  }
};

// Two to the power of numbers that are not above 0, to about a unit in the last place; what would be
// subnormal is zero.
template <typename S>
TFCONV_INLINE typename S::Vec Exp2(typename S::Vec x) {
  using Sum = typename S::Scalar;
  using Vec = typename S::Vec;
  using C = ExpConstants<Sum>;
  using Bits = typename VectorType<typename C::Bits, S::kLanes>::Type;
  constexpr Exp2Series series;
  const Vec shifted = x + C::kRound;
  const Vec r = x - (shifted - C::kRound);
  // By pairs of terms, which do not wait for each other.
  const Vec square = r * r;
  Vec sum = {};
#pragma GCC unroll 16
  for (int i = C::kDegree - 1; i >= 0; i -= 2) {
    const Vec pair =
        r * static_cast<Sum>(series.term[i + 1]) + static_cast<Sum>(series.term[i]);
    sum = i == C::kDegree - 1 ? pair : sum * square + pair;
  }
  // Two to the power of the whole number, by its exponent.
  const Bits bits = BitCast<Bits>(shifted) - BitCast<Bits>(Vec{} + C::kRound);
  const Vec scale = BitCast<Vec>((bits << C::kMantissa) + BitCast<Bits>(Vec{} + Sum(1)));
  return x < C::kLeast ? Vec{} : sum * scale;
}

template <typename Sum>
Sum Infinity() {
  return static_cast<Sum>(__builtin_inf());
}

// The logarithm to base 2 of a number of at least 1, or NaN. Libraries' own would need newer ones than
// the wheels do.
template <typename Sum>
Sum Log2(Sum x) {
  using C = ExpConstants<Sum>;
  using Bits = typename C::Bits;
  if (!(x < Infinity<Sum>())) return x;
  // x = m * 2^exponent with m around 1: 2 atanh((m - 1) / (m + 1)) is its logarithm.
  const Bits bits = BitCast<Bits>(x);
  const Bits exponent = (bits - BitCast<Bits>(static_cast<Sum>(0.70710678))) >> C::kMantissa;
  const Sum m = BitCast<Sum>(static_cast<Bits>(bits - (exponent << C::kMantissa)));
  const Sum s = (m - 1) / (m + 1);
  Sum sum = 0;
  for (int i = 21; i > 0; i -= 2) sum = sum * s * s + 1 / static_cast<Sum>(i);
  return s * sum * static_cast<Sum>(2 * kLog2E) + static_cast<Sum>(exponent);
}

// The first `count` lanes of a vector; zeros in the others.
template <typename S, typename U>
TFCONV_INLINE typename S::Vec LoadPartial(const U* p, int64_t count) {
  using Vec [[maybe_unused]] = typename S::Vec;
#if defined(__AVX512F__)
  [[maybe_unused]] const unsigned mask = (1u << count) - 1;
  if constexpr (sizeof(U) == 4 && sizeof(Vec) == 64) {
    return BitCast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
  }
  if constexpr (sizeof(U) == 8 && sizeof(Vec) == 64) {
    return BitCast<Vec>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  }
  if constexpr (sizeof(U) == 4 && sizeof(Vec) == 32) {
    return BitCast<Vec>(_mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), p));
  }
  if constexpr (sizeof(U) == 8 && sizeof(Vec) == 32) {
    return BitCast<Vec>(_mm256_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(U) >= 4) {
    using Mask = typename MaskType<U>::Type;
    typename VectorType<Mask, S::kLanes>::Type mask;
    for (int i = 0; i < S::kLanes; ++i) mask[i] = i < count ? -1 : 0;
    if constexpr (sizeof(U) == 4) {
      return BitCast<Vec>(_mm256_maskload_ps(p, BitCast<__m256i>(mask)));
    } else {
      return BitCast<Vec>(_mm256_maskload_pd(p, BitCast<__m256i>(mask)));
    }
  }
#endif
  return S::LoadFirst(p, count);
}

// A vector of one head's channels from `p` on; the last may be partial.
template <typename S, bool kWhole, typename U>
TFCONV_INLINE typename S::Vec LoadChannels(const U* p, int64_t left) {
  if constexpr (!kWhole) {
    if (left < S::kLanes) return LoadPartial<S>(p, left);
  }
  return S::Load(p);
}

// The vector whose lane i is lane i ^ kBit of v.
template <typename S, int kBit, int... kIndex>
TFCONV_INLINE typename S::Vec Crossed(typename S::Vec v, Indices<kIndex...>) {
  return __builtin_shufflevector(v, v, (kIndex ^ kBit)...);
}

// The largest lane, or the sum of all, in every lane.
template <typename S, bool kLargest, int kBit = S::kLanes / 2>
TFCONV_INLINE typename S::Vec Reduced(typename S::Vec v) {
  const typename S::Vec w = Crossed<S, kBit>(v, typename MakeIndices<S::kLanes>::Type());
  if constexpr (kLargest) {
    v = w > v ? w : v;
  } else {
    v += w;
  }
  if constexpr (kBit > 1) {
    return Reduced<S, kLargest, kBit / 2>(v);
  } else {
    return v;
  }
}

// products[i] = sum_c rows[offsets[i] + c] * x[c], for kVectors vectors of channels or, if it is 0,
// `width` of them. Offsets, and room for products, go up to a whole vector.
template <typename S, bool kWhole, int kVectors, typename T>
void Products(const T* rows, const int64_t* offsets, int64_t count, const Accumulator<T>* x,
              int64_t width, Accumulator<T>* products) {
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  if constexpr (kVectors > 0) width = kVectors * kLanes;
  int64_t i = 0;
  // A few that are left over are summed one by one rather than as a vector of mostly others.
  for (; i + kLanes / 8 < count; i += kLanes) {
    const T* row[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) row[j] = rows + offsets[i + j];
    Vec sums[kLanes] = {};
#pragma GCC unroll 2
    for (int64_t c = 0; c < width; c += kLanes) {
      const Vec own = S::Load(x + c);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        sums[j] += LoadChannels<S, kWhole>(row[j] + c, width - c) * own;
      }
    }
    S::Store(products + i, S::SumLanes(sums));
  }
  for (; i < count; ++i) {
    Vec sum = {};
    for (int64_t c = 0; c < width; c += kLanes) {
      sum += LoadChannels<S, kWhole>(rows + offsets[i] + c, width - c) * S::Load(x + c);
    }
    products[i] = Reduced<S, false>(sum)[0];
  }
}

// result[c] = factor * sum_i weights[i] * rows[offsets[i] + c] for the channels of some vectors.
template <typename S, bool kWhole, int kVectors, typename T>
TFCONV_INLINE void WeighVectors(const T* rows, const int64_t* offsets, int64_t count,
                                const Accumulator<T>* weights, Accumulator<T> factor, int64_t left,
                                Accumulator<T>* result) {
  using Vec = typename S::Vec;
  constexpr int kSums = 4;
  Vec sums[kSums][kVectors] = {};
  const auto add = [&](int64_t i, Vec* sum) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = v * S::kLanes;
      sum[v] += LoadChannels<S, kWhole>(rows + offsets[i] + c, left - c) * weights[i];
    }
  };
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
#pragma GCC unroll 4
    for (int j = 0; j < kSums; ++j) add(i + j, sums[j]);
  }
  for (; i < count; ++i) add(i, sums[0]);
  for (int v = 0; v < kVectors; ++v) {
    S::Store(result + v * S::kLanes,
             ((sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v])) * factor);
  }
}

// The same for all channels, up to a whole vector.
template <typename S, bool kWhole, typename T>
void WeightedSum(const T* rows, const int64_t* offsets, int64_t count,
                 const Accumulator<T>* weights, Accumulator<T> factor, int64_t width,
                 Accumulator<T>* result) {
  int64_t c = 0;
  for (; c + 2 * S::kLanes <= width; c += 2 * S::kLanes) {
    WeighVectors<S, true, 2>(rows + c, offsets, count, weights, factor, width - c, result + c);
  }
  for (; c < width; c += S::kLanes) {
    WeighVectors<S, kWhole, 1>(rows + c, offsets, count, weights, factor, width - c, result + c);
  }
}

// Both, for heads of some width.
template <typename T>
struct WindowSums {
  using Sum = Accumulator<T>;

  void (*products)(const T*, const int64_t*, int64_t, const Sum*, int64_t, Sum*);
  void (*weighted)(const T*, const int64_t*, int64_t, const Sum*, Sum, int64_t, Sum*);

  // By the widest vector of which the channels are a multiple, if there is one. Products add up
  // lanes: no vector is wider there than 32 bytes, for that is less work. Sums take two vectors at a
  // time, which share their weights.
  static WindowSums Of(int64_t width) {
    constexpr int kBytes = kVecBytes < 32 ? kVecBytes : 32;
    using Narrow = Simd<Sum, kBytes>;
    const int64_t bytes = width * static_cast<int64_t>(sizeof(Sum));
    WindowSums sums = {Products<Narrow, false, 0, T>, WeightedSum<Simd<Sum>, false, T>};
    if (bytes % 16 == 0) {
      sums = {Products<Simd<Sum, 16>, true, 0, T>, WeightedSum<Simd<Sum, 16>, true, T>};
    }
    if (bytes % kBytes == 0) sums = {Products<Narrow, true, 0, T>, WeightedSum<Narrow, true, T>};
    if (bytes == 2 * kBytes) sums.products = Products<Narrow, true, 2, T>;
    if (bytes % (2 * kVecBytes) == 0) sums.weighted = WeightedSum<Simd<Sum>, true, T>;
    return sums;
  }
};

// Elements up to a whole vector of any type and size.
constexpr int64_t kWindowRoom = 16;

// A number in what follows `count` elements up to a whole vector.
template <typename Sum>
TFCONV_INLINE void FillTail(Sum* p, int64_t count, Sum value) {
  using S = Simd<Sum>;
  using Mask = typename MaskType<Sum>::Type;
  typename VectorType<Mask, S::kLanes>::Type lane;
  for (int i = 0; i < S::kLanes; ++i) lane[i] = i;
  const int64_t left = count % S::kLanes;
  if (left == 0) return;
  Sum* last = p + count - left;
  S::Store(last, lane < static_cast<Mask>(left) ? S::Load(last) : typename S::Vec{} + value);
}

// The largest of `count` numbers, whose tail is filled with the least.
template <typename Sum>
TFCONV_INLINE Sum Largest(const Sum* p, int64_t count) {
  using S = Simd<Sum>;
  typename S::Vec most = S::Load(p);
  for (int64_t i = S::kLanes; i < count; i += S::kLanes) {
    const typename S::Vec v = S::Load(p + i);
    most = v > most ? v : most;
  }
  return Reduced<S, true>(most)[0];
}

// Replaces `count` logits to base 2 by 2^(logit - most), up to a whole vector, and returns their sum.
template <typename Sum>
TFCONV_INLINE Sum Exponentials(Sum* p, int64_t count, Sum most) {
  using S = Simd<Sum>;
  typename S::Vec sum = {};
  for (int64_t i = 0; i < count; i += S::kLanes) {
    const typename S::Vec e = Exp2<S>(S::Load(p + i) - most);
    S::Store(p + i, e);
    sum += e;
  }
  return Reduced<S, false>(sum)[0];
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_WINDOW_SUMS_H_
