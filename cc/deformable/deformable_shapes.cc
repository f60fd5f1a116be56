#include "deformable/deformable_shapes.h"

#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace tfconv {
namespace {

// Pixels along an axis are counted in 32 bits.
constexpr int64_t kMaxImageSize = std::numeric_limits<int32_t>::max() - 1;

// `size` is a multiple of `unit`; both may be unknown.
bool IsMultiple(int64_t size, int64_t unit) {
  return size == kUnknown || unit == kUnknown || (size > 0 && size % unit == 0);
}

// Makes `sizes` agree with `dims`, as far as both are known.
absl::Status MergeShape(const std::string& name, const char* tensor, const Dims& dims,
                        const std::string& because, std::vector<int64_t>* sizes) {
  const std::vector<int64_t> expected = *sizes;
  bool agree = true;
  for (size_t i = 0; i < sizes->size(); ++i) {
    agree = MergeSize(&(*sizes)[i], dims[static_cast<int>(i)]) && agree;
  }
  if (agree) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", tensor, " has shape ", dims.ToString(),
                                                 ", expected ", SizesToString(expected), " for ",
                                                 because));
}

// Channels, convolution groups and filters of a DeformableConv.
absl::Status CheckFilter(const std::string& name, const DeformableShapes& in,
                         DeformableSizes* sizes) {
  const int64_t channels = in.x[-1];
  const int64_t group_channels = in.filter[-2];
  sizes->filters = in.filter[-1];
  if (group_channels == 0 && channels == 0) {
    sizes->groups = 1;
  } else if (group_channels == 0 || (channels != kUnknown && group_channels != kUnknown &&
                                     (channels == 0 || channels % group_channels != 0))) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": the ", group_channels, " input channels of filter of shape ", in.filter.ToString(),
        " must divide the ", channels == kUnknown ? "" : absl::StrCat(channels, " "),
        "channels of x of shape ", in.x.ToString()));
  } else if (channels != kUnknown && group_channels != kUnknown) {
    sizes->groups = channels / group_channels;
  }
  if (sizes->groups != kUnknown && sizes->filters != kUnknown &&
      sizes->filters % sizes->groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": the ", sizes->groups, " groups (", channels, " channels of x of shape ",
        in.x.ToString(), " / ", group_channels, ") must divide the ", sizes->filters,
        " filters of filter of shape ", in.filter.ToString()));
  }
  return absl::OkStatus();
}

// Checks all shapes as far as they are known, those of upstream gradients (`columns`, `y`)
// included. The kernel's size is the attribute's, or the filter's where the op has one.
absl::Status MakeSizes(const ConvAttributes& attributes, bool has_filter, bool has_mask,
                       const DeformableShapes& in, DeformableSizes* sizes,
                       DeformableShapes* shapes) {
  const std::string& name = attributes.op_name;
  const int spatial_rank = attributes.rank();
  sizes->rank = spatial_rank;
  sizes->taps = sizes->offset_groups = sizes->groups = sizes->filters = kUnknown;
  const std::pair<const char*, const Dims*> tensors[] = {
      {"x", &in.x},           {"offset", &in.offset},    {"mask", &in.mask},
      {"filter", &in.filter}, {"dcolumns", &in.columns}, {"dy", &in.y}};
  for (const auto& [tensor, dims] : tensors) {
    const int rank = spatial_rank + (dims == &in.columns ? 3 : 2);
    if (auto status = CheckRank(name, tensor, *dims, rank); !status.ok()) return status;
  }

  // Taps.
  std::vector<int64_t> kernel;
  for (int i = 0; i < spatial_rank; ++i) {
    kernel.push_back(has_filter ? in.filter[i] : attributes.kernel_size[i]);
  }
  std::vector<int64_t> known_kernel;
  for (const int64_t size : kernel) {
    if (size != kUnknown) known_kernel.push_back(size);
  }
  int64_t taps;
  if (auto status = CountTaps(name, known_kernel, &taps); !status.ok()) return status;
  if (known_kernel.size() == kernel.size()) sizes->taps = taps;

  // Positions.
  ConvGeometry& geometry = sizes->geometry;
  for (ConvAxis& axis : geometry.axis) axis = TrivialAxis();
  std::vector<int64_t> positions = {in.x[0]};
  for (int i = 0; i < spatial_rank; ++i) {
    ConvAxis& axis = geometry.axis[CanonicalAxis(i, spatial_rank)];
    if (in.x[i + 1] > kMaxImageSize) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": x has shape ", in.x.ToString(),
                                                     ", its spatial sizes must be at most ",
                                                     kMaxImageSize));
    }
    if (auto status = attributes.MakeAxis(i, in.x[i + 1], kernel[i], &axis); !status.ok()) {
      return status;
    }
    positions.push_back(axis.output);
  }
  std::string because = absl::StrCat("input x of shape ", in.x.ToString());
  if (has_filter) absl::StrAppend(&because, ", filter of shape ", in.filter.ToString());
  absl::StrAppend(&because, " with ", attributes.ToString());

  // Offset groups.
  const int64_t unit = sizes->taps == kUnknown ? kUnknown : spatial_rank * sizes->taps;
  const auto channels_of = [&](const Dims& dims, int64_t per_group) {
    std::string expected = SizesToString(positions);
    expected.pop_back();
    return absl::StrCat(" has shape ", dims.ToString(), ", expected ", expected, ",og*", per_group,
                        "] for ", because);
  };
  if (!IsMultiple(in.offset[-1], unit)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": offset", channels_of(in.offset, unit)));
  }
  if (!IsMultiple(in.mask[-1], sizes->taps)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": mask", channels_of(in.mask, sizes->taps)));
  }
  if (unit != kUnknown && in.offset[-1] != kUnknown) {
    sizes->offset_groups = in.offset[-1] / unit;
  } else if (unit != kUnknown && in.mask[-1] != kUnknown) {
    sizes->offset_groups = in.mask[-1] / sizes->taps;
  }
  const int64_t channels = in.x[-1];
  if (sizes->offset_groups != kUnknown && channels != kUnknown &&
      channels % sizes->offset_groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": the ", sizes->offset_groups, " offset groups of offset of shape ",
                     in.offset.ToString(), " must divide the ", channels,
                     " channels of x of shape ", in.x.ToString()));
  }

  // Every tensor has the same positions; whichever is known tells them.
  const auto extended = [&](std::initializer_list<int64_t> last) {
    std::vector<int64_t> result = positions;
    result.insert(result.end(), last);
    return result;
  };
  const int64_t groups = sizes->offset_groups;
  std::vector<int64_t> offset =
      extended({groups == kUnknown ? in.offset[-1] : groups * unit});
  if (auto status = MergeShape(name, "offset", in.offset, because, &offset); !status.ok()) {
    return status;
  }
  positions.assign(offset.begin(), offset.end() - 1);
  absl::StrAppend(&because, " and offset of shape ", in.offset.ToString());
  std::vector<int64_t> mask = extended({groups == kUnknown ? in.mask[-1] : groups * sizes->taps});
  if (auto status = MergeShape(name, "mask", in.mask, because, &mask); !status.ok()) {
    return status;
  }
  positions.assign(mask.begin(), mask.end() - 1);
  if (has_filter) {
    if (auto status = CheckFilter(name, in, sizes); !status.ok()) return status;
  }
  std::vector<int64_t> columns = extended({sizes->taps, channels});
  if (auto status = MergeShape(name, "dcolumns", in.columns, because, &columns); !status.ok()) {
    return status;
  }
  positions.assign(columns.begin(), columns.end() - 2);
  std::vector<int64_t> y = extended({sizes->filters});
  if (auto status = MergeShape(name, "dy", in.y, because, &y); !status.ok()) return status;
  positions.assign(y.begin(), y.end() - 1);

  geometry.batch = positions[0];
  geometry.channels = columns.back();
  for (int i = 0; i < spatial_rank; ++i) {
    geometry.axis[CanonicalAxis(i, spatial_rank)].output = positions[i + 1];
  }
  std::vector<int64_t> x = {positions[0]};
  for (int i = 0; i < spatial_rank; ++i) x.push_back(in.x[i + 1]);
  x.push_back(columns.back());
  shapes->x = Dims(x);
  shapes->offset = Dims(extended({offset.back()}));
  if (has_mask) shapes->mask = Dims(extended({mask.back()}));
  shapes->columns = Dims(extended({sizes->taps, columns.back()}));
  shapes->y = Dims(extended({y.back()}));
  if (has_filter) {
    std::vector<int64_t> filter;
    for (int i = 0; i < spatial_rank; ++i) filter.push_back(in.filter[i]);
    filter.insert(filter.end(), {in.filter[-2], y.back()});
    shapes->filter = Dims(filter);
  }
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(DeformableKind kind) {
  switch (kind) {
    case DeformableKind::kSample:
      return "DeformableSample";
    case DeformableKind::kSampleGrad:
      return "DeformableSampleGrad";
    case DeformableKind::kConv:
      return "DeformableConv";
    case DeformableKind::kConvInputGrad:
      return "DeformableConvInputGrad";
    case DeformableKind::kConvFilterGrad:
      break;
  }
  return "DeformableConvFilterGrad";
}

absl::Status MakeDeformableSizes(DeformableKind kind, const DeformableAttributes& attributes,
                                 const std::function<Dims(int)>& dims_of, DeformableSizes* sizes,
                                 DeformableShapes* shapes) {
  const auto dims_or_unknown = [&](int input) { return input < 0 ? Dims() : dims_of(input); };
  DeformableShapes in;
  in.x = dims_of(kX);
  in.offset = dims_of(kOffset);
  in.filter = dims_or_unknown(FilterInput(kind));
  in.columns = dims_or_unknown(DcolumnsInput(kind));
  in.y = dims_or_unknown(DyInput(kind));
  if (attributes.modulation > 0) in.mask = dims_of(MaskInput(kind));
  return MakeSizes(attributes.conv, HasFilter(kind), attributes.modulation > 0, in, sizes,
                   shapes);
}

}  // namespace tfconv
