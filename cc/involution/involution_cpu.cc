#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/vec.h"
#include "involution/involution_kernel.h"
#include "involution/involution_rows.h"
#include "involution/involution_tiles.h"
#include "involution/kernel_gradient.h"
#include "involution/position_kernels.h"
#include "involution/span_gradient.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

template <typename T, Direction kDirection>
struct RowScratch {
  using S = Simd<Accumulator<T>>;

  RowScratch(const InvolutionArgs<T>& args, const GroupBlocks& blocks, Arena* arena)
      : kernels(args, blocks, arena) {
    const ConvGeometry& g = args.geometry;
    const int64_t width = g.channels / args.groups;
    lines = arena->Take<Line<typename LineElement<T, kDirection>::Type>>(g.axis[0].kernel *
                                                                         g.axis[1].kernel);
    group_of = arena->Take<typename S::Index>(RoundUp(blocks.size * width, S::kLanes));
    weights = arena->Take<Accumulator<T>>(RearrangedSize<T>(width, NumTaps(g)));
  }

  PositionKernels<T> kernels;
  Line<typename LineElement<T, kDirection>::Type>* lines;
  typename S::Index* group_of;
  Accumulator<T>* weights;
};

// All but what differs from row to row.
template <typename T, Direction kDirection>
Row<T, kDirection> MakeRow(const InvolutionArgs<T>& args, const GroupBlocks& blocks,
                           const RowScratch<T, kDirection>& s) {
  using S = Simd<Accumulator<T>>;
  const ConvGeometry& g = args.geometry;
  Row<T, kDirection> row = {};
  row.axis = g.axis[2];
  row.channels_per_group = g.channels / args.groups;
  row.taps = NumTaps(g);
  row.line_step = g.channels;
  row.output_step = g.channels;
  row.lines = s.lines;
  row.group_of = s.group_of;
  row.weights = s.weights;
  // The last vector of a position may be partial: its other lanes repeat the last channel's group.
  const int64_t channels = blocks.size * row.channels_per_group;
  for (int64_t c = 0; c < RoundUp(channels, S::kLanes); ++c) {
    s.group_of[c] = static_cast<typename S::Index>(Min(c, channels - 1) / row.channels_per_group);
  }
  return row;
}

template <typename T>
void Forward(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  const ConvGeometry& g = args.geometry;
  const Tiles tiles = MakeForwardTiles(args);
  Arena arena(scratch);
  const RowScratch<T, Direction::kForward> s(args, tiles.blocks, &arena);
  Row<T, Direction::kForward> row = MakeRow(args, tiles.blocks, s);
  row.columns = {0, g.axis[2].input};
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = GetTile(tiles, unit % tiles.count);
    const int64_t block = unit / tiles.count;
    const GroupRange groups = GetGroups(tiles.blocks, args.groups, block);
    const int64_t first_channel = groups.first * row.channels_per_group;
    row.groups = groups.count;
    row.channels = groups.count * row.channels_per_group;
    s.kernels.Give(tile.first(tiles), tile.positions(), block, &row);
    for (int64_t line = tile.lines.begin; line < tile.lines.end; ++line) {
      const LinePosition at = GetLine(g, line);
      row.first = tile.first(tiles) - line * tiles.width;
      row.y = args.y + line * tiles.width * g.channels + first_channel;
      const Taps planes = FindTaps(g.axis[0], at.depth, 0, g.axis[0].input);
      const Taps lines = FindTaps(g.axis[1], at.height, 0, g.axis[1].input);
      row.num_lines = 0;
      for (int64_t i = 0; i < planes.count; ++i) {
        for (int64_t j = 0; j < lines.count; ++j) {
          const int64_t plane =
              at.image * g.axis[0].input + planes.first_index + i * g.axis[0].dilation;
          const int64_t from =
              plane * g.axis[1].input + lines.first_index + j * g.axis[1].dilation;
          s.lines[row.num_lines++] = {
              args.x + from * g.axis[2].input * g.channels + first_channel,
              ((planes.first_tap + i) * g.axis[1].kernel + lines.first_tap + j) *
                  g.axis[2].kernel};
        }
      }
      RunSegment(row, tile.columns);
    }
  }
}

template <typename T>
PassPlan PlanForward(const InvolutionArgs<T>& args) {
  const Tiles tiles = MakeForwardTiles(args);
  Arena arena(nullptr);
  const RowScratch<T, Direction::kForward> scratch(args, tiles.blocks, &arena);
  const int64_t units = args.geometry.channels == 0 ? 0 : tiles.count * tiles.blocks.count;
  return {units, WindowCycles(args, tiles.lines_per_tile * tiles.length, tiles.blocks.size),
          arena.used()};
}

template <typename T>
struct BandScratch {
  BandScratch(const InvolutionArgs<T>& args, const Bands& bands, Arena* arena)
      : rows(args, bands.blocks, arena),
        sums(arena->Take<Accumulator<T>>(kIsHalf<T> ? bands.lines * bands.length *
                                                          bands.blocks.size *
                                                          (args.geometry.channels / args.groups)
                                                    : 0)) {}

  RowScratch<T, Direction::kBackward> rows;
  Accumulator<T>* sums;  // of a band, if dx has another type
};

// Adds to a band of dx what the output positions of one plane that reach it give.
template <typename T>
void AddPlane(const InvolutionArgs<T>& args, const Bands& bands, const Range& band,
              const Taps& depth_taps, int64_t plane, int64_t block,
              const RowScratch<T, Direction::kBackward>& s, Accumulator<T>* sums, int64_t stride,
              Row<T, Direction::kBackward>* row) {
  const ConvGeometry& g = args.geometry;
  const ConvAxis& h_axis = g.axis[1];
  const int64_t width = g.axis[2].output, step = KernelPositions(args);
  const int64_t first_channel = block * bands.blocks.size * row->channels_per_group;
  const Range outputs = FindOutputs(h_axis, band.begin, band.end);
  Range positions = {0, width};
  if (bands.outputs == 1) {
    positions = FindOutputs(g.axis[2], row->columns.begin, row->columns.end);
  }
  for (int64_t first = outputs.begin; first < outputs.end; first += bands.outputs) {
    const int64_t last = Min(first + bands.outputs, outputs.end);
    for (int64_t p = positions.begin; p < positions.end; p += step) {
      const Range part = {p, Min(p + step, positions.end)};
      bool given = false;
      for (int64_t output = first; output < last; ++output) {
        const Taps lines = FindTaps(h_axis, output, band.begin, band.end);
        if (lines.count == 0) continue;
        if (!given) {
          s.kernels.Give((plane * h_axis.output + first) * width + p,
                         (last - first) * (part.end - p), block, row);
          given = true;
        }
        row->num_lines = lines.count;
        for (int64_t j = 0; j < lines.count; ++j) {
          s.lines[j] = {
              sums + (lines.first_index + j * h_axis.dilation) * stride,
              (depth_taps.first_tap * h_axis.kernel + lines.first_tap + j) * g.axis[2].kernel};
        }
        row->first = p - (output - first) * width;
        row->dy = args.dy + (plane * h_axis.output + output) * width * g.channels + first_channel;
        RunSegment(*row, part);
      }
    }
  }
}

template <typename T>
void BackwardInput(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  using Sum = Accumulator<T>;
  const ConvGeometry& g = args.geometry;
  const Bands bands = MakeBands(args);
  Arena arena(scratch);
  const BandScratch<T> s(args, bands, &arena);
  Row<T, Direction::kBackward> row = MakeRow(args, bands.blocks, s.rows);
  const ConvAxis& d_axis = g.axis[0];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t block = unit / bands.count;
    const int64_t number = unit % bands.count;
    const int64_t w = number % bands.per_row * bands.length;
    const int64_t h = number / bands.per_row % bands.per_column * bands.lines;
    const int64_t slice = number / bands.per_row / bands.per_column;  // of all images
    const Range band = {h, Min(h + bands.lines, bands.height)};
    const GroupRange groups = GetGroups(bands.blocks, args.groups, block);
    row.columns = {w, Min(w + bands.length, bands.width)};
    row.groups = groups.count;
    row.channels = groups.count * row.channels_per_group;
    const int64_t width = row.columns.end - w;
    const int64_t dx_stride = bands.width * g.channels;
    T* dx = args.dx + (slice * bands.height + h) * dx_stride + w * g.channels +
            groups.first * row.channels_per_group;
    Sum* sums;
    int64_t stride;
    if constexpr (kIsHalf<T>) {
      sums = s.sums;
      stride = width * row.channels;
      row.line_step = row.channels;
    } else {
      sums = dx;
      stride = dx_stride;
    }
    const bool dense = row.line_step == row.channels;
    for (int64_t i = 0; i < band.end - h; ++i) {
      for (int64_t j = 0; j < (dense ? 1 : width); ++j) {
        memset(sums + i * stride + j * row.line_step, 0,
               static_cast<size_t>(dense ? width * row.channels : row.channels) * sizeof(Sum));
      }
    }
    const int64_t depth = slice % bands.depth;
    const Range planes = FindOutputs(d_axis, depth, depth + 1);
    for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
      const Taps depth_taps = FindTaps(d_axis, plane, depth, depth + 1);
      if (depth_taps.count == 0) continue;
      AddPlane(args, bands, band, depth_taps, slice / bands.depth * d_axis.output + plane, block,
               s.rows, sums, stride, &row);
    }
    if constexpr (kIsHalf<T>) {
      for (int64_t i = 0; i < band.end - h; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          CopyElements(sums + i * stride + j * row.channels, dx + i * dx_stride + j * g.channels,
                       row.channels);
        }
      }
    }
  }
}

template <typename T>
PassPlan PlanBackwardInput(const InvolutionArgs<T>& args) {
  const Bands b = MakeBands(args);
  Arena arena(nullptr);
  const BandScratch<T> scratch(args, b, &arena);
  return {b.count * b.blocks.count, WindowCycles(args, b.lines * b.length, b.blocks.size),
          arena.used()};
}

template <typename T>
void BackwardKernel(const InvolutionArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  const Tiles tiles = MakeTiles(args, kTilePositions);
  Arena arena(scratch);
  KernelGradient<T> gradient(args, tiles.blocks, &arena);
  gradient.Open();
  const int64_t taps = NumTaps(args.geometry);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = GetTile(tiles, unit % tiles.count);
    const GroupRange groups = GetGroups(tiles.blocks, args.groups, unit / tiles.count);
    const int64_t line = tile.lines.begin;
    for (int64_t p = tile.columns.begin; p < tile.columns.end; ++p) {
      T* dkernel =
          args.dkernel + ((line * tiles.width + p) * args.groups + groups.first) * taps;
      CopyElements(gradient.Get(line, p, groups), dkernel, groups.count * taps);
    }
  }
}

template <typename T>
PassPlan PlanBackwardKernel(const InvolutionArgs<T>& args) {
  const Tiles tiles = MakeTiles(args, kTilePositions);
  Arena arena(nullptr);
  const KernelGradient<T> scratch(args, tiles.blocks, &arena);
  return {tiles.count * tiles.blocks.count, 2 * WindowCycles(args, tiles.length, tiles.blocks.size),
          arena.used()};
}

template <typename T>
InvolutionKernels<T> Table() {
  InvolutionKernels<T> kernels;
  kernels.forward = {PlanForward<T>, Forward<T>};
  kernels.backward_input = {PlanBackwardInput<T>, BackwardInput<T>};
  kernels.backward_kernel = {PlanBackwardKernel<T>, BackwardKernel<T>};
  SetSpanKernels(&kernels);
  return kernels;
}

}  // namespace

void GetKernels(InvolutionKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(InvolutionKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
void GetKernels(InvolutionKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(InvolutionKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
