// Attention of each position to a window around it, for each head:
//
//   y[p] = sum_t softmax_t(scale * query[p] . key[seen(p, t)] + bias[t]) value[seen(p, t)]
//
// Interface between the TensorFlow ops and the numeric kernels, which are compiled once per
// instruction set.
#ifndef TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_KERNEL_H_
#define TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_KERNEL_H_

#include <stdint.h>

#include "common/element_types.h"
#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"

namespace tfconv {

// Which positions of the keys each query sees: neighbours.h.
struct AttentionAxis {
  int64_t input;   // positions of keys and values
  int64_t output;  // of queries: as many, or one for each `stride` of them
  int64_t kernel;
  int64_t stride;
  int64_t dilation;
  int64_t shifted;  // whether windows move inside; else what is outside is left out
  int64_t causal;   // whether the last tap is the query itself
};

enum AttentionBias : int64_t { kNoBias, kBiasByTap, kBiasByPosition };

// Plain words of 64 bits. Operations of lower rank have leading axes of size 1.
struct AttentionGeometry {
  int64_t batch;
  int64_t heads;
  int64_t width;  // channels of a head: of queries and keys
  int64_t depth;  // and of values
  int64_t bias;   // AttentionBias
  double scale;
  AttentionAxis axis[kMaxSpatialAxes];
};

// All tensors are channels-last and contiguous. A pass reads and writes only what it names.
template <typename T>
struct LocalAttentionArgs {
  AttentionGeometry geometry;
  const T* query;  // [N, output, heads * width]
  const T* key;    // [N, input, heads * width]
  const T* value;  // [N, input, heads * depth]
  const T* bias;   // [heads, taps] or [N, output, heads * taps]; null without
  const T* dy;     // [N, output, heads * depth]
  T* y;            // [N, output, heads * depth]
  T* dquery;
  T* dkey;
  T* dvalue;
  T* dbias;
  // Temporary tensors. Of every query and head, the logarithm of the sum that its softmax is
  // divided by, and the mean of the gradients for its weights: [N, output, heads, 2].
  Accumulator<T>* statistics;
  Accumulator<T>* partial_dbias;  // with a bias by tap, of the size that the kernels give
};

template <typename T>
struct LocalAttentionKernels {
  using Args = LocalAttentionArgs<T>;

  Pass<Args> forward;  // query, key, value, bias -> y
  // query, key, value, bias, dy -> dquery, statistics, and dbias or partial_dbias
  Pass<Args> backward_query;
  Pass<Args> backward_key;  // query, key, value, bias, dy, statistics -> dkey, dvalue
  Pass<Args> sum_dbias;     // partial_dbias -> dbias
  int64_t (*partial_dbias_size)(const Args& args);
};

TFCONV_DECLARE_KERNELS(LocalAttentionKernels<Half>)
TFCONV_DECLARE_KERNELS(LocalAttentionKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS(LocalAttentionKernels<float>)
TFCONV_DECLARE_KERNELS(LocalAttentionKernels<double>)

}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_LOCAL_ATTENTION_KERNEL_H_
