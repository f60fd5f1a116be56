// The ops are there in a program that is linked with them and calls nothing of theirs.
#include <gtest/gtest.h>

#include <string>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tfconv {
namespace {

TEST(TfconvOps, AreRegistered) {
  for (const std::string name :
       {"Tfconv>Involution", "Tfconv>InvolutionGrad", "Tfconv>DeformableSample",
        "Tfconv>DeformableSampleGrad", "Tfconv>DeformableConv", "Tfconv>DeformableConvInputGrad", "Tfconv>DeformableConvFilterGrad",
        "Tfconv>LocalAttention", "Tfconv>LocalAttentionGrad", "Tfconv>PerExampleConv",
        "Tfconv>PerExampleConvInputGrad",
        "Tfconv>PerExampleConvFilterGrad"}) {
    const tensorflow::OpRegistrationData* op = nullptr;
    EXPECT_TRUE(tensorflow::OpRegistry::Global()->LookUp(name, &op).ok()) << name;
    EXPECT_GT(tensorflow::GetRegisteredKernelsForOp(name).kernel_size(), 0) << name;
  }
}

}  // namespace
}  // namespace tfconv
