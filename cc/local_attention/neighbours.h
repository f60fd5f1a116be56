// Which keys a query sees, and which queries see a key.
#ifndef TFCONV_LOCAL_ATTENTION_NEIGHBOURS_H_
#define TFCONV_LOCAL_ATTENTION_NEIGHBOURS_H_

#include <stdint.h>

#include "common/arena.h"
#include "common/vec.h"
#include "local_attention/local_attention_kernel.h"
#include "local_attention/seen.h"

namespace tfconv {
namespace TFCONV_ISA_NAMESPACE {

struct Range {
  int64_t begin;
  int64_t end;
};

// A position along an axis, and the tap by which it is seen, or sees.
struct Place {
  int64_t index;
  int64_t tap;
};

// Whether lists are of the keys that a query sees, or of the queries that see a key.
enum class Of { kQueries, kKeys };

// The most places of a list.
inline int64_t MostPlaces(const AttentionAxis& a, Of of) {
  if (of == Of::kQueries) return Min(a.kernel, a.input);
  // Windows that move inside see what is at the edges more often; so do those that are shared.
  const bool once = a.stride == 1 && (a.causal || !a.shifted);
  return Min(once ? a.kernel : 2 * (a.kernel + a.stride), a.output);
}

inline int64_t FindKeys(const AttentionAxis& a, int64_t query, Place* places) {
  const Seen seen = FindSeen(a, query);
  for (int64_t i = 0; i < seen.count; ++i) {
    places[i] = {seen.first_index + i * a.dilation, seen.first_tap + i};
  }
  return seen.count;
}

inline int64_t FindQueries(const AttentionAxis& a, int64_t key, Place* places) {
  const int64_t d = a.dilation;
  // Beyond this distance from its own place, no query sees anything.
  const int64_t reach = (a.kernel - 1) * d + (a.stride - 1) * d;
  int64_t query = Max<int64_t>(0, key - reach), end = key + reach + 1, step = 1;
  if (a.output == a.input) {
    // Those that see it lie a multiple of the dilation apart.
    const int64_t before = a.causal || a.shifted ? 0 : (a.kernel - 1) * d / 2;
    query += (key + before - query) % d;
    step = d;
  } else {
    query = Max<int64_t>(0, query / a.stride - 1);
    end = end / a.stride + 1;
  }
  int64_t count = 0;
  for (end = Min(end, a.output); query < end; query += step) {
    const Seen seen = FindSeen(a, query);
    const int64_t distance = key - seen.first_index;
    if (distance >= 0 && distance % d == 0 && distance / d < seen.count) {
      places[count++] = {query, seen.first_tap + distance / d};
    }
  }
  return count;
}

// What a position's sums are over.
struct Neighbourhood {
  int64_t count;
  int64_t base;  // a position of all images
  // From there on, up to a whole vector of any type: positions, elements of tensors with `width`
  // and `depth` channels a head, taps of all axes. What is beyond `count` repeats the first.
  int64_t* positions;
  int64_t* by_width;
  int64_t* by_depth;
  int64_t* taps;
  bool has_all_taps;  // in their order
};

// The neighbourhoods of the positions of a line of queries or keys, one after the other.
template <Of kOf>
class Neighbours {
 public:
  static constexpr int64_t kRoom = 16;  // lanes of the widest vector

  Neighbours(const AttentionGeometry& geometry, int64_t columns, Arena* arena) : g_(geometry) {
    for (int i = 0; i < kMaxSpatialAxes; ++i) most_[i] = MostPlaces(g_.axis[i], kOf);
    for (int i = 0; i < 2; ++i) lists_[i] = arena->Take<Place>(most_[i]);
    columns_ = arena->Take<Place>(columns * most_[2]);
    counts_ = arena->Take<int64_t>(columns);
    same_ = arena->Take<bool>(columns);
    const int64_t most = Most(g_) + kRoom;
    all_.positions = arena->Take<int64_t>(most);
    all_.by_width = arena->Take<int64_t>(most);
    all_.by_depth = arena->Take<int64_t>(most);
    all_.taps = arena->Take<int64_t>(most);
  }

  // Positions of a neighbourhood at most.
  static int64_t Most(const AttentionGeometry& g) {
    int64_t most = 1;
    for (const AttentionAxis& axis : g.axis) most *= MostPlaces(axis, kOf);
    return most;
  }

  // Call before the first line, for the columns that will be asked for.
  void SetColumns(Range columns) {
    if (columns.begin == begin_) return;
    begin_ = columns.begin;
    for (int64_t c = 0; c < columns.end - begin_; ++c) {
      Place* own = columns_ + c * most_[2];
      counts_[c] = Find(g_.axis[2], begin_ + c, own);
      same_[c] = c > 0 && counts_[c] == counts_[c - 1];
      for (int64_t i = 0; same_[c] && i < counts_[c]; ++i) {
        const Place* other = own - most_[2];
        same_[c] = own[i].tap == other[i].tap &&
                   own[i].index - own[0].index == other[i].index - other[0].index;
      }
    }
  }

  void SetLine(int64_t line) {
    const auto own = [this](int i) { return kOf == Of::kQueries ? g_.axis[i].output : g_.axis[i].input; };
    const int64_t slice = line / own(1);
    image_ = slice / own(0);
    line_counts_[0] = Find(g_.axis[0], slice % own(0), lists_[0]);
    line_counts_[1] = Find(g_.axis[1], line % own(1), lists_[1]);
    is_new_ = true;
  }

  const Neighbourhood& Get(int64_t column) {
    const int64_t c = column - begin_;
    const Place* places = columns_ + c * most_[2];
    if (is_new_ || !same_[c]) List(places, counts_[c]);
    is_new_ = false;
    if (all_.count > 0) {
      all_.base = Other(image_, lists_[0][0].index, lists_[1][0].index, places[0].index);
    }
    return all_;
  }

 private:
  static int64_t Find(const AttentionAxis& axis, int64_t index, Place* places) {
    return kOf == Of::kQueries ? FindKeys(axis, index, places) : FindQueries(axis, index, places);
  }

  // The number of a position on the other side, or its distance.
  int64_t Other(int64_t image, int64_t d, int64_t h, int64_t w) const {
    const auto size = [this](int i) { return kOf == Of::kQueries ? g_.axis[i].input : g_.axis[i].output; };
    return ((image * size(0) + d) * size(1) + h) * size(2) + w;
  }

  void List(const Place* places, int64_t count) {
    const int64_t taps = g_.axis[0].kernel * g_.axis[1].kernel * g_.axis[2].kernel;
    int64_t n = 0;
    bool in_order = true;
    for (int64_t i = 0; i < line_counts_[0]; ++i) {
      for (int64_t j = 0; j < line_counts_[1]; ++j) {
        const Place& plane = lists_[0][i];
        const Place& line = lists_[1][j];
        for (int64_t k = 0; k < count; ++k, ++n) {
          all_.positions[n] = Other(0, plane.index - lists_[0][0].index,
                                    line.index - lists_[1][0].index,
                                    places[k].index - places[0].index);
          all_.taps[n] = (plane.tap * g_.axis[1].kernel + line.tap) * g_.axis[2].kernel +
                         places[k].tap;
          in_order = in_order && all_.taps[n] == n;
        }
      }
    }
    all_.count = n;
    all_.has_all_taps = in_order && n == taps;
    for (int64_t i = n; n > 0 && i < n + kRoom; ++i) {
      all_.positions[i] = all_.positions[0];
      all_.taps[i] = all_.taps[0];
    }
    for (int64_t i = 0; n > 0 && i < n + kRoom; ++i) {
      all_.by_width[i] = all_.positions[i] * g_.heads * g_.width;
      all_.by_depth[i] = all_.positions[i] * g_.heads * g_.depth;
    }
  }

  const AttentionGeometry& g_;
  int64_t most_[kMaxSpatialAxes];
  Place* lists_[2];  // of the line
  int64_t line_counts_[2] = {};
  Place* columns_;
  int64_t* counts_;
  bool* same_;  // whether taps and distances are those of the column before
  int64_t begin_ = -1;
  int64_t image_ = 0;
  bool is_new_ = true;
  Neighbourhood all_ = {};
};

}  // namespace TFCONV_ISA_NAMESPACE
}  // namespace tfconv

#endif  // TFCONV_LOCAL_ATTENTION_NEIGHBOURS_H_
