// Products of matrices, sums of lanes and scratch memory, for each instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "testing/passes.h"
#include "testing/probe.h"

namespace tfconv {
namespace {

template <typename T>
class GemmTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GemmTest, Types);

TYPED_TEST(GemmTest, MultipliesAnyNumberOfRowsAndColumns) {
  using T = TypeParam;
  for (const Isa isa : Isas()) {
    const auto probes = KernelsOf<Probes<T>>(isa);
    for (const bool transposed : {false, true}) {
      for (const int64_t depth : {1, 7, 90}) {
        for (const int64_t rows : {1, 2, 7, 13, 14, 15, 29, 96}) {
          for (const int64_t columns : {1, 3, 8, 16, 17, 31, 33, 80}) {
            const std::vector<T> a = Random<T>(rows * depth);
            const std::vector<T> b = Random<T>(depth * columns);
            std::vector<T> expected(static_cast<size_t>(rows * columns));
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t k = 0; k < depth; ++k) {
                const T factor = a[transposed ? k * rows + r : r * depth + k];
                for (int64_t j = 0; j < columns; ++j) {
                  expected[r * columns + j] += factor * b[k * columns + j];
                }
              }
            }
            std::vector<T> c = Unwritten<T>(rows * columns);
            probes.multiply(a.data(), transposed, b.data(), c.data(), false, rows, depth, columns);
            ExpectNear(c, expected);
            probes.multiply(a.data(), transposed, b.data(), c.data(), true, rows, depth, columns);
            for (T& value : expected) value *= 2;
            ExpectNear(c, expected);
          }
        }
      }
    }
  }
}

TYPED_TEST(GemmTest, AddsLanes) {
  using T = TypeParam;
  for (const Isa isa : Isas()) {
    const auto probes = KernelsOf<Probes<T>>(isa);
    const int lanes = probes.lanes;
    const int vectors = std::max(4, lanes);
    const std::vector<T> values = Random<T>(vectors * lanes);
    std::vector<T> expected(static_cast<size_t>(vectors));
    for (int i = 0; i < vectors; ++i) {
      for (int j = 0; j < lanes; ++j) expected[i] += values[i * lanes + j];
    }
    std::vector<T> sums;
    for (int i = 0; i < vectors; ++i) sums.push_back(probes.sum_lanes(&values[i * lanes]));
    ExpectNear(sums, expected);

    probes.sum_lanes_of_each(values.data(), sums.data());
    ExpectNear(sums, expected);

    sums.assign(4, T(10));
    probes.add_sums_of_four(values.data(), sums.data());
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(sums[i], 10 + expected[i], 1e-5);
  }
}

TYPED_TEST(GemmTest, ArenaCountsWhatItHandsOut) {
  using T = TypeParam;
  const std::vector<int64_t> counts = {1, 0, 16, 17, 1000};
  for (const Isa isa : Isas()) {
    const auto probes = KernelsOf<Probes<T>>(isa);
    const int number = static_cast<int>(counts.size());
    std::vector<T*> pieces(counts.size());
    const int64_t bytes = probes.take(nullptr, counts.data(), number, pieces.data());
    for (const T* piece : pieces) EXPECT_EQ(piece, nullptr);

    const std::unique_ptr<void, void (*)(void*)> memory(
        std::aligned_alloc(64, static_cast<size_t>(bytes)), std::free);
    EXPECT_EQ(probes.take(memory.get(), counts.data(), number, pieces.data()), bytes);
    const T* end = static_cast<const T*>(memory.get());
    for (int i = 0; i < number; ++i) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces[i]) % 64, 0);
      EXPECT_GE(pieces[i], end);  // of the piece before
      end = pieces[i] + counts[i];
    }
    EXPECT_LE(static_cast<const void*>(end), static_cast<const char*>(memory.get()) + bytes);
  }
}

}  // namespace
}  // namespace tfconv
