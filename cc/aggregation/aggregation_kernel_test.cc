// Deformable aggregation against its definition, for each instruction set and division of the work.
#include "aggregation/aggregation_kernel.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "testing/passes.h"

namespace tfconv {
namespace {

template <typename T>
struct Results {
  std::vector<T> y;
  std::vector<T> dx;
  std::vector<T> doffset;
  std::vector<T> dweights;
};

template <typename T>
Results<T> Expected(const AggregationArgs<T>& args, const Results<T>& like) {
  const ConvGeometry& g = args.geometry;
  const int rank = static_cast<int>(args.rank);
  const int64_t width = g.channels / args.groups;
  Results<T> r = {std::vector<T>(like.y.size()), std::vector<T>(like.dx.size()),
                  std::vector<T>(like.doffset.size()), std::vector<T>(like.dweights.size())};
  for (int64_t n = 0; n < g.batch; ++n) {
    ForEachTap(g, [&](int64_t p, int64_t t, const Position& place) {
      for (int64_t c = 0; c < g.channels; ++c) {
        const int64_t y = (n * CountOutputs(g) + p) * g.channels + c;
        const int64_t group = (n * CountOutputs(g) + p) * args.groups + c / width;
        const int64_t k = group * CountTaps(g) + t;
        for (int corner = 0; corner < 1 << rank; ++corner) {
          Position at = place;
          std::array<T, kMaxSpatialAxes> factor, slope;
          T weight = 1;
          for (int a = 0; a < rank; ++a) {
            const int axis = kMaxSpatialAxes - rank + a;
            const int64_t further = (corner >> a) & 1;
            const T position = static_cast<T>(place[axis]) + args.offset[k * rank + a];
            const T fraction = position - std::floor(position);
            at[axis] = static_cast<int64_t>(std::floor(position)) + further;
            factor[a] = further ? fraction : 1 - fraction;
            slope[a] = further ? 1 : -1;
            weight *= factor[a];
          }
          const int64_t pixel = Pixel(g, at);
          if (pixel < 0) continue;
          const int64_t x = (n * CountInputs(g) + pixel) * g.channels + c;
          r.y[y] += args.weights[k] * weight * args.x[x];
          r.dx[x] += args.weights[k] * weight * args.dy[y];
          r.dweights[k] += weight * args.x[x] * args.dy[y];
          for (int a = 0; a < rank; ++a) {
            T others = slope[a];
            for (int b = 0; b < rank; ++b) others *= a == b ? 1 : factor[b];
            r.doffset[k * rank + a] += args.weights[k] * others * args.x[x] * args.dy[y];
          }
        }
      }
    });
  }
  return r;
}

template <typename T>
class AggregationTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(AggregationTest, Types);

TYPED_TEST(AggregationTest, MatchesTheDefinition) {
  using T = TypeParam;
  for (const int64_t width : {1, 5, 16, 40}) {
    int64_t rank = 0;
    for (const ConvGeometry& g : Geometries(2 * width)) {
      AggregationArgs<T> args = {};
      args.geometry = g;
      args.rank = ++rank;
      args.groups = 2;
      const int64_t inputs = g.batch * CountInputs(g) * g.channels;
      const int64_t outputs = g.batch * CountOutputs(g) * g.channels;
      const int64_t samples = g.batch * CountOutputs(g) * args.groups * CountTaps(g);
      const std::vector<T> x = Random<T>(inputs);
      std::vector<T> offset = Random<T>(samples * rank);
      for (T& value : offset) value *= 2;
      const std::vector<T> weights = Random<T>(samples);
      const std::vector<T> dy = Random<T>(outputs);
      args.x = x.data();
      args.offset = offset.data();
      args.weights = weights.data();
      args.dy = dy.data();
      for (const Isa isa : Isas()) {
        SCOPED_TRACE(static_cast<int>(isa));
        const auto kernels = KernelsOf<AggregationKernels<T>>(isa);
        const auto run = [&](const Division& division) {
          Results<T> r = {Unwritten<T>(outputs), Unwritten<T>(inputs),
                          Unwritten<T>(samples * rank), Unwritten<T>(samples)};
          std::vector<char> parts(static_cast<size_t>(kernels.dx_parts_bytes(args)));
          args.y = r.y.data();
          args.dx = r.dx.data();
          args.doffset = r.doffset.data();
          args.dweights = r.dweights.data();
          args.dx_parts = parts.data();
          RunPass(args, kernels.forward, division);
          RunPass(args, kernels.backward_sampling, division);
          RunPass(args, kernels.backward_input, division);
          RunPass(args, kernels.sum_dx, division);
          return r;
        };
        const Results<T> results = run(kAsOne);
        const Results<T> expected = Expected(args, results);
        ExpectNear(results.y, expected.y);
        ExpectNear(results.dx, expected.dx);
        ExpectNear(results.doffset, expected.doffset);
        ExpectNear(results.dweights, expected.dweights);
        for (const Division& division : kDivisions) {
          const Results<T> divided = run(division);
          EXPECT_EQ(divided.y, results.y);
          EXPECT_EQ(divided.dx, results.dx);
          EXPECT_EQ(divided.doffset, results.doffset);
          EXPECT_EQ(divided.dweights, results.dweights);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tfconv
