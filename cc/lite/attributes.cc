#include "lite/attributes.h"

#include <algorithm>
#include <limits>

namespace tfconv {
namespace lite {
namespace {

// Keeps every product of two attributes within an int64_t.
constexpr int64_t kMaxAttribute = std::numeric_limits<int32_t>::max();

std::vector<int64_t> Integers(const Options& options, const std::string& name) {
  const auto found = options.find(name);
  return found == options.end() ? std::vector<int64_t>() : found->second.integers;
}

Status CheckList(const std::string& op_name, const std::string& name,
                 const std::vector<int64_t>& list, size_t length, int64_t minimum) {
  const bool in_range = std::all_of(list.begin(), list.end(), [minimum](int64_t value) {
    return minimum <= value && value <= kMaxAttribute;
  });
  if (list.size() == length && in_range) return Status();
  return Error(op_name, ": ", name, " must be ", length, " integers from ", minimum, " to ",
               kMaxAttribute, ". Received: ", list);
}

}  // namespace

Status ConvAttributes::Read(const Options& options, bool has_kernel_size) {
  strides = Integers(options, "strides");
  dilations = Integers(options, "dilations");
  explicit_paddings = Integers(options, "explicit_paddings");
  if (has_kernel_size) kernel_size = Integers(options, "kernel_size");
  const auto found = options.find("padding");
  const std::string name = found == options.end() ? "" : found->second.text;
  if (name != "SAME" && name != "VALID" && name != "EXPLICIT") {
    return Error(op_name, ": padding must be SAME, VALID or EXPLICIT. Received: \"", name, "\"");
  }
  padding = name == "SAME"    ? Padding::kSame
            : name == "VALID" ? Padding::kValid
                              : Padding::kExplicit;

  const std::vector<int64_t>& first = has_kernel_size ? kernel_size : strides;
  const size_t length = first.size();
  if (length < 1 || length > kMaxSpatialAxes) {
    return Error(op_name, ": ", has_kernel_size ? "kernel_size" : "strides", " must have 1 to ",
                 kMaxSpatialAxes, " integers. Received: ", first);
  }
  if (has_kernel_size) {
    int64_t taps;
    if (auto status = CountTaps(op_name, kernel_size, &taps); !status.ok()) return status;
  }
  if (auto s = CheckList(op_name, "strides", strides, length, 1); !s.ok()) return s;
  if (auto s = CheckList(op_name, "dilations", dilations, length, 1); !s.ok()) return s;
  const bool is_explicit = padding == Padding::kExplicit;
  return CheckList(
      op_name,
      is_explicit ? "explicit_paddings" : "explicit_paddings (only with padding \"EXPLICIT\")",
      explicit_paddings, is_explicit ? 2 * length : 0, 0);
}

Status ConvAttributes::MakeGeometry(const Shape& x, const std::vector<int64_t>& kernel,
                                    ConvGeometry* geometry, Shape* output) const {
  geometry->batch = x.front();
  geometry->channels = x.back();
  for (ConvAxis& axis : geometry->axis) axis = {1, 1, 1, 1, 1, 0};
  *output = {x.front()};
  for (int i = 0; i < rank(); ++i) {
    const int64_t input = x[i + 1];
    const int64_t extent = (kernel[i] - 1) * dilations[i] + 1;
    ConvAxis& axis = geometry->axis[i + kMaxSpatialAxes - rank()];
    axis = {input, 0, kernel[i], strides[i], dilations[i], 0};
    if (padding == Padding::kSame) {
      axis.output = (input + strides[i] - 1) / strides[i];
      const int64_t needed = (axis.output - 1) * strides[i] + extent - input;
      if (input > 0) axis.pad = std::max<int64_t>(needed, 0) / 2;
    } else {
      int64_t padded = input;
      if (padding == Padding::kExplicit) {
        axis.pad = explicit_paddings[2 * i];
        padded += axis.pad + explicit_paddings[2 * i + 1];
      }
      if (padded < extent) {
        return Error(op_name, ": spatial axis ", i, " of x has size ", input, ", padded to ",
                     padded, ", but the kernel spans ", extent, " (kernel size ", kernel[i],
                     ", dilation ", dilations[i], ")");
      }
      axis.output = (padded - extent) / strides[i] + 1;
    }
    output->push_back(axis.output);
  }
  return Status();
}

std::string ConvAttributes::ToString() const {
  std::ostringstream text;
  if (!kernel_size.empty()) text << "kernel_size " << kernel_size << ", ";
  text << "strides " << strides << ", dilations " << dilations << ", padding ";
  if (padding == Padding::kExplicit) {
    text << explicit_paddings;
  } else {
    text << (padding == Padding::kSame ? "SAME" : "VALID");
  }
  return text.str();
}

Status CountTaps(const std::string& op_name, const std::vector<int64_t>& kernel_size,
                 int64_t* taps) {
  *taps = 1;
  for (const int64_t size : kernel_size) {
    if (size < 1 || size > kMaxAttribute / *taps) {
      return Error(op_name, ": kernel sizes must be positive with a product of at most ",
                   kMaxAttribute, ". Received: ", kernel_size);
    }
    *taps *= size;
  }
  return Status();
}

Status CheckRank(const std::string& op_name, const char* tensor, const Shape& shape, int rank) {
  if (static_cast<int>(shape.size()) == rank) return Status();
  return Error(op_name, ": ", tensor, " must have ", rank, " dimensions. Received shape: ", shape);
}

}  // namespace lite
}  // namespace tfconv
