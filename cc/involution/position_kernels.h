// Where the kernels of output positions come from: a tensor, or features of the positions.
#ifndef TFCONV_INVOLUTION_POSITION_KERNELS_H_
#define TFCONV_INVOLUTION_POSITION_KERNELS_H_

#include <stdint.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/vec.h"
#include "involution/involution_tiles.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Of the tiles below, kTilePositions rows and what the product may read beyond them.
template <typename Sum>
constexpr int64_t kRoomForRows = kTilePositions + Gemm<Sum>::kRows;

// A matrix with a row for each of a few positions, as the product wants it: columns beyond
// kTileColumns are put behind, as another tile.
template <typename Sum>
class PositionTile {
 public:
  using G = Gemm<Sum>;

  PositionTile(int64_t columns, Arena* arena)
      : data_(arena->Take<Sum>(CeilDiv(columns, G::kTileColumns) * kSize)) {}

  template <typename From>
  void SetRow(int64_t row, const From* values, int64_t count) const {
    for (int64_t j = 0; j < count; j += G::kTileColumns) {
      CopyElements(values + j, Part(j) + row * G::kTileStride,
                   Min<int64_t>(G::kTileColumns, count - j));
    }
  }

  // Where a row begins that has `count` elements, and room for a vector more; null if it is in
  // several tiles.
  Sum* Row(int64_t row, int64_t count) const {
    return count > G::kTileColumns ? nullptr : data_ + row * G::kTileStride;
  }

  // sums[j] += the sum of a column.
  void AddRows(int64_t rows, int64_t columns, Sum* sums) const {
    for (int64_t j = 0; j < columns; j += G::kTileColumns) {
      const int64_t end = Min<int64_t>(G::kTileColumns, columns - j);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < end; ++i) sums[j + i] += Part(j)[row * G::kTileStride + i];
      }
    }
  }

  void Set(int64_t row, int64_t column, Sum value) const {
    Part(column)[row * G::kTileStride + column % G::kTileColumns] = value;
  }

  // c (+)= this * b: `b` are packed panels of as many rows as this has columns.
  void Multiply(int64_t rows, int64_t columns, const Sum* b, int64_t b_columns, Sum* c,
                int64_t c_stride) const {
    for (int64_t k = 0; k < columns; k += G::kTileColumns) {
      const Product<Sum> product = {Part(k),
                                    /*repeats=*/1,
                                    /*repeat_stride=*/0,
                                    Min<int64_t>(G::kTileColumns, columns - k),
                                    c,
                                    c_stride,
                                    /*accumulate=*/k > 0};
      tfconv::TFCONV_ISA_NAMESPACE::Multiply<Sum, false>(product, rows, b, columns, k, b_columns);
    }
  }

  // c (+)= the transpose of this * b, of which both have a row for each position.
  void MultiplyTransposed(int64_t rows, int64_t columns, const Sum* b, int64_t b_columns, Sum* c,
                          int64_t c_stride, bool accumulate) const {
    for (int64_t i = 0; i < columns; i += G::kTileColumns) {
      const Product<Sum> product = {Part(i),  1,        0,         rows,
                                    c + i * c_stride, c_stride, accumulate};
      tfconv::TFCONV_ISA_NAMESPACE::Multiply<Sum, true>(
          product, Min<int64_t>(G::kTileColumns, columns - i), b, rows, 0, b_columns);
    }
  }

 private:
  static constexpr int64_t kSize = kRoomForRows<Sum> * G::kTileStride;

  Sum* Part(int64_t column) const { return data_ + column / G::kTileColumns * kSize; }

  Sum* data_;
};

// Puts the features of positions, and a 1 for the bias behind them, into a tile.
template <typename T>
void SetFeatures(const InvolutionArgs<T>& args, int64_t first, int64_t count,
                 const PositionTile<Accumulator<T>>& tile) {
  for (int64_t i = 0; i < count; ++i) {
    tile.SetRow(i, args.features + (first + i) * args.num_features, args.num_features);
    tile.Set(i, args.num_features, 1);
  }
}

// Where a block of groups begins in packed_span, of which a column has `depth` elements.
template <typename T>
int64_t PackedBlock(const InvolutionArgs<T>& args, const GroupBlocks& blocks, int64_t block) {
  using G = Gemm<Accumulator<T>>;
  return block * G::PackedSize(args.num_features + 1, blocks.size * NumTaps(args.geometry));
}

// The kernels of a block of groups, at kMadePositions positions at most if they are made.
template <typename T>
class PositionKernels {
 public:
  using Sum = Accumulator<T>;

  PositionKernels(const InvolutionArgs<T>& args, const GroupBlocks& blocks, Arena* arena)
      : args_(args),
        blocks_(blocks),
        taps_(NumTaps(args.geometry)),
        features_(MakesKernels(args) ? args.num_features + 1 : 0, arena) {
    const bool makes = kIsHalf<T> || MakesKernels(args);
    kernels_ = arena->Take<Sum>(makes ? kMadePositions * blocks.size * taps_ : 0);
  }

  // Gives a row the kernels of positions of all images; `row.first` is the first of them as the
  // row counts.
  template <Direction kDirection>
  void Give(int64_t first, int64_t count, int64_t block, Row<T, kDirection>* row) const {
    const GroupRange groups = GetGroups(blocks_, args_.groups, block);
    const int64_t size = groups.count * taps_, all = args_.groups * taps_;
    row->fetch = false;
    row->kernel = kernels_;
    row->kernel_step = size;
    row->kernel_end = kernels_ + count * size;
    if (MakesKernels(args_)) {
      SetFeatures(args_, first, count, features_);
      features_.Multiply(count, args_.num_features + 1,
                         args_.packed_span + PackedBlock(args_, blocks_, block), size, kernels_,
                         size);
      return;
    }
    const T* kernel = args_.kernel + first * all + groups.first * taps_;
    if constexpr (kIsHalf<T>) {
      for (int64_t i = 0; i < count; ++i) {
        CopyElements(kernel + i * all, kernels_ + i * size, size);
      }
    } else {
      row->fetch = size == all;
      row->kernel = kernel;
      row->kernel_step = all;
      row->kernel_end = args_.kernel + NumOutputs(args_.geometry) * all;
    }
  }

 private:
  const InvolutionArgs<T>& args_;
  const GroupBlocks blocks_;
  const int64_t taps_;
  const PositionTile<Sum> features_;
  Sum* kernels_;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_POSITION_KERNELS_H_
