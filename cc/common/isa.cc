#include "common/isa.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tfconv {
namespace {

// From the narrowest to the widest, as in Isa.
constexpr const char* kNames[] = {"base", "avx2", "avx512", "avx512bf16"};
constexpr Isa kIsas[] = {Isa::kBase, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

// The widest that the processor has.
Isa SupportedIsa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
  }
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kBase;
}

struct Choice {
  Isa isa = Isa::kBase;
  std::string names;  // of the library's
  std::string problem;
};

Choice Choose() {
  const char* const variable = std::getenv("TFCONV_ISA");
  const std::string allowed = variable == nullptr ? "" : variable;
  const Isa supported = SupportedIsa();
  Choice choice;
  bool is_name = false;
  bool fits = false;
  for (const Isa isa : kIsas) {
    if (!HasKernels(isa)) continue;
    if (isa <= supported && (allowed.empty() || !is_name)) {
      choice.isa = isa;
      fits = true;
    }
    is_name = is_name || allowed == NameOf(isa);
    choice.names += (choice.names.empty() ? "" : ", ") + std::string(NameOf(isa));
  }
  if (!allowed.empty() && !is_name) {
    choice.problem = "TFCONV_ISA must be one of the library's instruction sets (" + choice.names +
                     "). Received: " + allowed;
  } else if (!fits) {
    choice.problem = "this processor has none of the library's instruction sets (" +
                     choice.names + ")";
  }
  return choice;
}

const Choice& TheChoice() {
  static const Choice choice = Choose();
  return choice;
}

}  // namespace

const char* IsaProblem() {
  return TheChoice().problem.empty() ? nullptr : TheChoice().problem.c_str();
}

Isa ActiveIsa() { return TheChoice().isa; }

const char* NameOf(Isa isa) { return kNames[static_cast<int>(isa)]; }

}  // namespace tfconv

extern "C" {
const char* tfconv_isa() { return tfconv::NameOf(tfconv::ActiveIsa()); }
const char* tfconv_isas() { return tfconv::TheChoice().names.c_str(); }
const char* tfconv_isa_problem() { return tfconv::IsaProblem(); }
}

#if defined(TFCONV_ISA_PROGRAM)  // of the build
int main() { std::fputs(tfconv::NameOf(tfconv::SupportedIsa()), stdout); }
#endif
