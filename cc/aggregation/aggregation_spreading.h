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
// of groups or parts of a group's channels and, where these are few, slices of the positions. Each
// adds up in memory of its own, where a pixel has the unit's channels only: so a cache holds the
// pixels that neighbours reach, which lie far apart in dx. Slices are added in a fixed order.
struct InputUnits {
  int64_t blocks;
  int64_t groups;  // of a block
  int64_t parts;   // of a group; there are several only in blocks of one
  int64_t part_channels;
  int64_t slices;
  int64_t positions;  // of a slice

  int64_t of_slice() const { return blocks * parts; }
  // Of an image, a block and part, and a slice.
  int64_t Number(int64_t image, int64_t index, int64_t slice) const {
    return (image * of_slice() + index) * slices + slice;
  }
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

// What the units add up, in the type that is computed in, and, where there are slices, which lines of
// its image each has written: only those count.
template <typename T>
struct DxParts {
  using Number = Accumulator<T>;

  explicit DxParts(const AggregationArgs<T>& args)
      : units(MakeInputUnits(args)),
        count(args.geometry.batch * units.of_slice() * units.slices),
        lines(NumLines(args.geometry)),
        size(lines * args.geometry.axis[2].input *
             (units.parts > 1 ? units.part_channels
                              : units.groups * (args.geometry.channels / args.groups))),
        numbers(static_cast<Number*>(args.dx_parts)),
        written(reinterpret_cast<uint8_t*>(numbers + count * size)) {}

  // Whether all units' are kept until the end.
  bool exist() const { return units.slices > 1; }

  InputUnits units;
  int64_t count;  // of units
  int64_t lines;  // of an image
  int64_t size;   // of a unit's numbers, at most
  Number* numbers;   // [N, blocks * parts, slices, size]: pixels, and their channels
  uint8_t* written;  // [N, blocks * parts, slices, lines]
};

template <typename T>
int64_t DxPartsBytes(const AggregationArgs<T>& args) {
  const DxParts<T> parts(args);
  if (!parts.exist()) return 0;
  return parts.count * (parts.size * static_cast<int64_t>(sizeof(Accumulator<T>)) + parts.lines);
}

// The channels of a unit, and the groups that they belong to.
struct ChannelRange {
  int64_t first_group;
  int64_t groups;
  int64_t begin;
  int64_t end;

  int64_t count() const { return end - begin; }
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

// Adds `lanes` channels of dy, weighted, to the corners of a part of a group's samples, from the
// unit's channel c on.
template <typename S, typename T, int kRank>
TFCONV_INLINE void SpreadSamples(const Found<T, kRank>& found, int64_t first, int64_t taps,
                                 const T* dy, int64_t c, int64_t lanes) {
  using Number = Accumulator<T>;
  const typename S::Vec g = Read<S>(dy, lanes);
  for (int64_t i = first; i < first + taps; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < (1 << kRank); ++k) {
      Number* to = found.template At<Number>(k, i) + c;
      Write<S>(to, Read<S>(to, lanes) + g * found.weight[k][i], lanes);
    }
  }
}

template <typename T, int kRank>
class Spreader {
 public:
  Spreader(const AggregationArgs<T>& args, Arena* arena)
      : args_(args),
        parts_(args),
        samples_(args, parts_.units.groups, arena),
        absent_(arena->Take<Number>(args.geometry.channels)),
        own_(arena->Take<Number>(parts_.exist() ? 0 : parts_.size)) {}

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
    line_size_ = g.axis[2].input * channels_.count();
    if (parts_.exist()) {
      dx_ = parts_.numbers + number * parts_.size;
      written_ = parts_.written + number * parts_.lines;
      memset(written_, 0, static_cast<size_t>(parts_.lines));
    } else {
      dx_ = own_;
      memset(dx_, 0, static_cast<size_t>(parts_.lines * line_size_) * sizeof(Number));
    }
    samples_.SetMemory(dx_, absent_, channels_.count());
    const int64_t positions = NumOutputs(g);
    const int64_t first = slice * parts_.units.positions;
    const int64_t last = Min(first + parts_.units.positions, positions);
    const int64_t width = g.channels / args_.groups;
    WithVectors<T, kRank>(Min(width, parts_.units.part_channels), 1, [&](auto simd) {
      ForEachPosition(g, image * positions + first, image * positions + last,
                      [&](const Position& position, int64_t p) {
                        Spread<decltype(simd)>(position, p, width);
                      });
    });
    if (!parts_.exist()) GiveImage(args_.dx + image * ImageSize(g) + channels_.begin);
  }

 private:
  using Number = Accumulator<T>;

  template <typename S>
  TFCONV_INLINE void Spread(const Position& position, int64_t number, int64_t width) {
    constexpr int64_t kAhead = 4, kLine = 64 / static_cast<int64_t>(sizeof(T));
    const T* dy = args_.dy + number * args_.geometry.channels;
    const T* const ahead = dy + kAhead * args_.geometry.channels;
    for (int64_t c = channels_.begin; c < channels_.end; c += kLine) __builtin_prefetch(ahead + c);
    samples_.template ForEachPart<false>(
        position, number, channels_.first_group, channels_.first_group + channels_.groups,
        [&](const Part& part) {
          const Found<T, kRank>& found = samples_.found();
          if (written_ != nullptr) ClearLines(part.samples());
          for (int64_t i = 0; i < part.groups; ++i) {
            const int64_t group = part.group + i, first = i * part.taps, start = channels_.begin;
            int64_t c = Max(group * width, start);
            const int64_t end = Min((group + 1) * width, channels_.end);
            for (; c + S::kLanes <= end; c += S::kLanes) {
              SpreadSamples<S>(found, first, part.taps, dy + c, c - start, S::kLanes);
            }
            if (c < end) SpreadSamples<S>(found, first, part.taps, dy + c, c - start, end - c);
          }
        });
  }

  // The lines that the corners of samples [0, count) lie in, before they are added to.
  void ClearLines(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      // Both corners along the last axis lie in one line.
      for (int corner = 0; corner < Found<T, kRank>::kCorners; corner += 2) {
        const Number* pixel = samples_.found().template At<const Number>(corner, i);
        if (pixel == absent_) pixel = samples_.found().template At<const Number>(corner + 1, i);
        if (pixel == absent_) continue;
        const int64_t line = (pixel - dx_) / line_size_;
        if (written_[line]) continue;
        written_[line] = 1;
        memset(dx_ + line * line_size_, 0, static_cast<size_t>(line_size_) * sizeof(Number));
      }
    }
  }

  // Writes what there is to dx, which has all channels.
  void GiveImage(T* dx) const {
    const int64_t count = channels_.count();
    const int64_t pixels = parts_.lines * args_.geometry.axis[2].input;
    for (int64_t i = 0; i < pixels; ++i) {
      CopyElements(dx_ + i * count, dx + i * args_.geometry.channels, count);
    }
  }

  const AggregationArgs<T>& args_;
  DxParts<T> parts_;
  Samples<T, kRank> samples_;
  Number* absent_;  // written in place of corners that are absent, and never read as data
  Number* own_;     // numbers of one unit after the other
  ChannelRange channels_ = {};
  int64_t line_size_ = 0;
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
  const InputUnits& units = parts.units;
  const int64_t channels = args.geometry.channels;
  const int64_t width = args.geometry.axis[2].input;
  for (int64_t line = begin; line < end; ++line) {
    const int64_t image = line / parts.lines, own = line % parts.lines;
    for (int64_t index = 0; index < units.of_slice(); ++index) {
      const ChannelRange range = GetChannels(args, units, index);
      for (int64_t w = 0; w < width; ++w) {
        T* const dx = args.dx + (line * width + w) * channels + range.begin;
        const int64_t pixel = (own * width + w) * range.count();
        for (int64_t c = 0; c < range.count(); c += S::kLanes) {
          const int64_t lanes = Min<int64_t>(S::kLanes, range.count() - c);
          typename S::Vec sum = {};
          for (int64_t slice = 0; slice < units.slices; ++slice) {
            const int64_t unit = units.Number(image, index, slice);
            if (!parts.written[unit * parts.lines + own]) continue;
            sum += Read<S>(parts.numbers + unit * parts.size + pixel + c, lanes);
          }
          Write<S>(dx + c, sum, lanes);
        }
      }
    }
  }
}

}  // namespace aggregation
}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_AGGREGATION_AGGREGATION_SPREADING_H_
