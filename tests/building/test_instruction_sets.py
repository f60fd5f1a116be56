"""Which instruction sets the kernels are compiled for, and which of them a processor gets."""

import os
import re
import subprocess
import sys

import pytest

from tests.building.small_tree import ROOT, VALUE, call, write

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="others have one set")

# What GCC calls the parts of each set that the ones before it lack.
PARTS = {
    "base": "",
    "avx2": "avx2 fma f16c",
    "avx512": "avx512f avx512bw avx512dq avx512vl",
    "avx512bf16": "avx512bf16",
}
ISAS = list(PARTS)
# Stands in for the processor.
PROCESSOR = """#include <cstdlib>
#include <string>
static bool Has(const char* part) {
  return (" " + std::string(std::getenv("PROCESSOR")) + " ").find(" " + std::string(part) + " ")
         != std::string::npos;
}
#define __builtin_cpu_supports(part) Has(part)
"""


def has(isa: str) -> dict:
    parts = [PARTS[name] for name in ISAS[: ISAS.index(isa) + 1]]
    return {**os.environ, "PROCESSOR": " ".join(parts)}


def compile_choice(output, *flags):
    """cc/common/isa.cc alone."""
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'cc'}", *flags]
    subprocess.run([*command, ROOT / "cc/common/isa.cc", "-o", output], check=True)
    return output


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    """What a library with some instruction sets says on a processor: (set, all sets, problem)."""
    folder = tmp_path_factory.mktemp("choice")
    (folder / "processor.h").write_text(PROCESSOR)
    made = {}

    def ask(isas, processor, allowed=None):
        bits = sum(1 << ISAS.index(isa) for isa in isas)
        if bits not in made:
            flags = ("-shared", "-fPIC", f"-DTFCONV_ISA_BITS={bits}")
            header = ("-include", folder / "processor.h")
            made[bits] = compile_choice(folder / f"{bits}.so", *flags, *header)
        code = (
            "import ctypes, sys\nlibrary = ctypes.CDLL(sys.argv[1])\n"
            "for name in ('tfconv_isa', 'tfconv_isas', 'tfconv_isa_problem'):\n"
            "    function = getattr(library, name)\n    function.restype = ctypes.c_char_p\n"
            "    print((function() or b'').decode())"
        )
        environment = has(processor)
        environment.pop("TFCONV_ISA", None)
        if allowed is not None:
            environment["TFCONV_ISA"] = allowed
        command = [sys.executable, "-S", "-c", code, made[bits]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:3]

    return ask


@pytest.mark.parametrize(
    ("isas", "processor", "allowed", "expected"),
    [
        (ISAS, "base", None, "base"),
        (ISAS, "avx2", None, "avx2"),
        (ISAS, "avx512", None, "avx512"),
        (ISAS, "avx512bf16", "", "avx512bf16"),
        (ISAS, "avx512bf16", "avx2", "avx2"),
        (ISAS, "avx2", "avx512", "avx2"),
        (["avx2", "avx512"], "avx512bf16", None, "avx512"),
        (["avx2", "avx512"], "avx2", None, "avx2"),
        (["avx2", "avx512"], "avx512", "avx2", "avx2"),
        (["base", "avx512"], "avx2", None, "base"),
        (["base"], "avx512", None, "base"),
    ],
)
def test_the_best_that_library_and_processor_have(choice, isas, processor, allowed, expected):
    assert choice(isas, processor, allowed) == [expected, ", ".join(isas), ""]


@pytest.mark.parametrize(
    ("isas", "processor", "allowed", "problem"),
    [
        (["avx2", "avx512"], "base", None, "processor has none .* sets (avx2, avx512)"),
        (["avx512"], "avx2", "avx512", "processor has none .* sets (avx512)"),
        (["avx2", "avx512"], "avx512", "base", "TFCONV_ISA .* (avx2, avx512). Received: base"),
        (ISAS, "avx2", "sse", "TFCONV_ISA .* (base, avx2, avx512, avx512bf16). Received: sse"),
    ],
)
def test_none_that_fits(choice, isas, processor, allowed, problem):
    pattern = problem.replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, choice(isas, processor, allowed)[2])


def test_the_best_of_the_processor(tmp_path):
    """What the build asks: the program that is made of the choice."""
    (tmp_path / "processor.h").write_text(PROCESSOR)
    header = ("-include", tmp_path / "processor.h")
    program = compile_choice(tmp_path / "stand-in", "-DTFCONV_ISA_PROGRAM", *header)
    for isa in ISAS:
        assert subprocess.check_output(program, env=has(isa), text=True) == isa
    real = compile_choice(tmp_path / "real", "-DTFCONV_ISA_PROGRAM")
    flags = re.search(r"^flags\s*: (.*)$", open("/proc/cpuinfo").read(), re.M)[1]
    flags = flags.replace("avx512_bf16", "avx512bf16").split()
    expected = ISAS[0]
    for isa, parts in PARTS.items():
        if not set(parts.split()) <= set(flags):
            break
        expected = isa
    assert subprocess.check_output(real, text=True) == expected


def stand_in(program: str) -> dict:
    """A choice that says which sets are in the library, and to the build what the program does."""
    choice = f"#ifdef TFCONV_ISA_PROGRAM\n#include <cstdio>\nint main() {{ {program} }}\n#else\n"
    bits = VALUE.format("tfconv_bits", "TFCONV_ISA_BITS")
    default = "#ifndef TFCONV_ISA_BITS\n#define TFCONV_ISA_BITS 15\n#endif\n"
    return {
        "common/isa.cc": f"{choice}{default}{bits}#endif\n",
        "lite/lite.cc": VALUE.format("tfconv_lite_value", "0"),
        "b/b_cpu.cc": "",
    }


def compiled_isas(compiled) -> set:
    return {name.partition("[")[2][:-1] for name in compiled if "a_cpu.cc [" in name}


@pytest.mark.late
def test_sets_of_this_processor(tree, monkeypatch):
    """By default AVX2 and the best; what else is asked for comes when it is asked for."""
    monkeypatch.delenv("TFCONV_ISAS")

    def build(program=None):
        if program is not None:
            write(tree.sources, stand_in(program))
        compiled = compiled_isas(tree.compiled())
        return compiled, call(tree.library, "tfconv_bits")

    assert build('fputs("base", stdout);') == ({"base"}, 0b0001)
    # The processor is another one: it is asked each time.
    assert build('fputs("avx2", stdout);') == ({"avx2"}, 0b0010)
    assert build('fputs("avx512", stdout);') == ({"avx512"}, 0b0110)
    assert build('fputs("avx512bf16", stdout);') == ({"avx512bf16"}, 0b1110)
    assert build("return 1;") == (set(), 0b1111)
    monkeypatch.setenv("TFCONV_ISAS", "avx2, base")
    assert build() == (set(), 0b0011)
    monkeypatch.delenv("TFCONV_ISAS")  # as before
    assert build()[1] == 0b0011
    monkeypatch.setenv("TFCONV_ISAS", "avx512bf16")  # with what it adds to
    assert build()[1] == 0b1100
    for wrong in ("avx2,sse", ","):
        monkeypatch.setenv("TFCONV_ISAS", wrong)
        message = " ".join(tree.fails().split())
        assert f"some of base, avx2, avx512, avx512bf16. Received: {wrong}" in message
