#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/vec.h"
#include "local_attention/local_attention_kernel.h"
#include "local_attention/neighbours.h"
#include "local_attention/window_sums.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

// Units of a pass, where its work is large enough: they occupy 64 threads evenly enough.
constexpr int64_t kMinUnits = 32;
// Positions of a tile at most. Longer lines are cut.
constexpr int64_t kTilePositions = 64;
// Partial sums of the gradients for a bias by tap, each of some tiles.
constexpr int64_t kMaxSlices = 128;

int64_t NumTaps(const AttentionGeometry& g) {
  return g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
}

// Parts of the lines of all images, of queries or keys, for blocks of heads.
struct Tiles {
  int64_t lines;
  int64_t width;
  int64_t length;  // of a part
  int64_t count;   // for each block of heads
  int64_t slices;  // that they are dealt out to, for each block
  int64_t block;   // heads of a block; the last may have fewer
  int64_t blocks;
};

template <Of kOf>
Tiles MakeTiles(const AttentionGeometry& g, bool sliced) {
  const auto size = [&g](int i) { return kOf == Of::kQueries ? g.axis[i].output : g.axis[i].input; };
  Tiles t = {};
  t.lines = g.batch * size(0) * size(1);
  t.width = size(2);
  if (t.lines == 0 || t.width == 0) return t;
  const int64_t per_line = CeilDiv(t.width, kTilePositions);
  t.length = CeilDiv(t.width, per_line);
  t.count = t.lines * per_line;
  t.slices = sliced ? Min(t.count, kMaxSlices) : t.count;
  t.block = Max<int64_t>(1, g.heads / CeilDiv(kMinUnits, t.slices));
  t.blocks = CeilDiv(g.heads, t.block);
  return t;
}

bool IsSliced(const AttentionGeometry& g) { return g.bias == kBiasByTap; }

// Heads of a position whose sums are made side by side, for each of them waits long.
constexpr int64_t kTogether = 4;

// Memory for the sums of one position and some heads.
template <typename T, Of kOf>
struct Scratch {
  using Sum = Accumulator<T>;

  Scratch(const AttentionGeometry& g, int64_t columns, Arena* arena)
      : neighbours(g, columns, arena) {
    const int64_t most = Neighbours<kOf>::Most(g) + kWindowRoom;
    for (int i = 0; i < kTogether; ++i) {
      logits[i] = arena->Take<Sum>(most);
      gradients[i] = arena->Take<Sum>(most);
    }
    first = arena->Take<Sum>(g.width + kWindowRoom);
    second = arena->Take<Sum>(g.depth + kWindowRoom);
    result = arena->Take<Sum>(Max(g.width, g.depth) + kWindowRoom);
  }

  Neighbours<kOf> neighbours;
  Sum* logits[kTogether];
  Sum* gradients[kTogether];
  Sum* first;  // of one head, up to a whole vector
  Sum* second;
  Sum* result;
};

// One head of a position times a factor, with zeros up to a whole vector.
template <typename T>
void TakeChannels(const T* from, int64_t count, double factor, Accumulator<T>* to) {
  if (count > 0) CopyElements(from, to, count);
  for (int64_t i = 0; i < count; ++i) to[i] *= static_cast<Accumulator<T>>(factor);
  for (int64_t i = count; i < count + kWindowRoom; ++i) to[i] = 0;
}

// A pass over the positions of queries or keys: calls run(position, first head, number of heads,
// neighbourhood) for those of a unit, and begin(slice, heads) before.
template <typename T, Of kOf, typename Begin, typename Run>
void ForEachPosition(const AttentionGeometry& g, const Tiles& tiles, Range units,
                     Neighbours<kOf>* neighbours, const Begin& begin, const Run& run) {
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const int64_t block = unit / tiles.slices, slice = unit % tiles.slices;
    const Range heads = {block * tiles.block, Min((block + 1) * tiles.block, g.heads)};
    begin(slice, heads);
    const int64_t last = tiles.count * (slice + 1) / tiles.slices;
    for (int64_t tile = tiles.count * slice / tiles.slices; tile < last; ++tile) {
      const int64_t line = tile % tiles.lines, first = tile / tiles.lines * tiles.length;
      const Range columns = {Min(first, tiles.width), Min(first + tiles.length, tiles.width)};
      neighbours->SetColumns(columns);
      neighbours->SetLine(line);
      for (int64_t column = columns.begin; column < columns.end; ++column) {
        const Neighbourhood& near = neighbours->Get(column);
        for (int64_t head = heads.begin; head < heads.end; head += kTogether) {
          run(line * tiles.width + column, head, Min(kTogether, heads.end - head), near);
        }
      }
    }
  }
}

// The logits of a query to base 2, up to a whole vector. `channels` is memory for its own.
template <typename T>
void FindLogits(const LocalAttentionArgs<T>& args, const WindowSums<T>& sums, int64_t position,
                int64_t head, const Neighbourhood& near, Accumulator<T>* channels,
                Accumulator<T>* logits) {
  using Sum = Accumulator<T>;
  using S = Simd<Sum>;
  const AttentionGeometry& g = args.geometry;
  const Sum to_base_2 = static_cast<Sum>(kLog2E);
  const int64_t own = position * g.heads + head;
  TakeChannels(args.query + own * g.width, g.width, g.scale * kLog2E, channels);
  const T* keys = args.key + (near.base * g.heads + head) * g.width;
  sums.products(keys, near.by_width, near.count, channels, g.width, logits);
  if (g.bias != kNoBias) {
    const T* bias = args.bias + (g.bias == kBiasByTap ? head : own) * NumTaps(g);
    int64_t i = 0;
    if (near.has_all_taps) {
      for (; i + S::kLanes <= near.count; i += S::kLanes) {
        S::Store(logits + i, S::Load(logits + i) + S::Load(bias + i) * to_base_2);
      }
    }
    for (; i < near.count; ++i) logits[i] += ToNumber(bias[near.taps[i]]) * to_base_2;
  }
  FillTail(logits, near.count, -Infinity<Sum>());
}

template <typename T>
void Forward(const LocalAttentionArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Sum = Accumulator<T>;
  const AttentionGeometry& g = args.geometry;
  const Tiles tiles = MakeTiles<Of::kQueries>(g, false);
  Arena arena(memory);
  Scratch<T, Of::kQueries> s(g, tiles.length, &arena);
  const auto by_width = WindowSums<T>::Of(g.width), by_depth = WindowSums<T>::Of(g.depth);
  ForEachPosition<T>(
      g, tiles, {begin, end}, &s.neighbours, [](int64_t, Range) {},
      [&](int64_t position, int64_t head, int64_t count, const Neighbourhood& near) {
        Sum sums[kTogether] = {}, most[kTogether];
        if (near.count > 0) {
          for (int64_t i = 0; i < count; ++i) {
            FindLogits(args, by_width, position, head + i, near, s.first, s.logits[i]);
          }
          for (int64_t i = 0; i < count; ++i) most[i] = Largest(s.logits[i], near.count);
          for (int64_t i = 0; i < count; ++i) {
            sums[i] = Exponentials(s.logits[i], near.count, most[i]);
          }
        }
        for (int64_t i = 0; i < count; ++i) {
          const int64_t own = position * g.heads + head + i;
          const Sum factor = near.count > 0 ? 1 / sums[i] : 0;  // nothing is seen: zeros
          by_depth.weighted(args.value + (near.base * g.heads + head + i) * g.depth, near.by_depth,
                            near.count, s.logits[i], factor, g.depth, s.result);
          if (g.depth > 0) CopyElements(s.result, args.y + own * g.depth, g.depth);
        }
      });
}

// What estimates of cycles are made of, for one position and head.
template <typename T>
int64_t Cycles(const LocalAttentionArgs<T>& args, int64_t products_by_width,
               int64_t products_by_depth) {
  const AttentionGeometry& g = args.geometry;
  const int64_t channels = products_by_width * g.width + products_by_depth * g.depth + 8;
  return Max<int64_t>(1, NumTaps(g) * channels * static_cast<int64_t>(sizeof(Accumulator<T>)) / 32);
}

template <typename T, Of kOf>
PassPlan Plan(const LocalAttentionArgs<T>& args, bool sliced, int64_t cycles) {
  const Tiles tiles = MakeTiles<kOf>(args.geometry, sliced);
  Arena arena(nullptr);
  const Scratch<T, kOf> scratch(args.geometry, tiles.length, &arena);
  const int64_t units = tiles.slices * tiles.blocks;
  if (units == 0) return {0, 0, 0};
  const int64_t positions = tiles.lines * tiles.width / tiles.slices;
  return {units, Max<int64_t>(1, positions) * tiles.block * cycles, arena.used()};
}

template <typename T>
PassPlan PlanForward(const LocalAttentionArgs<T>& args) {
  return Plan<T, Of::kQueries>(args, false, Cycles(args, 1, 1));
}

// Writes the gradients for a query's logits as those for its bias.
template <typename T>
void GiveBias(const LocalAttentionArgs<T>& args, int64_t own, int64_t head,
              const Neighbourhood& near, const Accumulator<T>* gradients,
              Accumulator<T>* sums) {
  const int64_t taps = NumTaps(args.geometry);
  if (args.geometry.bias == kBiasByTap) {
    Accumulator<T>* row = sums + head * taps;
    for (int64_t i = 0; i < near.count; ++i) row[near.taps[i]] += gradients[i];
    return;
  }
  T* row = args.dbias + own * taps;
  if (near.has_all_taps) return CopyElements(gradients, row, taps);
  memset(row, 0, static_cast<size_t>(taps) * sizeof(T));
  for (int64_t i = 0; i < near.count; ++i) StoreNumber(row + near.taps[i], gradients[i]);
}

// Turns gradients for weights into those for logits, up to a whole vector, and returns the mean that
// they lose. The weights are `weights` times `factor`.
template <typename Sum>
TFCONV_INLINE Sum Soften(const Sum* weights, int64_t count, Sum factor, Sum* gradients) {
  using S = Simd<Sum>;
  typename S::Vec sum = {};
  for (int64_t i = 0; i < count; i += S::kLanes) {
    sum += S::Load(weights + i) * S::Load(gradients + i);
  }
  const Sum mean = Reduced<S, false>(sum)[0] * factor;
  for (int64_t i = 0; i < count; i += S::kLanes) {
    const typename S::Vec weight = S::Load(weights + i) * factor;
    S::Store(gradients + i, weight * (S::Load(gradients + i) - mean));
  }
  return mean;
}

template <typename T>
void BackwardQuery(const LocalAttentionArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Sum = Accumulator<T>;
  const AttentionGeometry& g = args.geometry;
  const int64_t taps = NumTaps(g);
  const Tiles tiles = MakeTiles<Of::kQueries>(g, IsSliced(g));
  Arena arena(memory);
  Scratch<T, Of::kQueries> s(g, tiles.length, &arena);
  const auto by_width = WindowSums<T>::Of(g.width), by_depth = WindowSums<T>::Of(g.depth);
  Sum* dbias = nullptr;
  ForEachPosition<T>(
      g, tiles, {begin, end}, &s.neighbours,
      [&](int64_t slice, Range heads) {
        if (g.bias != kBiasByTap) return;
        dbias = args.partial_dbias + slice * g.heads * taps;
        memset(dbias + heads.begin * taps, 0,
               static_cast<size_t>((heads.end - heads.begin) * taps) * sizeof(Sum));
      },
      [&](int64_t position, int64_t head, int64_t count, const Neighbourhood& near) {
        const int64_t first = position * g.heads + head, there = near.base * g.heads + head;
        Sum sums[kTogether] = {}, most[kTogether] = {}, means[kTogether] = {};
        if (near.count > 0) {
          for (int64_t i = 0; i < count; ++i) {
            FindLogits(args, by_width, position, head + i, near, s.first, s.logits[i]);
            TakeChannels(args.dy + (first + i) * g.depth, g.depth, 1, s.second);
            by_depth.products(args.value + (there + i) * g.depth, near.by_depth, near.count,
                              s.second, g.depth, s.gradients[i]);
            FillTail(s.gradients[i], near.count, Sum(0));
          }
          for (int64_t i = 0; i < count; ++i) most[i] = Largest(s.logits[i], near.count);
          for (int64_t i = 0; i < count; ++i) {
            sums[i] = Exponentials(s.logits[i], near.count, most[i]);
          }
          for (int64_t i = 0; i < count; ++i) {
            means[i] = Soften(s.logits[i], near.count, 1 / sums[i], s.gradients[i]);
          }
        }
        for (int64_t i = 0; i < count; ++i) {
          const int64_t own = first + i;
          args.statistics[2 * own] = near.count > 0 ? most[i] + Log2(sums[i]) : 0;
          args.statistics[2 * own + 1] = means[i];
          by_width.weighted(args.key + (there + i) * g.width, near.by_width, near.count,
                            s.gradients[i], static_cast<Sum>(g.scale), g.width, s.result);
          if (g.width > 0) CopyElements(s.result, args.dquery + own * g.width, g.width);
          if (g.bias != kNoBias) GiveBias(args, own, head + i, near, s.gradients[i], dbias);
        }
      });
}

template <typename T>
PassPlan PlanBackwardQuery(const LocalAttentionArgs<T>& args) {
  return Plan<T, Of::kQueries>(args, IsSliced(args.geometry), Cycles(args, 2, 1));
}

// Of the queries that see a key: takes from the logits the logarithm of what their softmax is divided
// by, and from the gradients for weights their mean.
template <typename T>
void TakeStatistics(const LocalAttentionArgs<T>& args, int64_t head, const Neighbourhood& near,
                    Accumulator<T>* logits, Accumulator<T>* gradients) {
  using Sum = Accumulator<T>;
  const AttentionGeometry& g = args.geometry;
  const Sum to_base_2 = static_cast<Sum>(kLog2E);
  const int64_t taps = NumTaps(g), first = near.base * g.heads + head;
  const Sum* statistics = args.statistics + 2 * first;
  for (int64_t i = 0; i < near.count; ++i) {
    const Sum* own = statistics + 2 * near.positions[i] * g.heads;
    logits[i] -= own[0];
    gradients[i] -= own[1];
  }
  if (g.bias == kBiasByTap) {
    const T* bias = args.bias + head * taps;
    for (int64_t i = 0; i < near.count; ++i) logits[i] += ToNumber(bias[near.taps[i]]) * to_base_2;
  } else if (g.bias == kBiasByPosition) {
    const T* bias = args.bias + first * taps;
    for (int64_t i = 0; i < near.count; ++i) {
      logits[i] += ToNumber(bias[near.positions[i] * g.heads * taps + near.taps[i]]) * to_base_2;
    }
  }
  FillTail(logits, near.count, -Infinity<Sum>());
  FillTail(gradients, near.count, Sum(0));
}

template <typename T>
void BackwardKey(const LocalAttentionArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Sum = Accumulator<T>;
  using S = Simd<Sum>;
  const AttentionGeometry& g = args.geometry;
  const Tiles tiles = MakeTiles<Of::kKeys>(g, false);
  Arena arena(memory);
  Scratch<T, Of::kKeys> s(g, tiles.length, &arena);
  const auto by_width = WindowSums<T>::Of(g.width), by_depth = WindowSums<T>::Of(g.depth);
  ForEachPosition<T>(
      g, tiles, {begin, end}, &s.neighbours, [](int64_t, Range) {},
      [&](int64_t position, int64_t head, int64_t count, const Neighbourhood& near) {
        const int64_t first = position * g.heads + head;
        const T* queries = args.query + (near.base * g.heads + head) * g.width;
        const T* dy = args.dy + (near.base * g.heads + head) * g.depth;
        for (int64_t i = 0; near.count > 0 && i < count; ++i) {
          TakeChannels(args.key + (first + i) * g.width, g.width, g.scale * kLog2E, s.first);
          by_width.products(queries + i * g.width, near.by_width, near.count, s.first, g.width,
                            s.logits[i]);
          TakeChannels(args.value + (first + i) * g.depth, g.depth, 1, s.second);
          by_depth.products(dy + i * g.depth, near.by_depth, near.count, s.second, g.depth,
                            s.gradients[i]);
          TakeStatistics(args, head + i, near, s.logits[i], s.gradients[i]);
        }
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < near.count; j += S::kLanes) {
            const typename S::Vec logits = S::Load(s.logits[i] + j);
            const typename S::Vec weights = Exp2<S>(logits > Sum(0) ? typename S::Vec{} : logits);
            S::Store(s.logits[i] + j, weights);
            S::Store(s.gradients[i] + j, weights * S::Load(s.gradients[i] + j));
          }
        }
        for (int64_t i = 0; i < count; ++i) {
          const int64_t own = first + i;
          by_depth.weighted(dy + i * g.depth, near.by_depth, near.count, s.logits[i], Sum(1),
                            g.depth, s.result);
          if (g.depth > 0) CopyElements(s.result, args.dvalue + own * g.depth, g.depth);
          by_width.weighted(queries + i * g.width, near.by_width, near.count, s.gradients[i],
                            static_cast<Sum>(g.scale), g.width, s.result);
          if (g.width > 0) CopyElements(s.result, args.dkey + own * g.width, g.width);
        }
      });
}

template <typename T>
PassPlan PlanBackwardKey(const LocalAttentionArgs<T>& args) {
  return Plan<T, Of::kKeys>(args, false, Cycles(args, 2, 2));
}

template <typename T>
int64_t PartialBiasSize(const LocalAttentionArgs<T>& args) {
  const AttentionGeometry& g = args.geometry;
  if (!IsSliced(g)) return 0;
  return MakeTiles<Of::kQueries>(g, true).slices * g.heads * NumTaps(g);
}

// Units are heads.
template <typename T>
void SumBias(const LocalAttentionArgs<T>& args, int64_t begin, int64_t end, void*) {
  using Sum = Accumulator<T>;
  const AttentionGeometry& g = args.geometry;
  const int64_t taps = NumTaps(g), slices = MakeTiles<Of::kQueries>(g, true).slices;
  for (int64_t i = begin * taps; i < end * taps; ++i) {
    Sum sum = 0;
    for (int64_t slice = 0; slice < slices; ++slice) {
      sum += args.partial_dbias[slice * g.heads * taps + i];
    }
    StoreNumber(args.dbias + i, sum);
  }
}

template <typename T>
PassPlan PlanSumBias(const LocalAttentionArgs<T>& args) {
  const AttentionGeometry& g = args.geometry;
  if (!IsSliced(g)) return {0, 0, 0};
  return {g.heads, NumTaps(g) * (1 + MakeTiles<Of::kQueries>(g, true).slices), 0};
}

template <typename T>
LocalAttentionKernels<T> Table() {
  LocalAttentionKernels<T> kernels;
  kernels.forward = {PlanForward<T>, Forward<T>};
  kernels.backward_query = {PlanBackwardQuery<T>, BackwardQuery<T>};
  kernels.backward_key = {PlanBackwardKey<T>, BackwardKey<T>};
  kernels.sum_dbias = {PlanSumBias<T>, SumBias<T>};
  kernels.partial_dbias_size = PartialBiasSize<T>;
  return kernels;
}

}  // namespace

void GetKernels(LocalAttentionKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(LocalAttentionKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
void GetKernels(LocalAttentionKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(LocalAttentionKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
