"""Bad arguments, every one: what a layer refuses, it names, and says what it got."""

import inspect
import re

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras

NO_LAYER = {"class_name": "NoSuchThing", "config": {}}
ABOVE_ZERO = [0, -1, 1.5, "3", True, np.True_, None, [2], np.ones(1, int)]
PER_AXIS = [0, -1, 1.5, "33", b"33", True, None, [], [0], (1, 1, 1, 1), {2, 3}, np.ones(9, int)]
PADDINGS = ["most", "", b"same", -1, 1.5, True, None, [], (1, 1, 1, 1), ((1, 2, 3),), ((0, -1),)]
BOOLEANS = ["yes", "", 0, 1, 1.0, None, [True]]
NAMES = ["nonsense", "", 1, True, ["auto"], b"auto"]
BY_KERAS = ["nonsense", "", 3.5, True, [], {}, NO_LAYER, b"relu"]
WEIGHTS = ["kernel", "bias", "depthwise", "pointwise", "activity", "offset", "embedding"]
NUMBERS = ["3", True, [], float("nan"), float("inf"), -1e-9, 1j]

# Values that are refused, by the argument's name. None is refused where it stands here only.
BAD_VALUES = {
    "filters": ABOVE_ZERO,
    "units": ABOVE_ZERO,
    "kernel_size": PER_AXIS,
    "strides": PER_AXIS,
    "padding": PADDINGS,
    "output_padding": [-1, 1.5, "1", True, [], [-1], (0, 0, 0, 0)],
    "padding_mode": [*NAMES, "valid", None],
    "lora_rank": [value for value in ABOVE_ZERO if value is not None],
    "lora_alpha": [*NUMBERS, 0],
    "data_format": ["last", "", 1, True, ["channels_last"]],
    "dilation_rate": PER_AXIS,
    "groups": ABOVE_ZERO,
    "depth_multiplier": ABOVE_ZERO,
    "activation": BY_KERAS,
    "gate_activation": BY_KERAS,
    "routing_activation": BY_KERAS,
    "use_bias": BOOLEANS,
    "num_experts": ABOVE_ZERO,
    "execution": [*NAMES, None],
    "temperature": [*NUMBERS, 0, None],
    "kernel_rank": ABOVE_ZERO,
    "ranks": [0, -1, 1.5, "33", True, None, [], (2,), (1, 2, 3), (2, 0), {2, 3}],
    "gate": [*NAMES, None],
    "share_kernel": BOOLEANS,
    "group_channels": [value for value in ABOVE_ZERO if value is not None],
    "reduction_ratio": ABOVE_ZERO,
    "batch_norm_momentum": [*NUMBERS, 1.1, None],
    "batch_norm_epsilon": [*NUMBERS, None],
    "num_heads": ABOVE_ZERO,
    "key_dim": ABOVE_ZERO,
    "value_dim": [value for value in ABOVE_ZERO if value is not None],
    "relative_position_bias": BOOLEANS,
    "edges": [*NAMES, None],
    "causal": [*BOOLEANS[:-1], [], [True] * 4, [0], "no"],
    "relative_positions": NAMES,
    "dropout": [*NUMBERS, 1.1, None],
    "seed": [1.5, "33", True, (2,), [], np.nan],
    "inverse": BOOLEANS,
    "offset_groups": ABOVE_ZERO,
    "modulated": BOOLEANS,
    "offset_learning_rate_multiplier": [*NUMBERS, None],
    "mask_scale": [*NUMBERS, 0, None],
    "depthwise_kernel_size": [value for value in PER_AXIS if value is not None],
    "normalize_features": BOOLEANS,
    "softmax": BOOLEANS,
    "offset_scale": [*NUMBERS, 0, None],
    "remove_center": BOOLEANS,
    "center_feature_scale": BOOLEANS,
    "project_inputs": BOOLEANS,
    "project_outputs": BOOLEANS,
    "transform": ["relu", None, 3, [], {}, [None], ["relu", "relu"], keras.layers.Dense],
    "merge": [*NAMES, None],
    "squeeze_channels": [value for value in ABOVE_ZERO if value is not None],
    "normalization": NAMES,
    "epsilon": [*NUMBERS, None],
    **{
        f"{weight}_{kind}": BY_KERAS
        for weight in (
            "kernel",
            "bias",
            "depthwise",
            "pointwise",
            "activity",
            "offset",
            "embedding",
            "routing",
            "routing_bias",
            "attention",
            "attention_bias",
            "offset_bias",
            "position_bias",
            "gamma",
            "beta",
            "weighted_sum",
        )
        for kind in ("initializer", "regularizer", "constraint")
    },
}
NONE_IS_ALLOWED = {
    ("DeformableAggregation", "groups"),
    ("Involution", "groups"),
    ("DeformableAggregation", "filters"),
    ("SelfAttention", "filters"),
}

# Arguments that a base class has and a layer sets itself: giving them is an error.
SET_BY_THE_LAYER = {
    "Involution": {"use_bias"},
    "PointwiseConv": {"kernel_size"},
    "LocalSelfAttention": {"padding", "padding_mode"},
    "SelfAttention": {"kernel_size", "strides", "padding", "dilation_rate", "padding_mode"},
    "GatedConv": {"lora_rank", "lora_alpha"},
    "FlattenedConv": {"lora_rank", "lora_alpha"},
    "LowRankConv": {"lora_rank", "lora_alpha"},
    "TuckerConv": {"lora_rank", "lora_alpha"},
    "DepthwiseConv": {"kernel_initializer", "kernel_regularizer", "kernel_constraint"},
    "SeparableConv": {
        *("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
        *("lora_rank", "lora_alpha"),
    },
}
# Arguments that are in no signature.
TAKEN_BESIDES = {
    "DepthwiseCondConv": {"depthwise_initializer", "depthwise_regularizer", "depthwise_constraint"},
}
NEEDED = {
    "filters": 6,
    "kernel_size": 3,
    "units": 4,
    "groups": 2,
    "kernel_rank": 2,
    "ranks": 2,
    "num_heads": 2,
    "key_dim": 3,
    "transform": keras.layers.Dense(3),
}
NEEDED_THOUGH_OPTIONAL = {
    "SplitTransformMerge": ["groups"],
    "LocalSelfAttention": ["num_heads"],
}


def family(name):
    """A layer's name without its rank."""
    return re.sub(r"[123]D", "", name)


def parameters_of(name):
    """The parameters of a layer's constructor but for Keras's own."""
    found = inspect.signature(getattr(tfconv, name)).parameters.values()
    return {p.name: p for p in found if p.kind is not p.VAR_KEYWORD}


def arguments_of(name):
    """Names of all arguments that a layer takes, without Keras's own."""
    return sorted({*parameters_of(name), *TAKEN_BESIDES.get(family(name), ())})


def layer_of(name, /, **arguments):
    """A layer, with values for the arguments that it has to be given."""
    needed = set(NEEDED_THOUGH_OPTIONAL.get(family(name), ()))
    for argument, parameter in parameters_of(name).items():
        if parameter.default is parameter.empty:
            needed.add(argument)
    return getattr(tfconv, name)(**{**{n: NEEDED[n] for n in needed}, **arguments})


def assert_says(error, name, value):
    """The error names the argument in backquotes and ends with what it received."""
    text = str(error)
    assert f"`{name}`" in text, text
    assert f"{name}={value!r}" in text.split("Received: ", 1)[-1], text
    assert "Received: " in text, text


LAYER_ARGUMENTS = [(n, argument) for n in tfconv.layers.__all__ for argument in arguments_of(n)]


def test_arguments_are_found():
    """What the table below is made from: arguments of a layer, of its bases, of its mixins."""
    assert {"num_experts", "filters", "use_bias", "strides"} < set(arguments_of("CondConv1D"))
    own = ["activity_regularizer", "data_format", "groups", "inverse"]
    assert arguments_of("ChannelShuffle") == own
    assert "kernel_size" not in arguments_of("PointwiseConv2D")


@pytest.mark.parametrize("name, argument", LAYER_ARGUMENTS)
def test_bad_values(name, argument):
    values = BAD_VALUES[argument]  # a new argument needs a row
    if (family(name), argument) in NONE_IS_ALLOWED:
        values = [value for value in values if value is not None]
    for value in values:
        with pytest.raises(ValueError) as caught:
            layer_of(name, **{argument: value})
        assert_says(caught.value, argument, value)


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_arguments_that_a_layer_does_not_take(name):
    layer_of(name)  # is well without
    for argument in {"nonsense", *SET_BY_THE_LAYER.get(family(name), ())}:
        with pytest.raises((TypeError, ValueError), match=argument):
            layer_of(name, **{argument: 1})


@pytest.mark.parametrize(
    "name", [n for n in tfconv.layers.__all__ if getattr(tfconv, n).by_position is not None]
)
def test_arguments_by_position(name):
    """Where Keras has no layer of the name, only what cannot be mistaken goes without a name."""
    layer_class = getattr(tfconv, name)
    names = list(inspect.signature(layer_class).parameters)
    most = layer_class.by_position
    taken = f"`{names[0]}`.* by position" if most else "its arguments"
    with pytest.raises(TypeError, match=f"{name} takes {taken}.* by name, .*`{names[most]}=3`"):
        layer_class(*[3] * (most + 1))


@pytest.mark.parametrize(
    "name, arguments, named",
    [
        ("Conv2D", {"padding": "causal"}, ["padding"]),
        ("Conv3DTranspose", {"padding": "causal"}, ["padding"]),
        ("Involution3D", {"padding": "causal"}, ["padding"]),
        ("DeformableConv3D", {"padding": "causal"}, ["padding"]),
        ("Conv1D", {"filters": 5, "groups": 2}, ["filters", "groups"]),
        ("LowRankConv2D", {"kernel_rank": 3, "groups": 2}, ["kernel_rank", "groups"]),
        ("TuckerConv2D", {"ranks": (2, 3), "groups": 2}, ["ranks", "groups"]),
        ("GatedConv2D", {"activation": "relu", "gate": "glu"}, ["activation", "gate"]),
        ("Involution2D", {"groups": 2, "group_channels": 2}, ["groups", "group_channels"]),
        (
            "DeformableAggregation2D",
            {"groups": 2, "group_channels": 2},
            ["groups", "group_channels"],
        ),
        (
            "DeformableAggregation2D",
            {"remove_center": True, "kernel_size": (3, 2)},
            ["remove_center"],
        ),
        ("DeformableAggregation1D", {"remove_center": True, "kernel_size": 1}, ["remove_center"]),
        ("LocalSelfAttention2D", {"filters": 5, "num_heads": 2}, ["filters", "num_heads"]),
        ("LocalSelfAttention2D", {"filters": 4, "num_heads": 4}, ["filters", "num_heads"]),
        ("LocalSelfAttention3D", {"filters": 4, "num_heads": 2}, ["filters", "num_heads"]),
        (
            "LocalSelfAttention1D",
            {"kernel_size": (3,), "strides": (4,)},
            ["strides", "kernel_size"],
        ),
        ("Conv2DTranspose", {"output_padding": (0, 2), "strides": (3, 2)}, ["output_padding"]),
        ("SplitTransformMerge", {"transform": [NEEDED["transform"]], "groups": 2}, ["groups"]),
    ],
)
def test_arguments_that_do_not_go_together(name, arguments, named):
    with pytest.raises(ValueError, match="Received: ") as caught:
        layer_of(name, **arguments)
    for argument in named:
        assert_says(caught.value, argument, arguments[argument])


def test_errors_of_keras_are_kept():
    with pytest.raises(ValueError) as caught:
        tfconv.Conv2D(4, 3, activation="nonsense")
    assert "nonsense" in str(caught.value.__cause__)


# What is taken.


def test_numbers_and_booleans_of_numpy():
    layer = tfconv.GroupConv2D(
        np.int64(6),
        np.array([3, 2]),
        strides=np.int32(2),
        padding=np.array([[0, 1], [1, 0]]),
        groups=np.array(2),
        use_bias=np.False_,
        share_kernel=np.True_,
    )
    config = layer.get_config()
    plain = tfconv.GroupConv2D(
        6, (3, 2), strides=2, padding=((0, 1), (1, 0)), groups=2, use_bias=False, share_kernel=True
    ).get_config()
    assert {**config, "name": ""} == {**plain, "name": ""}
    assert type(config["filters"]) is int and type(config["use_bias"]) is bool
    assert tfconv.WeightedSum(epsilon=np.float32(0.5)).epsilon == 0.5


@pytest.mark.parametrize(
    "name, argument", [row for row in LAYER_ARGUMENTS if row[1].endswith("_initializer")]
)
def test_no_initializer_is_the_default(name, argument):
    """None, which Keras takes too."""

    def config(**arguments):
        config = layer_of(name, name="layer", **arguments).get_config()
        return config[argument if argument in config else f"kernel_{argument.split('_')[1]}"]

    assert config(**{argument: None}) == config()


# Inputs.

SPATIAL = [name for name in tfconv.layers.__all__ if hasattr(getattr(tfconv, name), "rank")]
WITH_WINDOWS = [
    name
    for name in SPATIAL
    if not {"kernel_size", "padding"} & SET_BY_THE_LAYER.get(family(name), set())
]


def shape_of(name, channels=6, size=7):
    """An input shape that a layer takes."""
    rank = getattr(getattr(tfconv, name), "rank", 2)
    return (None, *[size] * rank, channels)


@pytest.mark.parametrize("name", SPATIAL)
def test_inputs_of_another_rank(name):
    shape = shape_of(name)
    for bad in (shape[1:], (None, *shape)):
        with pytest.raises(ValueError, match="rank.*Received: input_shape=") as caught:
            layer_of(name).build(bad)
        assert str(bad) in str(caught.value)
        with pytest.raises(ValueError, match=f"ndim=.*{len(bad)}"):
            layer_of(name)(tf.ones([2 if size is None else size for size in bad]))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", [name for name in tfconv.layers.__all__ if name != "WeightedSum"])
def test_inputs_of_unknown_channels(name, data_format):
    takes_format = "data_format" in arguments_of(name)
    if not takes_format and data_format == "channels_first":
        return
    shape = list(shape_of(name))
    shape[-1 if data_format == "channels_last" else 1] = None
    layer = layer_of(name, **({"data_format": data_format} if takes_format else {}))
    with pytest.raises(ValueError, match="channel axis.*Received: input_shape=") as caught:
        layer.build(tuple(shape))
    assert str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize(
    "name, argument",
    [row for row in LAYER_ARGUMENTS if row[1] in ("groups", "group_channels", "offset_groups")],
)
def test_channels_that_make_no_groups(name, argument):
    layer = layer_of(name, **{argument: 2})
    shape = shape_of(name, channels=7)
    with pytest.raises(ValueError, match=f"`{argument}`.*Received: {argument}=2") as caught:
        layer.build(shape)
    assert f"input_shape={shape}" in str(caught.value)


def test_values_that_would_make_groups():
    """Those near what was given, that suit the filters too."""
    for layer, channels, named in (
        (
            tfconv.Involution2D(7),
            3,
            "as 1 or 3 would, or give `groups`. Received: group_channels=16",
        ),
        (tfconv.Involution2D(7), 8, "as 1, 2, 4 or 8 would, or give `groups`"),
        (tfconv.Involution2D(7, groups=5), 7, "as 1 or 7 would. Received: groups=5"),
        (tfconv.Conv2D(6, 3, groups=3), 8, "as 1 or 2 would. Received: groups=3"),
        (tfconv.Conv2D(6, 3, groups=2), 5, "as 1 would. Received: groups=2"),
        (tfconv.ChannelShuffle(7), 720, "as 4, 5, 6, 8, 9 or 10 would. Received: groups=7"),
    ):
        with pytest.raises(ValueError, match=re.escape(named)):
            layer.build((None, 8, 8, channels))


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_inputs_of_integers(name):
    """One line, however the layer is called; TensorFlow's own shows the weights."""
    shape = shape_of(name)[1:]

    def called(x):
        return layer_of(name)([x] * 2 if name == "WeightedSum" else x)

    given = {
        "uint8": lambda: called(np.ones((1, *shape), "uint8")),
        "int32": lambda: called(tf.ones((1, *shape), tf.int32)),
        "bool": lambda: called(keras.Input(shape, dtype="bool")),
        "int64": lambda: tf.function(called)(tf.ones((1, *shape), tf.int64)),
        "complex64": lambda: called(tf.ones((1, *shape), tf.complex64)),
        "string": lambda: called(tf.fill((1, *shape), "1.0")),
    }
    for dtype, call in given.items():
        if name == "ChannelShuffle":
            call()
            continue
        with pytest.raises(ValueError, match=f"cast.*rescale.*Received: input of dtype {dtype}"):
            call()
    if name != "ChannelShuffle":
        with pytest.raises(ValueError) as caught:
            given["uint8"]()
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{name} takes floats: ") and len(line) < 300


@pytest.mark.parametrize("name", tfconv.layers.__all__)
def test_inputs_that_are_not_dense(name):
    x = tf.ones((2, *shape_of(name)[1:]))
    for given in (tf.RaggedTensor.from_tensor(x), tf.sparse.from_dense(x)):
        with pytest.raises(ValueError, match=f"Received: {type(given).__name__} in") as caught:
            layer_of(name)([given] * 2 if name == "WeightedSum" else given)
        assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="takes tensors or arrays.*Received: 1.0 in") as caught:
        layer_of(name)(x.numpy().tolist())
    assert len(str(caught.value)) < 300


METHODS = (
    *("attention", "gates", "kernels", "offsets_and_mask", "offsets_and_weights"),
    "routing_weights",
)


@pytest.mark.parametrize(
    "name, method",
    [(n, m) for n in tfconv.layers.__all__ for m in METHODS if hasattr(getattr(tfconv, n), m)],
)
def test_inputs_of_other_methods(name, method):
    """They are taken in any type of floats and refused as the layer's call refuses them."""
    layer = layer_of(name, dtype="mixed_bfloat16")
    x = np.ones((2, *shape_of(name, channels=16)[1:]))
    with pytest.raises(ValueError, match=f"{name} has no weights yet.*Received: built=False"):
        getattr(layer, method)(x)
    layer(x)
    for given in (x, x.astype(np.float16)):
        found = tf.nest.flatten(getattr(layer, method)(given))
        assert {part.dtype for part in found} == {tf.bfloat16}
    for given, named in (
        (x.astype(int), "takes floats"),
        (x.tolist(), "takes tensors or arrays"),
        (x.ravel(), "ndim"),
        (x[..., :8], "axis -1"),
    ):
        with pytest.raises(ValueError, match=named) as caught:
            getattr(layer, method)(given)
        assert len(str(caught.value)) < 300
    symbolic = keras.Input(x.shape[1:])
    if method in ("attention", "kernels", "routing_weights"):
        assert getattr(layer, method)(symbolic).shape[0] is None
    else:
        with pytest.raises(ValueError, match="takes tensors.*Received: the Keras tensor"):
            getattr(layer, method)(symbolic)


def test_inputs_of_integers_that_are_right():
    inside = keras.Sequential([keras.layers.Rescaling(0.5), keras.layers.Conv1D(2, 1)])
    for transform, x in (
        (keras.layers.Embedding(4, 2), tf.constant([[1, 3]])),
        (inside, tf.ones([1, 3, 2], tf.uint8)),
    ):
        y = tfconv.SplitTransformMerge(transform, groups=2)(x)
        assert y.shape[-1] == 4 and y.dtype == tf.float32
    moving = tfconv.blocks.MirrorPadding2D(), tfconv.blocks.ChannelSplit(), tfconv.ChannelShuffle(2)
    for layer in moving:
        x = keras.Input((2, 2, 2), dtype="uint8")
        for given in (tf.ones([1, 2, 2, 2], tf.uint8), x):  # a model tells the same types
            assert {tf.as_dtype(y.dtype) for y in tf.nest.flatten(layer(given))} == {tf.uint8}
    y = tfconv.ChannelShuffle(2)(tf.constant([[1, 2, 3, 4]]))
    assert y.numpy().tolist() == [[1, 3, 2, 4]] and y.dtype == tf.int32
    # What stands beside the input is cast.
    layer = tfconv.CondDense(2, num_experts=2)
    x = tf.ones([1, 3])
    y = layer(x, tf.constant([[1, 0]]))
    assert np.array_equal(y, layer(x, tf.constant([[1.0, 0.0]])))


@pytest.mark.parametrize(
    "name", [n for n in WITH_WINDOWS if not ("Transpose" in n or n.startswith("LocallyConnected"))]
)
def test_images_without_pixels(name):
    layer, (_, *sizes, channels) = layer_of(name, padding="same"), shape_of(name, channels=16)
    x = tf.ones([1, 0, *sizes[1:], channels])
    with pytest.raises(ValueError, match="needs at least one pixel.*Received: input_shape=.1, 0, "):
        layer(x)


@pytest.mark.dear
@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_inputs_smaller_than_the_kernel(name):
    """TensorFlow gives an empty output or, in a compiled function, none that makes sense."""
    padding = "full" if name.endswith("Transpose") else "valid"  # what cuts off the most
    named = "padding" if name.endswith("Transpose") else "kernel_size"
    rank = getattr(tfconv, name).rank
    variants = [{}, {"strides": 2, "dilation_rate": 2}]
    for more in variants[: 1 if rank == 3 else 2]:  # three axes take long to trace
        more = {"kernel_size": 3, "padding": padding, **more}
        layer = layer_of(name, **more)
        small = shape_of(name, channels=16, size=2)
        with pytest.raises(ValueError, match=f"`{named}`.*Received: size 2"):
            layer.compute_output_shape(small)
        with pytest.raises(ValueError, match=f"`{named}`.*Received: size 2"):
            layer_of(name, **more)(tf.ones((2, *small[1:])))
        if name.startswith("LocallyConnected"):
            continue  # takes no unknown sizes

        @tf.function(input_signature=[tf.TensorSpec((None,) * (rank + 1) + (16,))])
        def traced(x, layer=layer):
            return layer(x)

        assert traced(tf.ones((2, *shape_of(name, channels=16)[1:]))).shape[0] == 2
        for size in (1, 2):
            with pytest.raises(tf.errors.InvalidArgumentError, match="`kernel_size`.*Received: "):
                traced(tf.ones((2, *[size] * rank, 16)))


WITH_ROUTING = [
    name for name in tfconv.layers.__all__ if "routing_activation" in arguments_of(name)
]


@pytest.mark.parametrize("name", WITH_ROUTING)
def test_routing_weights(name):
    x = tf.ones([2, *shape_of(name)[1:]])
    for shape in ([2, 4], [3, 3], [2, 3, 1], [3], [], [0, 3]):
        layer = layer_of(name, num_experts=3)
        with pytest.raises(ValueError, match="`routing_weights` must have the shape.*Received: "):
            layer(x, tf.ones(shape))
    with pytest.raises(ValueError) as caught:
        layer(x, np.ones([2, 50, 3]))
    assert len(str(caught.value)) < 900  # Keras shows arrays as they are
    layer(x, tf.ones([2, 3]))
    with pytest.raises(ValueError, match="`routing_weights` given.*Received: routing_weights=None"):
        layer(x)
    specs = [tf.TensorSpec([None, *x.shape[1:]]), tf.TensorSpec([None, None])]
    traced = tf.function(lambda x, routing: layer(x, routing), input_signature=specs)
    assert traced(x, tf.ones([2, 3])).shape[0] == 2
    for shape in ([2, 4], [3, 3], [1, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`routing_weights`.*Received: "):
            traced(x, tf.ones(shape))


@pytest.mark.parametrize(
    "offset, mask, named",
    [
        ((2, 5, 5, 17), None, "offset"),
        ((2, 7, 7, 18), None, "offset"),
        ((3, 5, 5, 18), None, "offset"),
        ((2, 5, 5, 4 * 18), None, "offset"),  # four groups of six channels
        ((2, 5, 18), None, "offset"),
        ((2, 5, 5, 18), (2, 5, 5, 18), "mask"),
        ((2, 5, 5, 36), (2, 5, 5, 9), "mask"),
        ((2, 5, 5, 18), (2, 5, 9), "mask"),
        (None, (2, 5, 5, 9), "`modulation`"),
    ],
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_offsets_and_masks(offset, mask, named, data_format):
    def tensor(shape):
        if shape is None:
            return None
        x = tf.ones(shape)
        return tf.experimental.numpy.moveaxis(x, -1, 1) if data_format[9:] == "first" else x

    layer = tfconv.DeformableConv2D(4, 3, data_format=data_format)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=named) as caught:
        layer(tensor((2, 7, 7, 6)), offset=tensor(offset), modulation=tensor(mask))
    assert re.search("shape|Received: ", str(caught.value))


@pytest.mark.parametrize(
    "shapes", [[(2, 3), (2, 1)], [(2,), (2, 1)], [(2, 3), (2, 3), (1, 3)], [], (2, 3)]
)
def test_inputs_that_do_not_add_up(shapes):
    listed = isinstance(shapes, list)
    inputs = [tf.ones(shape) for shape in shapes] if listed else tf.ones(shapes)
    for method in ("build", "compute_output_shape"):
        with pytest.raises(ValueError, match="a list of inputs of one shape.*Received: "):
            getattr(tfconv.WeightedSum(), method)(shapes)
    with pytest.raises(ValueError, match="a list of inputs of one shape.*Received: "):
        tfconv.WeightedSum()(inputs)


def test_inputs_by_name_do_not_add_up():
    with pytest.raises(ValueError, match="a list of inputs of one shape.*Received: "):
        tfconv.WeightedSum()({"a": tf.ones([2, 3]), "b": tf.ones([2, 3])})


def test_another_number_of_inputs():
    layer = tfconv.WeightedSum()
    layer([tf.ones([1, 2])] * 3)
    with pytest.raises(ValueError, match="list of 3 inputs.*Received: "):
        layer.call([tf.ones([1, 2])] * 2)


@pytest.mark.parametrize(
    "name, arguments, method",
    [
        ("SelfAttention2D", None, "attention"),
        ("LocalSelfAttention2D", (16, 3), "attention"),
        ("DynamicConv2D", (2, 3), "attention"),
        ("CondConv2D", (2, 3), "routing_weights"),
        ("CondDense", (2,), "routing_weights"),
        ("Involution2D", (3,), "kernels"),
        ("GatedConv2D", (2, 3), "gates"),
        ("DeformableConv2D", (2, 3), "offsets_and_mask"),
        ("DeformableAggregation2D", (3,), "offsets_and_weights"),
    ],
)
def test_methods_before_there_are_weights(name, arguments, method):
    layer = layer_of(name) if arguments is None else getattr(tfconv, name)(*arguments)
    with pytest.raises(ValueError, match=f"{name} has no weights.*Received: "):
        getattr(layer, method)(tf.ones([1, 4, 4, 16]))


@pytest.mark.parametrize(
    "layer",
    [
        tfconv.FlattenedConv2D(2, 3),
        tfconv.LowRankConv2D(2, 3, kernel_rank=2),
        tfconv.TuckerConv2D(2, 3, ranks=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_kernels_before_there_are_weights(layer):
    with pytest.raises(ValueError, match=f"{type(layer).__name__} has no weights.*Received: "):
        layer.effective_kernel()


def test_weights_of_a_sum_before_there_are_any():
    with pytest.raises(ValueError, match="WeightedSum has no weights.*Received: "):
        tfconv.WeightedSum().normalized_weights()


@pytest.mark.parametrize("name", ["CondDense", "ChannelShuffle", "SplitTransformMerge"])
def test_inputs_without_channels(name):
    with pytest.raises(ValueError, match="min_ndim=2"):
        layer_of(name)(tf.ones([6]))


def test_squeeze_excite_needs_a_spatial_axis():
    with pytest.raises(ValueError, match="min_ndim=3"):
        tfconv.SqueezeExcite()(tf.ones([2, 6]))
