// Threads and memory for the kernels.
#ifndef TFCONV_LITE_THREAD_POOL_H_
#define TFCONV_LITE_THREAD_POOL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>

#include "common/pass.h"
#include "lite/status.h"

namespace tfconv {
namespace lite {

// As many threads as were ever asked for, which sleep while there is no work. Any number of callers
// may use it at the same time. A forked process, which has none of the threads, starts its own.
class ThreadPool {
 public:
  using Work = std::function<void(int64_t begin, int64_t end, int64_t thread)>;

  ThreadPool() noexcept = default;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  // Runs `work` over all units on up to `threads` threads, the calling one among them. Its `thread`
  // is below `threads`, and no two calls have the same at the same time.
  void ForEachUnit(int64_t threads, int64_t units, int64_t cycles_per_unit, const Work& work);

 private:
  class State;

  State* StateOfThisProcess();

  std::atomic<State*> state_{nullptr};  // made when it is needed
};

// Memory that grows, aligned to 64 bytes.
class Memory {
 public:
  // Makes room for `bytes` bytes. What was there is lost.
  Status Reserve(int64_t bytes);
  void* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };

  std::unique_ptr<void, Free> data_;
  int64_t bytes_ = 0;
};

// Runs passes of kernels on some threads of a pool, with scratch memory of its own.
class Executor {
 public:
  explicit Executor(ThreadPool* pool) : pool_(pool) {}

  void set_threads(int64_t threads) { threads_ = threads; }

  template <typename Args>
  Status RunPass(const Args& args, const Pass<Args>& pass) {
    constexpr int64_t kAlignment = 64;
    const PassPlan plan = pass.plan(args);
    if (plan.units <= 0) return Status();
    const int64_t bytes = (plan.scratch_bytes + kAlignment - 1) / kAlignment * kAlignment;
    const int64_t threads = std::min(threads_, plan.units);
    if (auto status = scratch_.Reserve(threads * bytes); !status.ok()) return status;
    pool_->ForEachUnit(threads, plan.units, plan.cycles_per_unit,
                       [&](int64_t begin, int64_t end, int64_t thread) {
                         char* own = static_cast<char*>(scratch_.data()) + thread * bytes;
                         pass.run(args, begin, end, own);
                       });
    return Status();
  }

 private:
  ThreadPool* pool_;
  int64_t threads_ = 1;
  Memory scratch_;
};

}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_THREAD_POOL_H_
