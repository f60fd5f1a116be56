// Tfconv>DeformableSample, Tfconv>DeformableConv and their gradients: interface, shapes and CPU
// kernels. The numeric part is in deformable_sample_cpu.cc and deformable_conv_cpu.cc.
#include "deformable/deformable_op.h"

#include <algorithm>
#include <cstddef>

#include "common/cpu_kernel.h"
#include "deformable/deformable_images.h"
#include "deformable/deformable_kernel.h"
#include "tensorflow/core/framework/op.h"

namespace tfconv {
namespace {

// Units that a thread should have at a time: with fewer, some would wait for others.
constexpr int64_t kUnitsOfThread = 4;

// One of the ops on memory: its kernels in their order.
template <typename T, DeformableKind kKind>
class Runner {
 public:
  using Element = typename ElementType<T>::Type;

  Runner(Executor* executor, const DeformableSizes& sizes) : executor_(executor) {
    args_.geometry = sizes.geometry;
    args_.rank = sizes.rank;
    args_.offset_groups = sizes.offset_groups;
    args_.groups = sizes.groups;
    args_.filters = sizes.filters;
  }

  absl::Status Run(const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    const auto data = [&](int input) -> const Element* {
      if (input < 0 || input >= static_cast<int>(inputs.size())) return nullptr;
      return static_cast<const Element*>(inputs[input].data);
    };
    args_.x = data(kX);
    args_.offset = data(kOffset);
    args_.mask = data(MaskInput(kKind));
    args_.filter = data(FilterInput(kKind));
    args_.dy = data(DyInput(kKind));
    args_.dcolumns = data(DcolumnsInput(kKind));
    no_positions_ = inputs[kOffset].size == 0;
    if constexpr (kKind == DeformableKind::kSample) return Sample(outputs[0]);
    if constexpr (kKind == DeformableKind::kConv) return Convolve(outputs[0]);
    return Gradients(outputs);
  }

 private:
  using Number = Accumulator<Element>;
  using Args = DeformableArgs<Element>;
  using SampleKernels = DeformableSampleKernels<Element>;
  using ConvKernels = DeformableConvKernels<Element>;

  absl::Status Sample(const Buffer& output) {
    args_.columns = static_cast<Element*>(output.data);
    return RunPass(executor_, args_, ActiveKernels<SampleKernels>().sample);
  }

  absl::Status Convolve(const Buffer& output) {
    args_.y = static_cast<Element*>(output.data);
    if (args_.geometry.channels == 0) std::fill_n(args_.y, output.size, Element{});
    if (args_.geometry.channels == 0 || output.size == 0) return absl::OkStatus();
    const auto kernels = ActiveKernels<ConvKernels>();
    Temporary<char> packed_filter;
    if (auto s = packed_filter.Allocate(executor_, kernels.packed_filter_bytes(args_)); !s.ok()) {
      return s;
    }
    args_.packed_filter = packed_filter.data();
    Temporary<Number> partial;
    if (auto s = partial.Allocate(executor_, kernels.partial_sums_size(args_)); !s.ok()) return s;
    args_.partial = partial.data();
    for (const Pass<Args>& pass : {kernels.pack_filter, kernels.convolve, kernels.sum_slices}) {
      if (auto s = RunPass(executor_, args_, pass); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  absl::Status Gradients(const std::vector<Buffer>& outputs) {
    // Without positions, channels or filters nothing is summed.
    const bool empty =
        no_positions_ || args_.geometry.channels == 0 || (HasFilter(kKind) && args_.filters == 0);
    if (empty) {
      for (const Buffer& output : outputs) {
        std::fill_n(static_cast<Element*>(output.data), output.size, Element{});
      }
      return absl::OkStatus();
    }
    if constexpr (kKind == DeformableKind::kConvFilterGrad) return FilterGradient(outputs[0]);
    args_.doffset = static_cast<Element*>(outputs[1].data);
    if (outputs.size() > 2) args_.dmask = static_cast<Element*>(outputs[2].data);
    return SamplingGradients(outputs[0]);
  }

  absl::Status SamplingGradients(const Buffer& output) {
    const auto sampling = ActiveKernels<SampleKernels>();
    args_.dx = static_cast<Element*>(output.data);
    Temporary<char> dx_parts, packed_filter;
    Temporary<Number> partial;
    // Where images have sums of their own, as few at a time as keep all threads busy.
    const int64_t batch = args_.geometry.batch;
    args_.whole_batch = batch;
    int64_t images = batch;
    if (sampling.dx_parts_bytes(args_) > 0 || sampling.partial_size(args_) > 0) {
      const int64_t units = kUnitsOfThread * executor_->max_threads();
      images = std::clamp<int64_t>(units / sampling.units_of_image(args_), 1, batch);
    }
    const Args most = ImagesOf(args_, 0, images);
    if (auto s = dx_parts.Allocate(executor_, sampling.dx_parts_bytes(most)); !s.ok()) return s;
    if (auto s = partial.Allocate(executor_, sampling.partial_size(most)); !s.ok()) return s;
    args_.dx_parts = dx_parts.data();
    args_.partial = partial.data();
    Pass<Args> backward = sampling.backward;
    if constexpr (HasFilter(kKind)) {
      const auto kernels = ActiveKernels<ConvKernels>();
      const int64_t bytes = kernels.packed_filter_transposed_bytes(args_);
      if (auto s = packed_filter.Allocate(executor_, bytes); !s.ok()) return s;
      args_.packed_filter = packed_filter.data();
      if (auto s = RunPass(executor_, args_, kernels.pack_filter_transposed); !s.ok()) return s;
      backward = kernels.backward_input;
    }
    for (int64_t first = 0; first < batch; first += images) {
      const Args some = ImagesOf(args_, first, std::min(images, batch - first));
      for (const Pass<Args>& pass : {backward, sampling.sum_dx, sampling.sum_partial}) {
        if (auto s = RunPass(executor_, some, pass); !s.ok()) return s;
      }
    }
    return absl::OkStatus();
  }

  absl::Status FilterGradient(const Buffer& output) {
    const auto kernels = ActiveKernels<ConvKernels>();
    args_.dfilter = static_cast<Element*>(output.data);
    Temporary<char> packed_dy;
    Temporary<Number> partial;
    if (auto s = packed_dy.Allocate(executor_, kernels.packed_dy_bytes(args_)); !s.ok()) return s;
    if (auto s = partial.Allocate(executor_, kernels.partial_filter_size(args_)); !s.ok()) return s;
    args_.packed_dy = packed_dy.data();
    args_.partial_filter = partial.data();
    if (auto s = RunPass(executor_, args_, kernels.pack_dy); !s.ok()) return s;
    if (auto s = RunPass(executor_, args_, kernels.backward_filter); !s.ok()) return s;
    return RunPass(executor_, args_, kernels.sum_filter);
  }

  Executor* executor_;
  Args args_ = {};
  bool no_positions_ = false;
};

}  // namespace

template <DeformableKind kKind>
absl::Status DeformableOp<kKind>::Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                                        std::vector<Dims>* outputs) const {
  DeformableShapes shapes;
  if (auto status = MakeDeformableSizes(kKind, attributes, input, sizes, &shapes); !status.ok()) {
    return status;
  }
  if (kKind == DeformableKind::kSample) {
    *outputs = {shapes.columns};
  } else if (kKind == DeformableKind::kConv) {
    *outputs = {shapes.y};
  } else if (kKind == DeformableKind::kConvFilterGrad) {
    *outputs = {shapes.filter};
  } else {
    *outputs = {shapes.x, shapes.offset};
    if (attributes.modulation > 0) outputs->push_back(shapes.mask);
  }
  return absl::OkStatus();
}

template <DeformableKind kKind>
template <typename T>
absl::Status DeformableOp<kKind>::Run(Executor* executor, const Sizes& sizes,
                                      const std::vector<Buffer>& inputs,
                                      const std::vector<Buffer>& outputs) {
  return Runner<T, kKind>(executor, sizes).Run(inputs, outputs);
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
    .SetShapeFn(ShapeFunction<DeformableOp<DeformableKind::kSample>>)
    .Doc(R"doc(
Samples an image of one to three axes at the taps of a kernel, each moved by an offset.

columns[n, p, t, c] = mask[n, p, o(c), t] * x(n, p * stride - pad + t * dilation + offset, c),
linear between pixels and zero outside of the image, with o(c) = c / (C / og).

x: [N, spatial axes, C]
offset: [N, positions, og * taps * rank]; for each offset group and tap, pixels along each axis
mask: none, or one of [N, positions, og * taps]
columns: [N, positions, taps, C]
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
    .SetShapeFn(ShapeFunction<DeformableOp<DeformableKind::kSampleGrad>>)
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
    .SetShapeFn(ShapeFunction<DeformableOp<DeformableKind::kConv>>)
    .Doc(R"doc(
Convolution whose taps are moved by offsets: the columns of Tfconv>DeformableSample times a filter.

x: [N, spatial axes, C], one to three axes
offset: [N, positions, og * taps * rank]; for each offset group and tap, pixels along each axis
filter: [kernel, C / groups, F]
mask: none, or one of [N, positions, og * taps]
y: [N, positions, F]
)doc");

REGISTER_OP("Tfconv>DeformableConvInputGrad")
    .Input("x: T")
    .Input("offset: T")
    .Input("filter: T")
    .Input("dy: T")
    .Input("mask: modulation * T")
    .Output("dx: T")
    .Output("doffset: T")
    .Output("dmask: modulation * T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("modulation: int >= 0")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<DeformableOp<DeformableKind::kConvInputGrad>>)
    .Doc("Gradients of Tfconv>DeformableConv for all but the filter, given the gradient dy.");

REGISTER_OP("Tfconv>DeformableConvFilterGrad")
    .Input("x: T")
    .Input("offset: T")
    .Input("filter: T")
    .Input("dy: T")
    .Input("mask: modulation * T")
    .Output("dfilter: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("modulation: int >= 0")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .SetShapeFn(ShapeFunction<DeformableOp<DeformableKind::kConvFilterGrad>>)
    .Doc("Gradient of Tfconv>DeformableConv for the filter, of which only the shape is used.");

TFCONV_REGISTER_CPU("Tfconv>DeformableSample", DeformableOp<DeformableKind::kSample>)
TFCONV_REGISTER_CPU("Tfconv>DeformableSampleGrad", DeformableOp<DeformableKind::kSampleGrad>)
TFCONV_REGISTER_CPU("Tfconv>DeformableConv", DeformableOp<DeformableKind::kConv>)
TFCONV_REGISTER_CPU("Tfconv>DeformableConvInputGrad", DeformableOp<DeformableKind::kConvInputGrad>)
TFCONV_REGISTER_CPU("Tfconv>DeformableConvFilterGrad",
                    DeformableOp<DeformableKind::kConvFilterGrad>)

}  // namespace tfconv
