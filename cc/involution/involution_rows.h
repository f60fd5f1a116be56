// The sums of an involution: rows of results that gather what they need, and for the gradient for x
// rows that add to the results that they reach.
#ifndef TFCONV_INVOLUTION_INVOLUTION_ROWS_H_
#define TFCONV_INVOLUTION_INVOLUTION_ROWS_H_

#include <stdint.h>

#include "common/arena.h"
#include "common/geometry.h"
#include "common/vec.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

// Positions of a row that share each loaded input vector.
constexpr int kPositions = 8;

// The taps of one axis that lead from an output position to input positions in a range: tap
// first_tap + i to position first_index + i * dilation, counted from the range's begin.
struct Taps {
  int64_t first_tap;
  int64_t first_index;
  int64_t count;
};

inline Taps FindTaps(const ConvAxis& axis, int64_t position, int64_t begin, int64_t end) {
  const int64_t first = position * axis.stride - axis.pad - begin;
  Taps taps;
  taps.first_tap = first >= 0 ? 0 : CeilDiv(-first, axis.dilation);
  taps.first_index = first + taps.first_tap * axis.dilation;
  const int64_t left = end - begin - taps.first_index;
  taps.count =
      left <= 0 ? 0 : Min(axis.kernel - taps.first_tap, CeilDiv(left, axis.dilation));
  taps.count = Max<int64_t>(0, taps.count);
  return taps;
}

// Positions of one axis.
struct Range {
  int64_t begin;
  int64_t end;
};

// The output positions that may reach input positions in [begin, end).
inline Range FindOutputs(const ConvAxis& axis, int64_t begin, int64_t end) {
  const int64_t extent = (axis.kernel - 1) * axis.dilation;
  const int64_t first = Max<int64_t>(0, begin + axis.pad - extent);
  const int64_t last = end - 1 + axis.pad;
  Range range = {CeilDiv(first, axis.stride), last < 0 ? 0 : last / axis.stride + 1};
  range.end = Min(range.end, axis.output);
  return range;
}

// Which of the two sums: y = sum of kernel * x, or dx += kernel * dy, each at the taps of y's or
// dy's positions.
enum class Direction { kForward, kBackward };

// A line of x or dx, from column `columns.begin` of the segment on, and the taps that lead to it.
template <typename Element>
struct Line {
  Element* data;
  int64_t first_tap;
};

// x is read in its own type; dx is added up in the type that is computed in.
template <typename T, Direction kDirection>
struct LineElement {
  using Type = const T;
};
template <typename T>
struct LineElement<T, Direction::kBackward> {
  using Type = Accumulator<T>;
};

// A row of output positions: the kernels of some groups of channels, what they weigh, and where it
// goes.
template <typename T, Direction kDirection>
struct Row {
  using Sum = Accumulator<T>;
  using Element = typename LineElement<T, kDirection>::Type;

  ConvAxis axis;
  int64_t channels;  // of these groups
  int64_t channels_per_group;
  int64_t groups;
  int64_t taps;          // of all axes
  int64_t line_step;     // elements from a pixel of a line to the next
  int64_t output_step;   // elements from a pixel of y or dy to the next
  int64_t kernel_step;   // elements from the kernels of a position to those of the next
  const Sum* kernel;     // of position `first`
  const Sum* kernel_end; // of what may be read
  int64_t first;
  bool fetch;            // whether the kernels are in no cache
  Line<Element>* lines;
  int64_t num_lines;
  Range columns;                                    // of the lines
  const typename MaskType<Sum>::Type* group_of;     // of the channels, up to a whole vector
  Sum* weights;                                     // room for kernels that are rearranged
  const T* dy;                                      // of the row's position 0
  T* y;

  const Sum* KernelOf(int64_t position) const { return kernel + (position - first) * kernel_step; }
};

// The widest vector of which the channels of a group are a multiple; 0 if there is none.
template <typename Sum>
int AlignedBytes(int64_t channels_per_group) {
  const int64_t bytes = channels_per_group * static_cast<int64_t>(sizeof(Sum));
  if (bytes == 0) return 0;
  if (kVecBytes >= 64 && bytes % 64 == 0) return 64;
  if (kVecBytes >= 32 && bytes % 32 == 0) return 32;
  return bytes % 16 == 0 ? 16 : 0;
}

// Elements of Row::weights.
template <typename T>
int64_t RearrangedSize(int64_t channels_per_group, int64_t taps);

// Computes y, or adds to dx, at the positions of a range.
template <typename T, Direction kDirection>
void RunSegment(const Row<T, kDirection>& row, Range positions);

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_INVOLUTION_INVOLUTION_ROWS_H_
