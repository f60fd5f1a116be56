// The products of convolutions: rows that a source gathers, times a packed side.
//
// A source of rows has
//   void Fill(int64_t row, int64_t row_end, const DepthBlock& block, F* tile);
// which writes a tile of rows, with what lies in the block: [tap, group, channel]. A packed side has
// panels for them.
#ifndef TFCONV_COMMON_PRODUCT_H_
#define TFCONV_COMMON_PRODUCT_H_

#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/pass.h"
#include "common/small_groups.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Units that a pass should have at least, where the sizes allow it: they keep 64 threads busy. A
// constant, not the number of threads: results must not depend on it.
constexpr int64_t kMinUnits = 32;
// Cycles below which a unit costs more than it saves.
constexpr double kMinUnitCycles = 16384;
// Columns of a product that are packed at a time.
constexpr int64_t kMaxColumns = 512;
// Fewest columns worth a unit of their own.
constexpr int64_t kMinColumns = 16;
// Tiles of rows that share what is packed.
constexpr int64_t kMaxTiles = 8;

// Cycles of a product of matrices, by which the scheduler goes.
template <typename F>
double ProductCycles(int64_t rows, int64_t depth, int64_t columns) {
  return static_cast<double>(rows) * static_cast<double>(depth) * static_cast<double>(columns) *
         sizeof(F) / kVecBytes;
}

// Units that work of so many cycles is worth.
inline int64_t WantedUnits(double cycles) {
  return Min<int64_t>(kMinUnits, 1 + static_cast<int64_t>(Min(cycles / kMinUnitCycles, 1e6)));
}

// Equal parts of an axis; the last may be smaller.
struct Parts {
  int64_t size;
  int64_t count;
};

// About `wanted` parts, multiples of `step` that are no larger than `most`, a multiple as well.
inline Parts MakeParts(int64_t size, int64_t wanted, int64_t step, int64_t most) {
  Parts parts;
  parts.size = Min(most, RoundUp(CeilDiv(Max<int64_t>(size, 1), Max<int64_t>(wanted, 1)), step));
  if (parts.size > step && 5 * CeilDiv(size, parts.size) < 4 * wanted) parts.size -= step;
  parts.count = CeilDiv(size, parts.size);
  return parts;
}

// A part of the depth of a product.
struct DepthBlock {
  int64_t group;  // the groups, of which all channels belong to it if there are several
  int64_t group_end;
  int64_t tap;
  int64_t tap_end;
  int64_t channel;  // of a group
  int64_t channel_end;

  int64_t groups() const { return group_end - group; }
  int64_t taps() const { return tap_end - tap; }
  int64_t channels() const { return channel_end - channel; }
  int64_t depth() const { return taps() * channels(); }  // of a group
  bool is_first() const { return tap == 0 && channel == 0; }
};

// How the depth of products, groups by taps by channels of a group, is cut: a block has some
// groups, or some taps of one, or a part of the channels of one tap. Where groups are small, a block
// has as many of them as fit, and of these as many taps.
class DepthBlocks {
 public:
  enum Order { kTapsOutside, kChannelsOutside };

  // With pairs of an odd number of channels, groups stay apart.
  DepthBlocks(int64_t groups, int64_t taps, int64_t channels, int64_t most_depth,
              int64_t most_columns, int64_t pair, int64_t channel_step = 1,
              Order order = kTapsOutside)
      : groups_(groups), taps_(taps), channels_(channels), order_(order) {
    if (channels > most_depth) {
      const int64_t equal = CeilDiv(channels, CeilDiv(channels, most_depth));
      block_channels_ = RoundUp(equal, channel_step);
    } else {
      const int64_t fit = most_depth / Max<int64_t>(channels, 1);
      block_channels_ = Max<int64_t>(channels, 1);
      block_taps_ = taps > 0 ? CeilDiv(taps, CeilDiv(taps, fit)) : 1;
      if (block_taps_ >= taps && channels % pair == 0) {
        block_groups_ =
            Max<int64_t>(1, Min(groups, most_columns / Max<int64_t>(taps * channels, 1)));
      }
    }
    channel_blocks_ = CeilDiv(channels, block_channels_);
    tap_blocks_ = CeilDiv(taps, block_taps_);
  }

  // Of small groups, which all have `step` of them together but the last ones.
  static DepthBlocks OfSmallGroups(int64_t groups, int64_t taps, int64_t channels,
                                   int64_t most_columns, int64_t step) {
    DepthBlocks blocks(groups, taps, channels, channels, most_columns, 1);
    blocks.block_groups_ =
        groups * channels <= most_columns ? groups : most_columns / channels / step * step;
    const int64_t fit = Max<int64_t>(1, most_columns / (blocks.block_groups_ * channels));
    blocks.block_taps_ = Max<int64_t>(1, Min(taps, fit));
    blocks.tap_blocks_ = CeilDiv(taps, blocks.block_taps_);
    return blocks;
  }

  int64_t count() const {
    return CeilDiv(groups_, block_groups_) * per_group();
  }
  // Of a group.
  int64_t per_group() const { return channel_blocks_ * tap_blocks_; }
  // The largest block's.
  int64_t groups() const { return block_groups_; }
  int64_t depth() const { return block_taps_ * block_channels_; }

  // Elements that the weights of small groups with so many columns take: of any block, also of
  // fewer taps.
  template <typename Number>
  int64_t WeightsSize(int64_t columns) const {
    return depth() * RoundUp(groups() * columns, Simd<Number>::kLanes);
  }

  DepthBlock At(int64_t index) const {
    const int64_t of_groups = index % per_group();
    DepthBlock block;
    block.group = index / per_group() * block_groups_;
    block.group_end = Min(groups_, block.group + block_groups_);
    const bool outside = order_ == kTapsOutside;
    block.tap = (outside ? of_groups / channel_blocks_ : of_groups % tap_blocks_) * block_taps_;
    block.tap_end = Min(taps_, block.tap + block_taps_);
    block.channel =
        (outside ? of_groups % channel_blocks_ : of_groups / tap_blocks_) * block_channels_;
    block.channel_end = Min(channels_, block.channel + block_channels_);
    return block;
  }

 private:
  int64_t groups_;
  int64_t taps_;
  int64_t channels_;
  Order order_;
  int64_t block_groups_ = 1;
  int64_t block_taps_ = 1;
  int64_t block_channels_ = 1;
  int64_t channel_blocks_;
  int64_t tap_blocks_;
};

// Where rows of a product are added up, and from group to group.
template <typename Number>
struct Sums {
  Number* rows;
  int64_t stride;
  int64_t group_stride;
};

// What of a tile is multiplied with a group's panels. `width` is the channels of the block.
template <typename F>
Product<F> GroupProduct(const DepthBlock& block, int64_t group, const F* tile) {
  Product<F> product;
  product.a = tile + (group - block.group) * block.channels();
  const bool alone = block.groups() == 1;
  product.repeats = alone ? 1 : block.taps();
  product.repeat_stride = block.groups() * block.channels();
  product.depth = Gemm<F>::PackedDepth(alone ? block.depth() : block.channels());
  return product;
}

// How rows and columns of a product are cut.
struct Cut {
  Parts rows;
  Parts columns;

  int64_t count() const { return rows.count * columns.count; }
};

// Into about `wanted` parts. Each part of the rows packs the columns once more, and each part of
// the columns gathers the rows once more: the costs of one of them say which is cut.
template <typename F>
Cut MakeCut(int64_t wanted, int64_t rows, int64_t most_rows, double row_cost, int64_t columns,
            int64_t column_step, double column_cost) {
  const int64_t fewest = CeilDiv(rows, most_rows);
  Cut best = {};
  double best_cost = 0;
  for (int64_t parts = fewest; parts <= Max(wanted, fewest); ++parts) {
    Cut cut;
    cut.rows = MakeParts(rows, parts, Gemm<F>::kRows, most_rows);
    cut.columns = MakeParts(columns, CeilDiv(wanted, cut.rows.count), column_step, kMaxColumns);
    // What is missing of the wanted parts counts more than any cost.
    const double missing = static_cast<double>(Max<int64_t>(0, 4 * wanted - 5 * cut.count()));
    const double cost = row_cost * static_cast<double>(rows * cut.columns.count) +
                        column_cost * static_cast<double>(columns * cut.rows.count) +
                        missing * 1e12;
    if (parts > fewest && cost >= best_cost) continue;
    best = cut;
    best_cost = cost;
  }
  return best;
}

// A part of a product: rows [row, row_end) of one of the products that a pass has, and of each
// group as many columns.
struct RowUnit {
  int64_t other;
  int64_t row;
  int64_t row_end;
  int64_t column;
  int64_t columns;

  int64_t rows() const { return row_end - row; }
};

// The products of a pass whose results are rows, one of each of the `others`.
template <typename T>
struct RowProducts {
  using F = Factor<T>;
  using G = Gemm<F>;
  using Number = Accumulator<T>;
  static constexpr int64_t kColumnStep = G::kLanes > kMinColumns ? G::kLanes : kMinColumns;

  RowProducts(int64_t others_, int64_t rows_, int64_t groups_, int64_t depth, int64_t columns_)
      : others(others_),
        rows(rows_),
        groups(groups_),
        columns(columns_),
        cycles(ProductCycles<F>(rows_, depth, columns_ * groups_)) {}

  // See MakeCut.
  void Divide(int64_t most_rows, double row_cost, int64_t column_step, double column_cost) {
    const int64_t wanted = CeilDiv(WantedUnits(cycles * static_cast<double>(others)), others);
    cut = MakeCut<F>(wanted, rows, most_rows / G::kRows * G::kRows, row_cost, columns, column_step,
                     column_cost);
  }

  PassPlan Plan(const Arena& arena) const {
    return {others * cut.count(),
            1 + static_cast<int64_t>(cycles / static_cast<double>(cut.count())), arena.used()};
  }

  // Of any number of blocks, the panels of a group.
  int64_t GroupSize(int64_t depth) const { return G::PackedSize(depth, cut.columns.size); }

  RowUnit At(int64_t unit) const {
    const int64_t row = unit % cut.count() / cut.columns.count * cut.rows.size;
    const int64_t column = unit % cut.columns.count * cut.columns.size;
    return {unit / cut.count(), row, Min(rows, row + cut.rows.size), column,
            Min(cut.columns.size, columns - column)};
  }

  int64_t others;
  int64_t rows;
  int64_t groups;
  int64_t columns;  // of a group
  double cycles;    // of one of the others
  Cut cut;
};

template <typename T>
struct RowScratch {
  RowScratch(const RowProducts<T>& products, bool in_place, int64_t packed_size,
             int64_t weights_size, Arena* arena)
      : tile(arena->Take<Factor<T>>(Gemm<Factor<T>>::kTileSize)),
        packed(arena->Take<Factor<T>>(packed_size)),
        weights(arena->Take<Accumulator<T>>(weights_size)),
        sums(arena->Take<Accumulator<T>>(
            in_place ? 0
                     : products.cut.rows.size * products.groups * products.cut.columns.size)) {}

  Factor<T>* tile;
  Factor<T>* packed;
  Accumulator<T>* weights;
  Accumulator<T>* sums;  // of rows that are no neighbours, or of another type, in their tensor
};

// Where a unit's rows are added up: at `rows`, which is its first, in their tensor with so many
// columns of a row and of a group, or apart.
template <typename T>
Sums<Accumulator<T>> SumsOf(const RowUnit& unit, int64_t groups, bool in_place, T* rows,
                            int64_t stride, int64_t group_stride, Accumulator<T>* apart) {
  if constexpr (!kIsHalf<T>) {
    if (in_place) return {rows, stride, group_stride};
  }
  return {apart, groups * unit.columns, unit.columns};
}

// The panels of a filter, [taps, channels of a group, filters], for columns of each group: packed
// block by block for one unit, or before, for all of them.
template <typename T>
struct FilterSide {
  using F = Factor<T>;
  using G = Gemm<F>;

  // Either all channels of some taps, or some channels of one tap, are rows without gaps.
  void PackBlock(const DepthBlock& block, F* panels) const {
    const T* rows = filter + (block.tap * channels + block.channel) * filters;
    for (int64_t g = block.group; g < block.group_end; ++g, panels += group_size) {
      PackPanels(rows + g * group_filters + column, filters, block.depth(), columns, panels);
    }
  }

  const F* Pack(const DepthBlock& block, int64_t index) const {
    if (small_groups != nullptr) {
      const int64_t stride = small_groups->WeightStride(block.groups());
      const int64_t count = block.groups() * group_filters;
      const T* row = filter + block.tap * channels * filters + block.group * group_filters;
      for (int64_t i = 0; i < block.depth(); ++i) {
        CopyElements(row + i * filters, weights + i * stride, count);
        for (int64_t j = count; j < stride; ++j) weights[i * stride + j] = 0;
      }
      return nullptr;
    }
    if (all != nullptr) {
      return all + index * block_size + column * G::PackedDepth(block.depth());
    }
    PackBlock(block, packed);
    return packed;
  }

  const T* filter;
  int64_t channels;
  int64_t filters;        // of all groups
  int64_t group_filters;  // of one
  int64_t column;         // [column, column + columns) of each group
  int64_t columns;
  int64_t group_size;  // elements of the panels of one group
  F* packed;
  const F* all;        // of all columns and blocks, if they were packed before
  int64_t block_size;  // from block to block there
  const SmallGroups<F>* small_groups;  // null where groups have panels
  Accumulator<T>* weights;             // of small groups
};

// The rows of `sums`, of which the first is the unit's, become, or grow by,
//   sum over the depth of a block of rows(r, depth) * side(depth, column).
// side.Pack(block, its number) gives a block's panels, of one group after the other.
template <typename F, typename Rows, typename Side>
void MultiplyRowsOfBlock(const DepthBlock& block, int64_t number, const RowUnit& unit,
                         const Rows& rows, const Side& side, F* tile,
                         const Sums<Accumulator<F>>& sums, bool accumulate) {
  using G = Gemm<F>;
  const F* packed = side.Pack(block, number);
  const int64_t depth = block.depth();
  for (int64_t row = unit.row; row < unit.row_end; row += G::kTileRows) {
    const int64_t row_end = Min<int64_t>(unit.row_end, row + G::kTileRows);
    rows.Fill(row, row_end, block, tile);
    Accumulator<F>* c = sums.rows + (row - unit.row) * sums.stride;
    if (side.small_groups != nullptr) {
      side.small_groups->MultiplyRows(tile, row_end - row, block.groups(), block.taps(),
                                      block.groups() * block.channels(), side.weights,
                                      side.small_groups->WeightStride(block.groups()), accumulate,
                                      c + block.group * sums.group_stride, sums.stride);
      continue;
    }
    if (depth < G::PackedDepth(depth)) {
      for (int64_t r = 0; r < row_end - row; ++r) tile[r * G::kTileStride + depth] = F{};
    }
    for (int64_t g = block.group; g < block.group_end; ++g) {
      Product<F> product = GroupProduct(block, g, tile);
      product.c = c + g * sums.group_stride;
      product.c_stride = sums.stride;
      product.accumulate = accumulate;
      Multiply<F, false>(product, row_end - row, packed + (g - block.group) * side.group_size,
                         depth, 0, unit.columns);
    }
  }
}

// The same over the whole depth.
template <typename F, typename Rows, typename Side>
void MultiplyRows(const DepthBlocks& blocks, const RowUnit& unit, const Rows& rows,
                  const Side& side, F* tile, const Sums<Accumulator<F>>& sums) {
  for (int64_t b = 0; b < blocks.count(); ++b) {
    const DepthBlock block = blocks.At(b);
    MultiplyRowsOfBlock(block, b, unit, rows, side, tile, sums, !block.is_first());
  }
}

// A product of few rows: units are slices of the depth, so that each part of the packed side is read
// once and in order. What they make is added up afterwards, in the order of the slices.
template <typename T>
struct DepthSlices {
  using F = Factor<T>;

  // Each part of the columns gathers the rows once more, which costs so many cycles; each slice adds
  // up sums once more.
  DepthSlices(const RowProducts<T>& products, const DepthBlocks& blocks_, double gather_cycles)
      : rows(products.rows),
        row_size(products.groups * products.columns),
        cycles(products.cycles),
        blocks(blocks_) {
    constexpr double kSumCycles = 1.5;
    const int64_t wanted = WantedUnits(cycles);
    const int64_t of_groups = blocks.count() / blocks.per_group();
    double best_cost = 0;
    for (int64_t together = 1; together <= blocks.per_group(); ++together) {
      const int64_t slices = CeilDiv(blocks.per_group(), together);
      const Parts parts = MakeParts(products.columns, CeilDiv(wanted, slices * of_groups),
                                    RowProducts<T>::kColumnStep, kMaxColumns);
      const int64_t missing = Max<int64_t>(0, 4 * wanted - 5 * slices * of_groups * parts.count);
      const double cost = kSumCycles * static_cast<double>(slices * part_size()) +
                          gather_cycles * static_cast<double>(parts.count) +
                          1e12 * static_cast<double>(missing);
      if (together > 1 && cost >= best_cost) continue;
      best_cost = cost;
      blocks_of_slice = together;
      count = slices;
      columns = parts;
    }
  }

  int64_t units() const { return blocks.count() / blocks.per_group() * count * columns.count; }
  PassPlan Plan(const Arena& arena) const {
    return {units(), 1 + static_cast<int64_t>(cycles / static_cast<double>(units())), arena.used()};
  }
  // Of any number of blocks, the panels of a group.
  int64_t GroupSize() const { return Gemm<F>::PackedSize(blocks.depth(), columns.size); }
  // Elements of what a slice makes.
  int64_t part_size() const { return rows * row_size; }

  int64_t rows;
  int64_t row_size;
  double cycles;
  DepthBlocks blocks;
  int64_t blocks_of_slice;
  int64_t count;  // of a group's slices
  Parts columns;  // of each group
};

// The epilogue: rows of a unit that were added up apart, because their tensor has another type or
// order, are rounded and stored. target(r) is where row r of the first group goes.
template <typename T, typename Target>
void StoreRows(const Sums<Accumulator<T>>& sums, int64_t rows, int64_t groups, int64_t columns,
               int64_t group_stride, const Target& target) {
  const bool whole = columns == group_stride && columns == sums.group_stride;
  const int64_t copies = whole ? 1 : groups;
  for (int64_t r = 0; r < rows; ++r) {
    T* row = target(r);
    for (int64_t g = 0; g < copies; ++g) {
      CopyElements(sums.rows + r * sums.stride + g * sums.group_stride, row + g * group_stride,
                   whole ? groups * columns : columns);
    }
  }
}

// Adds up `parts` times `size` numbers, elements [begin, end) of each, in their order.
template <typename T>
void AddParts(const Accumulator<T>* from, int64_t parts, int64_t size, int64_t begin, int64_t end,
              T* out) {
  using S = Simd<Accumulator<T>>;
  int64_t i = begin;
  for (; i + S::kLanes <= end; i += S::kLanes) {
    typename S::Vec sum = S::Load(from + i);
    for (int64_t part = 1; part < parts; ++part) sum += S::Load(from + part * size + i);
    S::Store(out + i, sum);
  }
  for (; i < end; ++i) {
    Accumulator<T> sum = from[i];
    for (int64_t part = 1; part < parts; ++part) sum += from[part * size + i];
    StoreNumber(out + i, sum);
  }
}

// Elements that a unit of AddParts has.
constexpr int64_t kSumUnit = 4096;

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_COMMON_PRODUCT_H_
