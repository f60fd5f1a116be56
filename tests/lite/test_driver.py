"""The delegate under an interpreter of our own: on this processor, on an emulated ARM, and under
the sanitizers where `$TFCONV_KERNELS` names one. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess

import numpy as np
import pytest
from flatbuffers import flexbuffers

from tests import reference
from tests.lite import driver
from tests.lite.driver import Graph, Node, Tensor
from tests.sliding_windows import GEOMETRIES

SANITIZED = os.environ.get("TFCONV_KERNELS")
VARIANTS = ["plain", pytest.param("aarch64", marks=pytest.mark.late)]  # takes a minute to compile
if SANITIZED in ("asan", "tsan"):
    VARIANTS = [SANITIZED]

INVOLUTION, PER_EXAMPLE = "Tfconv>Involution", "Tfconv>PerExampleConv"
SAMPLE, CONV = "Tfconv>DeformableSample", "Tfconv>DeformableConv"


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    tool = driver.missing_tool(request.param)
    if tool is not None:
        pytest.skip(f"{tool} is not installed")
    return request.param


class Fixed(tuple):
    """A list that is packed without its length."""


class Untyped(tuple):
    """A list whose elements are packed with their types."""


def pack(values: dict) -> bytes:
    """custom_options as TensorFlow's converter writes them, which leaves out empty lists."""
    builder = flexbuffers.Builder()
    with builder.Map():
        for name in sorted(values):
            value = values[name]
            if value == ():
                continue
            builder.Key(name)
            if isinstance(value, Untyped):
                builder.VectorFromElements(value)
            elif isinstance(value, Fixed):
                builder.FixedTypedVectorFromElements(value)
            elif isinstance(value, tuple):
                builder.TypedVectorFromElements(value)
            else:
                builder.Add(value)
    return bytes(builder.Finish())


def attributes(name: str, window: reference.Window, masked: bool = False) -> dict:
    """The attributes that the op of a window has."""
    values = {
        "T": 0,
        "strides": window.strides,
        "dilations": window.dilations,
        "padding": "EXPLICIT",
        "explicit_paddings": tuple(n for pair in window.pads for n in pair),
    }
    if name in (INVOLUTION, SAMPLE):
        values["kernel_size"] = window.kernel_size
    if name in (SAMPLE, CONV):
        values["modulation"] = int(masked)
    return values


def node(name: str, values: dict, count: int) -> Node:
    """An op that reads the first tensors of a graph and writes the next one."""
    return Node(name, pack(values), range(count), [count])


def draw(rng, name, geometry, number):
    """Inputs of an op, its node, and what is right; sizes vary with the case's number."""
    w, outputs = geometry.window, geometry.outputs
    batch, groups, width = 1 + number % 2, 1 + number % 3, (4, 17, 1, 35)[number % 4]
    channels, filters, masked = groups * width, groups * (5, 33)[number % 2], number % 2 == 0
    x = rng.standard_normal((batch, *geometry.sizes, channels))
    positions = (batch, *outputs)
    if name == INVOLUTION:
        inputs = [x, rng.standard_normal((*positions, groups * len(w.taps)))]
        expected = reference.involution(*inputs, w)
    elif name == PER_EXAMPLE:
        inputs = [x, rng.standard_normal((batch, *w.kernel_size, width, filters))]
        expected = reference.per_example_conv(*inputs, w)
    else:
        count = groups * len(w.taps)  # as many offset groups
        offset = 2 * rng.standard_normal((*positions, len(outputs) * count))
        mask = rng.uniform(size=(*positions, count)) if masked else None
        filter = rng.standard_normal((*w.kernel_size, width, filters))
        inputs = [x, offset] + [filter] * (name == CONV) + [mask] * masked
        # The op has float32 positions: so must the reference, whose floors depend on them.
        offset = offset.astype(np.float32)
        if name == CONV:
            expected = reference.deformable_conv(x, offset, filter, mask, None, w)
        else:
            expected = reference.deformable_sample(x, offset, mask, w)
    inputs = [t.astype(np.float32) for t in inputs]
    return inputs, node(name, attributes(name, w, masked), len(inputs)), expected


def graph(inputs, nodes, wanted, **more) -> Graph:
    tensors = [t if isinstance(t, Tensor) else Tensor(t) for t in inputs]
    return Graph([*tensors, *(Tensor() for _ in nodes)], nodes, wanted, **more)


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    drawn, number = [], 0
    for name, ranks in (
        (INVOLUTION, (1, 2, 3)),
        (PER_EXAMPLE, (1, 2, 3)),
        (SAMPLE, (1, 2, 3)),
        (CONV, (1, 2, 3)),
    ):
        for rank in ranks:
            for geometry in GEOMETRIES[rank]:
                drawn.append(draw(rng, name, geometry, number))
                number += 1
    return drawn


@pytest.mark.parametrize("kind", [driver.CONSTANT, driver.ARENA, driver.DYNAMIC])
def test_every_op(variant, cases, kind, tmp_path):
    """Constant inputs may be prepared once; the shapes of dynamic ones come when they run."""
    graphs = [
        graph([Tensor(t, kind) for t in inputs], [op], [len(inputs)], threads=1 + i % 3)
        for i, (inputs, op, _) in enumerate(cases)
    ]
    for (_, op, expected), result in zip(cases, driver.run(variant, graphs, tmp_path)):
        assert not isinstance(result, str), result
        assert result[0].shape == expected.shape, op.name
        scale = max(1.0, np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(result[0], expected, rtol=0, atol=1e-5 * scale, err_msg=op.name)


def test_float16(variant, cases, tmp_path):
    """Computed in float32, rounded once."""
    chosen = cases[::5]
    rounded = [[t.astype(np.float16) for t in inputs] for inputs, _, _ in chosen]
    graphs = []
    for (_, op, _), inputs in zip(chosen, rounded):
        half = [Tensor(t, type=driver.FLOAT16) for t in inputs]
        wide = [t.astype(np.float32) for t in inputs]
        graphs.append(Graph([*half, Tensor(type=driver.FLOAT16)], [op], [len(inputs)]))
        graphs.append(graph(wide, [op], [len(inputs)]))
    results = driver.run(variant, graphs, tmp_path)
    for half, wide in zip(results[::2], results[1::2]):
        assert half[0].dtype == np.float16
        np.testing.assert_array_equal(half[0], wide[0].astype(np.float16))


@pytest.mark.parametrize("kind", [driver.ARENA, driver.DYNAMIC])
def test_ops_in_a_row(variant, kind, tmp_path):
    """The interpreter has no memory for what stays between two of our ops."""
    rng = np.random.default_rng(1)
    w = reference.window((5, 6), 3, 1, "same")
    x, first, second = (rng.standard_normal((2, 5, 6, n)).astype("f") for n in (4, 18, 9))
    values = attributes(INVOLUTION, w)
    nodes = [
        Node(INVOLUTION, pack(values), [0, 1], [3]),
        Node(INVOLUTION, pack(values), [3, 2], [4]),
    ]
    inputs = [Tensor(x, kind), first, second]
    (result,) = driver.run(variant, [graph(inputs, nodes, [4])], tmp_path)
    expected = reference.involution(reference.involution(x, first, w), second, w)
    np.testing.assert_allclose(result[0], expected, atol=1e-4)


def zeros(*shapes):
    return [np.zeros(shape, np.float32) for shape in shapes]


W = reference.window((5, 5), 3, 1, 1)
OF = {name: attributes(name, W) for name in (INVOLUTION, PER_EXAMPLE, SAMPLE, CONV)}
X, KERNEL, OFFSET, FILTER = (1, 5, 5, 4), (1, 5, 5, 18), (1, 5, 5, 18), (3, 3, 4, 6)
# Name, changed attributes (None: without), shapes of the inputs, what is said.
ERRORS = [
    (INVOLUTION, {}, [X], "there must be 2 inputs. Received: 1"),
    (INVOLUTION, {}, [X[1:], KERNEL], r"x must have 4 dimensions. Received shape: \[5,5,4\]"),
    (INVOLUTION, {}, [X, KERNEL[1:]], "kernel must have 4 dimensions"),
    (INVOLUTION, {}, [X, (1, 5, 4, 18)], r"kernel has shape \[1,5,4,18\], expected .*\[1,5,5\]"),
    (INVOLUTION, {}, [X, (1, 5, 5, 17)], "a multiple of 9"),
    (INVOLUTION, {}, [X, (1, 5, 5, 27)], r"3 groups .* must divide the 4 channels"),
    (INVOLUTION, {"kernel_size": (3, 0)}, [X, KERNEL], "kernel sizes must be positive"),
    (INVOLUTION, {"kernel_size": (2**20,) * 2}, [X, KERNEL], "product of at most 2147483647"),
    (INVOLUTION, {"kernel_size": (3,) * 4}, [X, KERNEL], "kernel_size must have 1 to 3 integers"),
    (INVOLUTION, {"kernel_size": None}, [X, KERNEL], "kernel_size must have 1 to 3 integers"),
    (INVOLUTION, {"strides": (1, 0)}, [X, KERNEL], r"strides must be 2 .* Received: \[1,0\]"),
    (INVOLUTION, {"strides": (1,)}, [X, KERNEL], "strides must be 2 integers"),
    (INVOLUTION, {"dilations": (1, 2**31)}, [X, KERNEL], "dilations must be .* to 2147483647"),
    (INVOLUTION, {"explicit_paddings": (1, 1, -1, 1)}, [X, KERNEL], "explicit_paddings must be 4"),
    (INVOLUTION, {"padding": "VALID"}, [X, KERNEL], "only with padding"),
    (INVOLUTION, {"padding": "REFLECT"}, [X, KERNEL], 'padding must be .* Received: "REFLECT"'),
    (INVOLUTION, {"padding": 3}, [X, KERNEL], 'Received: ""'),
    (INVOLUTION, {"version": 2}, [X, KERNEL], "of a version that this library does not know"),
    (INVOLUTION, {}, [(1, 0, 5, 4), KERNEL], "size 0, padded to 2, but the kernel spans 3"),
    (SAMPLE, {"modulation": 2}, [X, OFFSET], "modulation, the number of masks, must be 0 or 1"),
    (SAMPLE, {"modulation": None}, [X, OFFSET], "modulation, the number of masks"),
    (SAMPLE, {"modulation": 1}, [X, OFFSET], "there must be 3 inputs. Received: 2"),
    (SAMPLE, {"modulation": 1}, [X, OFFSET, (1, 5, 5, 18)], r"mask has shape .* og\*9"),
    (SAMPLE, {"modulation": 1}, [X, OFFSET, (5, 5, 9)], "mask must have 4 dimensions"),
    (SAMPLE, {}, [X, (1, 5, 5, 17)], r"offset has shape .* og\*18"),
    (SAMPLE, {}, [X, (1, 5, 5, 0)], r"offset has shape .* og\*18"),
    (SAMPLE, {}, [X, (1, 5, 5, 54)], "3 offset groups .* must divide the 4 channels"),
    (
        SAMPLE,
        {"kernel_size": (3,), "strides": (1,), "dilations": (1,), "explicit_paddings": (1, 1)},
        [X, OFFSET],
        "x must have 3 dimensions",
    ),
    (CONV, {}, [X, OFFSET, (3, 3, 4)], "filter must have 4 dimensions"),
    (CONV, {}, [X, OFFSET, (3, 3, 3, 6)], "the 3 input channels .* must divide the 4 channels"),
    (CONV, {}, [X, OFFSET, (3, 3, 0, 6)], "the 0 input channels"),
    (CONV, {}, [X, OFFSET, (3, 3, 2, 5)], r"the 2 groups .* must divide the 5 filters"),
    (CONV, {}, [X, OFFSET, (3, 0, 4, 6)], "kernel sizes must be positive"),
    (PER_EXAMPLE, {}, [X, (2, 3, 3, 4, 6)], "one filter for each of the 1 examples"),
    (PER_EXAMPLE, {}, [X, FILTER], "filter must have 5 dimensions"),
    (PER_EXAMPLE, {}, [X, (1, 9, 3, 4, 6)], "the kernel spans 9"),
    (
        PER_EXAMPLE,
        {"strides": ()},
        [X, FILTER],
        r"strides must have 1 to 3 integers. Received: \[\]",
    ),
]


def test_errors(variant, tmp_path):
    graphs = []
    for name, changed, shapes, _ in ERRORS:
        values = {n: v for n, v in {**OF[name], **changed}.items() if v is not None}
        graphs.append(graph(zeros(*shapes), [node(name, values, len(shapes))], [len(shapes)]))
    results = driver.run(variant, graphs, tmp_path)
    for (name, *_, words), result in zip(ERRORS, results):
        assert isinstance(result, str), f"no error: {words}"
        assert result.startswith("tfconv: ") and name.split(">")[1] in result
        assert re.search(words, result), f"{words!r} is not in {result!r}"


def test_instruction_set_that_is_not_there(variant, tmp_path, monkeypatch):
    monkeypatch.setenv("TFCONV_ISA", "sse")
    good = graph(zeros(X, KERNEL), [node(INVOLUTION, OF[INVOLUTION], 2)], [2])
    (result,) = driver.run(variant, [good], tmp_path)
    assert re.search("tfconv: TFCONV_ISA must be one of .*base.* Received: sse", result)


def test_nodes_that_are_wrong(variant, tmp_path):
    good = node(INVOLUTION, OF[INVOLUTION], 2)
    inputs = zeros(X, KERNEL)
    integers = Tensor(np.zeros(KERNEL, np.int32), type=driver.INT32)
    wrong = {
        "an input is missing": graph(inputs, [good._replace(inputs=[0, -1])], [2]),
        "there must be one output": graph(inputs, [good._replace(outputs=[2, 1])], [2]),
        "the output is missing": graph(inputs, [good._replace(outputs=[-1])], [2]),
        "Involution: the output is missing": graph(inputs, [good._replace(outputs=[3])], [2]),
        "tensors must be float32 or float16. Received: type 2": graph(
            [inputs[0], integers], [good], [2]
        ),
        "the custom_options are not a FlexBuffers map (0 bytes)": graph(
            inputs, [good._replace(options=b"")], [2]
        ),
    }
    for words, result in zip(wrong, driver.run(variant, list(wrong.values()), tmp_path)):
        assert isinstance(result, str) and words in result, (words, result)


FLAWS = {
    driver.SPARSE: "tensors must be dense. Received: sparse tensor",
    driver.NO_MEMORY: "of shape [1,5,5,4] has no memory",
    driver.TOO_SMALL: "of shape [1,5,5,4] has",
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_that_are_wrong(variant, dtype, tmp_path):
    """An error, and no access to memory that is not there."""
    type = {"float32": driver.FLOAT32, "float16": driver.FLOAT16}[dtype]
    x, kernel = (Tensor(np.zeros(shape, dtype), type=type) for shape in (X, KERNEL))
    output, op = Tensor(type=type), node(INVOLUTION, OF[INVOLUTION], 2)
    tensors = [(dataclasses.replace(x, flaw=flaw), kernel, output) for flaw in FLAWS]
    # An output is resized, hence never too small.
    flaws = [*FLAWS, driver.SPARSE, driver.NO_MEMORY]
    tensors += [(x, kernel, dataclasses.replace(output, flaw=flaw)) for flaw in flaws[3:]]
    graphs = [Graph(chosen, [op], [2]) for chosen in tensors]
    for flaw, result in zip(flaws, driver.run(variant, graphs, tmp_path)):
        assert isinstance(result, str) and FLAWS[flaw] in result, (flaw, result)


def test_two_nodes_that_write_one_tensor(variant, tmp_path):
    """The second makes it too small for the first."""
    small = zeros((1, 3, 3, 4), (1, 3, 3, 18))
    options = pack(OF[INVOLUTION])
    nodes = [Node(INVOLUTION, options, [0, 1], [4]), Node(INVOLUTION, options, [2, 3], [4])]
    graphs = [graph([*zeros(X, KERNEL), *small], nodes, [4])]
    (result,) = driver.run(variant, graphs, tmp_path)
    assert isinstance(result, str) and "of shape [1,5,5,4] has 144 bytes" in result


REFUSED = [
    {"strides": (1,) * 7},
    {"padding": "EXPLICIT" * 3},
    {"modulation": 0.5},
    {"strides": Untyped((1, 1.0))},
    {"strides": Fixed((1.0, 1.0))},
    {"strides": Untyped((1, "1"))},
]


def test_kinds_of_options(variant, tmp_path):
    """All kinds of lists of integers are read, and other values of known keys refused."""
    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal(shape).astype("f") for shape in (X, OFFSET)]
    lists = {n: v for n, v in OF[SAMPLE].items() if isinstance(v, tuple)}
    other = {"shape": (1.5, 2.5), "dilation": (1,) * 9, "a key that nobody knows": "x" * 99}
    good = [
        OF[SAMPLE],
        OF[SAMPLE] | {n: Untyped(v) for n, v in lists.items()},
        OF[SAMPLE] | {n: Fixed(v) for n, v in lists.items()},
        OF[SAMPLE] | other,
    ]
    bad = [OF[SAMPLE] | values for values in REFUSED]
    graphs = [graph(inputs, [node(SAMPLE, values, 2)], [2]) for values in good + bad]
    # "stridesX" sorts behind "strides": the key then comes twice.
    twice = pack(OF[SAMPLE] | {"stridesX": (1, 1)})
    twice = twice.replace(b"stridesX", b"strides\0")
    graphs.append(graph(inputs, [Node(SAMPLE, twice, [0, 1], [2])], [2]))
    *results, last = driver.run(variant, graphs, tmp_path)
    for result in [*results[1 : len(good)], last]:
        assert not isinstance(result, str), result
        np.testing.assert_array_equal(result[0], results[0][0])
    for values, result in zip(REFUSED, results[len(good) :]):
        words = f"in the custom_options, {next(iter(values))} must be an integer, up to 6 integers"
        assert isinstance(result, str) and words in result, (values, result)


def test_empty_tensors(variant, tmp_path):
    """Nothing to sum gives zeros, and nothing to compute is no error."""
    shapes = {
        INVOLUTION: [(0, 5, 5, 4), (0, 5, 5, 18)],
        PER_EXAMPLE: [(1, 5, 5, 0), (1, 3, 3, 0, 6)],
        SAMPLE: [(1, 5, 5, 0), OFFSET],
        CONV: [(1, 5, 5, 0), OFFSET, (3, 3, 0, 6)],
    }
    graphs = [
        graph(zeros(*inputs), [node(name, OF[name], len(inputs))], [len(inputs)])
        for name, inputs in shapes.items()
    ]
    results = [result[0] for result in driver.run(variant, graphs, tmp_path)]
    assert [r.shape for r in results] == [(0, 5, 5, 4), (1, 5, 5, 6), (1, 5, 5, 9, 0), (1, 5, 5, 6)]
    assert all(np.all(r == 0) for r in results)


def test_damaged_options(variant, tmp_path):
    """Any bytes are an error or attributes: never a read outside of them."""
    rng = np.random.default_rng(2)
    inputs = zeros((1, 2, 2, 1), (1, 2, 2, 18), (1, 2, 2, 9))
    whole = pack(
        attributes(SAMPLE, reference.window((2, 2), 3, 1, 1), masked=True)
        | {"a list": (70000, -1), "large": 2**40, "number": 0.5, "text": "x" * 300}
    )
    damaged = [pack({"padding": "SAME", "strides": (1, 1)}).replace(b"\0", b"x")]  # keys' ends
    damaged += [whole[:end] for end in range(len(whole))] + [whole[start:] for start in range(40)]
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            # Offsets and types stand at the end.
            at = len(content) - 1 - min(int(rng.exponential(40)), len(content) - 1)
            content[at] = rng.integers(256)
        damaged.append(bytes(content))
    graphs = [
        graph(inputs, [Node(SAMPLE, content, [0, 1, 2], [3])], [3], runs=1) for content in damaged
    ]
    results = driver.run(
        variant, [*graphs, graph(inputs, [Node(SAMPLE, whole, [0, 1, 2], [3])], [3])], tmp_path
    )
    errors = sum(isinstance(result, str) for result in results)
    assert errors > len(graphs) // 2
    assert not isinstance(results[-1], str), results[-1]


def test_arm_kernels_use_vectors(variant):
    """NEON's multiply-add on four floats is what the kernels are to be made of."""
    if variant != "aarch64":
        pytest.skip("of ARM only")
    objdump = driver.CROSS_COMPILER.replace("g++", "objdump")
    folder = driver.build(variant).parent
    kernels = [p for p in sorted(folder.rglob("*_cpu.cc.o")) if p.name != "convert_cpu.cc.o"]
    assert len(kernels) >= 4
    for path in kernels:
        done = subprocess.run([objdump, "-d", path], check=True, capture_output=True, text=True)
        assert len(re.findall(r"fmla\tv\d+\.4s", done.stdout)) > 10, path.name
