#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/vec.h"
#include "per_example/per_example_kernel.h"
#include "per_example/phases.h"
#include "per_example/pixel_grid.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

// Units that a pass should have at least, where the sizes allow it.
constexpr int64_t kMinUnits = 16;
// Tiles of rows that share one packed filter.
constexpr int64_t kMaxTiles = 8;
// Columns of a product that are computed at a time.
constexpr int64_t kMaxColumns = 512;

template <typename T>
int64_t NumTaps(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return axis[0].kernel * axis[1].kernel * axis[2].kernel;
}

template <typename T>
int64_t InputPositions(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return axis[0].input * axis[1].input * axis[2].input;
}

template <typename T>
int64_t OutputPositions(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return axis[0].output * axis[1].output * axis[2].output;
}

template <typename T>
int64_t GroupChannels(const PerExampleArgs<T>& args) {
  return args.geometry.channels / args.groups;
}

template <typename T>
int64_t GroupFilters(const PerExampleArgs<T>& args) {
  return args.filters / args.groups;
}

// The filter of an example.
template <typename T>
const T* FilterOf(const PerExampleArgs<T>& args, int64_t example) {
  return args.filter + example * NumTaps(args) * GroupChannels(args) * args.filters;
}

// Cycles of a product of matrices.
template <typename T>
int64_t ProductCycles(int64_t rows, int64_t depth, int64_t columns) {
  return 1 + static_cast<int64_t>(static_cast<double>(rows) * static_cast<double>(depth) *
                                  static_cast<double>(columns + 16) * sizeof(Accumulator<T>) /
                                  kVecBytes);
}

// Rows of a product, in equal chunks of whole tiles. Few examples have smaller chunks.
struct RowChunks {
  int64_t rows;  // of a chunk
  int64_t count;
};

template <typename T>
RowChunks MakeRowChunks(int64_t rows, int64_t others) {
  constexpr int64_t kTileRows = Gemm<Accumulator<T>>::kTileRows;
  const int64_t tiles = CeilDiv(rows, kTileRows);
  const int64_t wanted = Max(CeilDiv(tiles, kMaxTiles), Min(tiles, CeilDiv(kMinUnits, others)));
  RowChunks chunks;
  chunks.rows = CeilDiv(tiles, wanted) * kTileRows;
  chunks.count = CeilDiv(rows, chunks.rows);
  return chunks;
}

// How the inner dimension of a product, taps by channels of a group, is cut: blocks have whole
// taps, or a part of the channels of a single one.
struct DepthBlocks {
  int64_t taps;
  int64_t channels;  // of a block; the last may have fewer
};

DepthBlocks MakeDepthBlocks(int64_t taps, int64_t channels, int64_t depth) {
  if (channels > depth) return {1, CeilDiv(channels, CeilDiv(channels, depth))};
  return {CeilDiv(taps, CeilDiv(taps, depth / channels)), channels};
}

template <typename T>
struct Scratch {
  using Sum = Accumulator<T>;

  Scratch(int64_t columns, int64_t result_rows, Arena* arena)
      : tile(arena->Take<Sum>(Gemm<Sum>::kTileRows * Gemm<Sum>::kTileStride)),
        packed(arena->Take<Sum>(
            Gemm<Sum>::PackedSize(Gemm<Sum>::kDepth, Min(columns, kMaxColumns)))),
        result(arena->Take<Sum>(result_rows * Min(columns, kMaxColumns))) {}

  Sum* tile;
  Sum* packed;
  Sum* result;  // rows that are no neighbours, or of another type, in their tensor
};

// Where rows of a product are added up.
template <typename T>
struct Result {
  Accumulator<T>* rows;
  int64_t stride;
};

// The rows of a tensor that start at `rows`, `stride` apart, or `scratch` for as many if the tensor
// has another type.
template <typename T>
Result<T> ResultAt(T* rows, int64_t stride, int64_t columns, Accumulator<T>* scratch) {
  if constexpr (kIsHalf<T>) {
    return {scratch, columns};
  } else {
    return {rows, stride};
  }
}

// Call once they are added up.
template <typename T>
void FinishResult(const Result<T>& result, int64_t count, int64_t columns, int64_t stride,
                  T* rows) {
  if constexpr (kIsHalf<T>) {
    for (int64_t r = 0; r < count; ++r) {
      CopyElements(result.rows + r * result.stride, rows + r * stride, columns);
    }
  }
}

// y, whose positions are rows.
template <typename T>
PixelGrid<T> GridOfOutputs(const PerExampleArgs<T>& args, int64_t example) {
  PixelGrid<T> grid;
  grid.image = args.x + example * InputPositions(args) * args.geometry.channels;
  grid.channels = args.geometry.channels;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    const ConvAxis& axis = args.geometry.axis[i];
    grid.axis[i] = {axis.input, axis.output, axis.kernel, -axis.pad, axis.stride, axis.dilation};
  }
  return grid;
}

template <typename T>
PassPlan PlanConvolve(const PerExampleArgs<T>& args) {
  Arena arena(nullptr);
  const RowChunks chunks = MakeRowChunks<T>(OutputPositions(args), args.geometry.batch);
  Scratch<T> scratch(GroupFilters(args), kIsHalf<T> ? chunks.rows : 0, &arena);
  PassPlan plan;
  plan.units = args.geometry.batch * chunks.count;
  plan.cycles_per_unit =
      ProductCycles<T>(chunks.rows, NumTaps(args) * GroupChannels(args), args.filters);
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
void Convolve(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Sum = Accumulator<T>;
  using G = Gemm<Sum>;
  Arena arena(memory);
  const int64_t channels = GroupChannels(args);
  const int64_t filters = GroupFilters(args);
  const int64_t taps = NumTaps(args);
  const int64_t positions = OutputPositions(args);
  const RowChunks chunks = MakeRowChunks<T>(positions, args.geometry.batch);
  Scratch<T> s(filters, kIsHalf<T> ? chunks.rows : 0, &arena);
  const DepthBlocks blocks = MakeDepthBlocks(taps, channels, G::kDepth);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t example = unit / chunks.count;
    const int64_t chunk = unit % chunks.count * chunks.rows;
    const int64_t chunk_end = Min(positions, chunk + chunks.rows);
    const PixelGrid<T> grid = GridOfOutputs(args, example);
    for (int64_t g = 0; g < args.groups; ++g) {
      for (int64_t f = 0; f < filters; f += kMaxColumns) {
        const int64_t columns = Min(kMaxColumns, filters - f);
        T* y = args.y + (example * positions + chunk) * args.filters + g * filters + f;
        const Result<T> result = ResultAt(y, args.filters, columns, s.result);
        for (int64_t tap = 0; tap < taps; tap += blocks.taps) {
          const int64_t tap_end = Min(taps, tap + blocks.taps);
          for (int64_t c = 0; c < channels; c += blocks.channels) {
            const int64_t c_end = Min(channels, c + blocks.channels);
            // Either all channels of some taps, or some channels of one tap: rows of the filter
            // without gaps.
            const int64_t depth = (tap_end - tap) * (c_end - c);
            const T* filter = FilterOf(args, example) + (tap * channels + c) * args.filters +
                              g * filters + f;
            PackPanels(filter, args.filters, depth, columns, s.packed);
            for (int64_t row = chunk; row < chunk_end; row += G::kTileRows) {
              const int64_t row_end = Min<int64_t>(chunk_end, row + G::kTileRows);
              CopyTileOfGrid(grid, row, row_end, tap, tap_end, g * channels + c,
                             g * channels + c_end, s.tile);
              Product<Sum> product;
              product.a = s.tile;
              product.repeats = 1;
              product.repeat_stride = 0;
              product.depth = depth;
              product.c = result.rows + (row - chunk) * result.stride;
              product.c_stride = result.stride;
              product.accumulate = tap > 0 || c > 0;
              Multiply<Sum, false>(product, row_end - row, s.packed, depth, 0, columns);
            }
          }
        }
        FinishResult(result, chunk_end - chunk, columns, args.filters, y);
      }
    }
  }
}

template <typename T>
int64_t NumPhases(const PerExampleArgs<T>& args) {
  const ConvAxis* axis = args.geometry.axis;
  return NumAxisPhases(axis[0]) * NumAxisPhases(axis[1]) * NumAxisPhases(axis[2]);
}

// Positions of the largest phase.
template <typename T>
int64_t PhasePositions(const PerExampleArgs<T>& args) {
  int64_t positions = 1;
  for (const ConvAxis& axis : args.geometry.axis) positions *= CeilDiv(axis.input, axis.stride);
  return positions;
}

template <typename T>
RowChunks MakePhaseChunks(const PerExampleArgs<T>& args) {
  return MakeRowChunks<T>(PhasePositions(args), args.geometry.batch * NumPhases(args));
}

// Rows of the phases are neighbours in dx if there is one phase.
template <typename T>
bool IsInPlace(const PerExampleArgs<T>& args) {
  return NumPhases(args) == 1 && !kIsHalf<T>;
}

template <typename T>
PassPlan PlanBackwardInput(const PerExampleArgs<T>& args) {
  Arena arena(nullptr);
  const RowChunks chunks = MakePhaseChunks(args);
  Scratch<T> scratch(GroupChannels(args), IsInPlace(args) ? 0 : chunks.rows, &arena);
  PassPlan plan;
  plan.units = args.geometry.batch * NumPhases(args) * chunks.count;
  plan.cycles_per_unit =
      ProductCycles<T>(chunks.rows, CeilDiv(NumTaps(args), NumPhases(args)) * GroupFilters(args),
                       args.geometry.channels);
  plan.scratch_bytes = arena.used();
  return plan;
}

// dx of the phases' rows: the pixels are positions of y, the taps those of the phases.
template <typename T>
PixelGrid<T> GridOfPhases(const PerExampleArgs<T>& args, int64_t example, const Phase* phases) {
  PixelGrid<T> grid;
  grid.image = args.dy + example * OutputPositions(args) * args.filters;
  grid.channels = args.filters;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    const ConvAxis& axis = args.geometry.axis[i];
    const Phase& phase = phases[i];
    const int64_t first = phase.first + axis.pad - phase.last_tap * axis.dilation;
    grid.axis[i] = {axis.output,
                    phase.positions,
                    phase.taps,
                    first / axis.stride,
                    1,
                    phase.tap_step * axis.dilation / axis.stride};
  }
  return grid;
}

// The filter's tap that a tap of the phases is.
template <typename T>
int64_t TapOfPhases(const PerExampleArgs<T>& args, const Phase* phases, int64_t tap) {
  const ConvAxis* axis = args.geometry.axis;
  const int64_t k = phases[2].last_tap - tap % phases[2].taps * phases[2].tap_step;
  tap /= phases[2].taps;
  const int64_t j = phases[1].last_tap - tap % phases[1].taps * phases[1].tap_step;
  const int64_t i = phases[0].last_tap - tap / phases[1].taps * phases[0].tap_step;
  return (i * axis[1].kernel + j) * axis[2].kernel + k;
}

template <typename T>
void BackwardInput(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Sum = Accumulator<T>;
  using G = Gemm<Sum>;
  Arena arena(memory);
  const int64_t channels = GroupChannels(args);
  const int64_t filters = GroupFilters(args);
  const int64_t all_channels = args.geometry.channels;
  const RowChunks chunks = MakePhaseChunks(args);
  Scratch<T> s(channels, IsInPlace(args) ? 0 : chunks.rows, &arena);
  const int64_t num_phases = NumPhases(args);
  const ConvAxis* axis = args.geometry.axis;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t example = unit / chunks.count / num_phases;
    const int64_t number = unit / chunks.count % num_phases;
    const Phase phases[kMaxSpatialAxes] = {
        MakePhase(axis[0], number / NumAxisPhases(axis[2]) / NumAxisPhases(axis[1])),
        MakePhase(axis[1], number / NumAxisPhases(axis[2]) % NumAxisPhases(axis[1])),
        MakePhase(axis[2], number % NumAxisPhases(axis[2]))};
    const PixelGrid<T> grid = GridOfPhases(args, example, phases);
    const int64_t positions = NumPositions(grid);
    const int64_t taps = NumGridTaps(grid);
    const int64_t chunk = unit % chunks.count * chunks.rows;
    const int64_t chunk_end = Min(positions, chunk + chunks.rows);
    if (chunk >= chunk_end) continue;
    T* dx = args.dx + example * InputPositions(args) * all_channels;
    const DepthBlocks blocks = MakeDepthBlocks(Max<int64_t>(taps, 1), filters, G::kDepth);
    for (int64_t g = 0; g < args.groups; ++g) {
      for (int64_t c = 0; c < channels; c += kMaxColumns) {
        const int64_t columns = Min(kMaxColumns, channels - c);
        // The rows of `chunk` on.
        Result<T> result = {s.result, columns};
        if (IsInPlace(args)) {
          result = ResultAt(dx + chunk * all_channels + g * channels + c, all_channels, columns,
                            s.result);
        }
        for (int64_t tap = 0; tap < taps; tap += blocks.taps) {
          const int64_t tap_end = Min(taps, tap + blocks.taps);
          for (int64_t f = 0; f < filters; f += blocks.channels) {
            const int64_t f_end = Min(filters, f + blocks.channels);
            const int64_t depth = (tap_end - tap) * (f_end - f);
            for (int64_t t = tap; t < tap_end; ++t) {
              const T* filter =
                  FilterOf(args, example) +
                  (TapOfPhases(args, phases, t) * channels + c) * args.filters + g * filters + f;
              for (int64_t p = 0; p < G::NumPanels(columns); ++p) {
                const int64_t first = p * G::kPanel;
                const int64_t width = G::PanelWidth(columns, p);
                PackTransposed(filter + first * args.filters, args.filters, f_end - f,
                               Min(width, columns - first), width,
                               s.packed + first * depth + (t - tap) * (f_end - f) * width);
              }
            }
            for (int64_t row = chunk; row < chunk_end; row += G::kTileRows) {
              const int64_t row_end = Min<int64_t>(chunk_end, row + G::kTileRows);
              CopyTileOfGrid(grid, row, row_end, tap, tap_end, g * filters + f, g * filters + f_end,
                             s.tile);
              Product<Sum> product;
              product.a = s.tile;
              product.repeats = 1;
              product.repeat_stride = 0;
              product.depth = depth;
              product.c = result.rows + (row - chunk) * result.stride;
              product.c_stride = result.stride;
              product.accumulate = tap > 0 || f > 0;
              Multiply<Sum, false>(product, row_end - row, s.packed, depth, 0, columns);
            }
          }
        }
        if (taps == 0) {
          for (int64_t r = 0; r < chunk_end - chunk; ++r) {
            ClearElements(result.rows + r * result.stride, columns);
          }
        }
        if (IsInPlace(args)) continue;
        for (int64_t row = chunk; row < chunk_end; ++row) {
          const int64_t k = row % phases[2].positions;
          const int64_t j = row / phases[2].positions % phases[1].positions;
          const int64_t i = row / phases[2].positions / phases[1].positions;
          const int64_t pixel = ((phases[0].first + i * axis[0].stride) * axis[1].input +
                                 phases[1].first + j * axis[1].stride) *
                                    axis[2].input +
                                phases[2].first + k * axis[2].stride;
          CopyElements(result.rows + (row - chunk) * columns,
                       dx + pixel * all_channels + g * channels + c, columns);
        }
      }
    }
  }
}

// The units of the filter's gradient are blocks of its rows, over all positions: each has its own
// part of the result.
struct FilterBlocks {
  DepthBlocks depth;
  int64_t tap_blocks;
  int64_t channel_blocks;
};

template <typename T>
FilterBlocks MakeFilterBlocks(const PerExampleArgs<T>& args) {
  constexpr int64_t kMinRows = 64;
  constexpr int64_t kMaxRows = Gemm<Accumulator<T>>::kTileColumns;
  const int64_t channels = GroupChannels(args);
  const int64_t rows = NumTaps(args) * channels;
  const int64_t wanted = CeilDiv(kMinUnits, args.geometry.batch * args.groups);
  const int64_t of_block =
      Min<int64_t>(kMaxRows, Max<int64_t>(CeilDiv(rows, wanted), kMinRows));
  FilterBlocks blocks;
  blocks.depth = MakeDepthBlocks(NumTaps(args), channels, of_block);
  blocks.tap_blocks = CeilDiv(NumTaps(args), blocks.depth.taps);
  blocks.channel_blocks = CeilDiv(channels, blocks.depth.channels);
  return blocks;
}

template <typename T>
struct FilterScratch {
  using Sum = Accumulator<T>;

  FilterScratch(const PerExampleArgs<T>& args, Arena* arena)
      : tile(arena->Take<Sum>(Gemm<Sum>::kTileRows * Gemm<Sum>::kTileStride)),
        packed(arena->Take<Sum>(
            Gemm<Sum>::PackedSize(Gemm<Sum>::kTileRows, Min(GroupFilters(args), kMaxColumns)))) {
    const FilterBlocks blocks = MakeFilterBlocks(args);
    const int64_t rows = kIsHalf<T> ? blocks.depth.taps * blocks.depth.channels : 0;
    result = arena->Take<Sum>(rows * Min(GroupFilters(args), kMaxColumns));
  }

  Sum* tile;
  Sum* packed;
  Sum* result;  // rows, if dfilter has another type
};

template <typename T>
PassPlan PlanBackwardFilter(const PerExampleArgs<T>& args) {
  Arena arena(nullptr);
  FilterScratch<T> scratch(args, &arena);
  const FilterBlocks blocks = MakeFilterBlocks(args);
  PassPlan plan;
  plan.units = args.geometry.batch * args.groups * blocks.tap_blocks * blocks.channel_blocks;
  plan.cycles_per_unit = ProductCycles<T>(blocks.depth.taps * blocks.depth.channels,
                                          OutputPositions(args), GroupFilters(args));
  plan.scratch_bytes = arena.used();
  return plan;
}

template <typename T>
void BackwardFilter(const PerExampleArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  using Sum = Accumulator<T>;
  using G = Gemm<Sum>;
  Arena arena(memory);
  FilterScratch<T> s(args, &arena);
  const int64_t channels = GroupChannels(args);
  const int64_t filters = GroupFilters(args);
  const int64_t taps = NumTaps(args);
  const int64_t positions = OutputPositions(args);
  const FilterBlocks blocks = MakeFilterBlocks(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t c = unit % blocks.channel_blocks * blocks.depth.channels;
    const int64_t tap = unit / blocks.channel_blocks % blocks.tap_blocks * blocks.depth.taps;
    const int64_t g = unit / blocks.channel_blocks / blocks.tap_blocks % args.groups;
    const int64_t example = unit / blocks.channel_blocks / blocks.tap_blocks / args.groups;
    const int64_t c_end = Min(channels, c + blocks.depth.channels);
    const int64_t tap_end = Min(taps, tap + blocks.depth.taps);
    const PixelGrid<T> grid = GridOfOutputs(args, example);
    for (int64_t f = 0; f < filters; f += kMaxColumns) {
      const int64_t columns = Min(kMaxColumns, filters - f);
      T* dfilter =
          args.dfilter + ((example * taps + tap) * channels + c) * args.filters + g * filters + f;
      const int64_t depth = (tap_end - tap) * (c_end - c);
      const Result<T> result = ResultAt(dfilter, args.filters, columns, s.result);
      for (int64_t row = 0; row < positions; row += G::kTileRows) {
        const int64_t rows = Min<int64_t>(G::kTileRows, positions - row);
        CopyTileOfGrid(grid, row, row + rows, tap, tap_end, g * channels + c, g * channels + c_end,
                       s.tile);
        const T* dy = args.dy + (example * positions + row) * args.filters + g * filters + f;
        PackPanels(dy, args.filters, rows, columns, s.packed);
        Product<Sum> product;
        product.a = s.tile;
        product.repeats = 1;
        product.repeat_stride = 0;
        product.depth = rows;
        product.c = result.rows;
        product.c_stride = result.stride;
        product.accumulate = row > 0;
        Multiply<Sum, true>(product, depth, s.packed, rows, 0, columns);
      }
      FinishResult(result, depth, columns, args.filters, dfilter);
    }
  }
}

template <typename T>
PerExampleKernels<T> Table() {
  PerExampleKernels<T> kernels;
  kernels.convolve = {PlanConvolve<T>, Convolve<T>};
  kernels.backward_input = {PlanBackwardInput<T>, BackwardInput<T>};
  kernels.backward_filter = {PlanBackwardFilter<T>, BackwardFilter<T>};
  return kernels;
}

}  // namespace

void GetKernels(PerExampleKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(PerExampleKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
void GetKernels(PerExampleKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(PerExampleKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
