// Local attention in terms of XLA's own operations (lowering.h).
#ifndef TFCONV_TF2XLA_LOWER_ATTENTION_H_
#define TFCONV_TF2XLA_LOWER_ATTENTION_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "local_attention/local_attention_op.h"
#include "local_attention/seen.h"
#include "tf2xla/lowering.h"

namespace tfconv {

// The pixels that queries see, one tap at a time. Tensors are [N, three spatial axes, heads,
// channels of a head]; those of queries may lack the last axis, or the last two and the first.
class SeenPixels {
 public:
  SeenPixels(const AttentionGeometry& geometry, xla::XlaBuilder* builder) : geometry_(geometry) {
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      const AttentionAxis& axis = geometry.axis[i];
      for (int64_t tap = 0; tap < axis.kernel; ++tap) {
        std::vector<int32_t> index, sees;
        for (int64_t query = 0; query < axis.output; ++query) {
          const Seen seen = FindSeen(axis, query);
          const int64_t place = tap - seen.first_tap;
          const bool inside = place >= 0 && place < seen.count;
          sees.push_back(inside);
          index.push_back(
              static_cast<int32_t>(inside ? seen.first_index + place * axis.dilation : 0));
        }
        index_[i].push_back(xla::ConstantR1<int32_t>(builder, index));
        sees_[i].push_back(xla::Ne(xla::ConstantR1<int32_t>(builder, sees),
                                   xla::ConstantR0<int32_t>(builder, 0)));
      }
    }
  }

  int64_t taps() const {
    return geometry_.axis[0].kernel * geometry_.axis[1].kernel * geometry_.axis[2].kernel;
  }

  std::vector<int64_t> QueryShape(std::initializer_list<int64_t> last) const {
    return Shape({geometry_.axis[0].output, geometry_.axis[1].output, geometry_.axis[2].output},
                 last);
  }

  std::vector<int64_t> KeyShape(int64_t channels) const {
    return Shape({geometry_.axis[0].input, geometry_.axis[1].input, geometry_.axis[2].input},
                 {geometry_.heads, channels});
  }

  // `values` [N, queries, heads] where queries see something at a tap, `others` elsewhere.
  xla::XlaOp Where(int64_t tap, xla::XlaOp values, xla::XlaOp others) const {
    const std::vector<int64_t> shape = QueryShape({geometry_.heads});
    const auto taps = Split(tap);
    std::optional<xla::XlaOp> all;
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      const xla::XlaOp sees = xla::BroadcastInDim(sees_[i][taps[i]], shape, {i + 1});
      all = all ? xla::And(*all, sees) : sees;
    }
    return xla::Select(*all, values, others);
  }

  // What the queries see at a tap.
  xla::XlaOp Read(xla::XlaOp keys, int64_t tap) const {
    const auto taps = Split(tap);
    for (int i = 0; i < kMaxSpatialAxes; ++i) {
      std::vector<int64_t> sizes = SizesOf(keys);
      sizes[i + 1] = 1;
      xla::GatherDimensionNumbers numbers;
      for (int axis = 0; axis < 6; ++axis) {
        if (axis != i + 1) numbers.add_offset_dims(axis);
      }
      numbers.add_collapsed_slice_dims(i + 1);
      numbers.add_start_index_map(i + 1);
      numbers.set_index_vector_dim(1);
      keys = xla::Gather(keys, index_[i][taps[i]], numbers, sizes);
    }
    return keys;
  }

  // The transpose of Read().
  xla::XlaOp Spread(xla::XlaOp values, int64_t tap) const {
    const auto taps = Split(tap);
    for (int i = kMaxSpatialAxes - 1; i >= 0; --i) {
      std::vector<int64_t> sizes = SizesOf(values);
      sizes[i + 1] = geometry_.axis[i].input;
      xla::ScatterDimensionNumbers numbers;
      for (int axis = 0; axis < 6; ++axis) {
        if (axis != i + 1) numbers.add_update_window_dims(axis);
      }
      numbers.add_inserted_window_dims(i + 1);
      numbers.add_scatter_dims_to_operand_dims(i + 1);
      numbers.set_index_vector_dim(1);
      values = xla::Scatter(xla::Broadcast(Scalar(values, 0), sizes), index_[i][taps[i]], values,
                            xla::CreateScalarAddComputation(TypeOf(values), values.builder()),
                            numbers);
    }
    return values;
  }

 private:
  std::vector<int64_t> Shape(std::initializer_list<int64_t> axes,
                             std::initializer_list<int64_t> last) const {
    std::vector<int64_t> shape = {geometry_.batch};
    shape.insert(shape.end(), axes);
    shape.insert(shape.end(), last);
    return shape;
  }

  static std::vector<int64_t> SizesOf(xla::XlaOp op) {
    const xla::Shape shape = op.builder()->GetShape(op).value();
    return std::vector<int64_t>(shape.dimensions().begin(), shape.dimensions().end());
  }

  std::array<int64_t, kMaxSpatialAxes> Split(int64_t tap) const {
    std::array<int64_t, kMaxSpatialAxes> taps;
    for (int i = kMaxSpatialAxes - 1; i >= 0; --i) {
      taps[i] = tap % geometry_.axis[i].kernel;
      tap /= geometry_.axis[i].kernel;
    }
    return taps;
  }

  const AttentionGeometry geometry_;
  Operands index_[kMaxSpatialAxes], sees_[kMaxSpatialAxes];
};

inline bool SumsNothing(const AttentionGeometry& g) {
  bool nothing = g.batch == 0 || g.depth == 0;
  for (const AttentionAxis& axis : g.axis) nothing |= axis.input == 0 || axis.output == 0;
  return nothing;
}

template <bool kGrad>
Operands Lower(const LocalAttentionOp<kGrad>&, const AttentionGeometry& g, const Operands& in) {
  const SeenPixels seen(g, in[0].builder());
  const std::vector<int64_t> by_head = {0, 1, 2, 3, 4};  // [N, queries, heads] of one more axis
  const xla::XlaOp query = xla::Mul(xla::Reshape(in[0], seen.QueryShape({g.heads, g.width})),
                                    Scalar(in[0], g.scale));
  const xla::XlaOp key = xla::Reshape(in[1], seen.KeyShape(g.width));
  const xla::XlaOp value = xla::Reshape(in[2], seen.KeyShape(g.depth));
  const std::vector<int64_t> shape = seen.QueryShape({g.heads});
  const xla::XlaOp zeros = xla::Broadcast(Scalar(query, 0), shape);
  const xla::XlaOp least = xla::Broadcast(xla::MinFiniteValue(query.builder(), TypeOf(query)),
                                          shape);
  Operands weights;
  std::optional<xla::XlaOp> most, sum;
  for (int64_t tap = 0; tap < seen.taps(); ++tap) {
    xla::XlaOp logit = SumOver(xla::Mul(query, seen.Read(key, tap)), 5);
    if (g.bias == kBiasByTap) {
      logit = xla::Add(logit, At(xla::Reshape(in[3], {g.heads, seen.taps()}), tap, 1), {4});
    } else if (g.bias == kBiasByPosition) {
      logit = xla::Add(
          logit, At(xla::Reshape(in[3], seen.QueryShape({g.heads, seen.taps()})), tap, 5));
    }
    weights.push_back(seen.Where(tap, logit, least));
    most = most ? xla::Max(*most, weights.back()) : weights.back();
  }
  for (int64_t tap = 0; tap < seen.taps(); ++tap) {
    weights[tap] = seen.Where(tap, xla::Exp(xla::Sub(weights[tap], *most)), zeros);
    sum = AddTo(sum, weights[tap]);
  }
  // Where nothing is seen, all weights are zero.
  sum = xla::Select(xla::Eq(*sum, zeros), xla::Broadcast(Scalar(query, 1), shape), *sum);
  for (xla::XlaOp& weight : weights) weight = xla::Div(weight, *sum);

  std::optional<xla::XlaOp> y, mean, dquery, dkey, dvalue;
  if constexpr (!kGrad) {
    for (int64_t tap = 0; tap < seen.taps(); ++tap) {
      y = AddTo(y, xla::Mul(seen.Read(value, tap), weights[tap], by_head));
    }
    return {*y};
  }
  const xla::XlaOp dy = xla::Reshape(in.back(), seen.QueryShape({g.heads, g.depth}));
  Operands gradients, dbias;
  for (int64_t tap = 0; tap < seen.taps(); ++tap) {
    gradients.push_back(seen.Where(tap, SumOver(xla::Mul(dy, seen.Read(value, tap)), 5), zeros));
    mean = AddTo(mean, xla::Mul(weights[tap], gradients.back()));
  }
  for (int64_t tap = 0; tap < seen.taps(); ++tap) {
    const xla::XlaOp gradient =
        seen.Where(tap, xla::Mul(weights[tap], xla::Sub(gradients[tap], *mean)), zeros);
    dquery = AddTo(dquery, xla::Mul(seen.Read(key, tap), gradient, by_head));
    dkey = AddTo(dkey, seen.Spread(xla::Mul(query, gradient, by_head), tap));
    dvalue = AddTo(dvalue, seen.Spread(xla::Mul(dy, weights[tap], by_head), tap));
    if (g.bias == kBiasByTap) {
      xla::XlaOp total = gradient;
      for (int i = 0; i < 4; ++i) total = SumOver(total, 0);
      dbias.push_back(xla::Reshape(total, {g.heads, 1}));
    } else if (g.bias == kBiasByPosition) {
      dbias.push_back(xla::Reshape(gradient, seen.QueryShape({g.heads, 1})));
    }
  }
  Operands results = {xla::Mul(*dquery, Scalar(query, g.scale)), *dkey, *dvalue};
  if (g.bias != kNoBias) {
    results.push_back(
        xla::ConcatInDim(query.builder(), dbias, g.bias == kBiasByTap ? 1 : 5));
  }
  return results;
}

}  // namespace tfconv

#endif  // TFCONV_TF2XLA_LOWER_ATTENTION_H_
