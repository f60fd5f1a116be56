// The CUDA kernels of deformable sampling and convolution for units without CUDA's headers.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_CUDA_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_CUDA_H_

#include "common/cuda_types.h"
#include "deformable/deformable_kernel.h"

namespace tfconv {

// For float, double, Half and Bfloat16. The arguments' temporary tensors are not used, but a
// workspace of as many bytes as the function beside a launch says.

// x, offset, mask -> columns
template <typename T>
int LaunchDeformableSample(CudaStream stream, const DeformableArgs<T>& args);

// x, offset, mask, filter -> y
template <typename T>
int LaunchDeformableConv(CudaStream stream, const DeformableArgs<T>& args);

// x, offset, mask, and dcolumns or filter and dy -> dx, doffset, dmask. No floats are added
// atomically; where it is not deterministic, each sum for dx has an order of its own.
template <typename T>
int LaunchDeformableBackward(CudaStream stream, const DeformableArgs<T>& args, bool deterministic,
                             void* workspace);
template <typename T>
int64_t DeformableBackwardWorkspace(const DeformableArgs<T>& args);

// x, offset, mask, dy -> dfilter
template <typename T>
int LaunchDeformableBackwardFilter(CudaStream stream, const DeformableArgs<T>& args,
                                   void* workspace);
template <typename T>
int64_t DeformableBackwardFilterWorkspace(const DeformableArgs<T>& args);

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_CUDA_H_
