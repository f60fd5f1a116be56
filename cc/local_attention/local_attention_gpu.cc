// GPU kernels of Tfconv>LocalAttention and its gradient. The numeric part is in
// local_attention.cu.cc.
#include <vector>

#include "common/gpu_kernel.h"
#include "local_attention/local_attention_cuda.h"
#include "local_attention/local_attention_op.h"

namespace tfconv {
namespace {

template <bool kGrad>
struct LocalAttentionGpuOp : LocalAttentionOp<kGrad> {
  template <typename T>
  static absl::Status Run(GpuExecutor* executor, const AttentionGeometry& sizes,
                          const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    const auto in = [&](size_t i) { return static_cast<const T*>(inputs[i].data); };
    const auto out = [&](size_t i) { return static_cast<T*>(outputs[i].data); };
    LocalAttentionArgs<T> args = {};
    args.geometry = sizes;
    args.query = in(0);
    args.key = in(1);
    args.value = in(2);
    if (sizes.bias != kNoBias) args.bias = in(3);
    if constexpr (!kGrad) {
      args.y = out(0);
      return executor->Check(LaunchLocalAttention(executor->stream(), args));
    } else {
      args.dy = in(inputs.size() - 1);
      args.dquery = out(0);
      args.dkey = out(1);
      args.dvalue = out(2);
      if (sizes.bias != kNoBias) args.dbias = out(3);
      const auto bytes = [&args](int64_t count) { return LocalAttentionWorkspace(args, count); };
      return executor->InSlices(sizes.batch, bytes, [&](int64_t examples, void* workspace) {
        return LaunchLocalAttentionBackward(executor->stream(), args, examples, workspace);
      });
    }
  }
};

TFCONV_REGISTER_GPU("Tfconv>LocalAttention", LocalAttentionGpuOp<false>)
TFCONV_REGISTER_GPU("Tfconv>LocalAttentionGrad", LocalAttentionGpuOp<true>)

}  // namespace
}  // namespace tfconv
