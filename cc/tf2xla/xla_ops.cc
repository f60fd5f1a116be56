// The ops inside code that XLA compiles: on the CPU a call of the op's own kernels, elsewhere XLA's
// operations (lowering.h).
//
// A call carries its op's name and sizes as text, so that it means the same in another process.
#ifndef EIGEN_USE_THREADS
#define EIGEN_USE_THREADS
#endif

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "aggregation/aggregation_op.h"
#include "common/executor.h"
#include "common/op_geometry.h"
#include "deformable/deformable_op.h"
#include "involution/involution_op.h"
#include "local_attention/local_attention_op.h"
#include "per_example/per_example_op.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/lib/core/threadpool.h"
#include "tf2xla/lower_attention.h"
#include "tf2xla/lowering.h"
#include "tf2xla/pool_executor.h"
#include "xla/service/custom_call_target_registry.h"
#include "xla/shape_util.h"
#if __has_include("xla/ffi/api/ffi.h")
#define TFCONV_XLA_FFI 1
#include "xla/ffi/api/ffi.h"
namespace xla::ffi {
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi
#else
#define TFCONV_XLA_FFI 0
#include "xla/service/custom_call_status_internal.h"
#endif

namespace tfconv {
namespace {

using ::tensorflow::DEVICE_CPU_XLA_JIT;
using ::tensorflow::DEVICE_GPU_XLA_JIT;
using ::tensorflow::DataType;
using ::tensorflow::DeviceBase;

// Sizes of a tensor, or of all axes of some.
using Shape = std::vector<int64_t>;

// An op's sizes as the numbers that they consist of, and back.
template <typename Sizes>
Shape ToWords(const Sizes& sizes) {
  static_assert(sizeof(Sizes) % sizeof(int64_t) == 0);
  Shape words(sizeof(Sizes) / sizeof(int64_t));
  std::memcpy(words.data(), &sizes, sizeof(Sizes));
  return words;
}
template <typename Sizes>
Sizes FromWords(const Shape& words) {
  Sizes sizes;
  std::memcpy(&sizes, words.data(), sizeof(Sizes));
  return sizes;
}

// Everything that a call has to know beyond the addresses.
std::string CallText(absl::string_view op, DataType type, const Shape& sizes,
                     const std::vector<Shape>& inputs, const std::vector<Shape>& outputs) {
  const auto counts = [](const std::vector<Shape>& shapes) {
    return absl::StrJoin(shapes, ",", [](std::string* out, const Shape& shape) {
      int64_t count = 1;
      for (const int64_t size : shape) count *= size;
      absl::StrAppend(out, count);
    });
  };
  return absl::StrCat(op, ";", static_cast<int>(type), ";", counts(inputs), ";", counts(outputs),
                      ";", absl::StrJoin(sizes, ","));
}

struct Call {
  std::string op;
  DataType type;
  Shape inputs;  // elements of each
  Shape outputs;
  Shape sizes;
};

bool ParseCall(absl::string_view text, Call* call) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ';');
  int type;
  if (parts.size() != 5 || !absl::SimpleAtoi(parts[1], &type)) return false;
  call->op = std::string(parts[0]);
  call->type = static_cast<DataType>(type);
  Shape* const lists[] = {&call->inputs, &call->outputs, &call->sizes};
  for (int i = 0; i < 3; ++i) {
    for (const absl::string_view word : absl::StrSplit(parts[i + 2], ',')) {
      if (!absl::SimpleAtoi(word, &lists[i]->emplace_back())) return false;
    }
  }
  return true;
}

template <typename Op>
absl::Status RunOp(Executor* executor, const Call& call, const std::vector<Buffer>& inputs,
                   const std::vector<Buffer>& outputs) {
  using Sizes = typename Op::Sizes;
  if (call.sizes.size() * sizeof(int64_t) != sizeof(Sizes)) {
    return absl::InternalError(absl::StrCat(Op::Name(), ": compiled by another version of tfconv"));
  }
  const auto sizes = FromWords<Sizes>(call.sizes);
  switch (call.type) {
    case tensorflow::DT_HALF:
      return Op::template Run<Eigen::half>(executor, sizes, inputs, outputs);
    case tensorflow::DT_BFLOAT16:
      return Op::template Run<Eigen::bfloat16>(executor, sizes, inputs, outputs);
    case tensorflow::DT_FLOAT:
      return Op::template Run<float>(executor, sizes, inputs, outputs);
    case tensorflow::DT_DOUBLE:
      return Op::template Run<double>(executor, sizes, inputs, outputs);
    default:
      return absl::InternalError(absl::StrCat(Op::Name(), ": no kernel for type ", call.type));
  }
}

// Tries one op after the other.
template <typename... Ops>
absl::Status RunOneOf(Executor* executor, const Call& call, const std::vector<Buffer>& inputs,
                      const std::vector<Buffer>& outputs) {
  absl::Status status = absl::InternalError(absl::StrCat("tfconv has no op ", call.op));
  const auto run = [&](const char* name, auto function) {
    if (call.op == name) status = function(executor, call, inputs, outputs);
  };
  (run(Ops::Name(), RunOp<Ops>), ...);
  return status;
}

// The call itself. `input(i)` and `output(i)` are addresses.
template <typename Input, typename Output>
absl::Status RunCall(Executor* executor, absl::string_view text, const Input& input,
                     const Output& output) {
  if (auto s = CheckIsa(); !s.ok()) return s;
  Call call;
  if (!ParseCall(text, &call)) {
    return absl::InternalError(absl::StrCat("tfconv cannot read the call ", text));
  }
  std::vector<Buffer> inputs, outputs;
  for (size_t i = 0; i < call.inputs.size(); ++i) inputs.push_back({input(i), call.inputs[i]});
  for (size_t i = 0; i < call.outputs.size(); ++i) outputs.push_back({output(i), call.outputs[i]});
  return RunOneOf<InvolutionOp<InvolutionKind::kInvolution>, InvolutionOp<InvolutionKind::kGrad>,
                  InvolutionOp<InvolutionKind::kInputGrad>,
                  InvolutionOp<InvolutionKind::kKernelGrad>, InvolutionOp<InvolutionKind::kSpan>,
                  InvolutionOp<InvolutionKind::kSpanInputGrad>,
                  InvolutionOp<InvolutionKind::kSpanGrad>,
                  AggregationOp<AggregationKind::kAggregation>,
                  AggregationOp<AggregationKind::kInputGrad>,
                  AggregationOp<AggregationKind::kSamplingGrad>,
                  DeformableOp<DeformableKind::kSample>, DeformableOp<DeformableKind::kSampleGrad>,
                  DeformableOp<DeformableKind::kConv>, DeformableOp<DeformableKind::kConvInputGrad>,
                  DeformableOp<DeformableKind::kConvFilterGrad>,
                  LocalAttentionOp<false>, LocalAttentionOp<true>,
                  PerExampleOp<PerExampleKind::kConv>, PerExampleOp<PerExampleKind::kInputGrad>,
                  PerExampleOp<PerExampleKind::kFilterGrad>>(executor, call, inputs, outputs);
}

constexpr char kTarget[] = "tfconv_call";

#if TFCONV_XLA_FFI

namespace ffi = xla::ffi;

ffi::Error HandleCall(ffi::ThreadPool pool, std::string_view text, ffi::RemainingArgs inputs,
                      ffi::RemainingRets outputs) {
  PoolExecutor executor(pool.num_threads(), [&pool](PoolExecutor::Task task) {
    pool.Schedule(std::move(task));
  });
  const absl::Status status = RunCall(
      &executor, text,
      [&](size_t i) { return inputs.get<ffi::AnyBuffer>(i).value().untyped_data(); },
      [&](size_t i) { return outputs.get<ffi::AnyBuffer>(i).value()->untyped_data(); });
  if (status.ok()) return ffi::Error::Success();
  return ffi::Error(static_cast<ffi::ErrorCode>(status.code()), std::string(status.message()));
}

XLA_FFI_DEFINE_HANDLER(kHandleCall, HandleCall,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Attr<std::string_view>("call")
                           .RemainingArgs()
                           .RemainingRets());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kTarget, "Host", kHandleCall);

void RememberThreads(const DeviceBase*) {}  // XLA says with every call
std::string Opaque(const std::string& text) { return absl::StrCat("{call = \"", text, "\"}"); }
constexpr auto kApiVersion = xla::CustomCallApiVersion::API_VERSION_TYPED_FFI;

#else

// TensorFlow's threads, which live as long as the process. XLA does not say them with a call.
std::atomic<tensorflow::thread::ThreadPool*> call_threads{nullptr};

void RememberThreads(const DeviceBase* device) {
  // With this variable every device has threads of its own, which end with XLA's.
  if (std::getenv("TF_OVERRIDE_GLOBAL_THREADPOOL") != nullptr) return;
  call_threads = device->tensorflow_cpu_worker_threads()->workers;
}

void HandleCall(void* output, const void** inputs, const char* opaque, size_t opaque_size,
                XlaCustomCallStatus* call_status) {
  const absl::string_view text(opaque, opaque_size);
  tensorflow::thread::ThreadPool* pool = call_threads;
  PoolExecutor executor(pool == nullptr ? 0 : pool->NumThreads(),
                        [pool](PoolExecutor::Task task) { pool->Schedule(std::move(task)); });
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ';');
  // One output comes as it is, several as a tuple.
  const bool is_tuple = parts.size() > 3 && absl::StrContains(parts[3], ',');
  const absl::Status status = RunCall(
      &executor, text, [&](size_t i) { return const_cast<void*>(inputs[i]); },
      [&](size_t i) { return is_tuple ? static_cast<void**>(output)[i] : output; });
  // XlaCustomCallStatusSetFailure() would do this, but TensorFlow 2.15 does not export it.
  if (!status.ok()) call_status->message = std::string(status.message());
}

XLA_CPU_REGISTER_CUSTOM_CALL_TARGET_WITH_SYM(kTarget, HandleCall);

std::string Opaque(const std::string& text) { return text; }
constexpr auto kApiVersion = xla::CustomCallApiVersion::API_VERSION_STATUS_RETURNING_UNIFIED;

#endif

// The environment variable TFCONV_XLA=lower has XLA's operations used on the CPU, too.
bool CallsKernels(absl::string_view device_type) {
  const char* variable = std::getenv("TFCONV_XLA");
  return device_type == DEVICE_CPU_XLA_JIT &&
         (variable == nullptr || absl::string_view(variable) != "lower");
}

// What is the same for all ops: so that it is compiled once.
class AnyXlaKernel : public tensorflow::XlaOpKernel {
 public:
  explicit AnyXlaKernel(tensorflow::OpKernelConstruction* context)
      : XlaOpKernel(context),
        calls_kernels_(CallsKernels(context->device_type().type_string())) {}

  void Compile(tensorflow::XlaOpKernelContext* context) override {
    std::vector<Shape> inputs, outputs;
    for (int i = 0; i < context->num_inputs(); ++i) {
      const auto shape = context->InputXlaShape(i);
      OP_REQUIRES_OK(context, shape.status());
      OP_REQUIRES(context, shape->is_static(),
                  absl::UnimplementedError(absl::StrCat(
                      OpName(), ": XLA cannot compile it for sizes that it does not know")));
      inputs.emplace_back(shape->dimensions().begin(), shape->dimensions().end());
    }
    Shape sizes;
    OP_REQUIRES_OK(context, Infer(inputs, &sizes, &outputs));
    const Operands results = calls_kernels_ ? EmitCall(context, sizes, inputs, outputs)
                                            : EmitOperations(context, sizes, inputs, outputs);
    for (size_t i = 0; i < results.size(); ++i) context->SetOutput(static_cast<int>(i), results[i]);
  }

 private:
  virtual const char* OpName() const = 0;
  virtual absl::Status Infer(const std::vector<Shape>& inputs, Shape* sizes,
                             std::vector<Shape>* outputs) const = 0;
  virtual bool IsZero(const Shape& sizes) const = 0;
  virtual Operands LowerOp(const Shape& sizes, const Operands& operands) const = 0;

  Operands EmitCall(tensorflow::XlaOpKernelContext* context, const Shape& sizes,
                    const std::vector<Shape>& inputs, const std::vector<Shape>& outputs) const {
    RememberThreads(context->op_kernel_context()->device());
    const xla::PrimitiveType type = context->input_xla_type(0);
    const auto row_major = [type](const std::vector<Shape>& shapes) {
      std::vector<xla::Shape> result;
      for (const auto& shape : shapes) {
        result.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(type, shape));
      }
      return result;
    };
    Operands operands;
    for (size_t i = 0; i < inputs.size(); ++i) {
      operands.push_back(context->Input(static_cast<int>(i)));
    }
    const std::vector<xla::Shape> shapes = row_major(outputs);
    const xla::XlaOp call = xla::CustomCallWithLayout(
        context->builder(), kTarget, operands,
        shapes.size() == 1 ? shapes[0] : xla::ShapeUtil::MakeTupleShape(shapes), row_major(inputs),
        Opaque(CallText(OpName(), context->input_type(0), sizes, inputs, outputs)),
        /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, kApiVersion);
    if (shapes.size() == 1) return {call};
    Operands results;
    for (size_t i = 0; i < shapes.size(); ++i) {
      results.push_back(xla::GetTupleElement(call, static_cast<int64_t>(i)));
    }
    return results;
  }

  Operands EmitOperations(tensorflow::XlaOpKernelContext* context, const Shape& sizes,
                          const std::vector<Shape>& inputs,
                          const std::vector<Shape>& outputs) const {
    const xla::PrimitiveType type = context->input_xla_type(0);
    const xla::PrimitiveType wide = type == xla::F64 ? xla::F64 : xla::F32;
    Operands results;
    if (IsZero(sizes)) {
      for (const auto& shape : outputs) {
        results.push_back(xla::Broadcast(xla::Zero(context->builder(), type), shape));
      }
      return results;
    }
    Operands operands;
    for (size_t i = 0; i < inputs.size(); ++i) {
      operands.push_back(xla::ConvertElementType(context->Input(static_cast<int>(i)), wide));
    }
    results = LowerOp(sizes, operands);
    for (size_t i = 0; i < results.size(); ++i) {
      results[i] = xla::ConvertElementType(xla::Reshape(results[i], outputs[i]), type);
    }
    return results;
  }

  const bool calls_kernels_;
};

template <typename Op>
class XlaKernel : public AnyXlaKernel {
 public:
  explicit XlaKernel(tensorflow::OpKernelConstruction* context) : AnyXlaKernel(context) {
    OP_REQUIRES_OK(context, op_.Read(context));
  }

 private:
  using Sizes = typename Op::Sizes;

  const char* OpName() const override { return Op::Name(); }

  absl::Status Infer(const std::vector<Shape>& inputs, Shape* sizes,
                     std::vector<Shape>* outputs) const override {
    Sizes own;
    std::vector<Dims> dims;
    auto status = op_.Infer([&](int i) { return Dims(inputs[i]); }, &own, &dims);
    if (!status.ok()) return status;
    *sizes = ToWords(own);
    for (const Dims& output : dims) outputs->push_back(output.sizes());
    return absl::OkStatus();
  }

  bool IsZero(const Shape& sizes) const override { return SumsNothing(FromWords<Sizes>(sizes)); }

  Operands LowerOp(const Shape& sizes, const Operands& operands) const override {
    return Lower(op_, FromWords<Sizes>(sizes), operands);
  }

  Op op_;
};

// REGISTER_XLA_OP is too late once TensorFlow has started: it makes kernels of XLA's ops only then.
#define TFCONV_REGISTER_XLA(name, ...)                                      \
  TFCONV_REGISTER_XLA_DEVICE(name, DEVICE_CPU_XLA_JIT, XlaKernel<__VA_ARGS__>) \
  TFCONV_REGISTER_XLA_DEVICE(name, DEVICE_GPU_XLA_JIT, XlaKernel<__VA_ARGS__>) \
  TFCONV_REGISTER_XLA_DEVICE(name, "XLA_TPU_JIT", XlaKernel<__VA_ARGS__>)
#define TFCONV_REGISTER_XLA_DEVICE(name, device, ...)                                         \
  REGISTER_KERNEL_BUILDER(Name(name).Device(device).TypeConstraint(                           \
                              "T", {tensorflow::DT_HALF, tensorflow::DT_BFLOAT16,             \
                                    tensorflow::DT_FLOAT, tensorflow::DT_DOUBLE}),            \
                          __VA_ARGS__);
TFCONV_REGISTER_XLA("Tfconv>Involution", InvolutionOp<InvolutionKind::kInvolution>)
TFCONV_REGISTER_XLA("Tfconv>InvolutionGrad", InvolutionOp<InvolutionKind::kGrad>)
TFCONV_REGISTER_XLA("Tfconv>InvolutionInputGrad", InvolutionOp<InvolutionKind::kInputGrad>)
TFCONV_REGISTER_XLA("Tfconv>InvolutionKernelGrad", InvolutionOp<InvolutionKind::kKernelGrad>)
TFCONV_REGISTER_XLA("Tfconv>SpanInvolution", InvolutionOp<InvolutionKind::kSpan>)
TFCONV_REGISTER_XLA("Tfconv>SpanInvolutionInputGrad", InvolutionOp<InvolutionKind::kSpanInputGrad>)
TFCONV_REGISTER_XLA("Tfconv>SpanInvolutionSpanGrad", InvolutionOp<InvolutionKind::kSpanGrad>)
TFCONV_REGISTER_XLA("Tfconv>DeformableAggregation", AggregationOp<AggregationKind::kAggregation>)
TFCONV_REGISTER_XLA("Tfconv>DeformableAggregationInputGrad",
                    AggregationOp<AggregationKind::kInputGrad>)
TFCONV_REGISTER_XLA("Tfconv>DeformableAggregationSamplingGrad",
                    AggregationOp<AggregationKind::kSamplingGrad>)
TFCONV_REGISTER_XLA("Tfconv>DeformableSample", DeformableOp<DeformableKind::kSample>)
TFCONV_REGISTER_XLA("Tfconv>DeformableSampleGrad", DeformableOp<DeformableKind::kSampleGrad>)
TFCONV_REGISTER_XLA("Tfconv>DeformableConv", DeformableOp<DeformableKind::kConv>)
TFCONV_REGISTER_XLA("Tfconv>DeformableConvInputGrad", DeformableOp<DeformableKind::kConvInputGrad>)
TFCONV_REGISTER_XLA("Tfconv>DeformableConvFilterGrad",
                    DeformableOp<DeformableKind::kConvFilterGrad>)
TFCONV_REGISTER_XLA("Tfconv>LocalAttention", LocalAttentionOp<false>)
TFCONV_REGISTER_XLA("Tfconv>LocalAttentionGrad", LocalAttentionOp<true>)
TFCONV_REGISTER_XLA("Tfconv>PerExampleConv", PerExampleOp<PerExampleKind::kConv>)
TFCONV_REGISTER_XLA("Tfconv>PerExampleConvInputGrad", PerExampleOp<PerExampleKind::kInputGrad>)
TFCONV_REGISTER_XLA("Tfconv>PerExampleConvFilterGrad", PerExampleOp<PerExampleKind::kFilterGrad>)

}  // namespace
}  // namespace tfconv
