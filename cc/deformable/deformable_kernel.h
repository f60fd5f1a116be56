// Deformable sampling and deformable convolution in one to three dimensions.
//
//   columns[p, t, c] = mask[p, o(c), t] * linear(x[..., c], p * stride - pad + t * dilation
//                                                           + offset[p, o(c), t])
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
  ConvGeometry geometry;
  int64_t whole_batch;  // the work is cut by it, and the geometry may have some of the images; or 0
  int rank;  // the last so many axes of the geometry; the others are trivial
  int64_t offset_groups;
  bool sums_taps;     // on GPUs: dcolumns are [N, P, C], the same for all taps
  int64_t groups;     // of the convolution
  int64_t filters;    // F, of all groups
  const T* x;         // [N, pixels, C]
  const T* offset;    // [N, P, og, taps, rank]
  const T* mask;      // [N, P, og, taps] or null
  const T* filter;    // [taps, C / groups, F]
  const T* dcolumns;  // [N, P, taps, C]
  const T* dy;        // [N, P, F]
  T* columns;         // [N, P, taps, C]
  T* y;               // [N, P, F]
  T* dx;              // [N, pixels, C]
  T* doffset;         // [N, P, og, taps, rank]
  T* dmask;           // [N, P, og, taps]; written if there is a mask
  T* dfilter;         // [taps, C / groups, F]
  // Temporary memory of the CPU's kernels, with the sizes that these give.
  void* packed_filter;
  void* packed_dy;
  void* dx_parts;
  Accumulator<T>* partial;
  Accumulator<T>* partial_filter;
};

template <typename T>
struct DeformableSampleKernels {
  using Args = DeformableArgs<T>;

  Pass<Args> sample;  // x, offset, mask -> columns

  // The gradients. backward fills `partial` instead of doffset and dmask if partial_size, in
  // elements, is positive, and `dx_parts` instead of dx if dx_parts_bytes are; the sums follow.
  Pass<Args> backward;     // x, offset, mask, dcolumns -> dx, doffset, dmask or their parts
  Pass<Args> sum_partial;  // partial -> doffset, dmask
  Pass<Args> sum_dx;       // dx_parts -> dx
  int64_t (*units_of_image)(const Args& args);  // in `backward`
  int64_t (*partial_size)(const Args& args);
  int64_t (*dx_parts_bytes)(const Args& args);
};

template <typename T>
struct DeformableConvKernels {
  using Args = DeformableArgs<T>;

  Pass<Args> pack_filter;  // filter -> packed_filter
  // x, offset, mask, filter, packed_filter -> y, or `partial` if partial_sums_size, in elements, is
  // positive; then sum_slices follows.
  Pass<Args> convolve;
  Pass<Args> sum_slices;  // partial -> y
  int64_t (*partial_sums_size)(const Args& args);

  // The gradients for the sampling's inputs; the sums of the sampling's kernels follow.
  Pass<Args> pack_filter_transposed;  // filter -> packed_filter
  // x, offset, mask, packed_filter, dy -> dx, doffset, dmask or their parts
  Pass<Args> backward_input;

  // The gradient for the filter; `partial_filter` is filled instead if its size, in elements, is
  // positive.
  Pass<Args> pack_dy;          // dy -> packed_dy
  Pass<Args> backward_filter;  // x, offset, mask, packed_dy -> dfilter or partial_filter
  Pass<Args> sum_filter;       // partial_filter -> dfilter
  int64_t (*partial_filter_size)(const Args& args);

  // Of packed_filter, where 0 bytes are for few rows, which pack it by blocks, and of packed_dy.
  int64_t (*packed_filter_bytes)(const Args& args);
  int64_t (*packed_filter_transposed_bytes)(const Args& args);
  int64_t (*packed_dy_bytes)(const Args& args);
};

TFCONV_DECLARE_KERNELS(DeformableSampleKernels<Half>)
TFCONV_DECLARE_BFLOAT16_PRODUCTS(DeformableSampleKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(DeformableSampleKernels<float>)
TFCONV_DECLARE_KERNELS(DeformableSampleKernels<double>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<Half>)
TFCONV_DECLARE_BFLOAT16_PRODUCTS(DeformableConvKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<float>)
TFCONV_DECLARE_KERNELS(DeformableConvKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_KERNEL_H_
