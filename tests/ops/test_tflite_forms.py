"""The forms that operations take in TensorFlow Lite: what they compute, and what they are made of.

Traced as a converter does and run by TensorFlow, in float64: the conversion itself is tested where
layers are.
"""

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tests import reference
from tests.ops import test_deformable as deformable
from tests.ops.geometries import Geometry, assert_close, table
from tests.ops.test_conv_transpose import cut, draw, expected, transposed
from tfconv import _compat
from tfconv.export import tflite_file, to_tflite
from tfconv.export.verification import Interpreter
from tfconv.ops import conv, conv_transpose, deformable_rows, involution_frames
from tfconv.ops.involution import span_involution

GROUPS = [(1, 3, 2), (2, 2, 3), (4, 1, 1), (3, 2, 1)]  # groups, C / groups, filters / groups


def traced(function, x, others=(), sizes=True):
    """A function as it is traced for TensorFlow Lite: the batch of ``x``, or all sizes, unknown."""
    shape = [None, *(n if sizes else None for n in x.shape[1:-1]), x.shape[-1]]
    specs = [tf.TensorSpec(shape, x.dtype), *(tf.TensorSpec(o.shape, o.dtype) for o in others)]
    with _compat.export_scope(), _compat.tflite_scope():
        return tf.function(lambda *t: function(*t)).get_concrete_function(*specs)


def lite(function, x, *others, sizes=True):
    """The result of a function in that form, and the types of its operations."""
    found = traced(function, x, others, sizes)
    operations = found.graph.get_operations()
    types = {op.type for op in operations}
    depthwise = (op for op in operations if op.type == "DepthwiseConv2dNative")
    if any(max(op.get_attr("dilations")) > 1 for op in depthwise):  # no kernel for CPUs
        x = x.astype(np.float32)
        found = traced(function, x, others, sizes)
        content = tf.lite.TFLiteConverter.from_concrete_functions([found]).convert()
        interpreter = Interpreter(model_content=content)
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"]), types
    return found(*map(tf.constant, (x, *others))), types


@pytest.mark.parametrize("sizes", [True, False], ids=["", "any size"])
@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_conv(geometry, groups, batch, sizes, rng):
    count, width, filters = groups
    x = rng.standard_normal((batch, *geometry.sizes, count * width))
    kernel = rng.standard_normal((*geometry.window.kernel_size, width, count * filters))

    def function(x):
        return conv(x, kernel, groups=count, data_format="channels_last", **geometry.arguments)

    y, types = lite(function, x, sizes=sizes)
    assert_close(y, reference.conv(x, kernel, geometry.window, count))
    assert "Conv3D" not in types
    if sizes:
        assert "SpaceToBatchND" not in types
        assert "StridedSlice" not in types or (width == 1 and count > 1)


@pytest.mark.parametrize("sizes", [True, False], ids=["", "any size"])
@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], GROUPS, [2, 1, 3]))
def test_conv_transpose(geometry, groups, batch, sizes, rng):
    if min(cut(geometry)[1]) < 1:
        pytest.skip("no output")
    x, kernel = draw(rng, geometry, batch, groups)
    function = transposed(geometry, groups[0])
    y, types = lite(lambda x: function(x, kernel), x, sizes=sizes)
    assert_close(y, expected(x, kernel, geometry, groups[0]))
    assert not types & {"Conv2DBackpropInput", "Conv3DBackpropInputV2", "Conv3D"}


@pytest.mark.parametrize("padding", ["valid", "same", "full", 1, ((2, 0), (0, 3))])
@pytest.mark.parametrize("output_padding", [0, 1, (2, 0)])
@pytest.mark.parametrize("kernel_size", [3, (2, 4)])
def test_output_padding(padding, output_padding, kernel_size, rng):
    geometry = Geometry((4, 5), kernel_size, (3, 2), padding)
    x, kernel = draw(rng, geometry, 2, (2, 2, 1))
    function = transposed(geometry, 2, output_padding)
    y, _ = lite(lambda x: function(x, kernel), x)
    assert_close(y, expected(x, kernel, geometry, 2, output_padding))


@pytest.mark.parametrize("kernel_size, strides", [(3, 2), (4, 2), (2, 2), (5, 3), (3, 5)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_blocks_see_no_more_than_they_need(kernel_size, strides, padding, rng):
    """The pixels that meet one block of outputs: no more taps than that."""
    geometry = Geometry((6, 7), kernel_size, strides, padding)
    x, kernel = draw(rng, geometry, 1, (1, 2, 3))
    function = transposed(geometry)
    graph = traced(lambda x: function(x, kernel), x).graph
    found = [op.inputs[1].shape.as_list() for op in graph.get_operations() if op.type == "Conv2D"]
    if (kernel_size, strides) == (3, 2):  # no zeros in four kernels
        assert sorted(found) == [[1, 1, 2, 3], [1, 2, 2, 3], [2, 1, 2, 3], [2, 2, 2, 3]]
    else:
        taps = -(-kernel_size // strides)
        assert found == [[taps, taps, 2, 3 * strides**2]]


def test_only_while_it_is_traced_for_tflite(rng):
    x, kernel = rng.standard_normal((1, 4, 4, 2)), rng.standard_normal((3, 3, 5, 2))
    function = tf.function(lambda x: conv_transpose(x, kernel, strides=2))
    with _compat.export_scope():
        found = function.get_concrete_function(x)
    assert "Conv2DBackpropInput" in {op.type for op in found.graph.get_operations()}
    np.testing.assert_allclose(found(tf.constant(x)), conv_transpose(x, kernel, strides=2))


@pytest.mark.dear
@pytest.mark.parametrize("sizes", [True, False], ids=["", "any size"])
@pytest.mark.parametrize("features", [2, 9])
@pytest.mark.parametrize("geometry, groups, batch", table([1, 2, 3], [(1, 8), (2, 24)], [2, 1, 3]))
def test_span_involution(geometry, groups, batch, features, sizes, rng):
    """A product for each tap, and the taps of one product."""
    count, width = groups
    x = rng.standard_normal((batch, *geometry.sizes, count * width))
    made = rng.standard_normal((batch, *geometry.outputs, features))
    taps = count * len(geometry.window.taps)
    span, bias = rng.standard_normal((features, taps)), rng.standard_normal(taps)

    def function(x, made):
        return span_involution(x, made, span, bias, geometry.kernel_size, **geometry.arguments)

    y, _ = lite(function, x, made, sizes=sizes)
    assert_close(y, reference.involution(x, made @ span + bias, geometry.window))


@pytest.mark.parametrize("geometry, groups, batch", table([3], [(1, 2), (2, 3)], [2, 1, 3]))
def test_span_involution_of_frames(geometry, groups, batch, rng, monkeypatch):
    """Convolutions of images whose channels are the frames of a volume, with two results each."""
    monkeypatch.setattr(involution_frames, "_LEAST_TAPS", 1)
    monkeypatch.setattr(involution_frames, "_MOST_FRAMES", 2)
    count, width = groups
    x = rng.standard_normal((batch, *geometry.sizes, count * width))
    made = rng.standard_normal((batch, *geometry.outputs, 2))
    taps = count * len(geometry.window.taps)
    span, bias = rng.standard_normal((2, taps)), rng.standard_normal(taps)

    def function(x, made):
        return span_involution(x, made, span, bias, geometry.kernel_size, **geometry.arguments)

    y, types = lite(function, x, made)
    assert_close(y, reference.involution(x, made @ span + bias, geometry.window))
    assert "Mul" not in types


def operators(layer, shape):
    """What a layer's file is made of, in the order in which it runs."""
    model = _compat.keras.Sequential([_compat.keras.Input(shape), layer])
    graph = tflite_file.read(to_tflite(model, verify=False).content, model)
    return [operator.name for operator in graph.operators]


def test_pixels_of_a_tap_are_read_when_they_are_used():
    """Those of all taps together would fill memory."""
    names = operators(tfconv.Involution2D(3, group_channels=4), (40, 40, 16))
    taps = [operator for operator in names if operator in ("SLICE", "MUL", "ADD")]
    assert taps[:3] == ["SLICE", "SLICE", "MUL"]  # pixels, and weights of a tap
    assert "SLICE SLICE SLICE" not in " ".join(taps)


@pytest.mark.parametrize("geometry, sizes, masked", table([1, 2, 3], deformable.GROUPS, [1, 0]))
def test_deformable_in_parts(geometry, sizes, masked, rng, monkeypatch):
    """Parts of the positions, each of which waits for the one before."""
    monkeypatch.setattr(deformable_rows, "_MOST_ELEMENTS", 1)
    monkeypatch.setattr(deformable_rows, "_MOST_PARTS", 3)
    offset_groups, groups, channels, filters = sizes
    x, offset, *mask = deformable.draw(rng, geometry, 2, offset_groups, channels, masked)
    kernel = deformable.draw_kernel(rng, geometry, channels, groups, filters)
    calls = [
        (deformable.sample(geometry), [x, offset, *mask]),
        (deformable.convolve(geometry), [x, offset, kernel, *mask]),
    ]
    mask = mask[0] if mask else None
    answers = [
        reference.deformable_sample(x, offset, mask, geometry.window),
        reference.deformable_conv(x, offset, kernel, mask, None, geometry.window),
    ]
    parts = min(3, int(np.prod(geometry.outputs)))
    for (function, inputs), answer in zip(calls, answers):
        inputs = [*map(tf.constant, inputs)]
        with _compat.export_scope(), _compat.tflite_scope():
            found = tf.function(function).get_concrete_function(*inputs)
        assert_close(found(*inputs), answer)
        types = [op.type for op in found.graph.get_operations()]
        assert types.count("ArgMax") == parts - 1


def test_parts_are_gathered_one_after_another(monkeypatch):
    monkeypatch.setattr(deformable_rows, "_MOST_ELEMENTS", 1 << 10)
    names = operators(tfconv.DeformableConv2D(4, 3, padding="same"), (8, 8, 4))
    found = [name for name in names if name in ("GATHER", "FULLY_CONNECTED", "ARG_MAX")]
    part = [*["GATHER"] * 4, "FULLY_CONNECTED"]
    assert found == [*part, "ARG_MAX", *part, "ARG_MAX", *part]


@pytest.mark.parametrize("quantize", ["int8", "int16x8", "mixed"])
def test_parts_in_integers(quantize, rng, monkeypatch):
    """Each part waits by an operator that integers have, too."""
    offsets = _compat.keras.initializers.RandomNormal(stddev=0.05)
    layer = tfconv.DeformableConv2D(4, 3, padding="same", offset_initializer=offsets)
    model = _compat.keras.Sequential([_compat.keras.Input((6, 7, 4)), layer])
    data = rng.standard_normal((64, 6, 7, 4)).astype("float32")
    monkeypatch.setattr(deformable_rows, "_MOST_ELEMENTS", 600)
    content = to_tflite(model, quantize=quantize, representative_data=data).content
    names = [operator.name for operator in tflite_file.read(content, model).operators]
    assert names.count("ARG_MAX") > 1
