// Runs CUDA kernels on the CPU, so that their sources are tested where there is no GPU.
//
// Every thread of a block is a fiber with a stack of its own, and the blocks run one after another.
// Between two barriers the threads run one after another, too, forwards or backwards: results that
// depend on which give a race away. Shared memory is filled with NaN before each block, and
// AddressSanitizer guards its ends. Warps are not modelled: shuffles are for the whole block.
#ifndef TFCONV_TESTING_CUDA_ON_CPU_H_
#define TFCONV_TESTING_CUDA_ON_CPU_H_

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>
#include <functional>
#include <memory>
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
  unsigned x;
};

// Where a thread stopped.
enum class Stop { kDone, kBarrier, kShuffle };

// The one GPU of a thread of the CPU.
class Gpu {
 public:
  static Gpu& Get() {
    static thread_local Gpu gpu;
    return gpu;
  }

  // Runs body() once for every thread of every block.
  void Run(unsigned blocks, unsigned threads, const std::function<void()>& body) {
    body_ = &body;
    grid_ = {blocks};
    block_ = {threads};
    slots_.resize(threads);
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    for (unsigned i = 0; i < blocks; ++i) {
      index_ = {reversed ? blocks - 1 - i : i};
      RunBlock(threads);
    }
  }

  // Of the calling thread of the block.
  void Yield(Stop stop) {
    Fiber* fiber = current_;
    fiber->stop = stop;
    Leave(&fiber->fake_stack, caller_bottom_, caller_size_);
    tfconv_switch_fiber(&fiber->stack_pointer, caller_);
    Arrive(fiber->fake_stack);
  }

  // The same piece for every thread of a block: all declare their pieces in the same order.
  template <typename T>
  T* Shared(size_t count) {
    constexpr size_t kGuard = 64;
    const size_t begin = current_->shared;
    const size_t bytes = (count * sizeof(T) + kGuard - 1) / kGuard * kGuard;
    current_->shared = begin + bytes + kGuard;
    if (current_->shared > kSharedBytes) Fail("too much shared memory");
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(shared_ + begin + count * sizeof(T),
                                bytes + kGuard - count * sizeof(T));
#endif
    return reinterpret_cast<T*>(shared_ + begin);
  }

  template <typename T>
  T Shuffle(T value, unsigned source) {
    memcpy(&slots_[thread().x], &value, sizeof(T));
    Yield(Stop::kShuffle);
    memcpy(&value, &slots_[source], sizeof(T));
    Yield(Stop::kShuffle);
    return value;
  }

  Index thread() const { return current_->index; }
  Index index() const { return index_; }
  Index block() const { return block_; }
  Index grid() const { return grid_; }

  // Blocks and threads in descending order.
  bool reversed = false;

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
    Index index = {0};
    size_t shared = 0;  // bytes given out
    Stop stop = Stop::kDone;
  };

  // What a fiber does: the body, again for each block.
  static void Main() {
    Gpu& gpu = Get();
    gpu.Arrive(nullptr);
    for (;;) {
      (*gpu.body_)();
      gpu.Yield(Stop::kDone);
    }
  }

  void RunBlock(unsigned threads) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(shared_, kSharedBytes);
#endif
    memset(shared_, 0xff, kSharedBytes);
    for (unsigned t = 0; t < threads; ++t) {
      fibers_[t]->index = {t};
      fibers_[t]->shared = 0;
    }
    Stop stop = Stop::kDone;
    do {
      for (unsigned t = 0; t < threads; ++t) {
        const unsigned own = reversed ? threads - 1 - t : t;
        Resume(fibers_[own].get());
        if (t == 0) stop = fibers_[own]->stop;
        if (fibers_[own]->stop != stop) Fail("a barrier that not all threads of a block reach");
      }
    } while (stop != Stop::kDone);
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

  static void Fail(const char* message) {
    fprintf(stderr, "CUDA on the CPU: %s\n", message);
    abort();
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<uint64_t> slots_;
  Fiber* current_ = nullptr;
  void* caller_ = nullptr;
  const void* caller_bottom_ = nullptr;
  size_t caller_size_ = 0;
  Index index_ = {0};
  Index block_ = {0};
  Index grid_ = {0};
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

inline void __syncthreads() {
  using namespace ::tfconv::cuda_on_cpu;  // NOLINT
  Gpu::Get().Yield(Stop::kBarrier);
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  auto& gpu = ::tfconv::cuda_on_cpu::Gpu::Get();
  return gpu.Shuffle(value, gpu.thread().x ^ static_cast<unsigned>(mask));
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
