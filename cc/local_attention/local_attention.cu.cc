// Local attention: neighbouring lanes have the channels of one head of a position, and gather what
// its results need, in one go over the window with sums that a larger logit scales down (forward),
// or in two (gradients for queries, which keep for those of keys what a softmax is made of).
#include "local_attention/local_attention_cuda.h"

#include <stdint.h>

#include <type_traits>

#include "local_attention/local_attention_device.h"

namespace tfconv {
namespace cuda {
namespace {

template <typename T, bool kFast, int kTaps>
__global__ void __launch_bounds__(kThreads, 2) AttendKernel(Attention<T> task) {
  using Acc = Accumulator<T>;
  using Side = Channels<T, kFast>;
  const LocalAttentionArgs<T>& args = task.args;
  const Side by_width(task, task.width, task.width_pitch);
  const Side by_depth(task, task.depth, task.depth_pitch);
  const Row row(task);
  for (int64_t plane = blockIdx.y; plane < task.planes.count; plane += gridDim.y) {
    const Position at = GetPosition(task.planes, plane, row.position);
    const int64_t own = plane * task.planes.positions + row.position;
    const auto query = by_width.Take(task.Line(args.query, own, row.head, task.width));
    const T* const bias = task.Bias(own, row.head);
#pragma unroll 1
    for (int turn = 0; turn < task.depth; turn += by_depth.step) {
      Softmax<Acc> softmax;
      Acc sums[Side::kCount] = {};
      ForEachKey<kTaps>(task, at, false, [&](int64_t line, const Piece<kTaps>& piece) {
        typename Side::Elements keys[kTaps], values[kTaps];
        const T* const value = task.Line(args.value, line, row.head, task.depth);
        Acc weights[kTaps];
        by_width.Multiply(query, task.Line(args.key, line, row.head, task.width), piece, keys,
                          weights);
        by_depth.Fetch(value, piece, values);
        task.lanes.AddUp(weights);
        task.ToLogits(bias, 0, piece, weights);
        const Acc shrink = softmax.Add(weights);
#pragma unroll
        for (int n = 0; n < Side::kCount; ++n) sums[n] *= shrink;
        by_depth.AddWeighted(value, piece, values, weights, turn, sums);
      });
      const Acc inverse = softmax.Inverse();
#pragma unroll
      for (int n = 0; n < Side::kCount; ++n) sums[n] *= inverse;
      if (!row.active) continue;
      by_depth.Put(task.Line(args.y, own, row.head, task.depth), turn + by_depth.first, sums);
    }
  }
}

// The gradients for queries and biases. The logits and the gradients for the weights are made
// twice, for the second time needs the sums of the first.
template <typename T, bool kFast, int kTaps>
__global__ void __launch_bounds__(kThreads, 2) QueryGradientKernel(Attention<T> task) {
  using Acc = Accumulator<T>;
  using Side = Channels<T, kFast>;
  const LocalAttentionArgs<T>& args = task.args;
  const Side by_width(task, task.width, task.width_pitch);
  const Side by_depth(task, task.depth, task.depth_pitch);
  const Row row(task);
  for (int64_t plane = blockIdx.y; plane < task.planes.count; plane += gridDim.y) {
    const Position at = GetPosition(task.planes, plane, row.position);
    const int64_t own = plane * task.planes.positions + row.position;
    const auto query = by_width.Take(task.Line(args.query, own, row.head, task.width));
    const auto dy = by_depth.Take(task.Line(args.dy, own, row.head, task.depth));
    const T* const bias = task.Bias(own, row.head);
    // Logits, and the gradients for the weights.
    const auto find = [&](int64_t line, const Piece<kTaps>& piece,
                          typename Side::Elements(&keys)[kTaps], Acc(&logits)[kTaps],
                          Acc(&gradients)[kTaps]) {
      typename Side::Elements values[kTaps];
      by_width.Multiply(query, task.Line(args.key, line, row.head, task.width), piece, keys,
                        logits);
      by_depth.Multiply(dy, task.Line(args.value, line, row.head, task.depth), piece, values,
                        gradients);
      task.lanes.AddUp(logits);
      task.lanes.AddUp(gradients);
      task.ToLogits(bias, 0, piece, logits);
    };
    Softmax<Acc> softmax;
    Acc mean = 0;
    ForEachKey<kTaps>(task, at, false, [&](int64_t line, const Piece<kTaps>& piece) {
      typename Side::Elements keys[kTaps];
      Acc weights[kTaps], gradients[kTaps];
      find(line, piece, keys, weights, gradients);
      mean *= softmax.Add(weights);
#pragma unroll
      for (int i = 0; i < kTaps; ++i) mean += weights[i] * gradients[i];
    });
    const Acc inverse = softmax.Inverse();
    mean *= inverse;
    if (row.active && task.lanes.lane() == 0) {
      Acc* const statistics = task.Line(args.statistics, own, row.head, 2);
      statistics[0] = softmax.total == 0 ? 0 : softmax.most + Log2(softmax.total);
      statistics[1] = mean;
    }
    bool gives_bias = args.geometry.bias != kNoBias;
    int turn = 0;
    do {
      Acc sums[Side::kCount] = {};
      ForEachKey<kTaps>(task, at, gives_bias, [&](int64_t line, const Piece<kTaps>& piece) {
        typename Side::Elements keys[kTaps];
        Acc weights[kTaps], gradients[kTaps];
        find(line, piece, keys, weights, gradients);
#pragma unroll
        for (int i = 0; i < kTaps; ++i) {
          const Acc weight = Exp2(weights[i] - softmax.most) * inverse;
          gradients[i] = piece.present[i] ? weight * (gradients[i] - mean) : 0;
        }
        by_width.AddWeighted(task.Line(args.key, line, row.head, task.width), piece, keys,
                             gradients, turn, sums);
        if (gives_bias && row.active) task.GiveBias(own, row.head, piece, gradients);
      });
#pragma unroll
      for (int n = 0; n < Side::kCount; ++n) sums[n] *= task.scale;
      if (row.active) {
        by_width.Put(task.Line(args.dquery, own, row.head, task.width), turn + by_width.first,
                     sums);
      }
      gives_bias = false;
      turn += by_width.step;
    } while (turn < task.width);
  }
}

// Blocks of a multiprocessor at least: as many as registers do for.
template <typename T>
constexpr int kKeyBlocks = sizeof(T) == 8 || std::is_same_v<T, Bfloat16> ? 1 : 2;

// The gradients for keys and values: each gathers from the queries that see it.
template <typename T, bool kFast, int kTaps>
__global__ void __launch_bounds__(kThreads, kKeyBlocks<T>)
    KeyGradientKernel(Attention<T> task) {
  using Acc = Accumulator<T>;
  using Side = Channels<T, kFast>;
  const LocalAttentionArgs<T>& args = task.args;
  const Side by_width(task, task.width, task.width_pitch);
  const Side by_depth(task, task.depth, task.depth_pitch);
  const Row row(task);
  for (int64_t plane = blockIdx.y; plane < task.planes.count; plane += gridDim.y) {
    const Position at = GetPosition(task.planes, plane, row.position);
    const int64_t own = plane * task.planes.positions + row.position;
    const auto key = by_width.Take(task.Line(args.key, own, row.head, task.width));
    const auto value = by_depth.Take(task.Line(args.value, own, row.head, task.depth));
#pragma unroll 1
    for (int turn = 0; turn < Max(task.width, task.depth); turn += by_width.step) {
      Acc dkey[Side::kCount] = {}, dvalue[Side::kCount] = {};
      ForEachQuery<kTaps, kFast>(task, at, [&](int64_t line, const Piece<kTaps>& piece) {
        typename Side::Elements queries[kTaps], upstream[kTaps];
        const T* const query = task.Line(args.query, line, row.head, task.width);
        const T* const dy = task.Line(args.dy, line, row.head, task.depth);
        Acc weights[kTaps], gradients[kTaps];
        by_width.Multiply(key, query, piece, queries, weights);
        by_depth.Multiply(value, dy, piece, upstream, gradients);
        task.lanes.AddUp(weights);
        task.lanes.AddUp(gradients);
        task.ToLogits(task.Bias(line, row.head), task.bias_pitch, piece, weights);
        const Acc* const statistics = task.Line(args.statistics, line, row.head, 2);
#pragma unroll
        for (int i = 0; i < kTaps; ++i) {
          const auto found = LoadIf<Acc, 2>(
              piece.present[i], At(statistics, piece.index[i], task.statistics_pitch));
          const Acc below = weights[i] - found.value[0];
          weights[i] = Exp2(below > 0 ? Acc(0) : below);  // NaN stays
          gradients[i] = piece.present[i] ? weights[i] * (gradients[i] - found.value[1]) : 0;
        }
        by_depth.AddWeighted(dy, piece, upstream, weights, turn, dvalue);
        by_width.AddWeighted(query, piece, queries, gradients, turn, dkey);
      });
#pragma unroll
      for (int n = 0; n < Side::kCount; ++n) dkey[n] *= task.scale;
      if (!row.active) continue;
      by_depth.Put(task.Line(args.dvalue, own, row.head, task.depth), turn + by_depth.first,
                   dvalue);
      by_width.Put(task.Line(args.dkey, own, row.head, task.width), turn + by_width.first, dkey);
    }
  }
}

// The gradient for a bias by tap: sums over all positions, first of slices of them.
template <typename T>
struct BiasSum {
  static constexpr int kSlices = 256;

  const Accumulator<T>* dlogits;  // [rows, columns], those of some examples
  int64_t rows;
  int64_t columns;
  bool is_first;
  Accumulator<T>* slices;  // [kSlices, columns], to which they are added
  T* dbias;                // [columns], of the slices; null until all have been added
};

template <typename T>
__global__ void __launch_bounds__(kThreads) BiasSumKernel(BiasSum<T> s) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= s.columns) return;
  if (s.dbias != nullptr) {
    Accumulator<T> sum = 0;
    for (int i = 0; i < s.kSlices; ++i) sum += s.slices[i * s.columns + column];
    s.dbias[column] = Narrow<T>(sum);
    return;
  }
  for (int64_t slice = blockIdx.y; slice < s.kSlices; slice += gridDim.y) {
    Accumulator<T>* const result = s.slices + slice * s.columns + column;
    Accumulator<T> sum = s.is_first ? 0 : *result;
    for (int64_t row = slice; row < s.rows; row += s.kSlices) {
      sum += s.dlogits[row * s.columns + column];
    }
    *result = sum;
  }
}

// For results at the queries or at the keys; false if 32-bit arithmetic does not reach.
template <typename T>
bool MakeAttention(const LocalAttentionArgs<T>& args, bool at_keys, Attention<T>* task) {
  constexpr int64_t kLimit = 1 << 26;  // of the elements at a position
  const AttentionGeometry& g = args.geometry;
  int64_t size[kMaxSpatialAxes];
  int64_t taps = 1;
  for (int i = 0; i < kMaxSpatialAxes; ++i) {
    if (!MakeAxis(g.axis[i], &task->axis[i])) return false;
    size[i] = at_keys ? g.axis[i].input : g.axis[i].output;
    taps *= Min(g.axis[i].kernel, kLimit);
    if (taps >= kLimit) return false;
  }
  if (g.heads * Max(taps, Max(g.width, g.depth)) >= kLimit ||
      !MakePlanes(g.batch, size[0], size[1], size[2], &task->planes) ||
      task->planes.positions * g.heads >= 1 << 30) {
    return false;
  }
  task->args = args;
  task->by_heads = MakeDivisor(g.heads);
  task->width = static_cast<int>(g.width);
  task->depth = static_cast<int>(g.depth);
  task->taps = static_cast<int>(taps);
  const int of_heads = static_cast<int>(g.heads * static_cast<int64_t>(sizeof(T)));
  task->width_pitch = of_heads * task->width;
  task->depth_pitch = of_heads * task->depth;
  task->bias_pitch = g.bias == kBiasByPosition ? of_heads * task->taps : 0;
  task->statistics_pitch = static_cast<int>(2 * g.heads * sizeof(Accumulator<T>));
  task->lanes = MakeLanes(CeilDiv<int64_t>(Max(g.width, g.depth), kVector<T>), 5);
  task->wide = g.width % kVector<T> == 0 && g.depth % kVector<T> == 0;
  for (const T* tensor : {args.query, args.key, args.value, args.dy}) {
    task->wide = task->wide && IsAligned(tensor);
  }
  for (const T* tensor : {args.y, args.dquery, args.dkey, args.dvalue}) {
    task->wide = task->wide && IsAligned(tensor);
  }
  task->scale = static_cast<Accumulator<T>>(g.scale);
  task->logit_scale = static_cast<Accumulator<T>>(g.scale * kLog2E);
  return true;
}

// Taps of a line that are read at once, or 3: as many as registers do for. They decide about the
// order of sums.
template <typename T>
constexpr int kMostTaps = sizeof(T) == 8 ? 3 : 4;

enum class Results { kForward, kOfQueries, kOfKeys };

template <typename T>
int LaunchFor(Results results, const Attention<T>& task, CudaStream stream) {
  constexpr int kMost = kMostTaps<T>;
  const int taps = task.axis[2].kernel;
  const bool by_3 = CeilDiv(taps, 3) * 3 < CeilDiv(taps, kMost) * kMost;
  bool is_fast = task.wide && Max(task.width, task.depth) <= kVector<T> << task.lanes.bits;
  const int64_t rows = int64_t{task.planes.positions} * task.by_heads.value;
  const Grid grid = {task.lanes.Blocks(rows), task.planes.count, 1};
  void (*kernel)(Attention<T>) = nullptr;
  if (results == Results::kForward) {
    if (task.depth == 0) return cudaSuccess;
    kernel = is_fast ? (by_3 ? AttendKernel<T, true, 3> : AttendKernel<T, true, kMost>)
                     : (by_3 ? AttendKernel<T, false, 3> : AttendKernel<T, false, kMost>);
  } else if (results == Results::kOfQueries) {
    kernel = is_fast ? (by_3 ? QueryGradientKernel<T, true, 3>
                             : QueryGradientKernel<T, true, kMost>)
                     : (by_3 ? QueryGradientKernel<T, false, 3>
                             : QueryGradientKernel<T, false, kMost>);
  } else {
    for (const WindowAxis& axis : task.axis) is_fast = is_fast && axis.stride == 1;
    kernel = is_fast ? KeyGradientKernel<T, true, 3> : KeyGradientKernel<T, false, 3>;
  }
  return Launch(kernel, grid, stream, task);
}

// Of an example.
struct Counts {
  explicit Counts(const AttentionGeometry& g) : queries(g.heads), keys(g.heads), taps(1) {
    for (const AttentionAxis& axis : g.axis) {
      queries *= axis.output;
      keys *= axis.input;
      taps *= axis.kernel;
    }
  }

  int64_t queries;  // times heads
  int64_t keys;     // times heads
  int64_t taps;
};

// What a workspace is divided into, for some examples at a time.
template <typename T>
struct Pieces {
  Pieces(const AttentionGeometry& g, int64_t examples, void* memory) : workspace(memory) {
    const Counts counts(g);
    statistics = workspace.Take<Accumulator<T>>(2 * examples * counts.queries);
    if (g.bias != kBiasByTap) return;
    dlogits = workspace.Take<Accumulator<T>>(examples * counts.queries * counts.taps);
    slices = workspace.Take<Accumulator<T>>(BiasSum<T>::kSlices * g.heads * counts.taps);
  }

  Workspace workspace;
  Accumulator<T>* statistics;
  Accumulator<T>* dlogits = nullptr;
  Accumulator<T>* slices = nullptr;
};

// The arguments of some examples.
template <typename T>
LocalAttentionArgs<T> ExamplesOf(LocalAttentionArgs<T> args, int64_t first, int64_t count) {
  AttentionGeometry& g = args.geometry;
  const Counts counts(g);
  const int64_t queries = first * counts.queries, keys = first * counts.keys;
  g.batch = count;
  args.query += queries * g.width;
  args.key += keys * g.width;
  args.value += keys * g.depth;
  args.dy += queries * g.depth;
  args.dquery += queries * g.width;
  args.dkey += keys * g.width;
  args.dvalue += keys * g.depth;
  if (g.bias == kBiasByPosition) {
    args.bias += queries * counts.taps;
    args.dbias += queries * counts.taps;
  }
  return args;
}

template <typename T>
int Backward(CudaStream stream, const LocalAttentionArgs<T>& args, int64_t examples,
             void* workspace) {
  const AttentionGeometry& g = args.geometry;
  const Counts counts(g);
  const Pieces<T> pieces(g, examples, workspace);
  BiasSum<T> sum = {pieces.dlogits, 0, g.heads * counts.taps, true, pieces.slices, nullptr};
  const int64_t blocks = CeilDiv<int64_t>(sum.columns, kThreads);
  for (int64_t first = 0; first < g.batch; first += examples) {
    auto some = ExamplesOf(args, first, Min(examples, g.batch - first));
    some.statistics = pieces.statistics;
    Attention<T> at_queries = {}, at_keys = {};
    if (!MakeAttention(some, false, &at_queries) || !MakeAttention(some, true, &at_keys)) {
      return cudaErrorInvalidValue;
    }
    at_queries.dlogits = pieces.dlogits;
    if (int error = LaunchFor(Results::kOfQueries, at_queries, stream)) return error;
    if (int error = LaunchFor(Results::kOfKeys, at_keys, stream)) return error;
    if (g.bias != kBiasByTap) continue;
    sum.rows = some.geometry.batch * counts.queries / g.heads;
    sum.is_first = first == 0;
    if (int error = Launch(BiasSumKernel<T>, {blocks, sum.kSlices, 1}, stream, sum)) return error;
  }
  if (g.bias != kBiasByTap) return cudaSuccess;
  if (g.batch == 0) return FillZeros(args.dbias, sum.columns, stream);
  sum.dbias = args.dbias;
  return Launch(BiasSumKernel<T>, {blocks, 1, 1}, stream, sum);
}

}  // namespace
}  // namespace cuda

template <typename T>
int LaunchLocalAttention(CudaStream stream, const LocalAttentionArgs<T>& args) {
  cuda::Attention<T> task = {};
  if (!cuda::MakeAttention(args, false, &task)) return cudaErrorInvalidValue;
  return cuda::LaunchFor(cuda::Results::kForward, task, stream);
}

template <typename T>
int LaunchLocalAttentionBackward(CudaStream stream, const LocalAttentionArgs<T>& args,
                                 int64_t examples, void* workspace) {
  return cuda::Backward(stream, args, examples, workspace);
}

template <typename T>
int64_t LocalAttentionWorkspace(const LocalAttentionArgs<T>& args, int64_t examples) {
  return cuda::Pieces<T>(args.geometry, examples, nullptr).workspace.used();
}

#define TFCONV_INSTANTIATE(T)                                                                   \
  template int LaunchLocalAttention(CudaStream, const LocalAttentionArgs<T>&);                   \
  template int LaunchLocalAttentionBackward(CudaStream, const LocalAttentionArgs<T>&, int64_t,   \
                                            void*);                                              \
  template int64_t LocalAttentionWorkspace(const LocalAttentionArgs<T>&, int64_t);
TFCONV_INSTANTIATE(float)
TFCONV_INSTANTIATE(double)
TFCONV_INSTANTIATE(Half)
TFCONV_INSTANTIATE(Bfloat16)
#undef TFCONV_INSTANTIATE

}  // namespace tfconv
