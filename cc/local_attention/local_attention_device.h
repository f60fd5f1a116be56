// What the CUDA kernels of local attention share: the loops over the keys that a query sees and
// over the queries that see a key, and sums over the channels of a head, which neighbouring lanes
// have.
#ifndef TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_DEVICE_H_
#define TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_DEVICE_H_

#include <stdint.h>

#include <limits>

#include "common/cuda_device.h"
#include "local_attention/local_attention_kernel.h"
#include "local_attention/window_device.h"

namespace tfconv {
namespace cuda {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
template <typename Acc>
constexpr Acc kLowest = std::numeric_limits<Acc>::lowest();

TFCONV_DEVICE float Exp2(float x) { return exp2f(x); }
TFCONV_DEVICE double Exp2(double x) { return exp2(x); }
TFCONV_DEVICE float Log2(float x) { return log2f(x); }
TFCONV_DEVICE double Log2(double x) { return log2(x); }

template <typename T>
struct Attention {
  LocalAttentionArgs<T> args;
  WindowAxis axis[kMaxSpatialAxes];
  Planes planes;  // of the results
  Lanes lanes;    // along the channels of a head
  Divisor by_heads;
  int width;
  int depth;
  int taps;
  int width_pitch;  // bytes between positions: of queries and keys
  int depth_pitch;  // of values
  int bias_pitch;   // of biases; 0 by tap
  int statistics_pitch;
  bool wide;  // whether all tensors' channels lie on 16 bytes
  Accumulator<T> scale;
  Accumulator<T> logit_scale;  // to base 2
  Accumulator<T>* dlogits;     // [N, output, heads, taps], or null

  TFCONV_DEVICE int heads() const { return by_heads.value; }

  // The elements of a head, from the position on that a line begins with.
  template <typename U>
  TFCONV_DEVICE U* Line(U* tensor, int64_t position, int head, int64_t elements) const {
    return tensor + (position * heads() + head) * elements;
  }

  TFCONV_DEVICE const T* Bias(int64_t position, int head) const {
    if (args.geometry.bias == kBiasByTap) return args.bias + static_cast<int64_t>(head) * taps;
    return args.geometry.bias == kNoBias ? nullptr : Line(args.bias, position, head, taps);
  }

  // Products as logits to base 2, minus infinity for what takes no part. The bias is that of a head
  // at the first position of a line, and `pitch` the bytes from there to the next.
  template <typename Piece>
  TFCONV_DEVICE void ToLogits(const T* bias, int pitch, const Piece& piece,
                              Accumulator<T> (&products)[Piece::kTaps]) const {
    using Acc = Accumulator<T>;
#pragma unroll
    for (int i = 0; i < Piece::kTaps; ++i) {
      products[i] = piece.present[i] ? products[i] * logit_scale : static_cast<Acc>(-kInfinity);
    }
    if (bias == nullptr) return;
#pragma unroll
    for (int i = 0; i < Piece::kTaps; ++i) {
      const T* const own = At(bias, piece.index[i], pitch) + piece.tap[i];
      const Acc added = Widen(LoadIf<T, 1>(piece.present[i], own).value[0]);
      products[i] += added * static_cast<Acc>(kLog2E);
    }
  }

  // Gradients for the logits of a query, as those for its bias.
  template <typename Piece>
  TFCONV_DEVICE void GiveBias(int64_t position, int head, const Piece& piece,
                              const Accumulator<T> (&gradients)[Piece::kTaps]) const {
    if (lanes.lane() != 0) return;
#pragma unroll
    for (int i = 0; i < Piece::kTaps; ++i) {
      if (piece.tap[i] >= piece.end) continue;
      if (dlogits != nullptr) {
        Line(dlogits, position, head, taps)[piece.tap[i]] = gradients[i];
      } else {
        Line(args.dbias, position, head, taps)[piece.tap[i]] = Narrow<T>(gradients[i]);
      }
    }
  }
};

// Which results a row of lanes has.
struct Row {
  int position;  // of a plane
  int head;
  bool active;  // lanes beyond the last row only stay for the sums, with what others read

  template <typename T>
  TFCONV_DEVICE explicit Row(const Attention<T>& task) {
    const int index = task.lanes.row();
    position = task.by_heads.Divide(index);
    head = index - position * task.heads();
    active = position < task.planes.positions;
    if (!active) position = 0;
  }
};

// The softmax of a window, of which logits come a few at a time.
template <typename Acc>
struct Softmax {
  Acc most = kLowest<Acc>;  // to base 2
  Acc total = 0;            // of the weights, which are relative to it

  // Turns logits into weights, and returns the factor by which earlier ones shrink.
  template <int kTaps>
  TFCONV_DEVICE Acc Add(Acc (&logits)[kTaps]) {
    const Acc before = most;
#pragma unroll
    for (int i = 0; i < kTaps; ++i) most = Max(most, logits[i]);
    const Acc shrink = Exp2(before - most);
    total *= shrink;
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      logits[i] = Exp2(logits[i] - most);
      total += logits[i];
    }
    return shrink;
  }

  // Where nothing is seen, results are zero.
  TFCONV_DEVICE Acc Inverse() const { return total == 0 ? 0 : 1 / total; }
};

// Some positions of a line, each with the tap by which it is seen, or sees.
template <int kSize>
struct Piece {
  static constexpr int kTaps = kSize;

  int index[kSize];
  int tap[kSize];  // of all axes
  bool present[kSize];
  int end;  // of the taps of the line
};

// Calls run(line, piece) for the keys of a query, where a line is its first position in a tensor;
// if `all`, for taps that see nothing, too.
template <int kTaps, typename T, typename Run>
TFCONV_DEVICE void ForEachKey(const Attention<T>& task, const Position& at, bool all,
                              const Run& run) {
  const WindowAxis& depth = task.axis[0];
  const WindowAxis& height = task.axis[1];
  const WindowAxis& width = task.axis[2];
  const WindowOfQuery planes = FindWindow(depth, at.d);
  const WindowOfQuery lines = FindWindow(height, at.h);
  const WindowOfQuery columns = FindWindow(width, at.w);
  int tap = 0;
#pragma unroll 1
  for (int i = 0; i < depth.kernel; ++i) {
    const int d = planes.first + i * depth.dilation;
    const bool has_plane = Inside(d, planes.end);  // of all lanes: they are in one plane
    if (!has_plane && !all) {
      tap += height.kernel * width.kernel;
      continue;
    }
#pragma unroll 1
    for (int j = 0; j < height.kernel; ++j, tap += width.kernel) {
      const int h = lines.first + j * height.dilation;
      const bool inside = has_plane && Inside(h, lines.end);
      const int64_t line =
          ((static_cast<int64_t>(at.image) * depth.input + d) * height.input + h) * width.input;
#pragma unroll 1
      for (int k = 0; k < width.kernel; k += kTaps) {
        Piece<kTaps> piece;
        piece.end = tap + width.kernel;
#pragma unroll
        for (int n = 0; n < kTaps; ++n) {
          piece.index[n] = columns.first + (k + n) * width.dilation;
          piece.tap[n] = tap + k + n;
          piece.present[n] =
              inside && k + n < width.kernel && Inside(piece.index[n], columns.end);
        }
        run(line, piece);
      }
    }
  }
}

// The largest number that a lane of the warp has.
TFCONV_DEVICE int MaxOfWarp(int number) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    number = Max(number, __shfl_xor_sync(0xffffffffu, number, distance));
  }
  return number;
}

// The same for the queries that see a key.
template <int kTaps, bool kExact, typename T, typename Run>
TFCONV_DEVICE void ForEachQuery(const Attention<T>& task, const Position& at, const Run& run) {
  const WindowAxis& depth = task.axis[0];
  const WindowAxis& height = task.axis[1];
  const WindowAxis& width = task.axis[2];
  const Viewers<kExact> planes(depth, at.d), lines(height, at.h), columns(width, at.w);
  const int most_lines = MaxOfWarp(lines.count), most_columns = MaxOfWarp(columns.count);
#pragma unroll 1
  for (int i = 0; i < planes.count; ++i) {
    const int plane_tap = planes.Tap(depth, i);
    if (plane_tap < 0) continue;  // of all lanes
    const int d = planes.first + i * planes.step;
#pragma unroll 1
    for (int j = 0; j < most_lines; ++j) {
      const int line_tap = lines.Tap(height, j);
      const bool has_line = j < lines.count && line_tap >= 0;
      const int h = lines.first + j * lines.step;
      const int tap = (plane_tap * height.kernel + line_tap) * width.kernel;
      const int64_t line =
          ((static_cast<int64_t>(at.image) * depth.output + d) * height.output + h) * width.output;
#pragma unroll 1
      for (int k = 0; k < most_columns; k += kTaps) {
        Piece<kTaps> piece;
        piece.end = 0;
#pragma unroll
        for (int n = 0; n < kTaps; ++n) {
          const int own = columns.Tap(width, k + n);
          piece.index[n] = columns.first + (k + n) * columns.step;
          piece.tap[n] = tap + own;
          piece.present[n] = has_line && k + n < columns.count && own >= 0;
        }
        run(line, piece);
      }
    }
  }
}

// What a lane has of the channels of a head: kVector of them, and if they are more than all lanes
// have, others in further turns. kFast: they lie on 16 bytes, and there are no further turns.
template <typename T, bool kFast>
struct Channels {
  static constexpr int kCount = kVector<T>;
  using Acc = Accumulator<T>;
  using Elements = Pack<T, kCount>;

  int width;
  int pitch;  // bytes between positions
  int first;  // of the lane
  int step;   // to the next turn
  bool wide;

  TFCONV_DEVICE Channels(const Attention<T>& task, int channels, int pitch_)
      : width(channels),
        pitch(pitch_),
        first(task.lanes.lane() * kCount),
        step(task.lanes.count() * kCount),
        wide(task.wide) {}

  // From a channel on; zeros beyond the last.
  TFCONV_DEVICE Elements Get(const T* head, int channel, bool present) const {
    if constexpr (kFast) {
      return LoadIf<T, kCount>(present && channel < width, head + channel);
    } else {
      const int count = present ? Min(kCount, Max(0, width - channel)) : 0;
      return Load<T, kCount>(head + channel, count, wide);
    }
  }

  TFCONV_DEVICE void Put(T* head, int channel, const Acc (&values)[kCount]) const {
    if constexpr (kFast) {
      if (channel < width) Store<T, kCount>(head + channel, values);
    } else {
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        if (channel + n < width) head[channel + n] = Narrow<T>(values[n]);
      }
    }
  }

  // A position whose products with others are wanted.
  struct Own {
    const T* head;
    Elements elements;  // kFast
  };

  TFCONV_DEVICE Own Take(const T* head) const {
    Own own = {head, {}};
    if constexpr (kFast) own.elements = Get(head, first, true);
    return own;
  }

  // The lane's part of products; all of them that others need are in `near` afterwards, if kFast.
  template <int kTaps>
  TFCONV_DEVICE void Multiply(const Own& own, const T* line, const Piece<kTaps>& piece,
                              Elements (&near)[kTaps], Acc (&sums)[kTaps]) const {
#pragma unroll
    for (int i = 0; i < kTaps; ++i) sums[i] = 0;
    if constexpr (kFast) {
      Fetch(line, piece, near);
      AddProducts(own.elements, near, sums);
    } else {
#pragma unroll 1
      for (int c = first; c < width; c += step) {
        const Elements elements = Get(own.head, c, true);
#pragma unroll
        for (int i = 0; i < kTaps; ++i) {
          near[i] = Get(At(line, piece.index[i], pitch), c, piece.present[i]);
        }
        AddProducts(elements, near, sums);
      }
    }
  }

  // For AddWeighted, if kFast.
  template <int kTaps>
  TFCONV_DEVICE void Fetch(const T* line, const Piece<kTaps>& piece,
                           Elements (&near)[kTaps]) const {
    if constexpr (kFast) {
#pragma unroll
      for (int i = 0; i < kTaps; ++i) {
        near[i] = Get(At(line, piece.index[i], pitch), first, piece.present[i]);
      }
    }
  }

  // Adds the sum of the positions times their weights, in the channels of a turn.
  template <int kTaps>
  TFCONV_DEVICE void AddWeighted(const T* line, const Piece<kTaps>& piece,
                                 const Elements (&near)[kTaps], const Acc (&weights)[kTaps],
                                 int turn, Acc (&sums)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      const Elements elements =
          kFast ? near[i]
                : Get(At(line, piece.index[i], pitch), turn + first, piece.present[i]);
#pragma unroll
      for (int n = 0; n < kCount; ++n) sums[n] += weights[i] * Widen(elements.value[n]);
    }
  }

 private:
  template <int kTaps>
  TFCONV_DEVICE static void AddProducts(const Elements& own, const Elements (&near)[kTaps],
                                        Acc (&sums)[kTaps]) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const Acc value = Widen(own.value[n]);
#pragma unroll
      for (int i = 0; i < kTaps; ++i) sums[i] += value * Widen(near[i].value[n]);
    }
  }
};

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_DEVICE_H_
