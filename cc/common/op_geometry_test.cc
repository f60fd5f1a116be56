// Sizes of convolution-like ops, and what is said where they do not fit.
#include "common/op_geometry.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace tfconv {
namespace {

using Padding = ConvAttributes::Padding;

ConvAttributes Attributes(Padding padding, int64_t stride, int64_t dilation) {
  ConvAttributes attributes;
  attributes.op_name = "Op";
  attributes.strides = {stride};
  attributes.dilations = {dilation};
  attributes.padding = padding;
  if (padding == Padding::kExplicit) attributes.explicit_paddings = {3, 1};
  return attributes;
}

TEST(OpGeometry, SizesOfOutputs) {
  struct Row {
    Padding padding;
    int64_t stride, dilation, input, kernel, output, pad;
  };
  for (const Row& row : {
           Row{Padding::kSame, 1, 1, 7, 3, 7, 1},
           Row{Padding::kSame, 2, 1, 7, 3, 4, 1},
           Row{Padding::kSame, 2, 1, 8, 3, 4, 0},  // one after, none before
           Row{Padding::kSame, 1, 2, 7, 4, 7, 3},
           Row{Padding::kSame, 5, 1, 7, 2, 2, 0},
           Row{Padding::kSame, 1, 1, 0, 3, 0, 0},
           Row{Padding::kSame, 3, 1, 7, kUnknown, 3, 0},
           Row{Padding::kValid, 1, 1, 7, 3, 5, 0},
           Row{Padding::kValid, 2, 3, 8, 3, 1, 0},
           Row{Padding::kValid, 1, 1, 7, kUnknown, kUnknown, 0},
           Row{Padding::kExplicit, 1, 1, 7, 3, 9, 3},
           Row{Padding::kExplicit, 2, 1, 0, 3, 1, 3},
           Row{Padding::kExplicit, 1, 1, kUnknown, 3, kUnknown, 3},
       }) {
    ConvAxis axis;
    const ConvAttributes attributes = Attributes(row.padding, row.stride, row.dilation);
    ASSERT_TRUE(attributes.MakeAxis(0, row.input, row.kernel, &axis).ok());
    EXPECT_EQ(axis.output, row.output) << row.input << " " << row.kernel;
    EXPECT_EQ(axis.pad, row.pad) << row.input << " " << row.kernel;
  }
}

TEST(OpGeometry, NamesTheSizesThatDoNotFit) {
  ConvAxis axis;
  const auto status = Attributes(Padding::kExplicit, 1, 2).MakeAxis(0, 2, 4, &axis);
  EXPECT_EQ(std::string(status.message()),
            "Op: spatial axis 0 of x has size 2, padded to 6, but the kernel spans 7 (kernel size "
            "4, dilation 2)");
}

TEST(OpGeometry, CountsTapsWithoutOverflow) {
  int64_t taps;
  EXPECT_TRUE(CountTaps("Op", {3, 4, 5}, &taps).ok());
  EXPECT_EQ(taps, 60);
  EXPECT_TRUE(CountTaps("Op", {1, (int64_t{1} << 31) - 1}, &taps).ok());
  EXPECT_FALSE(CountTaps("Op", {1 << 16, 1 << 15}, &taps).ok());
  EXPECT_FALSE(CountTaps("Op", {int64_t{1} << 62, int64_t{1} << 62}, &taps).ok());
  EXPECT_FALSE(CountTaps("Op", {3, 0}, &taps).ok());
}

TEST(OpGeometry, ShapesThatAreKnownInPart) {
  const Dims dims({2, kUnknown, 9});
  EXPECT_EQ(dims.ToString(), "[2,?,9]");
  EXPECT_EQ(dims[-1], 9);
  EXPECT_EQ(dims[3], kUnknown);
  EXPECT_EQ(Dims().ToString(), "<unknown>");
  EXPECT_EQ(Dims()[0], kUnknown);
  EXPECT_TRUE(CheckRank("Op", "x", dims, 3).ok());
  EXPECT_TRUE(CheckRank("Op", "x", Dims(), 3).ok());
  EXPECT_EQ(std::string(CheckRank("Op", "x", dims, 4).message()),
            "Op: x must have 4 dimensions. Received shape: [2,?,9]");

  int64_t size = kUnknown;
  EXPECT_TRUE(MergeSize(&size, kUnknown));
  EXPECT_TRUE(MergeSize(&size, 4));
  EXPECT_EQ(size, 4);
  EXPECT_TRUE(MergeSize(&size, kUnknown));
  EXPECT_FALSE(MergeSize(&size, 5));
}

}  // namespace
}  // namespace tfconv
