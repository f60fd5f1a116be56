#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/filter_gradient.h"
#include "common/gemm.h"
#include "common/product.h"
#include "common/vec.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_packing.h"
#include "deformable/deformable_sampling.h"
#include "deformable/deformable_spreading.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

// A source of rows: the samples of the positions of all images.
template <typename T>
struct SampledRows {
  void Fill(int64_t row, int64_t row_end, const DepthBlock& block, Factor<T>* tile) const {
    const int64_t c = block.group * channels + block.channel;
    const int64_t count = block.groups() * block.channels();
    sampler->StartTile(row, row_end - row, Gemm<Factor<T>>::kTileStride);
    for (int64_t tap = block.tap; tap < block.tap_end; ++tap) {
      sampler->Add(tap, c, c + count, tile + (tap - block.tap) * count);
    }
    sampler->Finish();
  }

  Sampler<T, Factor<T>>* sampler;
  int64_t channels;  // of a group
};

// Beside the products, the cycles of sampling all columns.
template <typename T>
double AllSampleCycles(const DeformableArgs<T>& args) {
  return static_cast<double>(Positions(args) * NumTaps(args.geometry)) *
         (20 + SampleCycles(args) * static_cast<double>(args.geometry.channels));
}

template <typename T>
RowProducts<T> ProductsOf(const DeformableArgs<T>& args) {
  using G = Gemm<Factor<T>>;
  RowProducts<T> products(1, Positions(args), args.groups,
                          NumTaps(args.geometry) * GroupChannels(args), GroupFilters(args));
  products.cycles += AllSampleCycles(args);
  products.Divide(G::kTileRows, 1, G::kPanel, 0);  // units pack nothing
  return products;
}

template <typename T>
DepthSlices<T> SlicesOf(const DeformableArgs<T>& args) {
  return DepthSlices<T>(ProductsOf(args), ColumnBlocks(args), AllSampleCycles(args));
}

template <typename T>
struct ConvolveScratch : RowScratch<T> {
  ConvolveScratch(const DeformableArgs<T>& args, const RowProducts<T>& products,
                  const DepthBlocks& blocks, Arena* arena)
      : RowScratch<T>(products, !kIsHalf<T>, 0,
                      HasSmallGroups(args) ? blocks.WeightsSize<Accumulator<T>>(GroupFilters(args))
                                           : 0,
                      arena),
        sampler(args, arena) {}

  Sampler<T, Factor<T>> sampler;
};

template <typename T>
struct SliceScratch {
  using F = Factor<T>;

  SliceScratch(const DeformableArgs<T>& args, const DepthSlices<T>& slices, Arena* arena)
      : tile(arena->Take<F>(Gemm<F>::kTileSize)),
        packed(arena->Take<F>(slices.blocks.groups() * slices.GroupSize())),
        sampler(args, arena) {}

  F* tile;
  F* packed;
  Sampler<T, F> sampler;
};

template <typename T>
PassPlan PlanConvolve(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  if (IsSliced(args)) {
    const DepthSlices<T> slices = SlicesOf(args);
    SliceScratch<T> scratch(args, slices, &arena);
    return slices.Plan(arena);
  }
  const RowProducts<T> products = ProductsOf(args);
  ConvolveScratch<T> scratch(args, products, ColumnBlocks(args), &arena);
  return products.Plan(arena);
}

template <typename T>
void ConvolveSlices(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  const DepthSlices<T> slices = SlicesOf(args);
  SliceScratch<T> s(args, slices, &arena);
  s.sampler.Clear();
  const SampledRows<T> rows = {&s.sampler, GroupChannels(args)};
  FilterSide<T> side = WholeFilter(args, slices.blocks);
  side.group_size = slices.GroupSize();
  side.packed = s.packed;
  side.all = nullptr;
  const int64_t per_group = slices.blocks.per_group();
  for (int64_t number = begin; number < end; ++number) {
    const int64_t slice = number / slices.columns.count % slices.count;
    const int64_t group = number / (slices.columns.count * slices.count);
    const int64_t first = slice * slices.blocks_of_slice;
    const int64_t last = Min(per_group, first + slices.blocks_of_slice);
    side.column = number % slices.columns.count * slices.columns.size;
    side.columns = Min(slices.columns.size, GroupFilters(args) - side.column);
    Accumulator<T>* part = args.partial + slice * slices.part_size() + side.column;
    const Sums<Accumulator<T>> sums = {part, args.filters, GroupFilters(args)};
    const RowUnit unit = {0, 0, slices.rows, side.column, side.columns};
    for (int64_t b = first; b < last; ++b) {
      const int64_t block = group * per_group + b;
      MultiplyRowsOfBlock(slices.blocks.At(block), block, unit, rows, side, s.tile, sums, b > first);
    }
  }
}

template <typename T>
void Convolve(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  if (IsSliced(args)) return ConvolveSlices(args, begin, end, memory);
  Arena arena(memory);
  const RowProducts<T> products = ProductsOf(args);
  const DepthBlocks blocks = ColumnBlocks(args);
  ConvolveScratch<T> s(args, products, blocks, &arena);
  s.sampler.Clear();
  const SampledRows<T> rows = {&s.sampler, GroupChannels(args)};
  const int64_t filters = GroupFilters(args);
  const SmallGroups<Factor<T>> small_groups(GroupChannels(args), filters);
  FilterSide<T> side = WholeFilter(args, blocks);
  if (HasSmallGroups(args)) {
    side.small_groups = &small_groups;
    side.weights = s.weights;
  }
  for (int64_t number = begin; number < end; ++number) {
    const RowUnit unit = products.At(number);
    side.column = unit.column;
    side.columns = unit.columns;
    T* y = args.y + unit.row * args.filters + unit.column;
    const auto sums = SumsOf<T>(unit, args.groups, !kIsHalf<T>, y, args.filters, filters, s.sums);
    MultiplyRows(blocks, unit, rows, side, s.tile, sums);
    if constexpr (kIsHalf<T>) {
      StoreRows<T>(sums, unit.rows(), args.groups, unit.columns, filters,
                   [&](int64_t r) { return y + r * args.filters; });
    }
  }
}

template <typename T>
int64_t PartialSumsSize(const DeformableArgs<T>& args) {
  if (!IsSliced(args)) return 0;
  const DepthSlices<T> slices = SlicesOf(args);
  return slices.count * slices.part_size();
}

template <typename T>
PassPlan PlanSumSlices(const DeformableArgs<T>& args) {
  if (!IsSliced(args)) return {0, 0, 0};
  const DepthSlices<T> slices = SlicesOf(args);
  return {CeilDiv(slices.part_size(), kSumUnit), 1 + kSumUnit * slices.count / 8, 0};
}

template <typename T>
void SumSlices(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  const DepthSlices<T> slices = SlicesOf(args);
  AddParts(args.partial, slices.count, slices.part_size(), begin * kSumUnit,
           Min(end * kSumUnit, slices.part_size()), args.y);
}

// Channels whose column gradients are computed at a time.
constexpr int64_t kGradientChannels = 256;

template <typename T>
struct ConvolveBackwardScratch {
  using F = Factor<T>;
  using G = Gemm<F>;
  static constexpr int64_t kStride = kGradientChannels + 2 * G::kPanel;

  ConvolveBackwardScratch(const DeformableArgs<T>& args, Arena* arena)
      : spreader(args, arena),
        dcolumns(arena->Take<Accumulator<T>>(G::kTileRows * kStride)),
        dy(arena->Take<F>(
            CeilDiv(args.groups * G::PackedDepth(GroupFilters(args)), G::kTileColumns) *
            G::kTileSize)) {}

  Spreader<T> spreader;
  Accumulator<T>* dcolumns;
  F* dy;  // of a tile, in blocks of columns
};

template <typename T>
PassPlan PlanConvolveBackward(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  ConvolveBackwardScratch<T> scratch(args, &arena);
  return PlanBackward(args, arena.used(),
                      static_cast<double>(GroupFilters(args)) * sizeof(Factor<T>) / kVecBytes);
}

// Copies rows of dy into blocks of tile columns, each group's filters in whole pairs or, of small
// groups, as they lie.
template <typename T>
void CopyGroups(const DeformableArgs<T>& args, const T* dy, int64_t rows, int64_t groups,
                Factor<T>* blocks) {
  using G = Gemm<Factor<T>>;
  const int64_t filters = GroupFilters(args);
  const bool adjacent =
      G::PackedDepth(filters) == filters || HasSmallTransposedGroups(args);
  const int64_t size = adjacent ? groups * filters : filters;
  for (int64_t g = 0; g < (adjacent ? 1 : groups); ++g) {
    const int64_t first = g * G::PackedDepth(filters);
    for (int64_t f = 0, count; f < size; f += count) {
      const int64_t in_block = (first + f) % G::kTileColumns;
      count = Min<int64_t>(G::kTileColumns - in_block, size - f);
      Factor<T>* tile = blocks + (first + f) / G::kTileColumns * G::kTileSize + in_block;
      for (int64_t r = 0; r < rows; ++r) {
        CopyElements(dy + r * args.filters + g * filters + f, tile + r * G::kTileStride, count);
        if (!adjacent && f + count == size) tile[r * G::kTileStride + count] = Factor<T>{};
      }
    }
  }
}

// Gradient of the columns of group `group`, which is `number` of those in `dy`: c = dy * filter^T
// for `columns` channels from the panel boundary `first_channel` of the group.
template <typename T>
void MultiplyTransposedFilter(const DeformableArgs<T>& args, const Factor<T>* dy, int64_t number,
                              int64_t rows, int64_t tap, int64_t group, int64_t first_channel,
                              int64_t columns, Accumulator<T>* c, int64_t c_stride) {
  using F = Factor<T>;
  using G = Gemm<F>;
  const int64_t filters = GroupFilters(args);
  const int64_t depth = G::PackedDepth(filters);
  const F* panels = static_cast<const F*>(args.packed_filter) +
                    (tap * args.groups + group) * TransposedSize(args) + first_channel * depth;
  for (int64_t f = 0, f_end; f < depth; f = f_end) {
    const int64_t column = number * depth + f;
    const int64_t in_block = column % G::kTileColumns;
    f_end = Min(depth, f + Min<int64_t>(G::kDepth, G::kTileColumns - in_block));
    Product<F> product;
    product.a = dy + column / G::kTileColumns * G::kTileSize + in_block;
    product.repeats = 1;
    product.repeat_stride = 0;
    product.depth = f_end - f;
    product.c = c;
    product.c_stride = c_stride;
    product.accumulate = f > 0;
    Multiply<F, false>(product, rows, panels, filters, f, columns);
  }
}

// The same for channels [begin, end), which begin with a whole vector, of small groups.
template <typename T>
void MultiplySmallGroups(const DeformableArgs<T>& args, const SmallGroups<Factor<T>>& small_groups,
                         const Factor<T>* dy, int64_t rows, int64_t tap, int64_t begin, int64_t end,
                         Accumulator<T>* c, int64_t c_stride) {
  using G = Gemm<Factor<T>>;
  const auto* weights = static_cast<const Accumulator<T>*>(args.packed_filter);
  weights += tap * TapWeights(args);
  for (int64_t first = begin, last; first < end; first = last) {
    const int64_t in_block = first % G::kTileColumns;
    last = Min(end, first + G::kTileColumns - in_block);
    small_groups.MultiplyRows(dy + first / G::kTileColumns * G::kTileSize + in_block, rows,
                              CeilDiv(last - first, GroupChannels(args)), 1, 0, weights + first,
                              TapWeights(args) / GroupFilters(args), false, c + (first - begin),
                              c_stride);
  }
}

template <typename T>
void ConvolveBackward(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using G = Gemm<Factor<T>>;
  Arena arena(memory);
  ConvolveBackwardScratch<T> s(args, &arena);
  s.spreader.Clear();
  const int64_t taps = NumTaps(args.geometry);
  const int64_t channels = GroupChannels(args);
  constexpr int64_t kStride = ConvolveBackwardScratch<T>::kStride;
  const SpreadUnits units = MakeSpreadUnits(args);
  const bool small = HasSmallTransposedGroups(args);
  const SmallGroups<Factor<T>> small_groups(GroupFilters(args), channels);
  for (int64_t number = begin; number < end; ++number) {
    const SpreadUnit unit = GetSpreadUnit(args, units, number);
    s.spreader.StartUnit(units, unit);
    const int64_t first_group = small ? 0 : unit.begin / channels;
    const int64_t groups = CeilDiv(unit.end, channels) - first_group;
    for (int64_t row = unit.row; row < unit.row_end; row += G::kTileRows) {
      const int64_t rows = Min<int64_t>(G::kTileRows, unit.row_end - row);
      s.spreader.StartTile(row, rows);
      CopyGroups(args, args.dy + row * args.filters + first_group * GroupFilters(args), rows,
                 groups, s.dy);
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t c = unit.begin; c < unit.end; c += kGradientChannels) {
          const int64_t c_end = Min(unit.end, c + kGradientChannels);
          if (small) {
            const int64_t base = c / G::kLanes * G::kLanes;
            MultiplySmallGroups(args, small_groups, s.dy, rows, tap, base, c_end, s.dcolumns,
                                kStride);
            s.spreader.Spread(tap, c, c_end, s.dcolumns + (c - base), kStride);
            continue;
          }
          // Whole panels that cover [c, c_end); `base` is the channel at dcolumns[0].
          const int64_t base = c - c % channels % G::kPanel;
          for (int64_t g = c / channels; g * channels < c_end; ++g) {
            const int64_t g_begin = g * channels;
            const int64_t from = Max(base, g_begin) - g_begin;
            const int64_t to = Min(channels, RoundUp(Min(c_end - g_begin, channels), G::kPanel));
            MultiplyTransposedFilter(args, s.dy, g - first_group, rows, tap, g, from, to - from,
                                     s.dcolumns + (g_begin + from - base), kStride);
          }
          s.spreader.Spread(tap, c, c_end, s.dcolumns + (c - base), kStride);
        }
      }
    }
  }
}

template <typename T>
FilterGradient<T> GradientOf(const DeformableArgs<T>& args) {
  return FilterGradient<T>(1, args.groups, NumTaps(args.geometry), GroupChannels(args),
                           GroupFilters(args), Positions(args), AllSampleCycles(args));
}

template <typename T>
struct FilterScratch : FilterGradient<T>::Scratch {
  FilterScratch(const DeformableArgs<T>& args, const FilterGradient<T>& gradient, Arena* arena)
      : FilterGradient<T>::Scratch(gradient, false, arena), sampler(args, arena) {}

  Sampler<T, Factor<T>> sampler;
};

template <typename T>
PassPlan PlanBackwardFilter(const DeformableArgs<T>& args) {
  if (args.geometry.channels == 0) return {0, 1, 0};
  Arena arena(nullptr);
  const FilterGradient<T> gradient = GradientOf(args);
  FilterScratch<T> scratch(args, gradient, &arena);
  return gradient.Plan(arena);
}

template <typename T>
void BackwardFilter(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  const FilterGradient<T> gradient = GradientOf(args);
  FilterScratch<T> s(args, gradient, &arena);
  s.sampler.Clear();
  const auto rows_of = [&](int64_t) { return SampledRows<T>{&s.sampler, GroupChannels(args)}; };
  const auto side_of = [&](int64_t, int64_t column, int64_t) {
    return PackedDySide<T>{args, column};
  };
  for (int64_t unit = begin; unit < end; ++unit) {
    gradient.Run(unit, rows_of, side_of, s, args.partial_filter, args.dfilter);
  }
}

template <typename T>
PassPlan PlanSumFilter(const DeformableArgs<T>& args) {
  return GradientOf(args).PlanSum();
}

template <typename T>
void SumFilter(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  GradientOf(args).Sum(args.partial_filter, begin, end, args.dfilter);
}

template <typename T>
int64_t PartialFilterSize(const DeformableArgs<T>& args) {
  return GradientOf(args).partial_size();
}

template <typename T>
DeformableConvKernels<T> Table() {
  DeformableConvKernels<T> kernels;
  kernels.pack_filter = {PlanPackFilter<T>, PackFilter<T>};
  kernels.convolve = {PlanConvolve<T>, Convolve<T>};
  kernels.sum_slices = {PlanSumSlices<T>, SumSlices<T>};
  kernels.pack_filter_transposed = {PlanPackFilterTransposed<T>, PackFilterTransposed<T>};
  kernels.backward_input = {PlanConvolveBackward<T>, ConvolveBackward<T>};
  kernels.pack_dy = {PlanPackDy<T>, PackDy<T>};
  kernels.backward_filter = {PlanBackwardFilter<T>, BackwardFilter<T>};
  kernels.sum_filter = {PlanSumFilter<T>, SumFilter<T>};
  kernels.partial_sums_size = PartialSumsSize<T>;
  kernels.partial_filter_size = PartialFilterSize<T>;
  kernels.packed_filter_bytes = PackedFilterBytes<T>;
  kernels.packed_filter_transposed_bytes = PackedFilterTransposedBytes<T>;
  kernels.packed_dy_bytes = PackedDyBytes<T>;
  return kernels;
}

}  // namespace

void GetKernels(DeformableConvKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
#if !defined(TFCONV_HAS_DOT)
void GetKernels(DeformableConvKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(DeformableConvKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(DeformableConvKernels<double>* kernels) { *kernels = Table<double>(); }
#endif

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
