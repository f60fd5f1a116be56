// What the products of deformable convolution multiply by, packed once for all units.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_PACKING_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_PACKING_H_

#include <stdint.h>

#include "common/gemm.h"
#include "common/pass.h"
#include "common/product.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_sampling.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <typename T>
int64_t GroupChannels(const DeformableArgs<T>& args) {
  return args.geometry.channels / args.groups;
}

template <typename T>
int64_t GroupFilters(const DeformableArgs<T>& args) {
  return args.filters / args.groups;
}

template <typename T>
bool HasSmallGroups(const DeformableArgs<T>& args) {
  return SmallGroups<Factor<T>>::Exist(args.groups, GroupChannels(args), GroupFilters(args));
}

// For the gradient of the columns; there channels and filters are counted alike.
template <typename T>
bool HasSmallTransposedGroups(const DeformableArgs<T>& args) {
  return HasSmallGroups(args) && GroupChannels(args) == GroupFilters(args);
}

// The blocks of columns that are sampled and multiplied at a time.
template <typename T>
DepthBlocks ColumnBlocks(const DeformableArgs<T>& args) {
  using G = Gemm<Factor<T>>;
  if (HasSmallGroups(args)) {
    return DepthBlocks::OfSmallGroups(args.groups, NumTaps(args.geometry), GroupChannels(args),
                                      G::kTileColumns,
                                      SmallGroups<Factor<T>>::InVector(GroupFilters(args)));
  }
  return DepthBlocks(args.groups, NumTaps(args.geometry), GroupChannels(args), G::kDepth,
                     G::kTileColumns, G::kPair, G::kLanes, DepthBlocks::kChannelsOutside);
}

template <typename T>
int64_t Bytes(int64_t factors) {
  return factors * static_cast<int64_t>(sizeof(Factor<T>));
}

// Few rows: units are slices of the depth, which pack what is theirs.
template <typename T>
bool IsSliced(const DeformableArgs<T>& args) {
  return Positions(args) <= Gemm<Factor<T>>::kTileRows && !HasSmallGroups(args);
}

// The filter block by block; nothing where units pack it, and for small groups.
template <typename T>
bool IsPackedOnce(const DeformableArgs<T>& args) {
  return !IsSliced(args) && !HasSmallGroups(args);
}

template <typename T>
FilterSide<T> WholeFilter(const DeformableArgs<T>& args, const DepthBlocks& blocks) {
  const int64_t filters = GroupFilters(args);
  const int64_t group_size = Gemm<Factor<T>>::PackedSize(blocks.depth(), filters);
  return {args.filter, GroupChannels(args), args.filters, filters, 0, filters, group_size, nullptr,
          static_cast<const Factor<T>*>(args.packed_filter), blocks.groups() * group_size, nullptr,
          nullptr};
}

template <typename T>
int64_t PackedFilterBytes(const DeformableArgs<T>& args) {
  const DepthBlocks blocks = ColumnBlocks(args);
  if (!IsPackedOnce(args)) return 0;
  return Bytes<T>(blocks.count() * WholeFilter(args, blocks).block_size);
}

// Units are blocks.
template <typename T>
PassPlan PlanPackFilter(const DeformableArgs<T>& args) {
  const DepthBlocks blocks = ColumnBlocks(args);
  return {IsPackedOnce(args) ? blocks.count() : 0,
          1 + blocks.groups() * blocks.depth() * GroupFilters(args) / 4, 0};
}

template <typename T>
void PackFilter(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  const DepthBlocks blocks = ColumnBlocks(args);
  const FilterSide<T> side = WholeFilter(args, blocks);
  Factor<T>* packed = static_cast<Factor<T>*>(args.packed_filter);
  for (int64_t unit = begin; unit < end; ++unit) {
    side.PackBlock(blocks.At(unit), packed + unit * side.block_size);
  }
}

// The transposed filter: for each tap and group a matrix [F / groups, C / groups].
template <typename T>
int64_t TransposedSize(const DeformableArgs<T>& args) {
  return Gemm<Factor<T>>::PackedSize(GroupFilters(args), GroupChannels(args));
}

// That of small groups: weights for each tap.
template <typename T>
int64_t TapWeights(const DeformableArgs<T>& args) {
  return GroupFilters(args) * RoundUp(args.geometry.channels, Simd<Accumulator<T>>::kLanes);
}

template <typename T>
int64_t PackedFilterTransposedBytes(const DeformableArgs<T>& args) {
  if (HasSmallTransposedGroups(args)) {
    return NumTaps(args.geometry) * TapWeights(args) *
           static_cast<int64_t>(sizeof(Accumulator<T>));
  }
  return Bytes<T>(NumTaps(args.geometry) * args.groups * TransposedSize(args));
}

// Units are panels.
template <typename T>
PassPlan PlanPackFilterTransposed(const DeformableArgs<T>& args) {
  using G = Gemm<Factor<T>>;
  if (HasSmallTransposedGroups(args)) {
    return {NumTaps(args.geometry), 1 + 4 * TapWeights(args), 0};
  }
  return {NumTaps(args.geometry) * args.groups * G::NumPanels(GroupChannels(args)),
          1 + GroupFilters(args) * G::kPanel, 0};
}

template <typename T>
void PackFilterTransposed(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  using G = Gemm<Factor<T>>;
  const int64_t channels = GroupChannels(args);
  const int64_t filters = GroupFilters(args);
  const int64_t panels = G::NumPanels(channels);
  if (HasSmallTransposedGroups(args)) {
    for (int64_t tap = begin; tap < end; ++tap) {
      TransposeGroups(args.filter + tap * channels * args.filters, args.filters, args.groups,
                      channels, filters, TapWeights(args) / filters,
                      static_cast<Accumulator<T>*>(args.packed_filter) + tap * TapWeights(args));
    }
    return;
  }
  Factor<T>* packed = static_cast<Factor<T>*>(args.packed_filter);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tap = unit / panels / args.groups;
    const int64_t group = unit / panels % args.groups;
    const int64_t first = unit % panels * G::kPanel;
    const int64_t width = G::PanelWidth(channels, unit % panels);
    const T* filter = args.filter + (tap * channels + first) * args.filters + group * filters;
    PackTransposed(
        filter, args.filters, filters, Min(width, channels - first), width,
        packed + (unit / panels) * TransposedSize(args) + first * G::PackedDepth(filters));
  }
}

// dy: for each group a matrix [N * P, F / groups]; nothing for small groups.
template <typename T>
int64_t PackedDySize(const DeformableArgs<T>& args) {
  return Gemm<Factor<T>>::PackedSize(Positions(args), GroupFilters(args));
}

template <typename T>
int64_t PackedDyBytes(const DeformableArgs<T>& args) {
  return HasSmallGroups(args) ? 0 : Bytes<T>(args.groups * PackedDySize(args));
}

constexpr int64_t kPackRows = 256;

template <typename T>
PassPlan PlanPackDy(const DeformableArgs<T>& args) {
  return {HasSmallGroups(args) ? 0 : CeilDiv(Positions(args), kPackRows),
          1 + kPackRows * args.filters / 4, 0};
}

template <typename T>
void PackDy(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  using G = Gemm<Factor<T>>;
  const int64_t columns = GroupFilters(args);
  const int64_t positions = Positions(args);
  const int64_t first = begin * kPackRows;
  const int64_t rows = Min(end * kPackRows, positions) - first;
  for (int64_t g = 0; g < args.groups; ++g) {
    Factor<T>* packed = static_cast<Factor<T>*>(args.packed_dy) + g * PackedDySize(args);
    for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
      const int64_t width = G::PanelWidth(columns, p);
      PackPanel(args.dy + first * args.filters + g * columns, args.filters, rows, columns,
                p * G::kPanel, width,
                packed + p * G::kPanel * G::PackedDepth(positions) + first * width);
    }
  }
}

// What the gradient of the filter reads of it.
template <typename T>
struct PackedDySide {
  using F = Factor<T>;

  const T* Rows(int64_t row) const { return args.dy + row * args.filters; }

  GradientPanels<F> Pack(int64_t row, int64_t, int64_t group) const {
    const int64_t positions = Positions(args);
    const F* packed = static_cast<const F*>(args.packed_dy) + group * PackedDySize(args);
    return {packed + column * Gemm<F>::PackedDepth(positions), positions, row};
  }

  const DeformableArgs<T>& args;
  int64_t column;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_PACKING_H_
