"""The native ops themselves, without tfconv's own checks in front: errors, never a crash."""

import numpy as np
import pytest
import tensorflow as tf

from tfconv.ops import native

HUGE = 2**40
GEOMETRY = {"kernel_size": [3, 3], "strides": [1, 1], "dilations": [1, 1], "padding": "SAME"}
BAD_ATTRIBUTES = [
    {"strides": [0, 1]},
    {"strides": [1]},
    {"strides": [1, 1, 1]},
    {"strides": []},
    {"strides": [1, -1]},
    {"strides": [HUGE, 1]},
    {"dilations": [0, 1]},
    {"dilations": [1]},
    {"dilations": [1, HUGE]},
    {"padding": "EXPLICIT"},
    {"padding": "EXPLICIT", "explicit_paddings": [1, 1, 1]},
    {"padding": "EXPLICIT", "explicit_paddings": [1, 1, 1, -1]},
    {"padding": "EXPLICIT", "explicit_paddings": [1, 1, 1, HUGE]},
    {"padding": "SAME", "explicit_paddings": [1, 1, 1, 1]},
    {"padding": "MIRROR"},
]
BAD_KERNEL_SIZES = [
    {"kernel_size": []},
    {"kernel_size": [3]},
    {"kernel_size": [3, 3, 3]},
    {"kernel_size": [2, 3]},
    {"kernel_size": [0, 3]},
    {"kernel_size": [-3, -3]},
    {"kernel_size": [HUGE, 3]},
    {"kernel_size": [2**16, 2**16]},
]
SHAPES = {
    "x": [2, 4, 5, 6],
    "kernel": [2, 4, 5, 9],
    "features": [2, 4, 5, 7],
    "span": [7, 9],
    "bias": [9],
    "offset": [2, 4, 5, 18],
    "filter": [3, 3, 6, 2],
    "mask": [2, 4, 5, 9],
    "weights": [2, 4, 5, 9],
    "dcolumns": [2, 4, 5, 9, 6],
    "query": [2, 4, 5, 6],
    "key": [2, 4, 5, 6],
    "value": [2, 4, 5, 9],
}
ATTENTION = {"num_heads": 3, "edges": "SHIFTED", "causal": [0, 1], "scale": [3, -2]}
PER_EXAMPLE = {"filter": [2, 3, 3, 6, 2]}
# The inputs of every op, and the shape of the gradient that its gradient op takes.
OPS = {
    "involution": (["x", "kernel"], {}),
    **{
        f"involution_{gradient}": (["x", "kernel", "dy"], {"dy": [2, 4, 5, 6]})
        for gradient in ("grad", "input_grad", "kernel_grad")
    },
    "span_involution": (["x", "features", "span", "bias"], {}),
    **{
        f"span_involution_{gradient}": (
            ["x", "features", "span", "bias", "dy"],
            {"dy": [2, 4, 5, 6]},
        )
        for gradient in ("input_grad", "span_grad")
    },
    "deformable_sample": (["x", "offset", "mask"], {}),
    "deformable_sample_grad": (["x", "offset", "dcolumns", "mask"], {}),
    "deformable_conv": (["x", "offset", "filter", "mask"], {}),
    "deformable_conv_input_grad": (
        ["x", "offset", "filter", "dy", "mask"],
        {"dy": [2, 4, 5, 2]},
    ),
    "deformable_conv_filter_grad": (
        ["x", "offset", "filter", "dy", "mask"],
        {"dy": [2, 4, 5, 2]},
    ),
    "deformable_aggregation": (["x", "offset", "weights"], {}),
    **{
        f"deformable_aggregation_{gradient}": (
            ["x", "offset", "weights", "dy"],
            {"dy": [2, 4, 5, 6]},
        )
        for gradient in ("input_grad", "sampling_grad")
    },
    "local_attention": (["query", "key", "value", "bias"], {"bias": [3, 9]}),
    "local_attention_grad": (
        ["query", "key", "value", "bias", "dy"],
        {"bias": [2, 4, 5, 27], "dy": [2, 4, 5, 9]},
    ),
    "per_example_conv": (["x", "filter"], PER_EXAMPLE),
    "per_example_conv_input_grad": (
        ["x", "filter", "dy"],
        {**PER_EXAMPLE, "dy": [2, 4, 5, 2]},
    ),
    "per_example_conv_filter_grad": (
        ["x", "filter", "dy"],
        {**PER_EXAMPLE, "dy": [2, 4, 5, 2]},
    ),
}


def shapes_of(op):
    names, further = OPS[op]
    return {name: {**SHAPES, **further}[name] for name in names}


def call(module, op, shapes, **attributes):
    """Calls a native op on ones; a mask is a list of at most one tensor."""
    attributes = {**GEOMETRY, **attributes}
    if "filter" in shapes:
        del attributes["kernel_size"]
    inputs = {name: tf.ones(shape) for name, shape in shapes.items()}
    return invoke(module, op, inputs, attributes)


def invoke(module, op, inputs, attributes):
    if "mask" in inputs:
        inputs = {**inputs, "mask": [inputs["mask"]]}
    elif op.startswith("deformable") and "weights" not in inputs:
        inputs = {**inputs, "mask": []}
    elif op.startswith("local_attention"):
        inputs = {**inputs, "bias": [inputs["bias"]]}
        attributes = {**ATTENTION, **attributes}
    return getattr(module, f"tfconv_{op}")(**inputs, **attributes)


@pytest.mark.parametrize("op", OPS)
def test_good_arguments(op, native_module):
    """The starting point of all the others."""
    for tensor in tf.nest.flatten(call(native_module, op, shapes_of(op))):
        assert np.isfinite(tensor).all()


@pytest.mark.parametrize("op", OPS)
def test_bad_attributes(op, native_module):
    for attributes in BAD_ATTRIBUTES + ([] if "filter" in shapes_of(op) else BAD_KERNEL_SIZES):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            call(native_module, op, shapes_of(op), **attributes)
            pytest.fail(f"{attributes} were taken")


@pytest.mark.parametrize("op", [op for op in OPS if "grad" not in op and "att" not in op])
def test_gradients_without_padding(op, native_module):
    """What graphs made elsewhere may ask for: tfconv's own functions give paddings."""
    shapes = {
        name: shape if shape[1:3] != [4, 5] or name == "x" else [2, 2, 3, *shape[3:]]
        for name, shape in shapes_of(op).items()
    }
    rng = np.random.default_rng(0)
    inputs = {name: tf.constant(rng.standard_normal(shape)) for name, shape in shapes.items()}
    results = []
    for padding in ({"padding": "VALID"}, {"padding": "EXPLICIT", "explicit_paddings": [0] * 4}):
        attributes = {**GEOMETRY, **padding}
        if "filter" in shapes:
            del attributes["kernel_size"]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = invoke(native_module, op, inputs, attributes)
        results.append([y, *tape.gradient(y, inputs).values()])
    for actual, expected in zip(*results):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "run time"])
def test_bad_shapes(op, graph, native_module):
    """Each size of each input in turn is wrong; so is each rank.

    In graphs nothing is known of the shapes before run time.
    """
    good = shapes_of(op)
    attributes = {k: v for k, v in GEOMETRY.items() if k != "kernel_size" or "filter" not in good}
    names = list(good)
    traced = tf.function(
        lambda *inputs: invoke(native_module, op, dict(zip(names, inputs)), attributes),
        input_signature=[tf.TensorSpec(None)] * len(names),
        autograph=False,
    )
    for name, shape in good.items():
        for bad in wrong(shape):
            shapes = {**good, name: bad}
            if compatible(op, shapes):
                continue
            with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
                if graph:
                    traced(*(tf.ones(s) for s in shapes.values()))
                else:
                    call(native_module, op, shapes)
                pytest.fail(f"{name} of shape {bad} was taken")


def wrong(shape):
    """Shapes that differ from ``shape`` in one size, or in rank."""
    for axis, size in enumerate(shape):
        for other in (0, size - 1, size + 1):
            yield [*shape[:axis], other, *shape[axis + 1 :]]
    yield shape[:-1]
    yield [*shape, 1]
    yield []


# Sizes that may change alone: (input, axis, at least).
FREE = {
    "involution": [("x", 3, 0)],
    "span_involution": [("x", 3, 0)],
    "local_attention": [("value", 3, 0)],
    "deformable_sample": [("x", 3, 0)],
    "deformable_conv": [("filter", 3, 0)],
    "deformable_aggregation": [("x", 3, 0)],
    "per_example_conv": [
        *[("x", axis, 0) for axis in (1, 2)],
        *[("filter", axis, 1) for axis in (1, 2)],
        ("filter", 4, 0),
    ],
    "per_example_conv_input_grad": [("filter", axis, 1) for axis in (1, 2)],
    "per_example_conv_filter_grad": [("filter", axis, 1) for axis in (1, 2)],
}


def compatible(op, shapes):
    """Whether shapes are right after all: with other channels, or with other filters."""
    for name, axis, least in FREE.get(op, []):
        good, shape = shapes_of(op), shapes[name]
        if len(shape) == len(good[name]) and shape[axis] >= least:
            restored = {**shapes, name: [*shape[:axis], good[name][axis], *shape[axis + 1 :]]}
            if restored == good:
                return True
    return False


@pytest.mark.parametrize("op", OPS)
def test_shape_functions_of_unknown_inputs(op, native_module):
    """Nothing known gives nothing wrong: the rank at most, no size."""
    names = list(shapes_of(op))
    attributes = {k: v for k, v in GEOMETRY.items() if k != "kernel_size" or "filter" not in names}
    traced = tf.function(
        lambda *inputs: invoke(native_module, op, dict(zip(names, inputs)), attributes),
        autograph=False,
    )
    traced = traced.get_concrete_function(*[tf.TensorSpec(None)] * len(names))
    for shape in tf.nest.flatten(traced.output_shapes):
        assert shape.rank is None or all(size in (None, 9) for size in shape.as_list())
    results = traced(*(tf.ones(shape) for shape in shapes_of(op).values()))
    expected = call(native_module, op, shapes_of(op))
    for actual, other in zip(tf.nest.flatten(results), tf.nest.flatten(expected)):
        np.testing.assert_array_equal(actual, other)


def test_shape_functions_know_what_can_be_known(native_module):
    attributes = {**GEOMETRY, "strides": [2, 1]}
    traced = tf.function(
        lambda x, kernel: native_module.tfconv_involution(x=x, kernel=kernel, **attributes)
    ).get_concrete_function(tf.TensorSpec([None, 7, None, 6]), tf.TensorSpec([2, None, 5, None]))
    assert traced.output_shapes.as_list() == [2, 4, 5, 6]
    traced = tf.function(
        lambda x, offset: native_module.tfconv_deformable_sample(
            x=x, offset=offset, mask=[], **attributes
        )
    ).get_concrete_function(tf.TensorSpec([None, 7, None, 6]), tf.TensorSpec([2, None, 5, None]))
    assert traced.output_shapes.as_list() == [2, 4, 5, 9, 6]


@pytest.mark.parametrize(
    "attributes",
    [
        {"num_heads": 0},
        {"num_heads": HUGE},
        {"num_heads": 4},
        {"edges": "SAME"},
        {"causal": [1]},
        {"causal": [0, 2]},
        {"scale": [1]},
        {"scale": [1, HUGE]},
        {"scale": [1, -(2**63)]},
        {"dilations": [1, 2]},  # shifted windows of five pixels need six
    ],
)
@pytest.mark.parametrize("op", ["local_attention", "local_attention_grad"])
def test_bad_attributes_of_attention(op, attributes, native_module):
    attributes = {"causal": [0, 0], **attributes}
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        call(native_module, op, shapes_of(op), **attributes)


def test_two_masks(native_module):
    x, offset, mask = (tf.ones(SHAPES[name]) for name in ("x", "offset", "mask"))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        native_module.tfconv_deformable_sample(x=x, offset=offset, mask=[mask, mask], **GEOMETRY)


@pytest.mark.parametrize("dtype", [tf.int32, tf.complex64, tf.uint8])
def test_other_data_types(dtype, native_module):
    x, kernel = (tf.cast(tf.ones(SHAPES[name]), dtype) for name in ("x", "kernel"))
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.NotFoundError, TypeError)):
        native_module.tfconv_involution(x=x, kernel=kernel, **GEOMETRY)


@pytest.mark.parametrize(
    "archs, gpus, serves",
    [
        (["80"], [], True),
        (["80", "75", "100a"], [(7, 5), (9, 0)], True),
        (["80", "100a"], [(9, 0), (7, 5)], False),
        (["80"], [(8, 0), None], True),
        ([], [(3, 5)], True),
    ],
)
def test_gpus_that_the_library_has_code_for(archs, gpus, serves, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": gpu} if gpu else {},
    )
    assert native._serves_gpus(archs) is serves
