// Templates of headers that belong to units compiled per instruction set, as plain functions.
#ifndef TFCONV_TESTING_PROBE_H_
#define TFCONV_TESTING_PROBE_H_

#include <stdint.h>

#include "common/isa.h"

namespace tfconv {

template <typename T>
struct Probes {
  static constexpr int64_t kMaxDepth = 90;
  static constexpr int64_t kMaxColumns = 80;

  int lanes;      // of a vector
  int tile_rows;  // at most, of `a`

  // c = a * b, or c += a * b with `accumulate`. `a` is [rows, depth], in memory transposed if so.
  void (*multiply)(const T* a, bool transposed, const T* b, T* c, bool accumulate, int64_t rows,
                   int64_t depth, int64_t columns);

  T (*sum_lanes)(const T* vector);
  void (*sum_lanes_of_each)(const T* vectors, T* sums);  // as many vectors as lanes
  void (*add_sums_of_four)(const T* vectors, T* sums);

  // Takes pieces of counts[i] elements from an arena and returns the bytes used.
  int64_t (*take)(void* memory, const int64_t* counts, int number, T** pieces);
};

TFCONV_DECLARE_KERNELS(Probes<float>)
TFCONV_DECLARE_KERNELS(Probes<double>)

}  // namespace tfconv

#endif  // TFCONV_TESTING_PROBE_H_
