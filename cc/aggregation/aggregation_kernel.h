// Deformable aggregation in one to three dimensions.
//
//   y[p, c] = sum_t weights[p, g(c), t] * x(p * stride - pad + t * dilation
//                                           + offset[p, g(c), t], c)
//
// Interface between the TensorFlow ops and the numeric kernels, which are compiled once per
// instruction set.
#ifndef TFCONV_AGGREGATION_AGGREGATION_KERNEL_H_
#define TFCONV_AGGREGATION_AGGREGATION_KERNEL_H_

#include <stdint.h>

#include "common/element_types.h"
#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"

namespace tfconv {

// Whether the pixels of an image, and those around the first one, have numbers of 32 bits. Sizes
// that are not known yet are negative.
inline bool CountsPixels(const ConvGeometry& g, int64_t rank) {
  double after = 1, before = 0;
  for (int64_t i = kMaxSpatialAxes - rank; i < kMaxSpatialAxes; ++i) {
    const double size = g.axis[i].input > 1 ? static_cast<double>(g.axis[i].input) : 1;
    after *= size;
    before = before * size + 1;  // by one along each axis
  }
  const double most = 2147483647;
  return after < most && before < most;
}
constexpr char kPixelsNotCounted[] = ", whose pixels, and those around them, 32 bits cannot number";

// All tensors are channels-last and contiguous. A pass reads and writes only what it names.
template <typename T>
struct AggregationArgs {
  ConvGeometry geometry;
  int64_t rank;  // the last axes of the geometry, of which CountsPixels() holds
  int64_t groups;
  const T* x;        // [N, input, C]
  const T* offset;   // [N, output, groups, taps, rank]
  const T* weights;  // [N, output, groups, taps]
  const T* dy;       // [N, output, C]
  T* y;              // [N, output, C]
  T* dx;             // [N, input, C]
  T* doffset;        // [N, output, groups, taps, rank]
  T* dweights;       // [N, output, groups, taps]
  void* dx_parts;    // temporary memory, with the size that the kernels give
};

template <typename T>
struct AggregationKernels {
  using Args = AggregationArgs<T>;

  Pass<Args> forward;            // x, offset, weights -> y
  Pass<Args> backward_sampling;  // x, offset, weights, dy -> doffset, dweights
  // Fills dx_parts instead of dx if dx_parts_bytes are positive; their sum follows.
  Pass<Args> backward_input;  // offset, weights, dy -> dx or dx_parts
  Pass<Args> sum_dx;          // dx_parts -> dx
  int64_t (*dx_parts_bytes)(const Args& args);
};

TFCONV_DECLARE_KERNELS(AggregationKernels<Half>)
TFCONV_DECLARE_KERNELS(AggregationKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(AggregationKernels<float>)
TFCONV_DECLARE_KERNELS(AggregationKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_AGGREGATION_AGGREGATION_KERNEL_H_
