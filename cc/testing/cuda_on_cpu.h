// Runs CUDA kernels on the CPU, so that their sources are tested where there is no GPU.
//
// Every thread of a block is a fiber with a stack of its own, and the blocks run one after another.
// A thread runs until it waits for its block or for lanes of its warp, then others do: what a
// barrier or a __syncwarp() is missing for depends on their order, which `seed` shuffles, with that
// of the blocks. Shared memory is filled with NaN before each block, and AddressSanitizer guards its
// ends. Lanes of a warp may diverge. What hangs a GPU, or is undefined there, is an exception.
#ifndef TFCONV_TESTING_CUDA_ON_CPU_H_
#define TFCONV_TESTING_CUDA_ON_CPU_H_

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tfconv {
namespace cuda_on_cpu {

// Saves the callee's registers and the stack pointer, and goes on where `load` was saved.
extern "C" void tfconv_switch_fiber(void** save, void* load);
asm(R"(.text
.weak tfconv_switch_fiber
.type tfconv_switch_fiber,@function
tfconv_switch_fiber:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

struct Index {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;

  Index(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

constexpr unsigned kWarp = 32;

// What a thread is at.
enum class State { kReady, kBarrier, kWarp, kDone };

// The one GPU of a thread of the CPU.
class Gpu {
 public:
  static Gpu& Get() {
    static thread_local Gpu gpu;
    return gpu;
  }

  // Runs body() once for every thread of every block.
  void Run(const Index& blocks, unsigned threads, const std::function<void()>& body) {
    body_ = &body;
    grid_ = blocks;
    block_ = {threads};
    random_.seed(seed);
    slots_.resize(threads);
    order_.resize(threads);
    std::iota(order_.begin(), order_.end(), 0u);
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    std::vector<unsigned> numbers(blocks.x * blocks.y * blocks.z);
    std::iota(numbers.begin(), numbers.end(), 0u);
    if (seed != 0) std::shuffle(numbers.begin(), numbers.end(), random_);
    for (const unsigned i : numbers) {
      index_ = {i % blocks.x, i / blocks.x % blocks.y, i / blocks.x / blocks.y};
      RunBlock(threads);
    }
  }

  // The rest is for the calling thread of a block.

  void WaitForBlock() { Wait(State::kBarrier); }

  // For the lanes of a mask, which all call the same function.
  void WaitForLanes(unsigned mask, const char* function) {
    current_->mask = mask;
    current_->function = function;
    if ((mask >> thread().x % kWarp & 1) == 0) Fail("a lane that its mask leaves out");
    Wait(State::kWarp);
  }

  template <typename T>
  T Shuffle(unsigned mask, T value, unsigned source, const char* function) {
    static_assert(sizeof(T) <= sizeof(slots_[0]), "");
    const unsigned own = thread().x;
    memcpy(&slots_[own], &value, sizeof(T));
    WaitForLanes(mask, function);  // all have written
    if (source >= kWarp || (mask >> source & 1) == 0) Fail("a value of a lane outside of the mask");
    memcpy(&value, &slots_[own / kWarp * kWarp + source], sizeof(T));
    WaitForLanes(mask, function);  // all have read
    return value;
  }

  // The same piece for every thread of a block: all declare their pieces in the same order.
  template <typename T>
  T* Shared(size_t count) {
    constexpr size_t kGuard = 64;
    const size_t begin = current_->shared;
    const size_t bytes = (count * sizeof(T) + kGuard - 1) / kGuard * kGuard;
    current_->shared = begin + bytes + kGuard;
    if (current_->shared > kSharedBytes) Fail("more shared memory than there is");
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(shared_ + begin + count * sizeof(T),
                                bytes + kGuard - count * sizeof(T));
#endif
    return reinterpret_cast<T*>(shared_ + begin);
  }

  Index thread() const { return current_->index; }
  Index index() const { return index_; }
  Index block() const { return block_; }
  Index grid() const { return grid_; }

  // Of the order of blocks and threads; with 0 they run as they are numbered.
  unsigned seed = 0;

 private:
  static constexpr size_t kStackBytes = 256 << 10;
  static constexpr size_t kSharedBytes = 96 << 10;

  struct Fiber {
    Fiber() : stack(new char[kStackBytes]) {
      void** top = reinterpret_cast<void**>(
          (reinterpret_cast<uintptr_t>(stack.get()) + kStackBytes) & ~uintptr_t(15));
      *--top = nullptr;
      *--top = reinterpret_cast<void*>(&Main);
      for (int i = 0; i < 6; ++i) *--top = nullptr;
      stack_pointer = top;
    }

    std::unique_ptr<char[]> stack;
    void* stack_pointer;
    void* fake_stack = nullptr;
    Index index;
    size_t shared = 0;  // bytes given out
    State state = State::kReady;
    unsigned mask = 0;              // that it waits for
    const char* function = nullptr;  // with which it does
  };

  // What a fiber does: the body, again for each block.
  static void Main() {
    Gpu& gpu = Get();
    gpu.Arrive(nullptr);
    for (;;) {
      (*gpu.body_)();
      gpu.Wait(State::kDone);
    }
  }

  void RunBlock(unsigned threads) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(shared_, kSharedBytes);
#endif
    memset(shared_, 0xff, kSharedBytes);
    for (unsigned t = 0; t < threads; ++t) {
      fibers_[t]->index = {t, 0, 0};
      fibers_[t]->shared = 0;
      fibers_[t]->state = State::kReady;
    }
    for (;;) {
      bool moved = false;
      if (seed != 0) std::shuffle(order_.begin(), order_.end(), random_);
      for (const unsigned t : order_) {
        if (fibers_[t]->state != State::kReady) continue;
        moved = true;
        Resume(fibers_[t].get());
        if (!error_.empty()) Throw();
      }
      for (unsigned t = 0; t < threads; ++t) moved |= ReleaseLanes(t);
      const auto all_at = [&](State state) {
        return std::all_of(order_.begin(), order_.end(),
                           [&](unsigned t) { return fibers_[t]->state == state; });
      };
      if (all_at(State::kDone)) return;
      if (all_at(State::kBarrier)) {
        for (const unsigned t : order_) fibers_[t]->state = State::kReady;
      } else if (!moved) {
        error_ = "a barrier or a mask with threads that do not come";
        Throw();
      }
    }
  }

  // Lets the lanes go on that a thread waits for, once they all wait for each other.
  bool ReleaseLanes(unsigned thread) {
    const Fiber& own = *fibers_[thread];
    if (own.state != State::kWarp) return false;
    const unsigned first = thread / kWarp * kWarp;
    const unsigned mask = own.mask;
    const auto for_lanes = [&](const auto& function) {
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        if ((mask >> lane & 1) != 0 && !function(fibers_[first + lane].get())) return false;
      }
      return true;
    };
    const bool complete = for_lanes([&](const Fiber* other) {
      return other->state == State::kWarp && other->mask == mask &&
             other->function == own.function;
    });
    return complete && for_lanes([](Fiber* other) {
             other->state = State::kReady;
             return true;
           });
  }

  // Of the calling thread.
  void Wait(State state) {
    Fiber* fiber = current_;
    fiber->state = state;
    Leave(&fiber->fake_stack, caller_bottom_, caller_size_);
    tfconv_switch_fiber(&fiber->stack_pointer, caller_);
    Arrive(fiber->fake_stack);
  }

  void Resume(Fiber* fiber) {
    current_ = fiber;
    void* fake_stack = nullptr;
    Leave(&fake_stack, fiber->stack.get(), kStackBytes);
    tfconv_switch_fiber(&caller_, fiber->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  static void Leave(void** fake_stack, const void* bottom, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake_stack, bottom, size);
#else
    (void)fake_stack;
    (void)bottom;
    (void)size;
#endif
  }

  void Arrive(void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &caller_bottom_, &caller_size_);
#else
    (void)fake_stack;
#endif
  }

  // In a thread of a block, which does not go on.
  void Fail(const char* message) {
    error_ = message;
    Wait(State::kDone);
  }

  [[noreturn]] void Throw() {
    fibers_.clear();  // they are in the middle of the kernel
    const std::string message = "CUDA on the CPU: " + error_;
    error_.clear();
    throw std::runtime_error(message);
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<uint64_t> slots_;
  std::vector<unsigned> order_;
  std::mt19937 random_;
  std::string error_;
  Fiber* current_ = nullptr;
  void* caller_ = nullptr;
  const void* caller_bottom_ = nullptr;
  size_t caller_size_ = 0;
  Index index_;
  Index block_;
  Index grid_;
  alignas(64) char shared_[kSharedBytes];
};

}  // namespace cuda_on_cpu
}  // namespace tfconv

// What the kernels use of CUDA.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::tfconv::cuda_on_cpu::Gpu::Get().thread())
#define blockIdx (::tfconv::cuda_on_cpu::Gpu::Get().index())
#define blockDim (::tfconv::cuda_on_cpu::Gpu::Get().block())
#define gridDim (::tfconv::cuda_on_cpu::Gpu::Get().grid())

typedef void* cudaStream_t;
typedef int cudaError_t;
constexpr cudaError_t cudaSuccess = 0;
constexpr cudaError_t cudaErrorInvalidValue = 1;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  if (bytes > 0) memset(memory, value, bytes);
  return cudaSuccess;
}

using dim3 = ::tfconv::cuda_on_cpu::Index;

inline void __syncthreads() { ::tfconv::cuda_on_cpu::Gpu::Get().WaitForBlock(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  ::tfconv::cuda_on_cpu::Gpu::Get().WaitForLanes(mask, "__syncwarp");
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return ::tfconv::cuda_on_cpu::Gpu::Get().Shuffle(mask, value, static_cast<unsigned>(lane),
                                                   "__shfl_sync");
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  auto& gpu = ::tfconv::cuda_on_cpu::Gpu::Get();
  const unsigned lane = gpu.thread().x % ::tfconv::cuda_on_cpu::kWarp;
  return gpu.Shuffle(mask, value, lane ^ static_cast<unsigned>(distance), "__shfl_xor_sync");
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}

inline unsigned atomicAdd(unsigned* target, unsigned value) {
  const unsigned before = *target;
  *target = before + value;
  return before;
}

inline unsigned atomicSub(unsigned* target, unsigned value) {
  return atomicAdd(target, 0u - value);
}

#endif  // TFCONV_TESTING_CUDA_ON_CPU_H_
