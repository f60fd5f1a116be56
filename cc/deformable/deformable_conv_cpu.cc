#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/vec.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_packing.h"
#include "deformable/deformable_sampling.h"
#include "deformable/deformable_spreading.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

// Filters of a group that a unit has at least: it samples the columns for itself.
constexpr int64_t kMinFilters = 64;
// Columns of a product that are packed at a time.
constexpr int64_t kMaxColumns = 512;

// How the inner dimension, taps by channels, is cut: each step samples a block of columns that the
// first caches hold and multiplies it. Blocks have whole groups, or a part of a single one.
struct ColumnBlocks {
  int64_t taps;
  int64_t channels;  // of a block; the last of a group may have fewer
};

template <typename T>
ColumnBlocks MakeColumnBlocks(const DeformableArgs<T>& args) {
  constexpr int64_t kDepth = Gemm<Accumulator<T>>::kDepth;
  const int64_t channels = args.geometry.channels;
  const int64_t group = GroupChannels(args);
  if (group > kDepth) {
    return {1, RoundUp(CeilDiv(group, CeilDiv(group, kDepth)), Simd<Accumulator<T>>::kLanes)};
  }
  if (channels > kDepth) return {1, kDepth / group * group};
  const int64_t taps = NumTaps(args.geometry);
  return {CeilDiv(taps, CeilDiv(taps, kDepth / channels)), channels};
}

template <typename T>
struct ColumnsScratch {
  using Number = Accumulator<T>;
  using G = Gemm<Number>;

  ColumnsScratch(const DeformableArgs<T>& args, Arena* arena)
      : sampler(args, arena), columns(arena->Take<Number>(G::kTileRows * G::kTileStride)) {}

  Sampler<T, Number> sampler;
  Number* columns;
};

// A unit has a tile of positions and a part of each group's filters. A filter that is packed by
// units is read for every tile: then there are few tiles, and parts that share them.
struct ConvolveUnits {
  int64_t rows;
  int64_t filters;  // of each group
  int64_t parts;
};

template <typename T>
ConvolveUnits MakeConvolveUnits(const DeformableArgs<T>& args) {
  const int64_t filters = GroupFilters(args);
  const bool whole = PackedFilterSize(args) > 0 || Positions(args) == 0 || filters == 0;
  if (whole) return {TileRows(args), filters, 1};
  using G = Gemm<Accumulator<T>>;
  constexpr int64_t kStep = G::kRows;
  const int64_t tiles = CeilDiv(Positions(args), G::kTileRows / kStep * kStep);
  const int64_t parts = Max<int64_t>(1, Min(CeilDiv(kMinUnits, tiles), filters / kMinFilters));
  ConvolveUnits units;
  units.rows = RoundUp(CeilDiv(Positions(args), tiles), kStep);
  units.filters = Min(filters, RoundUp(CeilDiv(filters, parts), G::kPanel));
  units.parts = CeilDiv(filters, units.filters);
  return units;
}

template <typename T>
struct ConvolveScratch : ColumnsScratch<T> {
  using Number = Accumulator<T>;
  using G = Gemm<Number>;

  ConvolveScratch(const DeformableArgs<T>& args, Arena* arena) : ColumnsScratch<T>(args, arena) {
    const ColumnBlocks blocks = MakeColumnBlocks(args);
    const int64_t depth = blocks.taps * Min(blocks.channels, GroupChannels(args));
    const int64_t size = G::PackedSize(depth, Min(GroupFilters(args), kMaxColumns));
    packed = arena->Take<Number>(PackedFilterSize(args) == 0 ? size : 0);
    const ConvolveUnits units = MakeConvolveUnits(args);
    y_stride = RoundUp(args.groups * units.filters, G::kPanel) + G::kPanel;
    y = arena->Take<Number>(kIsHalf<T> ? units.rows * y_stride : 0);
  }

  Number* packed;  // a block of one group's filter, if it is not packed once
  Number* y;       // of a unit, if the tensor has another type
  int64_t y_stride;
};

template <typename T>
PassPlan PlanConvolve(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  ConvolveScratch<T> scratch(args, &arena);
  const ConvolveUnits units = MakeConvolveUnits(args);
  const double channels = static_cast<double>(args.geometry.channels);
  const double products = static_cast<double>(GroupChannels(args)) *
                          static_cast<double>(units.filters * args.groups) *
                          sizeof(Accumulator<T>) / kVecBytes;
  PassPlan plan;
  plan.units =
      args.geometry.channels == 0 ? 0 : CeilDiv(Positions(args), units.rows) * units.parts;
  plan.cycles_per_unit = static_cast<int64_t>(
      static_cast<double>(units.rows) * static_cast<double>(NumTaps(args.geometry)) *
      (20 + SampleCycles<T>() * channels + products));
  plan.scratch_bytes = arena.used();
  return plan;
}

// Where the results of a unit, filters [f_begin, f_begin + filters) of each group, are added up: in
// y itself or, if that has another type, apart.
template <typename T>
struct UnitOutput {
  UnitOutput(const DeformableArgs<T>& args, int64_t first, int64_t f_begin, int64_t count,
             const ConvolveScratch<T>& scratch)
      : filters(count),
        groups(args.groups),
        y_stride(args.filters),
        y_group_stride(GroupFilters(args)),
        y(args.y + first * args.filters + f_begin) {
    if constexpr (kIsHalf<T>) {
      rows = scratch.y;
      stride = scratch.y_stride;
      group_stride = filters;
    } else {
      rows = y;
      stride = y_stride;
      group_stride = y_group_stride;
    }
  }

  // Call once they are added up.
  void Finish(int64_t count) const {
    if constexpr (kIsHalf<T>) {
      const bool whole = filters == y_group_stride;  // groups follow each other without gaps
      const int64_t copies = whole ? 1 : groups;
      const int64_t size = whole ? groups * filters : filters;
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t g = 0; g < copies; ++g) {
          CopyElements(rows + r * stride + g * group_stride,
                       y + r * y_stride + g * y_group_stride, size);
        }
      }
    }
  }

  Accumulator<T>* rows;
  int64_t stride;
  int64_t group_stride;
  int64_t filters;
  int64_t groups;
  int64_t y_stride;
  int64_t y_group_stride;
  T* y;
};

template <typename T>
void Convolve(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Number = Accumulator<T>;
  using G = Gemm<Number>;
  Arena arena(memory);
  ConvolveScratch<T> s(args, &arena);
  s.sampler.Clear();
  const int64_t channels = args.geometry.channels;
  const int64_t taps = NumTaps(args.geometry);
  const int64_t group_channels = GroupChannels(args);
  const int64_t group_filters = GroupFilters(args);
  const int64_t depth = taps * group_channels;
  const int64_t group_size = G::PackedSize(depth, group_filters);
  const bool is_packed = PackedFilterSize(args) > 0;
  const ColumnBlocks blocks = MakeColumnBlocks(args);
  const ConvolveUnits units = MakeConvolveUnits(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit / units.parts * units.rows;
    const int64_t rows = Min(units.rows, Positions(args) - first);
    const int64_t f_begin = unit % units.parts * units.filters;
    const int64_t f_end = Min(f_begin + units.filters, group_filters);
    const UnitOutput<T> y(args, first, f_begin, f_end - f_begin, s);
    s.sampler.StartTile(first, rows, G::kTileStride);
    for (int64_t c = 0, c_end; c < channels; c = c_end) {
      // A block that is shorter than a group ends with it.
      c_end = Min(c + blocks.channels, channels);
      if (blocks.channels < group_channels) {
        c_end = Min(c_end, (c / group_channels + 1) * group_channels);
      }
      for (int64_t tap = 0; tap < taps; tap += blocks.taps) {
        const int64_t block_taps = Min(blocks.taps, taps - tap);
        for (int64_t t = 0; t < block_taps; ++t) {
          s.sampler.Add(tap + t, c, c_end, s.columns + t * (c_end - c));
        }
        s.sampler.Finish();
        for (int64_t g = c / group_channels; g * group_channels < c_end; ++g) {
          const int64_t g_begin = Max(c, g * group_channels);
          const int64_t g_end = Min(c_end, (g + 1) * group_channels);
          Product<Number> product;
          product.a = s.columns + (g_begin - c);
          product.repeats = block_taps;
          product.repeat_stride = c_end - c;
          product.depth = g_end - g_begin;
          product.c = y.rows + g * y.group_stride;
          product.c_stride = y.stride;
          product.accumulate = tap > 0 || g_begin > g * group_channels;
          // Several taps have all channels of the group: the rows of the filter are neighbours.
          const int64_t filter_row = tap * group_channels + (g_begin - g * group_channels);
          if (is_packed) {
            Multiply<Number, false>(product, rows, args.packed_filter + g * group_size, depth,
                                    filter_row, group_filters);
          } else {
            const int64_t block = block_taps * product.depth;
            const T* filter = args.filter + filter_row * args.filters + g * group_filters;
            for (int64_t f = f_begin; f < f_end; f += kMaxColumns) {
              const int64_t columns = Min(kMaxColumns, f_end - f);
              PackPanels(filter + f, args.filters, block, columns, s.packed);
              Multiply<Number, false>(product, rows, s.packed, block, 0, columns);
              product.c += columns;
            }
          }
        }
      }
    }
    y.Finish(rows);
  }
}

// Channels whose column gradients are computed at a time.
constexpr int64_t kGradientChannels = 256;

template <typename T>
struct ConvolveBackwardScratch {
  using Number = Accumulator<T>;
  using G = Gemm<Number>;
  static constexpr int64_t kStride = kGradientChannels + 2 * G::kPanel;

  ConvolveBackwardScratch(const DeformableArgs<T>& args, Arena* arena)
      : spreader(args, arena),
        dcolumns(arena->Take<Number>(G::kTileRows * kStride)),
        dy(arena->Take<Number>(CeilDiv(args.filters, G::kTileColumns) * kDyBlock)) {
    const int64_t size = G::PackedSize(G::kDepth, kStride);
    packed = arena->Take<Number>(PackedFilterTransposedSize(args) == 0 ? size : 0);
  }

  // Elements of one block of columns of a tile of dy.
  static constexpr int64_t kDyBlock = G::kTileRows * G::kTileStride;

  Spreader<T> spreader;
  Number* dcolumns;
  Number* dy;
  Number* packed;  // a block of the transposed filter, if it is not packed once
};

template <typename T>
PassPlan PlanConvolveBackward(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  ConvolveBackwardScratch<T> scratch(args, &arena);
  return PlanBackward(
      args, arena.used(),
      static_cast<double>(GroupFilters(args)) * sizeof(Accumulator<T>) / kVecBytes);
}

// Copies rows of dy, `stride` apart, into blocks of tile columns.
template <typename T>
void CopyTile(const T* dy, int64_t rows, int64_t columns, int64_t stride, Accumulator<T>* blocks) {
  using G = Gemm<Accumulator<T>>;
  for (int64_t f = 0; f < columns; f += G::kTileColumns) {
    const int64_t count = Min<int64_t>(G::kTileColumns, columns - f);
    for (int64_t r = 0; r < rows; ++r) {
      CopyElements(dy + r * stride + f, blocks + r * G::kTileStride, count);
    }
    blocks += ConvolveBackwardScratch<T>::kDyBlock;
  }
}

// Gradient of one group's columns: c = dy * filter^T for `columns` channels from the panel
// boundary `first_channel` of the group. `dy` starts at filter `dy_begin` of all filters.
template <typename T>
void MultiplyTransposedFilter(const DeformableArgs<T>& args, const Accumulator<T>* dy,
                              int64_t dy_begin, int64_t rows, int64_t tap, int64_t group,
                              int64_t first_channel, int64_t columns, Accumulator<T>* packed,
                              Accumulator<T>* c, int64_t c_stride) {
  using Number = Accumulator<T>;
  using G = Gemm<Number>;
  const bool is_packed = PackedFilterTransposedSize(args) > 0;
  const int64_t channels = GroupChannels(args);
  const int64_t filters = GroupFilters(args);
  const T* filter =
      args.filter + (tap * channels + first_channel) * args.filters + group * filters;
  const int64_t panels =
      (tap * args.groups + group) * G::PackedSize(filters, channels) + first_channel * filters;
  for (int64_t f = 0, f_end; f < filters; f = f_end) {
    const int64_t column = group * filters + f - dy_begin;
    const int64_t in_block = column % G::kTileColumns;
    f_end = Min(filters, f + Min<int64_t>(G::kDepth, G::kTileColumns - in_block));
    Product<Number> product;
    product.a = dy + column / G::kTileColumns * ConvolveBackwardScratch<T>::kDyBlock + in_block;
    product.repeats = 1;
    product.repeat_stride = 0;
    product.depth = f_end - f;
    product.c = c;
    product.c_stride = c_stride;
    product.accumulate = f > 0;
    if (is_packed) {
      Multiply<Number, false>(product, rows, args.packed_filter + panels, filters, f, columns);
      continue;
    }
    for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
      const int64_t first = p * G::kPanel;
      const int64_t width = G::PanelWidth(columns, p);
      PackTransposed(filter + first * args.filters + f, args.filters, f_end - f,
                     Min(width, columns - first), width, packed + first * (f_end - f));
    }
    Multiply<Number, false>(product, rows, packed, f_end - f, 0, columns);
  }
}

template <typename T>
void ConvolveBackward(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using G = Gemm<Accumulator<T>>;
  Arena arena(memory);
  ConvolveBackwardScratch<T> s(args, &arena);
  s.spreader.Clear();
  const ConvGeometry& geometry = args.geometry;
  const int64_t taps = NumTaps(geometry);
  const int64_t positions = ImagePositions(geometry);
  const int64_t group_channels = GroupChannels(args);
  const int64_t group_filters = GroupFilters(args);
  constexpr int64_t kStride = ConvolveBackwardScratch<T>::kStride;
  const ChannelBlocks blocks = MakeChannelBlocks(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const ChannelBlock block = GetChannelBlock(args, blocks, unit);
    s.spreader.StartBlock(blocks, block);
    const int64_t f_begin = block.begin / group_channels * group_filters;
    const int64_t f_end = CeilDiv(block.end, group_channels) * group_filters;
    for (int64_t p = 0; p < positions; p += G::kTileRows) {
      const int64_t first = block.image * positions + p;
      const int64_t rows = Min<int64_t>(G::kTileRows, positions - p);
      s.spreader.StartTile(first, rows);
      CopyTile(args.dy + first * args.filters + f_begin, rows, f_end - f_begin, args.filters, s.dy);
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t c = block.begin; c < block.end; c += kGradientChannels) {
          const int64_t c_end = Min(block.end, c + kGradientChannels);
          // Whole panels that cover [c, c_end); `base` is the channel at dcolumns[0].
          const int64_t base = c - c % group_channels % G::kPanel;
          for (int64_t g = c / group_channels; g * group_channels < c_end; ++g) {
            const int64_t g_begin = g * group_channels;
            const int64_t from = Max(base, g_begin) - g_begin;
            const int64_t to =
                Min(group_channels, RoundUp(Min(c_end - g_begin, group_channels), G::kPanel));
            MultiplyTransposedFilter(args, s.dy, f_begin, rows, tap, g, from, to - from, s.packed,
                                     s.dcolumns + (g_begin + from - base), kStride);
          }
          s.spreader.Spread(tap, c, c_end, s.dcolumns + (c - base), kStride);
        }
      }
    }
  }
}

// Packed dy: for each group a matrix [N * P, F / groups].
template <typename T>
int64_t PackedDySize(const DeformableArgs<T>& args) {
  return args.groups * Gemm<Accumulator<T>>::PackedSize(Positions(args), GroupFilters(args));
}

constexpr int64_t kPackRows = 256;

template <typename T>
PassPlan PlanPackDy(const DeformableArgs<T>& args) {
  return {CeilDiv(Positions(args), kPackRows), 1 + kPackRows * args.filters / 4, 0};
}

template <typename T>
void PackDy(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  using G = Gemm<Accumulator<T>>;
  const int64_t columns = GroupFilters(args);
  const int64_t positions = Positions(args);
  const int64_t group_size = G::PackedSize(positions, columns);
  const int64_t first = begin * kPackRows;
  const int64_t rows = Min(end * kPackRows, positions) - first;
  for (int64_t g = 0; g < args.groups; ++g) {
    for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
      const int64_t width = G::PanelWidth(columns, p);
      PackPanel(args.dy + first * args.filters + g * columns, args.filters, rows, columns,
                p * G::kPanel, width,
                args.packed_dy + g * group_size + p * G::kPanel * positions + first * width);
    }
  }
}

// The units of the filter's gradient are a tap and a block of channels, over all positions: each
// has its own part of the result. Blocks have whole groups, or a part of a single one.
struct FilterBlocks {
  int64_t per_tap;
  int64_t groups;  // of a block
  int64_t parts;   // of a group, if a block has a single one
  int64_t part_channels;
};

template <typename T>
FilterBlocks MakeFilterBlocks(const DeformableArgs<T>& args) {
  constexpr int64_t kTileColumns = Gemm<Accumulator<T>>::kTileColumns;
  const int64_t channels = GroupChannels(args);
  const int64_t wanted = CeilDiv(kMinUnits, NumTaps(args.geometry));
  FilterBlocks blocks = {0, 1, 1, channels};
  if (wanted <= args.groups && channels <= kTileColumns) {
    blocks.groups =
        Max<int64_t>(1, Min(args.groups / wanted, kTileColumns / Max<int64_t>(1, channels)));
  } else {
    const int64_t parts = Max(CeilDiv(channels, kTileColumns),
                              Min(CeilDiv(wanted, args.groups), channels / kMinChannels));
    blocks.parts = Max<int64_t>(1, parts);
    blocks.part_channels = CeilDiv(channels, blocks.parts);
    if (channels > 0) blocks.parts = CeilDiv(channels, blocks.part_channels);
  }
  blocks.per_tap = CeilDiv(args.groups, blocks.groups) * blocks.parts;
  return blocks;
}

template <typename T>
PassPlan PlanBackwardFilter(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  ColumnsScratch<T> scratch(args, &arena);
  const FilterBlocks blocks = MakeFilterBlocks(args);
  const double channels = static_cast<double>(blocks.groups * blocks.part_channels);
  PassPlan plan;
  plan.units = args.geometry.channels == 0 ? 0 : NumTaps(args.geometry) * blocks.per_tap;
  plan.cycles_per_unit =
      1 + static_cast<int64_t>(static_cast<double>(Positions(args)) *
                               (20 + channels * (SampleCycles<T>() +
                                                 static_cast<double>(GroupFilters(args)) *
                                                     sizeof(Accumulator<T>) / kVecBytes)));
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
void BackwardFilter(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Number = Accumulator<T>;
  using G = Gemm<Number>;
  Arena arena(memory);
  ColumnsScratch<T> s(args, &arena);
  s.sampler.Clear();
  const int64_t positions = Positions(args);
  const int64_t group_channels = GroupChannels(args);
  const int64_t group_filters = GroupFilters(args);
  const int64_t group_size = G::PackedSize(positions, group_filters);
  const FilterBlocks blocks = MakeFilterBlocks(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tap = unit / blocks.per_tap;
    const int64_t index = unit % blocks.per_tap;
    const int64_t g_begin = index / blocks.parts * blocks.groups;
    const int64_t g_end = Min(g_begin + blocks.groups, args.groups);
    const int64_t part = index % blocks.parts * blocks.part_channels;
    const int64_t part_channels = Min(blocks.part_channels, group_channels - part);
    const int64_t c = g_begin * group_channels + part;
    const int64_t c_end = (g_end - 1) * group_channels + part + part_channels;
    for (int64_t first = 0; first < positions; first += G::kTileRows) {
      const int64_t rows = Min<int64_t>(G::kTileRows, positions - first);
      s.sampler.StartTile(first, rows, G::kTileStride);
      s.sampler.Add(tap, c, c_end, s.columns);
      s.sampler.Finish();
      for (int64_t g = g_begin; g < g_end; ++g) {
        Product<Number> product;
        product.a = s.columns + (g - g_begin) * group_channels;
        product.repeats = 1;
        product.repeat_stride = 0;
        product.depth = rows;
        product.c =
            args.wide_dfilter + (tap * group_channels + part) * args.filters + g * group_filters;
        product.c_stride = args.filters;
        product.accumulate = first > 0;
        Multiply<Number, true>(product, part_channels, args.packed_dy + g * group_size, positions,
                               first, group_filters);
      }
    }
  }
}

template <typename T>
DeformableConvKernels<T> Table() {
  DeformableConvKernels<T> kernels;
  kernels.pack_filter = {PlanPackFilter<T>, PackFilter<T>};
  kernels.convolve = {PlanConvolve<T>, Convolve<T>};
  kernels.pack_filter_transposed = {PlanPackFilterTransposed<T>, PackFilterTransposed<T>};
  kernels.backward_input = {PlanConvolveBackward<T>, ConvolveBackward<T>};
  kernels.pack_dy = {PlanPackDy<T>, PackDy<T>};
  kernels.backward_filter = {PlanBackwardFilter<T>, BackwardFilter<T>};
  kernels.packed_filter_size = PackedFilterSize<T>;
  kernels.packed_filter_transposed_size = PackedFilterTransposedSize<T>;
  kernels.packed_dy_size = PackedDySize<T>;
  return kernels;
}

}  // namespace

void GetKernels(DeformableConvKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(DeformableConvKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
void GetKernels(DeformableConvKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(DeformableConvKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
