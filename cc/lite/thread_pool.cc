#include "lite/thread_pool.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace tfconv {
namespace lite {
namespace {

constexpr int64_t kCyclesPerTask = 20000;
constexpr int64_t kBlocksPerThread = 4;

// Units that several threads take blocks of.
class Loop {
 public:
  Loop(const ThreadPool::Work* work, int64_t units, int64_t block)
      : work_(work), units_(units), block_(block) {}

  // Touches the work only while units are left, hence not after Wait() has returned.
  void RunBlocks(int64_t thread) {
    for (;;) {
      const int64_t begin = next_.fetch_add(block_);
      if (begin >= units_) return;
      const int64_t end = std::min(begin + block_, units_);
      (*work_)(begin, end, thread);
      std::lock_guard<std::mutex> lock(mutex_);
      finished_ += end - begin;
      if (finished_ == units_) all_finished_.notify_one();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_finished_.wait(lock, [this] { return finished_ == units_; });
  }

 private:
  const ThreadPool::Work* const work_;
  const int64_t units_;
  const int64_t block_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_finished_;
  int64_t finished_ = 0;
};

}  // namespace

// Threads and what they are to do, in the process that made them.
class ThreadPool::State {
 public:
  State() = default;

  ~State() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  bool IsOfThisProcess() const { return process_ == getpid(); }

  // Has up to `helpers` threads take part in a loop: none if there are no threads to be had.
  void Schedule(int64_t helpers, const std::shared_ptr<Loop>& loop) {
    std::lock_guard<std::mutex> lock(mutex_);
    try {
      while (static_cast<int64_t>(threads_.size()) < helpers) {
        threads_.emplace_back(&State::RunTasks, this);
      }
    } catch (const std::exception&) {
      if (threads_.empty()) return;
    }
    for (int64_t thread = 1; thread <= helpers; ++thread) {
      tasks_.push_back([loop, thread] { loop->RunBlocks(thread); });
      changed_.notify_one();
    }
  }

 private:
  void RunTasks() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (stopping_) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  const pid_t process_ = getpid();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  bool stopping_ = false;
};

ThreadPool::~ThreadPool() {
  State* state = state_.load();
  // Threads of another process cannot be joined: what is left of them stays.
  if (state != nullptr && state->IsOfThisProcess()) delete state;
}

ThreadPool::State* ThreadPool::StateOfThisProcess() {
  State* state = state_.load();
  if (state != nullptr && state->IsOfThisProcess()) return state;
  auto fresh = std::make_unique<State>();
  // Another thread may have been faster.
  return state_.compare_exchange_strong(state, fresh.get()) ? fresh.release() : state;
}

void ThreadPool::ForEachUnit(int64_t threads, int64_t units, int64_t cycles_per_unit,
                             const Work& work) {
  if (units <= 0) return;
  const int64_t worthwhile = units * std::max<int64_t>(cycles_per_unit, 1) / kCyclesPerTask;
  const int64_t helpers = std::min({threads - 1, worthwhile, units - 1});
  if (helpers <= 0) {
    work(0, units, 0);
    return;
  }
  const int64_t block = std::max<int64_t>(units / (kBlocksPerThread * (helpers + 1)), 1);
  auto loop = std::make_shared<Loop>(&work, units, block);
  try {
    StateOfThisProcess()->Schedule(helpers, loop);
  } catch (const std::exception&) {
    // Some helpers may have begun all the same: the end must be waited for.
  }
  // The caller works too, and does what remains where helpers are busy elsewhere or missing.
  loop->RunBlocks(0);
  loop->Wait();
}

Status Memory::Reserve(int64_t bytes) {
  if (bytes <= bytes_) return Status();
  data_.reset();
  bytes_ = 0;
  void* block = nullptr;
  if (posix_memalign(&block, 64, static_cast<size_t>(bytes)) != 0) {
    return Error("out of memory: ", bytes, " bytes are needed");
  }
  data_.reset(block);
  bytes_ = bytes;
  return Status();
}

}  // namespace lite
}  // namespace tfconv
