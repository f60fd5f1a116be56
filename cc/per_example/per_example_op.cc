// Tfconv>PerExampleConv and its gradients: interface, shapes and CPU kernels. The numeric part is
// in per_example_cpu.cc.
#define EIGEN_USE_THREADS

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/compute.h"
#include "common/op_geometry.h"
#include "per_example/per_example_kernel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfconv {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::shape_inference::InferenceContext;

enum class Kind { kConv, kInputGrad, kFilterGrad };

const char* NameOf(Kind kind) {
  switch (kind) {
    case Kind::kConv:
      return "PerExampleConv";
    case Kind::kInputGrad:
      return "PerExampleConvInputGrad";
    case Kind::kFilterGrad:
      break;
  }
  return "PerExampleConvFilterGrad";
}

struct PerExampleShapes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t groups = kUnknown;
  int64_t filters = kUnknown;
  Dims x;
  Dims filter;
  Dims y;
};

// Checks all shapes as far as they are known. `dy` is of unknown rank for the forward op.
absl::Status MakeShapes(const ConvAttributes& attributes, const Dims& x, const Dims& filter,
                        const Dims& dy, PerExampleShapes* shapes) {
  const std::string& name = attributes.op_name;
  const int rank = attributes.rank();
  if (auto status = CheckRank(name, "x", x, rank + 2); !status.ok()) return status;
  if (auto status = CheckRank(name, "filter", filter, rank + 3); !status.ok()) return status;
  if (auto status = CheckRank(name, "dy", dy, rank + 2); !status.ok()) return status;

  std::vector<int64_t> known_kernel;
  ConvGeometry& geometry = shapes->geometry;
  for (ConvAxis& axis : geometry.axis) axis = TrivialAxis();
  int64_t batch = x[0];
  if (!MergeSize(&batch, filter[0])) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": filter of shape ", filter.ToString(), " must hold one filter for each of the ",
        batch, " examples of x of shape ", x.ToString()));
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
    shapes->groups = 1;
  } else if (channels != kUnknown && group_channels != kUnknown) {
    if (group_channels == 0 || channels == 0 || channels % group_channels != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": the ", group_channels, " input channels of filter of shape ", filter.ToString(),
          " must divide the ", channels, " channels of x of shape ", x.ToString()));
    }
    shapes->groups = channels / group_channels;
  }
  if (shapes->groups != kUnknown && filters != kUnknown && filters % shapes->groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": the ", shapes->groups, " groups (", channels, " channels of x of shape ",
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
  shapes->filters = output[rank + 1];
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

const Dims& OutputOf(Kind kind, const PerExampleShapes& shapes) {
  if (kind == Kind::kConv) return shapes.y;
  return kind == Kind::kInputGrad ? shapes.x : shapes.filter;
}

template <Kind kKind>
absl::Status ShapeFunction(InferenceContext* c) {
  ConvAttributes attributes;
  attributes.op_name = NameOf(kKind);
  if (auto status = attributes.Read(c, false); !status.ok()) return status;
  PerExampleShapes shapes;
  if (auto status = MakeShapes(attributes, Dims::Of(c, 0), Dims::Of(c, 1),
                               kKind == Kind::kConv ? Dims() : Dims::Of(c, 2), &shapes);
      !status.ok()) {
    return status;
  }
  c->set_output(0, OutputOf(kKind, shapes).ToHandle(c));
  return absl::OkStatus();
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
    .SetShapeFn(ShapeFunction<Kind::kConv>)
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
    .SetShapeFn(ShapeFunction<Kind::kInputGrad>)
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
    .SetShapeFn(ShapeFunction<Kind::kFilterGrad>)
    .Doc("Gradient of Tfconv>PerExampleConv for the filter, of which only the shape is used.");

template <typename T, Kind kKind>
class PerExampleOp : public OpKernel {
 public:
  explicit PerExampleOp(OpKernelConstruction* context) : OpKernel(context) {
    attributes_.op_name = NameOf(kKind);
    OP_REQUIRES_OK(context, attributes_.Read(context, false));
  }

  void Compute(OpKernelContext* context) override {
    using Compute = typename ComputeType<T>::Type;
    const Dims dy = kKind == Kind::kConv ? Dims() : Dims::Of(context->input(context->num_inputs() - 1));
    PerExampleShapes shapes;
    OP_REQUIRES_OK(context, MakeShapes(attributes_, Dims::Of(context->input(0)),
                                       Dims::Of(context->input(1)), dy, &shapes));
    ComputeOutput<T> output;
    OP_REQUIRES_OK(context, output.Allocate(context, 0, OutputOf(kKind, shapes).sizes()));
    bool empty = false;
    for (const Dims* dims : {&shapes.x, &shapes.filter, &shapes.y}) {
      for (const int64_t size : dims->sizes()) empty = empty || size == 0;
    }
    if (empty) {
      std::fill_n(output.data(), output.size(), Compute(0));
      output.Finish(context);
      return;
    }
    PerExampleArgs<Compute> args = {};
    args.geometry = shapes.geometry;
    args.groups = shapes.groups;
    args.filters = shapes.filters;
    Tensor inputs[3];
    const auto read = [&](int input, const Compute** data) {
      if (auto s = ToComputeType<T>(context, context->input(input), &inputs[input]); !s.ok()) {
        return s;
      }
      *data = inputs[input].flat<Compute>().data();
      return absl::OkStatus();
    };
    const auto kernels = ActiveKernels<PerExampleKernels<Compute>>();
    if (kKind != Kind::kInputGrad) OP_REQUIRES_OK(context, read(0, &args.x));
    if (kKind != Kind::kFilterGrad) OP_REQUIRES_OK(context, read(1, &args.filter));
    if (kKind != Kind::kConv) OP_REQUIRES_OK(context, read(2, &args.dy));
    if constexpr (kKind == Kind::kConv) {
      args.y = output.data();
      OP_REQUIRES_OK(context, RunPass(context, args, kernels.convolve));
    } else if constexpr (kKind == Kind::kInputGrad) {
      args.dx = output.data();
      OP_REQUIRES_OK(context, RunPass(context, args, kernels.backward_input));
    } else {
      args.dfilter = output.data();
      OP_REQUIRES_OK(context, RunPass(context, args, kernels.backward_filter));
    }
    output.Finish(context);
  }

 private:
  ConvAttributes attributes_;
};

#define TFCONV_REGISTER(T)                                                                         \
  REGISTER_KERNEL_BUILDER(Name("Tfconv>PerExampleConv").Device(DEVICE_CPU).TypeConstraint<T>("T"), \
                          PerExampleOp<T, Kind::kConv>);                                           \
  REGISTER_KERNEL_BUILDER(                                                                         \
      Name("Tfconv>PerExampleConvInputGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"),            \
      PerExampleOp<T, Kind::kInputGrad>);                                                          \
  REGISTER_KERNEL_BUILDER(                                                                         \
      Name("Tfconv>PerExampleConvFilterGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"),           \
      PerExampleOp<T, Kind::kFilterGrad>);
TFCONV_REGISTER(Eigen::half)
TFCONV_REGISTER(Eigen::bfloat16)
TFCONV_REGISTER(float)
TFCONV_REGISTER(double)
#undef TFCONV_REGISTER

}  // namespace
}  // namespace tfconv
