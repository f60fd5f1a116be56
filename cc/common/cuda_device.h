// What all CUDA kernels are written on. Only units named *.cu.cc include this header: nvcc compiles
// them for the library, and the C++ compiler for the tests, against testing/cuda_on_cpu.h.
#ifndef TFCONV_COMMON_CUDA_DEVICE_H_
#define TFCONV_COMMON_CUDA_DEVICE_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

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

// Blocks go over y and z in steps of the grid, which CUDA limits; few on the CPU, for tests of that.
#if defined(__CUDACC__)
constexpr int64_t kMaxBlocks = 65535;
#else
constexpr int64_t kMaxBlocks = 2;
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

// What the blocks of a launch stand for; x counts less than 2^31.
struct Grid {
  int64_t x;
  int64_t y;
  int64_t z;
};

// Launches kernel(argument) with blocks of kThreads.
template <typename Argument>
int Launch(void (*kernel)(Argument), const Grid& grid, CudaStream stream,
           const Argument& argument) {
  if (grid.x <= 0 || grid.y <= 0 || grid.z <= 0) return cudaSuccess;
  if (grid.x > INT32_MAX) return cudaErrorInvalidValue;
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(Min(grid.y, kMaxBlocks)),
                    static_cast<unsigned>(Min(grid.z, kMaxBlocks)));
#if defined(__CUDACC__)
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(argument);
#else
  (void)stream;
  cuda_on_cpu::Gpu::Get().Run(blocks, kThreads, [&] { kernel(argument); });
#endif
  return cudaGetLastError();
}

// Division by what is known at the launch, without a reciprocal: of 0 <= n < 2^31, rounded down.
struct Divisor {
  int value;
  unsigned factor;
  int shift;

  TFCONV_DEVICE int Divide(int n) const {
    const unsigned u = static_cast<unsigned>(n);
    return static_cast<int>((__umulhi(u, factor) + u) >> shift);
  }
};

inline Divisor MakeDivisor(int64_t value) {
  value = Max<int64_t>(1, value);  // of what is empty
  int shift = 0;
  while ((int64_t{1} << shift) < value) ++shift;
  const uint64_t rest = (uint64_t{1} << shift) - static_cast<uint64_t>(value);
  return {static_cast<int>(value),
          static_cast<unsigned>((rest << 32) / static_cast<uint64_t>(value) + 1), shift};
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

// Whether it can load them so.
template <typename T>
bool IsAligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % alignof(Pack<T, kVector<T>>) == 0;
}

template <typename T, int kCount>
TFCONV_DEVICE Pack<T, kCount> LoadIf(bool present, const T* data) {
  Pack<T, kCount> pack = {};
  if (present) pack = *reinterpret_cast<const Pack<T, kCount>*>(data);
  return pack;
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
TFCONV_DEVICE void Store(T* data, const Accumulator<T>* values) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.value[i] = Narrow<T>(values[i]);
  *reinterpret_cast<Pack<T, kCount>*>(data) = pack;
}

template <typename T>
TFCONV_DEVICE T* Behind(T* data, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(data) + bytes);
}

// data[index * pitch], where the pitch is in bytes: one multiplication and addition.
template <typename T>
TFCONV_DEVICE T* At(T* data, int index, int pitch) {
  return Behind(data, static_cast<int64_t>(index) * pitch);
}

// A ConvAxis for 32-bit arithmetic.
struct Axis {
  int input;
  int output;
  int kernel;
  int stride;
  int dilation;
  int pad;
  Divisor by_stride;
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
                     static_cast<int>(dilation), static_cast<int>(a.pad), MakeDivisor(stride)};
  }
  return true;
}

// The element of the other side that a tap leads to, or one outside of it: from output to input, or
// with kTransposed from input to output. With kUnit strides are known to be 1.
template <bool kTransposed, bool kUnit = false>
TFCONV_DEVICE int Source(const Axis& axis, int position, int tap) {
  if (!kTransposed) return position * axis.stride - axis.pad + tap * axis.dilation;
  const int distance = position + axis.pad - tap * axis.dilation;
  if (kUnit) return distance;
  const int index = axis.by_stride.Divide(distance);
  return distance >= 0 && index * axis.stride == distance ? index : -1;
}

TFCONV_DEVICE bool Inside(int index, int size) {
  return static_cast<unsigned>(index) < static_cast<unsigned>(size);
}

// Divides a workspace, or counts its bytes if there is none.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* Take(int64_t count) {
    constexpr int64_t kAlignment = 256;
    char* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += CeilDiv(count * static_cast<int64_t>(sizeof(T)), kAlignment) * kAlignment;
    return reinterpret_cast<T*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// How the threads of a block are laid out: so many of them, a power of two, are neighbours along
// the channels, and the rows go to other positions.
struct Lanes {
  int bits;

  TFCONV_DEVICE int count() const { return 1 << bits; }
  TFCONV_DEVICE int lane() const { return static_cast<int>(threadIdx.x) & (count() - 1); }
  // Counted over the blocks along x.
  TFCONV_DEVICE int row() const {
    return static_cast<int>(blockIdx.x) * (kThreads >> bits) +
           (static_cast<int>(threadIdx.x) >> bits);
  }
  // Adds up what the neighbours of a row have: each gets the sums. All lanes of the warp come here.
  template <typename Acc, int kSums>
  TFCONV_DEVICE void AddUp(Acc (&sums)[kSums]) const {
    for (int distance = count() / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], distance);
      }
    }
  }
  int64_t Blocks(int64_t rows) const { return CeilDiv<int64_t>(rows, kThreads >> bits); }
};

// As many lanes as there is work for, at most 2^most.
inline Lanes MakeLanes(int64_t work, int most) {
  int bits = 0;
  while (bits < most && (int64_t{1} << bits) < work) ++bits;
  return {bits};
}

// Positions of one side, in planes of an image's depth: a thread has one of them.
struct Planes {
  int64_t count;      // of all images
  int positions;      // of each
  Divisor by_depth;
  Divisor by_width;
};

// False if 32-bit arithmetic does not reach.
inline bool MakePlanes(int64_t batch, int64_t depth, int64_t height, int64_t width, Planes* planes) {
  constexpr int64_t kLimit = 1 << 30;
  *planes = {batch * depth, static_cast<int>(Min(height * width, kLimit)), MakeDivisor(depth),
             MakeDivisor(width)};
  return planes->count < kLimit && height * width < kLimit;
}

struct Position {
  int image;
  int d;
  int h;
  int w;
};

TFCONV_DEVICE Position GetPosition(const Planes& planes, int64_t plane, int position) {
  const int p = static_cast<int>(plane);
  const int image = planes.by_depth.Divide(p);
  const int h = planes.by_width.Divide(position);
  return {image, p - image * planes.by_depth.value, h, position - h * planes.by_width.value};
}

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_COMMON_CUDA_DEVICE_H_
