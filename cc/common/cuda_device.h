// What all CUDA kernels are written on. Only units named *.cu.cc include this header: nvcc compiles
// them for the library, and the C++ compiler for the tests, against testing/cuda_on_cpu.h.
#ifndef TFCONV_COMMON_CUDA_DEVICE_H_
#define TFCONV_COMMON_CUDA_DEVICE_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/cuda_types.h"
#include "common/geometry.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// An array in shared memory.
#define TFCONV_SHARED(Type, name, count) __shared__ __align__(16) Type name[count]
#else
#include "testing/cuda_on_cpu.h"
#define TFCONV_SHARED(Type, name, count) \
  Type* const name = ::tfconv::cuda_on_cpu::Gpu::Get().Shared<Type>(count)
#endif

#define TFCONV_DEVICE __device__ __forceinline__

namespace tfconv {
namespace cuda {

constexpr int kThreads = 256;  // of every block

// Blocks go over their units in steps of the grid. Few blocks on the CPU, for tests of that.
#if defined(__CUDACC__)
constexpr int64_t kMaxBlocks = 1 << 30;
#else
constexpr int64_t kMaxBlocks = 5;
#endif

template <typename T>
__host__ TFCONV_DEVICE T Min(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
__host__ TFCONV_DEVICE T Max(T a, T b) {
  return a < b ? b : a;
}

// Rounded up; both arguments are positive or `a` is zero.
template <typename T>
__host__ TFCONV_DEVICE T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// Launches kernel(argument) for that many units of work.
template <typename Argument>
int Launch(void (*kernel)(Argument), int64_t units, CudaStream stream, const Argument& argument) {
  if (units <= 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>(Min(units, kMaxBlocks));
#if defined(__CUDACC__)
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(argument);
#else
  (void)stream;
  cuda_on_cpu::Gpu::Get().Run(blocks, kThreads, [&] { kernel(argument); });
#endif
  return cudaGetLastError();
}

template <typename T>
int FillZeros(T* tensor, int64_t count, CudaStream stream) {
  if (tensor == nullptr || count <= 0) return cudaSuccess;
  const int error = cudaMemsetAsync(tensor, 0, static_cast<size_t>(count) * sizeof(T),
                                    static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) cudaGetLastError();  // the next launch shall not return it, too
  return error;
}

// Conversion to the type that is computed in, and back, rounding to nearest.

TFCONV_DEVICE float Widen(float value) { return value; }
TFCONV_DEVICE double Widen(double value) { return value; }

template <typename T>
TFCONV_DEVICE T Narrow(Accumulator<T> value) {
  return value;
}

#if defined(__CUDACC__)
TFCONV_DEVICE float Widen(Half value) { return __half2float(__ushort_as_half(value.bits)); }
TFCONV_DEVICE float Widen(Bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
template <>
TFCONV_DEVICE Half Narrow<Half>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}
template <>
TFCONV_DEVICE Bfloat16 Narrow<Bfloat16>(float value) {
  return {static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(value)).x};
}
#else
inline float Widen(Bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}
inline float Widen(Half value) {
  const int exponent = value.bits >> 10 & 31;
  const float mantissa = static_cast<float>(value.bits & 1023);
  const float magnitude = exponent == 31  ? (mantissa == 0 ? INFINITY : NAN)
                          : exponent == 0 ? std::ldexp(mantissa, -24)
                                          : std::ldexp(1024 + mantissa, exponent - 25);
  return value.bits & 0x8000 ? -magnitude : magnitude;
}
template <>
inline Bfloat16 Narrow<Bfloat16>(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline Half Narrow<Half>(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {0x7e00};
  if (magnitude >= 65520) return {static_cast<uint16_t>(sign | 0x7c00)};
  // Units in the last place; rint rounds to even, and a carry moves on to the exponent.
  const int exponent = magnitude < 0x1p-14f ? -14 : std::ilogb(magnitude);
  const int units = static_cast<int>(std::rint(std::ldexp(magnitude, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (units + ((exponent + 14) << 10)))};
}
#endif

// kCount elements that are loaded and stored together, by 16 bytes where they lie on 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount > 16 ? 16 : sizeof(T) * kCount) Pack {
  T value[kCount];
};

// The elements that a thread loads at once.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

template <typename T, int kCount>
bool IsAligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % alignof(Pack<T, kCount>) == 0;
}

// `count` elements, then zeros. `aligned` says that all kCount may be loaded at once if they exist.
template <typename T, int kCount>
TFCONV_DEVICE Pack<T, kCount> Load(const T* data, int count, bool aligned) {
  if (aligned && count == kCount) return *reinterpret_cast<const Pack<T, kCount>*>(data);
  Pack<T, kCount> pack = {};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < count) pack.value[i] = data[i];
  }
  return pack;
}

template <typename T, int kCount>
TFCONV_DEVICE void Store(T* data, const Accumulator<T>* values, int count, bool aligned) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.value[i] = Narrow<T>(values[i]);
  if (aligned && count == kCount) {
    *reinterpret_cast<Pack<T, kCount>*>(data) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < count) data[i] = pack.value[i];
  }
}

// A ConvAxis for 32-bit arithmetic.
struct Axis {
  int input;
  int output;
  int kernel;
  int stride;
  int dilation;
  int pad;
};

struct Axes {
  Axis axis[kMaxSpatialAxes];
};

// False if positions along an axis do not fit.
inline bool MakeAxes(const ConvGeometry& geometry, Axes* axes) {
  constexpr int64_t kLimit = 1 << 30;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    const ConvAxis& a = geometry.axis[i];
    // Where there is one position or one tap, steps do not matter.
    const int64_t stride = Min(a.stride, kLimit);
    const int64_t dilation = a.kernel == 1 ? 1 : Min(a.dilation, kLimit);
    if (Max(Max(a.input, a.output), Max(a.kernel, a.pad)) >= kLimit) return false;
    const int64_t reach = Max<int64_t>(0, a.output - 1) * stride + (a.kernel - 1) * dilation;
    if (reach + a.pad + a.input >= kLimit) return false;
    axes->axis[i] = {static_cast<int>(a.input),  static_cast<int>(a.output),
                     static_cast<int>(a.kernel), static_cast<int>(stride),
                     static_cast<int>(dilation), static_cast<int>(a.pad)};
  }
  return true;
}

// The element of the other side that a tap leads to, or -1: from output to input, or with
// kTransposed from input to output.
template <bool kTransposed>
TFCONV_DEVICE int Source(const Axis& axis, int position, int tap) {
  if (kTransposed) {
    const int distance = position + axis.pad - tap * axis.dilation;
    if (distance < 0) return -1;
    if (axis.stride == 1) return distance < axis.output ? distance : -1;
    const int index = distance / axis.stride;
    return index < axis.output && index * axis.stride == distance ? index : -1;
  }
  const int index = position * axis.stride - axis.pad + tap * axis.dilation;
  return index >= 0 && index < axis.input ? index : -1;
}

// Channels in groups of `size`, of which each thread takes a few that lie in one group.
struct Chunks {
  int groups;
  int size;
  int per_group;
  int count;
};

template <typename T>
Chunks MakeChunks(int64_t channels, int64_t groups) {
  const int size = static_cast<int>(channels / groups);
  const int per_group = CeilDiv(size, kVector<T>);
  return {static_cast<int>(groups), size, per_group, static_cast<int>(groups) * per_group};
}

struct Chunk {
  int group;
  int first;  // channel
  int count;  // of channels; 0 beyond the last chunk
};

template <typename T>
TFCONV_DEVICE Chunk GetChunk(const Chunks& chunks, int index) {
  if (index >= chunks.count) return {0, 0, 0};
  const int group = index / chunks.per_group;
  const int within = (index - group * chunks.per_group) * kVector<T>;
  return {group, group * chunks.size + within, Min(kVector<T>, chunks.size - within)};
}

// Whether chunks may be loaded at once from a channels-last tensor.
template <typename T>
bool ChunksAligned(const T* data, const Chunks& chunks) {
  return chunks.size % kVector<T> == 0 && IsAligned<T, kVector<T>>(data);
}

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_COMMON_CUDA_DEVICE_H_
