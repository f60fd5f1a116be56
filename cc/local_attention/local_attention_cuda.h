// Local attention's CUDA kernels for units without CUDA's headers.
#ifndef TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_CUDA_H_
#define TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_CUDA_H_

#include "common/cuda_types.h"
#include "local_attention/local_attention_kernel.h"

namespace tfconv {

// For float, double, Half and Bfloat16. Temporary tensors of the arguments are not used.

// query, key, value, bias -> y
template <typename T>
int LaunchLocalAttention(CudaStream stream, const LocalAttentionArgs<T>& args);

// query, key, value, bias, dy -> dquery, dkey, dvalue, dbias. A workspace is for so many examples
// at a time.
template <typename T>
int LaunchLocalAttentionBackward(CudaStream stream, const LocalAttentionArgs<T>& args,
                                 int64_t examples, void* workspace);

// Its bytes; more for more examples.
template <typename T>
int64_t LocalAttentionWorkspace(const LocalAttentionArgs<T>& args, int64_t examples);

}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_CUDA_H_
