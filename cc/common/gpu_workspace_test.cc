#include "common/gpu_workspace.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>

namespace tfconv {
namespace {

int64_t Within(int64_t limit, int64_t batch, int64_t each, int64_t fixed = 0) {
  return CountWithin(limit, batch, [=](int64_t count) { return fixed + count * each; });
}

TEST(GpuWorkspaceTest, AsManyAsFitInEqualTurns) {
  EXPECT_EQ(Within(100, 8, 10), 8);
  EXPECT_EQ(Within(79, 8, 10), 4);
  EXPECT_EQ(Within(39, 8, 10), 3);
  EXPECT_EQ(Within(39, 8, 10, 15), 2);
}

TEST(GpuWorkspaceTest, AtLeastOne) {
  EXPECT_EQ(Within(5, 8, 10), 1);
  EXPECT_EQ(Within(5, 1, 10), 1);
  EXPECT_EQ(Within(5, 0, 10), 1);
}

TEST(GpuWorkspaceTest, Variable) {
  int64_t bytes = 0;
  ASSERT_TRUE(GpuWorkspaceLimit(&bytes).ok());
  EXPECT_EQ(bytes, int64_t{256} << 20);
  setenv("TFCONV_GPU_WORKSPACE", "3", 1);
  ASSERT_TRUE(GpuWorkspaceLimit(&bytes).ok());
  EXPECT_EQ(bytes, int64_t{3} << 20);
  for (const char* text : {"0", "-1", "256MB", "99999999999999"}) {
    setenv("TFCONV_GPU_WORKSPACE", text, 1);
    EXPECT_FALSE(GpuWorkspaceLimit(&bytes).ok()) << text;
  }
  unsetenv("TFCONV_GPU_WORKSPACE");
}

}  // namespace
}  // namespace tfconv
