"""What runs the kernels notices what a kernel must not do: passes with one defect each."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.kernels import build
from tests.kernels.conftest import VARIANT

X = np.arange(1, 9, dtype=np.float32)
SANITIZED = {
    "asan": {
        "beyond": "AddressSanitizer: heap-buffer-overflow",
        "before": "AddressSanitizer: use-after-poison",
        "read": "AddressSanitizer: heap-buffer-overflow",
        "beyond scratch": "AddressSanitizer: heap-buffer-overflow",
        "overflow": "runtime error: signed integer overflow",
        "cast": "runtime error: .* is outside the range of representable values of type 'int'",
    },
    "tsan": {"race": "ThreadSanitizer: data race"},
}


def test_without_fault(kernels):
    for isa in kernels.available():
        run = kernels.Run(isa, slices=3, reversed=True, threads=2, offset=1)
        np.testing.assert_array_equal(kernels.faulty(run, "", X), X)


FAULTS = [
    ("gap", "y: element 7 of 8 was not written"),
    ("scratch", "comes from memory that was not"),
    ("input", "x: an input was written"),
    ("beyond", "y: written beyond its end"),
    ("before", "y: written before its beginning"),
    ("beyond scratch", "scratch memory: written beyond its end"),
]


@pytest.mark.parametrize(
    "fault, message", [row for row in FAULTS if row[0] not in SANITIZED.get(VARIANT, {})]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_faults_are_noticed(fault, message, threads, kernels):
    with pytest.raises(RuntimeError, match=message):
        kernels.faulty(kernels.Run("base", slices=2, threads=threads), fault, X)


if VARIANT in SANITIZED:

    @pytest.mark.parametrize("fault", SANITIZED[VARIANT])
    def test_sanitizer_notices(fault):
        """In a process of its own, which it ends."""
        code = (
            "import sys, numpy as np\n"
            f"sys.path.insert(0, {os.fspath(build.ROOT)!r})\n"
            "from tests.kernels import build\n"
            f"kernels = build.load({VARIANT!r})\n"
            "run = kernels.Run('base', slices=8, threads=2)\n"
            f"kernels.faulty(run, {fault!r}, np.ones(8, np.float32))\n"
        )
        options = {name: "detect_leaks=0" for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS")}
        environment = dict(os.environ, **options, TSAN_OPTIONS="halt_on_error=1")
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert re.search(SANITIZED[VARIANT][fault], done.stderr), done.stderr


def test_order_of_the_units_shows(kernels):
    """A dependence on the units before gives other bits in another order."""
    forward = kernels.faulty(kernels.Run("base", slices=4), "order", X)
    backward = kernels.faulty(kernels.Run("base", slices=4, reversed=True), "order", X)
    assert (forward != backward).any()


def faulty_cuda(kernels, fault, seed=0):
    if not hasattr(kernels, "faulty_cuda"):
        pytest.skip("the CUDA kernels are not compiled for this CPU or sanitizer")
    return kernels.faulty_cuda(fault, seed)


SEEDS = (0, 1, 2, 3)


def test_cuda_without_fault(kernels):
    """Halves of a warp go their own ways, in any order of blocks, warps and lanes."""
    other = np.arange(64) ^ 1
    lane = np.arange(64) % 32
    right = np.where(lane < 16, other + (other ^ 3), other + 100 * (np.arange(64) // 32 * 32 + 17))
    for seed in SEEDS:
        assert faulty_cuda(kernels, "", seed) == 3 * right.tolist()


@pytest.mark.parametrize("fault", ["no barrier", "no syncwarp", "blocks"])
def test_cuda_orders_show(fault, kernels):
    """Other results in another order: of warps, of lanes, of blocks."""
    results = {tuple(faulty_cuda(kernels, fault, seed)) for seed in SEEDS}
    assert len(results) > 1


@pytest.mark.parametrize(
    "fault, message",
    [
        ("barrier", "threads that do not come"),
        ("mask", "threads that do not come"),
        ("two functions", "threads that do not come"),
        ("left out", "a lane that its mask leaves out"),
        ("outside", "a value of a lane outside of the mask"),
    ],
)
def test_cuda_faults_are_noticed(fault, message, kernels):
    for seed in SEEDS:
        with pytest.raises(RuntimeError, match=message):
            faulty_cuda(kernels, fault, seed)
    faulty_cuda(kernels, "")  # what is left of it disturbs nobody


def test_sanitizer_is_the_one_asked_for(kernels):
    assert kernels.sanitizer == {"plain": "", "asan": "address", "tsan": "thread"}[VARIANT]


def test_unknown_variant():
    with pytest.raises(ValueError, match="plain, asan, tsan.*Received: 'msan'"):
        build.build("msan")


def test_available_instruction_sets(kernels):
    available = [isa for isa in kernels.available() if isa != "cuda"]
    assert available == ["base", "avx2", "avx512", "avx512bf16"][: len(available)] != []
    emulated = ["emulated"] if "avx2" in available else []
    assert [isa for isa in kernels.available(bfloat16=True) if isa != "cuda"] == (
        available + emulated
    )
    with pytest.raises(ValueError, match="Received: sse9"):
        kernels.Run("sse9")


@pytest.mark.parametrize("options", [{"slices": 0}, {"threads": 0}, {"offset": -1}])
def test_bad_run(options, kernels):
    with pytest.raises(ValueError, match="positive"):
        kernels.Run("base", **options)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


AXES = [(4, 3, 1, 1, 1), (5, 3, 1, 1, 1)]
SEEN = [(4, 3, 1, 1, 0, 0), (5, 3, 1, 1, 0, 0)]
X2 = ones(2, 4, 5, 6)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("involution", (X2, ones(2, 4, 5, 10), AXES)),
        ("involution", (X2, ones(2, 4, 5, 36), AXES)),
        ("involution", (X2, ones(2, 4, 4, 9), AXES)),
        ("involution", (X2, ones(2, 4, 5, 9, dtype=np.float64), AXES)),
        ("involution", (X2, ones(2, 4, 5, 18)[..., ::2], AXES)),
        ("involution", (X2.astype(np.int32), ones(2, 4, 5, 9), AXES)),
        ("involution", (X2, ones(2, 4, 5, 9), AXES[:1])),
        ("involution", (X2, ones(2, 4, 5, 9), [(4, 3, 0, 1, 1), AXES[1]])),
        ("involution_gradients", (X2, ones(2, 4, 5, 9), ones(2, 4, 5, 5), AXES)),
        ("aggregation", (X2, ones(2, 4, 5, 18), ones(2, 4, 5, 18), AXES)),
        ("aggregation", (X2, ones(2, 4, 5, 72), ones(2, 4, 5, 36), AXES)),
        ("aggregation_gradients", (X2, ones(2, 4, 5, 18), ones(2, 4, 5, 9), X2[..., :5], AXES)),
        ("deformable_sample", (X2, ones(2, 4, 5, 17), None, AXES)),
        ("deformable_sample", (X2, ones(2, 4, 5, 72), None, AXES)),
        ("deformable_sample", (X2, ones(2, 4, 5, 18), ones(2, 4, 5, 18), AXES)),
        ("deformable_sample_gradients", (X2, ones(2, 4, 5, 18), None, X2, AXES)),
        ("deformable_conv", (X2, ones(2, 4, 5, 18), None, ones(3, 3, 4, 2), AXES)),
        ("deformable_conv", (X2, ones(2, 4, 5, 18), None, ones(3, 2, 6, 2), AXES)),
        ("deformable_conv_gradients", (X2, ones(2, 4, 5, 18), None, ones(3, 3, 3, 4), X2, AXES)),
        ("local_attention", (X2, X2, X2, None, 4, 1.0, SEEN)),
        ("local_attention", (X2, X2, X2, ones(2, 8), 2, 1.0, SEEN)),
        ("local_attention", (X2, X2, ones(2, 4, 4, 6), None, 2, 1.0, SEEN)),
        ("local_attention", (X2, X2, X2, None, 2, 1.0, SEEN[:1])),
        ("local_attention", (X2, X2, X2, None, 2, 1.0, [SEEN[0], (5, 6, 1, 1, 1, 0)])),
        ("local_attention_gradients", (X2, X2, X2, None, ones(2, 4, 5, 4), 2, 1.0, SEEN)),
        ("per_example_conv", (X2, ones(3, 3, 3, 6, 2), AXES)),
        ("per_example_conv", (X2, ones(2, 3, 3, 3, 3), AXES)),
        ("per_example_gradients", (X2, ones(2, 3, 3, 6, 2), X2, AXES)),
        ("convert", ("half_to_float", X2)),
        ("convert", ("half_to_double", X2)),
    ],
)
def test_bad_arrays(name, arguments, kernels):
    with pytest.raises(ValueError):
        getattr(kernels, name)(kernels.Run("base"), *arguments)
