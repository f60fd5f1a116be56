// Linear sampling of tiles of output positions.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_SAMPLING_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_SAMPLING_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/arena.h"
#include "common/gemm.h"
#include "common/product.h"
#include "common/vec.h"
#include "deformable/deformable_corners.h"
#include "deformable/deformable_kernel.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

template <typename T>
int64_t Positions(const DeformableArgs<T>& args) {
  return args.geometry.batch * ImagePositions(args.geometry);
}

// Cycles to sample one channel of one tap, or to spread it, for the scheduler.
template <typename T>
double SampleCycles(const DeformableArgs<T>& args) {
  return static_cast<double>((1 << args.rank) * sizeof(Accumulator<T>)) / kVecBytes;
}

// Calls visit(offset_group, begin, end) for the parts of channels [begin, end) that share offsets.
template <typename T, typename Visit>
TFCONV_INLINE void ForEachOffsetGroup(const DeformableArgs<T>& args, int64_t begin, int64_t end,
                                      const Visit& visit) {
  const int64_t size = args.geometry.channels / args.offset_groups;
  while (begin < end) {
    const int64_t group = begin / size;
    const int64_t next = Min(end, (group + 1) * size);
    visit(group, begin, next);
    begin = next;
  }
}

// Those of the rows of a tile for one tap of one offset group.
template <int kRank, typename T>
void FindSamples(const DeformableArgs<T>& args, const Tile<Accumulator<T>>& tile, int64_t tap,
                 int64_t offset_group, Samples<Accumulator<T>, kRank>* samples) {
  const int64_t taps = NumTaps(args.geometry);
  const int64_t stride = args.offset_groups * taps;
  const int64_t first = tile.first * stride + offset_group * taps + tap;
  FindSamples<kRank>(args.geometry, tile, tap, args.offset + kRank * first,
                     args.mask == nullptr ? nullptr : args.mask + first, stride, samples);
}

// Of the rank that the arguments have.
template <typename T>
void* TakeSamples(const DeformableArgs<T>& args, int64_t count, Arena* arena) {
  void* samples = nullptr;
  WithRank(args.rank, [&](auto rank) {
    samples = arena->Take<Samples<Accumulator<T>, rank.value>>(count);
  });
  return samples;
}

template <int kCount, typename S, typename T, typename Out>
TFCONV_INLINE int64_t Interpolate(const T* const* corner, const typename S::Scalar* weight,
                                  int64_t c, int64_t end, Out* out) {
  for (; c + S::kLanes <= end; c += S::kLanes) {
    typename S::Vec sum = S::Load(corner[0] + c) * weight[0];
#pragma GCC unroll 8
    for (int i = 1; i < kCount; ++i) sum += S::Load(corner[i] + c) * weight[i];
    S::Store(out + c, sum);
  }
  return c;
}

// Channels [begin, end) of one set of samples; row r goes to out + r * out_stride.
template <typename Out>
struct SampleJob {
  int64_t begin;
  int64_t end;
  Out* out;
};

template <int kRank, typename T, typename Out>
TFCONV_INLINE void SampleRow(const DeformableArgs<T>& args,
                             const Samples<Accumulator<T>, kRank>& samples, int64_t r,
                             const SampleJob<Out>& job, const T* zeros, Out* out) {
  using Number = Accumulator<T>;
  constexpr int kCount = kCorners<kRank>;
  const T* corner[kCount];
  Number weight[kCount];
  // The shifts anew: kept beyond a row, they would be in the way of its addresses.
  FindCorners(samples, r, CornerShifts<kRank>(args.geometry), args.x, zeros, corner);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    weight[i] = samples.weight[i][r];
    corner[i] += job.begin;
  }
  const int64_t count = job.end - job.begin;
  int64_t c = Interpolate<kCount, Simd<Number>>(corner, weight, 0, count, out);
  if constexpr (kVecBytes > 32) {
    c = Interpolate<kCount, Simd<Number, 32>>(corner, weight, c, count, out);
  }
  if constexpr (kVecBytes > 16) {
    c = Interpolate<kCount, Simd<Number, 16>>(corner, weight, c, count, out);
  }
  for (; c < count; ++c) {
    Number sum = ToNumber(corner[0][c]) * weight[0];
#pragma GCC unroll 8
    for (int i = 1; i < kCount; ++i) sum += ToNumber(corner[i][c]) * weight[i];
    StoreNumber(out + c, sum);
  }
}

// Samples a tile. A few taps are collected and then sampled together, position by position: taps of
// one position, and of its neighbours, read the same pixels while the first cache holds them.
template <typename T, typename Out>
class Sampler {
 public:
  Sampler(const DeformableArgs<T>& args, Arena* arena)
      : args_(args),
        tile_(arena->Take<Tile<Number>>(1)),
        samples_(TakeSamples(args, kMaxJobs, arena)),
        zeros_(arena->Take<T>(args.geometry.channels)) {}

  // Before first use.
  void Clear() {
    memset(zeros_, 0, static_cast<size_t>(args_.geometry.channels) * sizeof(T));
    tile_->rows = 0;
  }

  void StartTile(int64_t first, int64_t rows, int64_t out_stride) {
    out_stride_ = out_stride;
    if (tile_->rows == rows && tile_->first == first) return;
    PlaceTile(args_.geometry, first, rows, tile_);
  }

  // Channels [begin, end) of a tap, to be written to out + row * out_stride by Finish at last.
  void Add(int64_t tap, int64_t begin, int64_t end, Out* out) {
    ForEachOffsetGroup(args_, begin, end, [&](int64_t group, int64_t c, int64_t c_end) {
      if (num_jobs_ == kMaxJobs) Finish();
      WithRank(args_.rank, [&](auto rank) {
        FindSamples(args_, *tile_, tap, group, SamplesOf<rank.value>(num_jobs_));
      });
      jobs_[num_jobs_++] = {c, c_end, out + (c - begin)};
    });
  }

  void Finish() {
    WithRank(args_.rank, [&](auto rank) { SampleTile<rank.value>(); });
    num_jobs_ = 0;
  }

 private:
  using Number = Accumulator<T>;
  static constexpr int kMaxJobs = 4;

  template <int kRank>
  Samples<Number, kRank>* SamplesOf(int job) const {
    return static_cast<Samples<Number, kRank>*>(samples_) + job;
  }

  template <int kRank>
  __attribute__((noinline)) void SampleTile() const {
    for (int64_t r = 0; r < tile_->rows; ++r) {
      for (int i = 0; i < num_jobs_; ++i) {
        SampleRow<kRank>(args_, *SamplesOf<kRank>(i), r, jobs_[i], static_cast<const T*>(zeros_),
                         jobs_[i].out + r * out_stride_);
      }
    }
  }

  const DeformableArgs<T>& args_;
  Tile<Number>* tile_;
  void* samples_;  // kMaxJobs
  T* zeros_;
  int64_t out_stride_ = 0;
  SampleJob<Out> jobs_[kMaxJobs];
  int num_jobs_ = 0;
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_SAMPLING_H_
