#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/vec.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_sampling.h"
#include "deformable/deformable_spreading.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace {

template <typename T>
void Sample(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  Sampler<T, T> sampler(args, &arena);
  sampler.Clear();
  const int64_t channels = args.geometry.channels;
  const int64_t taps = NumTaps(args.geometry);
  const int64_t rows = TileRows(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * rows;
    sampler.StartTile(first, Min(rows, Positions(args) - first), taps * channels);
    for (int64_t tap = 0; tap < taps; ++tap) {
      sampler.Add(tap, 0, channels, args.columns + (first * taps + tap) * channels);
    }
    sampler.Finish();
  }
}

template <typename T>
PassPlan PlanSampleBackward(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  Spreader<T> spreader(args, &arena);
  return PlanBackward(args, arena.used(), 0);
}

template <typename T>
void SampleBackward(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  Spreader<T> spreader(args, &arena);
  spreader.Clear();
  const ConvGeometry& g = args.geometry;
  const int64_t taps = NumTaps(g);
  const int64_t positions = ImagePositions(g);
  constexpr int64_t kRows = Tile<Accumulator<T>>::kRows;
  const ChannelBlocks blocks = MakeChannelBlocks(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const ChannelBlock block = GetChannelBlock(args, blocks, unit);
    spreader.StartBlock(blocks, block);
    for (int64_t p = 0; p < positions; p += kRows) {
      const int64_t first = block.image * positions + p;
      spreader.StartTile(first, Min<int64_t>(kRows, positions - p));
      for (int64_t tap = 0; tap < taps; ++tap) {
        spreader.Spread(tap, block.begin, block.end,
                        args.dcolumns + (first * taps + tap) * g.channels + block.begin,
                        taps * g.channels);
      }
    }
  }
}

constexpr int64_t kSumUnit = 4096;

template <typename T>
PassPlan PlanSumPartial(const DeformableArgs<T>& args) {
  const int64_t parts = MakeChannelBlocks(args).parts;
  const int64_t samples = Positions(args) * args.offset_groups * NumTaps(args.geometry);
  return {parts == 1 ? 0 : CeilDiv(samples, kSumUnit), kSumUnit * parts, 0};
}

template <typename T>
void SumParts(const Accumulator<T>* partial, int64_t parts, int64_t size, int64_t begin,
              int64_t end, T* out) {
  using S = Simd<Accumulator<T>>;
  int64_t i = begin;
  for (; i + S::kLanes <= end; i += S::kLanes) {
    typename S::Vec sum = S::Load(partial + i);
    for (int64_t part = 1; part < parts; ++part) sum += S::Load(partial + part * size + i);
    S::Store(out + i, sum);
  }
  for (; i < end; ++i) {
    Accumulator<T> sum = partial[i];
    for (int64_t part = 1; part < parts; ++part) sum += partial[part * size + i];
    StoreNumber(out + i, sum);
  }
}

template <typename T>
void SumPartial(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  const int64_t parts = MakeChannelBlocks(args).parts;
  const int64_t samples = Positions(args) * args.offset_groups * NumTaps(args.geometry);
  const int64_t first = begin * kSumUnit;
  const int64_t last = Min(end * kSumUnit, samples);
  SumParts(args.partial, parts, 2 * samples, 2 * first, 2 * last, args.doffset);
  if (args.mask == nullptr) return;
  SumParts(args.partial + parts * 2 * samples, parts, samples, first, last, args.dmask);
}

template <typename T>
DeformableSampleKernels<T> Table() {
  DeformableSampleKernels<T> kernels;
  kernels.sample = {PlanSample<T>, Sample<T>};
  kernels.backward = {PlanSampleBackward<T>, SampleBackward<T>};
  kernels.sum_partial = {PlanSumPartial<T>, SumPartial<T>};
  kernels.partial_size = PartialSize<T>;
  return kernels;
}

}  // namespace

void GetKernels(DeformableSampleKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(DeformableSampleKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
void GetKernels(DeformableSampleKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(DeformableSampleKernels<double>* kernels) { *kernels = Table<double>(); }

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
