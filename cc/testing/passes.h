// What the tests of kernels share: instruction sets, random tensors, the division of the work.
#ifndef TFCONV_TESTING_PASSES_H_
#define TFCONV_TESTING_PASSES_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"
#include "deformable/deformable_kernel.h"
#include "involution/involution_kernel.h"
#include "per_example/per_example_kernel.h"
#include "testing/probe.h"

namespace tfconv {

// Those that this machine has.
inline std::vector<Isa> Isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kBase, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa <= ActiveIsa()) isas.push_back(isa);
  }
  return isas;
}

// The same numbers every time.
template <typename T>
std::vector<T> Random(int64_t count) {
  std::mt19937 bits(static_cast<uint32_t>(count));
  std::uniform_real_distribution<T> draw(-1, 1);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = draw(bits);
  return values;
}

// For results: none of them may stay.
template <typename T>
std::vector<T> Unwritten(int64_t count) {
  return std::vector<T>(static_cast<size_t>(count), std::numeric_limits<T>::quiet_NaN());
}

template <typename T>
void ExpectNear(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  T scale = 1;
  for (const T value : expected) scale = std::max(scale, std::abs(value));
  const T tolerance = scale * (std::is_same_v<T, float> ? T(2e-5) : T(1e-12));
  for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], tolerance) << i;
}

// How the units of a pass are divided: ranges, each with new scratch memory.
struct Division {
  int64_t ranges;
  bool reversed;  // the last range first
};

inline const Division kAsOne = {1, false};
inline const Division kDivisions[] = {
    {2, false}, {3, true}, {std::numeric_limits<int64_t>::max(), true}};

template <typename Args>
void RunPass(const Args& args, const Pass<Args>& pass, const Division& division) {
  const PassPlan plan = pass.plan(args);
  const int64_t ranges = std::min(division.ranges, plan.units);
  for (int64_t i = 0; i < ranges; ++i) {
    const int64_t range = division.reversed ? ranges - 1 - i : i;
    constexpr int64_t kAlignment = 64;
    std::vector<uint8_t> memory(static_cast<size_t>(plan.scratch_bytes + kAlignment), 0xff);
    void* scratch = memory.data();
    size_t space = memory.size();
    ASSERT_NE(std::align(kAlignment, static_cast<size_t>(plan.scratch_bytes), scratch, space),
              nullptr);
    pass.run(args, plan.units * range / ranges, plan.units * (range + 1) / ranges, scratch);
  }
}

inline ConvAxis Axis(int64_t input, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  const int64_t extent = (kernel - 1) * dilation + 1;
  return {input, (input + 2 * pad - extent) / stride + 1, kernel, stride, dilation, pad};
}

// Two examples with one to three spatial axes.
inline std::vector<ConvGeometry> Geometries(int64_t channels) {
  const ConvAxis trivial = Axis(1, 1, 1, 1, 0);
  return {
      {2, channels, {trivial, trivial, Axis(37, 3, 1, 2, 2)}},
      {2, channels, {trivial, Axis(9, 3, 1, 1, 1), Axis(11, 5, 2, 1, 2)}},
      {2, channels, {Axis(4, 2, 1, 1, 0), Axis(5, 3, 2, 1, 1), Axis(6, 1, 3, 1, 0)}},
  };
}

inline int64_t CountInputs(const ConvGeometry& g) {
  return g.axis[0].input * g.axis[1].input * g.axis[2].input;
}

inline int64_t CountOutputs(const ConvGeometry& g) {
  return g.axis[0].output * g.axis[1].output * g.axis[2].output;
}

inline int64_t CountTaps(const ConvGeometry& g) {
  return g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
}

using Position = std::array<int64_t, kMaxSpatialAxes>;

// Calls body(p, t, position in the input) for every output position p and tap t.
template <typename Body>
void ForEachTap(const ConvGeometry& g, const Body& body) {
  for (int64_t p = 0; p < CountOutputs(g); ++p) {
    for (int64_t t = 0; t < CountTaps(g); ++t) {
      Position position;
      int64_t outputs = p;
      int64_t taps = t;
      for (int i = kMaxSpatialAxes; i-- > 0;) {
        const ConvAxis& axis = g.axis[i];
        position[i] = outputs % axis.output * axis.stride - axis.pad +
                      taps % axis.kernel * axis.dilation;
        outputs /= axis.output;
        taps /= axis.kernel;
      }
      body(p, t, position);
    }
  }
}

// Index of a pixel of an image; -1 outside.
inline int64_t Pixel(const ConvGeometry& g, const Position& position) {
  int64_t pixel = 0;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    if (position[i] < 0 || position[i] >= g.axis[i].input) return -1;
    pixel = pixel * g.axis[i].input + position[i];
  }
  return pixel;
}

}  // namespace tfconv

#endif  // TFCONV_TESTING_PASSES_H_
