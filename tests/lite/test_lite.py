"""Models with native ops in TFLite's interpreter: LiteRT's, and that of TensorFlow 2.15."""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow as tf

import tfconv
import tfconv.lite
from tests.conftest import require_native
from tfconv import _build
from tfconv._compat import keras

INVOLUTION = "Tfconv>Involution"
AGGREGATION = "Tfconv>DeformableAggregation"
DEFORMABLE = "Tfconv>DeformableConv"
PER_EXAMPLE = "Tfconv>PerExampleConv"

# A layer, the sizes of its input, and the custom op that it has.
LAYERS = [
    (lambda: tfconv.Involution2D(7, group_channels=16), (9, 10, 32), INVOLUTION),
    (lambda: tfconv.Involution2D((3, 5), strides=(2, 3), groups=3), (11, 9, 21), INVOLUTION),
    (lambda: tfconv.Involution1D(3, dilation_rate=2, groups=1), (12, 5), INVOLUTION),
    (lambda: tfconv.Involution3D(3, groups=2), (4, 5, 3, 6), INVOLUTION),
    (lambda: tfconv.DeformableAggregation2D(3), (8, 9, 32), AGGREGATION),
    (
        lambda: tfconv.DeformableAggregation1D(3, groups=3, strides=2, dilation_rate=2),
        (12, 9),
        AGGREGATION,
    ),
    (lambda: tfconv.DeformableAggregation3D(2, groups=1), (4, 5, 3, 6), AGGREGATION),
    (lambda: tfconv.DeformableConv2D(19, 3, padding="same"), (8, 9, 17), DEFORMABLE),
    (
        lambda: tfconv.DeformableConv2D(
            8, (3, 2), strides=(2, 1), padding="full", groups=2, offset_groups=3, modulated=False
        ),
        (10, 7, 12),
        DEFORMABLE,
    ),
    (lambda: tfconv.DeformableConv2D(5, 3, dilation_rate=(1, 2)), (8, 9, 4), DEFORMABLE),
    (lambda: tfconv.DeformableConv1D(6, 3, padding="causal", groups=2), (11, 4), DEFORMABLE),
    (
        lambda: tfconv.DeformableConv3D(3, (2, 3, 1), strides=(1, 2, 1), offset_groups=2),
        (4, 5, 3, 6),
        DEFORMABLE,
    ),
    (lambda: tfconv.CondConv2D(20, 3, num_experts=3), (8, 7, 13), PER_EXAMPLE),
    (
        lambda: tfconv.CondConv2D(6, 3, num_experts=2, groups=3, padding="same", strides=2),
        (8, 7, 9),
        PER_EXAMPLE,
    ),
    (lambda: tfconv.DynamicConv1D(4, 5, padding="causal"), (12, 3), PER_EXAMPLE),
]


def with_weights(model):
    """Random weights in place of those that make a new layer an ordinary one."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        values = rng.standard_normal(weight.shape) * 0.4
        weight.assign(abs(values) + 0.5 if "variance" in weight.name else values)
    return model


def convert(model, native=True, optimizations=(), types=()) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.allow_custom_ops = native
    converter.optimizations = list(optimizations)
    converter.target_spec.supported_types = list(types)
    with tfconv.keep_native() if native else tfconv.portable():
        return converter.convert()


def convert_function(function, *shapes) -> bytes:
    """A function of several inputs, which keep its arguments' order by their names."""
    signature = [tf.TensorSpec(shape, name=f"input_{i}") for i, shape in enumerate(shapes)]
    with tfconv.keep_native():
        traced = tf.function(function, input_signature=signature).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        converter.allow_custom_ops = True
        return converter.convert()


def run(interpreter, *inputs):
    """The output for new inputs, of any sizes."""
    details = sorted(interpreter.get_input_details(), key=lambda d: d["name"])
    for detail, x in zip(details, inputs):
        if tuple(detail["shape"]) != x.shape:
            interpreter.resize_tensor_input(detail["index"], x.shape)
    interpreter.allocate_tensors()  # nothing, if no size is new
    for detail, x in zip(details, inputs):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    return interpreter.get_tensor(output["index"])


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def assert_equal(actual, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(1, abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("make, sizes, op", LAYERS)
def test_layers(rng, make, sizes, op):
    """Two inputs for each of two batch sizes, and back, on one interpreter."""
    require_native()
    inputs = keras.Input(sizes)
    model = with_weights(keras.Model(inputs, make()(inputs)))
    content = convert(model)
    assert op.encode() in content
    results = []
    for threads in (1, 2):
        interpreter, rng = tfconv.lite.Interpreter(content, threads), np.random.default_rng(0)
        batches = [draw(rng, n, *sizes) for n in (1, 1, 3, 3, 1)]
        results.append([run(interpreter, x) for x in batches])
    for x, one, two in zip(batches, *results):
        assert_equal(one, model(x))
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def mixed():
    """A model of native and built-in ops, of images of any size; and it, converted."""
    require_native()
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = tfconv.Involution2D(3, group_channels=4)(x)
    x = tfconv.Involution2D(5, strides=2, group_channels=8)(x)
    x = tfconv.DeformableConv2D(12, 3, padding="same", activation="relu")(x)
    x = tfconv.CondConv2D(6, 3, num_experts=2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = with_weights(keras.Model(inputs, keras.layers.Dense(4)(x)))
    return model, convert(model)


def test_images_of_any_size(rng, mixed):
    model, content = mixed
    interpreter = tfconv.lite.Interpreter(content)
    for sizes in [(1, 16, 16), (1, 16, 16), (2, 9, 21), (1, 16, 16), (3, 12, 7)]:
        x = draw(rng, *sizes, 3)
        assert_equal(run(interpreter, x), model(x), 1e-4)  # through seven layers


@pytest.mark.parametrize("types", [[tf.float16], []])
def test_quantized_weights(rng, types):
    """The custom op gets floats: what is lost is what the portable ops lose, too."""
    require_native()
    inputs = keras.Input((8, 8, 16))
    model = with_weights(keras.Model(inputs, tfconv.DeformableConv2D(8, 3)(inputs)))
    x = draw(rng, 2, 8, 8, 16)
    losses = []
    for native in (True, False):
        content = convert(model, native, [tf.lite.Optimize.DEFAULT], types)
        losses.append(np.linalg.norm(run(tfconv.lite.Interpreter(content), x) - model(x)))
    assert 0 < losses[0] < 1.1 * losses[1]


def test_one_delegate_in_two_threads(rng, mixed):
    model, content = mixed
    delegate = tfconv.lite.load_delegate(num_threads=2)
    kind = type(tfconv.lite.Interpreter(content))
    images = [draw(rng, 1, 16, 16, 3) for _ in range(8)]
    expected = [model(x) for x in images]

    def serve(x):
        interpreter = kind(model_content=content, experimental_delegates=[delegate])
        return [run(interpreter, x) for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for results, right in zip(pool.map(serve, images), expected):
            for result in results:
                assert_equal(result, right, 1e-4)


@pytest.mark.parametrize(
    "arguments, query, key, bias",
    [
        ({"dilation_rate": 2}, (2, 9, 6), (2, 9, 6), None),
        ({"edges": "shifted", "scale": 0.3}, (1, 5, 6, 6), (1, 5, 6, 6), (2, 9)),
        ({"strides": 2, "causal": (True, False)}, (2, 4, 3, 6), (2, 7, 6, 6), (2, 4, 3, 18)),
    ],
)
def test_local_attention(arguments, query, key, bias, rng):
    require_native()

    def function(query, key, value, bias=None):
        return tfconv.ops.local_attention(query, key, value, 3, num_heads=2, bias=bias, **arguments)

    shapes = [query, key, (*key[:-1], 10), *([bias] if bias else [])]
    content = convert_function(function, *shapes)
    assert content.count(b"Tfconv>LocalAttention") > 0
    inputs = [draw(rng, *shape) for shape in shapes]
    assert_equal(run(tfconv.lite.Interpreter(content), *inputs), function(*inputs))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_forks(rng):
    """The new one has none of the delegate's threads, and must not wait for them."""
    require_native()
    shapes = [(1, 56, 56, 32), (1, 56, 56, 49)]
    content = convert_function(lambda x, kernel: tfconv.ops.involution(x, kernel, 7), *shapes)
    delegate = tfconv.lite.load_delegate(num_threads=2)
    kind = type(tfconv.lite.Interpreter(content))
    interpreter = kind(model_content=content, experimental_delegates=[delegate])
    inputs = [draw(rng, *shape) for shape in shapes]
    expected = run(interpreter, *inputs)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        same = np.array_equal(run(interpreter, *inputs), expected)
        del interpreter, delegate
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(run(interpreter, *inputs), expected)


def test_sizes_that_are_known_late(rng):
    """A reshape to a size that is computed makes its result dynamic, and ours with it."""
    require_native()

    def function(x, flat):
        kernel = tf.reshape(flat, tf.concat([tf.shape(x)[:3], [9]], 0))
        return 2.0 * tfconv.ops.involution(tfconv.ops.involution(x, kernel, 3), kernel, 3)

    content = convert_function(function, (None, None, None, 4), (None,))
    assert content.count(b"Tfconv>Involution") > 0
    interpreter = tfconv.lite.Interpreter(content)
    for n, height, width in [(1, 4, 5), (1, 4, 5), (2, 6, 3)]:
        x, flat = draw(rng, n, height, width, 4), draw(rng, n * height * width * 9)
        assert_equal(run(interpreter, x, flat), function(x, flat))


def test_sampling_alone(rng):
    require_native()

    def function(x, offset, mask):
        return tfconv.ops.deformable_sample(x, offset, mask, kernel_size=3)

    shapes = [(1, 6, 7, 4), (1, 6, 7, 18), (1, 6, 7, 9)]
    content = convert_function(function, *shapes)
    assert b"Tfconv>DeformableSample" in content
    inputs = [draw(rng, *shape) for shape in shapes]
    assert_equal(run(tfconv.lite.Interpreter(content), *inputs), function(*inputs))


def test_filter_that_changes(rng):
    """It is packed anew for every run, unlike a constant one."""
    require_native()
    shapes = [(1, 6, 7, 4), (1, 6, 7, 18), (3, 3, 4, 5)]
    interpreter = tfconv.lite.Interpreter(convert_function(same_deformable, *shapes))
    for _ in range(2):
        inputs = [draw(rng, *shape) for shape in shapes]
        assert_equal(run(interpreter, *inputs), same_deformable(*inputs))


def same_deformable(x, offset, filter):
    return tfconv.ops.deformable_conv2d(x, offset, filter, padding="same")


def test_shapes_that_do_not_fit(rng):
    require_native()
    content = convert_function(
        lambda x, kernel: tfconv.ops.involution(x, kernel, 3),
        (1, None, None, 4),
        (1, None, None, 9),
    )
    interpreter = tfconv.lite.Interpreter(content)
    words = r"tfconv: Involution: kernel has shape \[1,5,4,9\], expected .* \[1,5,5\]"
    with pytest.raises(RuntimeError, match=words):
        run(interpreter, draw(rng, 1, 5, 5, 4), draw(rng, 1, 5, 4, 9))
    # The interpreter is still good.
    x, kernel = draw(rng, 1, 5, 5, 4), draw(rng, 1, 5, 5, 9)
    assert_equal(run(interpreter, x, kernel), tfconv.ops.involution(x, kernel, 3))


def test_without_the_delegate(mixed):
    """The interpreter names what it does not know."""
    kind = type(tfconv.lite.Interpreter(mixed[1]))
    with pytest.raises(RuntimeError, match="unresolved custom op: Tfconv>Involution"):
        kind(model_content=mixed[1]).allocate_tensors()


def test_models_without_custom_ops(rng, tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 3)])
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(model, native=False))
    x = draw(rng, 1, 4, 4, 2)
    assert_equal(run(tfconv.lite.Interpreter(path), x), model(x))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_bad_number_of_threads(mixed, threads):
    words = f"num_threads must be a positive integer or None. Received: {threads}"
    with pytest.raises(ValueError, match=re.escape(words)):
        tfconv.lite.Interpreter(mixed[1], num_threads=threads)
    with pytest.raises(ValueError, match=re.escape(words)):
        tfconv.lite.load_delegate(num_threads=threads)


def test_bad_models(tmp_path):
    with pytest.raises(ValueError, match="path_or_content must be .* Received: int"):
        tfconv.lite.Interpreter(3)
    with pytest.raises(ValueError):
        tfconv.lite.Interpreter(tmp_path / "nothing.tflite")


def test_library_that_was_not_built(monkeypatch):
    monkeypatch.setattr(_build, "find_delegate", lambda version: None)
    for function in (tfconv.lite.delegate_path, tfconv.lite.load_delegate):
        with pytest.raises(RuntimeError, match="has not been built; `python -m tfconv build`"):
            function()


def test_options_of_the_plugin():
    library = ctypes.CDLL(tfconv.lite.delegate_path())
    create = library.tflite_plugin_create_delegate
    create.restype = ctypes.c_void_p
    said = []
    report = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda text: said.append(text.decode()))

    def make(key, value):
        return create((ctypes.c_char_p * 1)(key), (ctypes.c_char_p * 1)(value), 1, report)

    delegate = make(b"num_threads", b"3")
    assert delegate
    library.tflite_plugin_destroy_delegate(ctypes.c_void_p(delegate))
    wrong = [
        (b"threads", b"3"),
        (b"num_threads", b"-1"),
        (b"num_threads", b""),
        (b"num_threads", b"2x"),
    ]
    for key, value in wrong:
        assert make(key, value) is None
    assert said == ["tfconv: the only option is num_threads, from 0 to 1024"] * len(wrong)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_library_needs_and_exports_nothing_else():
    """No TensorFlow, no C++ standard library, and no symbol that could clash with another's."""

    def read(*options):
        command = ["readelf", "-W", *options, tfconv.lite.delegate_path()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    needed = set(re.findall(r"NEEDED.*\[(.*)\]", read("-d")))
    assert needed <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"}
    symbols = [line.split() for line in read("--dyn-syms").splitlines() if "GLOBAL" in line]
    exported = {words[7] for words in symbols if words[6] != "UND"}
    header = open(tfconv.lite.header_path(), encoding="utf-8").read()
    declared = set(re.findall(r"^TFCONV_LITE_EXPORT .*?(\w+)\(", header, re.MULTILINE))
    assert exported == declared and len(declared) == 4
    assert not [words for words in symbols if words[4] in ("WEAK", "UNIQUE") and words[6] != "UND"]


def test_header_is_plain_c(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = os.path.dirname(tfconv.lite.header_path())
    source = tmp_path / "user.c"
    source.write_text(
        '#include "tfconv_lite.h"\nint main(void) {\n'
        "  tfconv_lite_delete_delegate(tfconv_lite_create_delegate(2));\n  return 0;\n}\n"
    )
    library = tfconv.lite.delegate_path()
    program = tmp_path / "user"
    command = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}"]
    command += [source, library, f"-Wl,-rpath,{os.path.dirname(library)}", "-o", program]
    subprocess.run(command, check=True)
    subprocess.run([program], check=True)


@pytest.mark.late
def test_cmake_builds_the_delegate_alone(tmp_path):
    """For ARM, without optimization, which takes seconds."""
    compiler = "aarch64-linux-gnu-g++"
    cmake = _build.find_tool("cmake")
    for tool in (compiler, "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    target += [f"-DCMAKE_CXX_COMPILER={compiler}", "-DTFCONV_CXXFLAGS=-O0 -Werror"]
    folder = os.path.dirname(tfconv.lite.header_path())
    configure = [cmake, "-S", folder, "-B", tmp_path, *target]
    subprocess.run(configure, check=True)
    subprocess.run([cmake, "--build", tmp_path], check=True)
    command = ["readelf", "-W", "-d", tmp_path / "libtfconv_lite.so"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", done.stdout))
    assert "libc.so.6" in needed
    assert needed <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-aarch64.so.1"}
