// The binary interface between the TFLite interpreter and its delegates, as far as it is used here.
//
// Declared from its documentation, so that nothing of TFLite is needed to build the delegate.
// TFLite promises to add fields at the ends of these structures only, so what is here
// serves interpreters from TensorFlow 2.15 on and LiteRT. Fields that are not used have names and
// types all the same: their sizes count.
#ifndef TFCONV_LITE_TFLITE_ABI_H_
#define TFCONV_LITE_TFLITE_ABI_H_

#include <stddef.h>
#include <stdint.h>

namespace tfconv {
namespace lite {
namespace abi {

enum Status : int { kOk = 0, kError = 1 };

enum Type : int { kFloat32 = 1, kFloat16 = 10 };

enum AllocationType : int { kConstant = 1, kDynamic = 4 };

// A list of integers: its length, then the elements.
struct IntArray {
  int size;

  const int* begin() const { return reinterpret_cast<const int*>(this + 1); }
  const int* end() const { return begin() + size; }
};

struct Delegate;

struct Tensor {
  Type type;
  void* data;
  IntArray* dims;
  float scale;
  int32_t zero_point;
  AllocationType allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  Delegate* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  int quantization_type;
  void* quantization;
  void* sparsity;
  const IntArray* dims_signature;
};

struct Node {
  IntArray* inputs;  // indices of tensors, -1 for one that is left out
  IntArray* outputs;
  IntArray* intermediates;
  IntArray* temporaries;
  void* user_data;  // what Registration::init has returned
  void* builtin_data;
  const void* custom_options;
  int custom_options_size;
  Delegate* delegate;
  bool might_have_side_effect;
};

// Passed to Registration::init of a delegate's kernel.
struct DelegateParams {
  Delegate* delegate;
  IntArray* nodes_to_replace;  // in the order of execution
  IntArray* input_tensors;
  IntArray* output_tensors;
};

struct Context;

struct Registration {
  void* (*init)(Context* context, const char* buffer, size_t length);
  void (*free)(Context* context, void* user_data);
  Status (*prepare)(Context* context, Node* node);
  Status (*invoke)(Context* context, Node* node);
  const char* (*profiling_string)(const Context* context, const Node* node);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
#if UINTPTR_MAX == UINT64_MAX
  // Zeros where an interpreter to come may look for more. Registrations are passed by value, which
  // leaves the other arguments where they are only on processors of 64 bits.
  void* reserved[5];
#endif
};

// What follows in the interpreter's is not used.
struct Context {
  size_t tensors_size;
  Status (*GetExecutionPlan)(Context* context, IntArray** execution_plan);
  Tensor* tensors;
  void* impl;
  // Takes over `size`, which malloc() gives.
  Status (*ResizeTensor)(Context* context, Tensor* tensor, IntArray* size);
  void (*ReportError)(Context* context, const char* format, ...);
  void* AddTensors;
  Status (*GetNodeAndRegistration)(Context* context, int node_index, Node** node,
                                   Registration** registration);
  Status (*ReplaceNodeSubsetsWithDelegateKernels)(Context* context, Registration registration,
                                                  const IntArray* nodes_to_replace,
                                                  Delegate* delegate);
  int recommended_num_threads;  // -1 if the user has not chosen
};

// The kernels may have tensors whose shapes are known only when they run.
constexpr int64_t kAllowDynamicTensors = 1;

struct Delegate {
  void* data;
  Status (*Prepare)(Context* context, Delegate* delegate);
  void* CopyFromBufferHandle;
  void* CopyToBufferHandle;
  void* FreeBufferHandle;
  int64_t flags;
  void* opaque_delegate_builder;
  void* reserved[5];
};

#if UINTPTR_MAX == UINT64_MAX
static_assert(sizeof(Tensor) == 112 && offsetof(Tensor, data) == 8 &&
              offsetof(Tensor, dims) == 16 && offsetof(Tensor, allocation_type) == 32 &&
              offsetof(Tensor, bytes) == 40 && offsetof(Tensor, sparsity) == 96);
static_assert(sizeof(Node) == 80 && offsetof(Node, outputs) == 8 &&
              offsetof(Node, user_data) == 32 && offsetof(Node, custom_options) == 48 &&
              offsetof(Node, custom_options_size) == 56);
static_assert(sizeof(DelegateParams) == 32 && offsetof(DelegateParams, nodes_to_replace) == 8 &&
              offsetof(DelegateParams, output_tensors) == 24);
static_assert(offsetof(Registration, invoke) == 24 && offsetof(Registration, custom_name) == 48 &&
              offsetof(Registration, version) == 56 && offsetof(Registration, reserved) == 88);
static_assert(offsetof(Context, GetExecutionPlan) == 8 && offsetof(Context, tensors) == 16 &&
              offsetof(Context, ResizeTensor) == 32 && offsetof(Context, ReportError) == 40 &&
              offsetof(Context, GetNodeAndRegistration) == 56 &&
              offsetof(Context, ReplaceNodeSubsetsWithDelegateKernels) == 64 &&
              offsetof(Context, recommended_num_threads) == 72);
static_assert(offsetof(Delegate, Prepare) == 8 && offsetof(Delegate, flags) == 40 &&
              offsetof(Delegate, reserved) == 56);
#else
static_assert(sizeof(Tensor) == 64 && offsetof(Tensor, data) == 4 && offsetof(Tensor, dims) == 8 &&
              offsetof(Tensor, allocation_type) == 20 && offsetof(Tensor, bytes) == 24 &&
              offsetof(Tensor, sparsity) == 56);
static_assert(sizeof(Node) == 40 && offsetof(Node, outputs) == 4 &&
              offsetof(Node, user_data) == 16 && offsetof(Node, custom_options) == 24 &&
              offsetof(Node, custom_options_size) == 28);
static_assert(sizeof(DelegateParams) == 16 && offsetof(DelegateParams, nodes_to_replace) == 4 &&
              offsetof(DelegateParams, output_tensors) == 12);
static_assert(sizeof(Registration) == 48 && offsetof(Registration, invoke) == 12 &&
              offsetof(Registration, custom_name) == 24 && offsetof(Registration, version) == 28 &&
              offsetof(Registration, inplace_operator) == 40);
static_assert(offsetof(Context, GetExecutionPlan) == 4 && offsetof(Context, tensors) == 8 &&
              offsetof(Context, ResizeTensor) == 16 && offsetof(Context, ReportError) == 20 &&
              offsetof(Context, GetNodeAndRegistration) == 28 &&
              offsetof(Context, ReplaceNodeSubsetsWithDelegateKernels) == 32 &&
              offsetof(Context, recommended_num_threads) == 36);
// ARM aligns an int64_t to 8 bytes, x86 to 4, in TFLite's structures as in these.
static_assert(offsetof(Delegate, Prepare) == 4 && offsetof(Delegate, FreeBufferHandle) == 16 &&
              (offsetof(Delegate, flags) == 20 || offsetof(Delegate, flags) == 24) &&
              offsetof(Delegate, reserved) == offsetof(Delegate, flags) + 12);
#endif

}  // namespace abi
}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_TFLITE_ABI_H_
