// Involution: a kernel per output position, shared by the channels of a group.
//
//   y[p, c] = sum_t kernel[p, g(c), t] * x[p * stride - pad + t * dilation, c]
//
// Interface between the TensorFlow ops and the numeric kernels, which are compiled once per
// instruction set.
#ifndef TFCONV_INVOLUTION_INVOLUTION_KERNEL_H_
#define TFCONV_INVOLUTION_INVOLUTION_KERNEL_H_

#include <stdint.h>

#include "common/element_types.h"
#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"

namespace tfconv {

// All tensors are channels-last and contiguous. A pass reads and writes only what it names.
template <typename T>
struct InvolutionArgs {
  ConvGeometry geometry;
  int64_t groups;
  const T* x;       // [N, input, C]
  const T* kernel;  // [N, output, groups * taps]
  const T* dy;      // [N, output, C]
  T* y;             // [N, output, C]
  T* dx;            // [N, input, C]
  T* dkernel;       // [N, output, groups * taps]
};

template <typename T>
struct InvolutionKernels {
  Pass<InvolutionArgs<T>> forward;          // x, kernel -> y
  Pass<InvolutionArgs<T>> backward_input;   // kernel, dy -> dx
  Pass<InvolutionArgs<T>> backward_kernel;  // x, dy -> dkernel
};

TFCONV_DECLARE_KERNELS(InvolutionKernels<Half>)
TFCONV_DECLARE_KERNELS(InvolutionKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(InvolutionKernels<float>)
TFCONV_DECLARE_KERNELS(InvolutionKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_KERNEL_H_
