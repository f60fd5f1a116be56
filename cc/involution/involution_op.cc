// Tfconv>Involution, Tfconv>SpanInvolution and their gradients: interface, shapes and CPU kernels.
// The numeric part is in involution_cpu.cc.
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

// What kernels are made from: [N, *output, R], [R, groups * taps], [groups * taps].
struct SpanShapes {
  Dims features;
  Dims span;
  Dims bias;
};

// The shape of the kernels that are made.
absl::Status MakeKernelShape(const std::string& name, int rank, const SpanShapes& in,
                             InvolutionSizes* sizes, Dims* kernel) {
  if (auto s = CheckRank(name, "features", in.features, rank + 2); !s.ok()) return s;
  if (auto s = CheckRank(name, "span", in.span, 2); !s.ok()) return s;
  if (auto s = CheckRank(name, "bias", in.bias, 1); !s.ok()) return s;
  sizes->num_features = in.features[rank + 1];
  int64_t kernel_channels = in.span[1];
  if (!MergeSize(&sizes->num_features, in.span[0]) || !MergeSize(&kernel_channels, in.bias[0])) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": span of shape ", in.span.ToString(),
                     " must have a row for each of the features of shape ", in.features.ToString(),
                     " and a column for each element of bias of shape ", in.bias.ToString()));
  }
  std::vector<int64_t> kernel_sizes;
  for (int i = 0; i <= rank; ++i) kernel_sizes.push_back(in.features[i]);
  kernel_sizes.push_back(kernel_channels);
  *kernel = Dims(std::move(kernel_sizes));
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(InvolutionKind kind) {
  switch (kind) {
    case InvolutionKind::kInvolution:
      return "Involution";
    case InvolutionKind::kGrad:
      return "InvolutionGrad";
    case InvolutionKind::kInputGrad:
      return "InvolutionInputGrad";
    case InvolutionKind::kKernelGrad:
      return "InvolutionKernelGrad";
    case InvolutionKind::kSpan:
      return "SpanInvolution";
    case InvolutionKind::kSpanInputGrad:
      return "SpanInvolutionInputGrad";
    case InvolutionKind::kSpanGrad:
      break;
  }
  return "SpanInvolutionSpanGrad";
}

template <InvolutionKind kKind>
absl::Status InvolutionOp<kKind>::Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                                        std::vector<Dims>* outputs) const {
  sizes->num_features = 0;
  Dims kernel = input(1);
  if constexpr (HasSpan(kKind)) {
    const SpanShapes span = {input(1), input(2), input(3)};
    if (auto status = MakeKernelShape(attributes.op_name, attributes.rank(), span, sizes, &kernel);
        !status.ok()) {
      return status;
    }
  }
  InvolutionShapes shapes;
  const Dims dy = IsGrad(kKind) ? input(DyInput(kKind)) : Dims();
  if (auto status = MakeShapes(attributes, input(0), kernel, dy, sizes, &shapes); !status.ok()) {
    return status;
  }
  if constexpr (!IsGrad(kKind)) *outputs = {shapes.y};
  if constexpr (kKind == InvolutionKind::kGrad) *outputs = {shapes.x, shapes.kernel};
  if constexpr (kKind == InvolutionKind::kInputGrad || kKind == InvolutionKind::kSpanInputGrad)
    *outputs = {shapes.x};
  if constexpr (kKind == InvolutionKind::kKernelGrad) *outputs = {shapes.kernel};
  if constexpr (kKind == InvolutionKind::kSpanGrad) {
    std::vector<int64_t> features = shapes.kernel.sizes();
    const int64_t kernel_channels = features.back();
    features.back() = sizes->num_features;
    *outputs = {Dims(std::move(features)), Dims({sizes->num_features, kernel_channels}),
                Dims({kernel_channels})};
  }
  return absl::OkStatus();
}

template <InvolutionKind kKind>
template <typename T>
absl::Status InvolutionOp<kKind>::Run(Executor* executor, const Sizes& sizes,
                                      const std::vector<Buffer>& inputs,
                                      const std::vector<Buffer>& outputs) {
  using Element = typename ElementType<T>::Type;
  const auto in = [&](int i) { return static_cast<const Element*>(inputs[i].data); };
  const auto out = [&](int i) { return static_cast<Element*>(outputs[i].data); };
  const auto kernels = ActiveKernels<InvolutionKernels<Element>>();
  InvolutionArgs<Element> args = {};
  args.geometry = sizes.geometry;
  args.groups = sizes.groups;
  args.num_features = sizes.num_features;
  args.x = in(0);
  if constexpr (HasSpan(kKind)) {
    args.features = in(1);
    args.span = in(2);
    args.bias = in(3);
  } else {
    args.kernel = in(1);
  }
  if constexpr (IsGrad(kKind)) args.dy = in(DyInput(kKind));
  if constexpr (!IsGrad(kKind)) args.y = out(0);
  if constexpr (kKind == InvolutionKind::kGrad || kKind == InvolutionKind::kInputGrad ||
                kKind == InvolutionKind::kSpanInputGrad) {
    args.dx = out(0);
  }
  if constexpr (kKind == InvolutionKind::kGrad || kKind == InvolutionKind::kKernelGrad) {
    args.dkernel = out(static_cast<int>(outputs.size()) - 1);
  }
  if constexpr (kKind == InvolutionKind::kSpanGrad) {
    args.dfeatures = out(0);
    args.dspan = out(1);
    args.dbias = out(2);
  }

  Temporary<Accumulator<Element>> packed, dspan, dfeatures;
  if constexpr (HasSpan(kKind)) {
    if (outputs[0].size == 0 && kKind != InvolutionKind::kSpanGrad) return absl::OkStatus();
    const SpanSizes span = kernels.span_sizes(args);
    if constexpr (kKind == InvolutionKind::kSpanGrad) {
      if (auto s = packed.Allocate(executor, span.packed_span_transposed); !s.ok()) return s;
      if (auto s = dspan.Allocate(executor, span.partial_dspan); !s.ok()) return s;
      if (auto s = dfeatures.Allocate(executor, span.partial_dfeatures); !s.ok()) return s;
      args.partial_dspan = dspan.data();
      args.partial_dfeatures = dfeatures.data();
    } else {
      if (auto s = packed.Allocate(executor, span.packed_span); !s.ok()) return s;
    }
    args.packed_span = packed.data();
  }
  std::vector<Pass<InvolutionArgs<Element>>> passes;
  if constexpr (kKind == InvolutionKind::kInvolution) passes = {kernels.forward};
  if constexpr (kKind == InvolutionKind::kSpan) passes = {kernels.pack_span, kernels.forward};
  if constexpr (kKind == InvolutionKind::kGrad)
    passes = {kernels.backward_input, kernels.backward_kernel};
  if constexpr (kKind == InvolutionKind::kInputGrad) passes = {kernels.backward_input};
  if constexpr (kKind == InvolutionKind::kSpanInputGrad)
    passes = {kernels.pack_span, kernels.backward_input};
  if constexpr (kKind == InvolutionKind::kKernelGrad) passes = {kernels.backward_kernel};
  if constexpr (kKind == InvolutionKind::kSpanGrad) {
    passes = {kernels.pack_span_transposed, kernels.backward_span, kernels.sum_dspan,
              kernels.sum_dfeatures};
  }
  for (const auto& pass : passes) {
    if (auto s = RunPass(executor, args, pass); !s.ok()) return s;
  }
  return absl::OkStatus();
}

#define TFCONV_INVOLUTION_ATTRS                       \
  Attr("T: {half, bfloat16, float, double}")          \
      .Attr("kernel_size: list(int)")                 \
      .Attr("strides: list(int)")                     \
      .Attr("dilations: list(int)")                   \
      .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}") \
      .Attr("explicit_paddings: list(int) = []")

REGISTER_OP("Tfconv>Involution")
    .Input("x: T")
    .Input("kernel: T")
    .Output("y: T")
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kInvolution>>)
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
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kGrad>>)
    .Doc("Gradients of Tfconv>Involution for both inputs, given the gradient dy of its output.");

REGISTER_OP("Tfconv>InvolutionInputGrad")
    .Input("x: T")
    .Input("kernel: T")
    .Input("dy: T")
    .Output("dx: T")
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kInputGrad>>)
    .Doc("Gradient of Tfconv>Involution for x, of which only the shape is used.");

REGISTER_OP("Tfconv>InvolutionKernelGrad")
    .Input("x: T")
    .Input("kernel: T")
    .Input("dy: T")
    .Output("dkernel: T")
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kKernelGrad>>)
    .Doc("Gradient of Tfconv>Involution for the kernel, of which only the shape is used.");

REGISTER_OP("Tfconv>SpanInvolution")
    .Input("x: T")
    .Input("features: T")
    .Input("span: T")
    .Input("bias: T")
    .Output("y: T")
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kSpan>>)
    .Doc(R"doc(
Involution with kernels that are made from features of the output positions, a few at a time.

y = Tfconv>Involution(x, kernel) with
kernel[n, p, k] = sum_r features[n, p, r] * span[r, k] + bias[k].

x: [N, *spatial, C]
features: [N, *output, R]
span: [R, G * T]
bias: [G * T]
y: [N, *output, C]
)doc");

REGISTER_OP("Tfconv>SpanInvolutionInputGrad")
    .Input("x: T")
    .Input("features: T")
    .Input("span: T")
    .Input("bias: T")
    .Input("dy: T")
    .Output("dx: T")
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kSpanInputGrad>>)
    .Doc("Gradient of Tfconv>SpanInvolution for x, of which only the shape is used.");

REGISTER_OP("Tfconv>SpanInvolutionSpanGrad")
    .Input("x: T")
    .Input("features: T")
    .Input("span: T")
    .Input("bias: T")
    .Input("dy: T")
    .Output("dfeatures: T")
    .Output("dspan: T")
    .Output("dbias: T")
    .TFCONV_INVOLUTION_ATTRS.SetShapeFn(ShapeFunction<InvolutionOp<InvolutionKind::kSpanGrad>>)
    .Doc("Gradients of Tfconv>SpanInvolution for all inputs but x.");

TFCONV_REGISTER_CPU("Tfconv>Involution", InvolutionOp<InvolutionKind::kInvolution>)
TFCONV_REGISTER_CPU("Tfconv>InvolutionGrad", InvolutionOp<InvolutionKind::kGrad>)
TFCONV_REGISTER_CPU("Tfconv>InvolutionInputGrad", InvolutionOp<InvolutionKind::kInputGrad>)
TFCONV_REGISTER_CPU("Tfconv>InvolutionKernelGrad", InvolutionOp<InvolutionKind::kKernelGrad>)
TFCONV_REGISTER_CPU("Tfconv>SpanInvolution", InvolutionOp<InvolutionKind::kSpan>)
TFCONV_REGISTER_CPU("Tfconv>SpanInvolutionInputGrad", InvolutionOp<InvolutionKind::kSpanInputGrad>)
TFCONV_REGISTER_CPU("Tfconv>SpanInvolutionSpanGrad", InvolutionOp<InvolutionKind::kSpanGrad>)

}  // namespace tfconv
