// Choice of the instruction set at run time.
//
// The numeric kernels (files named *_cpu.cc) are compiled once per instruction set, each time into
// a namespace of its own. They publish tables of function pointers, so that one check per
// operation selects all of its code.
#ifndef TFCONV_COMMON_ISA_H_
#define TFCONV_COMMON_ISA_H_

namespace tfconv {

enum class Isa { kBase, kAvx2, kAvx512, kAvx512Bf16 };

// The widest instruction set that the processor has, no wider than the environment variable
// TFCONV_ISA (a name of below) allows. Decided on the first call.
Isa ActiveIsa();

// "base", "avx2", "avx512" or "avx512bf16".
const char* NameOf(Isa isa);

}  // namespace tfconv

// Name of the active instruction set, for Python.
extern "C" __attribute__((visibility("default"))) const char* tfconv_isa();

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
#define TFCONV_DECLARE_KERNELS_OF_ALL(Table, widest)        \
  TFCONV_DECLARE_KERNELS_OF(avx2, Table)                    \
  TFCONV_DECLARE_KERNELS_OF(base, Table)                    \
  TFCONV_DEFINE_LOAD_KERNELS(Table, {                       \
    if (isa == Isa::kAvx512Bf16) return isa_##widest::GetKernels(kernels); \
    if (isa == Isa::kAvx512) return isa_avx512::GetKernels(kernels);       \
    if (isa == Isa::kAvx2) return isa_avx2::GetKernels(kernels);           \
    isa_base::GetKernels(kernels);                          \
  })
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
  Table table;
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
