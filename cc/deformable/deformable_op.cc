// Tfconv>DeformableSample, Tfconv>DeformableConv and their gradients: interface, shapes and CPU
// kernels. The numeric part is in deformable_sample_cpu.cc and deformable_conv_cpu.cc.
#define EIGEN_USE_THREADS

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "common/compute.h"
#include "common/op_geometry.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_shapes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfconv {
namespace {

using Kind = DeformableKind;
using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::shape_inference::InferenceContext;

template <Kind kKind>
absl::Status ShapeFunction(InferenceContext* c) {
  DeformableAttributes attributes;
  if (auto status = attributes.Read(kKind, c); !status.ok()) return status;
  DeformableSizes sizes;
  if (auto status = MakeDeformableSizes(
          kKind, attributes, [c](int i) { return Dims::Of(c, i); }, &sizes);
      !status.ok()) {
    return status;
  }
  const DeformableShapes& shapes = sizes.shapes;
  if (kKind == Kind::kSample) {
    c->set_output(0, shapes.columns.ToHandle(c));
    return absl::OkStatus();
  }
  if (kKind == Kind::kConv) {
    c->set_output(0, shapes.y.ToHandle(c));
    return absl::OkStatus();
  }
  int output = 0;
  c->set_output(output++, shapes.x.ToHandle(c));
  c->set_output(output++, shapes.offset.ToHandle(c));
  if (HasFilter(kKind)) c->set_output(output++, shapes.filter.ToHandle(c));
  if (attributes.modulation > 0) c->set_output(output, shapes.mask.ToHandle(c));
  return absl::OkStatus();
}

REGISTER_OP("Tfconv>DeformableSample")
    .Input("x: T")
    .Input("offset: T")
    .Input("mask: modulation * T")
    .Output("columns: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("modulation: int >= 0")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<Kind::kSample>)
    .Doc(R"doc(
Samples an image at the taps of a kernel, each moved by an offset.

columns[n, p, t, c] = mask[n, p, o(c), t] * x(n, p * stride - pad + t * dilation + offset, c),
bilinear between pixels and zero outside of the image, with o(c) = c / (C / og).

x: [N, H, W, C]
offset: [N, Ho, Wo, og * kh * kw * 2]; (dy, dx) for each offset group and tap, in pixels
mask: none, or one of [N, Ho, Wo, og * kh * kw]
columns: [N, Ho, Wo, kh * kw, C]
)doc");

REGISTER_OP("Tfconv>DeformableSampleGrad")
    .Input("x: T")
    .Input("offset: T")
    .Input("dcolumns: T")
    .Input("mask: modulation * T")
    .Output("dx: T")
    .Output("doffset: T")
    .Output("dmask: modulation * T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("modulation: int >= 0")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<Kind::kSampleGrad>)
    .Doc("Gradients of Tfconv>DeformableSample, given the gradient dcolumns of its output.");

REGISTER_OP("Tfconv>DeformableConv")
    .Input("x: T")
    .Input("offset: T")
    .Input("filter: T")
    .Input("mask: modulation * T")
    .Output("y: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("modulation: int >= 0")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<Kind::kConv>)
    .Doc(R"doc(
Convolution whose taps are moved by offsets: the columns of Tfconv>DeformableSample times a filter.

x: [N, H, W, C]
offset: [N, Ho, Wo, og * kh * kw * 2]; (dy, dx) for each offset group and tap, in pixels
filter: [kh, kw, C / groups, F]
mask: none, or one of [N, Ho, Wo, og * kh * kw]
y: [N, Ho, Wo, F]
)doc");

REGISTER_OP("Tfconv>DeformableConvGrad")
    .Input("x: T")
    .Input("offset: T")
    .Input("filter: T")
    .Input("dy: T")
    .Input("mask: modulation * T")
    .Output("dx: T")
    .Output("doffset: T")
    .Output("dfilter: T")
    .Output("dmask: modulation * T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("modulation: int >= 0")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<Kind::kConvGrad>)
    .Doc("Gradients of Tfconv>DeformableConv, given the gradient dy of its output.");

template <typename T, Kind kKind>
class DeformableOp : public OpKernel {
 public:
  explicit DeformableOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, attributes_.Read(kKind, context));
  }

  void Compute(OpKernelContext* context) override {
    DeformableSizes sizes;
    OP_REQUIRES_OK(context, MakeDeformableSizes(
                                kKind, attributes_,
                                [context](int i) { return Dims::Of(context->input(i)); }, &sizes));
    OP_REQUIRES_OK(context, Run(context, sizes));
  }

 private:
  using Compute_ = typename ComputeType<T>::Type;
  using Args = DeformableArgs<Compute_>;
  using SampleKernels = DeformableSampleKernels<Compute_>;
  using ConvKernels = DeformableConvKernels<Compute_>;

  // An input in the type that is computed in, kept alive while the op runs.
  struct Inputs {
    Tensor x, offset, mask, filter, dcolumns, dy;
  };

  static absl::Status Read(OpKernelContext* context, int input, Tensor* tensor,
                           const Compute_** data) {
    if (input < 0) return absl::OkStatus();
    if (auto status = ToComputeType<T>(context, context->input(input), tensor); !status.ok()) {
      return status;
    }
    *data = tensor->flat<Compute_>().data();
    return absl::OkStatus();
  }

  static absl::Status AllocateTemporary(OpKernelContext* context, int64_t size, Tensor* tensor,
                                        Compute_** data) {
    if (auto status = context->allocate_temp(tensorflow::DataTypeToEnum<Compute_>::value,
                                             tensorflow::TensorShape({size}), tensor);
        !status.ok()) {
      return status;
    }
    *data = tensor->flat<Compute_>().data();
    return absl::OkStatus();
  }

  absl::Status Run(OpKernelContext* context, const DeformableSizes& sizes) const {
    Args args = {};
    args.geometry = sizes.geometry;
    args.offset_groups = sizes.offset_groups;
    args.groups = sizes.groups;
    args.filters = sizes.filters;
    Inputs in;
    const int mask = attributes_.modulation > 0 ? MaskInput(kKind) : -1;
    if (auto s = Read(context, kX, &in.x, &args.x); !s.ok()) return s;
    if (auto s = Read(context, kOffset, &in.offset, &args.offset); !s.ok()) return s;
    if (auto s = Read(context, mask, &in.mask, &args.mask); !s.ok()) return s;
    if (auto s = Read(context, FilterInput(kKind), &in.filter, &args.filter); !s.ok()) return s;
    if (auto s = Read(context, DyInput(kKind), &in.dy, &args.dy); !s.ok()) return s;
    if (auto s = Read(context, DcolumnsInput(kKind), &in.dcolumns, &args.dcolumns); !s.ok()) {
      return s;
    }
    if constexpr (kKind == Kind::kSample) return Sample(context, sizes, &args);
    if constexpr (kKind == Kind::kConv) return Convolve(context, sizes, &args);
    return Gradients(context, sizes, &args);
  }

  static absl::Status Sample(OpKernelContext* context, const DeformableSizes& sizes, Args* args) {
    ComputeOutput<T> columns;
    if (auto s = columns.Allocate(context, 0, sizes.shapes.columns.sizes()); !s.ok()) return s;
    args->columns = columns.data();
    const auto kernels = ActiveKernels<SampleKernels>();
    if (auto s = RunPass(context, *args, kernels.sample); !s.ok()) return s;
    columns.Finish(context);
    return absl::OkStatus();
  }

  static absl::Status Convolve(OpKernelContext* context, const DeformableSizes& sizes, Args* args) {
    ComputeOutput<T> y;
    if (auto s = y.Allocate(context, 0, sizes.shapes.y.sizes()); !s.ok()) return s;
    args->y = y.data();
    if (args->geometry.channels == 0) {
      std::fill_n(args->y, y.size(), Compute_(0));
    } else if (y.size() > 0) {
      const auto kernels = ActiveKernels<ConvKernels>();
      Tensor packed_filter;
      if (auto s = AllocateTemporary(context, kernels.packed_filter_size(*args), &packed_filter,
                                     &args->packed_filter);
          !s.ok()) {
        return s;
      }
      if (auto s = RunPass(context, *args, kernels.pack_filter); !s.ok()) return s;
      if (auto s = RunPass(context, *args, kernels.convolve); !s.ok()) return s;
    }
    y.Finish(context);
    return absl::OkStatus();
  }

  // All gradients of either op.
  absl::Status Gradients(OpKernelContext* context, const DeformableSizes& sizes, Args* args) const {
    const DeformableShapes& shapes = sizes.shapes;
    ComputeOutput<T> dx, doffset, dfilter, dmask;
    int output = 0;
    if (auto s = dx.Allocate(context, output++, shapes.x.sizes()); !s.ok()) return s;
    if (auto s = doffset.Allocate(context, output++, shapes.offset.sizes()); !s.ok()) return s;
    args->dx = dx.data();
    args->doffset = doffset.data();
    if constexpr (HasFilter(kKind)) {
      if (auto s = dfilter.Allocate(context, output++, shapes.filter.sizes()); !s.ok()) return s;
      args->dfilter = dfilter.data();
    }
    if (attributes_.modulation > 0) {
      if (auto s = dmask.Allocate(context, output, shapes.mask.sizes()); !s.ok()) return s;
      args->dmask = dmask.data();
    }

    // Without positions, channels or filters nothing is summed.
    const bool empty = doffset.size() == 0 || args->geometry.channels == 0 ||
                       (HasFilter(kKind) && args->filters == 0);
    if (empty) {
      std::fill_n(args->dx, dx.size(), Compute_(0));
      std::fill_n(args->doffset, doffset.size(), Compute_(0));
      if (args->dfilter != nullptr) std::fill_n(args->dfilter, dfilter.size(), Compute_(0));
      if (args->dmask != nullptr) std::fill_n(args->dmask, dmask.size(), Compute_(0));
    } else {
      if (auto s = SamplingGradients(context, args); !s.ok()) return s;
      if constexpr (HasFilter(kKind)) {
        if (auto s = FilterGradient(context, args); !s.ok()) return s;
      }
    }
    dx.Finish(context);
    doffset.Finish(context);
    if constexpr (HasFilter(kKind)) dfilter.Finish(context);
    if (attributes_.modulation > 0) dmask.Finish(context);
    return absl::OkStatus();
  }

  static absl::Status SamplingGradients(OpKernelContext* context, Args* args) {
    const auto sampling = ActiveKernels<SampleKernels>();
    Tensor partial, packed_filter;
    if (auto s = AllocateTemporary(context, sampling.partial_size(*args), &partial, &args->partial);
        !s.ok()) {
      return s;
    }
    if constexpr (HasFilter(kKind)) {
      const auto kernels = ActiveKernels<ConvKernels>();
      if (auto s = AllocateTemporary(context, kernels.packed_filter_transposed_size(*args),
                                     &packed_filter, &args->packed_filter);
          !s.ok()) {
        return s;
      }
      if (auto s = RunPass(context, *args, kernels.pack_filter_transposed); !s.ok()) return s;
      if (auto s = RunPass(context, *args, kernels.backward_input); !s.ok()) return s;
    } else {
      if (auto s = RunPass(context, *args, sampling.backward); !s.ok()) return s;
    }
    return RunPass(context, *args, sampling.sum_partial);
  }

  static absl::Status FilterGradient(OpKernelContext* context, Args* args) {
    const auto kernels = ActiveKernels<ConvKernels>();
    Tensor packed_dy;
    if (auto s =
            AllocateTemporary(context, kernels.packed_dy_size(*args), &packed_dy, &args->packed_dy);
        !s.ok()) {
      return s;
    }
    if (auto s = RunPass(context, *args, kernels.pack_dy); !s.ok()) return s;
    return RunPass(context, *args, kernels.backward_filter);
  }

  DeformableAttributes attributes_;
};

#define TFCONV_REGISTER(T)                                                                         \
  REGISTER_KERNEL_BUILDER(                                                                         \
      Name("Tfconv>DeformableSample").Device(DEVICE_CPU).TypeConstraint<T>("T"),                   \
      DeformableOp<T, Kind::kSample>);                                                             \
  REGISTER_KERNEL_BUILDER(                                                                         \
      Name("Tfconv>DeformableSampleGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"),               \
      DeformableOp<T, Kind::kSampleGrad>);                                                         \
  REGISTER_KERNEL_BUILDER(Name("Tfconv>DeformableConv").Device(DEVICE_CPU).TypeConstraint<T>("T"), \
                          DeformableOp<T, Kind::kConv>);                                           \
  REGISTER_KERNEL_BUILDER(                                                                         \
      Name("Tfconv>DeformableConvGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"),                 \
      DeformableOp<T, Kind::kConvGrad>);
TFCONV_REGISTER(Eigen::half)
TFCONV_REGISTER(Eigen::bfloat16)
TFCONV_REGISTER(float)
TFCONV_REGISTER(double)
#undef TFCONV_REGISTER

}  // namespace
}  // namespace tfconv
