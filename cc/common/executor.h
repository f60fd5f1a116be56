// What runs the numeric kernels: threads and memory.
#ifndef TFCONV_COMMON_EXECUTOR_H_
#define TFCONV_COMMON_EXECUTOR_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "common/element_types.h"
#include "common/isa.h"
#include "common/pass.h"
#include "tensorflow/core/framework/types.h"

namespace tfconv {

// Threads and memory of whoever runs an op: TensorFlow's executor, or code that XLA compiled.
class Executor {
 public:
  using Work = std::function<void(int64_t begin, int64_t end)>;

  virtual ~Executor() = default;

  // Makes `memory` hold `bytes` bytes, 64-byte aligned.
  virtual absl::Status Allocate(int64_t bytes, std::shared_ptr<void>* memory) = 0;

  // Runs `work` over all units, in no more than max_threads() calls at the same time.
  virtual void ForEachUnit(int64_t units, int64_t cycles_per_unit, const Work& work) = 0;
  virtual int64_t max_threads() const = 0;
};

// Whether the CPU's kernels can run here.
inline absl::Status CheckIsa() {
  const char* const problem = IsaProblem();
  if (problem == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(problem);
}

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

// Runs one pass of kernels. As many threads as can be at work at once have scratch memory.
template <typename Args>
absl::Status RunPass(Executor* executor, const Args& args, const Pass<Args>& pass) {
  constexpr int64_t kAlignment = 64;
  const PassPlan plan = pass.plan(args);
  if (plan.units <= 0) return absl::OkStatus();
  const int64_t bytes = (plan.scratch_bytes + kAlignment - 1) / kAlignment * kAlignment;
  const int64_t most = std::min(executor->max_threads(), plan.units);
  std::shared_ptr<void> scratch;
  if (auto s = executor->Allocate(most * bytes, &scratch); !s.ok()) return s;
  std::mutex mutex;
  std::vector<char*> unused;
  char* const memory = static_cast<char*>(scratch.get());
  for (int64_t i = 0; i < most; ++i) unused.push_back(memory + i * bytes);
  executor->ForEachUnit(plan.units, plan.cycles_per_unit, [&](int64_t begin, int64_t end) {
    char* own;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      own = unused.back();
      unused.pop_back();
    }
    pass.run(args, begin, end, own);
    const std::lock_guard<std::mutex> lock(mutex);
    unused.push_back(own);
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

}  // namespace tfconv

#endif  // TFCONV_COMMON_EXECUTOR_H_
