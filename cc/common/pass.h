// Interface between the ops, which own memory and threads, and the numeric kernels.
#ifndef TFCONV_COMMON_PASS_H_
#define TFCONV_COMMON_PASS_H_

#include <stdint.h>

namespace tfconv {

struct PassPlan {
  int64_t units;
  int64_t cycles_per_unit;  // estimate for the scheduler
  int64_t scratch_bytes;    // for each thread; 64-byte aligned
};

// A computation divided into independent units. The division depends on the sizes only, so that
// results do not depend on how the units are spread over threads.
template <typename Args>
struct Pass {
  PassPlan (*plan)(const Args& args);
  void (*run)(const Args& args, int64_t begin, int64_t end, void* scratch);
};

}  // namespace tfconv

#endif  // TFCONV_COMMON_PASS_H_
