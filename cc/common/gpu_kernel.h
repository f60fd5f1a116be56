// TensorFlow's side of the GPU kernels, without CUDA's headers: for units named *_gpu.cc, which
// belong to a library that is built with CUDA.
//
// An op has the description of common/cpu_kernel.h with another Run:
//   template <typename T>
//   static absl::Status Run(GpuExecutor* executor, const Sizes& sizes,
//                           const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs);
// where T is float, double, Half or Bfloat16 and all buffers are the GPU's.
#ifndef TFCONV_COMMON_GPU_KERNEL_H_
#define TFCONV_COMMON_GPU_KERNEL_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/cpu_kernel.h"
#include "common/cuda_types.h"
#include "common/gpu_blas.h"
#include "common/gpu_workspace.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tfconv {

// The stream and the memory that an op runs with.
class GpuExecutor {
 public:
  explicit GpuExecutor(tensorflow::OpKernelContext* context) : context_(context) {}

  CudaStream stream() const {
    return context_->op_device_context()->stream()->platform_specific_handle().stream;
  }

  // Valid as long as this.
  template <typename T>
  Multiplier<T> multiplier() {
    return [this](const MatrixProduct<T>& product) {
      status_ = gpu_blas::Multiply(context_->op_device_context()->stream(), product);
      return status_.ok() ? 0 : -1;
    };
  }

  // Calls launch(count, workspace) for as many of `batch` examples at a time as the limit allows,
  // where bytes(count) is what they need.
  template <typename Bytes, typename LaunchAll>
  absl::Status InSlices(int64_t batch, const Bytes& bytes, const LaunchAll& launch) {
    int64_t limit = 0;
    if (auto s = GpuWorkspaceLimit(&limit); !s.ok()) return s;
    const int64_t count = CountWithin(limit, batch, bytes);
    tensorflow::Tensor workspace;
    if (auto s = context_->allocate_temp(tensorflow::DT_INT8,
                                         tensorflow::TensorShape({bytes(count)}), &workspace);
        !s.ok()) {
      return s;
    }
    return Check(launch(count, workspace.data()));
  }

  // The result of a launch.
  absl::Status Check(int error) const {
    if (!status_.ok()) return status_;
    if (error == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(
        context_->op_kernel().type_string(), ": a CUDA kernel was not launched (error ", error,
        "; 1 also where an axis, the positions of an image, or the taps at all of them, reach 2^30)"));
  }

 private:
  tensorflow::OpKernelContext* context_;
  absl::Status status_;  // of the products
};

// Registers the GPU kernels of an op for every data type.
#define TFCONV_REGISTER_GPU(name, ...)                                   \
  TFCONV_REGISTER_GPU_TYPE(name, Eigen::half, Half, __VA_ARGS__)         \
  TFCONV_REGISTER_GPU_TYPE(name, Eigen::bfloat16, Bfloat16, __VA_ARGS__) \
  TFCONV_REGISTER_GPU_TYPE(name, float, float, __VA_ARGS__)              \
  TFCONV_REGISTER_GPU_TYPE(name, double, double, __VA_ARGS__)
#define TFCONV_REGISTER_GPU_TYPE(name, T, Element, ...)                                     \
  REGISTER_KERNEL_BUILDER(Name(name).Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
                          DeviceKernel<__VA_ARGS__, Element, GpuExecutor>);

}  // namespace tfconv

#endif  // TFCONV_COMMON_GPU_KERNEL_H_
