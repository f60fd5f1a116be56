// Attributes of convolution-like ops and the geometry that they and the shapes make: what
// common/op_geometry.h does for TensorFlow, where all sizes are known.
#ifndef TFCONV_LITE_ATTRIBUTES_H_
#define TFCONV_LITE_ATTRIBUTES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/geometry.h"
#include "lite/options.h"
#include "lite/status.h"

namespace tfconv {
namespace lite {

using Shape = std::vector<int64_t>;

// Per spatial axis, in the op's own rank.
struct ConvAttributes {
  enum class Padding { kSame, kValid, kExplicit };

  std::string op_name;  // for messages
  std::vector<int64_t> strides;
  std::vector<int64_t> dilations;
  std::vector<int64_t> explicit_paddings;  // before and after, for each axis
  std::vector<int64_t> kernel_size;        // empty for ops that take it from a filter
  Padding padding = Padding::kSame;

  int rank() const { return static_cast<int>(strides.size()); }

  Status Read(const Options& options, bool has_kernel_size);

  // Fills the geometry of an operation on `x` and begins the shape of its output with the batch and
  // the spatial sizes. `kernel` holds a size for each spatial axis.
  Status MakeGeometry(const Shape& x, const std::vector<int64_t>& kernel, ConvGeometry* geometry,
                      Shape* output) const;

  // "kernel_size [7,7], strides [1,1], ...": ends messages about sizes.
  std::string ToString() const;
};

// Number of taps, or an error if a size is not positive or the product exceeds 2^31 - 1.
Status CountTaps(const std::string& op_name, const std::vector<int64_t>& kernel_size,
                 int64_t* taps);

Status CheckRank(const std::string& op_name, const char* tensor, const Shape& shape, int rank);

}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_ATTRIBUTES_H_
