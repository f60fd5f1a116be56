// The custom_options of an op: a FlexBuffers map, as TensorFlow's converter writes it.
#ifndef TFCONV_LITE_OPTIONS_H_
#define TFCONV_LITE_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lite/status.h"

namespace tfconv {
namespace lite {

struct Option {
  std::vector<int64_t> integers;  // an integer is a list of one
  std::string text;
};

using Options = std::map<std::string, Option>;

// Reads the options that ops of ours may have: integers, lists of integers and strings. Passes over
// all other keys.
Status ReadOptions(const void* data, size_t size, Options* options);

}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_OPTIONS_H_
