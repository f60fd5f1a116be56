// Where the taps of an output position sample: corners and weights, for any number of axes.
#ifndef TFCONV_AGGREGATION_AGGREGATION_SAMPLES_H_
#define TFCONV_AGGREGATION_AGGREGATION_SAMPLES_H_

#include <stdint.h>
#include <string.h>

#include "aggregation/aggregation_kernel.h"
#include "common/arena.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace aggregation {

inline int64_t NumTaps(const ConvGeometry& g) {
  return g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
}

// Of one image.
inline int64_t NumOutputs(const ConvGeometry& g) {
  return g.axis[0].output * g.axis[1].output * g.axis[2].output;
}

// Lines of one image: along the last axis.
inline int64_t NumLines(const ConvGeometry& g) { return g.axis[0].input * g.axis[1].input; }

// An output position.
struct Position {
  int64_t image;
  int64_t at[kMaxSpatialAxes];

  // Counted over all images.
  static Position Of(const ConvGeometry& g, int64_t number) {
    Position position;
    for (int i = kMaxSpatialAxes; i-- > 0;) {
      position.at[i] = number % g.axis[i].output;
      number /= g.axis[i].output;
    }
    position.image = number;
    return position;
  }

  void Advance(const ConvGeometry& g) {
    for (int i = kMaxSpatialAxes; i-- > 0;) {
      if (++at[i] < g.axis[i].output) return;
      at[i] = 0;
    }
    ++image;
  }
};

// `lanes` tuples of kRank elements, as kRank vectors.
template <int kRank, typename S, typename T, int... kIndex>
TFCONV_INLINE void LoadTuples(const T* from, int64_t lanes, typename S::Vec* vectors,
                              Indices<kIndex...>) {
  T some[kRank * S::kLanes];
  if (lanes < S::kLanes) {
    memset(some, 0, sizeof(some));
    memcpy(some, from, static_cast<size_t>(kRank * lanes) * sizeof(T));
    from = some;
  }
  if constexpr (kRank == 1) {
    vectors[0] = S::Load(from);
  } else if constexpr (kRank == 2) {
    const typename S::Vec a = S::Load(from);
    const typename S::Vec b = S::Load(from + S::kLanes);
    vectors[0] = __builtin_shufflevector(a, b, (2 * kIndex)...);
    vectors[1] = __builtin_shufflevector(a, b, (2 * kIndex + 1)...);
  } else {
    typename S::Scalar numbers[kRank][S::kLanes];
    for (int i = 0; i < S::kLanes; ++i) {
      for (int axis = 0; axis < kRank; ++axis) numbers[axis][i] = ToNumber(from[kRank * i + axis]);
    }
    for (int axis = 0; axis < kRank; ++axis) vectors[axis] = S::Load(numbers[axis]);
  }
}

// Samples of one position that are found together: some taps of one group, or all of several.
struct Part {
  int64_t group;
  int64_t groups;
  int64_t tap;
  int64_t taps;

  int64_t samples() const { return groups * taps; }
};

// The samples of a part, number g * taps + t. Bit kRank - 1 - axis of a corner's number says whether
// it is the further one along an axis. Distances between the arrays are constants, so that one
// register finds an element of all.
template <typename T, int kRank>
struct Found {
  using Number = Accumulator<T>;
  static constexpr int kCorners = 1 << kRank;
  static constexpr int64_t kMost = 192;

  // A corner of a sample, which is the first channel of a pixel.
  template <typename Element>
  TFCONV_INLINE Element* At(int c, int64_t sample) const {
    return reinterpret_cast<Element*>(corner[c][sample]);
  }

  int64_t corner[kCorners][kMost];  // addresses
  Number weight[kCorners][kMost];   // of the corners, with the tap's weight
  Number fraction[kRank][kMost];    // distances from the first corner; NaN if one coordinate is
};

// Finds samples, part by part.
template <typename T, int kRank>
class Samples {
 public:
  using Number = Accumulator<T>;
  using S = Simd<Number>;
  using Int = typename MaskType<Number>::Type;
  using Result = Found<T, kRank>;
  static constexpr int kCorners = Result::kCorners;
  static constexpr int64_t kAhead = 4;  // positions

  // For parts of at most so many groups.
  Samples(const AggregationArgs<T>& args, int64_t groups, Arena* arena)
      : args_(args),
        taps_(NumTaps(args.geometry)),
        groups_(Max<int64_t>(1, Min(groups, Result::kMost / taps_))),
        found_(arena->Take<Result>(1)) {
    for (Number*& tap : tap_) tap = arena->Take<Number>(NumTapNumbers());
  }

  // Before first use.
  void Clear() {
    for (int64_t i = 0; i < NumTapNumbers(); ++i) {
      int64_t tap = i % taps_;
      for (int axis = kRank; axis-- > 0;) {
        const ConvAxis& a = Axis(axis);
        tap_[axis][i] = static_cast<Number>(tap % a.kernel * a.dilation);
        tap /= a.kernel;
      }
    }
  }

  // Of corners in an image like x's with so many channels; `absent` takes the place of pixels that lie
  // outside.
  template <typename Element>
  void SetMemory(Element* image, Element* absent, int64_t channels) {
    memory_.absent = reinterpret_cast<int64_t>(absent);
    memory_.pixel_bytes = channels * static_cast<int64_t>(sizeof(Element));
    for (int axis = 0; axis < kRank; ++axis) {
      memory_.size[axis] = static_cast<Int>(Axis(axis).input);
      memory_.end[axis] = static_cast<Number>(Axis(axis).input);
    }
    for (int c = 0; c < kCorners; ++c) {
      int64_t pixels = 0;
      for (int axis = 0; axis < kRank; ++axis) {
        pixels = pixels * Axis(axis).input + ((c >> (kRank - 1 - axis)) & 1);
      }
      memory_.start[c] = reinterpret_cast<int64_t>(image) + pixels * memory_.pixel_bytes;
    }
  }

  // Calls visit(part) for the parts of groups [begin, end), with their samples in found(). Those of
  // a group come one after the other. Only the gradients for offsets and weights need fractions, and
  // only the others weights.
  template <bool kFractions, typename Visit>
  TFCONV_INLINE void ForEachPart(const Position& position, int64_t number, int64_t begin,
                                 int64_t end, const Visit& visit) {
    for (Part part = {begin, 0, 0, 0}; part.group < end; part.group += groups_) {
      part.groups = Min(groups_, end - part.group);
      for (part.tap = 0; part.tap < taps_; part.tap += part.taps) {
        part.taps = Min(taps_ - part.tap, Result::kMost);
        Find<kFractions>(position, number, part);
        visit(part);
      }
    }
  }

  const AggregationArgs<T>& args() const { return args_; }
  int64_t taps() const { return taps_; }
  const Result& found() const { return *found_; }

 private:
  using Vec = typename S::Vec;
  using IntVec = typename Simd<Int>::Vec;
  using SWide = Simd<int64_t>;
  using Wide = typename SWide::Vec;

  // What samples are in.
  struct Memory {
    Int size[kRank];
    Number end[kRank];
    int64_t absent;
    int64_t pixel_bytes;
    int64_t start[kCorners];  // addresses of the corners of a sample at the first pixel
  };

  const ConvAxis& Axis(int axis) const {
    return args_.geometry.axis[kMaxSpatialAxes - kRank + axis];
  }

  // Vectors of them may begin at any tap.
  int64_t NumTapNumbers() const { return groups_ * taps_ + S::kLanes; }

  template <bool kFractions>
  void Find(const Position& position, int64_t number, const Part& part) {
    const int64_t begin = (number * args_.groups + part.group) * taps_ + part.tap;
    const int64_t left = args_.geometry.batch * NumOutputs(args_.geometry) * args_.groups * taps_ -
                         begin;  // of all samples
    const T* offset = args_.offset + begin * kRank;
    const T* weights = args_.weights + begin;
    Number start[kRank];
    const Number* tap[kRank];
    for (int axis = 0; axis < kRank; ++axis) {
      const ConvAxis& a = Axis(axis);
      start[axis] =
          static_cast<Number>(position.at[kMaxSpatialAxes - kRank + axis] * a.stride - a.pad);
      tap[axis] = tap_[axis] + part.tap;
    }
    const int64_t end = part.samples();
    const Memory memory = memory_;
    Result* const found = found_;
    // The memory of positions to come is apart from this if groups are few.
    const int64_t ahead = kAhead * args_.groups * taps_;
    for (int64_t i = 0; i < end; i += S::kLanes) {
      __builtin_prefetch(weights + ahead + i);
      for (int axis = 0; axis < kRank; ++axis) {
        __builtin_prefetch(offset + kRank * (ahead + i) + axis * S::kLanes);
      }
      // Lanes beyond the last sample find something that nobody reads.
      const int64_t lanes = Min<int64_t>(S::kLanes, left - i);
      Vec moved[kRank];
      LoadTuples<kRank, S>(offset + kRank * i, lanes, moved,
                           typename MakeIndices<S::kLanes>::Type());
      const Vec w = lanes == S::kLanes ? S::Load(weights + i) : S::LoadFirst(weights + i, lanes);
      for (int axis = 0; axis < kRank; ++axis) moved[axis] += S::Load(tap[axis] + i) + start[axis];
      Place<kFractions>(memory, moved, w, i, found);
    }
  }

  template <bool kFractions>
  static TFCONV_INLINE void Place(const Memory& memory, const Vec* position, Vec w, int64_t i,
                                  Result* found) {
    const Vec zero = {};
    IntVec touches = ~IntVec{};
    IntVec defined = ~IntVec{};
    Vec undefined = zero;
    for (int axis = 0; axis < kRank; ++axis) {
      touches &= (position[axis] >= Number(-1)) & (position[axis] < memory.end[axis]);
      defined &= position[axis] == position[axis];
      undefined += position[axis];  // NaN, if it is not defined
    }
    Vec weights[kCorners] = {};
    IntVec exists[kCorners];
    weights[0] = defined ? w : undefined;
    exists[0] = touches;
    IntVec first = {};
    for (int axis = 0; axis < kRank; ++axis) {
      // Positions that touch no pixel, infinite ones included, are moved to the origin before they
      // become integers; so is NaN, for which all comparisons are false.
      const Vec safe = touches ? position[axis] : zero;
      const Vec floor = S::Floor(safe);
      const Vec f = safe - floor;
      const IntVec pixel = __builtin_convertvector(floor, IntVec);
      const Int size = memory.size[axis];
      first = axis == 0 ? pixel : first * size + pixel;
      // Above 2^24 pixels the ends are rounded in float32: integers decide what exists.
      const IntVec near = (pixel >= 0) & (pixel < size);
      const IntVec far = pixel < size - 1;
      for (int c = 1 << axis; c-- > 0;) {
        if constexpr (!kFractions) {
          weights[2 * c + 1] = weights[c] * f;
          weights[2 * c] = weights[c] * (Number(1) - f);
        }
        exists[2 * c + 1] = exists[c] & far;
        exists[2 * c] = exists[c] & near;
      }
      if constexpr (kFractions) S::Store(found->fraction[axis] + i, defined ? f : undefined);
    }
    if constexpr (!kFractions) {
      for (int c = 0; c < kCorners; ++c) S::Store(found->weight[c] + i, weights[c]);
    }
    StoreAddresses(memory, first, exists, i, found);
  }

  static TFCONV_INLINE void StoreAddresses(const Memory& memory, IntVec first,
                                           const IntVec* exists, int64_t i, Result* found) {
#if defined(__AVX512DQ__)
    if constexpr (sizeof(Int) == 4 && S::kLanes == 16) {
      const typename VectorType<Int, 8>::Type halves[] = {
          __builtin_shufflevector(first, first, 0, 1, 2, 3, 4, 5, 6, 7),
          __builtin_shufflevector(first, first, 8, 9, 10, 11, 12, 13, 14, 15)};
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m512i wide = _mm512_maskz_cvtepi32_epi64(0xff, BitCast<__m256i>(halves[half]));
        const Wide bytes = BitCast<Wide>(wide) * memory.pixel_bytes;
#pragma GCC unroll 8
        for (int c = 0; c < kCorners; ++c) {
          const int there = _mm512_movepi32_mask(BitCast<__m512i>(exists[c])) >> (8 * half);
          const __m512i address = _mm512_mask_add_epi64(
              _mm512_set1_epi64(memory.absent), static_cast<__mmask8>(there),
              BitCast<__m512i>(bytes), _mm512_set1_epi64(memory.start[c]));
          SWide::Store(found->corner[c] + i + half * SWide::kLanes, BitCast<Wide>(address));
        }
      }
      return;
    }
#endif
    for (int part = 0; part * SWide::kLanes < S::kLanes; ++part) {
      const Wide bytes = Widened(first, part) * memory.pixel_bytes;
      for (int c = 0; c < kCorners; ++c) {
        const Wide there = bytes + memory.start[c];
        const Wide address = ((there ^ memory.absent) & Widened(exists[c], part)) ^ memory.absent;
        SWide::Store(found->corner[c] + i + part * SWide::kLanes, address);
      }
    }
  }

  // Part `part` of integers as 64-bit ones.
  static TFCONV_INLINE Wide Widened(IntVec integers, int part) {
    Int lanes[S::kLanes];
    Simd<Int>::Store(lanes, integers);
    typename VectorType<Int, SWide::kLanes>::Type some;
    memcpy(&some, lanes + part * SWide::kLanes, sizeof(some));
    return __builtin_convertvector(some, Wide);
  }

  const AggregationArgs<T>& args_;
  int64_t taps_;
  int64_t groups_;  // of a part
  Result* found_;
  Number* tap_[kRank];
  Memory memory_ = {};
};

// A vector, of which `lanes` lanes are in memory.
template <typename S, typename T>
TFCONV_INLINE typename S::Vec Read(const T* from, int64_t lanes) {
  return lanes == S::kLanes ? S::Load(from) : S::LoadFirst(from, lanes);
}

template <typename S, typename T>
TFCONV_INLINE void Write(T* to, typename S::Vec v, int64_t lanes) {
  lanes == S::kLanes ? S::Store(to, v) : S::StoreFirst(to, v, lanes);
}

// Calls visit(simd) with the widest vectors of which `channels` are a multiple, or the narrowest. The
// widest of all are taken if `channels` are a multiple of `wide` of them. What need not be as fast has
// fewer kinds of them: float64 one, half types without images the narrower two.
template <typename T, int kRank, typename Visit>
TFCONV_INLINE void WithVectors(int64_t channels, int wide, const Visit& visit) {
  using Number = Accumulator<T>;
  const int64_t bytes = channels * static_cast<int64_t>(sizeof(Number));
  if constexpr (sizeof(Number) == 4) {
    if constexpr (kVecBytes > 32 && (kRank == 2 || !kIsHalf<T>)) {
      if (bytes % (64 * wide) == 0) return visit(Simd<Number, 64>());
    }
    if constexpr (kVecBytes > 16) {
      if (bytes % 32 == 0) return visit(Simd<Number, 32>());
    }
  }
  visit(Simd<Number, 16>());
}

// Units of a pass, where its work is large enough: they occupy 64 threads evenly enough.
constexpr int64_t kMinUnits = 32;

// Calls pass(rank) with the rank as a constant.
template <int kRank>
struct Rank {
  static constexpr int kValue = kRank;
};
template <typename T, typename Visit>
TFCONV_INLINE auto ByRank(const AggregationArgs<T>& args, const Visit& visit) {
  if (args.rank == 1) return visit(Rank<1>());
  if (args.rank == 2) return visit(Rank<2>());
  return visit(Rank<3>());
}

// Estimate for the scheduler.
template <typename T>
int64_t Cycles(const AggregationArgs<T>& args, int64_t positions, int64_t channels,
               int64_t groups) {
  constexpr int64_t kOfSample = 6;
  const int64_t corners = int64_t{1} << args.rank;
  const int64_t of_channels =
      corners * channels * static_cast<int64_t>(sizeof(Accumulator<T>)) / 32;
  return 1 + positions * NumTaps(args.geometry) * (kOfSample * groups + of_channels);
}

// Calls visit(position, its number) for the positions of a range.
template <typename Visit>
TFCONV_INLINE void ForEachPosition(const ConvGeometry& g, int64_t begin, int64_t end,
                                   const Visit& visit) {
  Position position = Position::Of(g, begin);
  for (int64_t number = begin; number < end; ++number, position.Advance(g)) {
    visit(position, number);
  }
}

// Elements of an image.
inline int64_t ImageSize(const ConvGeometry& g) {
  return NumLines(g) * g.axis[2].input * g.channels;
}

}  // namespace aggregation
}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_AGGREGATION_AGGREGATION_SAMPLES_H_
