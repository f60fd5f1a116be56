// Convolution with a filter of its own for every example, in one to three dimensions.
//
//   y[n, p, f] = sum_{t, c} x[n, p * stride - pad + t * dilation, c] * filter[n, t, c, f]
//
// Interface between the TensorFlow ops and the numeric kernels, which are compiled once per
// instruction set.
#ifndef TFCONV_PER_EXAMPLE_PER_EXAMPLE_KERNEL_H_
#define TFCONV_PER_EXAMPLE_PER_EXAMPLE_KERNEL_H_

#include <stdint.h>

#include "common/element_types.h"
#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"

namespace tfconv {

// All tensors are channels-last and contiguous, and none is empty. A pass reads and writes only
// what it names. P is the number of output positions of an example.
template <typename T>
struct PerExampleArgs {
  ConvGeometry geometry;
  int64_t groups;
  int64_t filters;  // F, of all groups
  const T* x;       // [N, I, C]
  const T* filter;  // [N, taps, C / groups, F]
  const T* dy;      // [N, P, F]
  T* y;             // [N, P, F]
  T* dx;            // [N, I, C]
  T* dfilter;       // [N, taps, C / groups, F]
  // Temporary, with the size that the kernels give.
  Accumulator<T>* partial;
};

template <typename T>
struct PerExampleKernels {
  using Args = PerExampleArgs<T>;

  Pass<Args> convolve;         // x, filter -> y
  Pass<Args> backward_input;   // filter, dy -> dx
  // backward_filter fills `partial` instead of dfilter if partial_size, in elements, is positive;
  // sum_filter then adds up.
  Pass<Args> backward_filter;  // x, dy -> dfilter or partial
  Pass<Args> sum_filter;       // partial -> dfilter
  int64_t (*partial_size)(const Args& args);
};

TFCONV_DECLARE_KERNELS(PerExampleKernels<Half>)
TFCONV_DECLARE_BFLOAT16_PRODUCTS(PerExampleKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(PerExampleKernels<float>)
TFCONV_DECLARE_KERNELS(PerExampleKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_PER_EXAMPLE_PER_EXAMPLE_KERNEL_H_
