"""Kernels that are compiled once for every instruction set (the same flags as tfconv/_build.py)."""

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]

ISA_COPTS = {
    "base": [],
    "avx2": _AVX2,
    "avx512": _AVX512 + _AVX2 + ["-mprefer-vector-width=512"],
}

def isa_library(name, isas, srcs, hdrs, copts = []):
    """cc_library of `srcs`, compiled for each instruction set of `isas`."""
    parts = []
    for isa in isas:
        part = name + "_" + isa
        parts.append(":" + part)
        native.cc_library(
            name = part,
            srcs = srcs + hdrs,
            copts = copts + [
                "-O3",
                "-std=c++17",
                "-ffp-contract=fast",
                "-Icc",
                "-DTFCONV_ISA=" + isa,
            ] + ISA_COPTS[isa],
            linkstatic = True,
        )
    native.cc_library(name = name, deps = parts)
