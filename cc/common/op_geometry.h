// Attributes and shapes of convolution-like ops: read, checked and computed here, for shape
// functions, kernels and gradients alike.
#ifndef TFCONV_COMMON_OP_GEOMETRY_H_
#define TFCONV_COMMON_OP_GEOMETRY_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/geometry.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace tfconv {

// Size that graph construction does not know yet.
constexpr int64_t kUnknown = -1;

// Shape of a tensor as far as it is known: at run time all of it.
class Dims {
 public:
  Dims() = default;  // unknown rank
  explicit Dims(std::vector<int64_t> sizes) : known_rank_(true), sizes_(std::move(sizes)) {}

  static Dims Of(const tensorflow::Tensor& tensor);
  static Dims Of(tensorflow::shape_inference::InferenceContext* c, int input);

  bool known_rank() const { return known_rank_; }
  // kUnknown if the rank or the size is unknown. A negative axis counts from the end.
  int64_t operator[](int axis) const;
  int rank() const { return static_cast<int>(sizes_.size()); }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  // "[2,?,9]"; "<unknown>" if the rank is.
  std::string ToString() const;

  // Makes `output` of a shape function.
  tensorflow::shape_inference::ShapeHandle ToHandle(
      tensorflow::shape_inference::InferenceContext* c) const;

 private:
  bool known_rank_ = false;
  std::vector<int64_t> sizes_;
};

// Attributes that all ops share. Per spatial axis, in the op's own rank.
struct ConvAttributes {
  enum class Padding { kSame, kValid, kExplicit };

  std::string op_name;  // for messages
  std::vector<int64_t> strides;
  std::vector<int64_t> dilations;
  std::vector<int64_t> explicit_paddings;  // before and after, for each axis
  std::vector<int64_t> kernel_size;        // empty until known, for ops that take it from a filter
  Padding padding = Padding::kSame;

  int rank() const { return static_cast<int>(strides.size()); }

  // `Context` is an InferenceContext or an OpKernelConstruction.
  template <typename Context>
  absl::Status Read(Context* context, bool has_kernel_size) {
    std::string padding_name;
    if (auto status = context->GetAttr("strides", &strides); !status.ok()) return status;
    if (auto status = context->GetAttr("dilations", &dilations); !status.ok()) return status;
    if (auto status = context->GetAttr("explicit_paddings", &explicit_paddings); !status.ok()) {
      return status;
    }
    if (auto status = context->GetAttr("padding", &padding_name); !status.ok()) return status;
    if (has_kernel_size) {
      if (auto status = context->GetAttr("kernel_size", &kernel_size); !status.ok()) return status;
    }
    padding = padding_name == "SAME"    ? Padding::kSame
              : padding_name == "VALID" ? Padding::kValid
                                        : Padding::kExplicit;
    return Check(has_kernel_size);
  }

  // Sets one axis of an operation. The kernel may be kUnknown, then so is the output; an unknown
  // input leaves the output unknown as well.
  absl::Status MakeAxis(int axis, int64_t input, int64_t kernel, ConvAxis* result) const;

  // "kernel_size [7,7], strides [1,1], ...": ends messages about sizes.
  std::string ToString() const;

 private:
  absl::Status Check(bool has_kernel_size) const;
};

// Number of taps, or an error if a size is not positive or the product exceeds 2^31 - 1.
absl::Status CountTaps(absl::string_view op_name, const std::vector<int64_t>& kernel_size,
                       int64_t* taps);

// Makes `size` agree with `other` where one of the two is unknown. False if they differ.
bool MergeSize(int64_t* size, int64_t other);

absl::Status CheckRank(absl::string_view op_name, absl::string_view tensor, const Dims& dims,
                       int rank);

// "[2,9,?]".
std::string SizesToString(const std::vector<int64_t>& sizes);

// Index of axis `axis` of a `rank`-dimensional operation in a ConvGeometry.
inline int CanonicalAxis(int axis, int rank) { return axis + kMaxSpatialAxes - rank; }

// An axis of size 1 that does nothing.
inline ConvAxis TrivialAxis() { return {1, 1, 1, 1, 1, 0}; }

}  // namespace tfconv

#endif  // TFCONV_COMMON_OP_GEOMETRY_H_
