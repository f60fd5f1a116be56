#include "common/isa.h"

#include <cstdlib>
#include <cstring>

namespace tfconv {
namespace {

Isa SupportedIsa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kBase;
}

Isa AllowedIsa() {
  const char* name = std::getenv("TFCONV_ISA");
  if (name != nullptr && std::strcmp(name, "base") == 0) return Isa::kBase;
  if (name != nullptr && std::strcmp(name, "avx2") == 0) return Isa::kAvx2;
  return Isa::kAvx512;
}

}  // namespace

Isa ActiveIsa() {
  static const Isa isa = SupportedIsa() < AllowedIsa() ? SupportedIsa() : AllowedIsa();
  return isa;
}

}  // namespace tfconv

extern "C" const char* tfconv_isa() {
  switch (tfconv::ActiveIsa()) {
    case tfconv::Isa::kAvx512:
      return "avx512";
    case tfconv::Isa::kAvx2:
      return "avx2";
    case tfconv::Isa::kBase:
      break;
  }
  return "base";
}
