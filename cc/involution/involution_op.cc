// Tfconv>Involution and Tfconv>InvolutionGrad: interface, shapes and CPU kernels. The numeric part
// is in involution_cpu.cc.
#define EIGEN_USE_THREADS

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/compute.h"
#include "common/op_geometry.h"
#include "involution/involution_kernel.h"
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

// Offsets within the kernels of one position are 32-bit.
constexpr int64_t kMaxKernelChannels = std::numeric_limits<int32_t>::max();

struct InvolutionShapes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t groups = kUnknown;
  Dims x;
  Dims kernel;
  Dims y;
};

// Checks all shapes as far as they are known. `dy` is of unknown rank for the forward op.
absl::Status MakeShapes(const ConvAttributes& attributes, const Dims& x, const Dims& kernel,
                        const Dims& dy, InvolutionShapes* shapes) {
  const std::string& name = attributes.op_name;
  const int rank = static_cast<int>(attributes.kernel_size.size());
  for (const auto& [tensor, dims] :
       {std::pair<const char*, const Dims&>("x", x), {"kernel", kernel}, {"dy", dy}}) {
    if (auto status = CheckRank(name, tensor, dims, rank + 2); !status.ok()) return status;
  }
  int64_t taps;
  if (auto status = CountTaps(name, attributes.kernel_size, &taps); !status.ok()) return status;

  ConvGeometry& geometry = shapes->geometry;
  for (ConvAxis& axis : geometry.axis) axis = TrivialAxis();
  std::vector<int64_t> expected = {x[0]};
  for (int i = 0; i < rank; ++i) {
    ConvAxis& axis = geometry.axis[CanonicalAxis(i, rank)];
    if (auto status = attributes.MakeAxis(i, x[i + 1], attributes.kernel_size[i], &axis);
        !status.ok()) {
      return status;
    }
    expected.push_back(axis.output);
  }

  std::vector<int64_t> output = expected;
  bool agree = true;
  for (int i = 0; i <= rank; ++i) agree = MergeSize(&output[i], kernel[i]) && agree;
  const int64_t kernel_channels = kernel[rank + 1];
  if (kernel_channels != kUnknown) {
    agree = agree && kernel_channels > 0 && kernel_channels % taps == 0;
    shapes->groups = kernel_channels / taps;
  }
  if (!agree) {
    std::string wanted = SizesToString(expected);
    wanted.pop_back();
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": kernel has shape ", kernel.ToString(), ", expected ", wanted, ",G*", taps,
        "] for input x of shape ", x.ToString(), " with ", attributes.ToString()));
  }
  if (kernel_channels > kMaxKernelChannels) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": kernel has shape ", kernel.ToString(),
                                                   ", its last dimension must be at most ",
                                                   kMaxKernelChannels));
  }
  int64_t channels = x[rank + 1];
  if (channels != kUnknown && shapes->groups != kUnknown && channels % shapes->groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": the ", shapes->groups, " groups (", kernel_channels, " / ", taps,
                     ") of kernel of shape ", kernel.ToString(), " must divide the ", channels,
                     " channels of x of shape ", x.ToString()));
  }
  std::vector<int64_t> kernel_sizes = output;
  kernel_sizes.push_back(kernel_channels);
  output.push_back(channels);
  const std::vector<int64_t> forward = output;
  for (int i = 0; i < rank + 2; ++i) {
    if (!MergeSize(&output[i], dy[i])) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": dy has shape ", dy.ToString(), ", expected ", SizesToString(forward),
          " for x of shape ", x.ToString(), " and kernel of shape ", kernel.ToString()));
    }
  }
  geometry.batch = output[0];
  geometry.channels = output[rank + 1];
  for (int i = 0; i < rank; ++i) geometry.axis[CanonicalAxis(i, rank)].output = output[i + 1];

  std::vector<int64_t> x_sizes = {output[0]};
  for (int i = 0; i < rank; ++i) x_sizes.push_back(x[i + 1]);
  x_sizes.push_back(output[rank + 1]);
  for (int i = 0; i <= rank; ++i) kernel_sizes[i] = output[i];
  shapes->x = Dims(std::move(x_sizes));
  shapes->kernel = Dims(std::move(kernel_sizes));
  shapes->y = Dims(std::move(output));
  return absl::OkStatus();
}

absl::Status InvolutionShape(InferenceContext* c) {
  ConvAttributes attributes;
  attributes.op_name = "Involution";
  if (auto status = attributes.Read(c, true); !status.ok()) return status;
  InvolutionShapes shapes;
  if (auto status = MakeShapes(attributes, Dims::Of(c, 0), Dims::Of(c, 1), Dims(), &shapes);
      !status.ok()) {
    return status;
  }
  c->set_output(0, shapes.y.ToHandle(c));
  return absl::OkStatus();
}

absl::Status InvolutionGradShape(InferenceContext* c) {
  ConvAttributes attributes;
  attributes.op_name = "InvolutionGrad";
  if (auto status = attributes.Read(c, true); !status.ok()) return status;
  InvolutionShapes shapes;
  if (auto status = MakeShapes(attributes, Dims::Of(c, 0), Dims::Of(c, 1), Dims::Of(c, 2), &shapes);
      !status.ok()) {
    return status;
  }
  c->set_output(0, shapes.x.ToHandle(c));
  c->set_output(1, shapes.kernel.ToHandle(c));
  return absl::OkStatus();
}

REGISTER_OP("Tfconv>Involution")
    .Input("x: T")
    .Input("kernel: T")
    .Output("y: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(InvolutionShape)
    .Doc(R"doc(
Convolution with a kernel per output position, shared by the channels of a group.

y[n, p, c] = sum_t kernel[n, p, g(c) * T + t] * x[n, p * stride - pad + t * dilation, c] with
T = prod(kernel_size) taps, row-major, and g(c) = c / (C / G). x is zero outside.

x: [N, *spatial, C]
kernel: [N, *output, G * T]
y: [N, *output, C]
)doc");

REGISTER_OP("Tfconv>InvolutionGrad")
    .Input("x: T")
    .Input("kernel: T")
    .Input("dy: T")
    .Output("dx: T")
    .Output("dkernel: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(InvolutionGradShape)
    .Doc("Gradients of Tfconv>Involution for both inputs, given the gradient dy of its output.");

template <typename T>
class InvolutionOp : public OpKernel {
 public:
  explicit InvolutionOp(OpKernelConstruction* context) : OpKernel(context) {
    attributes_.op_name = "Involution";
    OP_REQUIRES_OK(context, attributes_.Read(context, true));
  }

  void Compute(OpKernelContext* context) override {
    using Compute = typename ComputeType<T>::Type;
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    InvolutionShapes shapes;
    OP_REQUIRES_OK(context,
                   MakeShapes(attributes_, Dims::Of(x), Dims::Of(kernel), Dims(), &shapes));
    ComputeOutput<T> y;
    OP_REQUIRES_OK(context, y.Allocate(context, 0, shapes.y.sizes()));
    Tensor x_compute, kernel_compute;
    OP_REQUIRES_OK(context, ToComputeType<T>(context, x, &x_compute));
    OP_REQUIRES_OK(context, ToComputeType<T>(context, kernel, &kernel_compute));

    InvolutionArgs<Compute> args = {};
    args.geometry = shapes.geometry;
    args.groups = shapes.groups;
    args.x = x_compute.flat<Compute>().data();
    args.kernel = kernel_compute.flat<Compute>().data();
    args.y = y.data();
    const auto kernels = ActiveKernels<InvolutionKernels<Compute>>();
    OP_REQUIRES_OK(context, RunPass(context, args, kernels.forward));
    y.Finish(context);
  }

 private:
  ConvAttributes attributes_;
};

template <typename T>
class InvolutionGradOp : public OpKernel {
 public:
  explicit InvolutionGradOp(OpKernelConstruction* context) : OpKernel(context) {
    attributes_.op_name = "InvolutionGrad";
    OP_REQUIRES_OK(context, attributes_.Read(context, true));
  }

  void Compute(OpKernelContext* context) override {
    using Compute = typename ComputeType<T>::Type;
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    const Tensor& dy = context->input(2);
    InvolutionShapes shapes;
    OP_REQUIRES_OK(context,
                   MakeShapes(attributes_, Dims::Of(x), Dims::Of(kernel), Dims::Of(dy), &shapes));
    ComputeOutput<T> dx, dkernel;
    OP_REQUIRES_OK(context, dx.Allocate(context, 0, shapes.x.sizes()));
    OP_REQUIRES_OK(context, dkernel.Allocate(context, 1, shapes.kernel.sizes()));
    Tensor x_compute, kernel_compute, dy_compute;
    OP_REQUIRES_OK(context, ToComputeType<T>(context, x, &x_compute));
    OP_REQUIRES_OK(context, ToComputeType<T>(context, kernel, &kernel_compute));
    OP_REQUIRES_OK(context, ToComputeType<T>(context, dy, &dy_compute));

    InvolutionArgs<Compute> args = {};
    args.geometry = shapes.geometry;
    args.groups = shapes.groups;
    args.x = x_compute.flat<Compute>().data();
    args.kernel = kernel_compute.flat<Compute>().data();
    args.dy = dy_compute.flat<Compute>().data();
    args.dx = dx.data();
    args.dkernel = dkernel.data();
    const auto kernels = ActiveKernels<InvolutionKernels<Compute>>();
    OP_REQUIRES_OK(context, RunPass(context, args, kernels.backward_input));
    OP_REQUIRES_OK(context, RunPass(context, args, kernels.backward_kernel));
    dx.Finish(context);
    dkernel.Finish(context);
  }

 private:
  ConvAttributes attributes_;
};

#define TFCONV_REGISTER(T)                                                                         \
  REGISTER_KERNEL_BUILDER(Name("Tfconv>Involution").Device(DEVICE_CPU).TypeConstraint<T>("T"),     \
                          InvolutionOp<T>);                                                        \
  REGISTER_KERNEL_BUILDER(Name("Tfconv>InvolutionGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"), \
                          InvolutionGradOp<T>);
TFCONV_REGISTER(Eigen::half)
TFCONV_REGISTER(Eigen::bfloat16)
TFCONV_REGISTER(float)
TFCONV_REGISTER(double)
#undef TFCONV_REGISTER

}  // namespace
}  // namespace tfconv
