// Tfconv>DeformableAggregation and its gradients: interface, shapes and CPU kernels. The numeric
// part is in aggregation_cpu.cc.
#include "aggregation/aggregation_op.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "aggregation/aggregation_kernel.h"
#include "common/cpu_kernel.h"
#include "tensorflow/core/framework/op.h"

namespace tfconv {
namespace {

struct AggregationShapes {
  Dims x;
  Dims offset;
  Dims weights;
  Dims y;
};

// Makes the batch and output sizes agree with those of a tensor, whose last size is a multiple of
// `unit`: a positive number of groups.
absl::Status MergeGroups(const std::string& name, const char* tensor, const Dims& dims,
                         int64_t unit, const std::string& because, std::vector<int64_t>* output,
                         int64_t* groups) {
  std::string expected = SizesToString(*output);
  expected.pop_back();
  bool agree = true;
  for (size_t i = 0; i < output->size(); ++i) {
    agree = MergeSize(&(*output)[i], dims[static_cast<int>(i)]) && agree;
  }
  const int64_t last = dims[static_cast<int>(output->size())];
  if (last != kUnknown) {
    agree = agree && last > 0 && last % unit == 0 && MergeSize(groups, last / unit);
  }
  if (agree) return absl::OkStatus();
  const std::string count = *groups == kUnknown ? "G" : absl::StrCat(*groups);
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", tensor, " has shape ", dims.ToString(),
                                                 ", expected ", expected, ",", count, "*", unit,
                                                 "] for ", because));
}

// Checks all shapes as far as they are known. `dy` is of unknown rank for the forward op.
absl::Status MakeShapes(const ConvAttributes& attributes, const AggregationShapes& in,
                        AggregationSizes* sizes, AggregationShapes* shapes) {
  const std::string& name = attributes.op_name;
  const int rank = attributes.rank();
  for (const auto& [tensor, dims] : {std::pair<const char*, const Dims&>("x", in.x),
                                     {"offset", in.offset},
                                     {"weights", in.weights},
                                     {"dy", in.y}}) {
    if (auto status = CheckRank(name, tensor, dims, rank + 2); !status.ok()) return status;
  }
  sizes->rank = rank;
  sizes->groups = kUnknown;
  int64_t taps;
  if (auto status = CountTaps(name, attributes.kernel_size, &taps); !status.ok()) return status;

  ConvGeometry& geometry = sizes->geometry;
  for (ConvAxis& axis : geometry.axis) axis = TrivialAxis();
  std::vector<int64_t> output = {in.x[0]};
  for (int i = 0; i < rank; ++i) {
    ConvAxis& axis = geometry.axis[CanonicalAxis(i, rank)];
    if (auto status = attributes.MakeAxis(i, in.x[i + 1], attributes.kernel_size[i], &axis);
        !status.ok()) {
      return status;
    }
    output.push_back(axis.output);
  }
  if (!CountsPixels(geometry, rank)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": x has shape ", in.x.ToString(), kPixelsNotCounted));
  }
  const std::string because =
      absl::StrCat("input x of shape ", in.x.ToString(), " with ", attributes.ToString());
  if (auto status =
          MergeGroups(name, "offset", in.offset, taps * rank, because, &output, &sizes->groups);
      !status.ok()) {
    return status;
  }
  if (auto status =
          MergeGroups(name, "weights", in.weights, taps, because, &output, &sizes->groups);
      !status.ok()) {
    return status;
  }
  const int64_t channels = in.x[rank + 1];
  if (channels != kUnknown && sizes->groups != kUnknown && channels % sizes->groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": the ", sizes->groups, " groups of offset of shape ",
                     in.offset.ToString(), " and weights of shape ", in.weights.ToString(),
                     " must divide the ", channels, " channels of x of shape ", in.x.ToString()));
  }
  std::vector<int64_t> y = output;
  y.push_back(channels);
  const std::vector<int64_t> forward = y;
  for (int i = 0; i < rank + 2; ++i) {
    if (!MergeSize(&y[i], in.y[i])) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": dy has shape ", in.y.ToString(),
                                                     ", expected ", SizesToString(forward),
                                                     " for x of shape ", in.x.ToString()));
    }
  }
  geometry.batch = y[0];
  geometry.channels = y[rank + 1];
  for (int i = 0; i < rank; ++i) geometry.axis[CanonicalAxis(i, rank)].output = y[i + 1];

  const auto with_last = [&](int64_t of_group) {
    std::vector<int64_t> result(y.begin(), y.end() - 1);
    result.push_back(sizes->groups == kUnknown ? kUnknown : sizes->groups * of_group);
    return Dims(std::move(result));
  };
  shapes->offset = with_last(taps * rank);
  shapes->weights = with_last(taps);
  std::vector<int64_t> x = {y[0]};
  for (int i = 0; i < rank; ++i) x.push_back(in.x[i + 1]);
  x.push_back(y[rank + 1]);
  shapes->x = Dims(std::move(x));
  shapes->y = Dims(std::move(y));
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(AggregationKind kind) {
  switch (kind) {
    case AggregationKind::kAggregation:
      return "DeformableAggregation";
    case AggregationKind::kInputGrad:
      return "DeformableAggregationInputGrad";
    case AggregationKind::kSamplingGrad:
      break;
  }
  return "DeformableAggregationSamplingGrad";
}

template <AggregationKind kKind>
absl::Status AggregationOp<kKind>::Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                                         std::vector<Dims>* outputs) const {
  const Dims dy = kKind == AggregationKind::kAggregation ? Dims() : input(3);
  AggregationShapes shapes;
  if (auto status = MakeShapes(attributes, {input(0), input(1), input(2), dy}, sizes, &shapes);
      !status.ok()) {
    return status;
  }
  if constexpr (kKind == AggregationKind::kAggregation) *outputs = {shapes.y};
  if constexpr (kKind == AggregationKind::kInputGrad) *outputs = {shapes.x};
  if constexpr (kKind == AggregationKind::kSamplingGrad) *outputs = {shapes.offset, shapes.weights};
  return absl::OkStatus();
}

template <AggregationKind kKind>
template <typename T>
absl::Status AggregationOp<kKind>::Run(Executor* executor, const Sizes& sizes,
                                       const std::vector<Buffer>& inputs,
                                       const std::vector<Buffer>& outputs) {
  using Element = typename ElementType<T>::Type;
  const auto in = [&](int i) { return static_cast<const Element*>(inputs[i].data); };
  const auto out = [&](int i) { return static_cast<Element*>(outputs[i].data); };
  const auto kernels = ActiveKernels<AggregationKernels<Element>>();
  // Without positions or channels nothing is summed.
  if (inputs[1].size == 0 || sizes.geometry.channels == 0) {
    for (const Buffer& output : outputs) {
      std::fill_n(static_cast<Element*>(output.data), output.size, Element{});
    }
    return absl::OkStatus();
  }
  AggregationArgs<Element> args = {};
  args.geometry = sizes.geometry;
  args.rank = sizes.rank;
  args.groups = sizes.groups;
  args.x = in(0);
  args.offset = in(1);
  args.weights = in(2);
  if constexpr (kKind == AggregationKind::kAggregation) {
    args.y = out(0);
    return RunPass(executor, args, kernels.forward);
  } else {
    args.dy = in(3);
  }
  if constexpr (kKind == AggregationKind::kSamplingGrad) {
    args.doffset = out(0);
    args.dweights = out(1);
    return RunPass(executor, args, kernels.backward_sampling);
  }
  args.dx = out(0);
  Temporary<char> parts;
  if (auto s = parts.Allocate(executor, kernels.dx_parts_bytes(args)); !s.ok()) return s;
  args.dx_parts = parts.data();
  if (auto s = RunPass(executor, args, kernels.backward_input); !s.ok()) return s;
  return RunPass(executor, args, kernels.sum_dx);
}

#define TFCONV_AGGREGATION_ATTRS                      \
  Attr("T: {half, bfloat16, float, double}")          \
      .Attr("kernel_size: list(int)")                 \
      .Attr("strides: list(int)")                     \
      .Attr("dilations: list(int)")                   \
      .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}") \
      .Attr("explicit_paddings: list(int) = []")

REGISTER_OP("Tfconv>DeformableAggregation")
    .Input("x: T")
    .Input("offset: T")
    .Input("weights: T")
    .Output("y: T")
    .TFCONV_AGGREGATION_ATTRS
    .SetShapeFn(ShapeFunction<AggregationOp<AggregationKind::kAggregation>>)
    .Doc(R"doc(
Weighted sum of the pixels under taps that are each moved by an offset.

y[n, p, c] = sum_t weights[n, p, g(c), t] * x(n, p * stride - pad + t * dilation +
offset[n, p, g(c), t], c) with T = prod(kernel_size) taps, row-major, and g(c) = c / (C / G). x is
interpolated linearly along each axis, and zero outside.

x: [N, *spatial, C]
offset: [N, *output, G * T * axes], in pixels
weights: [N, *output, G * T]
y: [N, *output, C]
)doc");

REGISTER_OP("Tfconv>DeformableAggregationInputGrad")
    .Input("x: T")
    .Input("offset: T")
    .Input("weights: T")
    .Input("dy: T")
    .Output("dx: T")
    .TFCONV_AGGREGATION_ATTRS.SetShapeFn(ShapeFunction<AggregationOp<AggregationKind::kInputGrad>>)
    .Doc("Gradient of Tfconv>DeformableAggregation for x, of which only the shape is used.");

REGISTER_OP("Tfconv>DeformableAggregationSamplingGrad")
    .Input("x: T")
    .Input("offset: T")
    .Input("weights: T")
    .Input("dy: T")
    .Output("doffset: T")
    .Output("dweights: T")
    .TFCONV_AGGREGATION_ATTRS
    .SetShapeFn(ShapeFunction<AggregationOp<AggregationKind::kSamplingGrad>>)
    .Doc("Gradients of Tfconv>DeformableAggregation for offset and weights.");

TFCONV_REGISTER_CPU("Tfconv>DeformableAggregation", AggregationOp<AggregationKind::kAggregation>)
TFCONV_REGISTER_CPU("Tfconv>DeformableAggregationInputGrad",
                    AggregationOp<AggregationKind::kInputGrad>)
TFCONV_REGISTER_CPU("Tfconv>DeformableAggregationSamplingGrad",
                    AggregationOp<AggregationKind::kSamplingGrad>)

}  // namespace tfconv
