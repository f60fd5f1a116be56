// Kernels made from features: how the span is packed, and the gradients for it and the features.
#ifndef TFCONV_INVOLUTION_SPAN_GRADIENT_H_
#define TFCONV_INVOLUTION_SPAN_GRADIENT_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/vec.h"
#include "involution/involution_kernel.h"
#include "involution/involution_tiles.h"
#include "involution/kernel_gradient.h"
#include "involution/position_kernels.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <typename T>
int64_t KernelChannels(const InvolutionArgs<T>& args) {
  return args.groups * NumTaps(args.geometry);
}

// The blocks of groups that the span is packed by, of the pass that takes it: transposed that with
// its gradient, else the one that writes dx or y.
template <typename T, bool kTransposed>
GroupBlocks BlocksOfPacking(const InvolutionArgs<T>& args) {
  if (kTransposed) return MakeTiles(args, kTilePositions).blocks;
  return args.dx == nullptr ? MakeForwardTiles(args).blocks : MakeBands(args).blocks;
}

// Where a block of groups begins in the span transposed.
template <typename T>
int64_t TransposedBlock(const InvolutionArgs<T>& args, const GroupBlocks& blocks, int64_t block) {
  return block * Gemm<Accumulator<T>>::PackedSize(blocks.size * NumTaps(args.geometry),
                                                  args.num_features);
}

// The span, with the bias as one more row, for each block of groups; or transposed.
template <typename T, bool kTransposed>
void PackSpan(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void*) {
  using G = Gemm<Accumulator<T>>;
  const GroupBlocks blocks = BlocksOfPacking<T, kTransposed>(args);
  const int64_t taps = NumTaps(args.geometry), depth = args.num_features;
  const int64_t all = KernelChannels(args);
  for (int64_t block = begin; block < end; ++block) {
    const GroupRange groups = GetGroups(blocks, args.groups, block);
    const T* span = args.span + groups.first * taps;
    const int64_t size = groups.count * taps;
    const int64_t columns = kTransposed ? depth : size;
    for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
      const int64_t first = p * G::kPanel, width = G::PanelWidth(columns, p);
      if constexpr (kTransposed) {
        PackTransposed(span + first * all, all, size, Min(width, columns - first), width,
                       args.packed_span + TransposedBlock(args, blocks, block) + first * size);
      } else {
        Accumulator<T>* panel =
            args.packed_span + PackedBlock(args, blocks, block) + first * (depth + 1);
        PackPanel(span, all, depth, columns, first, width, panel);
        PackPanel(args.bias + groups.first * taps, 0, 1, columns, first, width,
                  panel + depth * width);
      }
    }
  }
}

template <typename T, bool kTransposed>
PassPlan PlanPackSpan(const InvolutionArgs<T>& args) {
  const int64_t blocks = BlocksOfPacking<T, kTransposed>(args).count;
  const int64_t units = NumOutputs(args.geometry) == 0 ? 0 : blocks;
  return {units, 1 + (args.num_features + 1) * KernelChannels(args) / Max<int64_t>(1, units), 0};
}

// How the gradients for the span are added up: a unit has a block of groups and a slice of tiles.
struct Slices {
  Tiles tiles;
  int64_t tiles_per_slice;
  int64_t count;
};

template <typename T>
Slices MakeSlices(const InvolutionArgs<T>& args) {
  Slices s;
  s.tiles = MakeTiles(args, kTilePositions);
  s.tiles_per_slice =
      Max<int64_t>(1, s.tiles.count / CeilDiv(kMinUnits, s.tiles.blocks.count));
  s.count = CeilDiv(s.tiles.count, s.tiles_per_slice);
  return s;
}

template <typename T>
struct SpanScratch {
  using Sum = Accumulator<T>;

  SpanScratch(const InvolutionArgs<T>& args, const GroupBlocks& blocks, Arena* arena)
      : gradient(args, blocks, arena),
        dkernel(blocks.size * NumTaps(args.geometry), arena),
        features(arena->Take<Sum>(Gemm<Sum>::PackedSize(kTilePositions, args.num_features))) {}

  KernelGradient<T> gradient;
  PositionTile<Sum> dkernel;  // of a tile's positions
  Sum* features;              // of the same positions, in panels
};

// Whether a unit's gradients for features are final.
template <typename T>
bool WritesFeatures(const Slices& slices) {
  return !kIsHalf<T> && slices.tiles.blocks.count == 1;
}

template <typename T>
void BackwardSpan(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  using Sum = Accumulator<T>;
  const Slices slices = MakeSlices(args);
  const Tiles& tiles = slices.tiles;
  Arena arena(scratch);
  SpanScratch<T> s(args, tiles.blocks, &arena);
  s.gradient.Open();
  const int64_t taps = NumTaps(args.geometry), depth = args.num_features;
  const int64_t all = KernelChannels(args), outputs = NumOutputs(args.geometry);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t block = unit / slices.count, slice = unit % slices.count;
    const GroupRange groups = GetGroups(tiles.blocks, args.groups, block);
    const int64_t columns = groups.count * taps;
    const Sum* transposed = args.packed_span + TransposedBlock(args, tiles.blocks, block);
    // The gradient for the span transposed, and behind it that for the bias.
    Sum* slice_sums = args.partial_dspan + slice * (depth + 1) * all;
    Sum* dspan = slice_sums + groups.first * taps * depth;
    Sum* dbias = slice_sums + all * depth + groups.first * taps;
    memset(dbias, 0, static_cast<size_t>(columns) * sizeof(Sum));
    Sum* dfeatures = args.partial_dfeatures + block * outputs * depth;
    if constexpr (!kIsHalf<T>) {
      if (WritesFeatures<T>(slices)) dfeatures = args.dfeatures;
    }
    const int64_t first_tile = slice * slices.tiles_per_slice;
    const int64_t last_tile = Min(first_tile + slices.tiles_per_slice, tiles.count);
    for (int64_t number = first_tile; number < last_tile; ++number) {
      const Tile tile = GetTile(tiles, number);
      const int64_t first = tile.first(tiles), rows = tile.positions();
      int64_t i = 0;
      for (int64_t line = tile.lines.begin; line < tile.lines.end; ++line) {
        for (int64_t p = tile.columns.begin; p < tile.columns.end; ++p, ++i) {
          if (Sum* place = s.dkernel.Row(i, columns)) {
            s.gradient.Get(line, p, groups, place);
          } else {
            s.dkernel.SetRow(i, s.gradient.Get(line, p, groups), columns);
          }
        }
      }
      s.dkernel.Multiply(rows, columns, transposed, depth, dfeatures + first * depth, depth);
      PackPanels(args.features + first * depth, depth, rows, depth, s.features);
      s.dkernel.MultiplyTransposed(rows, columns, s.features, depth, dspan, depth,
                                   number > first_tile);
      s.dkernel.AddRows(rows, columns, dbias);
    }
  }
}

template <typename T>
PassPlan PlanBackwardSpan(const InvolutionArgs<T>& args) {
  const Slices slices = MakeSlices(args);
  const Tiles& tiles = slices.tiles;
  Arena arena(nullptr);
  const SpanScratch<T> scratch(args, tiles.blocks, &arena);
  const int64_t positions = slices.tiles_per_slice * tiles.lines_per_tile * tiles.length;
  return {slices.count * tiles.blocks.count, 2 * WindowCycles(args, positions, tiles.blocks.size),
          arena.used()};
}

// result[i] = sum over `count` parts, each of `size` elements, in their order.
template <typename Sum, typename T>
void SumParts(const Sum* parts, int64_t count, int64_t size, Range range, T* result) {
  using S = Simd<Sum>;
  int64_t i = range.begin;
  for (; i + S::kLanes <= range.end; i += S::kLanes) {
    typename S::Vec sum = {};
    for (int64_t part = 0; part < count; ++part) sum += S::Load(parts + part * size + i);
    S::Store(result + i, sum);
  }
  for (; i < range.end; ++i) {
    Sum sum = 0;
    for (int64_t part = 0; part < count; ++part) sum += parts[part * size + i];
    StoreNumber(result + i, sum);
  }
}

constexpr int64_t kSummed = 2048;  // gradients for features of a unit

// Units are a vector of columns of the span, and the bias.
template <typename T>
void SumSpan(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void*) {
  using S = Simd<Accumulator<T>>;
  constexpr int kLanes = S::kLanes;
  const int64_t columns = KernelChannels(args), depth = args.num_features;
  const int64_t count = MakeSlices(args).count, size = (depth + 1) * columns;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t k = unit * kLanes;
    const int64_t lanes = Min<int64_t>(kLanes, columns - k);
    for (int64_t r = 0; r < depth; r += kLanes) {
      const int64_t rows = Min<int64_t>(kLanes, depth - r);
      typename S::Vec sums[kLanes] = {};
      for (int64_t part = 0; part < count; ++part) {
        const Accumulator<T>* from = args.partial_dspan + part * size + k * depth + r;
        for (int64_t i = 0; i < lanes; ++i) {
          sums[i] += rows == kLanes ? S::Load(from + i * depth)
                                    : S::LoadFirst(from + i * depth, rows);
        }
      }
      S::Transpose(sums);
      for (int64_t i = 0; i < rows; ++i) {
        T* dspan = args.dspan + (r + i) * columns + k;
        lanes == kLanes ? S::Store(dspan, sums[i]) : S::StoreFirst(dspan, sums[i], lanes);
      }
    }
    SumParts(args.partial_dspan + depth * columns, count, size, {k, k + lanes}, args.dbias);
  }
}

template <typename T>
PassPlan PlanSumSpan(const InvolutionArgs<T>& args) {
  constexpr int64_t kLanes = Simd<Accumulator<T>>::kLanes;
  return {CeilDiv(KernelChannels(args), kLanes),
          (args.num_features + 1) * (1 + MakeSlices(args).count), 0};
}

template <typename T>
void SumFeatures(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void*) {
  const int64_t size = NumOutputs(args.geometry) * args.num_features;
  SumParts(args.partial_dfeatures, MakeSlices(args).tiles.blocks.count, size,
           {begin * kSummed, Min(end * kSummed, size)}, args.dfeatures);
}

template <typename T>
PassPlan PlanSumFeatures(const InvolutionArgs<T>& args) {
  const Slices slices = MakeSlices(args);
  const int64_t size = NumOutputs(args.geometry) * args.num_features;
  return {WritesFeatures<T>(slices) ? 0 : CeilDiv(size, kSummed),
          kSummed * (1 + slices.tiles.blocks.count) / 4, 0};
}

template <typename T>
SpanSizes SizesOfSpan(const InvolutionArgs<T>& args) {
  const Slices slices = MakeSlices(args);
  const int64_t channels = KernelChannels(args), depth = args.num_features;
  const PassPlan plan = PlanSumFeatures(args);
  SpanSizes sizes;
  const GroupBlocks blocks = BlocksOfPacking<T, false>(args);
  sizes.packed_span = PackedBlock(args, blocks, blocks.count);
  sizes.packed_span_transposed =
      TransposedBlock(args, slices.tiles.blocks, slices.tiles.blocks.count);
  sizes.partial_dspan = slices.count * (depth + 1) * channels;
  sizes.partial_dfeatures =
      plan.units == 0 ? 0 : slices.tiles.blocks.count * NumOutputs(args.geometry) * depth;
  return sizes;
}

template <typename T>
void SetSpanKernels(InvolutionKernels<T>* kernels) {
  kernels->pack_span = {PlanPackSpan<T, false>, PackSpan<T, false>};
  kernels->pack_span_transposed = {PlanPackSpan<T, true>, PackSpan<T, true>};
  kernels->backward_span = {PlanBackwardSpan<T>, BackwardSpan<T>};
  kernels->sum_dspan = {PlanSumSpan<T>, SumSpan<T>};
  kernels->sum_dfeatures = {PlanSumFeatures<T>, SumFeatures<T>};
  kernels->span_sizes = SizesOfSpan<T>;
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_SPAN_GRADIENT_H_
