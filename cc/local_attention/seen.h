// Which keys a query sees along an axis.
#ifndef TFCONV_LOCAL_ATTENTION_SEEN_H_
#define TFCONV_LOCAL_ATTENTION_SEEN_H_

#include <stdint.h>

#include "local_attention/local_attention_kernel.h"

namespace tfconv {
namespace {  // Units that are compiled once per instruction set share no inline functions.

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

// The taps of one axis at which a query sees keys: tap first_tap + i sees first_index + i *
// dilation.
struct Seen {
  int64_t first_tap;
  int64_t first_index;
  int64_t count;
};

inline Seen FindSeen(const AttentionAxis& a, int64_t query) {
  const int64_t k = a.kernel, s = a.stride, d = a.dilation;
  // The window is that of `centre`; a causal query sees nothing behind `own`.
  int64_t own = query, centre = query;
  if (s > 1) {
    const int64_t middle = a.causal ? s - 1 : s / 2;
    if (a.output == a.input) {
      const int64_t place = query / d, phase = query % d;
      centre = Least(place / s * s + middle, (a.input - 1 - phase) / d) * d + phase;
    } else {
      own = centre = Least(query * s + middle, a.input - 1);
    }
  }
  int64_t first = centre - (a.causal ? (k - 1) * d : (k - 1) * d / 2);
  if (a.shifted && !a.causal) {
    const int64_t place = centre / d, phase = centre % d;
    const int64_t count = (a.input - 1 - phase) / d + 1;
    const int64_t start = Least(place - k / 2, count - k);
    first = (start > 0 ? start : 0) * d + phase;
  }
  Seen seen;
  seen.first_tap = first >= 0 ? 0 : (d - 1 - first) / d;
  seen.first_index = first + seen.first_tap * d;
  const int64_t left = (a.causal ? own : a.input - 1) - seen.first_index;
  seen.count = left < 0 || seen.first_tap >= k ? 0 : Least(k - seen.first_tap, left / d + 1);
  return seen;
}

}  // namespace
}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_SEEN_H_
