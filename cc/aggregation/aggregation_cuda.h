// Deformable aggregation's CUDA kernels for units without CUDA's headers.
#ifndef TFCONV_AGGREGATION_AGGREGATION_CUDA_H_
#define TFCONV_AGGREGATION_AGGREGATION_CUDA_H_

#include "aggregation/aggregation_kernel.h"
#include "common/cuda_types.h"

namespace tfconv {

// For float, double, Half and Bfloat16.

// x, offset, weights -> y
template <typename T>
int LaunchAggregation(CudaStream stream, const AggregationArgs<T>& args);

// x, offset, weights, dy -> dx, doffset, dweights: those that are not null. The same sums in the same
// order every time. A workspace is for so many images at a time.
template <typename T>
int LaunchAggregationBackward(CudaStream stream, const AggregationArgs<T>& args, int64_t images,
                              void* workspace);

// Its bytes; more for more images.
template <typename T>
int64_t AggregationWorkspace(const AggregationArgs<T>& args, int64_t images);

}  // namespace tfconv

#endif  // TFCONV_AGGREGATION_AGGREGATION_CUDA_H_
