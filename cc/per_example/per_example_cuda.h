// The CUDA kernels of the convolution with a filter for each example, for units without CUDA's
// headers.
#ifndef TFCONV_PER_EXAMPLE_PER_EXAMPLE_CUDA_H_
#define TFCONV_PER_EXAMPLE_PER_EXAMPLE_CUDA_H_

#include "common/cuda_types.h"
#include "per_example/per_example_kernel.h"

namespace tfconv {

// For float, double, Half and Bfloat16. Each reads and writes what the pass of the same name does.
template <typename T>
int LaunchPerExample(CudaStream stream, const PerExampleArgs<T>& args);
template <typename T>
int LaunchPerExampleBackwardInput(CudaStream stream, const PerExampleArgs<T>& args);
template <typename T>
int LaunchPerExampleBackwardFilter(CudaStream stream, const PerExampleArgs<T>& args,
                                   void* workspace);

// Bytes that LaunchPerExampleBackwardFilter needs.
template <typename T>
int64_t PerExampleBackwardFilterWorkspace(const PerExampleArgs<T>& args);

}  // namespace tfconv

#endif  // TFCONV_PER_EXAMPLE_PER_EXAMPLE_CUDA_H_
