// Division of a thread's scratch memory.
#ifndef TFCONV_COMMON_ARENA_H_
#define TFCONV_COMMON_ARENA_H_

#include <stdint.h>

#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Hands out 64-byte aligned pieces of `memory`. Without memory it only counts the bytes, so that
// the size and the layout of scratch memory come from the same code.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename U>
  U* Take(int64_t count) {
    char* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += RoundUp(count * static_cast<int64_t>(sizeof(U)), kAlignment);
    return reinterpret_cast<U*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 64;

  char* memory_;
  int64_t used_ = 0;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_ARENA_H_
