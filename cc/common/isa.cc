#include "common/isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace tfconv {
namespace {

// From the narrowest to the widest, as in Isa.
constexpr const char* kNames[] = {"base", "avx2", "avx512", "avx512bf16"};

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

Isa AllowedIsa() {
  const char* allowed = std::getenv("TFCONV_ISA");
  for (const Isa isa : {Isa::kBase, Isa::kAvx2, Isa::kAvx512}) {
    if (allowed != nullptr && std::strcmp(allowed, NameOf(isa)) == 0) return isa;
  }
  return Isa::kAvx512Bf16;
}

}  // namespace

Isa ActiveIsa() {
  static const Isa isa = SupportedIsa() < AllowedIsa() ? SupportedIsa() : AllowedIsa();
  return isa;
}

const char* NameOf(Isa isa) { return kNames[static_cast<int>(isa)]; }

}  // namespace tfconv

extern "C" const char* tfconv_isa() { return tfconv::NameOf(tfconv::ActiveIsa()); }
