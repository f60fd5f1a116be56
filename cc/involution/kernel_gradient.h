// The gradient of an involution for the kernels of one output position.
#ifndef TFCONV_INVOLUTION_KERNEL_GRADIENT_H_
#define TFCONV_INVOLUTION_KERNEL_GRADIENT_H_

#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/vec.h"
#include "involution/involution_tiles.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// dkernel of one position and the group from channel c on: products summed over the channels, for
// as many taps at a time as a vector has lanes. `pixels` has an input pixel per tap, then zeros up
// to a whole vector. `dkernel` is that of all groups.
template <typename S, typename T>
void KernelGradientAligned(const T* const* pixels, const T* dy, int64_t c, int64_t,
                           int64_t channels_per_group, int64_t taps, Accumulator<T>* dkernel) {
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  const int64_t end = c + channels_per_group;
  dkernel += c / channels_per_group * taps;
  int64_t t = 0;
  // A few taps left over are summed one by one rather than as a vector of mostly zeros.
  for (; t + kLanes / 8 < taps; t += kLanes) {
    Vec sum[kLanes];
    const Vec upstream = S::Load(dy + c);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sum[i] = S::Load(pixels[t + i] + c) * upstream;
    for (int64_t next = c + kLanes; next < end; next += kLanes) {
      const Vec more = S::Load(dy + next);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sum[i] += S::Load(pixels[t + i] + next) * more;
    }
    // What lies beyond the taps is overwritten by the next group.
    S::Store(dkernel + t, S::SumLanes(sum));
  }
  for (; t < taps; ++t) {
    Vec sum = {};
    for (int64_t next = c; next < end; next += kLanes) {
      sum += S::Load(pixels[t] + next) * S::Load(dy + next);
    }
    dkernel[t] = S::SumLanes(sum);
  }
}

// The same for groups that are no multiple of any vector, and a vector of channels: lanes are
// channels while products are made, and taps while they are summed.
template <typename S, typename T>
void KernelGradientMixed(const T* const* pixels, const T* dy, int64_t c, int64_t channels,
                         int64_t channels_per_group, int64_t taps, Accumulator<T>* dkernel) {
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  const int64_t left = taps % kLanes;
  // Up to here whole vectors are stored; a few taps left over are stored one by one.
  const int64_t end = left > kLanes / 8 ? taps - left + kLanes : taps - left;
  const int64_t count = Min<int64_t>(kLanes, channels - c);
  const auto load = [&](const T* p) {
    return count < kLanes ? S::LoadFirst(p + c, count) : S::Load(p + c);
  };
  const Vec upstream = load(dy);
  Accumulator<T>* const first_sums = dkernel + c / channels_per_group * taps;
  const int64_t first_in_group = c % channels_per_group;
  // The last taps first: what lies beyond them is overwritten by the next group's.
  for (int64_t t = end - kLanes; t >= 0; t -= kLanes) {
    Vec products[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) products[i] = load(pixels[t + i]) * upstream;
    S::Transpose(products);
    Accumulator<T>* sums = first_sums + t;
    int64_t in_group = first_in_group;
    Vec sum = {};
    if (in_group > 0) sum = S::Load(sums);
    for (int64_t i = 0; i < count; ++i) {
      sum += products[i];
      if (++in_group < channels_per_group && i + 1 < count) continue;
      S::Store(sums, sum);
      sums += taps;
      in_group = 0;
      sum = Vec{};
    }
  }
  for (int64_t t = end; t < taps; ++t) {
    Accumulator<T> products[kLanes];
    S::Store(products, load(pixels[t]) * upstream);
    Accumulator<T>* sums = first_sums + t;
    int64_t in_group = first_in_group;
    for (int64_t i = 0; i < count; ++i) {
      *sums = (in_group == 0 ? 0 : *sums) + products[i];
      if (++in_group < channels_per_group) continue;
      sums += taps;
      in_group = 0;
    }
  }
}

template <typename T>
class KernelGradient {
 public:
  using Sum = Accumulator<T>;

  KernelGradient(const InvolutionArgs<T>& args, const GroupBlocks& blocks, Arena* arena)
      : args_(args), taps_(NumTaps(args.geometry)) {
    constexpr int kLanes = Simd<Sum>::kLanes;
    zeros_ = arena->Take<T>(args.geometry.channels);
    pixels_ = arena->Take<const T*>(taps_ + kLanes);
    sums_ = arena->Take<Sum>(blocks.size * taps_ + kLanes);
  }

  // Call before the first.
  void Open() {
    using S = Simd<Sum>;
    const int64_t channels = args_.geometry.channels;
    channels_per_group_ = channels / args_.groups;
    memset(zeros_, 0, static_cast<size_t>(channels) * sizeof(T));
    for (int64_t i = 0; i < S::kLanes; ++i) pixels_[taps_ + i] = zeros_;
    function_ = KernelGradientMixed<S, T>;
    step_ = S::kLanes;
    const int bytes = AlignedBytes<Sum>(channels_per_group_);
    if (bytes == 16) function_ = KernelGradientAligned<Simd<Sum, 16>, T>;
    if constexpr (kVecBytes >= 32) {
      if (bytes == 32) function_ = KernelGradientAligned<Simd<Sum, 32>, T>;
    }
    if constexpr (kVecBytes >= 64) {
      if (bytes == 64) function_ = KernelGradientAligned<Simd<Sum, 64>, T>;
    }
    if (bytes > 0) step_ = channels_per_group_;
  }

  // The gradients of some groups' kernels at a position of a line of all images; `sums` has room
  // for a vector more.
  void Get(int64_t line, int64_t position, GroupRange groups, Sum* sums) const {
    const int64_t channels = args_.geometry.channels;
    const int64_t first = groups.first * channels_per_group_;
    const int64_t count = groups.count * channels_per_group_;
    // Without channels, they stay zero.
    if (count == 0) memset(sums, 0, static_cast<size_t>(groups.count * taps_) * sizeof(Sum));
    FindPixels(GetLine(args_.geometry, line), position, first);
    const T* dy =
        args_.dy + (line * args_.geometry.axis[2].output + position) * channels + first;
    for (int64_t c = 0; c < count; c += step_) {
      function_(pixels_, dy, c, count, channels_per_group_, taps_, sums);
    }
  }

  // The same in memory of its own, until the next call.
  const Sum* Get(int64_t line, int64_t position, GroupRange groups) const {
    Get(line, position, groups, sums_);
    return sums_;
  }

 private:
  // Input pixel of every tap, from channel `first` on; zeros where it lies outside.
  void FindPixels(const LinePosition& line, int64_t position, int64_t first) const {
    const ConvGeometry& g = args_.geometry;
    const ConvAxis& d_axis = g.axis[0];
    const ConvAxis& h_axis = g.axis[1];
    const ConvAxis& w_axis = g.axis[2];
    const T** pixels = pixels_;
    const int64_t w0 = position * w_axis.stride - w_axis.pad;
    for (int64_t i = 0; i < d_axis.kernel; ++i) {
      const int64_t d = line.depth * d_axis.stride - d_axis.pad + i * d_axis.dilation;
      for (int64_t j = 0; j < h_axis.kernel; ++j) {
        const int64_t h = line.height * h_axis.stride - h_axis.pad + j * h_axis.dilation;
        const bool exists = d >= 0 && d < d_axis.input && h >= 0 && h < h_axis.input;
        const int64_t row = ((line.image * d_axis.input + d) * h_axis.input + h) * w_axis.input;
        for (int64_t k = 0; k < w_axis.kernel; ++k) {
          const int64_t w = w0 + k * w_axis.dilation;
          const bool inside = exists && w >= 0 && w < w_axis.input;
          *pixels++ = inside ? args_.x + (row + w) * g.channels + first : zeros_;
        }
      }
    }
  }

  const InvolutionArgs<T>& args_;
  const int64_t taps_;
  T* zeros_;
  const T** pixels_;
  Sum* sums_;  // of one position, and room behind
  int64_t channels_per_group_ = 0;
  int64_t step_ = 0;
  void (*function_)(const T* const*, const T*, int64_t, int64_t, int64_t, int64_t, Sum*) = nullptr;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_KERNEL_GRADIENT_H_
