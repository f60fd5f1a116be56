// Which keys a query sees along an axis, and which queries see a key, for CUDA kernels.
#ifndef TFCONV_LOCAL_ATTENTION_WINDOW_DEVICE_H_
#define TFCONV_LOCAL_ATTENTION_WINDOW_DEVICE_H_

#include <stdint.h>

#include "common/cuda_device.h"
#include "local_attention/local_attention_kernel.h"

namespace tfconv {
namespace cuda {

// An AttentionAxis for 32-bit arithmetic.
struct WindowAxis {
  int input;
  int output;
  int kernel;
  int stride;
  int dilation;
  int before;   // from the first tap of a window that does not move to its centre
  int middle;   // the position of a block whose window it shares
  bool pooled;  // whether there is one query for each block
  bool moves;
  bool causal;
  Divisor by_stride;
  Divisor by_dilation;
};

// False if 32-bit arithmetic does not reach.
inline bool MakeAxis(const AttentionAxis& a, WindowAxis* axis) {
  constexpr int64_t kLimit = 1 << 30;
  // Where there is one tap, and each position has its own window, steps do not matter.
  const int64_t dilation = a.kernel == 1 && a.stride == 1 ? 1 : a.dilation;
  if (Max(Max(a.input, a.kernel), Max(a.stride, dilation)) >= kLimit) return false;
  if ((a.kernel + a.stride) * dilation + a.stride + 2 * a.input >= kLimit) return false;
  const bool moves = a.shifted && !a.causal;
  const int64_t before = (a.kernel - 1) * dilation / (a.causal ? 1 : 2);
  const int64_t middle = a.stride == 1 ? 0 : a.causal ? a.stride - 1 : a.stride / 2;
  *axis = {static_cast<int>(a.input),
           static_cast<int>(a.output),
           static_cast<int>(a.kernel),
           static_cast<int>(a.stride),
           static_cast<int>(dilation),
           moves ? 0 : static_cast<int>(before),
           static_cast<int>(middle),
           a.stride > 1 && a.output != a.input,
           moves,
           a.causal != 0,
           MakeDivisor(a.stride),
           MakeDivisor(dilation)};
  return true;
}

// Tap t sees the key first + t * dilation, if that is from 0 on and before `end`.
struct WindowOfQuery {
  int first;
  int end;
};

// As FindSeen (seen.h).
TFCONV_DEVICE WindowOfQuery FindWindow(const WindowAxis& a, int query) {
  int own = query, centre = query;
  if (a.pooled) {
    own = centre = Min(query * a.stride + a.middle, a.input - 1);
  } else if (a.stride > 1) {
    const int place = a.by_dilation.Divide(query);
    const int phase = query - place * a.dilation;
    const int shared = a.by_stride.Divide(place) * a.stride + a.middle;
    centre = Min(shared, a.by_dilation.Divide(a.input - 1 - phase)) * a.dilation + phase;
  }
  int first = centre - a.before;
  if (a.moves) {
    const int place = a.by_dilation.Divide(centre);
    const int phase = centre - place * a.dilation;
    const int last = a.by_dilation.Divide(a.input - 1 - phase) + 1 - a.kernel;
    first = Max(0, Min(place - a.kernel / 2, last)) * a.dilation + phase;
  }
  return {first, a.causal ? own + 1 : a.input};
}

// The queries that may see a key: first + i * step for i < count. With kExact there are no strides,
// and all of them see it.
template <bool kExact>
struct Viewers {
  int first;
  int step;
  int count;
  int key;    // kExact: its place among those a multiple of the dilation apart
  int start;  // of the first query's window, if it did not move
  int most;   // of windows' starts

  TFCONV_DEVICE Viewers(const WindowAxis& a, int index) {
    step = a.pooled ? 1 : a.dilation;
    if constexpr (kExact) {
      const int same = index + a.before;  // as far from a tap as its query is from a multiple
      key = a.by_dilation.Divide(same);
      const int phase = same - key * a.dilation;
      const int places = phase < a.input ? a.by_dilation.Divide(a.input - 1 - phase) + 1 : 0;
      const int half = a.moves ? a.kernel / 2 : 0;
      most = a.moves ? places - a.kernel : INT32_MAX;
      const int begin = key < a.kernel && a.moves ? 0 : Max(0, key - a.kernel + 1 + half);
      const int last = key >= most ? places - 1 : Min(key + half, places - 1);
      first = begin * a.dilation + phase;
      count = last - begin + 1;
      start = begin - half;
    } else {
      key = index;
      const int reach = (a.kernel - 1 + a.stride - 1) * a.dilation;
      first = Max(0, index - reach);
      int end = index + reach + 1;
      if (a.pooled) {
        first = Max(0, a.by_stride.Divide(first) - 1);
        end = a.by_stride.Divide(end) + 1;
      } else {
        const int distance = index + a.before - first;
        first += distance - a.by_dilation.Divide(distance) * a.dilation;
      }
      const int left = Min(end, a.output) - first;
      count = left <= 0 ? 0 : a.pooled ? left : a.by_dilation.Divide(left - 1) + 1;
      start = most = 0;
    }
  }

  // The tap by which a query sees the key; negative if it does not.
  TFCONV_DEVICE int Tap(const WindowAxis& a, int i) const {
    if constexpr (kExact) {
      return key - Max(0, Min(start + i, most));
    } else {
      const WindowOfQuery window = FindWindow(a, Min(first + i * step, a.output - 1));
      const int distance = key - window.first;
      if (distance < 0 || key >= window.end) return -1;
      const int tap = a.by_dilation.Divide(distance);
      return tap < a.kernel && tap * a.dilation == distance ? tap : -1;
    }
  }
};

}  // namespace cuda
}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_WINDOW_DEVICE_H_
