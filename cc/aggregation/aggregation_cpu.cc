#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "aggregation/aggregation_kernel.h"
#include "aggregation/aggregation_samples.h"
#include "aggregation/aggregation_spreading.h"
#include "common/arena.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace aggregation {
namespace {

// Output positions of all images, some at a time.
struct Tiles {
  int64_t positions;
  int64_t size;
  int64_t count;
};

inline Tiles MakeTiles(const ConvGeometry& g) {
  constexpr int64_t kMost = 64;
  Tiles tiles = {g.batch * NumOutputs(g), 1, 0};
  tiles.size = Max<int64_t>(1, Min(kMost, tiles.positions / kMinUnits));
  tiles.count = CeilDiv(tiles.positions, tiles.size);
  return tiles;
}

// Where the sums of a position go: to y, or, if a group's samples come in several parts, through
// memory of its own.
template <typename T>
struct Sums {
  T* y;  // of the position's first channel
  Accumulator<T>* kept;
  bool is_first;
  bool is_last;
};

// Of kCount vectors, a power of two.
template <int kCount, typename Vec>
TFCONV_INLINE Vec Total(const Vec* vectors) {
  if constexpr (kCount == 1) {
    return vectors[0];
  } else {
    return Total<kCount / 2>(vectors) + Total<kCount / 2>(vectors + kCount / 2);
  }
}

// Adds a part of a group's samples, from `first` on, `lanes` channels from c on of each of kVectors
// vectors.
template <int kVectors, typename S, typename T, int kRank>
TFCONV_INLINE void SumSamples(const Found<T, kRank>& found, int64_t first, int64_t taps, int64_t c,
                              int64_t lanes, const Sums<T>& to) {
  using Vec = typename S::Vec;
  constexpr int kCorners = 1 << kRank;
  Vec sums[kVectors][kCorners] = {};
  for (int64_t i = first; i < first + taps; ++i) {
#pragma GCC unroll 8
    for (int corner = 0; corner < kCorners; ++corner) {
      const T* from = found.template At<const T>(corner, i) + c;
      const Accumulator<T> weight = found.weight[corner][i];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sums[v][corner] += Read<S>(from + v * S::kLanes, lanes) * weight;
      }
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    Vec sum = Total<kCorners>(sums[v]);
    const int64_t at = c + v * S::kLanes;
    if (!to.is_first) sum += Read<S>(to.kept + at, lanes);
    to.is_last ? Write<S>(to.y + at, sum, lanes) : Write<S>(to.kept + at, sum, lanes);
  }
}

// Channels [c, end) of a group.
template <typename S, typename T, int kRank>
TFCONV_INLINE void SumGroup(const Found<T, kRank>& found, int64_t first, int64_t taps, int64_t c,
                            int64_t end, const Sums<T>& to) {
  if constexpr (kRank < 3) {
    for (; c + 2 * S::kLanes <= end; c += 2 * S::kLanes) {
      SumSamples<2, S>(found, first, taps, c, S::kLanes, to);
    }
  }
  for (; c + S::kLanes <= end; c += S::kLanes) {
    SumSamples<1, S>(found, first, taps, c, S::kLanes, to);
  }
  if (c < end) SumSamples<1, S>(found, first, taps, c, end - c, to);
}

template <typename T, int kRank>
struct ForwardScratch {
  ForwardScratch(const AggregationArgs<T>& args, Arena* arena)
      : samples(args, args.groups, arena),
        width(args.geometry.channels / args.groups),
        zeros(arena->Take<T>(args.geometry.channels)) {}

  void Clear() {
    samples.Clear();
    memset(zeros, 0, static_cast<size_t>(samples.args().geometry.channels) * sizeof(T));
  }

  // For samples of an image.
  void SetImage(int64_t image) {
    const AggregationArgs<T>& args = samples.args();
    samples.SetMemory(args.x + image * ImageSize(args.geometry), static_cast<const T*>(zeros),
                      args.geometry.channels);
  }

  Samples<T, kRank> samples;
  int64_t width;
  T* zeros;
};

template <typename T, int kRank>
void ForwardOf(const AggregationArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  const ConvGeometry& g = args.geometry;
  Arena arena(scratch);
  ForwardScratch<T, kRank> s(args, &arena);
  Accumulator<T>* const kept = arena.Take<Accumulator<T>>(g.channels);
  s.Clear();
  const Tiles tiles = MakeTiles(g);
  const int64_t last = Min(end * tiles.size, tiles.positions);
  WithVectors<T, kRank>(s.width, 2, [&](auto simd) {
    ForEachPosition(g, begin * tiles.size, last, [&](const Position& position, int64_t number) {
      s.SetImage(position.image);
      s.samples.template ForEachPart<false>(
          position, number, 0, args.groups, [&](const Part& part) {
            const Sums<T> to = {args.y + number * g.channels, kept, part.tap == 0,
                                part.tap + part.taps == s.samples.taps()};
            for (int64_t i = 0; i < part.groups; ++i) {
              const int64_t channel = (part.group + i) * s.width;
              SumGroup<decltype(simd)>(s.samples.found(), i * part.taps, part.taps, channel,
                                       channel + s.width, to);
            }
          });
    });
  });
}

template <typename T>
void Forward(const AggregationArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  ByRank(args, [&](auto r) { ForwardOf<T, decltype(r)::kValue>(args, begin, end, scratch); });
}

template <typename T>
PassPlan PlanForward(const AggregationArgs<T>& args) {
  const Tiles tiles = MakeTiles(args.geometry);
  Arena arena(nullptr);
  ByRank(args, [&](auto r) { ForwardScratch<T, decltype(r)::kValue>(args, &arena); });
  arena.Take<Accumulator<T>>(args.geometry.channels);
  return {args.geometry.channels == 0 ? 0 : tiles.count,
          Cycles(args, tiles.size, args.geometry.channels, args.groups), arena.used()};
}

// The gradients for offsets and weights: the products of dy with the corners, summed over a group's
// channels.

template <typename T, int kRank>
struct SamplingScratch : ForwardScratch<T, kRank> {
  using Number = Accumulator<T>;
  using Result = Found<T, kRank>;

  // By corner. What is computed together ends beyond the last sample.
  struct Products {
    Number of[Result::kCorners][Result::kMost + Simd<Number>::kLanes];
  };

  SamplingScratch(const AggregationArgs<T>& args, Arena* arena)
      : ForwardScratch<T, kRank>(args, arena),
        products(arena->Take<Products>(1)),
        channel(arena->Take<int64_t>(Result::kMost)) {
    if (kIsHalf<T>) dy = arena->Take<Number>(args.geometry.channels);
  }

  void Clear() {
    ForwardScratch<T, kRank>::Clear();
    const int64_t taps = this->samples.taps();
    for (int64_t i = 0; i < Result::kMost; ++i) channel[i] = i / taps * this->width;
  }

  Products* products;
  int64_t* channel;  // of samples, from that of the first group on
  Number* dy = nullptr;  // of a position, if it is converted
};

// The products of one sample, whose group has kVectors vectors of channels from c on, or `width`
// channels if it is 0.
template <int kVectors, typename S, typename T, int kRank>
TFCONV_INLINE void MultiplyCorners(const Found<T, kRank>& found, int64_t i, int64_t c,
                                   int64_t width, const Accumulator<T>* dy,
                                   typename S::Vec* sums, int64_t step) {
  constexpr int kCorners = 1 << kRank;
  const T* corner[kCorners];
#pragma GCC unroll 8
  for (int k = 0; k < kCorners; ++k) corner[k] = found.template At<const T>(k, i) + c;
  typename S::Vec own[kCorners] = {};
  const int64_t whole = kVectors > 0 ? kVectors : width / S::kLanes;
#pragma GCC unroll 2
  for (int64_t v = 0; v < whole; ++v) {
    const typename S::Vec g = S::Load(dy + c + v * S::kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < kCorners; ++k) own[k] += S::Load(corner[k] + v * S::kLanes) * g;
  }
  if (kVectors == 0 && width % S::kLanes != 0) {
    const int64_t done = whole * S::kLanes;
    const typename S::Vec g = S::LoadFirst(dy + c + done, width - done);
    for (int k = 0; k < kCorners; ++k) own[k] += S::LoadFirst(corner[k] + done, width - done) * g;
  }
#pragma GCC unroll 8
  for (int k = 0; k < kCorners; ++k) sums[k * step] = own[k];
}

// The products of samples [0, count), whose groups' channels begin at `first`.
template <int kVectors, typename S, typename T, int kRank>
TFCONV_INLINE void MultiplySamples(const SamplingScratch<T, kRank>& scratch, int64_t count,
                                   int64_t first, const Accumulator<T>* dy) {
  using Number = Accumulator<T>;
  constexpr int kCorners = 1 << kRank;
  constexpr int kStep = S::kLanes > kCorners ? S::kLanes / kCorners : 1;  // samples at a time
  const Found<T, kRank>& found = scratch.samples.found();
  auto* const products = scratch.products;
  const int64_t* const channel = scratch.channel;
  const int64_t width = scratch.width;
  for (int64_t i = 0; i < count; i += kStep) {
    typename S::Vec sums[kStep * kCorners];
#pragma GCC unroll 8
    for (int j = 0; j < kStep; ++j) {
      const int64_t sample = Min(i + j, count - 1);  // nobody reads what is repeated
      MultiplyCorners<kVectors, S>(found, sample, first + channel[sample], width, dy, sums + j,
                                   kStep);
    }
    Number lanes[kStep * kCorners];
#pragma GCC unroll 8
    for (int j = 0; j < kStep * kCorners; j += S::kLanes) {
      S::Store(lanes + j, S::SumLanes(sums + j));
    }
#pragma GCC unroll 8
    for (int k = 0; k < kCorners; ++k) {
      memcpy(products->of[k] + i, lanes + k * kStep, sizeof(Number) * kStep);
    }
  }
}

// The value between corners, and its slope along each axis.
template <int kRank, typename Number, typename Vec>
TFCONV_INLINE void Interpolate(const Vec* corner, const Vec* fraction, Vec* value, Vec* slope) {
  const Vec f = fraction[0];
  const Vec other = Number(1) - f;
  if constexpr (kRank == 1) {
    *value = other * corner[0] + f * corner[1];
    slope[0] = corner[1] - corner[0];
  } else {
    Vec near, far, near_slope[kRank - 1], far_slope[kRank - 1];
    Interpolate<kRank - 1, Number>(corner, fraction + 1, &near, near_slope);
    Interpolate<kRank - 1, Number>(corner + (1 << (kRank - 1)), fraction + 1, &far, far_slope);
    *value = other * near + f * far;
    slope[0] = far - near;
    for (int i = 0; i < kRank - 1; ++i) slope[i + 1] = other * near_slope[i] + f * far_slope[i];
  }
}

// kRank vectors as tuples.
template <int kRank, typename S, typename T, int... kIndex>
TFCONV_INLINE void StoreTuples(T* to, const typename S::Vec* vectors, int64_t lanes,
                               Indices<kIndex...>) {
  if constexpr (kRank == 1) {
    Write<S>(to, vectors[0], lanes);
    return;
  }
  if (kRank == 2 && lanes == S::kLanes) {
    constexpr int kHalf = S::kLanes / 2;
    S::Store(to, __builtin_shufflevector(vectors[0], vectors[kRank - 1],
                                         (kIndex / 2 + kIndex % 2 * S::kLanes)...));
    S::Store(to + S::kLanes,
             __builtin_shufflevector(vectors[0], vectors[kRank - 1],
                                     (kHalf + kIndex / 2 + kIndex % 2 * S::kLanes)...));
    return;
  }
  typename S::Scalar numbers[kRank][S::kLanes];
  for (int axis = 0; axis < kRank; ++axis) S::Store(numbers[axis], vectors[axis]);
  for (int64_t i = 0; i < lanes; ++i) {
    for (int axis = 0; axis < kRank; ++axis) StoreNumber(to + kRank * i + axis, numbers[axis][i]);
  }
}

// The gradients of samples [0, count) from their products. At integer positions they belong to the
// pixels beyond, which floor() has chosen. What follows is written later, up to sample `left`:
// until then it may be anything.
template <typename T, int kRank>
void FinishSampling(const SamplingScratch<T, kRank>& scratch, int64_t count, int64_t left,
                    const T* weights, T* doffset, T* dweights) {
  using Number = Accumulator<T>;
  using S = Simd<Number>;
  constexpr int kCorners = 1 << kRank;
  const Found<T, kRank>& found = scratch.samples.found();
  for (int64_t i = 0; i < count; i += S::kLanes) {
    const int64_t lanes = Min<int64_t>(S::kLanes, left - i);
    typename S::Vec corner[kCorners], fraction[kRank], value, slope[kRank];
    for (int k = 0; k < kCorners; ++k) corner[k] = S::Load(scratch.products->of[k] + i);
    for (int axis = 0; axis < kRank; ++axis) fraction[axis] = S::Load(found.fraction[axis] + i);
    Interpolate<kRank, Number>(corner, fraction, &value, slope);
    if constexpr (kRank == 1) slope[0] += Number(0) * fraction[0];  // NaN where the position is
    const typename S::Vec w = Read<S>(weights + i, lanes);
    for (int axis = 0; axis < kRank; ++axis) slope[axis] *= w;
    Write<S>(dweights + i, value, lanes);
    StoreTuples<kRank, S>(doffset + kRank * i, slope, lanes,
                          typename MakeIndices<S::kLanes>::Type());
  }
}

template <typename T, int kRank>
void BackwardSamplingOf(const AggregationArgs<T>& args, int64_t begin, int64_t end,
                        void* memory) {
  const ConvGeometry& g = args.geometry;
  Arena arena(memory);
  SamplingScratch<T, kRank> s(args, &arena);
  s.Clear();
  const Tiles tiles = MakeTiles(g);
  const int64_t last = Min(end * tiles.size, tiles.positions);
  const int64_t taps = s.samples.taps();
  WithVectors<T, kRank>(s.width, 2, [&](auto simd) {
    using S = decltype(simd);
    ForEachPosition(g, begin * tiles.size, last, [&](const Position& position, int64_t number) {
      s.SetImage(position.image);
      const Accumulator<T>* dy;
      if constexpr (kIsHalf<T>) {
        CopyElements(args.dy + number * g.channels, s.dy, g.channels);
        dy = s.dy;
      } else {
        dy = args.dy + number * g.channels;
      }
      s.samples.template ForEachPart<true>(
          position, number, 0, args.groups, [&](const Part& part) {
            const int64_t channel = part.group * s.width;
            // The sizes of groups that networks have.
            constexpr bool kUsual = sizeof(Accumulator<T>) == 4 && kRank == 2 && S::kLanes > 4;
            if (kUsual && s.width == 2 * S::kLanes) {
              MultiplySamples<kUsual ? 2 : 0, S>(s, part.samples(), channel, dy);
            } else {
              MultiplySamples<0, S>(s, part.samples(), channel, dy);
            }
            const int64_t sample = (number * args.groups + part.group) * taps + part.tap;
            FinishSampling(s, part.samples(), last * args.groups * taps - sample,
                           args.weights + sample, args.doffset + kRank * sample,
                           args.dweights + sample);
          });
    });
  });
}

template <typename T>
void BackwardSampling(const AggregationArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  ByRank(args,
         [&](auto r) { BackwardSamplingOf<T, decltype(r)::kValue>(args, begin, end, scratch); });
}

template <typename T>
PassPlan PlanBackwardSampling(const AggregationArgs<T>& args) {
  const Tiles tiles = MakeTiles(args.geometry);
  Arena arena(nullptr);
  ByRank(args, [&](auto r) { SamplingScratch<T, decltype(r)::kValue>(args, &arena); });
  return {args.geometry.channels == 0 ? 0 : tiles.count,
          2 * Cycles(args, tiles.size, args.geometry.channels, args.groups), arena.used()};
}

template <typename T>
AggregationKernels<T> Table() {
  AggregationKernels<T> kernels;
  kernels.forward = {PlanForward<T>, Forward<T>};
  kernels.backward_sampling = {PlanBackwardSampling<T>, BackwardSampling<T>};
  kernels.backward_input = {PlanBackwardInput<T>, BackwardInput<T>};
  kernels.sum_dx = {PlanSumDx<T>, SumDx<T>};
  kernels.dx_parts_bytes = DxPartsBytes<T>;
  return kernels;
}

}  // namespace
}  // namespace aggregation

void GetKernels(AggregationKernels<Half>* kernels) { *kernels = aggregation::Table<Half>(); }
void GetKernels(AggregationKernels<Bfloat16>* kernels) {
  *kernels = aggregation::Table<Bfloat16>();
}
void GetKernels(AggregationKernels<float>* kernels) { *kernels = aggregation::Table<float>(); }
void GetKernels(AggregationKernels<double>* kernels) { *kernels = aggregation::Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
