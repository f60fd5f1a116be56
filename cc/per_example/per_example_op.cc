// Tfconv>PerExampleConv and its gradients: interface, shapes and CPU kernels. The numeric part is
// in per_example_cpu.cc.
#include "per_example/per_example_op.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/cpu_kernel.h"
#include "per_example/per_example_kernel.h"
#include "tensorflow/core/framework/op.h"

namespace tfconv {
namespace {

struct PerExampleShapes {
  Dims x;
  Dims filter;
  Dims y;
};

// Checks all shapes as far as they are known. `dy` is of unknown rank for the forward op.
absl::Status MakeShapes(const ConvAttributes& attributes, const Dims& x, const Dims& filter,
                        const Dims& dy, PerExampleSizes* sizes, PerExampleShapes* shapes) {
  sizes->groups = kUnknown;
  const std::string& name = attributes.op_name;
  const int rank = attributes.rank();
  if (auto status = CheckRank(name, "x", x, rank + 2); !status.ok()) return status;
  if (auto status = CheckRank(name, "filter", filter, rank + 3); !status.ok()) return status;
  if (auto status = CheckRank(name, "dy", dy, rank + 2); !status.ok()) return status;

  std::vector<int64_t> known_kernel;
  ConvGeometry& geometry = sizes->geometry;
  for (ConvAxis& axis : geometry.axis) axis = TrivialAxis();
  int64_t batch = x[0];
  if (!MergeSize(&batch, filter[0])) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": filter of shape ", filter.ToString(),
                                                   " must hold one filter for each of the ", batch,
                                                   " examples of x of shape ", x.ToString()));
  }
  for (int i = 0; i < rank; ++i) {
    if (filter[i + 1] != kUnknown) known_kernel.push_back(filter[i + 1]);
  }
  int64_t taps;
  if (auto status = CountTaps(name, known_kernel, &taps); !status.ok()) return status;
  std::vector<int64_t> output = {batch};
  for (int i = 0; i < rank; ++i) {
    ConvAxis& axis = geometry.axis[CanonicalAxis(i, rank)];
    if (auto status = attributes.MakeAxis(i, x[i + 1], filter[i + 1], &axis); !status.ok()) {
      return status;
    }
    output.push_back(axis.output);
  }

  const int64_t channels = x[rank + 1];
  const int64_t group_channels = filter[rank + 1];
  const int64_t filters = filter[rank + 2];
  if (channels == 0 && group_channels == 0) {
    sizes->groups = 1;
  } else if (channels != kUnknown && group_channels != kUnknown) {
    if (group_channels == 0 || channels == 0 || channels % group_channels != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": the ", group_channels, " input channels of filter of shape ", filter.ToString(),
          " must divide the ", channels, " channels of x of shape ", x.ToString()));
    }
    sizes->groups = channels / group_channels;
  }
  if (sizes->groups != kUnknown && filters != kUnknown && filters % sizes->groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": the ", sizes->groups, " groups (", channels, " channels of x of shape ",
        x.ToString(), " / ", group_channels, ") must divide the ", filters,
        " filters of filter of shape ", filter.ToString()));
  }
  output.push_back(filters);
  const std::vector<int64_t> forward = output;
  for (int i = 0; i < rank + 2; ++i) {
    if (!MergeSize(&output[i], dy[i])) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": dy has shape ", dy.ToString(), ", expected ", SizesToString(forward),
          " for x of shape ", x.ToString(), " and filter of shape ", filter.ToString(), " with ",
          attributes.ToString()));
    }
  }
  sizes->filters = output[rank + 1];
  geometry.batch = output[0];
  geometry.channels = channels;
  std::vector<int64_t> x_sizes = {output[0]};
  std::vector<int64_t> filter_sizes = {output[0]};
  for (int i = 0; i < rank; ++i) {
    geometry.axis[CanonicalAxis(i, rank)].output = output[i + 1];
    x_sizes.push_back(x[i + 1]);
    filter_sizes.push_back(filter[i + 1]);
  }
  x_sizes.push_back(channels);
  filter_sizes.insert(filter_sizes.end(), {group_channels, output[rank + 1]});
  shapes->x = Dims(std::move(x_sizes));
  shapes->filter = Dims(std::move(filter_sizes));
  shapes->y = Dims(std::move(output));
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(PerExampleKind kind) {
  switch (kind) {
    case PerExampleKind::kConv:
      return "PerExampleConv";
    case PerExampleKind::kInputGrad:
      return "PerExampleConvInputGrad";
    case PerExampleKind::kFilterGrad:
      break;
  }
  return "PerExampleConvFilterGrad";
}

template <PerExampleKind kKind>
absl::Status PerExampleOp<kKind>::Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                                        std::vector<Dims>* outputs) const {
  PerExampleShapes shapes;
  if (auto status = MakeShapes(attributes, input(0), input(1),
                               kKind == PerExampleKind::kConv ? Dims() : input(2), sizes, &shapes);
      !status.ok()) {
    return status;
  }
  *outputs = {kKind == PerExampleKind::kConv
                  ? shapes.y
                  : (kKind == PerExampleKind::kInputGrad ? shapes.x : shapes.filter)};
  return absl::OkStatus();
}

template <PerExampleKind kKind>
template <typename T>
absl::Status PerExampleOp<kKind>::Run(Executor* executor, const Sizes& sizes,
                                      const std::vector<Buffer>& inputs,
                                      const std::vector<Buffer>& outputs) {
  using Element = typename ElementType<T>::Type;
  Element* output = static_cast<Element*>(outputs[0].data);
  bool empty = outputs[0].size == 0;
  for (const Buffer& input : inputs) empty = empty || input.size == 0;
  if (empty) {
    std::fill_n(output, outputs[0].size, Element{});
    return absl::OkStatus();
  }
  const auto kernels = ActiveKernels<PerExampleKernels<Element>>();
  PerExampleArgs<Element> args = {};
  args.geometry = sizes.geometry;
  args.groups = sizes.groups;
  args.filters = sizes.filters;
  if (kKind != PerExampleKind::kInputGrad) args.x = static_cast<const Element*>(inputs[0].data);
  if (kKind != PerExampleKind::kFilterGrad)
    args.filter = static_cast<const Element*>(inputs[1].data);
  if (kKind == PerExampleKind::kConv) {
    args.y = output;
    return RunPass(executor, args, kernels.convolve);
  }
  args.dy = static_cast<const Element*>(inputs[2].data);
  if (kKind == PerExampleKind::kInputGrad) {
    args.dx = output;
    return RunPass(executor, args, kernels.backward_input);
  }
  args.dfilter = output;
  Temporary<Accumulator<Element>> partial;
  if (auto s = partial.Allocate(executor, kernels.partial_size(args)); !s.ok()) return s;
  args.partial = partial.data();
  if (auto s = RunPass(executor, args, kernels.backward_filter); !s.ok()) return s;
  return RunPass(executor, args, kernels.sum_filter);
}

REGISTER_OP("Tfconv>PerExampleConv")
    .Input("x: T")
    .Input("filter: T")
    .Output("y: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<PerExampleOp<PerExampleKind::kConv>>)
    .Doc(R"doc(
Convolution with a filter of its own for every example, in one to three dimensions.

y[n, p, f] = sum over t, c of x[n, p * stride - pad + t * dilation, c] * filter[n, t, c, f], with c
running over the channels of f's group. x is zero outside.

x: [N, *spatial, C]
filter: [N, *kernel_size, C / groups, F]
y: [N, *output, F]
)doc");

REGISTER_OP("Tfconv>PerExampleConvInputGrad")
    .Input("x: T")
    .Input("filter: T")
    .Input("dy: T")
    .Output("dx: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<PerExampleOp<PerExampleKind::kInputGrad>>)
    .Doc("Gradient of Tfconv>PerExampleConv for x, of which only the shape is used.");

REGISTER_OP("Tfconv>PerExampleConvFilterGrad")
    .Input("x: T")
    .Input("filter: T")
    .Input("dy: T")
    .Output("dfilter: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<PerExampleOp<PerExampleKind::kFilterGrad>>)
    .Doc("Gradient of Tfconv>PerExampleConv for the filter, of which only the shape is used.");

TFCONV_REGISTER_CPU("Tfconv>PerExampleConv", PerExampleOp<PerExampleKind::kConv>)
TFCONV_REGISTER_CPU("Tfconv>PerExampleConvInputGrad", PerExampleOp<PerExampleKind::kInputGrad>)
TFCONV_REGISTER_CPU("Tfconv>PerExampleConvFilterGrad", PerExampleOp<PerExampleKind::kFilterGrad>)

}  // namespace tfconv
