// Descriptions of Tfconv>DeformableAggregation and its gradients (see common/cpu_kernel.h).
#ifndef TFCONV_AGGREGATION_AGGREGATION_OP_H_
#define TFCONV_AGGREGATION_AGGREGATION_OP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"

namespace tfconv {

enum class AggregationKind { kAggregation, kInputGrad, kSamplingGrad };

// As in messages.
const char* NameOf(AggregationKind kind);

struct AggregationSizes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t rank;
  int64_t groups;
};

// Inputs x, offset, weights and, for the gradients, dy.
template <AggregationKind kKind>
struct AggregationOp {
  using Sizes = AggregationSizes;

  static const char* Name() { return NameOf(kKind); }

  template <typename Context>
  absl::Status Read(Context* context) {
    attributes.op_name = Name();
    return attributes.Read(context, true);
  }

  absl::Status Infer(const std::function<Dims(int)>& input, Sizes* sizes,
                     std::vector<Dims>* outputs) const;

  template <typename T>
  static absl::Status Run(Executor* executor, const Sizes& sizes, const std::vector<Buffer>& inputs,
                          const std::vector<Buffer>& outputs);

  ConvAttributes attributes;
};

}  // namespace tfconv

#endif  // TFCONV_AGGREGATION_AGGREGATION_OP_H_
