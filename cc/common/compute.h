// What the op kernels share: threads, scratch memory and the type that is computed in.
#ifndef TFCONV_COMMON_COMPUTE_H_
#define TFCONV_COMMON_COMPUTE_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "common/convert_kernel.h"
#include "common/isa.h"
#include "common/op_geometry.h"
#include "common/pass.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/lib/core/threadpool.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tfconv {

// half and bfloat16 are converted to float32 for the computation and rounded once at its end.
template <typename T>
struct ComputeType {
  using Type = T;
};
template <>
struct ComputeType<Eigen::half> {
  using Type = float;
};
template <>
struct ComputeType<Eigen::bfloat16> {
  using Type = float;
};

// Table of the active instruction set.
template <typename Table>
Table ActiveKernels() {
  Table table;
  LoadKernels(&table);
  return table;
}

// Runs work(begin, end, thread) over all units; `thread` is below MaxThreads().
template <typename Work>
void ForEachUnit(tensorflow::OpKernelContext* context, int64_t units, int64_t cycles_per_unit,
                 const Work& work) {
  if (units <= 0) return;
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(workers->num_threads, workers->workers, units, cycles_per_unit,
                    [workers, &work](int64_t begin, int64_t end) {
                      // The calling thread, which helps, has the id -1.
                      work(begin, end, workers->workers->CurrentThreadId() + 1);
                    });
}

inline int64_t MaxThreads(tensorflow::OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->workers->NumThreads() + 1;
}

// Scratch memory, a piece for each thread.
class ThreadScratch {
 public:
  absl::Status Allocate(tensorflow::OpKernelContext* context, int64_t bytes_per_thread) {
    bytes_ = (bytes_per_thread + kAlignment - 1) / kAlignment * kAlignment;
    return context->allocate_temp(
        tensorflow::DT_INT8, tensorflow::TensorShape({MaxThreads(context) * bytes_}), &memory_);
  }

  void* Of(int thread) { return memory_.flat<int8_t>().data() + thread * bytes_; }

 private:
  static constexpr int64_t kAlignment = 64;
  int64_t bytes_ = 0;
  tensorflow::Tensor memory_;
};

// Runs one pass of kernels with its scratch memory.
template <typename Args>
absl::Status RunPass(tensorflow::OpKernelContext* context, const Args& args,
                     const Pass<Args>& pass) {
  const PassPlan plan = pass.plan(args);
  if (plan.units <= 0) return absl::OkStatus();
  ThreadScratch scratch;
  if (auto status = scratch.Allocate(context, plan.scratch_bytes); !status.ok()) return status;
  ForEachUnit(context, plan.units, plan.cycles_per_unit,
              [&](int64_t begin, int64_t end, int thread) {
                pass.run(args, begin, end, scratch.Of(thread));
              });
  return absl::OkStatus();
}

// Converts `count` elements by blocks.
template <typename In, typename Out>
void ConvertElements(tensorflow::OpKernelContext* context,
                     void (*convert)(const In* in, Out* out, int64_t count), const In* in, Out* out,
                     int64_t count) {
  constexpr int64_t kBlock = 4096;
  ForEachUnit(context, (count + kBlock - 1) / kBlock, kBlock, [&](int64_t begin, int64_t end, int) {
    const int64_t first = begin * kBlock;
    convert(in + first, out + first, std::min(end * kBlock, count) - first);
  });
}

// Makes `result` the input in the type that is computed in: the tensor itself or a converted copy.
template <typename T>
absl::Status ToComputeType(tensorflow::OpKernelContext* context, const tensorflow::Tensor& tensor,
                           tensorflow::Tensor* result) {
  using Compute = typename ComputeType<T>::Type;
  if constexpr (std::is_same_v<T, Compute>) {
    *result = tensor;
  } else {
    if (auto status = context->allocate_temp(tensorflow::DataTypeToEnum<Compute>::value,
                                             tensor.shape(), result);
        !status.ok()) {
      return status;
    }
    const ConvertKernels kernels = ActiveKernels<ConvertKernels>();
    ConvertElements(
        context, std::is_same_v<T, Eigen::half> ? kernels.half_to_float : kernels.bfloat16_to_float,
        reinterpret_cast<const uint16_t*>(tensor.flat<T>().data()), result->flat<Compute>().data(),
        tensor.NumElements());
  }
  return absl::OkStatus();
}

// An output together with the tensor that is computed into.
template <typename T>
class ComputeOutput {
 public:
  using Compute = typename ComputeType<T>::Type;

  absl::Status Allocate(tensorflow::OpKernelContext* context, int index,
                        const std::vector<int64_t>& sizes) {
    tensorflow::TensorShape shape;
    if (auto status = tensorflow::TensorShape::BuildTensorShape(sizes, &shape); !status.ok()) {
      return status;
    }
    if (auto status = context->allocate_output(index, shape, &output_); !status.ok()) {
      return status;
    }
    if constexpr (std::is_same_v<T, Compute>) {
      computed_ = *output_;
      return absl::OkStatus();
    }
    return context->allocate_temp(tensorflow::DataTypeToEnum<Compute>::value, shape, &computed_);
  }

  Compute* data() { return computed_.flat<Compute>().data(); }
  int64_t size() const { return computed_.NumElements(); }

  // Call once all is computed.
  void Finish(tensorflow::OpKernelContext* context) {
    if constexpr (!std::is_same_v<T, Compute>) {
      const ConvertKernels kernels = ActiveKernels<ConvertKernels>();
      ConvertElements(
          context,
          std::is_same_v<T, Eigen::half> ? kernels.float_to_half : kernels.float_to_bfloat16,
          static_cast<const float*>(data()), reinterpret_cast<uint16_t*>(output_->flat<T>().data()),
          size());
    }
  }

 private:
  tensorflow::Tensor* output_ = nullptr;
  tensorflow::Tensor computed_;
};

}  // namespace tfconv

#endif  // TFCONV_COMMON_COMPUTE_H_
