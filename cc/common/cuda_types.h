// What the CUDA kernels and the units that call them share. Plain C++: neither TensorFlow nor CUDA.
#ifndef TFCONV_COMMON_CUDA_TYPES_H_
#define TFCONV_COMMON_CUDA_TYPES_H_

#include "common/element_types.h"

namespace tfconv {

// All launches return 0 or a cudaError_t: cudaErrorInvalidValue (1) also for an axis that 32-bit
// arithmetic does not reach. Tensors may have more than 2^31 elements.
using CudaStream = void*;  // a cudaStream_t

}  // namespace tfconv

#endif  // TFCONV_COMMON_CUDA_TYPES_H_
