// The format: https://flatbuffers.dev/internals (FlexBuffers). Every offset is checked: the bytes
// come from a model's file.
#include "lite/options.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/geometry.h"

namespace tfconv {
namespace lite {
namespace {

constexpr const char* kKeys[] = {"causal",     "dilations",   "edges",      "explicit_paddings",
                                 "kernel_size", "modulation", "num_biases", "num_heads",
                                 "padding",     "scale",      "strides",    "version"};
constexpr size_t kMaxKey = 17;   // the longest of them
constexpr size_t kMaxText = 16;  // characters of a string
constexpr size_t kMaxList = 2 * kMaxSpatialAxes;

bool IsKnown(const std::string& key) {
  return std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
}

enum Type {
  kInt = 1,
  kUint = 2,
  kString = 5,
  kMap = 9,
  kVector = 10,
  kVectorInt = 11,
  kVectorUint = 12,
  kVectorInt2 = 16,  // then of 2 unsigned, 2 floats, 3 integers ...
  kVectorFloat4 = 24,
};

// A value: where it lies (in `width` bytes), or the offset to it lies, and its type.
struct Value {
  size_t position;
  size_t width;
  int type;
  size_t own_width;  // of the elements, where it is an offset
};

class Reader {
 public:
  Reader(const void* data, size_t size) : data_(static_cast<const uint8_t*>(data)), size_(size) {}

  // Leaves in `key` the one whose value is not an option.
  bool ReadMap(Options* options, std::string* key) const {
    if (size_ < 3) return false;
    const size_t width = data_[size_ - 1];
    const int packed = data_[size_ - 2];
    if (width > size_ - 2) return false;
    const Value root = {size_ - 2 - width, width, packed >> 2, size_t{1} << (packed & 3)};
    const size_t w = root.own_width;
    size_t values, keys, count;
    if (root.type != kMap || !Follow(root, &values) || !ReadCount(values, w, w, &count)) {
      return false;
    }
    // Before the count: the offset to the keys, and the width of each.
    uint64_t key_width;
    if (values < 3 * w || !ReadUnsigned(values - 2 * w, w, &key_width)) return false;
    const Value keys_offset = {values - 3 * w, w, kVector, 1};
    if (!Follow(keys_offset, &keys)) return false;
    for (size_t i = 0; i < count; ++i) {
      const Value key_value = {keys + i * key_width, static_cast<size_t>(key_width), kString, 1};
      key->clear();
      if (!ReadKey(key_value, key)) return false;
      if (!IsKnown(*key)) continue;
      Option option;
      if (!ReadOption(Element(values, w, count, i), &option)) return false;
      (*options)[*key] = std::move(option);
    }
    return true;
  }

 private:
  bool Fits(size_t position, size_t count, size_t width) const {
    return position <= size_ && count <= (size_ - position) / (width == 0 ? 1 : width);
  }

  bool ReadUnsigned(size_t position, size_t width, uint64_t* value) const {
    if ((width != 1 && width != 2 && width != 4 && width != 8) || !Fits(position, 1, width)) {
      return false;
    }
    *value = 0;
    for (size_t i = width; i-- > 0;) *value = *value << 8 | data_[position + i];
    return true;
  }

  bool ReadInteger(const Value& value, int64_t* result) const {
    uint64_t bits;
    if (!ReadUnsigned(value.position, value.width, &bits)) return false;
    const int unused = 64 - 8 * static_cast<int>(value.width);
    // Signed numbers are extended from their own width.
    *result = value.type == kUint ? static_cast<int64_t>(bits)
                                  : static_cast<int64_t>(bits << unused) >> unused;
    return true;
  }

  // Offsets point backwards from where they lie.
  bool Follow(const Value& value, size_t* target) const {
    uint64_t offset;
    if (!ReadUnsigned(value.position, value.width, &offset) || offset > value.position) {
      return false;
    }
    *target = value.position - static_cast<size_t>(offset);
    return true;
  }

  // The number of elements, which lies before them.
  bool ReadCount(size_t elements, size_t width, size_t element_width, size_t* count) const {
    uint64_t value;
    if (elements < width || !ReadUnsigned(elements - width, width, &value)) return false;
    *count = static_cast<size_t>(value);
    return value <= size_ && Fits(elements, *count, element_width);
  }

  // A key that is too long to be known is cut short.
  bool ReadKey(const Value& value, std::string* key) const {
    size_t begin;
    if (!Follow(value, &begin)) return false;
    size_t end = begin;
    while (end < size_ && data_[end] != 0 && end - begin <= kMaxKey) ++end;
    if (end == size_) return false;
    key->assign(reinterpret_cast<const char*>(data_ + begin), end - begin);
    return true;
  }

  // An element of a vector or map. The types follow the elements.
  Value Element(size_t elements, size_t width, size_t count, size_t index) const {
    const size_t type = elements + count * width + index;
    const int packed = type < size_ ? data_[type] : 0;
    return {elements + index * width, width, packed >> 2, size_t{1} << (packed & 3)};
  }

  bool ReadOption(const Value& value, Option* option) const {
    if (value.type == kInt || value.type == kUint) {
      option->integers.resize(1);
      return ReadInteger(value, option->integers.data());
    }
    size_t target, count;
    if (value.type == kString) {
      // Its length has the width of a string; its characters are bytes.
      if (!Follow(value, &target) || !ReadCount(target, value.own_width, 1, &count) ||
          count > kMaxText) {
        return false;
      }
      option->text.assign(reinterpret_cast<const char*>(data_ + target), count);
      return true;
    }
    if (!Follow(value, &target)) return false;
    int type = 0;  // of the elements, which those of an untyped vector have themselves
    if (value.type >= kVectorInt2 && value.type <= kVectorFloat4) {
      const int kind = value.type - kVectorInt2;
      count = static_cast<size_t>(2 + kind / 3);
      type = kInt + kind % 3;
    } else {
      if (value.type != kVector && value.type != kVectorInt && value.type != kVectorUint) {
        return false;
      }
      if (!ReadCount(target, value.own_width, value.own_width, &count)) return false;
      if (value.type != kVector) type = kInt + value.type - kVectorInt;
    }
    if (count > kMaxList) return false;
    option->integers.resize(count);
    for (size_t i = 0; i < count; ++i) {
      Value element = Element(target, value.own_width, count, i);
      if (type != 0) element.type = type;
      if (element.type != kInt && element.type != kUint) return false;
      if (!ReadInteger(element, &option->integers[i])) return false;
    }
    return true;
  }

  const uint8_t* data_;
  size_t size_;
};

}  // namespace

Status ReadOptions(const void* data, size_t size, Options* options) {
  std::string key;
  if (data != nullptr && Reader(data, size).ReadMap(options, &key)) return Status();
  if (IsKnown(key)) {
    return Error("in the custom_options, ", key, " must be an integer, up to ", kMaxList,
                 " integers or a string of up to ", kMaxText, " characters");
  }
  return Error("the custom_options are not a FlexBuffers map (", size, " bytes)");
}

}  // namespace lite
}  // namespace tfconv
