// Involution against its definition, for each instruction set and division of the work.
#include "involution/involution_kernel.h"

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
  std::vector<T> dkernel;
};

template <typename T>
Results<T> Expected(const InvolutionArgs<T>& args, const Results<T>& like) {
  const ConvGeometry& g = args.geometry;
  const int64_t width = g.channels / args.groups;
  Results<T> r = {std::vector<T>(like.y.size()), std::vector<T>(like.dx.size()),
                  std::vector<T>(like.dkernel.size())};
  for (int64_t n = 0; n < g.batch; ++n) {
    ForEachTap(g, [&](int64_t p, int64_t t, const Position& position) {
      const int64_t pixel = Pixel(g, position);
      if (pixel < 0) return;
      for (int64_t c = 0; c < g.channels; ++c) {
        const int64_t x = (n * CountInputs(g) + pixel) * g.channels + c;
        const int64_t y = (n * CountOutputs(g) + p) * g.channels + c;
        const int64_t group = (n * CountOutputs(g) + p) * args.groups + c / width;
        const int64_t k = group * CountTaps(g) + t;
        r.y[y] += args.kernel[k] * args.x[x];
        r.dx[x] += args.kernel[k] * args.dy[y];
        r.dkernel[k] += args.x[x] * args.dy[y];
      }
    });
  }
  return r;
}

template <typename T>
class InvolutionTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(InvolutionTest, Types);

TYPED_TEST(InvolutionTest, MatchesTheDefinition) {
  using T = TypeParam;
  for (const int64_t width : {1, 5, 16, 40}) {
    for (const ConvGeometry& g : Geometries(2 * width)) {
      InvolutionArgs<T> args = {};
      args.geometry = g;
      args.groups = 2;
      const int64_t inputs = g.batch * CountInputs(g) * g.channels;
      const int64_t outputs = g.batch * CountOutputs(g) * g.channels;
      const int64_t weights = g.batch * CountOutputs(g) * args.groups * CountTaps(g);
      const std::vector<T> x = Random<T>(inputs);
      const std::vector<T> kernel = Random<T>(weights);
      const std::vector<T> dy = Random<T>(outputs);
      args.x = x.data();
      args.kernel = kernel.data();
      args.dy = dy.data();
      for (const Isa isa : Isas()) {
        SCOPED_TRACE(static_cast<int>(isa));
        const auto run = [&](const Division& division) {
          Results<T> r = {Unwritten<T>(outputs), Unwritten<T>(inputs), Unwritten<T>(weights)};
          args.y = r.y.data();
          args.dx = r.dx.data();
          args.dkernel = r.dkernel.data();
          const auto kernels = KernelsOf<InvolutionKernels<T>>(isa);
          RunPass(args, kernels.forward, division);
          RunPass(args, kernels.backward_input, division);
          RunPass(args, kernels.backward_kernel, division);
          return r;
        };
        const Results<T> results = run(kAsOne);
        const Results<T> expected = Expected(args, results);
        ExpectNear(results.y, expected.y);
        ExpectNear(results.dx, expected.dx);
        ExpectNear(results.dkernel, expected.dkernel);
        for (const Division& division : kDivisions) {
          const Results<T> divided = run(division);
          EXPECT_EQ(divided.y, results.y);
          EXPECT_EQ(divided.dx, results.dx);
          EXPECT_EQ(divided.dkernel, results.dkernel);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tfconv
