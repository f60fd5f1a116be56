// The filter of a deformable convolution, packed for the products of its passes.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_PACKING_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_PACKING_H_

#include <stdint.h>

#include "common/gemm.h"
#include "common/pass.h"
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

// A filter of up to this many bytes is packed once, and what is left of it in the caches serves all
// tiles. Of a larger one, each tile packs the blocks that it multiplies, which saves the memory and
// costs little beside the products of that many rows.
constexpr int64_t kMaxPackedBytes = 1 << 20;
constexpr int64_t kMinRowsPerPacking = 48;

template <typename T>
bool IsSmallFilter(int64_t packed_size) {
  return packed_size * static_cast<int64_t>(sizeof(Accumulator<T>)) <= kMaxPackedBytes;
}

// Packed filter: for each group a matrix [taps * C / groups, F / groups]; nothing if it is large.
template <typename T>
int64_t PackedFilterSize(const DeformableArgs<T>& args) {
  const int64_t depth = NumTaps(args.geometry) * GroupChannels(args);
  const int64_t size = args.groups * Gemm<Accumulator<T>>::PackedSize(depth, GroupFilters(args));
  return IsSmallFilter<T>(size) ? size : 0;
}

// Units are panels.
template <typename T>
PassPlan PlanPackFilter(const DeformableArgs<T>& args) {
  if (PackedFilterSize(args) == 0) return {0, 1, 0};
  const int64_t depth = NumTaps(args.geometry) * GroupChannels(args);
  return {args.groups * Gemm<Accumulator<T>>::NumPanels(GroupFilters(args)), 1 + depth * 16, 0};
}

template <typename T>
void PackFilter(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  using G = Gemm<Accumulator<T>>;
  const int64_t depth = NumTaps(args.geometry) * GroupChannels(args);
  const int64_t columns = GroupFilters(args);
  const int64_t panels = G::NumPanels(columns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / panels;
    const int64_t first = unit % panels * G::kPanel;
    PackPanel(args.filter + group * columns, args.filters, depth, columns, first,
              G::PanelWidth(columns, unit % panels),
              args.packed_filter + group * G::PackedSize(depth, columns) + first * depth);
  }
}

// Packed transposed filter: for each tap and group a matrix [F / groups, C / groups]; nothing if it
// is large.
template <typename T>
int64_t PackedFilterTransposedSize(const DeformableArgs<T>& args) {
  const int64_t size = NumTaps(args.geometry) * args.groups *
                       Gemm<Accumulator<T>>::PackedSize(GroupFilters(args), GroupChannels(args));
  const int64_t tile_rows =
      Min<int64_t>(ImagePositions(args.geometry), Gemm<Accumulator<T>>::kTileRows);
  return IsSmallFilter<T>(size) || tile_rows < kMinRowsPerPacking ? size : 0;
}

template <typename T>
PassPlan PlanPackFilterTransposed(const DeformableArgs<T>& args) {
  if (PackedFilterTransposedSize(args) == 0) return {0, 1, 0};
  using G = Gemm<Accumulator<T>>;
  return {NumTaps(args.geometry) * args.groups * G::NumPanels(GroupChannels(args)),
          1 + GroupFilters(args) * G::kPanel, 0};
}

template <typename T>
void PackFilterTransposed(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  using G = Gemm<Accumulator<T>>;
  const int64_t channels = GroupChannels(args);
  const int64_t filters = GroupFilters(args);
  const int64_t panels = G::NumPanels(channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tap = unit / panels / args.groups;
    const int64_t group = unit / panels % args.groups;
    const int64_t first = unit % panels * G::kPanel;
    const int64_t width = G::PanelWidth(channels, unit % panels);
    const T* filter = args.filter + (tap * channels + first) * args.filters + group * filters;
    Accumulator<T>* panel =
        args.packed_filter + (unit / panels) * G::PackedSize(filters, channels) + first * filters;
    PackTransposed(filter, args.filters, filters, Min(width, channels - first), width, panel);
  }
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_PACKING_H_
