// Where the CUDA kernels of the deformable ops sample, and how columns lie in memory.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_DEVICE_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_DEVICE_H_

#include <math.h>
#include <stdint.h>

#include "common/cuda_device.h"
#include "deformable/deformable_kernel.h"

namespace tfconv {
namespace cuda {

constexpr int kNumCorners = 4;  // top left, top right, bottom left, bottom right

// Where one tap of one offset group samples at one position. A corner outside the image is absent:
// it is neither read nor written, and counts as zero.
template <typename Acc>
struct Sample {
  Acc dy;  // distance from the top left corner, in pixels; NaN if the position is
  Acc dx;
  Acc mask;
  int top;
  int left;

  TFCONV_DEVICE Acc Weight(int corner) const {
    return (corner & 2 ? dy : 1 - dy) * (corner & 1 ? dx : 1 - dx);
  }
};

// What the kernels read of the arguments.
template <typename T>
struct Sampling {
  using Acc = Accumulator<T>;

  Axis vertical;
  Axis horizontal;
  int channels;
  int pixel_bytes;
  int64_t line_bytes;
  int group_channels;  // that share offsets
  int offset_groups;
  int taps;
  int positions;           // of an image
  Divisor by_width;        // of the positions
  Divisor by_taps;
  Divisor by_kernel_width;
  Acc y_limit;  // beyond the image
  Acc x_limit;
  bool has_mask;
  const T* x;
  const T* offset;
  const T* mask;

  // Index of a mask, and half of that of its offsets.
  TFCONV_DEVICE int64_t Index(int64_t image, int position, int group, int tap) const {
    return ((image * positions + position) * offset_groups + group) * taps + tap;
  }

  TFCONV_DEVICE Sample<Acc> Find(const T* moved, const T* own_mask, int y_start,
                                 int x_start) const {
    // Two loads: a tensor may begin at any element.
    const Acc y = static_cast<Acc>(y_start) + Widen(moved[0]);
    const Acc x_ = static_cast<Acc>(x_start) + Widen(moved[1]);
    // What touches no pixel, NaN and infinity included, is moved nearby before it becomes an integer.
    const Acc near_y = fmax(fmin(y, y_limit), Acc(-2));
    const Acc near_x = fmax(fmin(x_, x_limit), Acc(-2));
    const Acc floor_y = floor(near_y);
    const Acc floor_x = floor(near_x);
    const bool defined = y == y && x_ == x_;
    return {defined ? near_y - floor_y : y + x_, defined ? near_x - floor_x : y + x_,
            has_mask ? Widen(*own_mask) : Acc(1), static_cast<int>(floor_y),
            static_cast<int>(floor_x)};
  }

  TFCONV_DEVICE Sample<Acc> FindTap(int64_t image, int group, int position, int tap) const {
    const int tap_h = by_kernel_width.Divide(tap);
    const int tap_w = tap - tap_h * by_kernel_width.value;
    const int h = by_width.Divide(position);
    const int w = position - h * by_width.value;
    const int64_t index = Index(image, position, group, tap);
    return Find(offset + 2 * index, mask + index, Source<false>(vertical, h, tap_h),
                Source<false>(horizontal, w, tap_w));
  }

  // An image of x from a channel on.
  TFCONV_DEVICE const T* Image(int64_t image, int channel) const {
    return x + image * vertical.input * horizontal.input * channels + channel;
  }

  TFCONV_DEVICE bool Present(const Sample<Acc>& s, int corner) const {
    return Inside(s.top + (corner >> 1), vertical.input) &&
           Inside(s.left + (corner & 1), horizontal.input);
  }

  // The pixel at the top left, in an image, and from there to another corner; anywhere if absent.
  TFCONV_DEVICE const T* TopLeft(const Sample<Acc>& s, const T* image) const {
    const unsigned pixel =
        static_cast<unsigned>(s.top) * static_cast<unsigned>(horizontal.input) +
        static_cast<unsigned>(s.left);
    return At(image, static_cast<int>(pixel), pixel_bytes);
  }
  TFCONV_DEVICE int64_t ToCorner(int corner) const {
    return (corner & 2 ? line_bytes : 0) + (corner & 1 ? pixel_bytes : 0);
  }
};

// False if 32-bit arithmetic does not reach.
template <typename T>
bool MakeSampling(const DeformableArgs<T>& args, Sampling<T>* s) {
  constexpr int64_t kLimit = 1 << 30;
  constexpr int64_t kMaxChannels = 1 << 27;  // so that a pixel's bytes fit
  const ConvGeometry& g = args.geometry;
  const int64_t taps = g.axis[1].kernel * g.axis[2].kernel;
  const int64_t positions = g.axis[1].output * g.axis[2].output;
  Axes axes;
  if (!MakeAxes(g, &axes) || g.channels >= kMaxChannels || taps >= kLimit ||
      (g.axis[1].input + 1) * (g.axis[2].input + 1) >= kLimit || positions * taps >= kLimit) {
    return false;
  }
  s->vertical = axes.axis[1];
  s->horizontal = axes.axis[2];
  s->channels = static_cast<int>(g.channels);
  s->pixel_bytes = s->channels * static_cast<int>(sizeof(T));
  s->line_bytes = int64_t{s->pixel_bytes} * s->horizontal.input;
  s->group_channels = static_cast<int>(g.channels / args.offset_groups);
  s->offset_groups = static_cast<int>(args.offset_groups);
  s->taps = static_cast<int>(taps);
  s->positions = static_cast<int>(positions);
  s->by_width = MakeDivisor(g.axis[2].output);
  s->by_taps = MakeDivisor(taps);
  s->by_kernel_width = MakeDivisor(g.axis[2].kernel);
  // In float32 they may be rounded, by up to 64 pixels.
  constexpr int kMargin = 128;
  s->y_limit = static_cast<Accumulator<T>>(s->vertical.input + kMargin);
  s->x_limit = static_cast<Accumulator<T>>(s->horizontal.input + kMargin);
  s->x = args.x;
  s->offset = args.offset;
  s->mask = args.mask;
  s->has_mask = args.mask != nullptr;
  return true;
}

// Columns lie as [groups of the convolution, images, positions, taps, channels of a group]: each
// group's are a matrix.
template <typename T>
struct Columns {
  T* data;
  int width;  // channels of a group
  Divisor by_width;
  int64_t group_stride;

  // From the first channel of a tap at a position to another one.
  TFCONV_DEVICE int64_t Channel(int channel) const {
    return by_width.Divide(channel) * (group_stride - width) + channel;
  }
};

template <typename T, typename Element>
Columns<T> MakeColumns(const DeformableArgs<Element>& args, const Sampling<Element>& s, T* data) {
  const int64_t width = s.channels / args.groups;
  return {data, static_cast<int>(width), MakeDivisor(width),
          args.geometry.batch * s.positions * s.taps * width};
}

// Whether 16 bytes of channels lie in one group of either kind, and on 16 bytes.
template <typename T, typename Element>
bool IsWide(const Sampling<Element>& s, const Columns<T>& columns) {
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
