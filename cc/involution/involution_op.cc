// Tfconv>Involution and Tfconv>InvolutionGrad: interface, shapes and CPU kernels. The numeric part
// is in involution_cpu.cc.
#include "involution/involution_op.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/cpu_kernel.h"
#include "involution/involution_kernel.h"
#include "tensorflow/core/framework/op.h"

namespace tfconv {
namespace {

// Numbers of groups are 32-bit.
constexpr int64_t kMaxKernelChannels = std::numeric_limits<int32_t>::max();

struct InvolutionShapes {
  Dims x;
  Dims kernel;
  Dims y;
};

// Checks all shapes as far as they are known. `dy` is of unknown rank for the forward op.
absl::Status MakeShapes(const ConvAttributes& attributes, const Dims& x, const Dims& kernel,
                        const Dims& dy, InvolutionSizes* sizes, InvolutionShapes* shapes) {
  const std::string& name = attributes.op_name;
  const int rank = static_cast<int>(attributes.kernel_size.size());
  for (const auto& [tensor, dims] :
       {std::pair<const char*, const Dims&>("x", x), {"kernel", kernel}, {"dy", dy}}) {
    if (auto status = CheckRank(name, tensor, dims, rank + 2); !status.ok()) return status;
  }
  sizes->groups = kUnknown;
  int64_t taps;
  if (auto status = CountTaps(name, attributes.kernel_size, &taps); !status.ok()) return status;

  ConvGeometry& geometry = sizes->geometry;
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
    sizes->groups = kernel_channels / taps;
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
  if (channels != kUnknown && sizes->groups != kUnknown && channels % sizes->groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": the ", sizes->groups, " groups (", kernel_channels, " / ", taps,
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

}  // namespace

template <bool kIsGrad>
absl::Status InvolutionOp<kIsGrad>::Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                                          std::vector<Dims>* outputs) const {
  InvolutionShapes shapes;
  if (auto status =
          MakeShapes(attributes, input(0), input(1), kIsGrad ? input(2) : Dims(), sizes, &shapes);
      !status.ok()) {
    return status;
  }
  *outputs = kIsGrad ? std::vector<Dims>{shapes.x, shapes.kernel} : std::vector<Dims>{shapes.y};
  return absl::OkStatus();
}

template <bool kIsGrad>
template <typename T>
absl::Status InvolutionOp<kIsGrad>::Run(Executor* executor, const Sizes& sizes,
                                        const std::vector<Buffer>& inputs,
                                        const std::vector<Buffer>& outputs) {
  using Element = typename ElementType<T>::Type;
  const auto kernels = ActiveKernels<InvolutionKernels<Element>>();
  InvolutionArgs<Element> args = {};
  args.geometry = sizes.geometry;
  args.groups = sizes.groups;
  args.x = static_cast<const Element*>(inputs[0].data);
  args.kernel = static_cast<const Element*>(inputs[1].data);
  if constexpr (kIsGrad) {
    args.dy = static_cast<const Element*>(inputs[2].data);
    args.dx = static_cast<Element*>(outputs[0].data);
    args.dkernel = static_cast<Element*>(outputs[1].data);
    if (auto s = RunPass(executor, args, kernels.backward_input); !s.ok()) return s;
    return RunPass(executor, args, kernels.backward_kernel);
  } else {
    args.y = static_cast<Element*>(outputs[0].data);
    return RunPass(executor, args, kernels.forward);
  }
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
    .SetShapeFn(ShapeFunction<InvolutionOp<false>>)
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
    .SetShapeFn(ShapeFunction<InvolutionOp<true>>)
    .Doc("Gradients of Tfconv>Involution for both inputs, given the gradient dy of its output.");

TFCONV_REGISTER_CPU("Tfconv>Involution", InvolutionOp<false>)
TFCONV_REGISTER_CPU("Tfconv>InvolutionGrad", InvolutionOp<true>)

}  // namespace tfconv
