// As ArrayRef.h.
#if __has_include_next("llvm/ADT/SmallVector.h")
#include_next "llvm/ADT/SmallVector.h"
#else
#ifndef TFCONV_LLVM_ADT_SMALLVECTOR_H_
#define TFCONV_LLVM_ADT_SMALLVECTOR_H_

#include <vector>

namespace llvm {
template <typename T>
using SmallVector = std::vector<T>;
}  // namespace llvm

#endif  // TFCONV_LLVM_ADT_SMALLVECTOR_H_
#endif
