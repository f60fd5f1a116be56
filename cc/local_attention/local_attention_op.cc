// Tfconv>LocalAttention and its gradient: interface, shapes and CPU kernels. The numeric part is in
// local_attention_cpu.cc.
#include "local_attention/local_attention_op.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/cpu_kernel.h"
#include "local_attention/local_attention_kernel.h"
#include "tensorflow/core/framework/op.h"

namespace tfconv {
namespace {

constexpr int64_t kMaxExponent = 1200;  // of mantissas of 53 bits, too
constexpr int64_t kMaxColumns = std::numeric_limits<int32_t>::max();  // of a bias

// The channels of a head, if those of a tensor are known.
absl::Status FindWidth(const AttentionAttributes& attributes, const char* name, const Dims& tensor,
                       int64_t* width) {
  const int64_t channels = tensor[attributes.rank() + 1];
  *width = channels == kUnknown ? kUnknown : channels / attributes.heads;
  if (channels == kUnknown || channels % attributes.heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(attributes.op_name, ": the ", attributes.heads, " heads must divide the ",
                   channels, " channels of ", name, " of shape ", tensor.ToString()));
}

struct AttentionShapes {
  Dims query;
  Dims key;
  Dims value;
  Dims y;
};

// Checks query, key and value as far as they are known.
absl::Status MakeShapes(const AttentionAttributes& a, const Dims& query, const Dims& key,
                        const Dims& value, AttentionGeometry* g, AttentionShapes* shapes) {
  const int rank = a.rank();
  for (const auto& [name, dims] : {std::pair<const char*, const Dims&>("query", query),
                                   {"key", key}, {"value", value}}) {
    if (auto status = CheckRank(a.op_name, name, dims, rank + 2); !status.ok()) return status;
  }
  const auto mismatch = [&](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat(
        a.op_name, ": ", what, ". Received: query of shape ", query.ToString(), ", key of shape ",
        key.ToString(), ", value of shape ", value.ToString(), " with ", a.ToString()));
  };
  *g = {};
  g->heads = a.heads;
  g->bias = kNoBias;
  g->scale = std::ldexp(static_cast<double>(a.scale[0]), static_cast<int>(a.scale[1]));
  for (AttentionAxis& axis : g->axis) axis = {1, 1, 1, 1, 1, 0, 0};
  int64_t other;
  if (auto s = FindWidth(a, "query", query, &g->width); !s.ok()) return s;
  if (auto s = FindWidth(a, "key", key, &other); !s.ok()) return s;
  if (auto s = FindWidth(a, "value", value, &g->depth); !s.ok()) return s;
  if (!MergeSize(&g->width, other)) return mismatch("query and key must have the same channels");
  g->batch = query[0];
  bool agree = MergeSize(&g->batch, key[0]) && MergeSize(&g->batch, value[0]);
  std::vector<int64_t> inputs = {g->batch}, outputs = {g->batch};
  for (int i = 0; i < rank; ++i) {
    AttentionAxis& axis = g->axis[CanonicalAxis(i, rank)];
    axis = {key[i + 1],
            query[i + 1],
            a.windows.kernel_size[i],
            a.windows.strides[i],
            a.windows.dilations[i],
            a.edges == "SHIFTED",
            a.causal[i]};
    agree = agree && MergeSize(&axis.input, value[i + 1]);
    if (axis.stride == 1) agree = agree && MergeSize(&axis.output, axis.input);
    if (axis.stride == 1 && axis.input == kUnknown) axis.input = axis.output;
    if (agree && axis.input != kUnknown) {
      const int64_t blocks = axis.input / axis.stride + (axis.input % axis.stride != 0);
      if (axis.output != kUnknown && axis.output != axis.input && axis.output != blocks) {
        agree = false;
      }
      if (axis.shifted && !axis.causal && axis.input > 0 &&
          axis.input / axis.dilation < axis.kernel) {
        return mismatch("shifted windows must fit into the key");
      }
    }
    inputs.push_back(axis.input);
    outputs.push_back(axis.output);
  }
  if (!agree) {
    return mismatch(
        "key and value must have the same positions, and query as many or one for each stride");
  }
  const auto with = [&](std::vector<int64_t> sizes, int64_t width) {
    sizes.push_back(width == kUnknown ? kUnknown : width * a.heads);
    return Dims(std::move(sizes));
  };
  *shapes = {with(outputs, g->width), with(inputs, g->width), with(inputs, g->depth),
             with(outputs, g->depth)};
  return absl::OkStatus();
}

// Checks the bias, and finds out which kind it is.
absl::Status MakeBias(const AttentionAttributes& a, const Dims& bias, const Dims& query,
                      AttentionGeometry* g, Dims* shape) {
  int64_t taps;
  if (auto s = CountTaps(a.op_name, a.windows.kernel_size, &taps); !s.ok()) return s;
  if (taps > kMaxColumns / a.heads) {
    return absl::InvalidArgumentError(absl::StrCat(a.op_name, ": a bias for ", a.heads,
                                                   " heads and ", taps, " taps is too large"));
  }
  *shape = bias;
  if (!bias.known_rank()) return absl::OkStatus();
  g->bias = bias.rank() == 2 ? kBiasByTap : kBiasByPosition;
  std::vector<int64_t> wanted = {a.heads, taps};
  if (g->bias == kBiasByPosition) {
    wanted = query.sizes();
    wanted.back() = a.heads * taps;
  }
  bool agree = bias.rank() == static_cast<int>(wanted.size());
  std::vector<int64_t> merged = wanted;
  for (size_t i = 0; agree && i < merged.size(); ++i) {
    agree = MergeSize(&merged[i], bias[static_cast<int>(i)]);
  }
  if (!agree) {
    return absl::InvalidArgumentError(absl::StrCat(
        a.op_name, ": bias has shape ", bias.ToString(), ", expected [", a.heads, ",", taps,
        "] or ", SizesToString(wanted), " for query of shape ", query.ToString(), " with ",
        a.ToString()));
  }
  *shape = Dims(std::move(merged));
  return absl::OkStatus();
}

}  // namespace

std::string AttentionAttributes::ToString() const {
  return absl::StrCat("num_heads ", heads, ", kernel_size ", SizesToString(windows.kernel_size),
                      ", strides ", SizesToString(windows.strides), ", dilations ",
                      SizesToString(windows.dilations), ", edges ", edges);
}

absl::Status AttentionAttributes::Check() const {
  if (heads < 1 || heads > kMaxColumns) {
    return absl::InvalidArgumentError(
        absl::StrCat(op_name, ": num_heads must be from 1 to ", kMaxColumns, ". Received: ", heads));
  }
  if (biases > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(op_name, ": there must be one bias at most. Received: ", biases));
  }
  bool are_flags = causal.size() == windows.kernel_size.size();
  for (const int64_t flag : causal) are_flags = are_flags && (flag == 0 || flag == 1);
  if (!are_flags) {
    return absl::InvalidArgumentError(absl::StrCat(op_name, ": causal must be 0 or 1 for each of ",
                                                   windows.kernel_size.size(),
                                                   " axes. Received: ", SizesToString(causal)));
  }
  if (scale.size() == 2 && -kMaxExponent <= scale[1] && scale[1] <= kMaxExponent) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(op_name, ": scale must be a mantissa and an exponent of at most ", kMaxExponent,
                   ". Received: ", SizesToString(scale)));
}

template <bool kGrad>
absl::Status LocalAttentionOp<kGrad>::Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                                            std::vector<Dims>* outputs) const {
  AttentionShapes shapes;
  if (auto s = MakeShapes(attributes, input(0), input(1), input(2), sizes, &shapes); !s.ok()) {
    return s;
  }
  Dims bias;
  if (attributes.biases > 0) {
    if (auto s = MakeBias(attributes, input(3), shapes.query, sizes, &bias); !s.ok()) return s;
  }
  if constexpr (!kGrad) {
    *outputs = {shapes.y};
  } else {
    const Dims dy = input(static_cast<int>(3 + attributes.biases));
    const int rank = attributes.rank() + 2;
    if (auto s = CheckRank(attributes.op_name, "dy", dy, rank); !s.ok()) return s;
    for (int i = 0; i < rank; ++i) {
      int64_t size = shapes.y[i];
      if (!MergeSize(&size, dy[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat(attributes.op_name, ": dy has shape ", dy.ToString(), ", expected ",
                         shapes.y.ToString(), " for query of shape ", shapes.query.ToString()));
      }
    }
    *outputs = {shapes.query, shapes.key, shapes.value};
    if (attributes.biases > 0) outputs->push_back(bias);
  }
  return absl::OkStatus();
}

template <bool kGrad>
template <typename T>
absl::Status LocalAttentionOp<kGrad>::Run(Executor* executor, const Sizes& sizes,
                                          const std::vector<Buffer>& inputs,
                                          const std::vector<Buffer>& outputs) {
  using Element = typename ElementType<T>::Type;
  const auto in = [&](size_t i) { return static_cast<const Element*>(inputs[i].data); };
  const auto out = [&](size_t i) { return static_cast<Element*>(outputs[i].data); };
  const auto kernels = ActiveKernels<LocalAttentionKernels<Element>>();
  LocalAttentionArgs<Element> args = {};
  args.geometry = sizes;
  args.query = in(0);
  args.key = in(1);
  args.value = in(2);
  if (sizes.bias != kNoBias) args.bias = in(3);
  if constexpr (!kGrad) {
    args.y = out(0);
    return RunPass(executor, args, kernels.forward);
  } else {
    args.dy = in(inputs.size() - 1);
    args.dquery = out(0);
    args.dkey = out(1);
    args.dvalue = out(2);
    if (sizes.bias != kNoBias) args.dbias = out(3);
    int64_t queries = sizes.batch * sizes.heads;
    for (const AttentionAxis& axis : sizes.axis) queries *= axis.output;
    Temporary<Accumulator<Element>> statistics, partial;
    if (auto s = statistics.Allocate(executor, 2 * queries); !s.ok()) return s;
    if (auto s = partial.Allocate(executor, kernels.partial_dbias_size(args)); !s.ok()) return s;
    args.statistics = statistics.data();
    args.partial_dbias = partial.data();
    for (const auto& pass : {kernels.backward_query, kernels.sum_dbias, kernels.backward_key}) {
      if (auto s = RunPass(executor, args, pass); !s.ok()) return s;
    }
    return absl::OkStatus();
  }
}

#define TFCONV_LOCAL_ATTENTION_ATTRS               \
  Attr("T: {half, bfloat16, float, double}")       \
      .Attr("num_biases: int >= 0")                \
      .Attr("num_heads: int")                      \
      .Attr("kernel_size: list(int)")              \
      .Attr("strides: list(int)")                  \
      .Attr("dilations: list(int)")                \
      .Attr("padding: {'SAME'} = 'SAME'")          \
      .Attr("explicit_paddings: list(int) = []")   \
      .Attr("edges: {'MASKED', 'SHIFTED'}")        \
      .Attr("causal: list(int)")                  \
      .Attr("scale: list(int)")

REGISTER_OP("Tfconv>LocalAttention")
    .Input("query: T")
    .Input("key: T")
    .Input("value: T")
    .Input("bias: num_biases * T")
    .Output("y: T")
    .TFCONV_LOCAL_ATTENTION_ATTRS.SetShapeFn(ShapeFunction<LocalAttentionOp<false>>)
    .Doc(R"doc(
Attention of each position to a window around it, for each head.

y[p] = sum_t softmax_t(scale * query[p] . key[seen(p, t)] + bias[t]) value[seen(p, t)] over the taps
that see a position, with scale[0] * 2^scale[1] for scale.

query: [N, *output, num_heads * D]
key: [N, *spatial, num_heads * D]
value: [N, *spatial, num_heads * E]
bias: [num_heads, taps] or [N, *output, num_heads * taps], or nothing
y: [N, *output, num_heads * E]
)doc");

REGISTER_OP("Tfconv>LocalAttentionGrad")
    .Input("query: T")
    .Input("key: T")
    .Input("value: T")
    .Input("bias: num_biases * T")
    .Input("dy: T")
    .Output("dquery: T")
    .Output("dkey: T")
    .Output("dvalue: T")
    .Output("dbias: num_biases * T")
    .TFCONV_LOCAL_ATTENTION_ATTRS.SetShapeFn(ShapeFunction<LocalAttentionOp<true>>)
    .Doc("Gradients of Tfconv>LocalAttention for all inputs, given the gradient dy of its output.");

TFCONV_REGISTER_CPU("Tfconv>LocalAttention", LocalAttentionOp<false>)
TFCONV_REGISTER_CPU("Tfconv>LocalAttentionGrad", LocalAttentionOp<true>)

}  // namespace tfconv
