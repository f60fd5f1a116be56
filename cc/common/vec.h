// Vectors of the instruction set that the including unit is compiled for.
//
// Only units named *_cpu.cc include this header. Everything lives in a namespace per instruction
// set, and nothing from the C++ standard library is used: an inline function shared with the other
// units would be merged by the linker, which could keep a copy that needs AVX-512.
#ifndef TFCONV_COMMON_VEC_H_
#define TFCONV_COMMON_VEC_H_

#include <stdint.h>
#include <string.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/element_types.h"

#if !defined(TFCONV_ISA)
#error "this header belongs to units that are compiled once per instruction set"
#endif

#define TFCONV_CONCAT_TOKENS(a, b) a##b
#define TFCONV_CONCAT(a, b) TFCONV_CONCAT_TOKENS(a, b)
#define TFCONV_ISA_NAMESPACE TFCONV_CONCAT(isa_, TFCONV_ISA)
#define TFCONV_INLINE inline __attribute__((always_inline))
// Products of bfloat16 without conversion. Tests run them emulated where the processor has none;
// such units have no kernels for other types.
#if defined(__AVX512BF16__) || defined(TFCONV_EMULATED_DOT)
#define TFCONV_HAS_DOT
#endif

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

#if defined(__AVX512F__) || defined(TFCONV_HAS_DOT)
constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

// The signed integer of the same size: comparisons of vectors of T give vectors of it, -1 for true.
template <typename T>
struct MaskType {
  using Type = T;  // integers are of that size already
};
template <>
struct MaskType<float> {
  using Type = int32_t;
};
template <>
struct MaskType<double> {
  using Type = int64_t;
};

template <int... kIndex>
struct Indices {};
template <int kCount, int... kIndex>
struct MakeIndices : MakeIndices<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct MakeIndices<0, kIndex...> {
  using Type = Indices<kIndex...>;
};

template <typename T, int kCount>
struct VectorType {
  typedef T Type __attribute__((vector_size(kCount * sizeof(T))));
};

template <typename To, typename From>
TFCONV_INLINE To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// The conversions between 16 bits, which are the lower ones of Bits, and float32: of a number, or
// of a vector of them. They round to nearest, ties to even.
template <typename Float, typename Bits>
TFCONV_INLINE Float HalfToFloat(Bits half) {
  const Bits sign = (half & 0x8000u) << 16;
  const Bits magnitude = half & 0x7fffu;
  const Bits shifted = magnitude << 13;
  // The mantissa of a subnormal on top of 2^-14, which goes away again. No number is subnormal in
  // float32 on the way: TensorFlow's threads take those for zero.
  const Float subnormal = BitCast<Float>(shifted + 0x38800000u) - 0x1p-14f;
  Bits bits = magnitude < 0x400u ? BitCast<Bits>(subnormal) : shifted + 0x38000000u;
  bits = magnitude >= 0x7c00u ? shifted | 0x7f800000u : bits;  // infinity and NaN
  return BitCast<Float>(bits | sign);
}

template <typename Bits, typename Float>
TFCONV_INLINE Bits FloatToHalf(Float value) {
  const Bits sign = (BitCast<Bits>(value) >> 16) & 0x8000u;
  const Bits magnitude = BitCast<Bits>(value) & 0x7fffffffu;
  // Subnormal results: adding 0.5 leaves the rounded mantissa in the lowest bits.
  const Bits subnormal = BitCast<Bits>(BitCast<Float>(magnitude) + 0.5f) - 0x3f000000u;
  const Bits normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  const Bits infinity = magnitude - magnitude + 0x7c00u;
  Bits half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? infinity : half;
  half = magnitude > 0x7f800000u ? infinity + 0x200u : half;
  return half | sign;
}

template <typename Float, typename Bits>
TFCONV_INLINE Float Bfloat16ToFloat(Bits bfloat16) {
  return BitCast<Float>(bfloat16 << 16);
}

template <typename Bits, typename Float>
TFCONV_INLINE Bits FloatToBfloat16(Float value) {
  const Bits bits = BitCast<Bits>(value);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  // Rounding could carry a NaN into infinity.
  const Bits nan = (bits >> 16) | 0x40u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}

// An element as the number that is computed with.
TFCONV_INLINE float ToNumber(float value) { return value; }
TFCONV_INLINE double ToNumber(double value) { return value; }
TFCONV_INLINE float ToNumber(Half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#endif
  return HalfToFloat<float>(static_cast<uint32_t>(value.bits));
}
TFCONV_INLINE float ToNumber(Bfloat16 value) {
  return Bfloat16ToFloat<float>(static_cast<uint32_t>(value.bits));
}

// And back.
TFCONV_INLINE void StoreNumber(float* p, float value) { *p = value; }
TFCONV_INLINE void StoreNumber(double* p, double value) { *p = value; }
TFCONV_INLINE void StoreNumber(Half* p, float value) {
#if defined(__F16C__)  // the bits of NaN are those that vectors have
  p->bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
  return;
#endif
  p->bits = static_cast<uint16_t>(FloatToHalf<uint32_t>(value));
}
TFCONV_INLINE void StoreNumber(Bfloat16* p, float value) {
  p->bits = static_cast<uint16_t>(FloatToBfloat16<uint32_t>(value));
}

// A vector of kBytes / sizeof(T) lanes. Arithmetic is the compiler's own: `v + w`, `v * scalar`.
template <typename T, int kBytes = kVecBytes>
struct Simd {
  using Scalar = T;
  typedef T Vec __attribute__((vector_size(kBytes)));
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));
  using Index = typename MaskType<T>::Type;

  static TFCONV_INLINE Vec Load(const T* p) {
    Vec v;
    memcpy(&v, p, sizeof(v));
    return v;
  }

  static TFCONV_INLINE void Store(T* p, Vec v) { memcpy(p, &v, sizeof(v)); }

  // 16-bit elements of vectors of float32.
  static TFCONV_INLINE Vec Load(const Half* p) {
#if defined(__AVX512F__)
    if constexpr (kLanes == 16) {
      return BitCast<Vec>(_mm512_maskz_cvtph_ps(kAllLanes, LoadBits<__m256i>(p)));
    }
#endif
#if defined(__F16C__)
    if constexpr (kLanes == 8) return BitCast<Vec>(_mm256_cvtph_ps(LoadBits<__m128i>(p)));
#endif
    return HalfToFloat<Vec>(Widen(p));
  }

  static TFCONV_INLINE Vec Load(const Bfloat16* p) { return Bfloat16ToFloat<Vec>(Widen(p)); }

  static TFCONV_INLINE void Store(Half* p, Vec v) {
#if defined(__AVX512F__)
    if constexpr (kLanes == 16) {
      return StoreBits(p, _mm512_maskz_cvtps_ph(kAllLanes, BitCast<__m512>(v),
                                                _MM_FROUND_TO_NEAREST_INT));
    }
#endif
#if defined(__F16C__)
    if constexpr (kLanes == 8) {
      return StoreBits(p, _mm256_cvtps_ph(BitCast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    StoreNarrow(p, FloatToHalf<Bits32>(v));
  }

  static TFCONV_INLINE void Store(Bfloat16* p, Vec v) {
    StoreNarrow(p, FloatToBfloat16<Bits32>(v));
  }

  // Elements of two rows in turn, as many of each as there are lanes.
  static TFCONV_INLINE void StorePairs(Bfloat16* p, const Bfloat16* first,
                                       const Bfloat16* second) {
    const Bits32 pairs = Widen(first) | Widen(second) << 16;
    memcpy(p, &pairs, sizeof(pairs));
  }

  // The first `count` lanes; zeros in the others.
  template <typename U>
  static TFCONV_INLINE Vec LoadFirst(const U* p, int64_t count) {
    U lanes[kLanes] = {};
    memcpy(lanes, p, static_cast<size_t>(count) * sizeof(U));
    return Load(lanes);
  }

  template <typename U>
  static TFCONV_INLINE void StoreFirst(U* p, Vec v, int64_t count) {
    U lanes[kLanes];
    Store(lanes, v);
    memcpy(p, lanes, static_cast<size_t>(count) * sizeof(U));
  }

  // Swaps lanes and vectors: lane i of vectors[j] becomes lane j of vectors[i].
  static TFCONV_INLINE void Transpose(Vec* vectors) { TransposeLevel<kLanes / 2>(vectors); }

  // The largest whole numbers that are not above those of v; integers of the lanes' size hold them.
  static TFCONV_INLINE Vec Floor(Vec v) {
#if defined(__AVX512F__)
    constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    if constexpr (kBytes == 64 && sizeof(T) == 4) {
      return BitCast<Vec>(_mm512_maskz_roundscale_ps(kAllLanes, BitCast<__m512>(v), kDown));
    }
    if constexpr (kBytes == 64 && sizeof(T) == 8) {
      return BitCast<Vec>(_mm512_maskz_roundscale_pd(0xff, BitCast<__m512d>(v), kDown));
    }
#endif
#if defined(__AVX2__)
    if constexpr (kBytes == 32 && sizeof(T) == 4) {
      return BitCast<Vec>(_mm256_floor_ps(BitCast<__m256>(v)));
    }
    if constexpr (kBytes == 32 && sizeof(T) == 8) {
      return BitCast<Vec>(_mm256_floor_pd(BitCast<__m256d>(v)));
    }
#endif
    const auto whole = __builtin_convertvector(v, typename VectorType<Index, kLanes>::Type);
    const Vec truncated = __builtin_convertvector(whole, Vec);
    return truncated > v ? truncated - T(1) : truncated;
  }

  // Lane i of the result is lane index[i] of v.
  static TFCONV_INLINE Vec Permute(Vec v, const Index* index) {
    typename VectorType<Index, kLanes>::Type indices;
    memcpy(&indices, index, sizeof(indices));
#if defined(__AVX512F__)
    if constexpr (kBytes == 64 && sizeof(T) == 4) {
      return BitCast<Vec>(_mm512_maskz_permutexvar_ps(kAllLanes, BitCast<__m512i>(indices),
                                                      BitCast<__m512>(v)));
    }
    if constexpr (kBytes == 64 && sizeof(T) == 8) {
      return BitCast<Vec>(
          _mm512_maskz_permutexvar_pd(0xff, BitCast<__m512i>(indices), BitCast<__m512d>(v)));
    }
#endif
#if defined(__AVX2__)
    if constexpr (kBytes == 32 && sizeof(T) == 4) {
      return BitCast<Vec>(
          _mm256_permutevar8x32_ps(BitCast<__m256>(v), BitCast<__m256i>(indices)));
    }
#endif
    Vec result = v;  // Every lane is written below; GCC does not see it at -O1.
    for (int i = 0; i < kLanes; ++i) result[i] = v[indices[i]];
    return result;
  }

  // Sums of the lanes of kLanes vectors: lane i of the result is the sum over vectors[i].
  // Each level adds the two halves of every vector and packs two vectors into one, so that all
  // sums together cost kLanes - 1 additions. Overwrites `vectors`.
  static TFCONV_INLINE Vec SumLanes(Vec* vectors) {
    FoldLevel<kLanes / 2>(vectors);
    return vectors[0];
  }

  // Adds the sums of the lanes of four vectors to sums[0..3].
  static TFCONV_INLINE void AddSumsOfFour(const Vec* vectors, T* sums) {
    if constexpr (kLanes < 4) {
      for (int i = 0; i < 4; ++i) sums[i] += SumLanes(vectors[i]);
    } else {
      constexpr int kHalf = kLanes / 2;
      constexpr int kQuarter = kLanes / 4;
      using All = typename MakeIndices<kLanes>::Type;
      const Vec even = Fold<kHalf>(vectors[0], vectors[2], All());
      const Vec odd = Fold<kHalf>(vectors[1], vectors[3], All());
      T lanes[kLanes];
      Store(lanes, Fold<kQuarter>(even, odd, All()));
      for (int i = 0; i < 4; ++i) {
        T sum = lanes[i * kQuarter];
        for (int j = 1; j < kQuarter; ++j) sum += lanes[i * kQuarter + j];
        sums[i] += sum;
      }
    }
  }

  // Sum of the lanes of one vector.
  static TFCONV_INLINE T SumLanes(Vec v) {
    T lanes[kLanes];
    memcpy(lanes, &v, sizeof(v));
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }

 private:
  using Bits16 = typename VectorType<uint16_t, kLanes>::Type;
  using Bits32 = typename VectorType<uint32_t, kLanes>::Type;

  template <typename Bits>
  static TFCONV_INLINE Bits LoadBits(const void* p) {
    Bits bits;
    memcpy(&bits, p, sizeof(bits));
    return bits;
  }

  template <typename Bits>
  static TFCONV_INLINE void StoreBits(void* p, Bits bits) {
    static_assert(sizeof(bits) == 2 * kLanes, "16 bits for each lane");
    memcpy(p, &bits, sizeof(bits));
  }

  // GCC splits the general conversions of its widest vectors. Without the masks of AVX-512, it
  // warns of its own header.
  static constexpr uint16_t kAllLanes = 0xffff;

  static TFCONV_INLINE Bits32 Widen(const void* p) {
#if defined(__AVX512F__)
    if constexpr (kLanes == 16) {
      return BitCast<Bits32>(_mm512_maskz_cvtepu16_epi32(kAllLanes, LoadBits<__m256i>(p)));
    }
#endif
#if defined(__AVX2__)
    if constexpr (kLanes == 8) {
      return BitCast<Bits32>(_mm256_cvtepu16_epi32(LoadBits<__m128i>(p)));
    }
#endif
    const Bits16 bits = LoadBits<Bits16>(p);
    return __builtin_convertvector(bits, Bits32);
  }

  static TFCONV_INLINE void StoreNarrow(void* p, Bits32 bits) {
#if defined(__AVX512F__)
    if constexpr (kLanes == 16) {
      return StoreBits(p, _mm512_maskz_cvtepi32_epi16(kAllLanes, BitCast<__m512i>(bits)));
    }
#endif
    StoreBits(p, __builtin_convertvector(bits, Bits16));
  }

  // Within each block of 2 * kHalf lanes: first the halves of a added, then those of b. The first of
  // the terms needs no lane moved.
  template <int kHalf, int... kIndex>
  static TFCONV_INLINE Vec Fold(Vec a, Vec b, Indices<kIndex...>) {
    const Vec own =
        __builtin_shufflevector(a, b, (kIndex & kHalf ? kLanes + kIndex : kIndex)...);
    return own + __builtin_shufflevector(
                     a, b, (kIndex & kHalf ? kLanes + kIndex - kHalf : kIndex + kHalf)...);
  }

  // Within each block of 2 * kHalf lanes: first kHalf lanes of a, then of b, each from kShift on.
  template <int kHalf, int kShift, int... kIndex>
  static TFCONV_INLINE Vec Pick(Vec a, Vec b, Indices<kIndex...>) {
    return __builtin_shufflevector(a, b, Source(kIndex, kHalf, kShift)...);
  }

  static constexpr int Source(int lane, int half, int shift) {
    return (lane & half) == 0 ? lane + shift : kLanes + lane - half + shift;
  }

  template <int kHalf>
  static TFCONV_INLINE void FoldLevel(Vec* vectors) {
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
      vectors[i] =
          Fold<kHalf>(vectors[i], vectors[i + kHalf], typename MakeIndices<kLanes>::Type());
    }
    if constexpr (kHalf > 1) FoldLevel<kHalf / 2>(vectors);
  }

  template <int kHalf>
  static TFCONV_INLINE void TransposeLevel(Vec* vectors) {
    typename MakeIndices<kLanes>::Type all;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & kHalf) continue;
      const Vec a = vectors[i];
      const Vec b = vectors[i + kHalf];
      vectors[i] = Pick<kHalf, 0>(a, b, all);
      vectors[i + kHalf] = Pick<kHalf, kHalf>(a, b, all);
    }
    if constexpr (kHalf > 1) TransposeLevel<kHalf / 2>(vectors);
  }
};

template <typename T>
TFCONV_INLINE T Min(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
TFCONV_INLINE T Max(T a, T b) {
  return a < b ? b : a;
}

// Rounded up; both arguments are positive or `a` is zero.
TFCONV_INLINE int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

TFCONV_INLINE int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

TFCONV_INLINE void CopyElements(const Bfloat16* from, Bfloat16* to, int64_t count) {
  memcpy(to, from, static_cast<size_t>(count) * sizeof(Bfloat16));
}

// Copies elements, with conversion where the types differ.
template <typename From, typename To>
TFCONV_INLINE void CopyElements(const From* from, To* to, int64_t count) {
  using S = Simd<Accumulator<From>>;
  if (count < S::kLanes) {
    for (int64_t i = 0; i < count; ++i) StoreNumber(to + i, ToNumber(from[i]));
    return;
  }
  for (int64_t i = 0; i + S::kLanes < count; i += S::kLanes) S::Store(to + i, S::Load(from + i));
  S::Store(to + count - S::kLanes, S::Load(from + count - S::kLanes));
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_VEC_H_
