// Vectors of the instruction set that the including unit is compiled for.
//
// Only units named *_cpu.cc include this header. Everything lives in a namespace per instruction
// set, and nothing from the C++ standard library is used: an inline function shared with the other
// units would be merged by the linker, which could keep a copy that needs AVX-512.
#ifndef TFCONV_COMMON_VEC_H_
#define TFCONV_COMMON_VEC_H_

#include <stdint.h>
#include <string.h>

#if !defined(TFCONV_ISA)
#error "this header belongs to units that are compiled once per instruction set"
#endif

#define TFCONV_CONCAT_TOKENS(a, b) a##b
#define TFCONV_CONCAT(a, b) TFCONV_CONCAT_TOKENS(a, b)
#define TFCONV_ISA_NAMESPACE TFCONV_CONCAT(isa_, TFCONV_ISA)
#define TFCONV_INLINE inline __attribute__((always_inline))

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

// The signed integer of the same size: comparisons of vectors of T give vectors of it, -1 for true.
template <typename T>
struct MaskType;
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

// A vector of kBytes / sizeof(T) lanes. Arithmetic is the compiler's own: `v + w`, `v * scalar`.
template <typename T, int kBytes = kVecBytes>
struct Simd {
  using Scalar = T;
  typedef T Vec __attribute__((vector_size(kBytes)));
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));

  static TFCONV_INLINE Vec Load(const T* p) {
    Vec v;
    memcpy(&v, p, sizeof(v));
    return v;
  }

  static TFCONV_INLINE void Store(T* p, Vec v) { memcpy(p, &v, sizeof(v)); }

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
  // Within each block of 2 * kHalf lanes: first the halves of a added, then those of b.
  template <int kHalf, int... kIndex>
  static TFCONV_INLINE Vec Fold(Vec a, Vec b, Indices<kIndex...>) {
    return __builtin_shufflevector(a, b, Source(kIndex, kHalf, 0)...) +
           __builtin_shufflevector(a, b, Source(kIndex, kHalf, kHalf)...);
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

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_VEC_H_
