// Deformable convolution against its definition, for each instruction set and division of the
// work.
#include "deformable/deformable_kernel.h"

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
  std::vector<T> columns;
  std::vector<T> y;
  std::vector<T> dx;
  std::vector<T> doffset;
  std::vector<T> dmask;
  std::vector<T> dfilter;
};

template <typename T>
Results<T> Expected(const DeformableArgs<T>& args, const Results<T>& like) {
  const ConvGeometry& g = args.geometry;
  const int64_t taps = CountTaps(g);
  const int64_t width = g.channels / args.groups;
  const int64_t filters = args.filters / args.groups;
  Results<T> r = {std::vector<T>(like.columns.size()), std::vector<T>(like.y.size()),
                  std::vector<T>(like.dx.size()),      std::vector<T>(like.doffset.size()),
                  std::vector<T>(like.dmask.size()),   std::vector<T>(like.dfilter.size())};
  for (int64_t n = 0; n < g.batch; ++n) {
    ForEachTap(g, [&](int64_t p, int64_t t, const Position& position) {
      const int64_t output = n * CountOutputs(g) + p;
      for (int64_t c = 0; c < g.channels; ++c) {
        const int64_t column = (output * taps + t) * g.channels + c;
        const int64_t group = c / (g.channels / args.offset_groups);
        const int64_t m = (output * args.offset_groups + group) * taps + t;
        std::array<T, kMaxSpatialAxes> at = {};
        for (int i = 0; i < args.rank; ++i) {
          const int axis = kMaxSpatialAxes - args.rank + i;
          at[axis] = static_cast<T>(position[axis]) + args.offset[args.rank * m + i];
        }
        // The linear sample, with its derivatives along the axes.
        const auto for_each_corner = [&](const auto& body) {
          for (int corner = 0; corner < 1 << args.rank; ++corner) {
            Position pixel = {};
            std::array<T, kMaxSpatialAxes> along = {1, 1, 1}, by = {1, 1, 1};
            for (int axis = kMaxSpatialAxes - args.rank; axis < kMaxSpatialAxes; ++axis) {
              const bool far = corner >> (kMaxSpatialAxes - 1 - axis) & 1;
              const T i = std::floor(at[axis]) + (far ? 1 : 0);
              pixel[axis] = static_cast<int64_t>(i);
              along[axis] = 1 - std::abs(at[axis] - i);
              for (int other = 0; other < kMaxSpatialAxes; ++other) {
                by[other] *= other == axis ? (far ? T(1) : T(-1)) : along[axis];
              }
            }
            const int64_t x = Pixel(g, pixel);
            if (x < 0) continue;
            body((n * CountInputs(g) + x) * g.channels + c, along[0] * along[1] * along[2], by);
          }
        };
        T sample = 0;
        std::array<T, kMaxSpatialAxes> slope = {};
        for_each_corner([&](int64_t x, T weight, const auto& by) {
          sample += weight * args.x[x];
          for (int i = 0; i < kMaxSpatialAxes; ++i) slope[i] += by[i] * args.x[x];
        });
        r.columns[column] = args.mask[m] * sample;
        T dcolumn = 0;
        for (int64_t i = 0; i < filters; ++i) {
          const int64_t f = c / width * filters + i;
          const int64_t weight = (t * width + c % width) * args.filters + f;
          const T dy = args.dy[output * args.filters + f];
          r.y[output * args.filters + f] += r.columns[column] * args.filter[weight];
          r.dfilter[weight] += r.columns[column] * dy;
          dcolumn += dy * args.filter[weight];
        }
        for_each_corner(
            [&](int64_t x, T weight, const auto&) { r.dx[x] += dcolumn * args.mask[m] * weight; });
        r.dmask[m] += dcolumn * sample;
        for (int i = 0; i < args.rank; ++i) {
          r.doffset[args.rank * m + i] +=
              dcolumn * args.mask[m] * slope[kMaxSpatialAxes - args.rank + i];
        }
      }
    });
  }
  return r;
}

// As the ops run them.
template <typename T>
void RunAll(DeformableArgs<T> args, Isa isa, const Division& division) {
  const auto sampling = KernelsOf<DeformableSampleKernels<T>>(isa);
  const auto kernels = KernelsOf<DeformableConvKernels<T>>(isa);
  RunPass(args, sampling.sample, division);

  // For what is not written, NaN in every type.
  const auto memory = [](int64_t bytes) {
    return std::vector<uint8_t>(static_cast<size_t>(bytes), 0xff);
  };
  std::vector<uint8_t> packed = memory(kernels.packed_filter_bytes(args));
  std::vector<Accumulator<T>> sums = Unwritten<Accumulator<T>>(kernels.partial_sums_size(args));
  args.packed_filter = packed.data();
  args.partial = sums.data();
  RunPass(args, kernels.pack_filter, division);
  RunPass(args, kernels.convolve, division);
  RunPass(args, kernels.sum_slices, division);

  packed = memory(kernels.packed_filter_transposed_bytes(args));
  std::vector<uint8_t> dx_parts = memory(sampling.dx_parts_bytes(args));
  std::vector<T> partial = Unwritten<T>(sampling.partial_size(args));
  args.packed_filter = packed.data();
  args.dx_parts = dx_parts.data();
  args.partial = partial.data();
  RunPass(args, kernels.pack_filter_transposed, division);
  RunPass(args, kernels.backward_input, division);
  RunPass(args, sampling.sum_dx, division);
  RunPass(args, sampling.sum_partial, division);

  packed = memory(kernels.packed_dy_bytes(args));
  partial = Unwritten<T>(kernels.partial_filter_size(args));
  args.packed_dy = packed.data();
  args.partial_filter = partial.data();
  RunPass(args, kernels.pack_dy, division);
  RunPass(args, kernels.backward_filter, division);
  RunPass(args, kernels.sum_filter, division);
}

template <typename T>
class DeformableTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(DeformableTest, Types);

TYPED_TEST(DeformableTest, MatchesTheDefinition) {
  using T = TypeParam;
  struct Sizes {
    int64_t channels;
    int64_t offset_groups;
    int64_t groups;
    int64_t filters;
    int rank;
  };
  for (const Sizes& sizes :
       {Sizes{6, 3, 1, 4, 2}, Sizes{20, 2, 2, 34, 2}, Sizes{200, 1, 1, 3, 2}, Sizes{20, 2, 2, 6, 1},
        Sizes{70, 1, 1, 3, 1}, Sizes{20, 2, 2, 6, 3}, Sizes{70, 1, 1, 3, 3}}) {
    const ConvGeometry g = Geometries(sizes.channels)[static_cast<size_t>(sizes.rank - 1)];
    DeformableArgs<T> args = {};
    args.geometry = g;
    args.rank = sizes.rank;
    args.offset_groups = sizes.offset_groups;
    args.groups = sizes.groups;
    args.filters = sizes.filters;
    const int64_t inputs = g.batch * CountInputs(g) * g.channels;
    const int64_t outputs = g.batch * CountOutputs(g) * sizes.filters;
    const int64_t masks = g.batch * CountOutputs(g) * sizes.offset_groups * CountTaps(g);
    const int64_t weights = CountTaps(g) * sizes.channels / sizes.groups * sizes.filters;
    const int64_t columns = g.batch * CountOutputs(g) * CountTaps(g) * g.channels;
    const std::vector<T> x = Random<T>(inputs);
    std::vector<T> offset = Random<T>(sizes.rank * masks);
    for (T& value : offset) value *= 3;
    const std::vector<T> mask = Random<T>(masks);
    const std::vector<T> filter = Random<T>(weights);
    const std::vector<T> dy = Random<T>(outputs);
    args.x = x.data();
    args.offset = offset.data();
    args.mask = mask.data();
    args.filter = filter.data();
    args.dy = dy.data();
    for (const Isa isa : Isas()) {
      SCOPED_TRACE(static_cast<int>(isa));
      const auto run = [&](const Division& division) {
        Results<T> r = {Unwritten<T>(columns),   Unwritten<T>(outputs), Unwritten<T>(inputs),
                        Unwritten<T>(sizes.rank * masks), Unwritten<T>(masks),   Unwritten<T>(weights)};
        args.columns = r.columns.data();
        args.y = r.y.data();
        args.dx = r.dx.data();
        args.doffset = r.doffset.data();
        args.dmask = r.dmask.data();
        args.dfilter = r.dfilter.data();
        RunAll(args, isa, division);
        return r;
      };
      const Results<T> results = run(kAsOne);
      const Results<T> expected = Expected(args, results);
      ExpectNear(results.columns, expected.columns);
      ExpectNear(results.y, expected.y);
      ExpectNear(results.dx, expected.dx);
      ExpectNear(results.doffset, expected.doffset);
      ExpectNear(results.dmask, expected.dmask);
      ExpectNear(results.dfilter, expected.dfilter);
      for (const Division& division : kDivisions) {
        const Results<T> divided = run(division);
        EXPECT_EQ(divided.columns, results.columns);
        EXPECT_EQ(divided.y, results.y);
        EXPECT_EQ(divided.dx, results.dx);
        EXPECT_EQ(divided.doffset, results.doffset);
        EXPECT_EQ(divided.dmask, results.dmask);
        EXPECT_EQ(divided.dfilter, results.dfilter);
      }
    }
  }
}

}  // namespace
}  // namespace tfconv
