// The gradient of linear sampling: spreads upstream gradients to pixels, offsets and masks.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_SPREADING_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_SPREADING_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/product.h"
#include "common/vec.h"
#include "deformable/deformable_corners.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_sampling.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Adds the sums of the lanes of each of kCount vectors.
template <int kCount, typename S>
TFCONV_INLINE void AddSums(const typename S::Vec* vectors, typename S::Scalar* sums) {
  if constexpr (kCount == 4) {
    S::AddSumsOfFour(vectors, sums);
  } else {
    for (int i = 0; i < kCount; ++i) sums[i] += S::SumLanes(vectors[i]);
  }
}

// Adds weight * upstream to some corners of dx, and upstream * corner to `sum`.
template <int kCount, typename S, typename T, typename Upstream>
TFCONV_INLINE int64_t Spread(const Upstream* upstream, const T* const* corner,
                             typename S::Scalar* const* target, const typename S::Scalar* weight,
                             int64_t c, int64_t end, typename S::Scalar* sum) {
  if (c + S::kLanes > end) return c;
  typename S::Vec sums[kCount] = {};
  for (; c + S::kLanes <= end; c += S::kLanes) {
    const typename S::Vec g = S::Load(upstream + c);
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      sums[i] += S::Load(corner[i] + c) * g;
      S::Store(target[i] + c, S::Load(target[i] + c) + g * weight[i]);
    }
  }
  AddSums<kCount, S>(sums, sum);
  return c;
}

template <int kCount, typename T, typename Upstream>
TFCONV_INLINE void SpreadRow(const Upstream* upstream, const T* const* corner,
                             Accumulator<T>* const* target, const Accumulator<T>* weight,
                             int64_t count, Accumulator<T>* sum) {
  using Number = Accumulator<T>;
  int64_t c = Spread<kCount, Simd<Number>>(upstream, corner, target, weight, 0, count, sum);
  if constexpr (kVecBytes > 32) {
    c = Spread<kCount, Simd<Number, 32>>(upstream, corner, target, weight, c, count, sum);
  }
  if constexpr (kVecBytes > 16) {
    c = Spread<kCount, Simd<Number, 16>>(upstream, corner, target, weight, c, count, sum);
  }
  for (; c < count; ++c) {
    for (int i = 0; i < kCount; ++i) {
      sum[i] += ToNumber(corner[i][c]) * ToNumber(upstream[c]);
      target[i][c] += ToNumber(upstream[c]) * weight[i];
    }
  }
}

// The gradient of sampling: adds to dx, and to sums[kCorners * r + i] the products of upstream
// gradient and corner i, from which the gradients for offset and mask follow. Row r of the upstream
// gradient, for channels [begin, end), is at upstream + r * upstream_stride. `absent` is written in
// place of corners that are absent and never read as data.
template <int kRank, typename T, typename Upstream>
void SpreadTile(const DeformableArgs<T>& args, const Samples<Accumulator<T>, kRank>& s,
                int64_t rows, int64_t begin, int64_t end, Accumulator<T>* dx, const T* zeros,
                Accumulator<T>* absent, const Upstream* upstream, int64_t upstream_stride,
                Accumulator<T>* sums) {
  using Number = Accumulator<T>;
  constexpr int kCount = kCorners<kRank>;
  constexpr int kAtOnce = kCount < 4 ? kCount : 4;  // the addresses of more exceed the registers
  const CornerShifts<kRank> shifts(args.geometry);
  for (int64_t r = 0; r < rows; ++r) {
    const T* corner[kCount];
    Number* target[kCount];
    Number weight[kCount];
    FindCorners(s, r, shifts, args.x, zeros, corner);
    FindCorners(s, r, shifts, dx, absent, target);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      corner[i] += begin;
      target[i] += begin;
      weight[i] = s.weight[i][r];
    }
#pragma GCC unroll 2
    for (int i = 0; i < kCount; i += kAtOnce) {
      SpreadRow<kAtOnce>(upstream + r * upstream_stride, corner + i, target + i, weight + i,
                         end - begin, sums + kCount * r + i);
    }
  }
}

// Gradients for offset and mask from the sums of SpreadTile.
template <int kRank, typename T, typename Out>
void FinishTile(const DeformableArgs<T>& args, const Tile<Accumulator<T>>& tile,
                const Samples<Accumulator<T>, kRank>& s, int64_t tap, int64_t offset_group,
                const Accumulator<T>* sums, Out* doffset, Out* dmask) {
  using Number = Accumulator<T>;
  const int64_t taps = NumTaps(args.geometry);
  const int64_t stride = args.offset_groups * taps;
  const int64_t first = tile.first * stride + offset_group * taps + tap;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const Number* sum = sums + kCorners<kRank> * r;
    Number delta[kRank];
#pragma GCC unroll 3
    for (int i = 0; i < kRank; ++i) delta[i] = s.delta[i][r];
    const int64_t index = first + r * stride;
#pragma GCC unroll 3
    for (int i = 0; i < kRank; ++i) {
      StoreNumber(doffset + kRank * index + i, s.mask[r] * Slope<kRank>(sum, delta, i));
    }
    if (args.mask != nullptr) StoreNumber(dmask + index, Between<kRank>(sum, delta));
  }
}

// Positions of one image scatter into the same dx: the units are images, channels and, where these
// are few, slices of the positions with a dx of their own. Each unit has whole offset groups, or a
// part of a single one. In the latter case its sums over channels, the gradients for offset and
// mask, are partial; they are stored apart and added in a fixed order.
struct SpreadUnits {
  int64_t per_image;  // blocks of channels
  int64_t parts;      // of an offset group
  int64_t part_channels;
  Parts slices;  // of an image's positions

  int64_t of_image() const { return per_image * slices.count; }
};

template <typename T>
SpreadUnits MakeSpreadUnits(const DeformableArgs<T>& args) {
  using G = Gemm<Accumulator<T>>;
  // Fewest channels and positions of a unit, from what costs least to what costs most: channels
  // share the places of their samples, and slices share lines of dx.
  constexpr int64_t kSizes[][2] = {
      {64, 4 * G::kTileRows}, {64, G::kTileRows}, {32, G::kTileRows}, {32, G::kTileRows / 8}};
  const int64_t batch = Max(args.whole_batch, args.geometry.batch);
  const int64_t wanted = CeilDiv(kMinUnits, Max<int64_t>(1, batch));
  const int64_t size = args.geometry.channels / args.offset_groups;
  const int64_t positions = ImagePositions(args.geometry);
  SpreadUnits units = {};
  for (const auto& [min_channels, min_positions] : kSizes) {
    units = {Min(wanted, args.offset_groups), 1, size, {}};
    if (wanted > args.offset_groups) {
      const int64_t parts =
          Min(CeilDiv(wanted, args.offset_groups), Max<int64_t>(1, size / min_channels));
      units.part_channels = RoundUp(CeilDiv(size, parts), G::kPanel);
      units.parts = Max<int64_t>(1, CeilDiv(size, units.part_channels));
      units.per_image = args.offset_groups * units.parts;
    }
    const int64_t slices = Max<int64_t>(1, Min(CeilDiv(wanted, units.per_image),
                                               positions / min_positions));
    units.slices = MakeParts(positions, slices, G::kRows, RoundUp(positions, G::kRows));
    if (5 * units.of_image() >= 4 * wanted) break;
  }
  return units;
}

struct SpreadUnit {
  int64_t number;
  int64_t image;
  int64_t slice;
  int64_t row;  // positions, counted over all images
  int64_t row_end;
  int64_t part;
  int64_t begin;  // channels
  int64_t end;
};

template <typename T>
SpreadUnit GetSpreadUnit(const DeformableArgs<T>& args, const SpreadUnits& units, int64_t number) {
  const int64_t size = args.geometry.channels / args.offset_groups;
  const int64_t positions = ImagePositions(args.geometry);
  SpreadUnit unit;
  unit.number = number;
  unit.slice = number % units.slices.count;
  const int64_t index = number / units.slices.count % units.per_image;
  unit.image = number / units.of_image();
  const int64_t row = unit.slice * units.slices.size;
  unit.row = unit.image * positions + row;
  unit.row_end = unit.image * positions + Min(positions, row + units.slices.size);
  if (units.parts == 1) {
    unit.part = 0;
    unit.begin = args.offset_groups * index / units.per_image * size;
    unit.end = args.offset_groups * (index + 1) / units.per_image * size;
  } else {
    unit.part = index % units.parts;
    const int64_t group = index / units.parts;
    unit.begin = group * size + unit.part * units.part_channels;
    unit.end = Min(unit.begin + units.part_channels, (group + 1) * size);
  }
  return unit;
}

template <typename T>
int64_t PartialSize(const DeformableArgs<T>& args) {
  const int64_t parts = MakeSpreadUnits(args).parts;
  if (parts == 1) return 0;
  const int64_t per_position =
      args.offset_groups * NumTaps(args.geometry) * (args.rank + (args.mask != nullptr ? 1 : 0));
  return parts * Positions(args) * per_position;
}

// dx of every slice, in the type that is computed in, and for every unit which lines of its image
// it has written: only those count. Lines are those along the last axis; of a single axis, pixels.
template <typename T>
struct DxParts {
  using Number = Accumulator<T>;

  explicit DxParts(const DeformableArgs<T>& args) : units(MakeSpreadUnits(args)) {
    const ConvGeometry& g = args.geometry;
    width = args.rank == 1 ? 1 : g.axis[2].input;
    lines = ImagePixels(g) / Max<int64_t>(1, width);
    size = g.batch * lines * width * g.channels;
    numbers = static_cast<Number*>(args.dx_parts);
    written = reinterpret_cast<uint8_t*>(numbers + units.slices.count * size);
  }

  // Whether sums are apart from dx.
  bool exist() const { return kIsHalf<T> || units.slices.count > 1; }

  SpreadUnits units;
  int64_t lines;  // of an image
  int64_t width;
  int64_t size;
  Number* numbers;   // [slices, N, lines, width, C]
  uint8_t* written;  // [units, lines]
};

template <typename T>
int64_t DxPartsBytes(const DeformableArgs<T>& args) {
  const DxParts<T> parts(args);
  if (!parts.exist()) return 0;
  return parts.units.slices.count * parts.size * static_cast<int64_t>(sizeof(Accumulator<T>)) +
         args.geometry.batch * parts.units.of_image() * parts.lines;
}

// Adds up what SpreadTile finds over the channels of a unit, which arrive in ascending order.
template <typename T>
class Spreader {
 public:
  Spreader(const DeformableArgs<T>& args, Arena* arena)
      : args_(args),
        parts_(args),
        tile_(arena->Take<Tile<Number>>(1)),
        samples_(TakeSamples(args, 1, arena)),
        zeros_(arena->Take<T>(args.geometry.channels)),
        absent_(arena->Take<Number>(args.geometry.channels)),
        sums_(arena->Take<Number>((1 << args.rank) * Tile<Number>::kRows)) {}

  // Before first use.
  void Clear() {
    memset(zeros_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(T));
    memset(absent_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(Number));
  }

  void StartUnit(const SpreadUnits& units, const SpreadUnit& unit) {
    unit_ = unit;
    partial_doffset_ = partial_dmask_ = nullptr;
    if (units.parts > 1) {
      const int64_t samples = Positions(args_) * args_.offset_groups * NumTaps(args_.geometry);
      partial_doffset_ = args_.partial + unit.part * args_.rank * samples;
      partial_dmask_ = args_.partial + (units.parts * args_.rank + unit.part) * samples;
    }
    if (parts_.exist()) {
      dx_ = parts_.numbers + unit.slice * parts_.size;
      written_ = parts_.written + unit.number * parts_.lines;
      memset(written_, 0, static_cast<size_t>(parts_.lines));
    } else if constexpr (!kIsHalf<T>) {
      dx_ = args_.dx;
      for (int64_t line = 0; line < parts_.lines; ++line) ClearLine(line);
    }
  }

  void StartTile(int64_t first, int64_t rows) { PlaceTile(args_.geometry, first, rows, tile_); }

  // Channels [begin, end) of one tap.
  template <typename Upstream>
  void Spread(int64_t tap, int64_t begin, int64_t end, const Upstream* upstream,
              int64_t upstream_stride) {
    ForEachOffsetGroup(args_, begin, end, [&](int64_t group, int64_t c, int64_t c_end) {
      WithRank(args_.rank, [&](auto rank) {
        SpreadGroup<rank.value>(tap, group, c, c_end, upstream + (c - begin), upstream_stride);
      });
    });
  }

 private:
  using Number = Accumulator<T>;

  // Channels [begin, end), which are of one offset group.
  template <int kRank, typename Upstream>
  void SpreadGroup(int64_t tap, int64_t group, int64_t begin, int64_t end,
                   const Upstream* upstream, int64_t upstream_stride) {
    const int64_t size = args_.geometry.channels / args_.offset_groups;
    const int64_t rows = tile_->rows;
    auto* samples = static_cast<Samples<Number, kRank>*>(samples_);
    FindSamples(args_, *tile_, tap, group, samples);
    if (written_ != nullptr) ClearLines(*samples);
    if (begin == Max(unit_.begin, group * size)) {
      memset(sums_, 0, static_cast<size_t>(kCorners<kRank> * rows) * sizeof(Number));
    }
    SpreadTile(args_, *samples, rows, begin, end, dx_, static_cast<const T*>(zeros_), absent_,
               upstream, upstream_stride, sums_);
    if (end != Min(unit_.end, (group + 1) * size)) return;
    if (partial_doffset_ != nullptr) {
      FinishTile(args_, *tile_, *samples, tap, group, sums_, partial_doffset_, partial_dmask_);
    } else {
      FinishTile(args_, *tile_, *samples, tap, group, sums_, args_.doffset, args_.dmask);
    }
  }

  void ClearLine(int64_t line) {
    const int64_t channels = args_.geometry.channels;
    const int64_t width = parts_.width;
    Number* pixel = dx_ + (unit_.image * parts_.lines + line) * width * channels + unit_.begin;
    const size_t bytes = static_cast<size_t>(unit_.end - unit_.begin) * sizeof(Number);
    for (int64_t w = 0; w < width; ++w) memset(pixel + w * channels, 0, bytes);
  }

  // The lines that the samples' corners lie in, before they are added to.
  template <int kRank>
  void ClearLines(const Samples<Number, kRank>& s) {
    constexpr int kInLine = kRank == 1 ? 1 : 2;  // corners
    const int64_t height = args_.geometry.axis[1].input;
    for (int64_t r = 0; r < tile_->rows; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < kCorners<kRank> / kInLine; ++i) {
        if (((s.present[r] >> (kInLine * i)) & ((1 << kInLine) - 1)) == 0) continue;
        int64_t line = s.near[0][r] + (kRank == 3 ? i >> 1 : i);
        if constexpr (kRank == 3) line = line * height + s.near[1][r] + (i & 1);
        if (written_[line]) continue;
        written_[line] = 1;
        ClearLine(line);
      }
    }
  }

  const DeformableArgs<T>& args_;
  DxParts<T> parts_;
  Tile<Number>* tile_;
  void* samples_;
  T* zeros_;
  Number* absent_;
  Number* sums_;
  Number* dx_ = nullptr;
  uint8_t* written_ = nullptr;
  SpreadUnit unit_ = {};
  Number* partial_doffset_ = nullptr;
  Number* partial_dmask_ = nullptr;
};

template <typename T>
PassPlan PlanBackward(const DeformableArgs<T>& args, int64_t scratch_bytes, double more_cycles) {
  const ConvGeometry& g = args.geometry;
  const SpreadUnits units = MakeSpreadUnits(args);
  const double samples = static_cast<double>(units.slices.size) * static_cast<double>(NumTaps(g));
  const double channels = static_cast<double>(CeilDiv(g.channels, units.per_image));
  PassPlan plan;
  plan.units = g.channels == 0 ? 0 : g.batch * units.of_image();
  plan.cycles_per_unit =
      1 + static_cast<int64_t>(samples * (50 + channels * (3 * SampleCycles(args) + more_cycles)));
  plan.scratch_bytes = scratch_bytes;
  return plan;
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_SPREADING_H_
