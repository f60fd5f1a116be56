// Deformable sampling and deformable convolution in two dimensions.
//
//   columns[p, t, c] = mask[p, o(c), t] * bilinear(x[..., c], p * stride - pad + t * dilation
//                                                             + offset[p, o(c), t])
//   y[p, f] = sum_{t, c} columns[p, t, c] * filter[t, c, f]
//
// Interface between the TensorFlow ops and the numeric kernels, which are compiled once per
// instruction set.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_KERNEL_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_KERNEL_H_

#include <stdint.h>

#include "common/element_types.h"
#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"

namespace tfconv {

// All tensors are channels-last and contiguous. A pass reads and writes only what it names. P is
// the number of output positions of an image, og the number of offset groups.
template <typename T>
struct DeformableArgs {
  ConvGeometry geometry;  // axes 1 and 2
  int64_t offset_groups;
  int64_t groups;     // of the convolution
  int64_t filters;    // F, of all groups
  const T* x;         // [N, H, W, C]
  const T* offset;    // [N, P, og, taps, 2]
  const T* mask;      // [N, P, og, taps] or null
  const T* filter;    // [taps, C / groups, F]
  const T* dcolumns;  // [N, P, taps, C]
  const T* dy;        // [N, P, F]
  T* columns;         // [N, P, taps, C]
  T* y;               // [N, P, F]
  T* dx;              // [N, H, W, C]
  T* doffset;         // [N, P, og, taps, 2]
  T* dmask;           // [N, P, og, taps]; written if there is a mask
  T* dfilter;         // [taps, C / groups, F]
  // What the CPU's kernels read in place of x, and write in place of dx and dfilter: those tensors
  // themselves, or of 16-bit elements copies in the type that is computed in.
  const Accumulator<T>* wide_x;
  Accumulator<T>* wide_dx;
  Accumulator<T>* wide_dfilter;
  // Temporary tensors, with the sizes that the kernels give.
  Accumulator<T>* packed_filter;
  Accumulator<T>* packed_dy;
  Accumulator<T>* partial;
};

template <typename T>
struct DeformableSampleKernels {
  using Args = DeformableArgs<T>;

  Pass<Args> sample;  // x, offset, mask -> columns

  // The gradients: backward fills `partial` instead of doffset and dmask if partial_size, in
  // elements, is positive; sum_partial then adds up.
  Pass<Args> backward;     // x, offset, mask, dcolumns -> dx, doffset, dmask or partial
  Pass<Args> sum_partial;  // partial -> doffset, dmask
  int64_t (*partial_size)(const Args& args);
};

template <typename T>
struct DeformableConvKernels {
  using Args = DeformableArgs<T>;

  Pass<Args> pack_filter;  // filter -> packed_filter
  Pass<Args> convolve;     // x, offset, mask, filter, packed_filter -> y

  // The gradients for the sampling's inputs; sum_partial of the sampling's kernels follows.
  Pass<Args> pack_filter_transposed;  // filter -> packed_filter
  // x, offset, mask, filter, packed_filter, dy -> dx, doffset, dmask or partial
  Pass<Args> backward_input;

  // The gradient for the filter.
  Pass<Args> pack_dy;          // dy -> packed_dy
  Pass<Args> backward_filter;  // x, offset, mask, packed_dy -> dfilter

  // Elements of the temporary tensors; 0 for a filter that is packed by blocks.
  int64_t (*packed_filter_size)(const Args& args);
  int64_t (*packed_filter_transposed_size)(const Args& args);
  int64_t (*packed_dy_size)(const Args& args);
};

TFCONV_DECLARE_KERNELS(DeformableSampleKernels<Half>)
TFCONV_DECLARE_KERNELS(DeformableSampleKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(DeformableSampleKernels<float>)
TFCONV_DECLARE_KERNELS(DeformableSampleKernels<double>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<Half>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<float>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_KERNEL_H_
