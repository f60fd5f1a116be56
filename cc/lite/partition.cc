#include "lite/partition.h"

#include <cstdlib>
#include <limits>
#include <utility>

#include "common/convert_kernel.h"
#include "common/isa.h"

namespace tfconv {
namespace lite {
namespace {

int64_t ElementSize(abi::Type type) { return type == abi::kFloat16 ? 2 : 4; }

int64_t CountElements(const abi::Tensor& tensor) {
  return static_cast<int64_t>(tensor.bytes) / ElementSize(tensor.type);
}

const char* NameOf(const abi::Tensor& tensor) { return tensor.name == nullptr ? "" : tensor.name; }

Status CheckKind(const std::string& name, const abi::Tensor& tensor) {
  if (tensor.type != abi::kFloat32 && tensor.type != abi::kFloat16) {
    return Error(name, ": tensors must be float32 or float16. Received: type ", int{tensor.type},
                 " of tensor ", NameOf(tensor));
  }
  if (tensor.sparsity == nullptr) return Status();
  return Error(name, ": tensors must be dense. Received: sparse tensor ", NameOf(tensor));
}

// Whether there is memory for just the shape that the op knows.
Status CheckMemory(const std::string& name, const abi::Tensor& tensor, const Shape& shape) {
  int64_t bytes = ElementSize(tensor.type);
  bool fits = true;
  for (const int64_t size : shape) {
    fits = fits && size >= 0 && !__builtin_mul_overflow(bytes, size, &bytes);
  }
  if (!fits || tensor.bytes != static_cast<uint64_t>(bytes)) {
    return Error(name, ": tensor ", NameOf(tensor), " of shape ", shape, " has ", tensor.bytes,
                 " bytes");
  }
  if (bytes == 0 || tensor.data != nullptr) return Status();
  return Error(name, ": tensor ", NameOf(tensor), " of shape ", shape, " has no memory");
}

void MakeDynamic(abi::Tensor* tensor) {
  if (tensor->allocation_type == abi::kDynamic) return;
  tensor->allocation_type = abi::kDynamic;
  tensor->data = nullptr;
}

}  // namespace

Status Partition::Init(abi::Context* context, const abi::DelegateParams& params) {
  if (const char* const problem = IsaProblem(); problem != nullptr) return Error(problem);
  outputs_.insert(params.output_tensors->begin(), params.output_tensors->end());
  for (const int index : *params.nodes_to_replace) {
    abi::Node* node;
    abi::Registration* registration;
    if (context->GetNodeAndRegistration(context, index, &node, &registration) != abi::kOk) {
      return Error("there is no node ", index);
    }
    Step step = {};
    step.name = registration->custom_name;
    Options options;
    Status status = ReadOptions(node->custom_options,
                                static_cast<size_t>(node->custom_options_size), &options);
    if (!status.ok()) return Error(step.name, ": ", status.message());
    if (auto s = MakeLiteOp(step.name, options, &step.op); !s.ok()) return s;
    step.inputs.assign(node->inputs->begin(), node->inputs->end());
    const auto count = static_cast<int64_t>(context->tensors_size);
    for (const int input : step.inputs) {
      if (input < 0 || input >= count) return Error(step.name, ": an input is missing");
    }
    if (node->outputs->size != 1) return Error(step.name, ": there must be one output");
    step.output = *node->outputs->begin();
    if (step.output < 0 || step.output >= count) return Error(step.name, ": the output is missing");
    step.wide_inputs = std::vector<Memory>(step.inputs.size());
    steps_.push_back(std::move(step));
  }
  return Status();
}

Status Partition::Prepare(abi::Context* context) {
  std::set<int> known;  // tensors inside the partition whose shapes are known
  for (Step& step : steps_) {
    abi::Tensor& output = context->tensors[step.output];
    if (auto s = CheckKind(step.name, output); !s.ok()) return s;
    step.deferred = false;
    for (const int input : step.inputs) {
      const abi::Tensor& tensor = context->tensors[input];
      if (auto s = CheckKind(step.name, tensor); !s.ok()) return s;
      step.deferred =
          step.deferred || (tensor.allocation_type == abi::kDynamic && known.count(input) == 0);
    }
    // The interpreter has no memory for a tensor that only we see, unless it is dynamic.
    if (step.deferred || outputs_.count(step.output) == 0) MakeDynamic(&output);
    if (step.deferred) continue;
    if (auto s = Resize(context, &step); !s.ok()) return s;
    known.insert(step.output);
  }
  return Status();
}

Status Partition::Invoke(abi::Context* context, int64_t threads) {
  executor_.set_threads(threads);
  for (Step& step : steps_) {
    if (step.deferred) {
      if (auto s = Resize(context, &step); !s.ok()) return s;
    }
    if (auto s = Run(context, &step); !s.ok()) return s;
  }
  return Status();
}

Status Partition::Resize(abi::Context* context, Step* step) {
  step->input_shapes.clear();
  for (const int input : step->inputs) {
    const abi::IntArray& dims = *context->tensors[input].dims;
    step->input_shapes.emplace_back(dims.begin(), dims.end());
  }
  Shape& shape = step->output_shape;
  if (auto s = step->op->Infer(step->input_shapes, &shape); !s.ok()) return s;
  // The interpreter takes the array over.
  auto* sizes = static_cast<int*>(std::malloc((shape.size() + 1) * sizeof(int)));
  if (sizes == nullptr) return Error(step->name, ": out of memory");
  sizes[0] = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] > std::numeric_limits<int>::max()) {
      std::free(sizes);
      return Error(step->name, ": the output is too large: ", shape);
    }
    sizes[i + 1] = static_cast<int>(shape[i]);
  }
  const abi::Status status =
      context->ResizeTensor(context, &context->tensors[step->output],
                            reinterpret_cast<abi::IntArray*>(sizes));
  if (status == abi::kOk) return Status();
  return Error(step->name, ": no memory for an output of shape ", shape);
}

Status Partition::Run(abi::Context* context, Step* step) {
  const auto convert = ActiveKernels<ConvertKernels>();
  std::vector<Input> inputs;
  for (size_t i = 0; i < step->inputs.size(); ++i) {
    const abi::Tensor& tensor = context->tensors[step->inputs[i]];
    if (auto s = CheckMemory(step->name, tensor, step->input_shapes[i]); !s.ok()) return s;
    const int64_t count = CountElements(tensor);
    Input input = {static_cast<const float*>(tensor.data), count,
                   tensor.allocation_type == abi::kConstant, tensor.data};
    if (tensor.type == abi::kFloat16) {
      Memory& wide = step->wide_inputs[i];
      if (auto s = wide.Reserve(count * static_cast<int64_t>(sizeof(float))); !s.ok()) return s;
      convert.half_to_float(static_cast<const uint16_t*>(tensor.data),
                            static_cast<float*>(wide.data()), count);
      input.data = static_cast<const float*>(wide.data());
    }
    inputs.push_back(input);
  }
  abi::Tensor& tensor = context->tensors[step->output];
  if (auto s = CheckMemory(step->name, tensor, step->output_shape); !s.ok()) return s;
  Output output = {static_cast<float*>(tensor.data), CountElements(tensor)};
  if (tensor.type == abi::kFloat16) {
    const int64_t bytes = output.size * static_cast<int64_t>(sizeof(float));
    if (auto s = step->wide_output.Reserve(bytes); !s.ok()) return s;
    output.data = static_cast<float*>(step->wide_output.data());
  }
  if (auto s = step->op->Run(&executor_, inputs, output); !s.ok()) return s;
  if (tensor.type == abi::kFloat16) {
    convert.float_to_half(output.data, static_cast<uint16_t*>(tensor.data), output.size);
  }
  return Status();
}

}  // namespace lite
}  // namespace tfconv
