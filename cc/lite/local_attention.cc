// Tfconv>LocalAttention in the delegate.
#include <cmath>
#include <string>
#include <utility>

#include "lite/lite_op.h"
#include "local_attention/local_attention_kernel.h"

namespace tfconv {
namespace lite {
namespace {

constexpr int64_t kMaxHeads = 1 << 30;
constexpr int64_t kMaxExponent = 1200;  // of mantissas of 53 bits, too

std::vector<int64_t> Integers(const Options& options, const char* name) {
  const auto found = options.find(name);
  return found == options.end() ? std::vector<int64_t>() : found->second.integers;
}

class LocalAttention : public LiteOp {
 public:
  Status Read(const Options& options) {
    const std::string& name = windows_.op_name = "LocalAttention";
    if (auto s = windows_.Read(options, true); !s.ok()) return s;
    const auto heads = Integers(options, "num_heads"), biases = Integers(options, "num_biases");
    const auto scale = Integers(options, "scale");
    causal_ = Integers(options, "causal");
    const auto found = options.find("edges");
    const std::string edges = found == options.end() ? "" : found->second.text;
    if (heads.size() != 1 || heads[0] < 1 || heads[0] > kMaxHeads) {
      return Error(name, ": num_heads must be a positive integer. Received: ", heads);
    }
    if (biases.size() != 1 || biases[0] < 0 || biases[0] > 1) {
      return Error(name, ": num_biases must be 0 or 1. Received: ", biases);
    }
    if (edges != "MASKED" && edges != "SHIFTED") {
      return Error(name, ": edges must be MASKED or SHIFTED. Received: \"", edges, "\"");
    }
    bool are_flags = static_cast<int>(causal_.size()) == windows_.rank();
    for (const int64_t flag : causal_) are_flags = are_flags && (flag == 0 || flag == 1);
    if (!are_flags) {
      return Error(name, ": causal must be 0 or 1 for each axis. Received: ", causal_);
    }
    if (scale.size() != 2 || scale[1] < -kMaxExponent || scale[1] > kMaxExponent) {
      return Error(name, ": scale must be a mantissa and an exponent of at most ", kMaxExponent,
                   ". Received: ", scale);
    }
    shifted_ = edges == "SHIFTED";
    has_bias_ = biases[0] == 1;
    args_.geometry.heads = heads[0];
    args_.geometry.scale =
        std::ldexp(static_cast<double>(scale[0]), static_cast<int>(scale[1]));
    return Status();
  }

  Status Infer(const std::vector<Shape>& inputs, Shape* output) override {
    const std::string& name = windows_.op_name;
    const int rank = windows_.rank();
    const size_t expected = 3 + has_bias_;
    if (inputs.size() != expected) {
      return Error(name, ": there must be ", expected, " inputs. Received: ", inputs.size());
    }
    const Shape &query = inputs[0], &key = inputs[1], &value = inputs[2];
    if (auto s = CheckRank(name, "query", query, rank + 2); !s.ok()) return s;
    if (auto s = CheckRank(name, "key", key, rank + 2); !s.ok()) return s;
    if (auto s = CheckRank(name, "value", value, rank + 2); !s.ok()) return s;
    const auto mismatch = [&](const char* what) {
      return Error(name, ": ", what, ". Received: query of shape ", query, ", key of shape ", key,
                   ", value of shape ", value, " with ", args_.geometry.heads, " heads, ",
                   windows_.ToString());
    };
    AttentionGeometry& g = args_.geometry;
    if (key.back() != query.back() || key.back() % g.heads != 0 || value.back() % g.heads != 0) {
      return mismatch("query and key must have the same channels, and heads divide all channels");
    }
    g.batch = query[0];
    g.width = key.back() / g.heads;
    g.depth = value.back() / g.heads;
    for (AttentionAxis& axis : g.axis) axis = {1, 1, 1, 1, 1, 0, 0};
    bool agree = key[0] == query[0] && value[0] == query[0];
    *output = {query[0]};
    for (int i = 0; i < rank; ++i) {
      const int64_t size = key[i + 1], stride = windows_.strides[i];
      const int64_t kernel = windows_.kernel_size[i], dilation = windows_.dilations[i];
      g.axis[i + kMaxSpatialAxes - rank] = {size,     query[i + 1], kernel,    stride,
                                            dilation, shifted_,     causal_[i]};
      agree = agree && value[i + 1] == size &&
              (query[i + 1] == size || query[i + 1] == (size + stride - 1) / stride);
      if (shifted_ && !causal_[i] && size > 0 && size / dilation < kernel) {
        return mismatch("shifted windows must fit into the key");
      }
      output->push_back(query[i + 1]);
    }
    if (!agree) {
      return mismatch(
          "key and value must have the same positions, and query as many or one for each stride");
    }
    g.bias = kNoBias;
    if (has_bias_) {
      int64_t taps;
      if (auto s = CountTaps(name, windows_.kernel_size, &taps); !s.ok()) return s;
      Shape by_position = *output;
      by_position.push_back(g.heads * taps);
      if (inputs[3] == Shape{g.heads, taps}) {
        g.bias = kBiasByTap;
      } else if (inputs[3] == by_position) {
        g.bias = kBiasByPosition;
      } else {
        return Error(name, ": bias has shape ", inputs[3], ", expected ", Shape{g.heads, taps},
                     " or ", by_position, " for query of shape ", query);
      }
    }
    output->push_back(value.back());
    return Status();
  }

  Status Run(Executor* executor, const std::vector<Input>& inputs,
             const Output& output) override {
    args_.query = inputs[0].data;
    args_.key = inputs[1].data;
    args_.value = inputs[2].data;
    args_.bias = has_bias_ ? inputs[3].data : nullptr;
    args_.y = output.data;
    return executor->RunPass(args_, kernels_.forward);
  }

 private:
  const LocalAttentionKernels<float> kernels_ = ActiveKernels<LocalAttentionKernels<float>>();
  ConvAttributes windows_;
  bool shifted_ = false;
  bool has_bias_ = false;
  std::vector<int64_t> causal_;
  LocalAttentionArgs<float> args_ = {};
};

}  // namespace

Status MakeLocalAttention(const Options& options, std::unique_ptr<LiteOp>* op) {
  auto made = std::make_unique<LocalAttention>();
  if (auto status = made->Read(options); !status.ok()) return status;
  *op = std::move(made);
  return Status();
}

}  // namespace lite
}  // namespace tfconv
