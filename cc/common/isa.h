// Choice of the instruction set at run time.
//
// The numeric kernels (files named *_cpu.cc) are compiled once per instruction set, each time into
// a namespace of its own. They publish tables of function pointers, so that one check per
// operation selects all of its code.
#ifndef TFCONV_COMMON_ISA_H_
#define TFCONV_COMMON_ISA_H_

namespace tfconv {

enum class Isa { kBase, kAvx2, kAvx512, kAvx512Bf16 };

// Those that this library has kernels for, a bit for each.
#if !defined(TFCONV_ISA_BITS)
#if defined(__x86_64__)
#define TFCONV_ISA_BITS 15
#else
#define TFCONV_ISA_BITS 1
#endif
#endif
constexpr bool HasKernels(Isa isa) { return (TFCONV_ISA_BITS >> static_cast<int>(isa) & 1) != 0; }

// Why no kernels can run here, or nullptr: the processor has none of the library's instruction sets,
// or the environment variable TFCONV_ISA none of their names.
const char* IsaProblem();

// The widest of the library's instruction sets that the processor has, no wider than TFCONV_ISA
// allows. Decided on the first call; only where there is no problem.
Isa ActiveIsa();

// "base", "avx2", "avx512" or "avx512bf16".
const char* NameOf(Isa isa);

}  // namespace tfconv

// For Python: the name of the active instruction set, those of all, and the problem.
extern "C" {
__attribute__((visibility("default"))) const char* tfconv_isa();
__attribute__((visibility("default"))) const char* tfconv_isas();
__attribute__((visibility("default"))) const char* tfconv_isa_problem();
}

// Declares the function that fills a table of kernels, once for each instruction set, and
// LoadKernels(Isa, Table*), which takes one's. avx512bf16 differs from avx512 in the products of
// bfloat16: tables without them are the same for both.
#if defined(__x86_64__)
#define TFCONV_DECLARE_KERNELS(Table)         \
  TFCONV_DECLARE_KERNELS_OF(avx512, Table)    \
  TFCONV_DECLARE_KERNELS_OF_ALL(Table, avx512)
#define TFCONV_DECLARE_BFLOAT16_PRODUCTS(Table) \
  TFCONV_DECLARE_KERNELS_OF(avx512, Table)      \
  TFCONV_DECLARE_KERNELS_OF(avx512bf16, Table)  \
  TFCONV_DECLARE_KERNELS_OF_ALL(Table, avx512bf16)
#define TFCONV_DECLARE_KERNELS_OF_ALL(Table, widest)         \
  TFCONV_DECLARE_KERNELS_OF(avx2, Table)                     \
  TFCONV_DECLARE_KERNELS_OF(base, Table)                     \
  TFCONV_DEFINE_LOAD_KERNELS(Table, {                        \
    TFCONV_LOAD_KERNELS_OF(Isa::kAvx512Bf16, widest)         \
    TFCONV_LOAD_KERNELS_OF(Isa::kAvx512, avx512)             \
    TFCONV_LOAD_KERNELS_OF(Isa::kAvx2, avx2)                 \
    TFCONV_LOAD_KERNELS_OF(Isa::kBase, base)                 \
  })
#define TFCONV_LOAD_KERNELS_OF(name, isa_name)                     \
  if constexpr (HasKernels(name)) {                                \
    if (isa == name) return isa_##isa_name::GetKernels(kernels);   \
  }
#else
#define TFCONV_DECLARE_KERNELS(Table)    \
  TFCONV_DECLARE_KERNELS_OF(base, Table) \
  TFCONV_DEFINE_LOAD_KERNELS(Table, {    \
    (void)isa;                           \
    isa_base::GetKernels(kernels);       \
  })
#define TFCONV_DECLARE_BFLOAT16_PRODUCTS(Table) TFCONV_DECLARE_KERNELS(Table)
#endif
#define TFCONV_DECLARE_KERNELS_OF(isa, Table) \
  namespace isa_##isa {                       \
  void GetKernels(Table* kernels);            \
  }

// Not for the units that are compiled per instruction set: they share no inline functions.
#if defined(TFCONV_ISA)
#define TFCONV_DEFINE_LOAD_KERNELS(Table, ...)
#else
#define TFCONV_DEFINE_LOAD_KERNELS(Table, ...) \
  inline void LoadKernels(Isa isa, Table* kernels) __VA_ARGS__

namespace tfconv {

// The table of an instruction set.
template <typename Table>
Table KernelsOf(Isa isa) {
  Table table = {};
  LoadKernels(isa, &table);
  return table;
}

// The table of the active one.
template <typename Table>
Table ActiveKernels() {
  return KernelsOf<Table>(ActiveIsa());
}

}  // namespace tfconv
#endif

#endif  // TFCONV_COMMON_ISA_H_
