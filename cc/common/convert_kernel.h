// Conversion between the 16-bit float types and float32, in which their kernels compute.
#ifndef TFCONV_COMMON_CONVERT_KERNEL_H_
#define TFCONV_COMMON_CONVERT_KERNEL_H_

#include <stdint.h>

#include "common/isa.h"

namespace tfconv {

struct ConvertKernels {
  void (*half_to_float)(const uint16_t* in, float* out, int64_t count);
  void (*float_to_half)(const float* in, uint16_t* out, int64_t count);
  void (*bfloat16_to_float)(const uint16_t* in, float* out, int64_t count);
  void (*float_to_bfloat16)(const float* in, uint16_t* out, int64_t count);
};

TFCONV_DECLARE_KERNELS(ConvertKernels)

}  // namespace tfconv

#endif  // TFCONV_COMMON_CONVERT_KERNEL_H_
