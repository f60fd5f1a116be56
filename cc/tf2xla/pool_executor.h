// An executor on threads that are only known by a function that schedules tasks.
#ifndef TFCONV_TF2XLA_POOL_EXECUTOR_H_
#define TFCONV_TF2XLA_POOL_EXECUTOR_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/executor.h"

namespace tfconv {

class PoolExecutor : public Executor {
 public:
  using Task = std::function<void()>;

  // `schedule` runs a task on one of `threads` threads, at any time, even after this is gone.
  PoolExecutor(int64_t threads, std::function<void(Task)> schedule)
      : threads_(std::max<int64_t>(threads, 0)), schedule_(std::move(schedule)) {}

  absl::Status Allocate(int64_t bytes, std::shared_ptr<void>* memory) override {
    void* block = nullptr;
    if (posix_memalign(&block, 64, static_cast<size_t>(std::max<int64_t>(bytes, 1))) != 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("out of memory: tfconv needs ", bytes, " bytes"));
    }
    *memory = std::shared_ptr<void>(block, std::free);
    return absl::OkStatus();
  }

  // The caller works too, and goes on without the tasks that have not begun by then: a pool whose
  // threads all wait like this one cannot lock up.
  void ForEachUnit(int64_t units, int64_t cycles_per_unit, const Work& work) override {
    if (units <= 0) return;
    const int64_t worthwhile = units * std::max<int64_t>(cycles_per_unit, 1) / kCyclesPerTask;
    const int64_t helpers = std::min({threads_, worthwhile, units - 1});
    if (helpers <= 0) {
      work(0, units);
      return;
    }
    auto loop = std::make_shared<Loop>();
    loop->work = &work;
    loop->units = units;
    loop->block = std::max<int64_t>(units / (kBlocksPerThread * (helpers + 1)), 1);
    for (int64_t i = 0; i < helpers; ++i) {
      try {
        schedule_([loop] { loop->RunBlocks(); });
      } catch (const std::bad_alloc&) {
        break;  // the others do it
      }
    }
    loop->RunBlocks();
    loop->Wait();
  }

  int64_t max_threads() const override { return threads_ + 1; }

 private:
  static constexpr int64_t kCyclesPerTask = 20000;
  static constexpr int64_t kBlocksPerThread = 4;

  struct Loop {
    // Touches `work` only while units are left, hence not after Wait() has returned.
    void RunBlocks() {
      for (;;) {
        const int64_t begin = next.fetch_add(block);
        if (begin >= units) return;
        const int64_t end = std::min(begin + block, units);
        (*work)(begin, end);
        std::lock_guard<std::mutex> lock(mutex);
        finished += end - begin;
        if (finished == units) all_finished.notify_one();
      }
    }

    void Wait() {
      std::unique_lock<std::mutex> lock(mutex);
      // wait() would need the C++ standard library of GCC 12 where this runs (GLIBCXX_3.4.30).
      while (!all_finished.wait_for(lock, std::chrono::hours(1),
                                    [this] { return finished == units; })) {
      }
    }

    const Work* work;
    int64_t units;
    int64_t block;
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable all_finished;
    int64_t finished = 0;
  };

  const int64_t threads_;
  const std::function<void(Task)> schedule_;
};

}  // namespace tfconv

#endif  // TFCONV_TF2XLA_POOL_EXECUTOR_H_
