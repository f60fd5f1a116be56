"""Compilers' flags (the same as CMake's), and kernels for every instruction set."""

# `cc` of this repository, which may be another one's dependency.
_ROOT = Label("//cc:BUILD").workspace_root

COPTS = [
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-ffunction-sections",
    "-fdata-sections",
    "-I" + (_ROOT + "/" if _ROOT else "") + "cc",
]

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]

_ISA_COPTS = {
    "base": [],
    "avx2": _AVX2,
    "avx512": _AVX512 + _AVX2 + ["-mprefer-vector-width=512"],
    "avx512bf16": ["-mavx512bf16"] + _AVX512 + _AVX2 + ["-mprefer-vector-width=512"],
}

_BASE_COPTS = select({
    "@platforms//cpu:x86_64": ["-O2"],
    "//conditions:default": [],
})

# Without products of bfloat16: the kernels are avx512's.
_NO_PRODUCTS = ("aggregation/", "common/", "involution/", "local_attention/")

def isa_library(name, srcs, hdrs, **kwargs):
    """cc_library of `srcs`, compiled for each instruction set."""
    parts = []
    for isa, isa_copts in _ISA_COPTS.items():
        part = name + "_" + isa
        own = [s for s in srcs if isa != "avx512bf16" or not s.startswith(_NO_PRODUCTS)]
        parts.append(":" + part)
        native.cc_library(
            name = part,
            srcs = own + hdrs,
            copts = [
                "-O3",
                "-std=c++17",
                "-ffp-contract=fast",
            ] + COPTS + ["-DTFCONV_ISA=" + isa] + (isa_copts or _BASE_COPTS),
            linkstatic = True,
            # Left out by wildcards elsewhere.
            target_compatible_with = ["@platforms//cpu:x86_64"] if isa_copts else [],
            **kwargs
        )
    native.cc_library(
        name = name,
        deps = select({
            "@platforms//cpu:x86_64": parts,
            "//conditions:default": [":" + name + "_base"],
        }),
        **kwargs
    )
