// The ops that a delegate kernel runs: their attributes, the check of their shapes, and the order
// of their kernels. The numeric part is in the units *_cpu.cc.
#ifndef TFCONV_LITE_LITE_OP_H_
#define TFCONV_LITE_LITE_OP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lite/attributes.h"
#include "lite/options.h"
#include "lite/status.h"
#include "lite/thread_pool.h"

namespace tfconv {
namespace lite {

struct Input {
  const float* data;
  int64_t size;        // in elements
  bool constant;       // the same in every run
  const void* source;  // the tensor's own data, which `data` may be a copy of in float32
};

struct Output {
  float* data;
  int64_t size;
};

class LiteOp {
 public:
  virtual ~LiteOp() = default;

  // Checks the inputs' shapes and computes the output's.
  virtual Status Infer(const std::vector<Shape>& inputs, Shape* output) = 0;

  // Computes the output, for inputs of the shapes that Infer has seen last.
  virtual Status Run(Executor* executor, const std::vector<Input>& inputs,
                     const Output& output) = 0;
};

// Whether there is an op of this name, such as "Tfconv>Involution".
bool HasLiteOp(const std::string& name);

// Makes the op of a name that HasLiteOp knows.
Status MakeLiteOp(const std::string& name, const Options& options, std::unique_ptr<LiteOp>* op);

Status MakeLocalAttention(const Options& options, std::unique_ptr<LiteOp>* op);

}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_LITE_OP_H_
