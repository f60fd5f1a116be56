// Headers of XLA in TensorFlow 2.19 include this one of LLVM, which its wheel lacks, for classes that
// nothing here uses. Where there is LLVM's own, it is taken.
#if __has_include_next("llvm/ADT/ArrayRef.h")
#include_next "llvm/ADT/ArrayRef.h"
#else
#ifndef TFCONV_LLVM_ADT_ARRAYREF_H_
#define TFCONV_LLVM_ADT_ARRAYREF_H_

#include "absl/types/span.h"

namespace llvm {
template <typename T>
using ArrayRef = absl::Span<const T>;
}  // namespace llvm

#endif  // TFCONV_LLVM_ADT_ARRAYREF_H_
#endif
