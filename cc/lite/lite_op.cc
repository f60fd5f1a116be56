#include "lite/lite_op.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "aggregation/aggregation_kernel.h"
#include "deformable/deformable_kernel.h"
#include "involution/involution_kernel.h"
#include "per_example/per_example_kernel.h"

namespace tfconv {
namespace lite {
namespace {

constexpr char kInvolution[] = "Tfconv>Involution";
constexpr char kAggregation[] = "Tfconv>DeformableAggregation";
constexpr char kDeformableSample[] = "Tfconv>DeformableSample";
constexpr char kDeformableConv[] = "Tfconv>DeformableConv";
constexpr char kLocalAttention[] = "Tfconv>LocalAttention";
constexpr char kPerExampleConv[] = "Tfconv>PerExampleConv";

// Pixels along an axis are counted in 32 bits.
constexpr int64_t kMaxImageSize = std::numeric_limits<int32_t>::max() - 1;

Status CheckInputs(const std::string& op_name, const std::vector<Shape>& inputs, size_t expected) {
  if (inputs.size() == expected) return Status();
  return Error(op_name, ": there must be ", expected, " inputs. Received: ", inputs.size());
}

// Groups and filters of a convolution with a filter [..., C / groups, F].
Status ReadFilter(const std::string& op_name, const Shape& x, const Shape& filter, int64_t* groups,
                  int64_t* filters) {
  const int64_t channels = x.back();
  const int64_t group_channels = filter[filter.size() - 2];
  *filters = filter.back();
  if (channels == 0 && group_channels == 0) {
    *groups = 1;
  } else if (group_channels == 0 || channels == 0 || channels % group_channels != 0) {
    return Error(op_name, ": the ", group_channels, " input channels of filter of shape ", filter,
                 " must divide the ", channels, " channels of x of shape ", x);
  } else {
    *groups = channels / group_channels;
  }
  if (*filters % *groups != 0) {
    return Error(op_name, ": the ", *groups, " groups (", channels, " channels of x of shape ", x,
                 " / ", group_channels, ") must divide the ", *filters,
                 " filters of filter of shape ", filter);
  }
  return Status();
}

class Involution : public LiteOp {
 public:
  Status Read(const Options& options) {
    attributes_.op_name = "Involution";
    return attributes_.Read(options, true);
  }

  Status Infer(const std::vector<Shape>& inputs, Shape* output) override {
    const std::string& name = attributes_.op_name;
    const int rank = attributes_.rank();
    if (auto s = CheckInputs(name, inputs, 2); !s.ok()) return s;
    const Shape& x = inputs[0];
    const Shape& kernel = inputs[1];
    if (auto s = CheckRank(name, "x", x, rank + 2); !s.ok()) return s;
    if (auto s = CheckRank(name, "kernel", kernel, rank + 2); !s.ok()) return s;
    auto status = attributes_.MakeGeometry(x, attributes_.kernel_size, &args_.geometry, output);
    if (!status.ok()) return status;
    int64_t taps;
    if (auto s = CountTaps(name, attributes_.kernel_size, &taps); !s.ok()) return s;
    const bool agree = std::equal(output->begin(), output->end(), kernel.begin()) &&
                       kernel.back() > 0 && kernel.back() % taps == 0;
    if (!agree) {
      return Error(name, ": kernel has shape ", kernel, ", expected batch and positions ", *output,
                   " and a multiple of ", taps, " for input x of shape ", x, " with ",
                   attributes_.ToString());
    }
    args_.groups = kernel.back() / taps;
    if (x.back() % args_.groups != 0) {
      return Error(name, ": the ", args_.groups, " groups (", kernel.back(), " / ", taps,
                   ") of kernel of shape ", kernel, " must divide the ", x.back(),
                   " channels of x of shape ", x);
    }
    output->push_back(x.back());
    return Status();
  }

  Status Run(Executor* executor, const std::vector<Input>& inputs,
             const Output& output) override {
    args_.x = inputs[0].data;
    args_.kernel = inputs[1].data;
    args_.y = output.data;
    return executor->RunPass(args_, kernels_.forward);
  }

 private:
  const InvolutionKernels<float> kernels_ = ActiveKernels<InvolutionKernels<float>>();
  ConvAttributes attributes_;
  InvolutionArgs<float> args_ = {};
};

class Aggregation : public LiteOp {
 public:
  Status Read(const Options& options) {
    attributes_.op_name = "DeformableAggregation";
    return attributes_.Read(options, true);
  }

  Status Infer(const std::vector<Shape>& inputs, Shape* output) override {
    const std::string& name = attributes_.op_name;
    const int rank = attributes_.rank();
    if (auto s = CheckInputs(name, inputs, 3); !s.ok()) return s;
    const Shape& x = inputs[0];
    if (auto s = CheckRank(name, "x", x, rank + 2); !s.ok()) return s;
    auto status = attributes_.MakeGeometry(x, attributes_.kernel_size, &args_.geometry, output);
    if (!status.ok()) return status;
    if (!CountsPixels(args_.geometry, rank)) {
      return Error(name, ": x has shape ", x, kPixelsNotCounted);
    }
    int64_t taps;
    if (auto s = CountTaps(name, attributes_.kernel_size, &taps); !s.ok()) return s;
    args_.rank = rank;
    args_.groups = inputs[2].back() / taps;
    const std::pair<const char*, int64_t> tensors[] = {{"offset", taps * rank}, {"weights", taps}};
    for (int i = 0; i < 2; ++i) {
      const auto& [tensor, unit] = tensors[i];
      const Shape& shape = inputs[i + 1];
      if (auto s = CheckRank(name, tensor, shape, rank + 2); !s.ok()) return s;
      if (!std::equal(output->begin(), output->end(), shape.begin()) || args_.groups < 1 ||
          shape.back() != args_.groups * unit) {
        return Error(name, ": ", tensor, " has shape ", shape, ", expected batch and positions ",
                     *output, " and ", args_.groups, "*", unit, " for input x of shape ", x,
                     " with ", attributes_.ToString());
      }
    }
    if (x.back() % args_.groups != 0) {
      return Error(name, ": the ", args_.groups, " groups of weights of shape ", inputs[2],
                   " must divide the ", x.back(), " channels of x of shape ", x);
    }
    output->push_back(x.back());
    return Status();
  }

  Status Run(Executor* executor, const std::vector<Input>& inputs,
             const Output& output) override {
    args_.x = inputs[0].data;
    args_.offset = inputs[1].data;
    args_.weights = inputs[2].data;
    args_.y = output.data;
    return executor->RunPass(args_, kernels_.forward);
  }

 private:
  const AggregationKernels<float> kernels_ = ActiveKernels<AggregationKernels<float>>();
  ConvAttributes attributes_;
  AggregationArgs<float> args_ = {};
};

// DeformableSample, or DeformableConv, which has a filter. The mask, if there is one, is last.
class Deformable : public LiteOp {
 public:
  explicit Deformable(bool has_filter) : has_filter_(has_filter) {}

  Status Read(const Options& options) {
    const std::string& name = attributes_.op_name =
        has_filter_ ? "DeformableConv" : "DeformableSample";
    const auto found = options.find("modulation");
    if (found == options.end() || found->second.integers.size() != 1 ||
        found->second.integers[0] < 0 || found->second.integers[0] > 1) {
      return Error(name, ": modulation, the number of masks, must be 0 or 1");
    }
    has_mask_ = found->second.integers[0] == 1;
    if (auto s = attributes_.Read(options, !has_filter_); !s.ok()) return s;
    args_.rank = attributes_.rank();
    return Status();
  }

  Status Infer(const std::vector<Shape>& inputs, Shape* output) override {
    packed_from_ = nullptr;
    const std::string& name = attributes_.op_name;
    if (auto s = CheckInputs(name, inputs, 2 + has_filter_ + has_mask_); !s.ok()) return s;
    const Shape& x = inputs[0];
    const Shape& offset = inputs[1];
    const int rank = args_.rank;
    if (auto s = CheckRank(name, "x", x, rank + 2); !s.ok()) return s;
    if (auto s = CheckRank(name, "offset", offset, rank + 2); !s.ok()) return s;
    if (*std::max_element(x.begin() + 1, x.end() - 1) > kMaxImageSize) {
      return Error(name, ": x has shape ", x, ", its spatial sizes must be at most ",
                   kMaxImageSize);
    }
    std::vector<int64_t> kernel = attributes_.kernel_size;
    if (has_filter_) {
      const Shape& filter = inputs[2];
      if (auto s = CheckRank(name, "filter", filter, rank + 2); !s.ok()) return s;
      kernel.assign(filter.begin(), filter.begin() + rank);
      if (auto s = ReadFilter(name, x, filter, &args_.groups, &args_.filters); !s.ok()) return s;
    }
    int64_t taps;
    if (auto s = CountTaps(name, kernel, &taps); !s.ok()) return s;
    auto status = attributes_.MakeGeometry(x, kernel, &args_.geometry, output);
    if (!status.ok()) return status;
    const Shape positions = *output;
    const auto agrees = [&](const Shape& shape, int64_t last) {
      return std::equal(positions.begin(), positions.end(), shape.begin()) && shape.back() == last;
    };
    const auto mismatch = [&](const char* tensor, const Shape& shape, int64_t last) {
      return Error(name, ": ", tensor, " has shape ", shape, ", expected batch and positions ",
                   positions, " and og*", last, " for input x of shape ", x, " and kernel size ",
                   kernel, " with ", attributes_.ToString());
    };
    args_.offset_groups = offset.back() / (rank * taps);
    if (offset.back() <= 0 || !agrees(offset, args_.offset_groups * rank * taps)) {
      return mismatch("offset", offset, rank * taps);
    }
    if (has_mask_) {
      const Shape& mask = inputs.back();
      if (auto s = CheckRank(name, "mask", mask, rank + 2); !s.ok()) return s;
      if (!agrees(mask, args_.offset_groups * taps)) return mismatch("mask", mask, taps);
    }
    if (x.back() % args_.offset_groups != 0) {
      return Error(name, ": the ", args_.offset_groups, " offset groups of offset of shape ",
                   offset, " must divide the ", x.back(), " channels of x of shape ", x);
    }
    if (has_filter_) {
      output->push_back(args_.filters);
    } else {
      output->insert(output->end(), {taps, x.back()});
    }
    return Status();
  }

  Status Run(Executor* executor, const std::vector<Input>& inputs,
             const Output& output) override {
    args_.x = inputs[0].data;
    args_.offset = inputs[1].data;
    args_.mask = has_mask_ ? inputs.back().data : nullptr;
    if (!has_filter_) {
      args_.columns = output.data;
      return executor->RunPass(args_, sample_.sample);
    }
    if (output.size == 0 || args_.geometry.channels == 0) {
      std::fill_n(output.data, output.size, 0.f);
      return Status();
    }
    args_.filter = inputs[2].data;
    args_.y = output.data;
    const int64_t bytes = conv_.packed_filter_bytes(args_);
    if (packed_from_ != inputs[2].source || packed_bytes_ != bytes) {
      if (auto s = packed_.Reserve(bytes); !s.ok()) return s;
      packed_bytes_ = bytes;
      args_.packed_filter = packed_.data();
      if (auto s = executor->RunPass(args_, conv_.pack_filter); !s.ok()) return s;
      packed_from_ = inputs[2].constant ? inputs[2].source : nullptr;
    }
    const int64_t sums = conv_.partial_sums_size(args_) * static_cast<int64_t>(sizeof(float));
    if (auto s = partial_.Reserve(sums); !s.ok()) return s;
    args_.partial = static_cast<float*>(partial_.data());
    if (auto s = executor->RunPass(args_, conv_.convolve); !s.ok()) return s;
    return executor->RunPass(args_, conv_.sum_slices);
  }

 private:
  const DeformableSampleKernels<float> sample_ = ActiveKernels<DeformableSampleKernels<float>>();
  const DeformableConvKernels<float> conv_ = ActiveKernels<DeformableConvKernels<float>>();
  const bool has_filter_;
  bool has_mask_ = false;
  ConvAttributes attributes_;
  DeformableArgs<float> args_ = {};
  Memory packed_;
  Memory partial_;
  int64_t packed_bytes_ = 0;
  const void* packed_from_ = nullptr;  // the data of the constant filter that packed_ is of
};

class PerExampleConv : public LiteOp {
 public:
  Status Read(const Options& options) {
    attributes_.op_name = "PerExampleConv";
    return attributes_.Read(options, false);
  }

  Status Infer(const std::vector<Shape>& inputs, Shape* output) override {
    const std::string& name = attributes_.op_name;
    const int rank = attributes_.rank();
    if (auto s = CheckInputs(name, inputs, 2); !s.ok()) return s;
    const Shape& x = inputs[0];
    const Shape& filter = inputs[1];
    if (auto s = CheckRank(name, "x", x, rank + 2); !s.ok()) return s;
    if (auto s = CheckRank(name, "filter", filter, rank + 3); !s.ok()) return s;
    if (x[0] != filter[0]) {
      return Error(name, ": filter of shape ", filter, " must hold one filter for each of the ",
                   x[0], " examples of x of shape ", x);
    }
    const std::vector<int64_t> kernel(filter.begin() + 1, filter.begin() + 1 + rank);
    int64_t taps;
    if (auto s = CountTaps(name, kernel, &taps); !s.ok()) return s;
    if (auto s = ReadFilter(name, x, filter, &args_.groups, &args_.filters); !s.ok()) return s;
    auto status = attributes_.MakeGeometry(x, kernel, &args_.geometry, output);
    if (!status.ok()) return status;
    output->push_back(args_.filters);
    return Status();
  }

  Status Run(Executor* executor, const std::vector<Input>& inputs,
             const Output& output) override {
    if (output.size == 0 || inputs[0].size == 0) {
      std::fill_n(output.data, output.size, 0.f);
      return Status();
    }
    args_.x = inputs[0].data;
    args_.filter = inputs[1].data;
    args_.y = output.data;
    return executor->RunPass(args_, kernels_.convolve);
  }

 private:
  const PerExampleKernels<float> kernels_ = ActiveKernels<PerExampleKernels<float>>();
  ConvAttributes attributes_;
  PerExampleArgs<float> args_ = {};
};

template <typename Op>
Status ReadInto(std::unique_ptr<Op> made, const Options& options, std::unique_ptr<LiteOp>* op) {
  if (auto status = made->Read(options); !status.ok()) return status;
  *op = std::move(made);
  return Status();
}

}  // namespace

bool HasLiteOp(const std::string& name) {
  return name == kInvolution || name == kAggregation || name == kDeformableSample ||
         name == kDeformableConv || name == kLocalAttention || name == kPerExampleConv;
}

Status MakeLiteOp(const std::string& name, const Options& options, std::unique_ptr<LiteOp>* op) {
  const auto version = options.find("version");
  if (version != options.end() && version->second.integers != std::vector<int64_t>{1}) {
    return Error(name, ": its custom_options are of a version that this library does not know");
  }
  if (name == kInvolution) return ReadInto(std::make_unique<Involution>(), options, op);
  if (name == kLocalAttention) return MakeLocalAttention(options, op);
  if (name == kAggregation) return ReadInto(std::make_unique<Aggregation>(), options, op);
  if (name == kPerExampleConv) return ReadInto(std::make_unique<PerExampleConv>(), options, op);
  return ReadInto(std::make_unique<Deformable>(name == kDeformableConv), options, op);
}

}  // namespace lite
}  // namespace tfconv
