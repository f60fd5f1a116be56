// Some images of a batch. For ops and launches: not compiled for instruction sets.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_IMAGES_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_IMAGES_H_

#include "deformable/deformable_kernel.h"

namespace tfconv {

// The part of all tensors that `count` images from `first` on have.
template <typename T>
DeformableArgs<T> ImagesOf(DeformableArgs<T> args, int64_t first, int64_t count) {
  const ConvAxis* axis = args.geometry.axis;
  const int64_t pixels = axis[0].input * axis[1].input * axis[2].input;
  const int64_t positions = axis[0].output * axis[1].output * axis[2].output;
  const int64_t taps = axis[0].kernel * axis[1].kernel * axis[2].kernel;
  const int64_t samples = positions * taps * args.offset_groups;
  const int64_t channels = args.geometry.channels;
  const auto advance = [&](auto*& tensor, int64_t size) {
    if (tensor != nullptr) tensor += first * size;
  };
  args.geometry.batch = count;
  advance(args.x, pixels * channels);
  advance(args.dx, pixels * channels);
  advance(args.offset, args.rank * samples);
  advance(args.doffset, args.rank * samples);
  advance(args.mask, samples);
  advance(args.dmask, samples);
  advance(args.dcolumns, positions * (args.sums_taps ? 1 : taps) * channels);
  advance(args.y, positions * args.filters);
  advance(args.dy, positions * args.filters);
  return args;
}

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_IMAGES_H_
