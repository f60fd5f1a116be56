// How much memory the columns of a convolution may take on a GPU.
#ifndef TFCONV_COMMON_GPU_WORKSPACE_H_
#define TFCONV_COMMON_GPU_WORKSPACE_H_

#include <cstdint>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tfconv {

// Bytes: TFCONV_GPU_WORKSPACE megabytes, or 256.
inline absl::Status GpuWorkspaceLimit(int64_t* bytes) {
  constexpr int64_t kMegabyte = 1 << 20;
  constexpr int64_t kMost = int64_t{1} << 40;
  int64_t megabytes = 256;
  const char* const text = std::getenv("TFCONV_GPU_WORKSPACE");
  if (text != nullptr && *text != '\0' &&
      (!absl::SimpleAtoi(text, &megabytes) || megabytes < 1 || megabytes > kMost / kMegabyte)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "TFCONV_GPU_WORKSPACE must be a positive number of megabytes. Received: ", text));
  }
  *bytes = megabytes * kMegabyte;
  return absl::OkStatus();
}

// The most of `batch` examples at a time, at least one, for which bytes(count) is within the limit,
// in turns that are about equal.
template <typename Bytes>
int64_t CountWithin(int64_t limit, int64_t batch, const Bytes& bytes) {
  int64_t turns = 1;
  const auto count = [&] { return (batch + turns - 1) / turns; };
  while (count() > 1 && bytes(count()) > limit) ++turns;
  return count() > 1 ? count() : 1;
}

}  // namespace tfconv

#endif  // TFCONV_COMMON_GPU_WORKSPACE_H_
