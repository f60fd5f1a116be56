// The CUDA kernels of the convolution with a filter for each example, for units without CUDA's
// headers.
#ifndef TFCONV_PER_EXAMPLE_PER_EXAMPLE_CUDA_H_
#define TFCONV_PER_EXAMPLE_PER_EXAMPLE_CUDA_H_

#include "common/cuda_types.h"
#include "common/gpu_product.h"
#include "per_example/per_example_kernel.h"

namespace tfconv {

// For float, double, Half and Bfloat16: filter and x -> y, filter and dy -> dx, or x and dy ->
// dfilter, whichever result is not null. The workspace is for so many examples at a time.
template <typename T>
int LaunchPerExample(CudaStream stream, const PerExampleArgs<T>& args,
                     const Multiplier<T>& multiply, int64_t examples, void* workspace);

// Its bytes; more for more examples.
template <typename T>
int64_t PerExampleWorkspace(const PerExampleArgs<T>& args, int64_t examples);

}  // namespace tfconv

#endif  // TFCONV_PER_EXAMPLE_PER_EXAMPLE_CUDA_H_
