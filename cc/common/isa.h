// Choice of the instruction set at run time.
//
// The numeric kernels (files named *_cpu.cc) are compiled once per instruction set, each time into
// a namespace of its own. They publish tables of function pointers, so that one check per
// operation selects all of its code.
#ifndef TFCONV_COMMON_ISA_H_
#define TFCONV_COMMON_ISA_H_

namespace tfconv {

enum class Isa { kBase, kAvx2, kAvx512 };

// The widest instruction set that the processor has, no wider than the environment variable
// TFCONV_ISA (base, avx2 or avx512) allows. Decided on the first call.
Isa ActiveIsa();

}  // namespace tfconv

// Name of the active instruction set, for Python.
extern "C" __attribute__((visibility("default"))) const char* tfconv_isa();

// Declares the function that fills a table of kernels, once for each instruction set, and
// LoadKernels(Table*), which takes the active one's.
#if defined(__x86_64__)
#define TFCONV_DECLARE_KERNELS(Table) \
  namespace isa_base {                \
  void GetKernels(Table* kernels);    \
  }                                   \
  namespace isa_avx2 {                \
  void GetKernels(Table* kernels);    \
  }                                   \
  namespace isa_avx512 {              \
  void GetKernels(Table* kernels);    \
  }                                   \
  TFCONV_DEFINE_LOAD_KERNELS(Table)
#define TFCONV_FOR_ACTIVE_ISA(function, argument) \
  switch (::tfconv::ActiveIsa()) {                \
    case ::tfconv::Isa::kAvx512:                  \
      return isa_avx512::function(argument);      \
    case ::tfconv::Isa::kAvx2:                    \
      return isa_avx2::function(argument);        \
    case ::tfconv::Isa::kBase:                    \
      return isa_base::function(argument);        \
  }
#else
#define TFCONV_DECLARE_KERNELS(Table) \
  namespace isa_base {                \
  void GetKernels(Table* kernels);    \
  }                                   \
  TFCONV_DEFINE_LOAD_KERNELS(Table)
#define TFCONV_FOR_ACTIVE_ISA(function, argument) return isa_base::function(argument);
#endif

// Not for the units that are compiled per instruction set: they share no inline functions.
#if defined(TFCONV_ISA)
#define TFCONV_DEFINE_LOAD_KERNELS(Table)
#else
#define TFCONV_DEFINE_LOAD_KERNELS(Table) \
  inline void LoadKernels(Table* kernels) { TFCONV_FOR_ACTIVE_ISA(GetKernels, kernels) }
#endif

#endif  // TFCONV_COMMON_ISA_H_
