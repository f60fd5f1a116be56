// The gradient of a strided convolution for its input: positions that meet the same taps.
#ifndef TFCONV_PER_EXAMPLE_PHASES_H_
#define TFCONV_PER_EXAMPLE_PHASES_H_

#include <stdint.h>

#include "common/geometry.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// The positions of x along one axis that have the same remainder by the stride: they meet the same
// taps, and from one to the next these read neighbouring positions of y.
struct Phase {
  int64_t first;      // position of x; the stride leads to the next
  int64_t positions;
  int64_t last_tap;   // the taps that meet them, from the last to the first: `taps` many
  int64_t tap_step;
  int64_t taps;
};

inline Phase MakePhase(const ConvAxis& axis, int64_t remainder) {
  Phase phase = {remainder, CeilDiv(axis.input - remainder, axis.stride), -1, 1, 0};
  for (int64_t tap = axis.kernel - 1; tap >= 0; --tap) {
    if ((remainder + axis.pad - tap * axis.dilation) % axis.stride != 0) continue;
    if (phase.taps == 0) phase.last_tap = tap;
    if (phase.taps == 1) phase.tap_step = phase.last_tap - tap;
    ++phase.taps;
  }
  return phase;
}

// Those that have positions.
inline int64_t NumAxisPhases(const ConvAxis& axis) { return Min(axis.stride, axis.input); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_PER_EXAMPLE_PHASES_H_
