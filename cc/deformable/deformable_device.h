// Where the CUDA kernels of the deformable ops sample, and how columns lie in memory.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_DEVICE_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_DEVICE_H_

#include <math.h>
#include <stdint.h>

#include "common/cuda_device.h"
#include "deformable/deformable_kernel.h"

namespace tfconv {
namespace cuda {

// Axes are the op's own, the first one first. Bit kRank - 1 - axis of a corner's number says whether
// it is the far one along that axis.
template <int kRank>
constexpr int kCorners = 1 << kRank;

template <int kRank>
TFCONV_DEVICE bool IsFar(int corner, int axis) {
  return (corner >> (kRank - 1 - axis)) & 1;
}

// A rank that is known when the code is compiled: WithRank() returns visit(Rank<...>()).
template <int kValue>
struct Rank {
  static constexpr int value = kValue;
};
template <typename Visit>
auto WithRank(int rank, const Visit& visit) {
  return rank == 1 ? visit(Rank<1>()) : rank == 2 ? visit(Rank<2>()) : visit(Rank<3>());
}

// The value between those of the corners.
template <int kRank, typename Acc>
TFCONV_DEVICE Acc Between(const Acc* values, const Acc* delta) {
  if constexpr (kRank == 0) {
    return values[0];
  } else {
    const Acc near = Between<kRank - 1>(values, delta + 1);
    const Acc far = Between<kRank - 1>(values + kCorners<kRank - 1>, delta + 1);
    return (1 - delta[0]) * near + delta[0] * far;
  }
}

// Its derivative along an axis. At integer positions it is that of the cell towards the far corners.
template <int kRank, typename Acc>
TFCONV_DEVICE Acc Slope(const Acc* values, const Acc* delta, int axis) {
  const int bit = kRank - 1 - axis;
  Acc differences[kCorners<kRank - 1>];
#pragma unroll
  for (int i = 0; i < kCorners<kRank - 1>; ++i) {
    const int near = (i >> bit << (bit + 1)) | (i & ((1 << bit) - 1));
    differences[i] = values[near | (1 << bit)] - values[near];
  }
  if constexpr (kRank == 1) {
    return differences[0] + 0 * delta[0];  // NaN where the position is
  } else {
    Acc others[kRank - 1] = {};
#pragma unroll
    for (int i = 0; i + 1 < kRank; ++i) others[i] = i < axis ? delta[i] : delta[i + 1];
    return Between<kRank - 1>(differences, others);
  }
}

template <int kRank, typename Acc>
TFCONV_DEVICE Acc CornerWeight(const Acc* delta, int corner) {
  Acc weight = IsFar<kRank>(corner, 0) ? delta[0] : 1 - delta[0];
#pragma unroll
  for (int i = 1; i < kRank; ++i) weight *= IsFar<kRank>(corner, i) ? delta[i] : 1 - delta[i];
  return weight;
}

// Where one tap of one offset group samples at one position. A corner outside the image is absent:
// it is neither read nor written, and counts as zero.
template <typename Acc, int kRank>
struct Sample {
  Acc delta[kRank];  // distance from the near corner, in pixels; NaN if the position is
  Acc mask;
  int near[kRank];
};

// What the kernels read of the arguments.
template <typename T, int kRank>
struct Sampling {
  using Acc = Accumulator<T>;

  Axis axis[kRank];
  int channels;
  int group_channels;  // that share offsets
  int offset_groups;
  int taps;
  int positions;             // of an image
  int pixels;                // of an image
  int64_t strides[kRank];    // bytes between pixels along the axes
  Divisor by_output[kRank];  // of the positions along the axes
  Divisor by_kernel[kRank];
  Divisor by_taps;
  Acc limits[kRank];  // beyond the image
  bool has_mask;
  const T* x;
  const T* offset;
  const T* mask;

  // Index of a mask; that of its first offset divided by the rank.
  TFCONV_DEVICE int64_t Index(int64_t image, int position, int group, int tap) const {
    return ((image * positions + position) * offset_groups + group) * taps + tap;
  }

  // Along each axis.
  TFCONV_DEVICE static void Split(const Divisor* by, int number, int* parts) {
#pragma unroll
    for (int i = kRank - 1; i > 0; --i) {
      const int next = by[i].Divide(number);
      parts[i] = number - next * by[i].value;
      number = next;
    }
    parts[0] = number;
  }

  TFCONV_DEVICE Sample<Acc, kRank> Find(const T* moved, const T* own_mask,
                                        const int* starts) const {
    Sample<Acc, kRank> sample;
    bool defined = true;
    Acc undefined = 0;  // NaN where a position is
#pragma unroll
    for (int i = 0; i < kRank; ++i) {
      // One load each: a tensor may begin at any element.
      const Acc at = static_cast<Acc>(starts[i]) + Widen(moved[i]);
      // What touches no pixel, NaN and infinity included, is moved nearby before it becomes an
      // integer.
      const Acc nearby = fmax(fmin(at, limits[i]), Acc(-2));
      const Acc floored = floor(nearby);
      sample.delta[i] = nearby - floored;
      sample.near[i] = static_cast<int>(floored);
      defined = defined && at == at;
      undefined += at;
    }
#pragma unroll
    for (int i = 0; i < kRank; ++i) sample.delta[i] = defined ? sample.delta[i] : undefined;
    sample.mask = has_mask ? Widen(*own_mask) : Acc(1);
    return sample;
  }

  TFCONV_DEVICE Sample<Acc, kRank> FindTap(int64_t image, int group, int position, int tap) const {
    int places[kRank], numbers[kRank], starts[kRank];
    Split(by_output, position, places);
    Split(by_kernel, tap, numbers);
#pragma unroll
    for (int i = 0; i < kRank; ++i) starts[i] = Source<false>(axis[i], places[i], numbers[i]);
    const int64_t index = Index(image, position, group, tap);
    return Find(offset + kRank * index, mask + index, starts);
  }

  // An image of x from a channel on.
  TFCONV_DEVICE const T* Image(int64_t image, int channel) const {
    return x + image * pixels * channels + channel;
  }

  TFCONV_DEVICE bool Present(const Sample<Acc, kRank>& s, int corner) const {
    bool present = true;
#pragma unroll
    for (int i = 0; i < kRank; ++i) {
      present = Inside(s.near[i] + (IsFar<kRank>(corner, i) ? 1 : 0), axis[i].input) && present;
    }
    return present;
  }

  // The pixel at the near corner, in an image, and from there to another corner; anywhere if absent.
  TFCONV_DEVICE const T* Near(const Sample<Acc, kRank>& s, const T* image) const {
    unsigned pixel = static_cast<unsigned>(s.near[0]);
#pragma unroll
    for (int i = 1; i < kRank; ++i) {
      pixel = pixel * static_cast<unsigned>(axis[i].input) + static_cast<unsigned>(s.near[i]);
    }
    return At(image, static_cast<int>(pixel), static_cast<int>(strides[kRank - 1]));
  }
  TFCONV_DEVICE int64_t ToCorner(int corner) const {
    int64_t bytes = 0;
#pragma unroll
    for (int i = 0; i < kRank; ++i) bytes += IsFar<kRank>(corner, i) ? strides[i] : 0;
    return bytes;
  }
};

// False if 32-bit arithmetic does not reach.
template <typename T, int kRank>
bool MakeSampling(const DeformableArgs<T>& args, Sampling<T, kRank>* s) {
  constexpr int64_t kLimit = 1 << 30;
  constexpr int64_t kMaxChannels = 1 << 27;  // so that a pixel's bytes fit
  const ConvGeometry& g = args.geometry;
  Axes axes;
  if (!MakeAxes(g, &axes) || g.channels >= kMaxChannels) return false;
  int64_t taps = 1, positions = 1, pixels = 1, cells = 1;
  int64_t stride = g.channels * static_cast<int64_t>(sizeof(T));
  for (int i = kRank - 1; i >= 0; --i) {
    const ConvAxis& a = g.axis[kMaxSpatialAxes - kRank + i];
    s->axis[i] = axes.axis[kMaxSpatialAxes - kRank + i];
    s->strides[i] = stride;
    s->by_output[i] = MakeDivisor(a.output);
    s->by_kernel[i] = MakeDivisor(a.kernel);
    // In float32 they may be rounded, by up to 64 pixels.
    constexpr int kMargin = 128;
    s->limits[i] = static_cast<Accumulator<T>>(a.input + kMargin);
    stride *= a.input;
    taps *= a.kernel;
    positions *= a.output;
    pixels *= a.input;
    cells *= a.input + 1;
    // Each of the factors is below the limit.
    if (taps >= kLimit || positions >= kLimit || cells >= kLimit) return false;
  }
  if (positions * taps >= kLimit) return false;
  s->channels = static_cast<int>(g.channels);
  s->group_channels = static_cast<int>(g.channels / args.offset_groups);
  s->offset_groups = static_cast<int>(args.offset_groups);
  s->taps = static_cast<int>(taps);
  s->positions = static_cast<int>(positions);
  s->pixels = static_cast<int>(pixels);
  s->by_taps = MakeDivisor(taps);
  s->x = args.x;
  s->offset = args.offset;
  s->mask = args.mask;
  s->has_mask = args.mask != nullptr;
  return true;
}

// Columns lie as [groups of the convolution, images, positions, rows, channels of a group]: each
// group's are a matrix. There is a row for each tap, or one for all.
template <typename T>
struct Columns {
  T* data;
  int width;  // channels of a group
  int rows;   // of a position
  Divisor by_width;
  int64_t group_stride;

  // The row of a tap.
  TFCONV_DEVICE T* Row(int64_t position, int tap) const {
    return data + (position * rows + (rows > 1 ? tap : 0)) * width;
  }

  // From the first channel of a tap at a position to another one.
  TFCONV_DEVICE int64_t Channel(int channel) const {
    return by_width.Divide(channel) * (group_stride - width) + channel;
  }
};

template <typename T, typename Element, int kRank>
Columns<T> MakeColumns(const DeformableArgs<Element>& args, const Sampling<Element, kRank>& s,
                       T* data) {
  const int64_t width = s.channels / args.groups;
  const int rows = args.sums_taps ? 1 : s.taps;
  return {data, static_cast<int>(width), rows, MakeDivisor(width),
          args.geometry.batch * s.positions * rows * width};
}

// Whether 16 bytes of channels lie in one group of either kind, and on 16 bytes.
template <typename T, typename Element, int kRank>
bool IsWide(const Sampling<Element, kRank>& s, const Columns<T>& columns) {
  constexpr int kCount = kVector<Element>;
  return s.group_channels % kCount == 0 && columns.width % kCount == 0 && IsAligned(s.x) &&
         IsAligned(columns.data);
}

// The gradients of sampling for dcolumns, of the results that are not null; for so many images the
// workspace has so many bytes.
template <typename T>
int64_t SampleGradientsWorkspace(const DeformableArgs<T>& args, int64_t images);
template <typename T>
int LaunchSampleGradients(CudaStream stream, const DeformableArgs<T>& args, void* workspace);

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_DEVICE_H_
