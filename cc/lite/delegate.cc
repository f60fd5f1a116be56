// The delegate: finds the custom ops in a graph and replaces them with partitions that we run.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "lite/partition.h"
#include "lite/tfconv_lite.h"

namespace tfconv {
namespace lite {
namespace {

constexpr int kMaxThreads = 1024;

struct LiteDelegate {
  abi::Delegate base;  // first: the interpreter's pointer is ours
  ThreadPool pool;
  int num_threads;
};
// No exception leaves tfconv_lite_create_delegate.
static_assert(std::is_nothrow_default_constructible_v<LiteDelegate>);

// A partition, and why it could not be made.
struct Kernel {
  LiteDelegate* delegate;
  Partition partition;
  Status status;
};

// Runs `body`, whose trouble the interpreter is told of. No exception leaves this library.
template <typename Body>
abi::Status Report(abi::Context* context, const Body& body) {
  try {
    const Status status = body();
    if (status.ok()) return abi::kOk;
    context->ReportError(context, "tfconv: %s", status.message().c_str());
  } catch (const std::exception& error) {
    context->ReportError(context, "tfconv: %s", error.what());
  }
  return abi::kError;
}

void* InitKernel(abi::Context* context, const char* buffer, size_t) {
  const auto& params = *reinterpret_cast<const abi::DelegateParams*>(buffer);
  auto* delegate = reinterpret_cast<LiteDelegate*>(params.delegate);
  try {
    std::unique_ptr<Kernel> kernel(new Kernel{delegate, Partition(&delegate->pool), Status()});
    kernel->status = kernel->partition.Init(context, params);
    return kernel.release();
  } catch (const std::exception&) {
    return nullptr;
  }
}

void FreeKernel(abi::Context*, void* user_data) { delete static_cast<Kernel*>(user_data); }

// An op that the options or the graph do not describe rightly fails here: not every interpreter
// hears of a failure of `init`.
abi::Status PrepareKernel(abi::Context* context, abi::Node* node) {
  return Report(context, [&] {
    auto* kernel = static_cast<Kernel*>(node->user_data);
    if (kernel == nullptr) return Error("out of memory");
    return kernel->status.ok() ? kernel->partition.Prepare(context) : kernel->status;
  });
}

abi::Status InvokeKernel(abi::Context* context, abi::Node* node) {
  return Report(context, [&] {
    auto* kernel = static_cast<Kernel*>(node->user_data);
    const int own = kernel->delegate->num_threads;
    const int threads = own > 0 ? own : context->recommended_num_threads;
    return kernel->partition.Invoke(context, std::clamp(threads, 1, kMaxThreads));
  });
}

abi::Status PrepareDelegate(abi::Context* context, abi::Delegate* delegate) {
  return Report(context, [&] {
    abi::IntArray* plan;
    if (context->GetExecutionPlan(context, &plan) != abi::kOk) return Error("no execution plan");
    const std::vector<int> nodes(plan->begin(), plan->end());
    std::vector<int> ours = {0};  // the number of them, then they
    for (const int index : nodes) {
      abi::Node* node;
      abi::Registration* registration;
      if (context->GetNodeAndRegistration(context, index, &node, &registration) != abi::kOk) {
        return Error("there is no node ", index);
      }
      const char* name = registration->custom_name;
      if (name != nullptr && HasLiteOp(name)) ours.push_back(index);
    }
    ours[0] = static_cast<int>(ours.size()) - 1;
    if (ours[0] == 0) return Status();
    abi::Registration registration = {};
    registration.init = InitKernel;
    registration.free = FreeKernel;
    registration.prepare = PrepareKernel;
    registration.invoke = InvokeKernel;
    registration.custom_name = "TfconvDelegate";
    registration.version = 1;
    const auto* array = reinterpret_cast<const abi::IntArray*>(ours.data());
    if (context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, array, delegate) !=
        abi::kOk) {
      return Error("the interpreter did not take the delegate's kernels");
    }
    return Status();
  });
}

}  // namespace
}  // namespace lite
}  // namespace tfconv

using ::tfconv::lite::LiteDelegate;

TfLiteDelegate* tfconv_lite_create_delegate(int num_threads) {
  auto* delegate = new (std::nothrow) LiteDelegate{};
  if (delegate == nullptr) return nullptr;
  delegate->base.Prepare = tfconv::lite::PrepareDelegate;
  delegate->base.flags = tfconv::lite::abi::kAllowDynamicTensors;
  delegate->num_threads = num_threads;
  return reinterpret_cast<TfLiteDelegate*>(delegate);
}

void tfconv_lite_delete_delegate(TfLiteDelegate* delegate) {
  delete reinterpret_cast<LiteDelegate*>(delegate);
}

TfLiteDelegate* tflite_plugin_create_delegate(const char* const* options_keys,
                                              const char* const* options_values, size_t num_options,
                                              void (*report_error)(const char*)) {
  int num_threads = 0;
  for (size_t i = 0; i < num_options; ++i) {
    char* end = nullptr;
    const long value = std::strtol(options_values[i], &end, 10);
    if (std::strcmp(options_keys[i], "num_threads") != 0 || end == options_values[i] ||
        *end != '\0' || value < 0 || value > tfconv::lite::kMaxThreads) {
      if (report_error != nullptr) {
        report_error("tfconv: the only option is num_threads, from 0 to 1024");
      }
      return nullptr;
    }
    num_threads = static_cast<int>(value);
  }
  return tfconv_lite_create_delegate(num_threads);
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  tfconv_lite_delete_delegate(delegate);
}
