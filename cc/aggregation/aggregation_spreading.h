// The gradient of deformable aggregation for x: adds weighted upstream gradients to pixels.
#ifndef TFCONV_AGGREGATION_AGGREGATION_SPREADING_H_
#define TFCONV_AGGREGATION_AGGREGATION_SPREADING_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "aggregation/aggregation_kernel.h"
#include "aggregation/aggregation_samples.h"
#include "common/arena.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {
namespace aggregation {

// The gradient for x. Positions of one image scatter into the same dx: the units are images, blocks
// of groups or parts of a group's channels and, where these are few, slices of the positions, each
// with a dx of its own. Those are added in a fixed order.
struct InputUnits {
  int64_t blocks;
  int64_t groups;  // of a block
  int64_t parts;   // of a group; there are several only in blocks of one
  int64_t part_channels;
  int64_t slices;
  int64_t positions;  // of a slice

  int64_t of_slice() const { return blocks * parts; }
};

template <typename T>
InputUnits MakeInputUnits(const AggregationArgs<T>& args) {
  // Fewest channels and positions of a unit: channels share samples, slices share lines of dx.
  constexpr int64_t kBlockChannels = 16, kPartChannels = 64, kPositions = 64;
  const ConvGeometry& g = args.geometry;
  const int64_t wanted = CeilDiv(kMinUnits, Max<int64_t>(1, g.batch));
  const int64_t width = g.channels / args.groups;
  InputUnits units;
  const int64_t blocks =
      Min(args.groups, Min(wanted, Max<int64_t>(1, g.channels / kBlockChannels)));
  units.groups = CeilDiv(args.groups, blocks);
  units.blocks = CeilDiv(args.groups, units.groups);
  units.part_channels = Max<int64_t>(1, width);
  if (units.groups == 1) {
    const int64_t parts =
        Min(CeilDiv(wanted, units.blocks), Max<int64_t>(1, width / kPartChannels));
    units.part_channels = Max<int64_t>(1, RoundUp(CeilDiv(width, parts), kBlockChannels));
    units.part_channels = Min(units.part_channels, Max<int64_t>(1, width));
  }
  units.parts = Max<int64_t>(1, CeilDiv(width, units.part_channels));
  const int64_t positions = Max<int64_t>(1, NumOutputs(g));
  const int64_t slices =
      Max<int64_t>(1, Min(CeilDiv(wanted, units.of_slice()), positions / kPositions));
  units.positions = CeilDiv(positions, slices);
  units.slices = CeilDiv(positions, units.positions);
  return units;
}

// dx of every slice, in the type that is computed in, and, if there are several, for every unit
// which lines of its image it has written: only those count.
template <typename T>
struct DxParts {
  using Number = Accumulator<T>;

  explicit DxParts(const AggregationArgs<T>& args)
      : units(MakeInputUnits(args)),
        lines(NumLines(args.geometry)),
        size(args.geometry.batch * ImageSize(args.geometry)),
        numbers(static_cast<Number*>(args.dx_parts)),
        written(reinterpret_cast<uint8_t*>(numbers + units.slices * size)) {}

  // Whether sums are apart from dx.
  bool exist() const { return kIsHalf<T> || units.slices > 1; }

  // Of a unit.
  uint8_t* Written(int64_t image, int64_t index, int64_t slice) const {
    return written + ((image * units.of_slice() + index) * units.slices + slice) * lines;
  }

  InputUnits units;
  int64_t lines;  // of an image
  int64_t size;
  Number* numbers;   // [slices, N, input, C]
  uint8_t* written;  // [N, blocks * parts, slices, lines]
};

template <typename T>
int64_t DxPartsBytes(const AggregationArgs<T>& args) {
  const DxParts<T> parts(args);
  if (!parts.exist()) return 0;
  return parts.units.slices * parts.size * static_cast<int64_t>(sizeof(Accumulator<T>)) +
         args.geometry.batch * parts.units.of_slice() * parts.units.slices * parts.lines;
}

// The channels of a unit, and the groups that they belong to.
struct ChannelRange {
  int64_t first_group;
  int64_t groups;
  int64_t begin;
  int64_t end;
};

template <typename T>
ChannelRange GetChannels(const AggregationArgs<T>& args, const InputUnits& units, int64_t index) {
  const int64_t width = args.geometry.channels / args.groups;
  ChannelRange range;
  range.first_group = index / units.parts * units.groups;
  range.groups = Min(units.groups, args.groups - range.first_group);
  const int64_t begin = range.first_group * width;
  range.begin = begin + index % units.parts * units.part_channels;
  range.end = Min(range.begin + units.part_channels, begin + range.groups * width);
  if (units.parts == 1) range.end = begin + range.groups * width;
  return range;
}

// Adds `lanes` channels of dy from c on, weighted, to the corners of a group's samples.
template <typename S, typename T, int kRank>
TFCONV_INLINE void SpreadSamples(const Samples<T, kRank>& s, int64_t first, const T* dy, int64_t c,
                                 int64_t lanes) {
  using Number = Accumulator<T>;
  constexpr int kCorners = Samples<T, kRank>::kCorners;
  // Compilers cannot know that what is written is not these.
  const int64_t* corner[kCorners];
  const Number* weight[kCorners];
  for (int k = 0; k < kCorners; ++k) {
    corner[k] = s.corner[k] + first;
    weight[k] = s.weight[k] + first;
  }
  const int64_t taps = s.taps();
  const typename S::Vec g = Read<S>(dy + c, lanes);
  for (int64_t i = 0; i < taps; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kCorners; ++k) {
      Number* to = reinterpret_cast<Number*>(corner[k][i]) + c;
      Write<S>(to, Read<S>(to, lanes) + g * weight[k][i], lanes);
    }
  }
}

template <typename T, int kRank>
class Spreader {
 public:
  Spreader(const AggregationArgs<T>& args, Arena* arena)
      : args_(args),
        parts_(args),
        together_(Min(parts_.units.groups, Samples<T, kRank>::GroupsTogether(args))),
        samples_(args, together_, arena),
        absent_(arena->Take<Number>(args.geometry.channels)) {}

  // Before first use.
  void Clear() {
    samples_.Clear();
    memset(absent_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(Number));
  }

  void RunUnit(int64_t number) {
    const ConvGeometry& g = args_.geometry;
    const int64_t slice = number % parts_.units.slices;
    const int64_t index = number / parts_.units.slices % parts_.units.of_slice();
    const int64_t image = number / parts_.units.slices / parts_.units.of_slice();
    channels_ = GetChannels(args_, parts_.units, index);
    if (parts_.exist()) {
      dx_ = parts_.numbers + slice * parts_.size + image * ImageSize(g);
    } else if constexpr (!kIsHalf<T>) {
      dx_ = args_.dx + image * ImageSize(g);
    }
    samples_.SetMemory(dx_, absent_);
    if (parts_.units.slices > 1) {
      written_ = parts_.Written(image, index, slice);
      memset(written_, 0, static_cast<size_t>(parts_.lines));
    } else {
      for (int64_t line = 0; line < parts_.lines; ++line) ClearLine(line);
    }
    const int64_t positions = NumOutputs(g);
    const int64_t first = slice * parts_.units.positions;
    const int64_t last = Min(first + parts_.units.positions, positions);
    const int64_t width = g.channels / args_.groups;
    WithVectors<Number>(Min(width, parts_.units.part_channels), [&](auto simd) {
      ForEachPosition(g, image * positions + first, image * positions + last,
                      [&](const Position& position, int64_t p) {
                        Spread<decltype(simd)>(position, p, width);
                      });
    });
  }

 private:
  using Number = Accumulator<T>;

  template <typename S>
  TFCONV_INLINE void Spread(const Position& position, int64_t number, int64_t width) {
    const int64_t taps = samples_.taps();
    const T* dy = args_.dy + number * args_.geometry.channels;
    const int64_t end = channels_.first_group + channels_.groups;
    for (int64_t group = channels_.first_group; group < end; group += together_) {
      const int64_t count = Min(together_, end - group);
      samples_.template Find<false>(position, number, group, count);
      if (written_ != nullptr) ClearLines(count * taps);
      for (int64_t i = 0; i < count; ++i) {
        int64_t c = Max((group + i) * width, channels_.begin);
        const int64_t c_end = Min((group + i + 1) * width, channels_.end);
        for (; c + S::kLanes <= c_end; c += S::kLanes) {
          SpreadSamples<S>(samples_, i * taps, dy, c, S::kLanes);
        }
        if (c < c_end) SpreadSamples<S>(samples_, i * taps, dy, c, c_end - c);
      }
    }
  }

  void ClearLine(int64_t line) {
    const int64_t channels = args_.geometry.channels;
    const int64_t width = args_.geometry.axis[2].input;
    Number* pixel = dx_ + line * width * channels + channels_.begin;
    const int64_t count = channels_.end - channels_.begin;
    if (count == channels) {
      memset(pixel, 0, static_cast<size_t>(width * channels) * sizeof(Number));
      return;
    }
    for (int64_t w = 0; w < width; ++w) {
      memset(pixel + w * channels, 0, static_cast<size_t>(count) * sizeof(Number));
    }
  }

  // The lines that the corners of samples [0, count) lie in, before they are added to.
  void ClearLines(int64_t count) {
    const int64_t line_size = args_.geometry.axis[2].input * args_.geometry.channels;
    for (int64_t i = 0; i < count; ++i) {
      // Both corners along the last axis lie in one line.
      for (int corner = 0; corner < Samples<T, kRank>::kCorners; corner += 2) {
        const Number* pixel = samples_.template At<const Number>(corner, i);
        if (pixel == absent_) pixel = samples_.template At<const Number>(corner + 1, i);
        if (pixel == absent_) continue;
        const int64_t line = (pixel - dx_) / line_size;
        if (written_[line]) continue;
        written_[line] = 1;
        ClearLine(line);
      }
    }
  }

  const AggregationArgs<T>& args_;
  DxParts<T> parts_;
  int64_t together_;
  Samples<T, kRank> samples_;
  Number* absent_;  // written in place of corners that are absent, and never read as data
  ChannelRange channels_ = {};
  Number* dx_ = nullptr;
  uint8_t* written_ = nullptr;
};

template <typename T>
void BackwardInput(const AggregationArgs<T>& args, int64_t begin, int64_t end, void* scratch) {
  ByRank(args, [&](auto r) {
    Arena arena(scratch);
    Spreader<T, decltype(r)::kValue> spreader(args, &arena);
    spreader.Clear();
    for (int64_t unit = begin; unit < end; ++unit) spreader.RunUnit(unit);
  });
}

template <typename T>
PassPlan PlanBackwardInput(const AggregationArgs<T>& args) {
  const InputUnits units = MakeInputUnits(args);
  Arena arena(nullptr);
  ByRank(args, [&](auto r) { Spreader<T, decltype(r)::kValue>(args, &arena); });
  const int64_t channels = CeilDiv(args.geometry.channels, units.of_slice());
  return {args.geometry.channels == 0 ? 0
                                      : args.geometry.batch * units.of_slice() * units.slices,
          2 * Cycles(args, units.positions, channels, units.groups), arena.used()};
}

// Units are lines of dx.
template <typename T>
PassPlan PlanSumDx(const AggregationArgs<T>& args) {
  const DxParts<T> parts(args);
  return {parts.exist() ? args.geometry.batch * parts.lines : 0,
          1 + parts.units.slices * args.geometry.axis[2].input * args.geometry.channels, 0};
}

template <typename T>
void SumDx(const AggregationArgs<T>& args, int64_t begin, int64_t end, void*) {
  using S = Simd<Accumulator<T>>;
  const DxParts<T> parts(args);
  const int64_t channels = args.geometry.channels;
  const int64_t width = args.geometry.axis[2].input;
  for (int64_t line = begin; line < end; ++line) {
    for (int64_t index = 0; index < parts.units.of_slice(); ++index) {
      const ChannelRange range = GetChannels(args, parts.units, index);
      const uint8_t* written = parts.Written(line / parts.lines, index, 0) + line % parts.lines;
      for (int64_t w = 0; w < width; ++w) {
        const int64_t pixel = (line * width + w) * channels;
        for (int64_t c = range.begin; c < range.end; c += S::kLanes) {
          const int64_t lanes = Min<int64_t>(S::kLanes, range.end - c);
          typename S::Vec sum = {};
          for (int64_t slice = 0; slice < parts.units.slices; ++slice) {
            if (parts.units.slices > 1 && !written[slice * parts.lines]) continue;
            sum += Read<S>(parts.numbers + slice * parts.size + pixel + c, lanes);
          }
          Write<S>(args.dx + pixel + c, sum, lanes);
        }
      }
    }
  }
}

}  // namespace aggregation
}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_AGGREGATION_AGGREGATION_SPREADING_H_
