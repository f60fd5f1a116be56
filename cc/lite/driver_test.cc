// Runs the delegate under an interpreter of our own, which has just what a delegate needs: where
// there is no TFLite (another processor), and where sanitizers watch.
//
// As a program: driver CASES RESULTS. CASES holds, for each case, a graph of custom ops in the
// order of execution; RESULTS gets the tensors that are asked for, or what the delegate reported.
// Both are little-endian: integers of 32 bits, strings and bytes with their length before them.
//
//   cases:   how many, then each case
//   case:    threads, runs, tensors, nodes, the indices of tensors to return
//   tensor:  type, allocation type, flaw, dims, bytes of data (none for what the nodes compute)
//   node:    name, custom_options, inputs, outputs
//   results: for each case: 0 and the tensors' dims and bytes, or 1 and a message
#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lite/tflite_abi.h"
#include "lite/tfconv_lite.h"

namespace tfconv {
namespace lite {
namespace {

using Bytes = std::vector<char>;

class Reader {
 public:
  explicit Reader(Bytes bytes) : bytes_(std::move(bytes)) {}

  int Integer() {
    int32_t value;
    std::memcpy(&value, Take(sizeof(value)), sizeof(value));
    return value;
  }

  std::vector<int> Integers() {
    std::vector<int> values(static_cast<size_t>(Integer()));
    for (int& value : values) value = Integer();
    return values;
  }

  Bytes Data() {
    const auto size = static_cast<size_t>(Integer());
    const char* data = Take(size);
    return Bytes(data, data + size);
  }

 private:
  const char* Take(size_t size) {
    if (size > bytes_.size() - position_) throw std::runtime_error("the cases end early");
    position_ += size;
    return bytes_.data() + position_ - size;
  }

  Bytes bytes_;
  size_t position_ = 0;
};

class Writer {
 public:
  explicit Writer(const char* path) : file_(path, std::ios::binary) {}

  void Integer(int value) { file_.write(reinterpret_cast<const char*>(&value), sizeof(value)); }

  void Data(const void* data, size_t size) {
    Integer(static_cast<int>(size));
    file_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  }

 private:
  std::ofstream file_;
};

// The elements behind the length, as IntArray has them.
std::vector<int> MakeArray(const std::vector<int>& values) {
  std::vector<int> array = {static_cast<int>(values.size())};
  array.insert(array.end(), values.begin(), values.end());
  return array;
}

abi::IntArray* AsArray(std::vector<int>* array) {
  return reinterpret_cast<abi::IntArray*>(array->data());
}

// What an interpreter or a model may get wrong.
enum Flaw { kNoFlaw, kSparse, kNoMemory, kTooSmall };

struct TensorMemory {
  Flaw flaw;
  Bytes data;
  std::vector<int> dims;
};

struct GraphNode {
  std::string name;
  Bytes options;
  std::vector<int> inputs, outputs;
  abi::Node node;
  abi::Registration registration;
};

// One partition at most: all nodes of a case are the delegate's.
class Interpreter {
 public:
  explicit Interpreter(Reader* cases) {
    threads_ = cases->Integer();
    runs_ = cases->Integer();
    memory_.resize(static_cast<size_t>(cases->Integer()));
    tensors_.resize(memory_.size());
    for (size_t i = 0; i < tensors_.size(); ++i) {
      tensors_[i] = {};
      tensors_[i].type = static_cast<abi::Type>(cases->Integer());
      tensors_[i].allocation_type = static_cast<abi::AllocationType>(cases->Integer());
      const auto flaw = memory_[i].flaw = static_cast<Flaw>(cases->Integer());
      memory_[i].dims = MakeArray(cases->Integers());
      memory_[i].data = cases->Data();
      if (flaw == kTooSmall) memory_[i].data.pop_back();
      tensors_[i].dims = AsArray(&memory_[i].dims);
      tensors_[i].data = flaw == kNoMemory ? nullptr : memory_[i].data.data();
      tensors_[i].bytes = memory_[i].data.size();
      if (flaw == kSparse) tensors_[i].sparsity = &memory_[i];
    }
    nodes_.resize(static_cast<size_t>(cases->Integer()));
    std::vector<int> plan;
    for (GraphNode& n : nodes_) {
      n.name = Text(cases->Data());
      n.options = cases->Data();
      n.inputs = MakeArray(cases->Integers());
      n.outputs = MakeArray(cases->Integers());
      n.node = {};
      n.node.inputs = AsArray(&n.inputs);
      n.node.outputs = AsArray(&n.outputs);
      n.node.custom_options = n.options.data();
      n.node.custom_options_size = static_cast<int>(n.options.size());
      n.registration = {};
      n.registration.custom_name = n.name.c_str();
      n.registration.version = 1;
      plan.push_back(static_cast<int>(plan.size()));
    }
    plan_ = MakeArray(plan);
    wanted_ = cases->Integers();
    outputs_ = MakeArray(wanted_);

    context_.tensors = tensors_.data();
    context_.tensors_size = tensors_.size();
    context_.impl = this;
    context_.recommended_num_threads = threads_;
    context_.GetExecutionPlan = [](abi::Context* c, abi::IntArray** plan_of) {
      *plan_of = AsArray(&Of(c)->plan_);
      return abi::kOk;
    };
    context_.GetNodeAndRegistration = [](abi::Context* c, int i, abi::Node** node,
                                         abi::Registration** registration) {
      auto& nodes = Of(c)->nodes_;
      if (i < 0 || static_cast<size_t>(i) >= nodes.size()) return abi::kError;
      *node = &nodes[static_cast<size_t>(i)].node;
      *registration = &nodes[static_cast<size_t>(i)].registration;
      return abi::kOk;
    };
    context_.ReplaceNodeSubsetsWithDelegateKernels =
        [](abi::Context* c, abi::Registration registration, const abi::IntArray* nodes,
           abi::Delegate* delegate) { return Of(c)->Replace(registration, nodes, delegate); };
    context_.ResizeTensor = [](abi::Context* c, abi::Tensor* tensor, abi::IntArray* size) {
      return Of(c)->Resize(tensor, size);
    };
    context_.ReportError = ReportError;
  }

  // Everything from the delegate's creation to its end.
  void Run(Writer* results) {
    TfLiteDelegate* delegate = tfconv_lite_create_delegate(0);
    auto* abi_delegate = reinterpret_cast<abi::Delegate*>(delegate);
    bool ok = abi_delegate->Prepare(&context_, abi_delegate) == abi::kOk && has_kernel_ &&
              kernel_.prepare(&context_, &kernel_node_) == abi::kOk;
    for (int run = 0; ok && run < runs_; ++run) {
      ok = kernel_.invoke(&context_, &kernel_node_) == abi::kOk;
    }
    if (has_kernel_) kernel_.free(&context_, kernel_node_.user_data);
    tfconv_lite_delete_delegate(delegate);
    results->Integer(ok ? 0 : 1);
    if (!ok) {
      results->Data(message_.data(), message_.size());
      return;
    }
    for (const int i : wanted_) {
      const abi::Tensor& tensor = tensors_[static_cast<size_t>(i)];
      results->Data(tensor.dims->begin(), sizeof(int) * static_cast<size_t>(tensor.dims->size));
      results->Data(tensor.data, tensor.bytes);
    }
  }

 private:
  static Interpreter* Of(abi::Context* context) { return static_cast<Interpreter*>(context->impl); }

  static void ReportError(abi::Context* context, const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    Of(context)->message_ += text;
  }

  static std::string Text(const Bytes& bytes) { return std::string(bytes.begin(), bytes.end()); }

  abi::Status Replace(const abi::Registration& registration, const abi::IntArray* nodes,
                      abi::Delegate* delegate) {
    std::vector<int> replaced = MakeArray(std::vector<int>(nodes->begin(), nodes->end()));
    std::vector<int> none = {0};
    abi::DelegateParams params = {delegate, AsArray(&replaced), AsArray(&none),
                                  AsArray(&outputs_)};
    kernel_ = registration;
    kernel_node_ = {};
    kernel_node_.user_data =
        kernel_.init(&context_, reinterpret_cast<const char*>(&params), sizeof(params));
    has_kernel_ = true;
    return abi::kOk;
  }

  // Memory of exactly the size that the shape asks for; none for what only the delegate sees, as in
  // TFLite, unless it is dynamic.
  abi::Status Resize(abi::Tensor* tensor, abi::IntArray* size) {
    TensorMemory& memory = memory_[static_cast<size_t>(tensor - tensors_.data())];
    memory.dims = MakeArray(std::vector<int>(size->begin(), size->end()));
    std::free(size);
    int64_t bytes = tensor->type == abi::kFloat16 ? 2 : 4;
    for (const int dim : *AsArray(&memory.dims)) bytes *= dim;
    memory.data = Bytes(static_cast<size_t>(bytes), char(0xff));
    const bool seen = std::count(wanted_.begin(), wanted_.end(), tensor - tensors_.data()) > 0;
    const bool has_memory =
        memory.flaw != kNoMemory && (seen || tensor->allocation_type == abi::kDynamic);
    tensor->dims = AsArray(&memory.dims);
    tensor->data = has_memory ? memory.data.data() : nullptr;
    tensor->bytes = memory.data.size();
    return abi::kOk;
  }

  int threads_;
  int runs_;
  std::vector<TensorMemory> memory_;
  std::vector<abi::Tensor> tensors_;
  std::vector<GraphNode> nodes_;
  std::vector<int> plan_, wanted_, outputs_;
  abi::Context context_ = {};
  abi::Registration kernel_ = {};
  abi::Node kernel_node_ = {};
  bool has_kernel_ = false;
  std::string message_;
};

}  // namespace
}  // namespace lite
}  // namespace tfconv

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s CASES RESULTS\n", argv[0]);
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  tfconv::lite::Reader cases({std::istreambuf_iterator<char>(file), {}});
  tfconv::lite::Writer results(argv[2]);
  for (int count = cases.Integer(); count > 0; --count) {
    tfconv::lite::Interpreter(&cases).Run(&results);
  }
  return 0;
}
