#include <stdint.h>

#include "common/convert_kernel.h"
#include "common/element_types.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

template <typename Element>
void ToFloat(const uint16_t* in, float* out, int64_t count) {
  CopyElements(reinterpret_cast<const Element*>(in), out, count);
}

template <typename Element>
void FromFloat(const float* in, uint16_t* out, int64_t count) {
  CopyElements(in, reinterpret_cast<Element*>(out), count);
}

}  // namespace

void GetKernels(ConvertKernels* kernels) {
  kernels->half_to_float = ToFloat<Half>;
  kernels->float_to_half = FromFloat<Half>;
  kernels->bfloat16_to_float = ToFloat<Bfloat16>;
  kernels->float_to_bfloat16 = FromFloat<Bfloat16>;
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
