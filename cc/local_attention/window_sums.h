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
  static constexpr float kLn2High = 0x1.63p-1f;  // times a whole number it is exact
  static constexpr float kLn2Low = -0x1.bd0106p-13f;
  static constexpr float kLeast = -87.0f;
  static constexpr float kMost = 88.0f;
  static constexpr int kMantissa = 23;
  static constexpr int kDegree = 7;
};
template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42feep-1;
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kLeast = -708.0;
  static constexpr double kMost = 709.0;
  static constexpr int kMantissa = 52;
  static constexpr int kDegree = 13;
};

// The exponential function to about a unit in the last place; what would be subnormal is zero.
template <typename S>
TFCONV_INLINE typename S::Vec Exp(typename S::Vec x) {
  using Sum = typename S::Scalar;
  using Vec = typename S::Vec;
  using C = ExpConstants<Sum>;
  using Bits = typename VectorType<typename C::Bits, S::kLanes>::Type;
  constexpr double kInverse[] = {1.0,          1.0,           1.0 / 2,         1.0 / 6,
                                 1.0 / 24,     1.0 / 120,     1.0 / 720,       1.0 / 5040,
                                 1.0 / 40320,  1.0 / 362880,  1.0 / 3628800,   1.0 / 39916800,
                                 1.0 / 479001600, 1.0 / 6227020800};
  const Vec bounded = x > C::kMost ? Vec{} + C::kMost : x;
  const Vec shifted = bounded * static_cast<Sum>(1.4426950408889634) + C::kRound;
  const Vec n = shifted - C::kRound;
  const Vec r = (bounded - n * C::kLn2High) - n * C::kLn2Low;
  // By pairs of terms, which do not wait for each other.
  const Vec square = r * r;
  Vec sum = {};
#pragma GCC unroll 16
  for (int i = C::kDegree - 1; i >= 0; i -= 2) {
    const Vec pair = r * static_cast<Sum>(kInverse[i + 1]) + static_cast<Sum>(kInverse[i]);
    sum = i == C::kDegree - 1 ? pair : sum * square + pair;
  }
  // Two to the power of n, by its exponent.
  const Bits bits = BitCast<Bits>(shifted) - BitCast<Bits>(Vec{} + C::kRound);
  const Vec scale = BitCast<Vec>((bits << C::kMantissa) + BitCast<Bits>(Vec{} + Sum(1)));
  return x < C::kLeast ? Vec{} : sum * scale;
}

template <typename Sum>
Sum Infinity() {
  return static_cast<Sum>(__builtin_inf());
}

// The natural logarithm of a number of at least 1, or NaN. Libraries' own need newer ones than they
// are linked with elsewhere.
template <typename Sum>
Sum Log(Sum x) {
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
  return 2 * s * sum + static_cast<Sum>(exponent) * static_cast<Sum>(0.69314718055994531);
}

// The first `count` lanes of the widest vector; zeros in the others.
template <typename S, typename U>
TFCONV_INLINE typename S::Vec LoadPartial(const U* p, int64_t count) {
#if defined(__AVX512F__)
  const unsigned mask = (1u << count) - 1;
  if constexpr (sizeof(U) == 4) {
    return BitCast<typename S::Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
  }
  if constexpr (sizeof(U) == 8) {
    return BitCast<typename S::Vec>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(U) >= 4) {
    using Mask = typename MaskType<U>::Type;
    typename VectorType<Mask, S::kLanes>::Type mask;
    for (int i = 0; i < S::kLanes; ++i) mask[i] = i < count ? -1 : 0;
    if constexpr (sizeof(U) == 4) {
      return BitCast<typename S::Vec>(_mm256_maskload_ps(p, BitCast<__m256i>(mask)));
    } else {
      return BitCast<typename S::Vec>(_mm256_maskload_pd(p, BitCast<__m256i>(mask)));
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

// products[i] = sum_c rows[offsets[i] + c] * x[c]. Offsets, and room for products, go up to a whole
// vector.
template <typename S, bool kWhole, typename T>
void Products(const T* rows, const int64_t* offsets, int64_t count, const Accumulator<T>* x,
              int64_t width, Accumulator<T>* products) {
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  int64_t i = 0;
  // A few that are left over are summed one by one rather than as a vector of mostly others.
  for (; i + kLanes / 8 < count; i += kLanes) {
    Vec sums[kLanes] = {};
    for (int64_t c = 0; c < width; c += kLanes) {
      const Vec own = S::Load(x + c);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        sums[j] += LoadChannels<S, kWhole>(rows + offsets[i + j] + c, width - c) * own;
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

// result[c] = factor * sum_i weights[i] * rows[offsets[i] + c], up to a whole vector.
template <typename S, bool kWhole, typename T>
void WeightedSum(const T* rows, const int64_t* offsets, int64_t count,
                 const Accumulator<T>* weights, Accumulator<T> factor, int64_t width,
                 Accumulator<T>* result) {
  using Vec = typename S::Vec;
  constexpr int kSums = 4;
  for (int64_t c = 0; c < width; c += S::kLanes) {
    Vec sums[kSums] = {};
    int64_t i = 0;
    for (; i + kSums <= count; i += kSums) {
#pragma GCC unroll 4
      for (int j = 0; j < kSums; ++j) {
        sums[j] +=
            LoadChannels<S, kWhole>(rows + offsets[i + j] + c, width - c) * weights[i + j];
      }
    }
    for (; i < count; ++i) {
      sums[0] += LoadChannels<S, kWhole>(rows + offsets[i] + c, width - c) * weights[i];
    }
    S::Store(result + c, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * factor);
  }
}

// Both, for heads of some width.
template <typename T>
struct WindowSums {
  using Sum = Accumulator<T>;

  void (*products)(const T*, const int64_t*, int64_t, const Sum*, int64_t, Sum*);
  void (*weighted)(const T*, const int64_t*, int64_t, const Sum*, Sum, int64_t, Sum*);

  template <typename S, bool kWhole>
  static WindowSums Make() {
    return {Products<S, kWhole, T>, WeightedSum<S, kWhole, T>};
  }

  // By the widest vector of which the channels are a multiple, if there is one.
  static WindowSums Of(int64_t width) {
    const int64_t bytes = width * static_cast<int64_t>(sizeof(Sum));
    if constexpr (kVecBytes >= 64) {
      if (bytes % 64 == 0) return Make<Simd<Sum, 64>, true>();
    }
    if constexpr (kVecBytes >= 32) {
      if (bytes % 32 == 0) return Make<Simd<Sum, 32>, true>();
    }
    if (bytes % 16 == 0) return Make<Simd<Sum, 16>, true>();
    return Make<Simd<Sum>, false>();
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

// Replaces `count` logits by exp(logit - least), up to a whole vector, and returns their sum.
template <typename Sum>
TFCONV_INLINE Sum Exponentials(Sum* p, int64_t count, Sum least) {
  using S = Simd<Sum>;
  typename S::Vec sum = {};
  for (int64_t i = 0; i < count; i += S::kLanes) {
    const typename S::Vec e = Exp<S>(S::Load(p + i) - least);
    S::Store(p + i, e);
    sum += e;
  }
  return Reduced<S, false>(sum)[0];
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_WINDOW_SUMS_H_
