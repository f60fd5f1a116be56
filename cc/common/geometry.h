// Sizes of one convolution-like operation.
//
// Plain data without functions: it is shared between the units that include TensorFlow and the
// units that are compiled once per instruction set.
#ifndef TFCONV_COMMON_GEOMETRY_H_
#define TFCONV_COMMON_GEOMETRY_H_

#include <stdint.h>

namespace tfconv {

constexpr int kMaxSpatialAxes = 3;

// Output position p and tap t read input position p * stride - pad + t * dilation.
struct ConvAxis {
  int64_t input;
  int64_t output;
  int64_t kernel;
  int64_t stride;
  int64_t dilation;
  int64_t pad;  // before the first input element
};

// Channels-last. Operations of lower rank have leading axes of size 1.
struct ConvGeometry {
  int64_t batch;
  int64_t channels;
  ConvAxis axis[kMaxSpatialAxes];
};

}  // namespace tfconv

#endif  // TFCONV_COMMON_GEOMETRY_H_
