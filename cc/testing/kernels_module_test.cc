// The numeric kernels for Python, without TensorFlow: what their tests import.
//
// Each function runs the passes of one op in the order in which the op runs them, on memory of
// exactly the size that they ask for. What they must not read is filled with NaN, and what
// surrounds the memory is checked, here or by AddressSanitizer.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "aggregation/aggregation_kernel.h"
#include "common/convert_kernel.h"
#include "common/element_types.h"
#include "common/geometry.h"
#include "common/isa.h"
#include "common/pass.h"
#include "deformable/deformable_images.h"
#include "deformable/deformable_kernel.h"
#include "involution/involution_kernel.h"
#include "local_attention/local_attention_kernel.h"
#include "per_example/per_example_kernel.h"
#if TFCONV_CUDA_ON_CPU
#include "aggregation/aggregation_cuda.h"
#include "common/cuda_device.h"
#include "deformable/deformable_cuda.h"
#include "involution/involution_cuda.h"
#include "local_attention/local_attention_cuda.h"
#include "per_example/per_example_cuda.h"
#include "testing/cuda_faults.h"
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tfconv {
#if TFCONV_EMULATED
TFCONV_DECLARE_KERNELS_OF(emulated, PerExampleKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS_OF(emulated, DeformableSampleKernels<Bfloat16>)
TFCONV_DECLARE_KERNELS_OF(emulated, DeformableConvKernels<Bfloat16>)
#endif
namespace {

namespace py = pybind11;
using Shape = std::vector<int64_t>;
// Output size, kernel size, stride, dilation and padding before, for each spatial axis.
using Axes = std::vector<std::array<int64_t, 5>>;

struct Planned {
  std::string pass;
  PassPlan plan;
};

// How the kernels are run.
struct Run {
  Isa isa;
  int64_t slices;  // ranges that the units of a pass are cut into, each with new scratch memory
  bool reversed;   // the last range first
  int threads;     // that the ranges are dealt out to
  int64_t offset;  // elements from the last 64-byte boundary to a tensor
  bool cuda;  // the CUDA kernels, on the CPU; slices shuffle their blocks, threads are not for them
  bool emulated;       // the products of avx512bf16, on any processor with AVX2
  // If there is a list, passes are planned and do not run: results are not written.
  std::shared_ptr<std::vector<Planned>> plans;
};

// Those that the processor has, the narrowest first.
std::vector<Isa> Isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kBase, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa <= ActiveIsa()) isas.push_back(isa);
  }
  return isas;
}

std::vector<std::string> Available(bool bfloat16) {
  std::vector<std::string> names;
  for (const Isa isa : Isas()) names.push_back(NameOf(isa));
#if TFCONV_EMULATED
  if (bfloat16 && ActiveIsa() >= Isa::kAvx2) names.push_back("emulated");
#endif
  (void)bfloat16;
#if TFCONV_CUDA_ON_CPU
  names.push_back("cuda");
#endif
  return names;
}

Run MakeRun(const std::string& isa, int64_t slices, bool reversed, int threads, int64_t offset,
            bool plans) {
  if (slices < 1 || threads < 1 || offset < 0) {
    throw py::value_error("slices and threads must be positive, offset not negative");
  }
  Run run = {Isa::kBase, slices, reversed, threads, offset, isa == "cuda", false, {}};
  if (plans) run.plans = std::make_shared<std::vector<Planned>>();
  for (const Isa value : Isas()) {
    if (isa == NameOf(value)) {
      run.isa = value;
      return run;
    }
  }
#if TFCONV_EMULATED
  if (isa == "emulated") {
    run.isa = Isa::kAvx2;
    run.emulated = true;
    return run;
  }
#endif
#if TFCONV_CUDA_ON_CPU
  if (run.cuda) return run;
#endif
  throw py::value_error("no such instruction set here. Received: " + isa);
}

// The table of a run. Emulated are those with products of bfloat16.
template <typename Table>
Table KernelsOf(const Run& run) {
#if TFCONV_EMULATED
  if constexpr (std::is_same_v<Table, PerExampleKernels<Bfloat16>> ||
                std::is_same_v<Table, DeformableSampleKernels<Bfloat16>> ||
                std::is_same_v<Table, DeformableConvKernels<Bfloat16>>) {
    if (run.emulated) {
      Table table;
      isa_emulated::GetKernels(&table);
      return table;
    }
  }
#endif
  return tfconv::KernelsOf<Table>(run.isa);
}

// Memory between guards.

constexpr int64_t kAlignment = 64;
constexpr unsigned char kGuard = 0xa5;
constexpr unsigned char kUnwritten = 0xff;  // NaN, in every type; not the one that arithmetic makes

#if defined(__SANITIZE_ADDRESS__)
// The allocation ends where the data end: the sanitizer guards what follows.
constexpr int64_t kGuardAfter = 0;
#else
constexpr int64_t kGuardAfter = 256;
#endif

// `bytes` bytes, `shift` beyond a 64-byte boundary.
class Memory {
 public:
  Memory(std::string name, int64_t bytes, int64_t shift)
      : name_(std::move(name)), bytes_(bytes), before_(kAlignment + shift) {
    void* block = nullptr;
    if (posix_memalign(&block, kAlignment, static_cast<size_t>(before_ + bytes + kGuardAfter))) {
      throw std::bad_alloc();
    }
    block_ = static_cast<unsigned char*>(block);
    std::fill_n(block_, before_, kGuard);
    std::fill_n(data(), bytes, kUnwritten);
    std::fill_n(data() + bytes, kGuardAfter, kGuard);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(block_, static_cast<size_t>(before_));
#endif
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    Unpoison();
    std::free(block_);
  }

  unsigned char* data() { return block_ + before_; }
  const std::string& name() const { return name_; }

  // Call once at the end.
  void Check() {
    Unpoison();
    const auto intact = [](unsigned char byte) { return byte == kGuard; };
    if (!std::all_of(block_, block_ + before_, intact)) {
      throw std::runtime_error(name_ + ": written before its beginning");
    }
    if (!std::all_of(data() + bytes_, data() + bytes_ + kGuardAfter, intact)) {
      throw std::runtime_error(name_ + ": written beyond its end");
    }
  }

 private:
  void Unpoison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(block_, static_cast<size_t>(before_));
#endif
  }

  std::string name_;
  int64_t bytes_;
  int64_t before_;
  unsigned char* block_ = nullptr;
};

int64_t Product(const Shape& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

std::string ToString(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ",") + std::to_string(size);
  return "[" + text + "]";
}

Shape ShapeOf(const py::array& array) {
  return Shape(array.shape(), array.shape() + array.ndim());
}

template <typename T>
py::dtype DtypeOf() {
  if constexpr (std::is_same_v<T, Half>) {
    return py::dtype("float16");
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    return py::dtype::of<uint16_t>();  // NumPy has no bfloat16, but its bits
  } else {
    return py::dtype::of<T>();
  }
}

// A tensor that kernels read.
template <typename T>
class Input {
 public:
  Input(const char* name, const py::array& array, const Shape& shape, const Run& run)
      : array_(array),
        bytes_(Product(shape) * static_cast<int64_t>(sizeof(T))),
        memory_(name, bytes_, run.offset * static_cast<int64_t>(sizeof(T))) {
    if (!array.dtype().equal(DtypeOf<T>()) || !(array.flags() & py::array::c_style)) {
      throw py::value_error(std::string(name) +
                            " must be contiguous and of the type of the others");
    }
    if (ShapeOf(array) != shape) {
      throw py::value_error(std::string(name) + " must have the shape " + ToString(shape) +
                            ". Received: " + ToString(ShapeOf(array)));
    }
    if (bytes_ > 0) std::memcpy(memory_.data(), array_.data(), static_cast<size_t>(bytes_));
  }

  const T* data() { return reinterpret_cast<const T*>(memory_.data()); }

  void Check() {
    memory_.Check();
    if (bytes_ > 0 &&
        std::memcmp(memory_.data(), array_.data(), static_cast<size_t>(bytes_)) != 0) {
      throw std::runtime_error(memory_.name() + ": an input was written");
    }
  }

 private:
  py::array array_;
  int64_t bytes_;
  Memory memory_;
};

// A tensor that kernels write.
template <typename T>
class Output {
 public:
  Output(const char* name, const Shape& shape, const Run& run)
      : shape_(shape),
        size_(Product(shape)),
        planned_(run.plans != nullptr),
        memory_(name, size_ * static_cast<int64_t>(sizeof(T)),
                run.offset * static_cast<int64_t>(sizeof(T))) {}

  T* data() { return reinterpret_cast<T*>(memory_.data()); }
  int64_t size() const { return size_; }
  void Clear() { std::fill_n(data(), size_, T{}); }
  void CheckGuards() { memory_.Check(); }

  // Call once all is computed.
  void CheckWritten() {
    memory_.Check();
    if (planned_) return;
    T unwritten;
    std::memset(&unwritten, kUnwritten, sizeof(T));
    for (int64_t i = 0; i < size_; ++i) {
      if (std::memcmp(data() + i, &unwritten, sizeof(T)) == 0) {
        throw std::runtime_error(memory_.name() + ": element " + std::to_string(i) + " of " +
                                 std::to_string(size_) +
                                 " was not written, or comes from memory that was not");
      }
    }
  }

  py::array Take() {
    CheckWritten();
    py::array result(DtypeOf<T>(), shape_);
    std::copy_n(data(), size_, static_cast<T*>(result.mutable_data()));
    return result;
  }

 private:
  Shape shape_;
  int64_t size_;
  bool planned_;
  Memory memory_;
};

// Running passes.

// Calls work(slice) for all slices, as `run` says.
void ForEachSlice(int64_t slices, const Run& run, const std::function<void(int64_t)>& work) {
  const auto of_thread = [&](int thread) {
    for (int64_t i = thread; i < slices; i += run.threads) work(run.reversed ? slices - 1 - i : i);
  };
  if (run.threads == 1) return of_thread(0);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(run.threads));
  std::vector<std::thread> threads;
  for (int t = 0; t < run.threads; ++t) {
    threads.emplace_back([&, t] {
      try {
        of_thread(t);
      } catch (...) {
        errors[static_cast<size_t>(t)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

template <typename Args>
void RunPass(const char* name, const Args& args, const Pass<Args>& pass, const Run& run) {
  py::gil_scoped_release release;
  const PassPlan plan = pass.plan(args);
  if (run.plans) return run.plans->push_back({name, plan});
  if (plan.units <= 0) return;
  if (plan.cycles_per_unit < 0 || plan.scratch_bytes < 0) {
    throw std::runtime_error("a plan with negative numbers");
  }
  const int64_t slices = std::min(run.slices, plan.units);
  ForEachSlice(slices, run, [&](int64_t slice) {
    Memory scratch("scratch memory", plan.scratch_bytes, 0);
    pass.run(args, plan.units * slice / slices, plan.units * (slice + 1) / slices, scratch.data());
    scratch.Check();
  });
}

// Calls function(T()) for the type of an array.
template <typename Function>
py::object ByType(const py::array& array, const Function& function) {
  if (array.dtype().equal(DtypeOf<float>())) return function(float());
  if (array.dtype().equal(DtypeOf<double>())) return function(double());
  if (array.dtype().equal(DtypeOf<Half>())) return function(Half());
  if (array.dtype().equal(DtypeOf<Bfloat16>())) return function(Bfloat16());
  throw py::value_error("tensors must be float32, float64, float16 or uint16, for bfloat16");
}

// Examples at a time: all tests of more than one have a last slice, often a smaller one.
int64_t ExamplesAtATime(int64_t batch) { return std::max<int64_t>(1, (batch + 1) / 2); }

#if TFCONV_CUDA_ON_CPU
// Calls launch(workspace) with as many bytes.
template <typename Launch>
void RunCuda(const Run& run, int64_t workspace_bytes, const Launch& launch) {
  py::gil_scoped_release release;
  Memory workspace("workspace", workspace_bytes, 0);
  cuda_on_cpu::Gpu::Get().seed =
      static_cast<unsigned>(run.slices - 1) + (run.reversed ? 1u << 31 : 0);
  if (const int error = launch(workspace.data())) {
    throw std::runtime_error("CUDA error " + std::to_string(error));
  }
  workspace.Check();
}

// As cuBLAS does, in loops.
template <typename T>
int Multiply(const MatrixProduct<T>& product) {
  if (product.rows <= 0 || product.columns <= 0 || product.depth <= 0 || product.examples <= 0 ||
      product.groups <= 0 || (product.examples > 1 && product.groups > 1)) {
    throw std::runtime_error("a product that cuBLAS does not take");
  }
  const auto at = [](const auto& matrices, int64_t row, int64_t column) -> auto& {
    return matrices.data[matrices.transposed ? column * matrices.row_stride + row
                                             : row * matrices.row_stride + column];
  };
  for (int64_t i = 0; i < product.examples * product.groups; ++i) {
    MatrixProduct<T> own = product;
    const auto advance = [&](auto* m) {
      m->data += i * (product.groups > 1 ? m->group_stride : m->example_stride);
    };
    advance(&own.a);
    advance(&own.b);
    advance(&own.c);
    std::vector<Accumulator<T>> b(own.depth * own.columns);
    for (int64_t d = 0; d < own.depth; ++d) {
      for (int64_t column = 0; column < own.columns; ++column) {
        b[d * own.columns + column] = cuda::Widen(at(own.b, d, column));
      }
    }
    for (int64_t row = 0; row < own.rows; ++row) {
      std::vector<Accumulator<T>> sums(own.columns);
      for (int64_t d = 0; d < own.depth; ++d) {
        const Accumulator<T> a = cuda::Widen(at(own.a, row, d));
        for (int64_t column = 0; column < own.columns; ++column) {
          sums[column] += a * b[d * own.columns + column];
        }
      }
      for (int64_t column = 0; column < own.columns; ++column) {
        at(own.c, row, column) = cuda::Narrow<T>(sums[column]);
      }
    }
  }
  return 0;
}
#endif

// Sizes of an operation, with the shapes that follow from them.
struct Sizes {
  Sizes(const py::array& x_array, const Axes& axes, size_t min_rank, size_t max_rank)
      : x(ShapeOf(x_array)) {
    const size_t rank = axes.size();
    if (rank < min_rank || rank > max_rank || x.size() != rank + 2) {
      throw py::value_error("x must have one dimension for each axis and two more. Received: " +
                            ToString(x));
    }
    geometry.batch = x.front();
    geometry.channels = x.back();
    for (ConvAxis& axis : geometry.axis) axis = {1, 1, 1, 1, 1, 0};
    for (size_t i = 0; i < rank; ++i) {
      const auto [output, kernel, stride, dilation, pad] = axes[i];
      for (const int64_t value : {output, kernel - 1, stride - 1, dilation - 1, pad}) {
        if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
          throw py::value_error("axes out of range");
        }
      }
      geometry.axis[kMaxSpatialAxes - rank + i] = {x[i + 1], output, kernel, stride, dilation, pad};
      outputs.push_back(output);
      kernels.push_back(kernel);
    }
    taps = Product(kernels);
    if (taps > std::numeric_limits<int32_t>::max()) throw py::value_error("too many taps");
  }

  // [N, *output, ...].
  Shape Outputs(std::initializer_list<int64_t> last) const {
    Shape shape = {geometry.batch};
    shape.insert(shape.end(), outputs.begin(), outputs.end());
    shape.insert(shape.end(), last);
    return shape;
  }

  ConvGeometry geometry = {};
  int64_t taps = 1;
  Shape x;
  Shape outputs;
  Shape kernels;
};

// The last dimension, in units of `unit` elements.
int64_t CountLast(const char* name, const py::array& array, int64_t unit) {
  const Shape shape = ShapeOf(array);
  if (shape.empty() || shape.back() <= 0 || shape.back() % unit != 0) {
    throw py::value_error(std::string("the last dimension of ") + name + " must be a multiple of " +
                          std::to_string(unit) + ". Received: " + ToString(shape));
  }
  return shape.back() / unit;
}

void CheckDivides(const char* what, int64_t groups, int64_t size) {
  if (groups < 1 || size % groups != 0) {
    throw py::value_error(std::to_string(groups) + " " + what + " do not divide " +
                          std::to_string(size));
  }
}

// Involution.

template <typename T>
InvolutionArgs<T> MakeInvolutionArgs(const Sizes& sizes, const py::array& kernel) {
  InvolutionArgs<T> args = {};
  args.geometry = sizes.geometry;
  args.groups = CountLast("kernel", kernel, sizes.taps);
  CheckDivides("groups", args.groups, sizes.geometry.channels);
  return args;
}

py::object Involution(const Run& run, const py::array& x, const py::array& kernel,
                      const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    const Sizes sizes(x, axes, 1, 3);
    InvolutionArgs<T> args = MakeInvolutionArgs<T>(sizes, kernel);
    Input<T> in("x", x, sizes.x, run);
    Input<T> weights("kernel", kernel, sizes.Outputs({args.groups * sizes.taps}), run);
    Output<T> y("y", sizes.Outputs({sizes.geometry.channels}), run);
    args.x = in.data();
    args.kernel = weights.data();
    args.y = y.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunCuda(run, 0, [&](void*) { return LaunchInvolution<T>(nullptr, args); });
#endif
    } else {
      RunPass("forward", args, KernelsOf<InvolutionKernels<T>>(run).forward, run);
    }
    in.Check();
    weights.Check();
    return y.Take();
  });
}

py::object InvolutionGradients(const Run& run, const py::array& x, const py::array& kernel,
                               const py::array& dy, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    const Sizes sizes(x, axes, 1, 3);
    InvolutionArgs<T> args = MakeInvolutionArgs<T>(sizes, kernel);
    const Shape kernel_shape = sizes.Outputs({args.groups * sizes.taps});
    Input<T> in("x", x, sizes.x, run);
    Input<T> weights("kernel", kernel, kernel_shape, run);
    Input<T> upstream("dy", dy, sizes.Outputs({sizes.geometry.channels}), run);
    Output<T> dx("dx", sizes.x, run);
    Output<T> dkernel("dkernel", kernel_shape, run);
    args.x = in.data();
    args.kernel = weights.data();
    args.dy = upstream.data();
    args.dx = dx.data();
    args.dkernel = dkernel.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunCuda(run, 0, [&](void*) { return LaunchInvolutionBackwardInput<T>(nullptr, args); });
      RunCuda(run, 0, [&](void*) { return LaunchInvolutionBackwardKernel<T>(nullptr, args); });
#endif
    } else {
      const auto kernels = KernelsOf<InvolutionKernels<T>>(run);
      RunPass("backward_input", args, kernels.backward_input, run);
      RunPass("backward_kernel", args, kernels.backward_kernel, run);
    }
    in.Check();
    weights.Check();
    upstream.Check();
    return py::make_tuple(dx.Take(), dkernel.Take());
  });
}

// Involution with kernels that are made from features. It has no CUDA kernels: for "cuda", those of
// the CPU run.
template <typename T>
struct SpanInvolution {
  SpanInvolution(const Run& run, const py::array& x, const py::array& features,
                 const py::array& span, const py::array& bias, const Axes& axes)
      : run(run), sizes(x, axes, 1, 3), kernels(KernelsOf<InvolutionKernels<T>>(run)) {
    args.geometry = sizes.geometry;
    args.groups = CountLast("bias", bias, sizes.taps);
    CheckDivides("groups", args.groups, sizes.geometry.channels);
    args.num_features = ShapeOf(features).back();
    const int64_t columns = args.groups * sizes.taps;
    in = std::make_unique<Input<T>>("x", x, sizes.x, run);
    from = std::make_unique<Input<T>>("features", features, sizes.Outputs({args.num_features}),
                                      run);
    weights = std::make_unique<Input<T>>("span", span, Shape{args.num_features, columns}, run);
    added = std::make_unique<Input<T>>("bias", bias, Shape{columns}, run);
    args.x = in->data();
    args.features = from->data();
    args.span = weights->data();
    args.bias = added->data();
  }

  std::unique_ptr<Output<Accumulator<T>>> Temporary(const char* name, int64_t size,
                                                    Accumulator<T>** data) {
    auto memory = std::make_unique<Output<Accumulator<T>>>(name, Shape{size}, Run{});
    *data = memory->data();
    return memory;
  }

  // A pass that reads what another has packed.
  void RunPacked(const Pass<InvolutionArgs<T>>& pack, int64_t size, const char* name,
                 const Pass<InvolutionArgs<T>>& pass) {
    const auto packed = Temporary("packed_span", size, &args.packed_span);
    RunPass("pack_span", args, pack, run);
    RunPass(name, args, pass, run);
    packed->CheckGuards();
    for (Input<T>* input : {in.get(), from.get(), weights.get(), added.get()}) input->Check();
  }

  Run run;
  Sizes sizes;
  InvolutionKernels<T> kernels;
  std::unique_ptr<Input<T>> in, from, weights, added;
  InvolutionArgs<T> args = {};
};

py::object SpanInvolutionForward(const Run& run, const py::array& x, const py::array& features,
                                 const py::array& span, const py::array& bias, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    SpanInvolution<T> op(run, x, features, span, bias, axes);
    Output<T> y("y", op.sizes.Outputs({op.sizes.geometry.channels}), run);
    op.args.y = y.data();
    op.RunPacked(op.kernels.pack_span, op.kernels.span_sizes(op.args).packed_span, "forward",
                 op.kernels.forward);
    return y.Take();
  });
}

py::object SpanInvolutionGradients(const Run& run, const py::array& x, const py::array& features,
                                   const py::array& span, const py::array& bias,
                                   const py::array& dy, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    SpanInvolution<T> op(run, x, features, span, bias, axes);
    Input<T> upstream("dy", dy, op.sizes.Outputs({op.sizes.geometry.channels}), run);
    op.args.dy = upstream.data();
    Output<T> dx("dx", op.sizes.x, run);
    op.args.dx = dx.data();
    op.RunPacked(op.kernels.pack_span, op.kernels.span_sizes(op.args).packed_span,
                 "backward_input", op.kernels.backward_input);
    op.args.dx = nullptr;
    Output<T> dfeatures("dfeatures", ShapeOf(features), run);
    Output<T> dspan("dspan", ShapeOf(span), run);
    Output<T> dbias("dbias", ShapeOf(bias), run);
    op.args.dfeatures = dfeatures.data();
    op.args.dspan = dspan.data();
    op.args.dbias = dbias.data();
    const SpanSizes temporary = op.kernels.span_sizes(op.args);
    const auto spans =
        op.Temporary("partial_dspan", temporary.partial_dspan, &op.args.partial_dspan);
    const auto parts =
        op.Temporary("partial_dfeatures", temporary.partial_dfeatures, &op.args.partial_dfeatures);
    op.RunPacked(op.kernels.pack_span_transposed, temporary.packed_span_transposed,
                 "backward_span", op.kernels.backward_span);
    RunPass("sum_dspan", op.args, op.kernels.sum_dspan, run);
    RunPass("sum_dfeatures", op.args, op.kernels.sum_dfeatures, run);
    spans->CheckGuards();
    parts->CheckGuards();
    upstream.Check();
    return py::make_tuple(dx.Take(), dfeatures.Take(), dspan.Take(), dbias.Take());
  });
}

// Local attention.

// Output size, kernel size, stride, dilation, whether windows are shifted, and causal.
using AttentionAxes = std::vector<std::array<int64_t, 6>>;

template <typename T>
struct LocalAttention {
  LocalAttention(const Run& run, const py::array& query, const py::array& key, const py::array& x,
                 const std::optional<py::array>& bias, int64_t heads, double scale,
                 const AttentionAxes& axes)
      : run(run), kernels(KernelsOf<LocalAttentionKernels<T>>(run)) {
    AttentionGeometry& g = args.geometry;
    const Shape keys = ShapeOf(key);
    if (axes.empty() || axes.size() > 3 || keys.size() != axes.size() + 2) {
      throw py::value_error("key must have a dimension for each axis and two more");
    }
    CheckDivides("heads", heads, keys.back());
    CheckDivides("heads", heads, ShapeOf(x).back());
    g = {keys[0], heads, keys.back() / heads, ShapeOf(x).back() / heads, kNoBias, scale, {}};
    for (AttentionAxis& axis : g.axis) axis = {1, 1, 1, 1, 1, 0, 0};
    outputs = {g.batch};
    int64_t taps = 1;
    for (size_t i = 0; i < axes.size(); ++i) {
      const auto [output, kernel, stride, dilation, shifted, causal] = axes[i];
      if (output < 0 || kernel < 1 || stride < 1 || dilation < 1 ||
          (shifted && !causal && keys[i + 1] > 0 && keys[i + 1] / dilation < kernel)) {
        throw py::value_error("axes out of range");
      }
      g.axis[kMaxSpatialAxes - axes.size() + i] = {keys[i + 1], output,  kernel, stride,
                                                   dilation,    shifted, causal};
      outputs.push_back(output);
      taps *= kernel;
    }
    Shape values = keys;
    values.back() = heads * g.depth;
    in.push_back(std::make_unique<Input<T>>("query", query, Outputs(heads * g.width), run));
    in.push_back(std::make_unique<Input<T>>("key", key, keys, run));
    in.push_back(std::make_unique<Input<T>>("x", x, values, run));
    args.query = in[0]->data();
    args.key = in[1]->data();
    args.value = in[2]->data();
    if (bias) {
      g.bias = bias->ndim() == 2 ? kBiasByTap : kBiasByPosition;
      const Shape shape = g.bias == kBiasByTap ? Shape{heads, taps} : Outputs(heads * taps);
      in.push_back(std::make_unique<Input<T>>("bias", *bias, shape, run));
      args.bias = in[3]->data();
    }
  }

  Shape Outputs(int64_t last) const {
    Shape shape = outputs;
    shape.push_back(last);
    return shape;
  }

  void Check() {
    for (const auto& input : in) input->Check();
  }

  Run run;
  LocalAttentionKernels<T> kernels;
  Shape outputs;
  std::vector<std::unique_ptr<Input<T>>> in;
  LocalAttentionArgs<T> args = {};
};

py::object LocalAttentionForward(const Run& run, const py::array& query, const py::array& key,
                                 const py::array& x, const std::optional<py::array>& bias,
                                 int64_t heads, double scale, const AttentionAxes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    LocalAttention<T> op(run, query, key, x, bias, heads, scale, axes);
    Output<T> y("y", op.Outputs(heads * op.args.geometry.depth), run);
    op.args.y = y.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunCuda(run, 0, [&](void*) { return LaunchLocalAttention<T>(nullptr, op.args); });
#endif
    } else {
      RunPass("forward", op.args, op.kernels.forward, run);
    }
    op.Check();
    return y.Take();
  });
}

py::object LocalAttentionGradients(const Run& run, const py::array& query, const py::array& key,
                                   const py::array& x, const std::optional<py::array>& bias,
                                   const py::array& dy, int64_t heads, double scale,
                                   const AttentionAxes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    LocalAttention<T> op(run, query, key, x, bias, heads, scale, axes);
    Input<T> upstream("dy", dy, op.Outputs(heads * op.args.geometry.depth), run);
    Output<T> dquery("dquery", ShapeOf(query), run), dkey("dkey", ShapeOf(key), run);
    Output<T> dx("dx", ShapeOf(x), run), dbias("dbias", bias ? ShapeOf(*bias) : Shape{0}, run);
    op.args.dy = upstream.data();
    op.args.dquery = dquery.data();
    op.args.dkey = dkey.data();
    op.args.dvalue = dx.data();
    op.args.dbias = dbias.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      const int64_t examples = ExamplesAtATime(op.args.geometry.batch);
      RunCuda(run, LocalAttentionWorkspace<T>(op.args, examples), [&](void* workspace) {
        return LaunchLocalAttentionBackward<T>(nullptr, op.args, examples, workspace);
      });
#endif
    } else {
      Output<Accumulator<T>> statistics("statistics", {2 * heads * Product(op.outputs)}, Run{});
      Output<Accumulator<T>> partial("partial_dbias", {op.kernels.partial_dbias_size(op.args)},
                                     Run{});
      op.args.statistics = statistics.data();
      op.args.partial_dbias = partial.data();
      RunPass("backward_query", op.args, op.kernels.backward_query, run);
      RunPass("sum_dbias", op.args, op.kernels.sum_dbias, run);
      RunPass("backward_key", op.args, op.kernels.backward_key, run);
      statistics.CheckGuards();
      partial.CheckGuards();
    }
    op.Check();
    upstream.Check();
    py::object own_bias = py::none();
    if (bias) own_bias = dbias.Take();
    return py::make_tuple(dquery.Take(), dkey.Take(), dx.Take(), own_bias);
  });
}

// Deformable aggregation.
template <typename T>
struct Aggregation {
  Aggregation(const Run& run_, const py::array& x, const py::array& offset,
              const py::array& weights, const Axes& axes)
      : run(run_),
        sizes(x, axes, 1, 3),
        kernels(KernelsOf<AggregationKernels<T>>(run)),
        rank(static_cast<int64_t>(axes.size())),
        groups(CountLast("weights", weights, sizes.taps)),
        offset_shape(sizes.Outputs({groups * sizes.taps * rank})),
        weights_shape(sizes.Outputs({groups * sizes.taps})),
        in("x", x, sizes.x, run),
        offsets("offset", offset, offset_shape, run),
        factors("weights", weights, weights_shape, run) {
    CheckDivides("groups", groups, sizes.geometry.channels);
    args.geometry = sizes.geometry;
    args.rank = rank;
    args.groups = groups;
    args.x = in.data();
    args.offset = offsets.data();
    args.weights = factors.data();
  }

  void CheckInputs() {
    for (Input<T>* input : {&in, &offsets, &factors}) input->Check();
  }

  Run run;
  Sizes sizes;
  AggregationKernels<T> kernels;
  int64_t rank;
  int64_t groups;
  Shape offset_shape;
  Shape weights_shape;
  Input<T> in, offsets, factors;
  AggregationArgs<T> args = {};
};

py::object AggregationForward(const Run& run, const py::array& x, const py::array& offset,
                              const py::array& weights, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    Aggregation<T> op(run, x, offset, weights, axes);
    Output<T> y("y", op.sizes.Outputs({op.sizes.geometry.channels}), run);
    op.args.y = y.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunCuda(run, 0, [&](void*) { return LaunchAggregation<T>(nullptr, op.args); });
#endif
    } else {
      RunPass("forward", op.args, op.kernels.forward, run);
    }
    op.CheckInputs();
    return y.Take();
  });
}

py::object AggregationGradients(const Run& run, const py::array& x, const py::array& offset,
                                const py::array& weights, const py::array& dy, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    Aggregation<T> op(run, x, offset, weights, axes);
    Input<T> upstream("dy", dy, op.sizes.Outputs({op.sizes.geometry.channels}), run);
    Output<T> dx("dx", op.sizes.x, run);
    Output<T> doffset("doffset", op.offset_shape, run);
    Output<T> dweights("dweights", op.weights_shape, run);
    op.args.dy = upstream.data();
    op.args.dx = dx.data();
    op.args.doffset = doffset.data();
    op.args.dweights = dweights.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      const int64_t images = ExamplesAtATime(op.args.geometry.batch);
      RunCuda(run, AggregationWorkspace<T>(op.args, images), [&](void* workspace) {
        return LaunchAggregationBackward<T>(nullptr, op.args, images, workspace);
      });
#endif
    } else if (doffset.size() == 0 || op.sizes.geometry.channels == 0) {
      for (Output<T>* output : {&dx, &doffset, &dweights}) output->Clear();
    } else {
      Run aligned = run;
      aligned.offset *= static_cast<int64_t>(sizeof(Accumulator<T>));
      Output<uint8_t> parts("dx_parts", Shape{op.kernels.dx_parts_bytes(op.args)}, aligned);
      op.args.dx_parts = parts.data();
      RunPass("backward_input", op.args, op.kernels.backward_input, run);
      RunPass("sum_dx", op.args, op.kernels.sum_dx, run);
      parts.CheckGuards();
      RunPass("backward_sampling", op.args, op.kernels.backward_sampling, run);
    }
    op.CheckInputs();
    upstream.Check();
    return py::make_tuple(dx.Take(), doffset.Take(), dweights.Take());
  });
}

// Deformable sampling and convolution.

template <typename T>
struct Deformable {
  using Args = DeformableArgs<T>;
  using Number = Accumulator<T>;

  Deformable(const Run& run_, const py::array& x, const py::array& offset,
             const std::optional<py::array>& mask_, const Axes& axes)
      : run(run_),
        sizes(x, axes, 1, 3),
        rank(static_cast<int>(axes.size())),
        offset_groups(CountLast("offset", offset, rank * sizes.taps)),
        offset_shape(sizes.Outputs({offset_groups * sizes.taps * rank})),
        mask_shape(sizes.Outputs({offset_groups * sizes.taps})),
        columns_shape(sizes.Outputs({sizes.taps, sizes.geometry.channels})),
        in(new Input<T>("x", x, sizes.x, run)),
        offsets(new Input<T>("offset", offset, offset_shape, run)) {
    CheckDivides("offset groups", offset_groups, sizes.geometry.channels);
    if (mask_) mask.reset(new Input<T>("mask", *mask_, mask_shape, run));
    args.geometry = sizes.geometry;
    args.rank = rank;
    args.offset_groups = offset_groups;
    args.groups = run.cuda ? 1 : -1;
    args.filters = -1;
    args.x = in->data();
    args.offset = offsets->data();
    args.mask = mask ? mask->data() : nullptr;
  }

  void SetFilter(const py::array& filter_) {
    filter_shape = ShapeOf(filter_);
    const int64_t channels = sizes.geometry.channels;
    if (filter_shape.size() != static_cast<size_t>(rank) + 2) {
      throw py::value_error("filter has another rank");
    }
    const int64_t width = filter_shape[filter_shape.size() - 2];
    args.filters = filter_shape.back();
    args.groups = channels == 0 && width == 0 ? 1 : channels / std::max<int64_t>(width, 1);
    filter_shape.assign(sizes.kernels.begin(), sizes.kernels.end());
    filter_shape.insert(filter_shape.end(), {width, args.filters});
    if (args.groups * width != channels) throw py::value_error("filter has other channels");
    CheckDivides("groups", args.groups, args.filters);
    filter.reset(new Input<T>("filter", filter_, filter_shape, run));
    args.filter = filter->data();
  }

  // Memory of so many numbers or, where the type is not said, bytes.
  template <typename Data>
  auto Temporary(const char* name, int64_t size, Data** data) const {
    using Element = std::conditional_t<std::is_void_v<Data>, uint8_t, Data>;
    Run aligned = run;  // bytes as numbers, which they hold
    if (std::is_void_v<Data>) aligned.offset *= static_cast<int64_t>(sizeof(Number));
    auto result = std::make_unique<Output<Element>>(name, Shape{size}, aligned);
    *data = result->data();
    return result;
  }

  void CheckInputs() {
    for (auto* input : {in.get(), offsets.get(), mask.get(), filter.get()}) {
      if (input != nullptr) input->Check();
    }
  }

  // All gradients; that for the filter only if there is one.
  py::tuple Gradients() {
    Output<T> dx("dx", sizes.x, run);
    Output<T> doffset("doffset", offset_shape, run);
    Output<T> dmask("dmask", mask ? mask_shape : Shape{0}, run);
    Output<T> dfilter("dfilter", filter ? filter_shape : Shape{0}, run);
    args.dx = dx.data();
    args.doffset = doffset.data();
    args.dmask = mask ? dmask.data() : nullptr;
    args.dfilter = filter ? dfilter.data() : nullptr;
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      const int64_t images = ExamplesAtATime(args.geometry.batch);
      RunCuda(run, DeformableWorkspace<T>(args, images), [&](void* workspace) {
        return LaunchDeformableBackward<T>(nullptr, args, Multiply<T>, images, workspace);
      });
#endif
    } else if (doffset.size() == 0 || sizes.geometry.channels == 0 ||
               (filter && args.filters == 0)) {
      for (Output<T>* output : {&dx, &doffset, &dmask, &dfilter}) output->Clear();
    } else {
      SamplingGradients();
      if (filter) FilterGradient();
    }
    CheckInputs();
    return py::make_tuple(dx.Take(), doffset.Take(),
                          mask ? py::object(dmask.Take()) : py::object(py::none()),
                          filter ? py::object(dfilter.Take()) : py::object(py::none()));
  }

  void SamplingGradients() {
    const auto sampling = KernelsOf<DeformableSampleKernels<T>>(run);
    const int64_t batch = args.geometry.batch;
    const int64_t images = run.plans ? batch : ExamplesAtATime(batch);
    args.whole_batch = batch;
    const DeformableArgs<T> most = ImagesOf(args, 0, images);
    const auto partial = Temporary("partial", sampling.partial_size(most), &args.partial);
    const auto dx_parts = Temporary("dx_parts", sampling.dx_parts_bytes(most), &args.dx_parts);
    const auto kernels = KernelsOf<DeformableConvKernels<T>>(run);
    const auto packed = Temporary(
        "packed_filter", filter ? kernels.packed_filter_transposed_bytes(args) : 0,
        &args.packed_filter);
    if (filter) RunPass("pack_filter_transposed", args, kernels.pack_filter_transposed, run);
    for (int64_t first = 0; first < batch; first += images) {
      const auto some = ImagesOf(args, first, std::min(images, batch - first));
      if (filter) {
        RunPass("backward_input", some, kernels.backward_input, run);
      } else {
        RunPass("backward", some, sampling.backward, run);
      }
      RunPass("sum_dx", some, sampling.sum_dx, run);
      RunPass("sum_partial", some, sampling.sum_partial, run);
    }
    packed->CheckGuards();
    dx_parts->CheckGuards();
    partial->CheckGuards();
  }

  void FilterGradient() {
    const auto kernels = KernelsOf<DeformableConvKernels<T>>(run);
    const auto packed = Temporary("packed_dy", kernels.packed_dy_bytes(args), &args.packed_dy);
    const auto partial = Temporary("partial_filter", kernels.partial_filter_size(args),
                                   &args.partial_filter);
    RunPass("pack_dy", args, kernels.pack_dy, run);
    RunPass("backward_filter", args, kernels.backward_filter, run);
    RunPass("sum_filter", args, kernels.sum_filter, run);
    packed->CheckGuards();
    partial->CheckGuards();
  }

  Run run;
  Sizes sizes;
  int rank;
  int64_t offset_groups;
  Shape offset_shape;
  Shape mask_shape;
  Shape columns_shape;
  Shape filter_shape;
  std::unique_ptr<Input<T>> in;
  std::unique_ptr<Input<T>> offsets;
  std::unique_ptr<Input<T>> mask;
  std::unique_ptr<Input<T>> filter;
  Args args = {};
};

py::object DeformableSample(const Run& run, const py::array& x, const py::array& offset,
                            const std::optional<py::array>& mask, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    Deformable<T> op(run, x, offset, mask, axes);
    Output<T> columns("columns", op.columns_shape, run);
    op.args.columns = columns.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunCuda(run, 0, [&](void*) { return LaunchDeformableSample<T>(nullptr, op.args); });
#endif
    } else {
      RunPass("sample", op.args, KernelsOf<DeformableSampleKernels<T>>(run).sample, run);
    }
    op.CheckInputs();
    return columns.Take();
  });
}

py::object DeformableSampleGradients(const Run& run, const py::array& x, const py::array& offset,
                                     const std::optional<py::array>& mask,
                                     const py::array& dcolumns, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    Deformable<T> op(run, x, offset, mask, axes);
    Input<T> upstream("dcolumns", dcolumns, op.columns_shape, run);
    op.args.dcolumns = upstream.data();
    py::tuple all = op.Gradients();
    upstream.Check();
    return py::make_tuple(all[0], all[1], all[2]);
  });
}

py::object DeformableConv(const Run& run, const py::array& x, const py::array& offset,
                          const std::optional<py::array>& mask, const py::array& filter,
                          const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    Deformable<T> op(run, x, offset, mask, axes);
    op.SetFilter(filter);
    Output<T> y("y", op.sizes.Outputs({op.args.filters}), run);
    op.args.y = y.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      const int64_t images = ExamplesAtATime(op.args.geometry.batch);
      RunCuda(run, DeformableWorkspace<T>(op.args, images), [&](void* workspace) {
        return LaunchDeformableConv<T>(nullptr, op.args, Multiply<T>, images, workspace);
      });
#endif
    } else if (op.sizes.geometry.channels == 0) {
      y.Clear();
    } else if (y.size() == 0) {
      // Nothing to do, and no memory to do it with.
    } else {
      const auto kernels = KernelsOf<DeformableConvKernels<T>>(run);
      const auto packed = op.Temporary("packed_filter", kernels.packed_filter_bytes(op.args),
                                       &op.args.packed_filter);
      const auto partial =
          op.Temporary("partial", kernels.partial_sums_size(op.args), &op.args.partial);
      RunPass("pack_filter", op.args, kernels.pack_filter, run);
      RunPass("convolve", op.args, kernels.convolve, run);
      RunPass("sum_slices", op.args, kernels.sum_slices, run);
      packed->CheckGuards();
      partial->CheckGuards();
    }
    op.CheckInputs();
    return y.Take();
  });
}

py::object DeformableConvGradients(const Run& run, const py::array& x, const py::array& offset,
                                   const std::optional<py::array>& mask, const py::array& filter,
                                   const py::array& dy, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    Deformable<T> op(run, x, offset, mask, axes);
    op.SetFilter(filter);
    Input<T> upstream("dy", dy, op.sizes.Outputs({op.args.filters}), run);
    op.args.dy = upstream.data();
    py::tuple all = op.Gradients();
    upstream.Check();
    return std::move(all);
  });
}

// Convolution with a filter for each example.

template <typename T>
struct PerExample {
  PerExample(const Run& run, const py::array& x, const py::array& filter, const Axes& axes)
      : sizes(x, axes, 1, 3), filter_shape(ShapeOf(filter)) {
    const size_t rank = axes.size();
    if (filter_shape.size() != rank + 3) throw py::value_error("filter has another rank");
    const int64_t channels = sizes.geometry.channels;
    const int64_t width = filter_shape[rank + 1];
    const int64_t filters = filter_shape[rank + 2];
    Shape expected = {sizes.geometry.batch};
    expected.insert(expected.end(), sizes.kernels.begin(), sizes.kernels.end());
    expected.insert(expected.end(), {width, filters});
    args.geometry = sizes.geometry;
    args.groups = channels == 0 && width == 0 ? 1 : channels / std::max<int64_t>(width, 1);
    args.filters = filters;
    if (args.groups * width != channels) throw py::value_error("filter has other channels");
    CheckDivides("groups", args.groups, filters);
    in = std::make_unique<Input<T>>("x", x, sizes.x, run);
    weights = std::make_unique<Input<T>>("filter", filter, expected, run);
    y_shape = sizes.Outputs({filters});
    empty = Product(sizes.x) == 0 || Product(filter_shape) == 0 || Product(y_shape) == 0;
  }

  Sizes sizes;
  Shape filter_shape;
  Shape y_shape;
  PerExampleArgs<T> args = {};
  std::unique_ptr<Input<T>> in;
  std::unique_ptr<Input<T>> weights;
  bool empty = false;
};

#if TFCONV_CUDA_ON_CPU
template <typename T>
void RunPerExample(const Run& run, const PerExampleArgs<T>& args) {
  const int64_t examples = ExamplesAtATime(args.geometry.batch);
  RunCuda(run, PerExampleWorkspace<T>(args, examples), [&](void* workspace) {
    return LaunchPerExample<T>(nullptr, args, Multiply<T>, examples, workspace);
  });
}
#endif

py::object PerExampleConv(const Run& run, const py::array& x, const py::array& filter,
                          const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    PerExample<T> op(run, x, filter, axes);
    Output<T> y("y", op.y_shape, run);
    op.args.x = op.in->data();
    op.args.filter = op.weights->data();
    op.args.y = y.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunPerExample(run, op.args);
#endif
    } else if (op.empty) {
      y.Clear();
    } else {
      RunPass("convolve", op.args, KernelsOf<PerExampleKernels<T>>(run).convolve, run);
    }
    op.in->Check();
    op.weights->Check();
    return y.Take();
  });
}

py::object PerExampleGradients(const Run& run, const py::array& x, const py::array& filter,
                               const py::array& dy, const Axes& axes) {
  return ByType(x, [&](auto type) -> py::object {
    using T = decltype(type);
    PerExample<T> op(run, x, filter, axes);
    Input<T> upstream("dy", dy, op.y_shape, run);
    Output<T> dx("dx", op.sizes.x, run);
    Output<T> dfilter("dfilter", op.filter_shape, run);
    // Two ops, which have no more than they need.
    PerExampleArgs<T> of_input = op.args;
    of_input.filter = op.weights->data();
    of_input.dy = upstream.data();
    of_input.dx = dx.data();
    PerExampleArgs<T> of_filter = op.args;
    of_filter.x = op.in->data();
    of_filter.dy = upstream.data();
    of_filter.dfilter = dfilter.data();
    if (run.cuda) {
#if TFCONV_CUDA_ON_CPU
      RunPerExample(run, of_input);
      RunPerExample(run, of_filter);
#endif
    } else if (op.empty) {
      dx.Clear();
      dfilter.Clear();
    } else {
      const auto kernels = KernelsOf<PerExampleKernels<T>>(run);
      RunPass("backward_input", of_input, kernels.backward_input, run);
      Output<Accumulator<T>> partial("partial", {kernels.partial_size(of_filter)}, run);
      of_filter.partial = partial.data();
      RunPass("backward_filter", of_filter, kernels.backward_filter, run);
      RunPass("sum_filter", of_filter, kernels.sum_filter, run);
      partial.CheckGuards();
    }
    op.in->Check();
    op.weights->Check();
    upstream.Check();
    return py::make_tuple(dx.Take(), dfilter.Take());
  });
}

// Conversions.

template <typename In, typename Out>
py::object ConvertWith(void (*convert)(const In*, Out*, int64_t), const Run& run,
                       const py::array& array) {
  Input<In> in("input", array, ShapeOf(array), run);
  Output<Out> out("output", ShapeOf(array), run);
  const int64_t count = out.size();
  const int64_t slices = std::min(run.slices, count);
  {
    py::gil_scoped_release release;
    ForEachSlice(slices, run, [&](int64_t slice) {
      const int64_t begin = count * slice / slices;
      convert(in.data() + begin, out.data() + begin, count * (slice + 1) / slices - begin);
    });
  }
  in.Check();
  return out.Take();
}

py::object Convert(const Run& run, const std::string& name, const py::array& array) {
  if (run.cuda) throw py::value_error("CUDA kernels convert while they compute");
  const auto kernels = KernelsOf<ConvertKernels>(run);
  if (name == "half_to_float") return ConvertWith(kernels.half_to_float, run, array);
  if (name == "float_to_half") return ConvertWith(kernels.float_to_half, run, array);
  if (name == "bfloat16_to_float") return ConvertWith(kernels.bfloat16_to_float, run, array);
  if (name == "float_to_bfloat16") return ConvertWith(kernels.float_to_bfloat16, run, array);
  throw py::value_error("no such conversion. Received: " + name);
}

// Passes with one defect each, which show that what runs them would notice.

struct FaultyArgs {
  std::string fault;
  float* x;
  float* y;  // one element for each unit
  int64_t size;
};

PassPlan PlanFaulty(const FaultyArgs& args) {
  return {args.size, 1, static_cast<int64_t>(sizeof(float))};
}

void RunFaulty(const FaultyArgs& args, int64_t begin, int64_t end, void* scratch) {
  const std::string& fault = args.fault;
  float* memory = static_cast<float*>(scratch);
  int32_t number = std::numeric_limits<int32_t>::max();
  for (int64_t i = begin; i < end; ++i) {
    if (fault == "gap" && i == args.size - 1) continue;
    args.y[i] = fault == "scratch" ? memory[0] : args.x[i];
    if (fault == "beyond" && i == args.size - 1) args.y[i + 1] = 0;
    if (fault == "before" && i == 0) args.y[i - 1] = 0;
    if (fault == "read" && i == args.size - 1) args.y[i] += args.x[i + 1];
    if (fault == "beyond scratch") memory[1] = 0;
    if (fault == "input" && i == 0) args.x[i] += 1;
    if (fault == "order" && i > 0) args.y[i] += args.y[i - 1] > 0 ? 1.0f : 2.0f;
    if (fault == "race" && i > 0) args.y[0] += 1;
    if (fault == "overflow") args.y[i] = static_cast<float>(number += static_cast<int32_t>(i) + 1);
    if (fault == "cast") args.y[i] = static_cast<float>(static_cast<int32_t>(1e20f * args.x[i]));
  }
}

py::object Faulty(const Run& run, const std::string& fault, const py::array& x) {
  const Shape shape = ShapeOf(x);
  Input<float> in("x", x, shape, run);
  Output<float> y("y", shape, run);
  const FaultyArgs args = {fault, const_cast<float*>(in.data()), y.data(), y.size()};
  RunPass("faulty", args, Pass<FaultyArgs>{PlanFaulty, RunFaulty}, run);
  in.Check();
  return y.Take();
}

const char* Sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
  return "address";
#elif defined(__SANITIZE_THREAD__)
  return "thread";
#else
  return "";
#endif
}

PYBIND11_MODULE(_kernels, module) {
  using namespace pybind11::literals;  // NOLINT
  module.doc() = "The numeric kernels on NumPy arrays.";
  module.attr("sanitizer") = Sanitizer();
  module.def("available", Available, "Instruction sets that can be run here.",
             "bfloat16"_a = false);
  py::class_<Run>(module, "Run", "How the kernels are run.")
      .def(py::init(&MakeRun), "isa"_a, py::kw_only(), "slices"_a = 1, "reversed"_a = false,
           "threads"_a = 1, "offset"_a = 0, "plans"_a = false)
      .def_property_readonly("plans", [](const Run& run) {
        py::list plans;
        for (const Planned& planned : *run.plans) {
          plans.append(py::make_tuple(planned.pass, planned.plan.units,
                                      planned.plan.cycles_per_unit, planned.plan.scratch_bytes));
        }
        return plans;
      });
  module.def("involution", Involution, "run"_a, "x"_a, "kernel"_a, "axes"_a);
  module.def("span_involution", SpanInvolutionForward, "run"_a, "x"_a, "features"_a, "span"_a,
             "bias"_a, "axes"_a);
  module.def("span_involution_gradients", SpanInvolutionGradients, "run"_a, "x"_a, "features"_a,
             "span"_a, "bias"_a, "dy"_a, "axes"_a);
  module.def("involution_gradients", InvolutionGradients, "run"_a, "x"_a, "kernel"_a, "dy"_a,
             "axes"_a);
  module.def("aggregation", AggregationForward, "run"_a, "x"_a, "offset"_a, "weights"_a, "axes"_a);
  module.def("aggregation_gradients", AggregationGradients, "run"_a, "x"_a, "offset"_a,
             "weights"_a, "dy"_a, "axes"_a);
  module.def("deformable_sample", DeformableSample, "run"_a, "x"_a, "offset"_a, "mask"_a, "axes"_a);
  module.def("deformable_sample_gradients", DeformableSampleGradients, "run"_a, "x"_a, "offset"_a,
             "mask"_a, "dcolumns"_a, "axes"_a);
  module.def("deformable_conv", DeformableConv, "run"_a, "x"_a, "offset"_a, "mask"_a, "filter"_a,
             "axes"_a);
  module.def("deformable_conv_gradients", DeformableConvGradients, "run"_a, "x"_a, "offset"_a,
             "mask"_a, "filter"_a, "dy"_a, "axes"_a);
  module.def("local_attention", LocalAttentionForward, "run"_a, "query"_a, "key"_a, "x"_a,
             "bias"_a, "heads"_a, "scale"_a, "axes"_a);
  module.def("local_attention_gradients", LocalAttentionGradients, "run"_a, "query"_a, "key"_a,
             "x"_a, "bias"_a, "dy"_a, "heads"_a, "scale"_a, "axes"_a);
  module.def("per_example_conv", PerExampleConv, "run"_a, "x"_a, "filter"_a, "axes"_a);
  module.def("per_example_gradients", PerExampleGradients, "run"_a, "x"_a, "filter"_a, "dy"_a,
             "axes"_a);
  module.def("convert", Convert, "run"_a, "name"_a, "array"_a);
#if TFCONV_CUDA_ON_CPU
  module.def("faulty_cuda", cuda::RunFaulty, "fault"_a, "seed"_a);
#endif
  module.def("faulty", Faulty, "run"_a, "fault"_a, "x"_a);
}

}  // namespace
}  // namespace tfconv
