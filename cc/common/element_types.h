// The types of tensors' elements. Plain C++: neither TensorFlow nor CUDA nor the standard library.
#ifndef TFCONV_COMMON_ELEMENT_TYPES_H_
#define TFCONV_COMMON_ELEMENT_TYPES_H_

#include <stdint.h>

namespace tfconv {

// The 16-bit float types as they lie in memory.
struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

// The type that is computed in.
template <typename T>
struct AccumulatorType {
  using Type = float;
};
template <>
struct AccumulatorType<double> {
  using Type = double;
};
template <typename T>
using Accumulator = typename AccumulatorType<T>::Type;

// Whether elements are converted to be computed with, and results rounded to be stored.
template <typename T>
constexpr bool kIsHalf = sizeof(T) == sizeof(uint16_t);

}  // namespace tfconv

#endif  // TFCONV_COMMON_ELEMENT_TYPES_H_
