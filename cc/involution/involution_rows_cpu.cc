#include "involution/involution_rows.h"

#include <stdint.h>

#include "common/element_types.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

// Every weight is read once. Those of the block after the next are fetched meanwhile, a few at
// every step.
struct Fetch {
  template <typename T, Direction kDirection>
  Fetch(const Row<T, kDirection>& row, int64_t position, int64_t count, int lanes)
      : next(reinterpret_cast<uintptr_t>(row.KernelOf(position + 2 * count))), lines(0) {
    if (!row.fetch) return;
    const int64_t size = count * row.kernel_step * static_cast<int64_t>(sizeof(Accumulator<T>));
    const int64_t steps = CeilDiv(row.channels, lanes) * row.num_lines;
    lines = CeilDiv(size, 64 * Max<int64_t>(1, steps));
  }

  TFCONV_INLINE void Step() {
    for (int64_t i = 0; i < lines; ++i, next += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
    }
  }

  uintptr_t next;
  int64_t lines;  // of the cache, at a step
};

// One vector of channels of kCount neighbours of one row with stride and dilation 1: each vector of
// x or dx that is loaded serves all the positions that reach it. weight(p, t) is that of a position
// and a tap, a number or a vector of them.
template <typename S, int kTaps, int kCount, typename T, Direction kDirection, typename Weight>
TFCONV_INLINE void DenseChannels(const Row<T, kDirection>& row, int64_t position, int64_t c,
                                 const Weight& weight, Fetch* fetch) {
  using Vec = typename S::Vec;
  constexpr bool kForward = kDirection == Direction::kForward;
  constexpr int kColumns = kCount + kTaps - 1;
  const int64_t first = position - row.axis.pad - row.columns.begin;
  const int64_t columns = row.columns.end - row.columns.begin;
  Vec sum[kCount] = {};
  if (!kForward) {
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p) {
      sum[p] = S::Load(row.dy + (position + p) * row.output_step + c);
    }
  }
  for (int64_t l = 0; l < row.num_lines; ++l) {
    auto* line = row.lines[l].data + c;
    const int64_t first_tap = row.lines[l].first_tap;
    fetch->Step();
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      const int64_t column = first + j;
      if (column < 0 || column >= columns) continue;
      Vec v = S::Load(line + column * row.line_step);
#pragma GCC unroll 16
      for (int p = 0; p < kCount; ++p) {
        const int tap = j - p;
        if (tap < 0 || tap >= kTaps) continue;
        if constexpr (kForward) {
          sum[p] += v * weight(p, first_tap + tap);
        } else {
          v += sum[p] * weight(p, first_tap + tap);
        }
      }
      if constexpr (!kForward) S::Store(line + column * row.line_step, v);
    }
  }
  if constexpr (kForward) {
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p) S::Store(row.y + (position + p) * row.output_step + c, sum[p]);
  }
}

// Groups that are multiples of the vector: weights are broadcast straight from memory.
template <typename S, int kTaps, int kCount, typename T, Direction kDirection>
void DenseBlock(const Row<T, kDirection>& row, int64_t position) {
  const int64_t kernel_step = row.kernel_step;
  const Accumulator<T>* weights = row.KernelOf(position);
  Fetch fetch(row, position, kCount, S::kLanes);
  int64_t group_end = row.channels_per_group;
  for (int64_t c = 0; c < row.channels; c += S::kLanes) {
    if (c == group_end) {
      group_end += row.channels_per_group;
      weights += row.taps;
    }
    const auto weight = [&](int p, int64_t tap) { return weights[p * kernel_step + tap]; };
    DenseChannels<S, kTaps, kCount>(row, position, c, weight, &fetch);
  }
}

template <typename S, int kTaps, typename T, Direction kDirection>
void DenseSegment(const Row<T, kDirection>& row, Range positions) {
  const int64_t end = positions.end;
  int64_t p = positions.begin;
  if (kDirection == Direction::kForward && end - p >= kPositions) {
    // The last block overlaps the one before: computing a few positions twice is cheaper than
    // finishing with shorter blocks.
    for (; p < end; p += kPositions) {
      DenseBlock<S, kTaps, kPositions>(row, Min(p, end - kPositions));
    }
    return;
  }
  for (; p + kPositions <= end; p += kPositions) DenseBlock<S, kTaps, kPositions>(row, p);
  for (; p + 4 <= end; p += 4) DenseBlock<S, kTaps, 4>(row, p);
  for (; p < end; ++p) DenseBlock<S, kTaps, 1>(row, p);
}

// Any stride and dilation: kVecs vectors of channels at one position. Neighbouring vectors may
// belong to different groups.
template <typename S, int kVecs, typename T, Direction kDirection>
TFCONV_INLINE void StridedChannels(const Row<T, kDirection>& row, int64_t position,
                                   const Taps& taps, int64_t c, const Accumulator<T>* weights) {
  using Vec = typename S::Vec;
  constexpr bool kForward = kDirection == Direction::kForward;
  const int64_t pixel_step = row.axis.dilation * row.line_step;
  Vec sum[kVecs] = {};
  int64_t offset[kVecs];
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    offset[v] = row.group_of[c + v * S::kLanes] * row.taps;
    if (!kForward) sum[v] = S::Load(row.dy + position * row.output_step + c + v * S::kLanes);
  }
  for (int64_t l = 0; l < row.num_lines; ++l) {
    auto* pixel = row.lines[l].data + taps.first_index * row.line_step + c;
    const Accumulator<T>* tap_weights = weights + row.lines[l].first_tap + taps.first_tap;
    for (int64_t i = 0; i < taps.count; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const Vec x = S::Load(pixel + v * S::kLanes);
        if constexpr (kForward) {
          sum[v] += x * tap_weights[offset[v]];
        } else {
          S::Store(pixel + v * S::kLanes, x + sum[v] * tap_weights[offset[v]]);
        }
      }
      pixel += pixel_step;
      ++tap_weights;
    }
  }
  if constexpr (kForward) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      S::Store(row.y + position * row.output_step + c + v * S::kLanes, sum[v]);
    }
  }
}

template <typename S, typename T, Direction kDirection>
void StridedSegment(const Row<T, kDirection>& row, Range positions) {
  for (int64_t p = positions.begin; p < positions.end; ++p) {
    const Taps taps = FindTaps(row.axis, p, row.columns.begin, row.columns.end);
    const Accumulator<T>* weights = row.KernelOf(p);
    int64_t c = 0;
    for (; c + 4 * S::kLanes <= row.channels; c += 4 * S::kLanes) {
      StridedChannels<S, 4>(row, p, taps, c, weights);
    }
    for (; c < row.channels; c += S::kLanes) {
      StridedChannels<S, 1>(row, p, taps, c, weights);
    }
  }
}

// Rearranges the weights of kLanes channels or groups by taps: weights[t * kLanes + lane], for the
// taps [begin, end), with room for kLanes vectors behind. `offset` are those of their kernels in
// `kernel`, in ascending order. Not inline: many functions call it, for whole positions.
template <typename S, typename Sum>
__attribute__((noinline)) void TransposeWeights(const Sum* kernel, const Sum* kernel_end,
                                                const int64_t* offset, int64_t begin, int64_t end,
                                                Sum* weights) {
  constexpr int kLanes = S::kLanes;
  const int64_t readable = kernel_end - kernel - offset[kLanes - 1];
  int64_t t = begin;
  // A few taps left over are copied one by one.
  for (; t + kLanes / 8 < end; t += kLanes) {
    typename S::Vec vectors[kLanes];
    if (t + kLanes <= readable) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) vectors[i] = S::Load(kernel + offset[i] + t);
    } else {
      for (int i = 0; i < kLanes; ++i) {
        vectors[i] = S::LoadFirst(kernel + offset[i] + t, Min<int64_t>(kLanes, end - t));
      }
    }
    S::Transpose(vectors);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) S::Store(weights + (t + i) * kLanes, vectors[i]);
  }
  for (; t < end; ++t) {
    for (int i = 0; i < kLanes; ++i) weights[t * kLanes + i] = kernel[offset[i] + t];
  }
}

// One vector of channels at one position, every lane with a weight of its own: weight(t). The last
// vector of a position is partial; `count` is its number of lanes.
template <typename S, bool kPartial, typename T, Direction kDirection, typename Weight>
TFCONV_INLINE void MixedChannels(const Row<T, kDirection>& row, int64_t position, int64_t c,
                                 int64_t count, const Weight& weight) {
  using Vec = typename S::Vec;
  constexpr bool kForward = kDirection == Direction::kForward;
  const auto load = [&](const auto* p) { return kPartial ? S::LoadFirst(p, count) : S::Load(p); };
  const auto store = [&](auto* p, Vec v) {
    kPartial ? S::StoreFirst(p, v, count) : S::Store(p, v);
  };
  const Taps taps = FindTaps(row.axis, position, row.columns.begin, row.columns.end);
  Vec sum = {};
  if (!kForward) sum = load(row.dy + position * row.output_step + c);
  for (int64_t l = 0; l < row.num_lines; ++l) {
    auto* pixel = row.lines[l].data + taps.first_index * row.line_step + c;
    const int64_t first_tap = row.lines[l].first_tap + taps.first_tap;
    for (int64_t i = 0; i < taps.count; ++i) {
      const Vec x = load(pixel);
      if constexpr (kForward) {
        sum += x * weight(first_tap + i);
      } else {
        store(pixel, x + sum * weight(first_tap + i));
      }
      pixel += row.axis.dilation * row.line_step;
    }
  }
  if constexpr (kForward) store(row.y + position * row.output_step + c, sum);
}

// Lanes of groups and not of channels are rearranged, and dealt out to the channels afterwards.
template <typename S>
constexpr bool kCanPermute = S::kLanes > 4;

// Elements of the rearranged weights of one position.
template <typename S>
int64_t MixedSize(int64_t taps) {
  return (taps + S::kLanes) * S::kLanes;
}

constexpr int kMixedPositions = 4;

// Groups for which RowBytes() is 0. kTaps is 0 unless stride and dilation are 1.
template <typename S, int kTaps, int kCount, bool kPermuted, typename T, Direction kDirection>
void MixedBlock(const Row<T, kDirection>& row, int64_t position, int64_t begin_tap,
                int64_t end_tap) {
  constexpr int kLanes = S::kLanes;
  const int64_t size = MixedSize<S>(row.taps);
  const int64_t step = kPermuted ? kLanes * row.channels_per_group : kLanes;
  Fetch fetch(row, position, kCount, kLanes);
  for (int64_t first = 0; first < row.channels; first += step) {
    int64_t offset[kLanes];
    typename S::Index index[kLanes];
    const int64_t first_group = row.group_of[first];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t group = kPermuted ? first_group + i : row.group_of[first + i];
      offset[i] = Min(group, row.groups - 1) * row.taps;
    }
    for (int p = 0; p < kCount; ++p) {
      TransposeWeights<S>(row.KernelOf(position + p), row.kernel_end, offset, begin_tap, end_tap,
                          row.weights + p * size);
    }
    const int64_t end = Min(first + step, row.channels);
    for (int64_t c = first; c < end; c += kLanes) {
      if (kPermuted) {
        for (int i = 0; i < kLanes; ++i) {
          index[i] = row.group_of[c + i] - static_cast<typename S::Index>(first_group);
        }
      }
      const auto weight = [&](int p, int64_t tap) {
        const typename S::Vec weights = S::Load(row.weights + p * size + tap * kLanes);
        if constexpr (kPermuted) return S::Permute(weights, index);
        return weights;
      };
      const int64_t count = Min<int64_t>(kLanes, end - c);
      if constexpr (kTaps > 0) {
        if (count == kLanes) {
          DenseChannels<S, kTaps, kCount>(row, position, c, weight, &fetch);
          continue;
        }
      }
      for (int p = 0; p < kCount; ++p) {
        const auto of_position = [&](int64_t tap) { return weight(p, tap); };
        if (count == kLanes) {
          MixedChannels<S, false>(row, position + p, c, count, of_position);
        } else {
          MixedChannels<S, true>(row, position + p, c, count, of_position);
        }
      }
    }
  }
}

template <typename S, int kTaps, bool kPermuted, typename T, Direction kDirection>
void MixedSegment(const Row<T, kDirection>& row, Range positions) {
  int64_t begin_tap = row.taps;
  int64_t end_tap = 0;
  for (int64_t l = 0; l < row.num_lines; ++l) {
    begin_tap = Min(begin_tap, row.lines[l].first_tap);
    end_tap = Max(end_tap, row.lines[l].first_tap + row.axis.kernel);
  }
  int64_t p = positions.begin;
  for (; p + kMixedPositions <= positions.end; p += kMixedPositions) {
    MixedBlock<S, kTaps, kMixedPositions, kPermuted>(row, p, begin_tap, end_tap);
  }
  for (; p < positions.end; ++p) MixedBlock<S, kTaps, 1, kPermuted>(row, p, begin_tap, end_tap);
}

// Whether taps are unrolled for some sizes of windows; for float64 that would take longer to compile
// than it is worth.
template <typename T>
constexpr bool kUnrolls = sizeof(Accumulator<T>) == 4;

template <typename T, Direction kDirection>
bool IsDense(const Row<T, kDirection>& row) {
  return row.axis.stride == 1 && row.axis.dilation == 1;
}

template <typename S, bool kPermuted, typename T, Direction kDirection>
void MixedSegments(const Row<T, kDirection>& row, Range positions) {
  if constexpr (kUnrolls<T>) {
    if (IsDense(row)) {
      if (row.axis.kernel == 3) return MixedSegment<S, 3, kPermuted>(row, positions);
      if (row.axis.kernel == 7) return MixedSegment<S, 7, kPermuted>(row, positions);
    }
  }
  MixedSegment<S, 0, kPermuted>(row, positions);
}

template <typename S, typename T, Direction kDirection>
void AlignedSegment(const Row<T, kDirection>& row, Range positions) {
  if constexpr (kUnrolls<T>) {
    if (IsDense(row)) {
      switch (row.axis.kernel) {
        case 3:
          return DenseSegment<S, 3>(row, positions);
        case 5:
          return DenseSegment<S, 5>(row, positions);
        case 7:
          return DenseSegment<S, 7>(row, positions);
        case 9:
          return DenseSegment<S, 9>(row, positions);
        default:
          break;
      }
    }
  }
  StridedSegment<S>(row, positions);
}

// The vectors for broadcast weights: the widest, or half of it, but with elements that are
// converted only the widest. Code for more would take longer to compile than it is worth. 0 means
// that weights are rearranged.
template <typename T>
int RowBytes(int64_t channels_per_group) {
  const int bytes = AlignedBytes<Accumulator<T>>(channels_per_group);
  const int fewest = kIsHalf<T> || kVecBytes == 16 ? kVecBytes : kVecBytes / 2;
  return bytes < fewest ? 0 : bytes;
}

}  // namespace

template <typename T>
int64_t RearrangedSize(int64_t channels_per_group, int64_t taps) {
  if (RowBytes<T>(channels_per_group) > 0) return 0;
  return kMixedPositions * MixedSize<Simd<Accumulator<T>>>(taps);
}

template <typename T, Direction kDirection>
void RunSegment(const Row<T, kDirection>& row, Range positions) {
  using Sum = Accumulator<T>;
  using S = Simd<Sum>;
  const int bytes = RowBytes<T>(row.channels_per_group);
  if (bytes == kVecBytes) return AlignedSegment<S>(row, positions);
  if constexpr (kVecBytes > 16 && !kIsHalf<T>) {
    if (bytes > 0) return AlignedSegment<Simd<Sum, kVecBytes / 2>>(row, positions);
  }
  if constexpr (kCanPermute<S>) {
    if (row.channels_per_group > 1) return MixedSegments<S, true>(row, positions);
  }
  MixedSegments<S, false>(row, positions);
}

#define TFCONV_ROWS(T)                                                                       \
  template int64_t RearrangedSize<T>(int64_t, int64_t);                                      \
  template void RunSegment(const Row<T, Direction::kForward>& row, Range positions);         \
  template void RunSegment(const Row<T, Direction::kBackward>& row, Range positions);
TFCONV_ROWS(Half)
TFCONV_ROWS(Bfloat16)
TFCONV_ROWS(float)
TFCONV_ROWS(double)

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
