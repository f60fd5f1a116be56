// How the work of an involution is divided: tiles of output positions and blocks of groups.
#ifndef TFCONV_INVOLUTION_INVOLUTION_TILES_H_
#define TFCONV_INVOLUTION_INVOLUTION_TILES_H_

#include <stdint.h>

#include "common/vec.h"
#include "involution/involution_kernel.h"
#include "involution/involution_rows.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Units of a pass, where its work is large enough: they occupy 64 threads evenly enough.
constexpr int64_t kMinUnits = 32;
// Output positions of a tile at most. Longer rows are cut.
constexpr int64_t kTilePositions = 64;
// Positions whose kernels are converted or made together, to stay in the first cache.
constexpr int64_t kMadePositions = 32;

inline int64_t NumTaps(const ConvGeometry& g) {
  return g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
}

inline int64_t NumOutputs(const ConvGeometry& g) {
  return g.batch * g.axis[0].output * g.axis[1].output * g.axis[2].output;
}

// Groups of channels, a few at a time.
struct GroupBlocks {
  int64_t count;
  int64_t size;  // groups of a block; the last may have fewer
};

// At least `wanted` blocks, as far as there are groups.
inline GroupBlocks MakeBlocks(int64_t groups, int64_t wanted) {
  GroupBlocks blocks;
  blocks.size = Max<int64_t>(1, groups / Max<int64_t>(1, wanted));
  blocks.count = CeilDiv(groups, blocks.size);
  return blocks;
}

// Whether kernels are made from features: a bias is there even if these have no channels.
template <typename T>
bool MakesKernels(const InvolutionArgs<T>& args) {
  return args.bias != nullptr;
}

// Blocks that kernels are made by: their part of the span stays in the cache, and fills panels.
template <typename T>
int64_t BlocksOfSpan(const InvolutionArgs<T>& args) {
  constexpr int64_t kColumns = 192;
  return MakesKernels(args) ? Max<int64_t>(1, args.groups * NumTaps(args.geometry) / kColumns) : 1;
}

// Positions whose kernels are taken at a time.
template <typename T>
int64_t KernelPositions(const InvolutionArgs<T>& args) {
  return kIsHalf<T> || MakesKernels(args) ? kMadePositions : kTilePositions;
}

struct GroupRange {
  int64_t first;
  int64_t count;
};

inline GroupRange GetGroups(const GroupBlocks& blocks, int64_t groups, int64_t block) {
  const int64_t first = block * blocks.size;
  return {first, Min(blocks.size, groups - first)};
}

// Lines of output positions of all images, some at a time if they are short, and cut if they are
// long.
struct Tiles {
  GroupBlocks blocks;
  int64_t lines;
  int64_t width;
  int64_t per_line;
  int64_t length;  // positions of a line's part
  int64_t lines_per_tile;
  int64_t count;  // for each block of groups
};

struct Tile {
  Range lines;
  Range columns;

  int64_t first(const Tiles& tiles) const { return lines.begin * tiles.width + columns.begin; }
  int64_t positions() const {
    return (lines.end - lines.begin) * (columns.end - columns.begin);
  }
};

template <typename T>
Tiles MakeTiles(const InvolutionArgs<T>& args, int64_t positions) {
  const ConvGeometry& g = args.geometry;
  Tiles t = {};
  t.lines = g.batch * g.axis[0].output * g.axis[1].output;
  t.width = g.axis[2].output;
  int64_t blocks = BlocksOfSpan(args);
  t.lines_per_tile = 1;
  if (t.lines > 0 && t.width > 0) {
    t.per_line = CeilDiv(t.width, positions);
    t.length = RoundUp(CeilDiv(t.width, t.per_line), kPositions);
    if (MakesKernels(args)) {
      const int64_t fitting = Min(positions / t.width, t.lines * blocks / kMinUnits);
      t.lines_per_tile = Max<int64_t>(1, fitting);
    }
    t.count = CeilDiv(t.lines, t.lines_per_tile) * t.per_line;
    blocks = Max(blocks, CeilDiv(kMinUnits, t.count));
  }
  t.blocks = MakeBlocks(args.groups, blocks);
  return t;
}

inline Tile GetTile(const Tiles& t, int64_t number) {
  Tile tile;
  tile.columns.begin = Min(number % t.per_line * t.length, t.width);
  tile.columns.end = Min(tile.columns.begin + t.length, t.width);
  tile.lines.begin = number / t.per_line * t.lines_per_tile;
  tile.lines.end = Min(tile.lines.begin + t.lines_per_tile, t.lines);
  return tile;
}

// Where a line of output positions lies.
struct LinePosition {
  int64_t image;
  int64_t depth;
  int64_t height;
};

inline LinePosition GetLine(const ConvGeometry& g, int64_t line) {
  const int64_t slice = line / g.axis[1].output;
  return {slice / g.axis[0].output, slice % g.axis[0].output, line % g.axis[1].output};
}

// Estimate for the scheduler of sums over windows, in the type that is computed in.
template <typename T>
int64_t WindowCycles(const InvolutionArgs<T>& args, int64_t positions, int64_t groups) {
  const ConvGeometry& g = args.geometry;
  const int64_t channels = g.channels / args.groups * groups;
  const int64_t products = channels + (MakesKernels(args) ? args.num_features * groups : 0);
  return Max<int64_t>(1, positions * NumTaps(g) * products *
                             static_cast<int64_t>(sizeof(Accumulator<T>)) / 32);
}

// The gradient for x: each unit owns a band of lines of dx, cut into segments where they are long,
// for a block of groups. It visits the output positions that reach the band, and adds to it while a
// cache holds it.
struct Bands {
  GroupBlocks blocks;
  int64_t depth;
  int64_t height;
  int64_t width;
  int64_t per_row;  // segments
  int64_t length;
  int64_t per_column;
  int64_t lines;
  int64_t outputs;  // lines of output positions whose kernels are taken together
  int64_t count;    // for each block of groups
};

template <typename T>
Bands MakeBands(const InvolutionArgs<T>& args) {
  constexpr int64_t kBytes = 1 << 18;
  const ConvGeometry& g = args.geometry;
  Bands b = {};
  b.depth = g.axis[0].input;
  b.height = g.axis[1].input;
  b.width = g.axis[2].input;
  b.blocks = MakeBlocks(args.groups, 1);
  const int64_t slices = g.batch * b.depth;
  if (slices == 0 || g.channels == 0 || b.height == 0 || b.width == 0) return b;
  b.per_row = CeilDiv(b.width, kTilePositions);
  b.length = CeilDiv(b.width, b.per_row);
  const int64_t by_span = BlocksOfSpan(args);
  const int64_t line_bytes = b.length * (g.channels / MakeBlocks(args.groups, by_span).count) *
                             static_cast<int64_t>(sizeof(Accumulator<T>));
  const int64_t fitting = Max<int64_t>(1, kBytes / Max<int64_t>(1, line_bytes));
  // Bands reach the same output positions, blocks of groups do not.
  const int64_t bands = slices * b.per_row * CeilDiv(b.height, Min(b.height, fitting));
  b.blocks = MakeBlocks(args.groups, Max(by_span, CeilDiv(kMinUnits, bands)));
  const int64_t wanted = CeilDiv(kMinUnits, slices * b.per_row * b.blocks.count);
  b.lines = Min(fitting, CeilDiv(b.height, wanted));
  b.per_column = CeilDiv(b.height, b.lines);
  b.lines = CeilDiv(b.height, b.per_column);
  b.outputs = 1;
  if (MakesKernels(args) && b.per_row == 1) {
    b.outputs = Max(b.outputs, KernelPositions(args) / Max<int64_t>(1, g.axis[2].output));
  }
  b.count = slices * b.per_row * b.per_column;
  return b;
}

template <typename T>
Tiles MakeForwardTiles(const InvolutionArgs<T>& args) {
  return MakeTiles(args, KernelPositions(args));
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_TILES_H_
