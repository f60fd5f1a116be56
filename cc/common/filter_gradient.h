// The gradient of a filter: a product whose depth are positions.
#ifndef TFCONV_COMMON_FILTER_GRADIENT_H_
#define TFCONV_COMMON_FILTER_GRADIENT_H_

#include <stdint.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/product.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Panels of dy: rows from `row` on are used of `depth` ones.
template <typename F>
struct GradientPanels {
  const F* first;
  int64_t depth;
  int64_t row;
};

// Filters [examples, taps, channels, groups * filters], each from so many positions. Units are
// blocks of rows and columns and, where these are few, slices of the positions, whose sums are added
// up at last: `partial` has the slices then, [slices, all of the filters].
template <typename T>
class FilterGradient {
 public:
  using F = Factor<T>;
  using G = Gemm<F>;
  using Number = Accumulator<T>;

  FilterGradient(int64_t examples, int64_t groups, int64_t taps, int64_t channels, int64_t filters,
                 int64_t positions, double more_cycles)
      : examples_(examples),
        groups_(groups),
        taps_(taps),
        channels_(channels),
        filters_(filters),
        positions_(positions),
        cycles_(static_cast<double>(examples) *
                (ProductCycles<F>(positions, taps * channels, groups * filters) + more_cycles)),
        has_small_groups_(SmallGroups<F>::Exist(groups, channels, filters)),
        blocks_(MakeBlocks()),
        columns_(MakeParts(filters, 1, G::kPanel, kMaxColumns)),
        slices_(MakeParts(positions, WantedSlices(), G::kTileRows,
                          RoundUp(positions, G::kTileRows))) {}

  PassPlan Plan(const Arena& arena) const {
    const int64_t units = BlocksAndColumns() * slices_.count;
    return {units, 1 + static_cast<int64_t>(cycles_ / static_cast<double>(units)), arena.used()};
  }

  struct Scratch {
    Scratch(const FilterGradient& gradient, bool packs, Arena* arena)
        : tile(arena->Take<F>(G::kTileSize)),
          pairs(arena->Take<F>(G::kPair == 2 ? G::kTileSize : 0)),
          packed(arena->Take<F>(packs && !gradient.has_small_groups()
                                    ? G::PackedSize(G::kTileRows, gradient.columns_.size)
                                    : 0)),
          sums(arena->Take<Number>(gradient.IsApart() ? gradient.BlockSize() : 0)) {}

    F* tile;
    F* pairs;
    F* packed;  // dy of a tile, where that packs it
    Number* sums;
  };

  // Whether sides need not pack: Rows(row) of theirs is asked for, where all groups' dy lie.
  bool has_small_groups() const { return has_small_groups_; }

  // Computes a unit. source(example) gives rows; side(example, column, columns).Pack(row, row_end,
  // group) gives panels of a group's dy.
  template <typename Source, typename Side>
  void Run(int64_t unit, const Source& source, const Side& side, const Scratch& s, Number* partial,
           T* dfilter) const {
    const int64_t slice = unit % slices_.count;
    const int64_t column = unit / slices_.count % columns_.count * columns_.size;
    const int64_t number = unit / slices_.count / columns_.count;
    const DepthBlock block = blocks_.At(number % blocks_.count());
    const int64_t example = number / blocks_.count();
    const int64_t columns = Min(columns_.size, filters_ - column);
    const int64_t row = slice * slices_.size;
    const int64_t row_end = Min(positions_, row + slices_.size);
    const int64_t stride = groups_ * filters_;
    const int64_t first =
        ((example * taps_ + block.tap) * channels_ + block.channel) * stride + column;
    Sums<Number> sums = {s.sums - block.group * columns, block.groups() * columns, columns};
    if (slices_.count > 1) {
      sums = {partial + slice * size() + first, stride, filters_};
    } else if constexpr (!kIsHalf<T>) {
      sums = {dfilter + first, stride, filters_};
    }
    Multiply(block, row, row_end, columns, source(example), side(example, column, columns), s,
             sums);
    if (!IsApart()) return;
    T* rows = dfilter + first + block.group * filters_;
    StoreRows<T>({s.sums, sums.stride, columns}, block.depth(), block.groups(), columns, filters_,
                 [&](int64_t r) { return rows + r * stride; });
  }

  // Elements of `partial`; 0 if there is nothing to add up.
  int64_t partial_size() const { return slices_.count > 1 ? slices_.count * size() : 0; }

  PassPlan PlanSum() const {
    return {slices_.count > 1 ? CeilDiv(size(), kSumUnit) : 0, kSumUnit * slices_.count, 0};
  }

  void Sum(const Number* partial, int64_t begin, int64_t end, T* dfilter) const {
    AddParts(partial, slices_.count, size(), begin * kSumUnit, Min(end * kSumUnit, size()),
             dfilter);
  }

 private:
  // Fewest rows of the filter worth a unit of their own, which reads or packs all of dy.
  static constexpr int64_t kMinRows = 128;

  int64_t size() const { return examples_ * taps_ * channels_ * groups_ * filters_; }
  bool IsApart() const { return kIsHalf<T> && slices_.count == 1; }
  int64_t BlockSize() const { return blocks_.groups() * blocks_.depth() * columns_.size; }
  int64_t BlocksAndColumns() const { return examples_ * blocks_.count() * columns_.count; }

  int64_t BlockRows() const {
    const int64_t wanted = CeilDiv(WantedUnits(cycles_), examples_);
    return Min<int64_t>(G::kTileColumns,
                        Max(CeilDiv(groups_ * taps_ * channels_, wanted), kMinRows));
  }

  DepthBlocks MakeBlocks() const {
    if (has_small_groups_) {
      return DepthBlocks::OfSmallGroups(groups_, taps_, channels_, G::kTileColumns,
                                        SmallGroups<F>::InVector(filters_));
    }
    return DepthBlocks(groups_, taps_, channels_, BlockRows(), BlockRows(), 1);
  }

  // Blocks need not be alike: there are some more slices than would suffice if they were.
  int64_t WantedSlices() const {
    const int64_t wanted = WantedUnits(cycles_);
    if (5 * BlocksAndColumns() >= 4 * wanted) return 1;
    return CeilDiv(5 * wanted / 4, BlocksAndColumns());
  }

  // Element (tap and channel, column) of `sums` becomes the sum over rows [row, row_end) of
  // rows(r, tap and channel) * side(r, column), for each group of the block.
  template <typename Rows, typename Side>
  void Multiply(const DepthBlock& block, int64_t row, int64_t row_end, int64_t columns,
                const Rows& rows, const Side& side, const Scratch& s,
                const Sums<Number>& sums) const {
    const bool alone = block.groups() == 1;
    const int64_t count = alone ? block.depth() : block.channels();  // of a product
    for (int64_t tile = row; tile < row_end; tile += G::kTileRows) {
      const int64_t tile_end = Min<int64_t>(row_end, tile + G::kTileRows);
      const int64_t depth = tile_end - tile;
      rows.Fill(tile, tile_end, block, s.tile);
      if (has_small_groups_) {
        SmallGroups<F>(channels_, filters_)
            .MultiplyColumns(s.tile, depth, block.groups(), block.taps(),
                             block.groups() * channels_, side.Rows(tile) + block.group * filters_,
                             groups_ * filters_, tile > row,
                             sums.rows + block.group * sums.group_stride, sums.stride);
        continue;
      }
      const F* factors = s.tile;
      if constexpr (G::kPair == 2) {
        for (int64_t r = 0; r < depth; r += 2) {
          const F* even = s.tile + r * G::kTileStride;
          InterleaveRows(even, r + 1 < depth ? even + G::kTileStride : nullptr,
                         block.groups() * block.depth(), s.pairs + r * G::kTileStride);
        }
        factors = s.pairs;
      }
      for (int64_t g = block.group; g < block.group_end; ++g) {
        const GradientPanels<F> panels = side.Pack(tile, tile_end, g);
        for (int64_t tap = 0; tap < (alone ? 1 : block.taps()); ++tap) {
          const int64_t part = tap * block.groups() + (g - block.group);
          Product<F> product;
          product.a = factors + part * block.channels() * G::kPair;
          product.repeats = 1;
          product.repeat_stride = 0;
          product.depth = G::PackedDepth(depth);
          product.c = sums.rows + tap * channels_ * sums.stride + g * sums.group_stride;
          product.c_stride = sums.stride;
          product.accumulate = tile > row;
          tfconv::TFCONV_ISA_NAMESPACE::Multiply<F, true>(product, count, panels.first,
                                                          panels.depth, panels.row, columns);
        }
      }
    }
  }

  int64_t examples_;
  int64_t groups_;
  int64_t taps_;
  int64_t channels_;  // of a group
  int64_t filters_;   // of a group
  int64_t positions_;
  double cycles_;
  bool has_small_groups_;
  DepthBlocks blocks_;
  Parts columns_;
  Parts slices_;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_FILTER_GRADIENT_H_
