// The gradient of bilinear sampling: spreads upstream gradients to pixels, offsets and masks.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_SPREADING_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_SPREADING_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/vec.h"
#include "deformable/deformable_kernel.h"
#include "deformable/deformable_sampling.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Fewest channels worth a unit of their own.
constexpr int64_t kMinChannels = 32;

// Adds weight * upstream to the corners of dx, and upstream * corner to `sum`.
template <typename S, typename Upstream>
TFCONV_INLINE int64_t Spread(const Upstream* upstream,
                             const typename S::Scalar* const* corner,
                             typename S::Scalar* const* target, const typename S::Scalar* weight,
                             int64_t c, int64_t end, typename S::Scalar* sum) {
  if (c + S::kLanes > end) return c;
  typename S::Vec sums[kNumCorners] = {};
  for (; c + S::kLanes <= end; c += S::kLanes) {
    const typename S::Vec g = S::Load(upstream + c);
#pragma GCC unroll 4
    for (int i = 0; i < kNumCorners; ++i) {
      sums[i] += S::Load(corner[i] + c) * g;
      S::Store(target[i] + c, S::Load(target[i] + c) + g * weight[i]);
    }
  }
  S::AddSumsOfFour(sums, sum);
  return c;
}

// The gradient of sampling: adds to dx, and to sums[kNumCorners * r + i] the products of upstream
// gradient and corner i, from which the gradients for offset and mask follow. Row r of the upstream
// gradient, for channels [begin, end), is at upstream + r * upstream_stride. `absent` is written in
// place of corners that are absent and never read as data.
template <typename T, typename Upstream>
void SpreadTile(const DeformableArgs<T>& args, const Samples<Accumulator<T>>& s, int64_t rows,
                int64_t begin, int64_t end, const Accumulator<T>* zeros, Accumulator<T>* absent,
                const Upstream* upstream, int64_t upstream_stride, Accumulator<T>* sums) {
  using Number = Accumulator<T>;
  const int64_t pixel_stride = args.geometry.channels;
  const int64_t line_stride = pixel_stride * args.geometry.axis[2].input;
  const int64_t count = end - begin;
  for (int64_t r = 0; r < rows; ++r) {
    const Number* corner[kNumCorners];
    Number* target[kNumCorners];
    Number weight[kNumCorners];
    FindCorners(s, r, pixel_stride, line_stride, args.wide_x, zeros, corner);
    FindCorners(s, r, pixel_stride, line_stride, args.wide_dx, absent, target);
    SetWeights(s, r, weight);
    for (int c = 0; c < kNumCorners; ++c) {
      corner[c] += begin;
      target[c] += begin;
    }
    const Upstream* row = upstream + r * upstream_stride;
    Number* sum = sums + kNumCorners * r;
    int64_t c = Spread<Simd<Number>>(row, corner, target, weight, 0, count, sum);
    if constexpr (kVecBytes > 32) {
      c = Spread<Simd<Number, 32>>(row, corner, target, weight, c, count, sum);
    }
    if constexpr (kVecBytes > 16) {
      c = Spread<Simd<Number, 16>>(row, corner, target, weight, c, count, sum);
    }
    for (; c < count; ++c) {
      for (int i = 0; i < kNumCorners; ++i) {
        sum[i] += corner[i][c] * ToNumber(row[c]);
        target[i][c] += ToNumber(row[c]) * weight[i];
      }
    }
  }
}

// Gradients for offset and mask from the sums of SpreadTile. At integer positions they belong to
// the square below and to the right, which floor() has chosen.
template <typename T, typename Out>
void FinishTile(const DeformableArgs<T>& args, const Tile<Accumulator<T>>& tile,
                const Samples<Accumulator<T>>& s, int64_t tap, int64_t offset_group,
                const Accumulator<T>* sums, Out* doffset, Out* dmask) {
  using Number = Accumulator<T>;
  const int64_t taps = NumTaps(args.geometry);
  const int64_t stride = args.offset_groups * taps;
  const int64_t first = tile.first * stride + offset_group * taps + tap;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const Number* sum = sums + kNumCorners * r;
    const Number dy = s.dy[r];
    const Number dx = s.dx[r];
    const int64_t index = first + r * stride;
    StoreNumber(doffset + 2 * index,
                s.mask[r] * ((1 - dx) * (sum[kBottomLeft] - sum[kTopLeft]) +
                             dx * (sum[kBottomRight] - sum[kTopRight])));
    StoreNumber(doffset + 2 * index + 1,
                s.mask[r] * ((1 - dy) * (sum[kTopRight] - sum[kTopLeft]) +
                             dy * (sum[kBottomRight] - sum[kBottomLeft])));
    if (args.mask == nullptr) continue;
    StoreNumber(dmask + index, (1 - dy) * ((1 - dx) * sum[kTopLeft] + dx * sum[kTopRight]) +
                                   dy * ((1 - dx) * sum[kBottomLeft] + dx * sum[kBottomRight]));
  }
}

// Positions of one image scatter into the same dx: the units are images and channels. Each unit has
// whole offset groups, or a part of a single one. In the latter case its sums over channels, the
// gradients for offset and mask, are partial; they are stored apart and added in a fixed order.
struct ChannelBlocks {
  int64_t per_image;
  int64_t parts;  // of an offset group
  int64_t part_channels;
};

template <typename T>
ChannelBlocks MakeChannelBlocks(const DeformableArgs<T>& args) {
  const int64_t wanted = CeilDiv(kMinUnits, Max<int64_t>(1, args.geometry.batch));
  const int64_t size = args.geometry.channels / args.offset_groups;
  ChannelBlocks blocks = {Min(wanted, args.offset_groups), 1, size};
  if (wanted > args.offset_groups) {
    const int64_t parts =
        Min(CeilDiv(wanted, args.offset_groups), Max<int64_t>(1, size / kMinChannels));
    blocks.part_channels = RoundUp(CeilDiv(size, parts), Gemm<Accumulator<T>>::kPanel);
    blocks.parts = Max<int64_t>(1, CeilDiv(size, blocks.part_channels));
    blocks.per_image = args.offset_groups * blocks.parts;
  }
  return blocks;
}

struct ChannelBlock {
  int64_t image;
  int64_t part;
  int64_t begin;
  int64_t end;
};

template <typename T>
ChannelBlock GetChannelBlock(const DeformableArgs<T>& args, const ChannelBlocks& blocks,
                             int64_t unit) {
  const int64_t size = args.geometry.channels / args.offset_groups;
  const int64_t index = unit % blocks.per_image;
  ChannelBlock block;
  block.image = unit / blocks.per_image;
  if (blocks.parts == 1) {
    block.part = 0;
    block.begin = args.offset_groups * index / blocks.per_image * size;
    block.end = args.offset_groups * (index + 1) / blocks.per_image * size;
  } else {
    block.part = index % blocks.parts;
    const int64_t group = index / blocks.parts;
    block.begin = group * size + block.part * blocks.part_channels;
    block.end = Min(block.begin + blocks.part_channels, (group + 1) * size);
  }
  return block;
}

template <typename T>
int64_t PartialSize(const DeformableArgs<T>& args) {
  const int64_t parts = MakeChannelBlocks(args).parts;
  if (parts == 1) return 0;
  const int64_t per_position =
      args.offset_groups * NumTaps(args.geometry) * (args.mask != nullptr ? 3 : 2);
  return parts * Positions(args) * per_position;
}

// Adds up what SpreadTile finds over the channels of a block, which arrive in ascending order.
template <typename T>
class Spreader {
 public:
  Spreader(const DeformableArgs<T>& args, Arena* arena)
      : args_(args),
        tile_(arena->Take<Tile<Number>>(1)),
        samples_(arena->Take<Samples<Number>>(1)),
        zeros_(arena->Take<Number>(args.geometry.channels)),
        absent_(arena->Take<Number>(args.geometry.channels)),
        sums_(arena->Take<Number>(kNumCorners * Tile<Number>::kRows)) {}

  // Before first use.
  void Clear() {
    memset(zeros_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(Number));
    memset(absent_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(Number));
  }

  void StartBlock(const ChannelBlocks& blocks, const ChannelBlock& block) {
    block_ = block;
    partial_doffset_ = partial_dmask_ = nullptr;
    if (blocks.parts > 1) {
      const int64_t samples = Positions(args_) * args_.offset_groups * NumTaps(args_.geometry);
      partial_doffset_ = args_.partial + block.part * 2 * samples;
      partial_dmask_ = args_.partial + (blocks.parts * 2 + block.part) * samples;
    }
    const ConvGeometry& g = args_.geometry;
    const int64_t pixels = g.axis[1].input * g.axis[2].input;
    Number* dx = args_.wide_dx + block.image * pixels * g.channels + block.begin;
    const size_t bytes = static_cast<size_t>(block.end - block.begin) * sizeof(Number);
    for (int64_t p = 0; p < pixels; ++p) memset(dx + p * g.channels, 0, bytes);
  }

  void StartTile(int64_t first, int64_t rows) { PlaceTile(args_.geometry, first, rows, tile_); }

  // Channels [begin, end) of one tap.
  template <typename Upstream>
  void Spread(int64_t tap, int64_t begin, int64_t end, const Upstream* upstream,
              int64_t upstream_stride) {
    const int64_t size = args_.geometry.channels / args_.offset_groups;
    const int64_t rows = tile_->rows;
    ForEachOffsetGroup(args_, begin, end, [&](int64_t group, int64_t c, int64_t c_end) {
      FindSamples(args_, *tile_, tap, group, samples_);
      if (c == Max(block_.begin, group * size)) {
        memset(sums_, 0, static_cast<size_t>(kNumCorners * rows) * sizeof(Number));
      }
      SpreadTile<T>(args_, *samples_, rows, c, c_end, zeros_, absent_, upstream + (c - begin),
                    upstream_stride, sums_);
      if (c_end != Min(block_.end, (group + 1) * size)) return;
      if (partial_doffset_ != nullptr) {
        FinishTile(args_, *tile_, *samples_, tap, group, sums_, partial_doffset_, partial_dmask_);
      } else {
        FinishTile(args_, *tile_, *samples_, tap, group, sums_, args_.doffset, args_.dmask);
      }
    });
  }

 private:
  using Number = Accumulator<T>;

  const DeformableArgs<T>& args_;
  Tile<Number>* tile_;
  Samples<Number>* samples_;
  Number* zeros_;
  Number* absent_;
  Number* sums_;
  ChannelBlock block_ = {};
  Number* partial_doffset_ = nullptr;
  Number* partial_dmask_ = nullptr;
};

template <typename T>
PassPlan PlanBackward(const DeformableArgs<T>& args, int64_t scratch_bytes, double more_cycles) {
  const ConvGeometry& g = args.geometry;
  const ChannelBlocks blocks = MakeChannelBlocks(args);
  const double samples = static_cast<double>(ImagePositions(g)) * static_cast<double>(NumTaps(g));
  const double channels = static_cast<double>(CeilDiv(g.channels, blocks.per_image));
  PassPlan plan;
  plan.units = g.channels == 0 ? 0 : g.batch * blocks.per_image;
  plan.cycles_per_unit =
      1 + static_cast<int64_t>(samples * (50 + channels * (3 * SampleCycles<T>() + more_cycles)));
  plan.scratch_bytes = scratch_bytes;
  return plan;
}

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_SPREADING_H_
