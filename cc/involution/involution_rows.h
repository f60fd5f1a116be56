// Rows of the involution, forward and for the gradient for x: results that gather what they need.
#ifndef TFCONV_INVOLUTION_INVOLUTION_ROWS_H_
#define TFCONV_INVOLUTION_INVOLUTION_ROWS_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/vec.h"
#include "involution/involution_kernel.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Positions of a row that share each loaded input vector.
constexpr int kPositions = 8;

// A tap of one axis and the position that it leads to.
struct Tap {
  int64_t tap;
  int64_t index;
};

// The taps of one axis that lead from `position` to an existing element of the other side: from
// output to input, or with kTransposed from input to output.
template <bool kTransposed>
int64_t FindTaps(const ConvAxis& axis, int64_t position, Tap* taps) {
  int64_t count = 0;
  for (int64_t t = 0; t < axis.kernel; ++t) {
    int64_t index;
    if (kTransposed) {
      const int64_t distance = position + axis.pad - t * axis.dilation;
      if (distance < 0 || distance % axis.stride != 0) continue;
      index = distance / axis.stride;
      if (index >= axis.output) continue;
    } else {
      index = position * axis.stride - axis.pad + t * axis.dilation;
      if (index < 0 || index >= axis.input) continue;
    }
    taps[count++] = {t, index};
  }
  return count;
}

// One line of the gathered tensor (x, or dy with kTransposed) that a row of results reads, and the
// kernels that weigh it: those of the row itself, or with kTransposed those of the line.
template <typename T>
struct Line {
  const T* in;
  const T* weights;
};

// A row of results and all that it reads. Forward and the gradient for x are the same sum; they
// differ in whose kernels are read and in where a tap leads.
template <typename T>
struct Row {
  ConvAxis axis;
  int64_t channels;
  int64_t channels_per_group;
  int64_t taps;           // of all axes
  int64_t kernel_stride;  // elements of one position's kernels
  int64_t gathered;       // length of a line
  const Line<T>* lines;
  int64_t num_lines;
  Tap* column_taps;               // room for the taps of the row's own axis
  const int32_t* channel_offset;  // of each channel's kernel
  T* out;
};

// kPositions neighbours of one row with stride and dilation 1: each loaded vector serves all the
// positions that it reaches, and weights are broadcast straight from memory.
template <typename S, int kTaps, int kCount, bool kTransposed>
void DenseBlock(const Row<typename S::Scalar>& row, int64_t position) {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  constexpr int kColumns = kCount + kTaps - 1;
  const int64_t channels = row.channels;
  const int64_t kernel_stride = row.kernel_stride;
  const int64_t first =
      kTransposed ? position + row.axis.pad - (kTaps - 1) : position - row.axis.pad;
  const int64_t gathered = row.gathered;
  int64_t group_end = row.channels_per_group;
  int64_t group_offset = 0;
  // Every weight is read once. Those of the block after the next are fetched meanwhile, a few at
  // every step.
  uintptr_t fetched = 0;
  int64_t fetched_per_step = 0;
  if (!kTransposed && row.num_lines > 0) {
    const int64_t bytes = kCount * kernel_stride * static_cast<int64_t>(sizeof(T));
    fetched = reinterpret_cast<uintptr_t>(row.lines[0].weights + position * kernel_stride) +
              static_cast<uintptr_t>(2 * bytes);
    fetched_per_step = CeilDiv(bytes, 64 * CeilDiv(channels, S::kLanes) * row.num_lines);
  }
  for (int64_t c = 0; c < channels; c += S::kLanes) {
    if (c == group_end) {
      group_end += row.channels_per_group;
      group_offset += row.taps;
    }
    Vec sum[kCount] = {};
    for (int64_t l = 0; l < row.num_lines; ++l) {
      const T* in = row.lines[l].in + c;
      const T* weights = row.lines[l].weights + group_offset;
      if (!kTransposed) {
        weights += position * kernel_stride;
        for (int64_t i = 0; i < fetched_per_step; ++i, fetched += 64) {
          __builtin_prefetch(reinterpret_cast<const void*>(fetched), 0, 2);
        }
      }
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        const int64_t column = first + j;
        if (column < 0 || column >= gathered) continue;
        const Vec v = S::Load(in + column * channels);
#pragma GCC unroll 16
        for (int p = 0; p < kCount; ++p) {
          const int tap = kTransposed ? p + kTaps - 1 - j : j - p;
          if (tap < 0 || tap >= kTaps) continue;
          sum[p] += v * weights[(kTransposed ? column : p) * kernel_stride + tap];
        }
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p) S::Store(row.out + (position + p) * channels + c, sum[p]);
  }
}

template <typename S, int kTaps, bool kTransposed>
void DenseSegment(const Row<typename S::Scalar>& row, int64_t begin, int64_t end) {
  if (end - begin >= kPositions) {
    // The last block overlaps the one before: computing a few positions twice is cheaper than
    // finishing with shorter blocks.
    for (int64_t p = begin; p < end; p += kPositions) {
      DenseBlock<S, kTaps, kPositions, kTransposed>(row, Min(p, end - kPositions));
    }
    return;
  }
  int64_t p = begin;
  for (; p + 3 < end; p += 4) DenseBlock<S, kTaps, 4, kTransposed>(row, p);
  for (; p < end; ++p) DenseBlock<S, kTaps, 1, kTransposed>(row, p);
}

// Any stride and dilation: kVecs vectors of channels at one position. Neighbouring vectors may
// belong to different groups.
template <typename S, int kVecs, bool kTransposed>
TFCONV_INLINE void StridedChannels(const Row<typename S::Scalar>& row, int64_t position,
                                   int64_t num_taps, int64_t c) {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  Vec sum[kVecs] = {};
  int64_t offset[kVecs];
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) offset[v] = row.channel_offset[c + v * S::kLanes];
  for (int64_t l = 0; l < row.num_lines; ++l) {
    for (int64_t i = 0; i < num_taps; ++i) {
      const Tap tap = row.column_taps[i];
      const T* in = row.lines[l].in + tap.index * row.channels + c;
      const T* weights =
          row.lines[l].weights + (kTransposed ? tap.index : position) * row.kernel_stride + tap.tap;
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[v] += S::Load(in + v * S::kLanes) * weights[offset[v]];
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    S::Store(row.out + position * row.channels + c + v * S::kLanes, sum[v]);
  }
}

template <typename S, bool kTransposed>
void StridedSegment(const Row<typename S::Scalar>& row, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    const int64_t num_taps = FindTaps<kTransposed>(row.axis, p, row.column_taps);
    int64_t c = 0;
    for (; c + 4 * S::kLanes <= row.channels; c += 4 * S::kLanes) {
      StridedChannels<S, 4, kTransposed>(row, p, num_taps, c);
    }
    for (; c < row.channels; c += S::kLanes) {
      StridedChannels<S, 1, kTransposed>(row, p, num_taps, c);
    }
  }
}

// Groups that are no multiple of any vector: every lane has a weight of its own. The last vector of
// a position may be partial; `count` is its number of lanes.
template <typename S, bool kTransposed, bool kPartial>
TFCONV_INLINE void MixedChannels(const Row<typename S::Scalar>& row, int64_t position,
                                 int64_t num_taps, int64_t c, int64_t count) {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  const size_t bytes = static_cast<size_t>(count) * sizeof(T);
  const int32_t* offset = row.channel_offset + c;
  Vec sum = {};
  for (int64_t l = 0; l < row.num_lines; ++l) {
    for (int64_t i = 0; i < num_taps; ++i) {
      const Tap tap = row.column_taps[i];
      const T* in = row.lines[l].in + tap.index * row.channels + c;
      const T* weights =
          row.lines[l].weights + (kTransposed ? tap.index : position) * row.kernel_stride + tap.tap;
      T lanes[S::kLanes];
      for (int lane = 0; lane < S::kLanes; ++lane) lanes[lane] = weights[offset[lane]];
      Vec v = {};
      if (kPartial) {
        memcpy(&v, in, bytes);
      } else {
        v = S::Load(in);
      }
      sum += v * S::Load(lanes);
    }
  }
  T* out = row.out + position * row.channels + c;
  if (kPartial) {
    memcpy(out, &sum, bytes);
  } else {
    S::Store(out, sum);
  }
}

template <typename S, bool kTransposed>
void MixedSegment(const Row<typename S::Scalar>& row, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    const int64_t num_taps = FindTaps<kTransposed>(row.axis, p, row.column_taps);
    int64_t c = 0;
    for (; c + S::kLanes <= row.channels; c += S::kLanes) {
      MixedChannels<S, kTransposed, false>(row, p, num_taps, c, S::kLanes);
    }
    if (c < row.channels) {
      MixedChannels<S, kTransposed, true>(row, p, num_taps, c, row.channels - c);
    }
  }
}

template <typename S, bool kTransposed>
void AlignedSegment(const Row<typename S::Scalar>& row, int64_t begin, int64_t end) {
  if (row.axis.stride == 1 && row.axis.dilation == 1) {
    switch (row.axis.kernel) {
      case 3:
        return DenseSegment<S, 3, kTransposed>(row, begin, end);
      case 5:
        return DenseSegment<S, 5, kTransposed>(row, begin, end);
      case 7:
        return DenseSegment<S, 7, kTransposed>(row, begin, end);
      case 9:
        return DenseSegment<S, 9, kTransposed>(row, begin, end);
      default:
        break;
    }
  }
  StridedSegment<S, kTransposed>(row, begin, end);
}

// The widest vector of which the channels of a group are a multiple; 0 if there is none.
template <typename T>
int AlignedBytes(int64_t channels_per_group) {
  const int64_t bytes = channels_per_group * static_cast<int64_t>(sizeof(T));
  if (bytes == 0) return 0;
  if (kVecBytes >= 64 && bytes % 64 == 0) return 64;
  if (kVecBytes >= 32 && bytes % 32 == 0) return 32;
  return bytes % 16 == 0 ? 16 : 0;
}

// `S` is never wider than the instruction set: the conditions fold at compile time.
template <typename T, bool kTransposed>
void RunSegment(const Row<T>& row, int64_t begin, int64_t end) {
  const int bytes = AlignedBytes<T>(row.channels_per_group);
  if constexpr (kVecBytes >= 64) {
    if (bytes == 64) return AlignedSegment<Simd<T, 64>, kTransposed>(row, begin, end);
  }
  if constexpr (kVecBytes >= 32) {
    if (bytes == 32) return AlignedSegment<Simd<T, 32>, kTransposed>(row, begin, end);
  }
  if (bytes == 16) return AlignedSegment<Simd<T, 16>, kTransposed>(row, begin, end);
  MixedSegment<Simd<T>, kTransposed>(row, begin, end);
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_ROWS_H_
