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

// Positions of a unit.
template <typename T>
Parts SampleTiles(const DeformableArgs<T>& args) {
  constexpr int64_t kStep = Gemm<Accumulator<T>>::kRows;
  return MakeParts(Positions(args), kMinUnits, kStep, Tile<Accumulator<T>>::kRows / kStep * kStep);
}

template <typename T>
PassPlan PlanSample(const DeformableArgs<T>& args) {
  Arena arena(nullptr);
  Sampler<T, T> sampler(args, &arena);
  const Parts tiles = SampleTiles(args);
  const double samples =
      static_cast<double>(tiles.size) * static_cast<double>(NumTaps(args.geometry));
  const double channels = static_cast<double>(args.geometry.channels);
  return {args.geometry.channels == 0 ? 0 : tiles.count,
          static_cast<int64_t>(samples * (20 + SampleCycles(args) * channels)), arena.used()};
}

template <typename T>
void Sample(const DeformableArgs<T>& args, int64_t begin, int64_t end, void* memory) {
  Arena arena(memory);
  Sampler<T, T> sampler(args, &arena);
  sampler.Clear();
  const int64_t channels = args.geometry.channels;
  const int64_t taps = NumTaps(args.geometry);
  const Parts tiles = SampleTiles(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * tiles.size;
    sampler.StartTile(first, Min(tiles.size, Positions(args) - first), taps * channels);
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
  const int64_t channels = args.geometry.channels;
  const int64_t taps = NumTaps(args.geometry);
  constexpr int64_t kRows = Tile<Accumulator<T>>::kRows;
  const SpreadUnits units = MakeSpreadUnits(args);
  for (int64_t number = begin; number < end; ++number) {
    const SpreadUnit unit = GetSpreadUnit(args, units, number);
    spreader.StartUnit(units, unit);
    for (int64_t row = unit.row; row < unit.row_end; row += kRows) {
      spreader.StartTile(row, Min<int64_t>(kRows, unit.row_end - row));
      for (int64_t tap = 0; tap < taps; ++tap) {
        spreader.Spread(tap, unit.begin, unit.end,
                        args.dcolumns + (row * taps + tap) * channels + unit.begin,
                        taps * channels);
      }
    }
  }
}

template <typename T>
PassPlan PlanSumPartial(const DeformableArgs<T>& args) {
  const int64_t parts = MakeSpreadUnits(args).parts;
  const int64_t samples = Positions(args) * args.offset_groups * NumTaps(args.geometry);
  return {parts == 1 ? 0 : CeilDiv(samples, kSumUnit), kSumUnit * parts, 0};
}

template <typename T>
void SumPartial(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  const int64_t parts = MakeSpreadUnits(args).parts;
  const int64_t samples = Positions(args) * args.offset_groups * NumTaps(args.geometry);
  const int64_t first = begin * kSumUnit;
  const int64_t last = Min(end * kSumUnit, samples);
  const int64_t rank = args.rank;
  AddParts(args.partial, parts, rank * samples, rank * first, rank * last, args.doffset);
  if (args.mask == nullptr) return;
  AddParts(args.partial + parts * rank * samples, parts, samples, first, last, args.dmask);
}

// `count` numbers from `first` on of the slices that have written them. The next slice's flags are
// a line of flags further.
template <typename T>
void AddWritten(const DxParts<T>& parts, const uint8_t* written, int64_t first, int64_t count,
                T* out) {
  using S = Simd<Accumulator<T>>;
  for (int64_t c = 0; c < count; c += S::kLanes) {
    const int64_t lanes = Min<int64_t>(S::kLanes, count - c);
    typename S::Vec sum = {};
    for (int64_t slice = 0; slice < parts.units.slices.count; ++slice) {
      if (!written[slice * parts.lines]) continue;
      const Accumulator<T>* from = parts.numbers + slice * parts.size + first + c;
      sum += lanes == S::kLanes ? S::Load(from) : S::LoadFirst(from, lanes);
    }
    if (lanes == S::kLanes) {
      S::Store(out + c, sum);
    } else {
      S::StoreFirst(out + c, sum, lanes);
    }
  }
}

// Units are lines of dx.
template <typename T>
PassPlan PlanSumDx(const DeformableArgs<T>& args) {
  const DxParts<T> parts(args);
  return {parts.exist() ? args.geometry.batch * parts.lines : 0,
          1 + parts.units.slices.count * parts.width * args.geometry.channels, 0};
}

template <typename T>
void SumDx(const DeformableArgs<T>& args, int64_t begin, int64_t end, void*) {
  const DxParts<T> parts(args);
  const int64_t channels = args.geometry.channels;
  for (int64_t line = begin; line < end; ++line) {
    const int64_t first = line / parts.lines * parts.units.of_image();
    for (int64_t block = 0; block < parts.units.per_image; ++block) {
      const SpreadUnit unit =
          GetSpreadUnit(args, parts.units, first + block * parts.units.slices.count);
      const uint8_t* written =
          parts.written + unit.number * parts.lines + line % parts.lines;
      for (int64_t w = 0; w < parts.width; ++w) {
        const int64_t pixel = (line * parts.width + w) * channels;
        AddWritten(parts, written, pixel + unit.begin, unit.end - unit.begin,
                   args.dx + pixel + unit.begin);
      }
    }
  }
}

template <typename T>
int64_t UnitsOfImage(const DeformableArgs<T>& args) {
  return MakeSpreadUnits(args).of_image();
}

template <typename T>
DeformableSampleKernels<T> Table() {
  DeformableSampleKernels<T> kernels;
  kernels.sample = {PlanSample<T>, Sample<T>};
  kernels.backward = {PlanSampleBackward<T>, SampleBackward<T>};
  kernels.sum_partial = {PlanSumPartial<T>, SumPartial<T>};
  kernels.sum_dx = {PlanSumDx<T>, SumDx<T>};
  kernels.units_of_image = UnitsOfImage<T>;
  kernels.partial_size = PartialSize<T>;
  kernels.dx_parts_bytes = DxPartsBytes<T>;
  return kernels;
}

}  // namespace

void GetKernels(DeformableSampleKernels<Bfloat16>* kernels) { *kernels = Table<Bfloat16>(); }
#if !defined(TFCONV_HAS_DOT)
void GetKernels(DeformableSampleKernels<Half>* kernels) { *kernels = Table<Half>(); }
void GetKernels(DeformableSampleKernels<float>* kernels) { *kernels = Table<float>(); }
void GetKernels(DeformableSampleKernels<double>* kernels) { *kernels = Table<double>(); }
#endif

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv
