#include "common/op_geometry.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tfconv {
namespace {

using ::tensorflow::Tensor;
using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Keeps every product of two attributes within an int64_t.
constexpr int64_t kMaxAttribute = std::numeric_limits<int32_t>::max();

absl::Status CheckList(const std::string& op_name, absl::string_view name,
                       const std::vector<int64_t>& list, size_t length, int64_t minimum) {
  const bool in_range = std::all_of(list.begin(), list.end(), [minimum](int64_t value) {
    return minimum <= value && value <= kMaxAttribute;
  });
  if (list.size() == length && in_range) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(op_name, ": ", name, " must be ", length,
                                                 " integers from ", minimum, " to ", kMaxAttribute,
                                                 ". Received: [", absl::StrJoin(list, ","), "]"));
}

}  // namespace

Dims Dims::Of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < tensor.dims(); ++i) sizes.push_back(tensor.dim_size(i));
  return Dims(std::move(sizes));
}

Dims Dims::Of(InferenceContext* c, int input) {
  const ShapeHandle shape = c->input(input);
  if (!c->RankKnown(shape)) return Dims();
  std::vector<int64_t> sizes;
  for (int i = 0; i < c->Rank(shape); ++i) {
    const DimensionHandle dim = c->Dim(shape, i);
    sizes.push_back(c->ValueKnown(dim) ? c->Value(dim) : kUnknown);
  }
  return Dims(std::move(sizes));
}

int64_t Dims::operator[](int axis) const {
  if (!known_rank_) return kUnknown;
  const int index = axis < 0 ? axis + rank() : axis;
  return index < 0 || index >= rank() ? kUnknown : sizes_[index];
}

std::string Dims::ToString() const {
  return known_rank_ ? SizesToString(sizes_) : std::string("<unknown>");
}

ShapeHandle Dims::ToHandle(InferenceContext* c) const {
  if (!known_rank_) return c->UnknownShape();
  std::vector<DimensionHandle> handles;
  for (const int64_t size : sizes_) {
    handles.push_back(size == kUnknown ? c->UnknownDim() : c->MakeDim(size));
  }
  return c->MakeShape(handles);
}

absl::Status ConvAttributes::Check(bool has_kernel_size) const {
  const size_t length = has_kernel_size ? kernel_size.size() : strides.size();
  if (length < 1 || length > kMaxSpatialAxes) {
    return absl::InvalidArgumentError(absl::StrCat(
        op_name, ": ", has_kernel_size ? "kernel_size" : "strides", " must have 1 to ",
        kMaxSpatialAxes,
        " integers. Received: ", SizesToString(has_kernel_size ? kernel_size : strides)));
  }
  if (has_kernel_size) {
    int64_t taps;
    if (auto status = CountTaps(op_name, kernel_size, &taps); !status.ok()) return status;
  }
  if (auto status = CheckList(op_name, "strides", strides, length, 1); !status.ok()) return status;
  if (auto status = CheckList(op_name, "dilations", dilations, length, 1); !status.ok()) {
    return status;
  }
  const bool is_explicit = padding == Padding::kExplicit;
  return CheckList(
      op_name,
      is_explicit ? "explicit_paddings" : "explicit_paddings (only with padding \"EXPLICIT\")",
      explicit_paddings, is_explicit ? 2 * length : 0, 0);
}

absl::Status ConvAttributes::MakeAxis(int axis, int64_t input, int64_t kernel,
                                      ConvAxis* result) const {
  const int64_t stride = strides[axis];
  const int64_t dilation = dilations[axis];
  *result = {input, kUnknown, kernel, stride, dilation, 0};
  if (padding == Padding::kExplicit) result->pad = explicit_paddings[2 * axis];
  if (input == kUnknown) return absl::OkStatus();
  if (padding == Padding::kSame) {
    // Does not need the kernel to know the output.
    result->output = input / stride + (input % stride != 0 ? 1 : 0);
    if (kernel == kUnknown || input == 0) return absl::OkStatus();
    const int64_t extent = (kernel - 1) * dilation + 1;
    const int64_t needed = (result->output - 1) * stride + extent - input;
    result->pad = std::max<int64_t>(needed, 0) / 2;
    return absl::OkStatus();
  }
  if (kernel == kUnknown) return absl::OkStatus();
  const int64_t extent = (kernel - 1) * dilation + 1;
  const int64_t after = padding == Padding::kExplicit ? explicit_paddings[2 * axis + 1] : 0;
  const int64_t padded = input + result->pad + after;
  if (padded < extent) {
    return absl::InvalidArgumentError(absl::StrCat(
        op_name, ": spatial axis ", axis, " of x has size ", input, ", padded to ", padded,
        ", but the kernel spans ", extent, " (kernel size ", kernel, ", dilation ", dilation, ")"));
  }
  result->output = (padded - extent) / stride + 1;
  return absl::OkStatus();
}

std::string ConvAttributes::ToString() const {
  std::string text;
  if (!kernel_size.empty()) {
    absl::StrAppend(&text, "kernel_size ", SizesToString(kernel_size), ", ");
  }
  absl::StrAppend(&text, "strides ", SizesToString(strides), ", dilations ",
                  SizesToString(dilations), ", padding ");
  switch (padding) {
    case Padding::kSame:
      absl::StrAppend(&text, "SAME");
      break;
    case Padding::kValid:
      absl::StrAppend(&text, "VALID");
      break;
    case Padding::kExplicit:
      absl::StrAppend(&text, SizesToString(explicit_paddings));
      break;
  }
  return text;
}

absl::Status CountTaps(absl::string_view op_name, const std::vector<int64_t>& kernel_size,
                       int64_t* taps) {
  *taps = 1;
  for (const int64_t size : kernel_size) {
    if (size < 1 || size > kMaxAttribute / *taps) {
      return absl::InvalidArgumentError(
          absl::StrCat(op_name, ": kernel sizes must be positive with a product of at most ",
                       kMaxAttribute, ". Received: [", absl::StrJoin(kernel_size, ","), "]"));
    }
    *taps *= size;
  }
  return absl::OkStatus();
}

bool MergeSize(int64_t* size, int64_t other) {
  if (other == kUnknown) return true;
  if (*size == kUnknown) *size = other;
  return *size == other;
}

absl::Status CheckRank(absl::string_view op_name, absl::string_view tensor, const Dims& dims,
                       int rank) {
  if (!dims.known_rank() || dims.rank() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(op_name, ": ", tensor, " must have ", rank,
                                                 " dimensions. Received shape: ", dims.ToString()));
}

std::string SizesToString(const std::vector<int64_t>& sizes) {
  return absl::StrCat("[",
                      absl::StrJoin(sizes, ",",
                                    [](std::string* out, int64_t size) {
                                      if (size == kUnknown) {
                                        absl::StrAppend(out, "?");
                                      } else {
                                        absl::StrAppend(out, size);
                                      }
                                    }),
                      "]");
}

}  // namespace tfconv
