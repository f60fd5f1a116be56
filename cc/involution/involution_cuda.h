// The involution's CUDA kernels for units without CUDA's headers.
#ifndef TFCONV_INVOLUTION_INVOLUTION_CUDA_H_
#define TFCONV_INVOLUTION_INVOLUTION_CUDA_H_

#include "common/cuda_types.h"
#include "involution/involution_kernel.h"

namespace tfconv {

// For float, double, Half and Bfloat16. Each reads and writes what the pass of the same name does.
template <typename T>
int LaunchInvolution(CudaStream stream, const InvolutionArgs<T>& args);
template <typename T>
int LaunchInvolutionBackwardInput(CudaStream stream, const InvolutionArgs<T>& args);
template <typename T>
int LaunchInvolutionBackwardKernel(CudaStream stream, const InvolutionArgs<T>& args);

}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_CUDA_H_
