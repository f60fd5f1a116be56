// Products on a GPU by TensorFlow's cuBLAS: the library, the stream and the settings of tf.matmul.
#ifndef TFCONV_COMMON_GPU_BLAS_H_
#define TFCONV_COMMON_GPU_BLAS_H_

#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "common/element_types.h"
#include "common/gpu_product.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/tensor_float_32_utils.h"
#include "tensorflow/core/util/determinism.h"
#include "xla/stream_executor/blas.h"
#include "xla/stream_executor/stream.h"
#include "xla/stream_executor/stream_executor.h"
#if __has_include("xla/stream_executor/device_address.h")
#include "xla/stream_executor/device_address.h"
#else
#include "xla/stream_executor/device_memory.h"
#endif
#if __has_include("xla/stream_executor/engine_options.h")
#include "xla/stream_executor/engine_options.h"
#else
#include "xla/stream_executor/numeric_options.h"
#endif

namespace tfconv {
namespace gpu_blas {

namespace se = ::stream_executor;

// Names that differ between versions of TensorFlow.
#if __has_include("xla/stream_executor/device_address.h")
using Memory = se::DeviceAddressBase;
#else
using Memory = se::DeviceMemoryBase;
#endif

inline auto MakeOptions() {
  const bool tf32 = tsl::tensor_float_32_execution_enabled();
#if __has_include("xla/stream_executor/engine_options.h")
  return se::EngineOptions(tensorflow::OpDeterminismRequired(), tf32,
                           /*require_command_buffer=*/false);
#else
  return se::NumericOptions(tensorflow::OpDeterminismRequired(), tf32);
#endif
}

// Where there is a last argument for the context of a call, it gets the default.
template <typename Blas, typename... Arguments>
auto Multiply(int, Blas* blas, const Arguments&... arguments)
    -> decltype(blas->DoBlasGemmStridedBatched(arguments..., {})) {
  return blas->DoBlasGemmStridedBatched(arguments..., {});
}
template <typename Blas, typename... Arguments>
auto Multiply(long, Blas* blas, const Arguments&... arguments)  // NOLINT
    -> decltype(blas->DoBlasGemmStridedBatched(arguments...)) {
  return blas->DoBlasGemmStridedBatched(arguments...);
}

template <typename T>
absl::Status Multiply(se::Stream* stream, const MatrixProduct<T>& product) {
  using Element = std::conditional_t<
      std::is_same_v<T, Half>, Eigen::half,
      std::conditional_t<std::is_same_v<T, Bfloat16>, Eigen::bfloat16, T>>;
  se::blas::BlasSupport* const blas = stream->parent()->AsBlas();
  if (blas == nullptr) return absl::InternalError("TensorFlow has no cuBLAS on this device");
  const bool by_examples = product.groups == 1;
  const int batch = static_cast<int>(by_examples ? product.examples : product.groups);
  const auto memory = [](const T* data) { return Memory(const_cast<T*>(data)); };
  const auto stride = [by_examples](const auto& matrices) {
    return by_examples ? matrices.example_stride : matrices.group_stride;
  };
  const auto pitch = [](const auto& matrices) { return static_cast<int>(matrices.row_stride); };
  const auto transpose = [](const auto& matrices) {
    return matrices.transposed ? se::blas::Transpose::kTranspose
                               : se::blas::Transpose::kNoTranspose;
  };
  const Accumulator<T> one = 1;
  const Accumulator<T> zero = 0;
  Memory c = memory(product.c.data);
  // Row by row, a matrix is what cuBLAS has as its transpose: c' = b' a'.
  return Multiply(0, blas, stream, transpose(product.b), transpose(product.a),
                  static_cast<uint64_t>(product.columns), static_cast<uint64_t>(product.rows),
                  static_cast<uint64_t>(product.depth), se::blas::ToDataType<Element>::value,
                  static_cast<const void*>(&one), memory(product.b.data), pitch(product.b),
                  stride(product.b), memory(product.a.data), pitch(product.a), stride(product.a),
                  static_cast<const void*>(&zero), &c, pitch(product.c), stride(product.c), batch,
                  MakeOptions());
}

}  // namespace gpu_blas
}  // namespace tfconv

#endif  // TFCONV_COMMON_GPU_BLAS_H_
