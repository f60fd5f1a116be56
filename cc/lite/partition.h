// What a delegate's kernel does: runs the nodes of a partition of the graph one after the other.
#ifndef TFCONV_LITE_PARTITION_H_
#define TFCONV_LITE_PARTITION_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lite/lite_op.h"
#include "lite/status.h"
#include "lite/tflite_abi.h"
#include "lite/thread_pool.h"

namespace tfconv {
namespace lite {

class Partition {
 public:
  explicit Partition(ThreadPool* pool) : executor_(pool) {}

  // Reads the nodes and their options.
  Status Init(abi::Context* context, const abi::DelegateParams& params);

  // Checks the shapes that are known already and gives the outputs theirs.
  Status Prepare(abi::Context* context);

  Status Invoke(abi::Context* context, int64_t threads);

 private:
  struct Step {
    std::string name;
    std::unique_ptr<LiteOp> op;
    std::vector<int> inputs;
    int output;
    bool deferred;  // its shapes are known only when it runs
    // As LiteOp::Infer has seen and computed them.
    std::vector<Shape> input_shapes;
    Shape output_shape;
    // Copies of float16 tensors in float32.
    std::vector<Memory> wide_inputs;
    Memory wide_output;
  };

  // Computes the shape of a step's output and resizes it.
  static Status Resize(abi::Context* context, Step* step);
  Status Run(abi::Context* context, Step* step);

  Executor executor_;
  std::vector<Step> steps_;
  std::set<int> outputs_;  // of the partition; the others are seen by its own nodes only
};

}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_PARTITION_H_
