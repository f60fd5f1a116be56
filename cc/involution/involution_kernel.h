// Involution: a kernel per output position, shared by the channels of a group.
//
//   y[p, c] = sum_t kernel[p, g(c), t] * x[p * stride - pad + t * dilation, c]
//
// The kernels are a tensor, or made where they are needed from features of the positions:
//
//   kernel[p, g, t] = sum_r features[p, r] * span[r, g, t] + bias[g, t]
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
  int64_t num_features;  // R; for the ops that take kernels, what follows of features is null
  const T* x;            // [N, input, C]
  const T* kernel;       // [N, output, groups * taps]; null if they are made from features
  const T* features;     // [N, output, R]
  const T* span;         // [R, groups * taps]
  const T* bias;         // [groups * taps]
  const T* dy;           // [N, output, C]
  T* y;                  // [N, output, C]
  T* dx;                 // [N, input, C]
  T* dkernel;            // [N, output, groups * taps]
  T* dfeatures;          // [N, output, R]
  T* dspan;              // [R, groups * taps]
  T* dbias;              // [groups * taps]
  // Temporary tensors, with the sizes that the kernels give.
  Accumulator<T>* packed_span;
  Accumulator<T>* partial_dspan;
  Accumulator<T>* partial_dfeatures;
};

// Elements of the temporary tensors.
struct SpanSizes {
  int64_t packed_span;
  int64_t packed_span_transposed;
  int64_t partial_dspan;
  int64_t partial_dfeatures;  // 0: backward_span writes dfeatures itself
};

template <typename T>
struct InvolutionKernels {
  using Args = InvolutionArgs<T>;

  Pass<Args> forward;          // x, kernel -> y
  Pass<Args> backward_input;   // kernel, dy -> dx
  Pass<Args> backward_kernel;  // x, dy -> dkernel

  // With features, `forward` and `backward_input` take them and packed_span for the kernel.
  Pass<Args> pack_span;             // span, bias -> packed_span
  Pass<Args> pack_span_transposed;  // span -> packed_span
  // x, features, packed_span, dy -> partial_dspan, partial_dfeatures
  Pass<Args> backward_span;
  Pass<Args> sum_dspan;      // partial_dspan -> dspan, dbias
  Pass<Args> sum_dfeatures;  // partial_dfeatures -> dfeatures
  SpanSizes (*span_sizes)(const Args& args);
};

TFCONV_DECLARE_KERNELS(InvolutionKernels<Half>)
TFCONV_DECLARE_KERNELS(InvolutionKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(InvolutionKernels<float>)
TFCONV_DECLARE_KERNELS(InvolutionKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_KERNEL_H_
