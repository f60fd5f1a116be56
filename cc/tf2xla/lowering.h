// The ops in terms of XLA's own operations, for devices that have none of our kernels.
//
// Each Lower() takes an op's inputs and gives its outputs, in any shape of the right size; half and
// bfloat16 come as float32. It is not called where SumsNothing().
#ifndef TFCONV_TF2XLA_LOWERING_H_
#define TFCONV_TF2XLA_LOWERING_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <vector>

#include "aggregation/aggregation_op.h"
#include "common/geometry.h"
#include "deformable/deformable_op.h"
#include "involution/involution_op.h"
#include "per_example/per_example_op.h"
#include "xla/shape_util.h"
#include "xla/xla_data.pb.h"
#if __has_include("xla/hlo/builder/xla_builder.h")
#include "xla/hlo/builder/lib/arithmetic.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#else
#include "xla/client/lib/arithmetic.h"
#include "xla/client/lib/constants.h"
#include "xla/client/xla_builder.h"
#endif

namespace tfconv {

using Operands = std::vector<xla::XlaOp>;

inline xla::PrimitiveType TypeOf(xla::XlaOp op) {
  return op.builder()->GetShape(op).value().element_type();
}

inline xla::XlaOp Scalar(xla::XlaOp like, double value) {
  return xla::ConstantR0WithType(like.builder(), TypeOf(like), value);
}

inline xla::XlaOp SumOver(xla::XlaOp op, int64_t axis) {
  return xla::Reduce(op, Scalar(op, 0),
                     xla::CreateScalarAddComputation(TypeOf(op), op.builder()), {axis});
}

inline xla::XlaOp AddTo(const std::optional<xla::XlaOp>& sum, xla::XlaOp term) {
  return sum ? xla::Add(*sum, term) : term;
}

// One element of axis `axis`, which then is gone.
inline xla::XlaOp At(xla::XlaOp op, int64_t index, int64_t axis) {
  const xla::Shape shape = op.builder()->GetShape(op).value();
  std::vector<int64_t> sizes(shape.dimensions().begin(), shape.dimensions().end());
  sizes.erase(sizes.begin() + axis);
  return xla::Reshape(xla::SliceInDim(op, index, index + 1, 1, axis), sizes);
}

// Batched product: `batch`, then the other axes of `a`, then those of `b`.
inline xla::XlaOp Product(xla::XlaOp a, xla::XlaOp b, std::initializer_list<int64_t> batch_a,
                          std::initializer_list<int64_t> batch_b,
                          std::initializer_list<int64_t> contracted_a,
                          std::initializer_list<int64_t> contracted_b) {
  xla::DotDimensionNumbers numbers;
  for (const int64_t axis : batch_a) numbers.add_lhs_batch_dimensions(axis);
  for (const int64_t axis : batch_b) numbers.add_rhs_batch_dimensions(axis);
  for (const int64_t axis : contracted_a) numbers.add_lhs_contracting_dimensions(axis);
  for (const int64_t axis : contracted_b) numbers.add_rhs_contracting_dimensions(axis);
  return xla::DotGeneral(a, b, numbers);
}

// Whether all outputs of an op are zero, or empty, since what it sums up is. The features of an
// involution and the channels of queries may be none: there are the bias and equal weights.
inline bool SumsNothing(const ConvGeometry& g) {
  bool nothing = g.batch == 0 || g.channels == 0;
  for (const ConvAxis& axis : g.axis) nothing |= axis.input == 0 || axis.output == 0;
  return nothing;
}
inline bool SumsNothing(const InvolutionSizes& sizes) { return SumsNothing(sizes.geometry); }
inline bool SumsNothing(const AggregationSizes& sizes) { return SumsNothing(sizes.geometry); }
inline bool SumsNothing(const PerExampleSizes& sizes) {
  return SumsNothing(sizes.geometry) || sizes.filters == 0;
}
inline bool SumsNothing(const DeformableSizes& sizes) {
  return SumsNothing(sizes.geometry) || sizes.filters == 0;
}

// The windows of a convolution, one tap at a time. Images are [N, three spatial axes, C].
class TapWindows {
 public:
  explicit TapWindows(const ConvGeometry& geometry) : geometry_(geometry) {
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      const ConvAxis& axis = geometry.axis[i];
      const int64_t reach = (axis.output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
      padded_[i] = std::max(axis.pad + axis.input, reach);
      taps_ *= axis.kernel;
      positions_ *= axis.output;
    }
  }

  int64_t taps() const { return taps_; }
  int64_t positions() const { return positions_; }  // of an example

  xla::XlaOp Padded(xla::XlaOp image) const {
    const auto& axis = geometry_.axis;
    image = xla::Reshape(image, {geometry_.batch, axis[0].input, axis[1].input, axis[2].input,
                                 geometry_.channels});
    xla::PaddingConfig config = xla::MakeNoPaddingConfig(5);
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      auto* dimension = config.mutable_dimensions(i + 1);
      dimension->set_edge_padding_low(axis[i].pad);
      dimension->set_edge_padding_high(padded_[i] - axis[i].pad - axis[i].input);
    }
    return xla::Pad(image, Scalar(image, 0), config);
  }

  // What tap `tap` reads: [N, three output axes, C].
  xla::XlaOp Read(xla::XlaOp padded, int64_t tap) const {
    std::vector<int64_t> begin = {0, 0, 0, 0, 0};
    std::vector<int64_t> end = {geometry_.batch, 0, 0, 0, geometry_.channels};
    std::vector<int64_t> stride = {1, 1, 1, 1, 1};
    const auto first = First(tap);
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      const ConvAxis& axis = geometry_.axis[i];
      begin[i + 1] = first[i];
      end[i + 1] = first[i] + (axis.output - 1) * axis.stride + 1;
      stride[i + 1] = axis.stride;
    }
    return xla::Slice(padded, begin, end, stride);
  }

  // The transpose of Read(): a padded image that is zero elsewhere.
  xla::XlaOp Spread(xla::XlaOp window, int64_t tap) const {
    const auto& axis = geometry_.axis;
    window = xla::Reshape(window, {geometry_.batch, axis[0].output, axis[1].output, axis[2].output,
                                   geometry_.channels});
    xla::PaddingConfig config = xla::MakeNoPaddingConfig(5);
    const auto first = First(tap);
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      const int64_t last = first[i] + (axis[i].output - 1) * axis[i].stride;
      auto* dimension = config.mutable_dimensions(i + 1);
      dimension->set_edge_padding_low(first[i]);
      dimension->set_interior_padding(axis[i].stride - 1);
      dimension->set_edge_padding_high(padded_[i] - last - 1);
    }
    return xla::Pad(window, Scalar(window, 0), config);
  }

  // The transpose of Padded().
  xla::XlaOp Cropped(xla::XlaOp padded) const {
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      const ConvAxis& axis = geometry_.axis[i];
      padded = xla::SliceInDim(padded, axis.pad, axis.pad + axis.input, 1, i + 1);
    }
    return padded;
  }

 private:
  std::array<int64_t, kMaxSpatialAxes> First(int64_t tap) const {
    std::array<int64_t, kMaxSpatialAxes> first;
    for (int i = kMaxSpatialAxes - 1; i >= 0; --i) {
      first[i] = tap % geometry_.axis[i].kernel * geometry_.axis[i].dilation;
      tap /= geometry_.axis[i].kernel;
    }
    return first;
  }

  const ConvGeometry geometry_;
  std::array<int64_t, kMaxSpatialAxes> padded_;
  int64_t taps_ = 1;
  int64_t positions_ = 1;
};

template <InvolutionKind kKind>
Operands Lower(const InvolutionOp<kKind>&, const InvolutionSizes& sizes, const Operands& in) {
  using Kind = InvolutionKind;
  constexpr bool kToInput =
      kKind == Kind::kGrad || kKind == Kind::kInputGrad || kKind == Kind::kSpanInputGrad;
  constexpr bool kToKernel =
      kKind == Kind::kGrad || kKind == Kind::kKernelGrad || kKind == Kind::kSpanGrad;
  const TapWindows windows(sizes.geometry);
  const int64_t batch = sizes.geometry.batch, positions = windows.positions();
  const int64_t rows = batch * positions, columns = sizes.groups * windows.taps();
  const std::vector<int64_t> grouped = {batch, positions, sizes.groups,
                                        sizes.geometry.channels / sizes.groups};
  const xla::XlaOp x = windows.Padded(in[0]);
  xla::XlaOp kernel = in[1];
  const xla::XlaOp features = xla::Reshape(in[1], {rows, HasSpan(kKind) ? sizes.num_features
                                                                        : columns});
  if constexpr (HasSpan(kKind)) {
    kernel = xla::Add(Product(features, in[2], {}, {}, {1}, {0}), in[3], {1});
  }
  kernel = xla::Reshape(kernel, {batch, positions, sizes.groups, windows.taps()});
  std::optional<xla::XlaOp> y, dx;
  Operands taps;
  for (int64_t tap = 0; tap < windows.taps(); ++tap) {
    const xla::XlaOp pixels = xla::Reshape(windows.Read(x, tap), grouped);
    const xla::XlaOp weight = At(kernel, tap, 3);
    if constexpr (!IsGrad(kKind)) {
      y = AddTo(y, xla::Mul(pixels, weight, {0, 1, 2}));
    } else {
      const xla::XlaOp dy = xla::Reshape(in[DyInput(kKind)], grouped);
      if (kToInput) dx = AddTo(dx, windows.Spread(xla::Mul(dy, weight, {0, 1, 2}), tap));
      if (kToKernel) {
        taps.push_back(
            xla::Reshape(SumOver(xla::Mul(pixels, dy), 3), {batch, positions, sizes.groups, 1}));
      }
    }
  }
  Operands results;
  if (y) results.push_back(*y);
  if (dx) results.push_back(windows.Cropped(*dx));
  if constexpr (kToKernel) {
    const xla::XlaOp dkernel = xla::ConcatInDim(x.builder(), taps, 3);
    if constexpr (HasSpan(kKind)) {
      const xla::XlaOp flat = xla::Reshape(dkernel, {rows, columns});
      return {Product(flat, in[2], {}, {}, {1}, {1}), Product(features, flat, {}, {}, {0}, {0}),
              SumOver(flat, 0)};
    }
    results.push_back(dkernel);
  }
  return results;
}

template <PerExampleKind kKind>
Operands Lower(const PerExampleOp<kKind>&, const PerExampleSizes& sizes, const Operands& in) {
  using Kind = PerExampleKind;
  const TapWindows windows(sizes.geometry);
  const int64_t batch = sizes.geometry.batch, positions = windows.positions();
  const int64_t width = sizes.geometry.channels / sizes.groups;
  const int64_t group_filters = sizes.filters / sizes.groups;
  const std::vector<int64_t> pixels_shape = {batch, positions, sizes.groups, width};
  const xla::XlaOp x = windows.Padded(in[0]);
  const xla::XlaOp filter =
      xla::Reshape(in[1], {batch, windows.taps(), width, sizes.groups, group_filters});
  xla::XlaOp dy;
  if constexpr (kKind != Kind::kConv) {
    dy = xla::Reshape(in[2], {batch, positions, sizes.groups, group_filters});
  }
  std::optional<xla::XlaOp> sum;
  Operands dfilter;
  for (int64_t tap = 0; tap < windows.taps(); ++tap) {
    const xla::XlaOp weight = At(filter, tap, 1);  // [N, width, groups, group filters]
    if constexpr (kKind == Kind::kConv) {
      const xla::XlaOp pixels = xla::Reshape(windows.Read(x, tap), pixels_shape);
      sum = AddTo(sum, Product(pixels, weight, {0, 2}, {0, 2}, {3}, {1}));
    } else if constexpr (kKind == Kind::kInputGrad) {
      const xla::XlaOp dpixels = Product(dy, weight, {0, 2}, {0, 2}, {3}, {3});
      sum = AddTo(sum, windows.Spread(xla::Transpose(dpixels, {0, 2, 1, 3}), tap));
    } else {
      const xla::XlaOp pixels = xla::Reshape(windows.Read(x, tap), pixels_shape);
      const xla::XlaOp dweight = Product(pixels, dy, {0, 2}, {0, 2}, {1}, {1});
      dfilter.push_back(xla::Reshape(xla::Transpose(dweight, {0, 2, 1, 3}),
                                     {batch, 1, width, sizes.filters}));
    }
  }
  if constexpr (kKind == Kind::kConv) return {xla::Transpose(*sum, {0, 2, 1, 3})};
  if constexpr (kKind == Kind::kInputGrad) return {windows.Cropped(*sum)};
  return {xla::ConcatInDim(x.builder(), dfilter, 1)};
}

// Where the taps of a deformable op read, and how much of what.
//
// Shapes are [N, positions, offset groups, taps]; samples have the group's channels behind. The
// image has two zeros on every side, and a position is clipped to [-2, size], so that all corners
// of a cell can be read.
class Sampling {
 public:
  Sampling(const DeformableSizes& sizes, xla::XlaOp x, xla::XlaOp offset)
      : rank_(static_cast<int>(sizes.rank)),
        batch_(sizes.geometry.batch),
        channels_(sizes.geometry.channels),
        groups_(sizes.offset_groups),
        taps_(sizes.taps) {
    xla::XlaBuilder* builder = x.builder();
    std::vector<int64_t> grid_sizes(static_cast<size_t>(2 * rank_));  // outputs, then taps
    int64_t positions = 1, rows = batch_ * groups_;
    x_shape_ = {batch_};
    for (int axis = 0; axis < rank_; ++axis) {
      const ConvAxis& a = sizes.geometry.axis[CanonicalAxis(axis, rank_)];
      image_[axis] = a.input;
      grid_sizes[axis] = a.output;
      grid_sizes[axis + rank_] = a.kernel;
      positions *= a.output;
      rows *= a.input + kMargin;
      x_shape_.push_back(a.input);
    }
    x_shape_.push_back(channels_);
    shape_ = {batch_, positions, groups_, taps_};
    x_ = xla::Reshape(x, x_shape_);
    const xla::XlaOp moved = xla::Reshape(offset, {batch_, positions, groups_, taps_, rank_});
    index_type_ = rows > std::numeric_limits<int32_t>::max() ? xla::S64 : xla::S32;
    const xla::Shape grid_shape = xla::ShapeUtil::MakeShape(xla::S64, grid_sizes);
    // Row of the table for the corner that is near along all axes.
    const xla::Shape index_shape = xla::ShapeUtil::MakeShape(index_type_, shape_);
    corner_ = xla::Iota(builder, index_shape, 0);
    for (int axis = 0; axis < rank_; ++axis) {
      const ConvAxis& a = sizes.geometry.axis[CanonicalAxis(axis, rank_)];
      const auto iota = [&](int64_t dimension) { return xla::Iota(builder, grid_shape, dimension); };
      const auto times = [&](xla::XlaOp op, int64_t factor) {
        return xla::Mul(op, xla::ConstantR0<int64_t>(builder, factor));
      };
      xla::XlaOp grid = xla::Add(times(iota(axis), a.stride), times(iota(axis + rank_), a.dilation));
      grid = xla::Sub(grid, xla::ConstantR0<int64_t>(builder, a.pad));
      grid = xla::ConvertElementType(xla::Reshape(grid, {positions, taps_}), TypeOf(x));
      const xla::XlaOp position = xla::Add(At(moved, axis, 4), grid, {1, 3});
      const xla::XlaOp missing = xla::Ne(position, position);
      const xla::XlaOp low = Scalar(x, -2), high = Scalar(x, static_cast<double>(a.input));
      const xla::XlaOp numbers = xla::Select(missing, xla::Broadcast(low, shape_), position);
      const xla::XlaOp inside = xla::Clamp(low, numbers, high);
      const xla::XlaOp floor = xla::Floor(inside);
      fraction_[axis] = xla::Select(missing, position, xla::Sub(inside, floor));
      is_inside_[axis] = xla::Eq(inside, position);
      const xla::XlaOp beyond = xla::Select(missing, position, xla::ZerosLike(position));
      beyond_ = axis == 0 ? beyond : xla::Add(beyond_, beyond);
      corner_ = xla::Mul(corner_, Index(a.input + kMargin));
      corner_ = xla::Add(corner_,
                         xla::Add(xla::ConvertElementType(floor, index_type_), Index(2)));
    }
    corner_ = xla::Mul(corner_, Index(groups_));
    corner_ = xla::Add(corner_, xla::Iota(builder, index_shape, 2));
  }

  // [N, positions, taps, C] <-> [N, positions, offset groups, taps, C / offset groups].
  xla::XlaOp ByTap(xla::XlaOp samples) const { return xla::Transpose(samples, {0, 1, 3, 2, 4}); }
  xla::XlaOp ByGroup(xla::XlaOp columns) const {
    return xla::Transpose(xla::Reshape(columns, {batch_, shape_[1], taps_, groups_, Width()}),
                          {0, 1, 3, 2, 4});
  }

  xla::XlaOp Columns(const std::optional<xla::XlaOp>& mask) const {
    const xla::XlaOp table = Table();
    std::optional<xla::XlaOp> sum;
    for (int corner = 0; corner < 1 << rank_; ++corner) {
      sum = AddTo(sum, xla::Mul(Pixels(table, corner), Weight(corner, mask), {0, 1, 2, 3}));
    }
    return ByTap(*sum);
  }

  // dx, doffset and, with a mask, dmask.
  Operands Gradients(xla::XlaOp dcolumns, const std::optional<xla::XlaOp>& mask) const {
    const xla::XlaOp dsamples = ByGroup(dcolumns), table = Table();
    xla::XlaOp dtable = xla::ZerosLike(table);
    std::optional<xla::XlaOp> dmask, dfraction[kMaxSpatialAxes];
    for (int corner = 0; corner < 1 << rank_; ++corner) {
      dtable = AddPixels(dtable, corner,
                         xla::Mul(dsamples, Weight(corner, mask), {0, 1, 2, 3}));
      const xla::XlaOp match = SumOver(xla::Mul(dsamples, Pixels(table, corner)), 4);
      dmask = AddTo(dmask, xla::Mul(match, Weight(corner, std::nullopt)));
      for (int axis = 0; axis < rank_; ++axis) {
        xla::XlaOp change = match;
        for (int other = 0; other < rank_; ++other) {
          if (other != axis) change = xla::Mul(change, AxisWeight(corner, other));
        }
        dfraction[axis] = AddTo(dfraction[axis], IsFar(corner, axis) ? change : xla::Neg(change));
      }
    }
    Operands doffset;
    for (int axis = 0; axis < rank_; ++axis) {
      xla::XlaOp change = *dfraction[axis];
      if (mask) change = xla::Mul(change, xla::Reshape(*mask, shape_));
      change = xla::Select(is_inside_[axis], change, beyond_);
      doffset.push_back(xla::Reshape(change, {shape_[0], shape_[1], shape_[2], shape_[3], 1}));
    }
    std::vector<int64_t> padded = x_shape_;
    for (int axis = 0; axis < rank_; ++axis) padded[axis + 1] += kMargin;
    xla::XlaOp dx = xla::Reshape(dtable, padded);
    for (int axis = 0; axis < rank_; ++axis) {
      dx = xla::SliceInDim(dx, 2, 2 + image_[axis], 1, axis + 1);
    }
    Operands result = {dx, xla::ConcatInDim(dx.builder(), doffset, 4)};
    if (mask) result.push_back(*dmask);
    return result;
  }

 private:
  static constexpr int64_t kMargin = 4;  // zeros around the image, both sides together

  int64_t Width() const { return channels_ / groups_; }
  bool IsFar(int corner, int axis) const { return ((corner >> (rank_ - 1 - axis)) & 1) != 0; }

  xla::XlaOp Index(int64_t value) const {
    return xla::ConstantR0WithType(x_.builder(), index_type_, value);
  }

  // Pixels of all images, a row for each pixel and offset group.
  xla::XlaOp Table() const {
    xla::PaddingConfig config = xla::MakeNoPaddingConfig(rank_ + 2);
    int64_t rows = batch_ * groups_;
    for (int axis = 0; axis < rank_; ++axis) {
      config.mutable_dimensions(axis + 1)->set_edge_padding_low(2);
      config.mutable_dimensions(axis + 1)->set_edge_padding_high(2);
      rows *= image_[axis] + kMargin;
    }
    return xla::Reshape(xla::Pad(x_, Scalar(x_, 0), config), {rows, Width()});
  }

  xla::XlaOp Row(int corner) const {
    int64_t pixel = 0;
    for (int axis = 0; axis < rank_; ++axis) {
      pixel = pixel * (image_[axis] + kMargin) + (IsFar(corner, axis) ? 1 : 0);
    }
    return xla::Add(corner_, Index(pixel * groups_));
  }

  xla::XlaOp Pixels(xla::XlaOp table, int corner) const {
    xla::GatherDimensionNumbers numbers;
    numbers.add_offset_dims(4);
    numbers.add_collapsed_slice_dims(0);
    numbers.add_start_index_map(0);
    numbers.set_index_vector_dim(4);
    return xla::Gather(table, Row(corner), numbers, {1, Width()});
  }

  xla::XlaOp AddPixels(xla::XlaOp table, int corner, xla::XlaOp pixels) const {
    xla::ScatterDimensionNumbers numbers;
    numbers.add_update_window_dims(4);
    numbers.add_inserted_window_dims(0);
    numbers.add_scatter_dims_to_operand_dims(0);
    numbers.set_index_vector_dim(4);
    return xla::Scatter(table, Row(corner), pixels,
                        xla::CreateScalarAddComputation(TypeOf(table), table.builder()), numbers);
  }

  xla::XlaOp AxisWeight(int corner, int axis) const {
    return IsFar(corner, axis) ? fraction_[axis]
                               : xla::Sub(xla::ScalarLike(fraction_[axis], 1), fraction_[axis]);
  }

  xla::XlaOp Weight(int corner, const std::optional<xla::XlaOp>& mask) const {
    xla::XlaOp weight = AxisWeight(corner, 0);
    for (int axis = 1; axis < rank_; ++axis) weight = xla::Mul(weight, AxisWeight(corner, axis));
    return mask ? xla::Mul(weight, xla::Reshape(*mask, shape_)) : weight;
  }

  const int rank_;
  int64_t batch_, channels_, groups_, taps_;
  int64_t image_[kMaxSpatialAxes];
  std::vector<int64_t> x_shape_, shape_;
  xla::PrimitiveType index_type_;
  xla::XlaOp x_, corner_;
  xla::XlaOp fraction_[kMaxSpatialAxes], is_inside_[kMaxSpatialAxes];
  xla::XlaOp beyond_;  // zero, or NaN where an offset is: the gradient outside
};

template <AggregationKind kKind>
Operands Lower(const AggregationOp<kKind>&, const AggregationSizes& sizes, const Operands& in) {
  DeformableSizes of_sampling = {};
  of_sampling.geometry = sizes.geometry;
  of_sampling.rank = sizes.rank;
  of_sampling.offset_groups = sizes.groups;
  const TapWindows windows(sizes.geometry);
  of_sampling.taps = windows.taps();
  const Sampling sampling(of_sampling, in[0], in[1]);
  if constexpr (kKind == AggregationKind::kAggregation) return {SumOver(sampling.Columns(in[2]), 2)};
  const std::vector<int64_t> y = {sizes.geometry.batch, windows.positions(),
                                  sizes.geometry.channels};
  const xla::XlaOp dcolumns =
      xla::BroadcastInDim(xla::Reshape(in[3], y), {y[0], y[1], windows.taps(), y[2]}, {0, 1, 3});
  const Operands all = sampling.Gradients(dcolumns, in[2]);
  if constexpr (kKind == AggregationKind::kInputGrad) return {all[0]};
  return {all[1], all[2]};
}

template <DeformableKind kKind>
Operands Lower(const DeformableOp<kKind>& op, const DeformableSizes& sizes, const Operands& in) {
  using Kind = DeformableKind;
  const Sampling sampling(sizes, in[kX], in[kOffset]);
  std::optional<xla::XlaOp> mask;
  if (op.attributes.modulation > 0) mask = in[MaskInput(kKind)];
  if constexpr (kKind == Kind::kSample) return {sampling.Columns(mask)};
  if constexpr (kKind == Kind::kSampleGrad) {
    return sampling.Gradients(in[DcolumnsInput(kKind)], mask);
  }
  if constexpr (HasFilter(kKind)) {
    const auto& axis = sizes.geometry.axis;
    const int64_t rows =
        sizes.geometry.batch * axis[0].output * axis[1].output * axis[2].output;
    const int64_t width = sizes.geometry.channels / sizes.groups;
    const int64_t group_filters = sizes.filters / sizes.groups;
    const xla::XlaOp filter = xla::Reshape(in[FilterInput(kKind)],
                                           {sizes.taps, width, sizes.groups, group_filters});
    xla::XlaOp columns, dy;
    if constexpr (kKind != Kind::kConvInputGrad) {
      columns = xla::Reshape(sampling.Columns(mask), {rows, sizes.taps, sizes.groups, width});
    }
    if constexpr (kKind == Kind::kConv) {
      return {xla::Transpose(Product(columns, filter, {2}, {2}, {1, 3}, {0, 1}), {1, 0, 2})};
    }
    if constexpr (IsConvGrad(kKind)) {
      dy = xla::Reshape(in[DyInput(kKind)], {rows, sizes.groups, group_filters});
    }
    if constexpr (kKind == Kind::kConvFilterGrad) {
      return {xla::Transpose(Product(columns, dy, {2}, {1}, {0}, {0}), {1, 2, 0, 3})};
    }
    if constexpr (kKind == Kind::kConvInputGrad) {
      const xla::XlaOp dcolumns = Product(dy, filter, {1}, {2}, {2}, {3});
      return sampling.Gradients(xla::Transpose(dcolumns, {1, 2, 0, 3}), mask);
    }
  }
}

}  // namespace tfconv

#endif  // TFCONV_TF2XLA_LOWERING_H_
