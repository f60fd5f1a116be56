// What runs the numeric kernels: threads, memory, and the type that is computed in.
#ifndef TFCONV_COMMON_EXECUTOR_H_
#define TFCONV_COMMON_EXECUTOR_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

#include "absl/status/status.h"
#include "common/convert_kernel.h"
#include "common/element_types.h"
#include "common/isa.h"
#include "common/pass.h"
#include "tensorflow/core/framework/types.h"

namespace tfconv {

// Threads and memory of whoever runs an op: TensorFlow's executor, or code that XLA compiled.
class Executor {
 public:
  using Work = std::function<void(int64_t begin, int64_t end, int64_t thread)>;

  virtual ~Executor() = default;

  // Makes `memory` hold `bytes` bytes, 64-byte aligned.
  virtual absl::Status Allocate(int64_t bytes, std::shared_ptr<void>* memory) = 0;

  // Runs `work` over all units. Its `thread` is below max_threads(), and no two calls have the same
  // at the same time.
  virtual void ForEachUnit(int64_t units, int64_t cycles_per_unit, const Work& work) = 0;
  virtual int64_t max_threads() const = 0;
};

// An input or output of an op.
struct Buffer {
  void* data;
  int64_t size;  // in elements
};

// The type of a tensor's elements as the kernels have it.
template <typename T>
struct ElementType {
  using Type = T;
};
template <>
struct ElementType<Eigen::half> {
  using Type = Half;
};
template <>
struct ElementType<Eigen::bfloat16> {
  using Type = Bfloat16;
};

// Table of the active instruction set.
template <typename Table>
Table ActiveKernels() {
  Table table;
  LoadKernels(&table);
  return table;
}

// Runs one pass of kernels with its scratch memory.
template <typename Args>
absl::Status RunPass(Executor* executor, const Args& args, const Pass<Args>& pass) {
  constexpr int64_t kAlignment = 64;
  const PassPlan plan = pass.plan(args);
  if (plan.units <= 0) return absl::OkStatus();
  const int64_t bytes = (plan.scratch_bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::shared_ptr<void> scratch;
  if (auto s = executor->Allocate(executor->max_threads() * bytes, &scratch); !s.ok()) return s;
  executor->ForEachUnit(plan.units, plan.cycles_per_unit,
                        [&](int64_t begin, int64_t end, int64_t thread) {
                          char* own = static_cast<char*>(scratch.get()) + thread * bytes;
                          pass.run(args, begin, end, own);
                        });
  return absl::OkStatus();
}

// Memory for `count` elements.
template <typename T>
class Temporary {
 public:
  absl::Status Allocate(Executor* executor, int64_t count) {
    return executor->Allocate(count * static_cast<int64_t>(sizeof(T)), &memory_);
  }

  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  std::shared_ptr<void> memory_;
};

// Converts `count` elements by blocks.
template <typename In, typename Out>
void ConvertElements(Executor* executor, void (*convert)(const In* in, Out* out, int64_t count),
                     const In* in, Out* out, int64_t count) {
  constexpr int64_t kBlock = 4096;
  executor->ForEachUnit((count + kBlock - 1) / kBlock, kBlock,
                        [&](int64_t begin, int64_t end, int64_t) {
                          const int64_t first = begin * kBlock;
                          convert(in + first, out + first, std::min(end * kBlock, count) - first);
                        });
}

// An input in the type that is computed in: the buffer itself or a converted copy.
template <typename T>
class ComputeInput {
 public:
  using Compute = Accumulator<typename ElementType<T>::Type>;

  absl::Status Read(Executor* executor, const Buffer& buffer) {
    if constexpr (std::is_same_v<T, Compute>) {
      data_ = static_cast<const T*>(buffer.data);
    } else {
      if (auto s = copy_.Allocate(executor, buffer.size); !s.ok()) return s;
      const ConvertKernels kernels = ActiveKernels<ConvertKernels>();
      ConvertElements(
          executor,
          std::is_same_v<T, Eigen::half> ? kernels.half_to_float : kernels.bfloat16_to_float,
          static_cast<const uint16_t*>(buffer.data), copy_.data(), buffer.size);
      data_ = copy_.data();
    }
    return absl::OkStatus();
  }

  const Compute* data() const { return data_; }

 private:
  const Compute* data_ = nullptr;
  Temporary<Compute> copy_;
};

// An output together with the memory that is computed into.
template <typename T>
class ComputeOutput {
 public:
  using Compute = Accumulator<typename ElementType<T>::Type>;

  absl::Status Open(Executor* executor, const Buffer& buffer) {
    buffer_ = buffer;
    if constexpr (std::is_same_v<T, Compute>) {
      data_ = static_cast<T*>(buffer.data);
    } else {
      if (auto s = computed_.Allocate(executor, buffer.size); !s.ok()) return s;
      data_ = computed_.data();
    }
    return absl::OkStatus();
  }

  Compute* data() const { return data_; }
  int64_t size() const { return buffer_.size; }

  // Call once all is computed.
  void Finish(Executor* executor) {
    if constexpr (!std::is_same_v<T, Compute>) {
      const ConvertKernels kernels = ActiveKernels<ConvertKernels>();
      ConvertElements(
          executor,
          std::is_same_v<T, Eigen::half> ? kernels.float_to_half : kernels.float_to_bfloat16,
          static_cast<const float*>(data_), static_cast<uint16_t*>(buffer_.data), size());
    }
  }

 private:
  Buffer buffer_ = {nullptr, 0};
  Compute* data_ = nullptr;
  Temporary<Compute> computed_;
};

}  // namespace tfconv

#endif  // TFCONV_COMMON_EXECUTOR_H_
