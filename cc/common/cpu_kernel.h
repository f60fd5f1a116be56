// TensorFlow's side of the ops: shape functions and CPU kernels, from the description of an op.
//
// A description is a struct `Op` with
//   static const char* Name();            as in messages
//   absl::Status Read(Context* context);  attributes, from an InferenceContext or an
//                                         OpKernelConstruction
//   using Sizes = ...;                    what the kernels need to know, a struct of int64_t
//   absl::Status Infer(const std::function<Dims(int)>& input, Sizes* sizes,
//                      std::vector<Dims>* outputs) const;
//                                         checks shapes as far as they are known; `sizes` are
//                                         complete if the inputs' shapes are
//   template <typename T>
//   static absl::Status Run(Executor* executor, const Sizes& sizes,
//                           const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs);
#ifndef TFCONV_COMMON_CPU_KERNEL_H_
#define TFCONV_COMMON_CPU_KERNEL_H_

#ifndef EIGEN_USE_THREADS
#define EIGEN_USE_THREADS
#endif

#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "common/executor.h"
#include "common/op_geometry.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/core/threadpool.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tfconv {

template <typename Op>
absl::Status ShapeFunction(tensorflow::shape_inference::InferenceContext* c) {
  Op op;
  if (auto status = op.Read(c); !status.ok()) return status;
  typename Op::Sizes sizes;
  std::vector<Dims> outputs;
  const auto input = [c](int i) { return Dims::Of(c, i); };
  if (auto status = op.Infer(input, &sizes, &outputs); !status.ok()) return status;
  for (size_t i = 0; i < outputs.size(); ++i) {
    c->set_output(static_cast<int>(i), outputs[i].ToHandle(c));
  }
  return absl::OkStatus();
}

// The device's threads and allocator.
class CpuExecutor : public Executor {
 public:
  explicit CpuExecutor(tensorflow::OpKernelContext* context)
      : context_(context), workers_(context->device()->tensorflow_cpu_worker_threads()) {}

  absl::Status Allocate(int64_t bytes, std::shared_ptr<void>* memory) override {
    auto tensor = std::make_shared<tensorflow::Tensor>();
    if (auto status = context_->allocate_temp(tensorflow::DT_INT8,
                                              tensorflow::TensorShape({bytes}), tensor.get());
        !status.ok()) {
      return status;
    }
    *memory = std::shared_ptr<void>(tensor, tensor->data());
    return absl::OkStatus();
  }

  void ForEachUnit(int64_t units, int64_t cycles_per_unit, const Work& work) override {
    if (units <= 0) return;
    tensorflow::Shard(workers_->num_threads, workers_->workers, units, cycles_per_unit, work);
  }

  // The calling thread helps.
  int64_t max_threads() const override { return workers_->workers->NumThreads() + 1; }

 private:
  tensorflow::OpKernelContext* context_;
  const tensorflow::DeviceBase::CpuWorkerThreads* workers_;
};

// The memory of an op's inputs, and that of outputs of these shapes. Compiled once for all ops.
inline absl::Status GetBuffers(tensorflow::OpKernelContext* context,
                               const std::vector<Dims>& shapes, std::vector<Buffer>* inputs,
                               std::vector<Buffer>* outputs) {
  for (int i = 0; i < context->num_inputs(); ++i) {
    const tensorflow::Tensor& input = context->input(i);
    inputs->push_back({input.data(), input.NumElements()});
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    tensorflow::TensorShape shape;
    auto status = tensorflow::TensorShape::BuildTensorShape(shapes[i].sizes(), &shape);
    if (!status.ok()) return status;
    tensorflow::Tensor* output;
    status = context->allocate_output(static_cast<int>(i), shape, &output);
    if (!status.ok()) return status;
    outputs->push_back({output->data(), output->NumElements()});
  }
  return absl::OkStatus();
}

// An op on a device, which DeviceExecutor stands for.
template <typename Op, typename T, typename DeviceExecutor>
class DeviceKernel : public tensorflow::OpKernel {
 public:
  explicit DeviceKernel(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, op_.Read(context));
    if (std::is_base_of_v<Executor, DeviceExecutor>) OP_REQUIRES_OK(context, CheckIsa());
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    typename Op::Sizes sizes;
    std::vector<Dims> shapes;
    const auto dims = [context](int i) { return Dims::Of(context->input(i)); };
    OP_REQUIRES_OK(context, op_.Infer(dims, &sizes, &shapes));
    std::vector<Buffer> inputs, outputs;
    OP_REQUIRES_OK(context, GetBuffers(context, shapes, &inputs, &outputs));
    DeviceExecutor executor(context);
    OP_REQUIRES_OK(context, Op::template Run<T>(&executor, sizes, inputs, outputs));
  }

 private:
  Op op_;
};

// Registers the CPU kernels of an op for every data type, and makes its Infer and Run callable from
// elsewhere.
#define TFCONV_REGISTER_CPU(name, ...)                                                             \
  template absl::Status __VA_ARGS__::Infer(const std::function<Dims(int)>&,                        \
                                           __VA_ARGS__::Sizes*, std::vector<Dims>*) const;         \
  TFCONV_REGISTER_CPU_TYPE(name, Eigen::half, __VA_ARGS__)                                         \
  TFCONV_REGISTER_CPU_TYPE(name, Eigen::bfloat16, __VA_ARGS__)                                     \
  TFCONV_REGISTER_CPU_TYPE(name, float, __VA_ARGS__)                                               \
  TFCONV_REGISTER_CPU_TYPE(name, double, __VA_ARGS__)
#define TFCONV_REGISTER_CPU_TYPE(name, T, ...)                                                     \
  template absl::Status __VA_ARGS__::Run<T>(Executor*, const __VA_ARGS__::Sizes&,                  \
                                            const std::vector<Buffer>&,                            \
                                            const std::vector<Buffer>&);                           \
  REGISTER_KERNEL_BUILDER(Name(name).Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),        \
                          DeviceKernel<__VA_ARGS__, T, CpuExecutor>);

}  // namespace tfconv

#endif  // TFCONV_COMMON_CPU_KERNEL_H_
