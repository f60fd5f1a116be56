// Inputs, attributes and shapes of the deformable ops: checked and computed here for shape
// functions and kernels.
#ifndef TFCONV_DEFORMABLE_DEFORMABLE_SHAPES_H_
#define TFCONV_DEFORMABLE_DEFORMABLE_SHAPES_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/geometry.h"
#include "common/op_geometry.h"

namespace tfconv {

// Shapes of all tensors of an op. Those that it does not have stay of unknown rank.
struct DeformableShapes {
  Dims x;
  Dims offset;
  Dims mask;
  Dims filter;
  Dims columns;
  Dims y;
};

// What the inputs' shapes say once they are checked. Plain words of 64 bits: XLA's calls hold them,
// and bytes between others would be any.
struct DeformableSizes {
  ConvGeometry geometry;  // complete if all sizes are known
  int64_t rank;           // spatial axes
  int64_t taps;
  int64_t offset_groups;
  int64_t groups;
  int64_t filters;
};

// Which of the five ops; they differ in what follows x and offset.
enum class DeformableKind { kSample, kSampleGrad, kConv, kConvInputGrad, kConvFilterGrad };

constexpr bool IsConvGrad(DeformableKind kind) {
  return kind == DeformableKind::kConvInputGrad || kind == DeformableKind::kConvFilterGrad;
}

constexpr bool HasFilter(DeformableKind kind) {
  return kind == DeformableKind::kConv || IsConvGrad(kind);
}

// As in messages.
const char* NameOf(DeformableKind kind);

// Position of each input; the mask, if there is one, is last.
constexpr int kX = 0;
constexpr int kOffset = 1;
constexpr int DcolumnsInput(DeformableKind kind) {
  return kind == DeformableKind::kSampleGrad ? 2 : -1;
}
constexpr int FilterInput(DeformableKind kind) { return HasFilter(kind) ? 2 : -1; }
constexpr int DyInput(DeformableKind kind) { return IsConvGrad(kind) ? 3 : -1; }
constexpr int MaskInput(DeformableKind kind) {
  return kind == DeformableKind::kSample ? 2 : (IsConvGrad(kind) ? 4 : 3);
}

struct DeformableAttributes {
  ConvAttributes conv;
  int64_t modulation = 0;

  template <typename Context>
  absl::Status Read(DeformableKind kind, Context* context) {
    conv.op_name = NameOf(kind);
    if (auto status = context->GetAttr("modulation", &modulation); !status.ok()) return status;
    if (modulation > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(conv.op_name, ": at most one mask is possible. Received: ", modulation));
    }
    return conv.Read(context, !HasFilter(kind));
  }
};

// Checks all shapes as far as they are known, those of upstream gradients included, and makes them
// as complete as possible. `dims_of(i)` are the dimensions of input i.
absl::Status MakeDeformableSizes(DeformableKind kind, const DeformableAttributes& attributes,
                                 const std::function<Dims(int)>& dims_of, DeformableSizes* sizes,
                                 DeformableShapes* shapes);

}  // namespace tfconv

#endif  // TFCONV_DEFORMABLE_DEFORMABLE_SHAPES_H_
