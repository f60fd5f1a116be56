// CUDA kernels with one defect each, which show that cuda_on_cpu.h would notice.
#ifndef TFCONV_TESTING_CUDA_FAULTS_H_
#define TFCONV_TESTING_CUDA_FAULTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/cuda_device.h"

namespace tfconv {
namespace cuda {

// What each thread of three blocks gives.
inline std::vector<int64_t> RunFaulty(const std::string& fault, unsigned seed) {
  constexpr unsigned kBlock = 64;
  constexpr unsigned kAll = 0xffffffffu;
  constexpr unsigned kLower = 0xffffu;
  std::vector<int64_t> y(3 * kBlock);
  int64_t blocks = 0;
  cuda_on_cpu::Gpu& gpu = cuda_on_cpu::Gpu::Get();
  gpu.seed = seed;
  gpu.Run({3, 1, 1}, kBlock, [&] {
    TFCONV_SHARED(int64_t, tile, kBlock);
    const unsigned thread = threadIdx.x;
    const unsigned lane = thread % cuda_on_cpu::kWarp;
    const bool is_lower = lane < 16;
    int64_t* const own = &y[blockIdx.x * kBlock + thread];
    if (fault == "blocks" && thread == 0) ++blocks;
    tile[thread] = thread;
    if (fault == "barrier" && thread == 5) return;
    if (fault == "no barrier") {
      *own = tile[(thread + 32) % kBlock];
      return;
    }
    if (fault == "barrier" || fault == "") __syncthreads();
    if (fault != "no syncwarp") __syncwarp();
    *own = tile[thread ^ 1];
    if (fault == "blocks") *own = blocks;
    // Half a warp by itself is no fault.
    if (is_lower) *own += __shfl_xor_sync(kLower, *own, 3);
    if (!is_lower) *own += 100 * __shfl_sync(~kLower, *own, 16);
    if (fault == "mask" && is_lower) *own += __shfl_xor_sync(kAll, *own, 1);
    if (fault == "left out" && is_lower) *own += __shfl_xor_sync(~kLower, *own, 1);
    if (fault == "outside" && is_lower) *own += __shfl_xor_sync(kLower, *own, 16);
    if (fault == "two functions") {
      if (is_lower) {
        __syncwarp();
      } else {
        *own += __shfl_xor_sync(kAll, *own, 1);
      }
    }
  });
  return y;
}

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_TESTING_CUDA_FAULTS_H_
