// Convolution per example against its definition, for each instruction set and division of the
// work.
#include "per_example/per_example_kernel.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "testing/passes.h"

namespace tfconv {
namespace {

template <typename T>
struct Results {
  std::vector<T> y;
  std::vector<T> dx;
  std::vector<T> dfilter;
};

template <typename T>
Results<T> Expected(const PerExampleArgs<T>& args, const Results<T>& like) {
  const ConvGeometry& g = args.geometry;
  const int64_t width = g.channels / args.groups;
  const int64_t filters = args.filters / args.groups;
  Results<T> r = {std::vector<T>(like.y.size()), std::vector<T>(like.dx.size()),
                  std::vector<T>(like.dfilter.size())};
  for (int64_t n = 0; n < g.batch; ++n) {
    ForEachTap(g, [&](int64_t p, int64_t t, const Position& position) {
      const int64_t pixel = Pixel(g, position);
      if (pixel < 0) return;
      for (int64_t c = 0; c < g.channels; ++c) {
        const int64_t x = (n * CountInputs(g) + pixel) * g.channels + c;
        for (int64_t i = 0; i < filters; ++i) {
          const int64_t f = c / width * filters + i;
          const int64_t y = (n * CountOutputs(g) + p) * args.filters + f;
          const int64_t w = ((n * CountTaps(g) + t) * width + c % width) * args.filters + f;
          r.y[y] += args.filter[w] * args.x[x];
          r.dx[x] += args.filter[w] * args.dy[y];
          r.dfilter[w] += args.x[x] * args.dy[y];
        }
      }
    });
  }
  return r;
}

template <typename T>
class PerExampleTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(PerExampleTest, Types);

TYPED_TEST(PerExampleTest, MatchesTheDefinition) {
  using T = TypeParam;
  for (const int64_t groups : {1, 3}) {
    for (const ConvGeometry& g : Geometries(12)) {
      PerExampleArgs<T> args = {};
      args.geometry = g;
      args.groups = groups;
      args.filters = 15;
      const int64_t inputs = g.batch * CountInputs(g) * g.channels;
      const int64_t outputs = g.batch * CountOutputs(g) * args.filters;
      const int64_t weights = g.batch * CountTaps(g) * g.channels / groups * args.filters;
      const std::vector<T> x = Random<T>(inputs);
      const std::vector<T> filter = Random<T>(weights);
      const std::vector<T> dy = Random<T>(outputs);
      args.x = x.data();
      args.filter = filter.data();
      args.dy = dy.data();
      for (const Isa isa : Isas()) {
        SCOPED_TRACE(static_cast<int>(isa));
        const auto run = [&](const Division& division) {
          Results<T> r = {Unwritten<T>(outputs), Unwritten<T>(inputs), Unwritten<T>(weights)};
          args.y = r.y.data();
          args.dx = r.dx.data();
          args.dfilter = r.dfilter.data();
          const auto kernels = KernelsOf<PerExampleKernels<T>>(isa);
          RunPass(args, kernels.convolve, division);
          RunPass(args, kernels.backward_input, division);
          std::vector<T> partial = Unwritten<T>(kernels.partial_size(args));
          args.partial = partial.data();
          RunPass(args, kernels.backward_filter, division);
          RunPass(args, kernels.sum_filter, division);
          return r;
        };
        const Results<T> results = run(kAsOne);
        const Results<T> expected = Expected(args, results);
        ExpectNear(results.y, expected.y);
        ExpectNear(results.dx, expected.dx);
        ExpectNear(results.dfilter, expected.dfilter);
        for (const Division& division : kDivisions) {
          const Results<T> divided = run(division);
          EXPECT_EQ(divided.y, results.y);
          EXPECT_EQ(divided.dx, results.dx);
          EXPECT_EQ(divided.dfilter, results.dfilter);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tfconv
