// The CUDA kernels of deformable sampling and convolution for units without CUDA's headers.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_CUDA_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_CUDA_H_

#include "common/cuda_types.h"
#include "common/gpu_product.h"
#include "deformable/deformable_kernel.h"

namespace tfconv {

// For float, double, Half and Bfloat16. The arguments' temporary tensors are not used, but a
// workspace for so many images at a time. Without a filter there is one group.

// x, offset, mask -> columns. Here they lie as [groups, N, P, taps, C / groups].
template <typename T>
int LaunchDeformableSample(CudaStream stream, const DeformableArgs<T>& args);

// x, offset, mask, filter -> y
template <typename T>
int LaunchDeformableConv(CudaStream stream, const DeformableArgs<T>& args,
                         const Multiplier<T>& multiply, int64_t images, void* workspace);

// x, offset, mask, and dcolumns or filter and dy -> dx, doffset, dmask, dfilter: those that are not
// null. The same sums in the same order every time.
template <typename T>
int LaunchDeformableBackward(CudaStream stream, const DeformableArgs<T>& args,
                             const Multiplier<T>& multiply, int64_t images, void* workspace);

// Bytes for either; more for more images.
template <typename T>
int64_t DeformableWorkspace(const DeformableArgs<T>& args, int64_t images);

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_CUDA_H_
