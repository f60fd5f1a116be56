#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/filter_gradient.h"
#include "common/gemm.h"
#include "common/product.h"
#include "common/vec.h"
#include "per_example/per_example_kernel.h"
#include "per_example/phases.h"
#include "per_example/pixel_grid.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

template <typename T>
int64_t NumTaps(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return axis[0].kernel * axis[1].kernel * axis[2].kernel;
}

template <typename T>
int64_t InputPositions(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return axis[0].input * axis[1].input * axis[2].input;
}

template <typename T>
int64_t OutputPositions(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return axis[0].output * axis[1].output * axis[2].output;
}

template <typename T>
int64_t GroupChannels(const PerExampleArgs<T>& args) {
  return args.geometry.channels / args.groups;
}

template <typename T>
int64_t GroupFilters(const PerExampleArgs<T>& args) {
  return args.filters / args.groups;
}

// The filter of an example.
template <typename T>
const T* FilterOf(const PerExampleArgs<T>& args, int64_t example) {
  return args.filter + example * NumTaps(args) * GroupChannels(args) * args.filters;
}

// Cuts rows and columns: a filter comes from memory, pixels from the cache.
template <typename T>
RowProducts<T> Divided(RowProducts<T> products) {
  products.Divide(kMaxTiles * Gemm<Factor<T>>::kTileRows, 1, RowProducts<T>::kColumnStep, 2);
  return products;
}

// y, whose positions are rows.
template <typename T>
GridRows<T> RowsOfOutputs(const PerExampleArgs<T>& args, int64_t example) {
  PixelGrid<T> grid;
  grid.image = args.x + example * InputPositions(args) * args.geometry.channels;
  grid.channels = args.geometry.channels;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    const ConvAxis& axis = args.geometry.axis[i];
    grid.axis[i] = {axis.input, axis.output, axis.kernel, -axis.pad, axis.stride, axis.dilation};
  }
  return {grid, GroupChannels(args)};
}

template <typename T>
bool HasSmallGroups(const PerExampleArgs<T>& args) {
  return SmallGroups<Factor<T>>::Exist(args.groups, GroupChannels(args), GroupFilters(args));
}

template <typename T>
DepthBlocks BlocksOfOutputs(const PerExampleArgs<T>& args) {
  using G = Gemm<Factor<T>>;
  if (HasSmallGroups(args)) {
    return DepthBlocks::OfSmallGroups(args.groups, NumTaps(args), GroupChannels(args),
                                      G::kTileColumns,
                                      SmallGroups<Factor<T>>::InVector(GroupFilters(args)));
  }
  return DepthBlocks(args.groups, NumTaps(args), GroupChannels(args), G::kDepth, G::kTileColumns,
                     G::kPair);
}

template <typename T>
RowProducts<T> ProductsOfOutputs(const PerExampleArgs<T>& args) {
  return Divided(RowProducts<T>(args.geometry.batch, OutputPositions(args), args.groups,
                                NumTaps(args) * GroupChannels(args), GroupFilters(args)));
}

template <typename T>
struct ConvolveScratch : RowScratch<T> {
  ConvolveScratch(const PerExampleArgs<T>& args, const RowProducts<T>& products,
                  const DepthBlocks& blocks, Arena* arena)
      : RowScratch<T>(
            products, !kIsHalf<T>,
            HasSmallGroups(args) ? 0 : blocks.groups() * products.GroupSize(blocks.depth()),
            HasSmallGroups(args) ? blocks.WeightsSize<Accumulator<T>>(GroupFilters(args)) : 0,
            arena) {}
};

template <typename T>
PassPlan PlanConvolve(const PerExampleArgs<T>& args) {
  Arena arena(nullptr);
  const RowProducts<T> products = ProductsOfOutputs(args);
  ConvolveScratch<T> scratch(args, products, BlocksOfOutputs(args), &arena);
  return products.Plan(arena);
}

template <typename T>
void Convolve(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  const DepthBlocks blocks = BlocksOfOutputs(args);
  const RowProducts<T> products = ProductsOfOutputs(args);
  const ConvolveScratch<T> s(args, products, blocks, &arena);
  const int64_t filters = GroupFilters(args);
  const SmallGroups<Factor<T>> small_groups(GroupChannels(args), filters);
  for (int64_t number = begin; number < end; ++number) {
    const RowUnit unit = products.At(number);
    T* y = args.y + (unit.other * OutputPositions(args) + unit.row) * args.filters + unit.column;
    const auto sums =
        SumsOf<T>(unit, args.groups, !kIsHalf<T>, y, args.filters, filters, s.sums);
    const FilterSide<T> side = {FilterOf(args, unit.other),
                                GroupChannels(args),
                                args.filters,
                                filters,
                                unit.column,
                                unit.columns,
                                products.GroupSize(blocks.depth()),
                                s.packed,
                                nullptr,
                                0,
                                HasSmallGroups(args) ? &small_groups : nullptr,
                                s.weights};
    MultiplyRows(blocks, unit, RowsOfOutputs(args, unit.other), side, s.tile, sums);
    if constexpr (kIsHalf<T>) {
      StoreRows<T>(sums, unit.rows(), args.groups, unit.columns, filters,
                   [&](int64_t r) { return y + r * args.filters; });
    }
  }
}

template <typename T>
int64_t NumPhases(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return NumAxisPhases(axis[0]) * NumAxisPhases(axis[1]) * NumAxisPhases(axis[2]);
}

// Positions of the largest phase.
template <typename T>
int64_t PhasePositions(const PerExampleArgs<T>& args) {
  int64_t positions = 1;
  for (const ConvAxis& axis : args.geometry.axis) positions *= CeilDiv(axis.input, axis.stride);
  return positions;
}

// Rows of the phases are neighbours in dx if there is one phase.
template <typename T>
bool IsInPlace(const PerExampleArgs<T>& args) {
  return NumPhases(args) == 1 && !kIsHalf<T>;
}

template <typename T>
bool HasSmallTransposedGroups(const PerExampleArgs<T>& args) {
  return SmallGroups<Factor<T>>::Exist(args.groups, GroupFilters(args), GroupChannels(args));
}

// Each tap's filters are packed by themselves, hence in whole pairs.
template <typename T>
DepthBlocks BlocksOfPhases(const PerExampleArgs<T>& args, int64_t taps) {
  using G = Gemm<Factor<T>>;
  const int64_t filters = GroupFilters(args);
  if (HasSmallTransposedGroups(args)) {
    return DepthBlocks::OfSmallGroups(args.groups, taps, filters, G::kTileColumns,
                                      SmallGroups<Factor<T>>::InVector(GroupChannels(args)));
  }
  const int64_t depth = filters % G::kPair == 0 ? G::kDepth : Min<int64_t>(G::kDepth, filters);
  return DepthBlocks(args.groups, taps, filters, depth, G::kTileColumns, G::kPair);
}

template <typename T>
RowProducts<T> ProductsOfPhases(const PerExampleArgs<T>& args) {
  const int64_t taps = CeilDiv(NumTaps(args), NumPhases(args));
  return Divided(RowProducts<T>(args.geometry.batch * NumPhases(args), PhasePositions(args),
                                args.groups, taps * GroupFilters(args), GroupChannels(args)));
}

template <typename T>
struct InputScratch : RowScratch<T> {
  using G = Gemm<Factor<T>>;

  InputScratch(const PerExampleArgs<T>& args, const RowProducts<T>& products, Arena* arena)
      : RowScratch<T>(products, IsInPlace(args), MaxGroups(args) * GroupSize(args, products),
                      HasSmallTransposedGroups(args)
                          ? BlocksOfPhases(args, NumTaps(args))
                                .template WeightsSize<Accumulator<T>>(GroupChannels(args))
                          : 0,
                      arena) {}

  // Of any phase.
  static int64_t MaxGroups(const PerExampleArgs<T>& args) {
    return Min(args.groups, Max<int64_t>(1, G::kTileColumns / GroupFilters(args)));
  }
  static int64_t GroupSize(const PerExampleArgs<T>& args, const RowProducts<T>& products) {
    return products.GroupSize(Min<int64_t>(G::kDepth, NumTaps(args) * GroupFilters(args)));
  }
};

template <typename T>
PassPlan PlanBackwardInput(const PerExampleArgs<T>& args) {
  Arena arena(nullptr);
  const RowProducts<T> products = ProductsOfPhases(args);
  InputScratch<T> scratch(args, products, &arena);
  return products.Plan(arena);
}

// dx of the phases' rows: the pixels are positions of y, the taps those of the phases.
template <typename T>
GridRows<T> RowsOfPhases(const PerExampleArgs<T>& args, int64_t example, const Phase* phases) {
  PixelGrid<T> grid;
  grid.image = args.dy + example * OutputPositions(args) * args.filters;
  grid.channels = args.filters;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    const ConvAxis& axis = args.geometry.axis[i];
    const Phase& phase = phases[i];
    const int64_t first = phase.first + axis.pad - phase.last_tap * axis.dilation;
    grid.axis[i] = {axis.output,
                    phase.positions,
                    phase.taps,
                    first / axis.stride,
                    1,
                    phase.tap_step * axis.dilation / axis.stride};
  }
  return {grid, GroupFilters(args)};
}

// The filter's tap that a tap of the phases is.
template <typename T>
int64_t TapOfPhases(const PerExampleArgs<T>& args, const Phase* phases, int64_t tap) {
  const ConvAxis* axis = args.geometry.axis;
  const int64_t k = phases[2].last_tap - tap % phases[2].taps * phases[2].tap_step;
  tap /= phases[2].taps;
  const int64_t j = phases[1].last_tap - tap % phases[1].taps * phases[1].tap_step;
  const int64_t i = phases[0].last_tap - tap / phases[1].taps * phases[0].tap_step;
  return (i * axis[1].kernel + j) * axis[2].kernel + k;
}

// The pixel of dx that a position of the phases is.
template <typename T>
int64_t PixelOfPhases(const PerExampleArgs<T>& args, const Phase* phases, int64_t position) {
  const ConvAxis* axis = args.geometry.axis;
  const int64_t k = position % phases[2].positions;
  const int64_t j = position / phases[2].positions % phases[1].positions;
  const int64_t i = position / phases[2].positions / phases[1].positions;
  return ((phases[0].first + i * axis[0].stride) * axis[1].input + phases[1].first +
          j * axis[1].stride) *
             axis[2].input +
         phases[2].first + k * axis[2].stride;
}

// Panels of an example's filter, transposed, for channels [column, column + columns) of each group.
template <typename T>
struct TransposedFilterSide {
  using F = Factor<T>;
  using G = Gemm<F>;

  const F* Pack(const DepthBlock& block, int64_t) const {
    if (small_groups != nullptr) {
      const int64_t stride = small_groups->WeightStride(block.groups());
      memset(weights, 0, static_cast<size_t>(block.depth() * stride) * sizeof(*weights));
      for (int64_t tap = block.tap; tap < block.tap_end; ++tap) {
        const int64_t row = TapOfPhases(args, phases, tap) * GroupChannels(args);
        TransposeGroups(filter + row * args.filters + block.group * GroupFilters(args),
                        args.filters, block.groups(),
                        GroupChannels(args), GroupFilters(args), stride,
                        weights + (tap - block.tap) * block.channels() * stride);
      }
      return nullptr;
    }
    const int64_t depth = G::PackedDepth(block.depth());
    for (int64_t g = block.group; g < block.group_end; ++g) {
      for (int64_t tap = block.tap; tap < block.tap_end; ++tap) {
        const int64_t row = TapOfPhases(args, phases, tap) * GroupChannels(args) + column;
        const T* rows = filter + row * args.filters + g * GroupFilters(args) + block.channel;
        F* panels = packed + (g - block.group) * group_size;
        for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
          const int64_t first = p * G::kPanel;
          const int64_t width = G::PanelWidth(columns, p);
          PackTransposed(rows + first * args.filters, args.filters, block.channels(),
                         Min(width, columns - first), width,
                         panels + first * depth + (tap - block.tap) * block.channels() * width);
        }
      }
    }
    return packed;
  }

  const PerExampleArgs<T>& args;
  const Phase* phases;
  const T* filter;
  int64_t column;
  int64_t columns;
  int64_t group_size;
  F* packed;
  const SmallGroups<F>* small_groups;  // null where groups have panels
  Accumulator<T>* weights;             // of small groups
};

template <typename T>
void BackwardInput(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  const RowProducts<T> products = ProductsOfPhases(args);
  const InputScratch<T> s(args, products, &arena);
  const bool in_place = IsInPlace(args);
  const int64_t channels = GroupChannels(args);
  const int64_t all_channels = args.geometry.channels;
  const int64_t num_phases = NumPhases(args);
  const ConvAxis* axis = args.geometry.axis;
  const SmallGroups<Factor<T>> small_groups(GroupFilters(args), channels);
  for (int64_t number = begin; number < end; ++number) {
    RowUnit unit = products.At(number);
    const int64_t example = unit.other / num_phases;
    const int64_t phase = unit.other % num_phases;
    const Phase phases[kMaxSpatialAxes] = {
        MakePhase(axis[0], phase / NumAxisPhases(axis[2]) / NumAxisPhases(axis[1])),
        MakePhase(axis[1], phase / NumAxisPhases(axis[2]) % NumAxisPhases(axis[1])),
        MakePhase(axis[2], phase % NumAxisPhases(axis[2]))};
    const GridRows<T> rows = RowsOfPhases(args, example, phases);
    unit.row_end = Min(unit.row_end, NumPositions(rows.grid));
    if (unit.row >= unit.row_end) continue;
    T* dx = args.dx + example * InputPositions(args) * all_channels + unit.column;
    const auto sums = SumsOf<T>(unit, args.groups, in_place, dx + unit.row * all_channels,
                                all_channels, channels, s.sums);
    const TransposedFilterSide<T> side = {
        args,        phases,       FilterOf(args, example),
        unit.column, unit.columns, InputScratch<T>::GroupSize(args, products),
        s.packed,    HasSmallTransposedGroups(args) ? &small_groups : nullptr,
        s.weights};
    const DepthBlocks blocks = BlocksOfPhases(args, NumGridTaps(rows.grid));
    if (blocks.count() == 0) {  // no tap meets these pixels
      for (int64_t i = 0; i < unit.rows() * args.groups; ++i) {
        ClearElements(sums.rows + i / args.groups * sums.stride +
                          i % args.groups * sums.group_stride,
                      unit.columns);
      }
    }
    MultiplyRows(blocks, unit, rows, side, s.tile, sums);
    if (in_place) continue;
    StoreRows<T>(sums, unit.rows(), args.groups, unit.columns, channels, [&](int64_t r) {
      return dx + PixelOfPhases(args, phases, unit.row + r) * all_channels;
    });
  }
}

template <typename T>
FilterGradient<T> GradientOf(const PerExampleArgs<T>& args) {
  return FilterGradient<T>(args.geometry.batch, args.groups, NumTaps(args), GroupChannels(args),
                           GroupFilters(args), OutputPositions(args), 0);
}

template <typename T>
PassPlan PlanBackwardFilter(const PerExampleArgs<T>& args) {
  Arena arena(nullptr);
  const FilterGradient<T> gradient = GradientOf(args);
  typename FilterGradient<T>::Scratch scratch(gradient, true, &arena);
  return gradient.Plan(arena);
}

// Panels of an example's dy, for filters [column, column + columns) of each group.
template <typename T>
struct GradientSide {
  using F = Factor<T>;

  const T* Rows(int64_t row) const { return dy + row * args.filters; }

  GradientPanels<F> Pack(int64_t row, int64_t row_end, int64_t group) const {
    const int64_t first = group * GroupFilters(args) + column;
    PackPanels(dy + row * args.filters + first, args.filters, row_end - row, columns, packed);
    return {packed, row_end - row, 0};
  }

  const PerExampleArgs<T>& args;
  const T* dy;
  int64_t column;
  int64_t columns;
  F* packed;
};

template <typename T>
void BackwardFilter(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  const FilterGradient<T> gradient = GradientOf(args);
  const typename FilterGradient<T>::Scratch s(gradient, true, &arena);
  const auto rows_of = [&](int64_t example) { return RowsOfOutputs(args, example); };
  const auto side_of = [&](int64_t example, int64_t column, int64_t columns) {
    const T* dy = args.dy + example * OutputPositions(args) * args.filters;
    return GradientSide<T>{args, dy, column, columns, s.packed};
  };
  for (int64_t unit = begin; unit < end; ++unit) {
    gradient.Run(unit, rows_of, side_of, s, args.partial, args.dfilter);
  }
}

template <typename T>
PassPlan PlanSumFilter(const PerExampleArgs<T>& args) {
  return GradientOf(args).PlanSum();
}

template <typename T>
void SumFilter(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void*) {
  GradientOf(args).Sum(args.partial, begin, end, args.dfilter);
}

template <typename T>
int64_t PartialSize(const PerExampleArgs<T>& args) {
  return GradientOf(args).partial_size();
}

template <typename T>
PerExampleKernels<T> Table() {
  PerExampleKernels<T> kernels;
  kernels.convolve = {PlanConvolve<T>, Convolve<T>};
  kernels.backward_input = {PlanBackwardInput<T>, BackwardInput<T>};
  kernels.backward_filter = {PlanBackwardFilter<T>, BackwardFilter<T>};
  kernels.sum_filter = {PlanSumFilter<T>, SumFilter<T>};
  kernels.partial_size = PartialSize<T>;
  return kernels;
}

}  // namespace

void GetKernels(PerExampleKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
#if !defined(TFCONV_HAS_DOT)
void GetKernels(PerExampleKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(PerExampleKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(PerExampleKernels<double>* kernels) { *kernels = Table<double>(); }
#endif

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
