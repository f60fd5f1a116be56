"""Every layer over one table: any batch, the batch of none included, and numeric gradients.

What a layer computes is held against references in the tests of its family; here is what all have
in common. Everything is in float64, with random weights, in inference.
"""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras

CHANNELS = 4

# Spatial sizes and geometries: even and odd kernels, strides together with dilation, every kind
# of padding, one pixel, inputs smaller than the kernel.
GEOMETRIES = {
    1: [
        ((5,), {"kernel_size": 3}),
        ((6,), {"kernel_size": 2, "strides": 2, "padding": "same"}),
        ((5,), {"kernel_size": 3, "strides": 2, "dilation_rate": 2, "padding": "same"}),
        ((4,), {"kernel_size": 2, "dilation_rate": 3, "padding": "causal"}),
        ((1,), {"kernel_size": 3, "strides": 2, "padding": "full"}),
        ((2,), {"kernel_size": 4, "strides": 3, "padding": 2}),
        ((4,), {"kernel_size": 2, "strides": 2, "dilation_rate": 3, "padding": ((0, 2),)}),
    ],
    2: [
        ((4, 5), {"kernel_size": 3}),
        ((5, 4), {"kernel_size": (2, 3), "strides": (2, 1), "padding": "same"}),
        ((5, 4), {"kernel_size": (3, 2), "strides": 2, "dilation_rate": (2, 1), "padding": "same"}),
        ((1, 3), {"kernel_size": (3, 2), "strides": (1, 2), "padding": "full"}),
        ((1, 1), {"kernel_size": 3, "padding": "same"}),
        ((2, 3), {"kernel_size": (4, 5), "strides": (2, 3), "padding": 2}),
        (
            (4, 3),
            {
                "kernel_size": 2,
                "strides": 2,
                "dilation_rate": (1, 2),
                "padding": ((0, 2), (1, 0)),
            },
        ),
    ],
    3: [
        ((3, 2, 3), {"kernel_size": (2, 1, 3)}),
        ((3, 3, 2), {"kernel_size": (2, 2, 1), "strides": (2, 1, 1), "padding": "same"}),
        (
            (3, 2, 2),
            {"kernel_size": 2, "strides": 2, "dilation_rate": (2, 1, 1), "padding": "same"},
        ),
        ((1, 1, 2), {"kernel_size": (2, 1, 3), "padding": "full"}),
        ((1, 2, 1), {"kernel_size": (1, 3, 3), "dilation_rate": 2, "padding": "same"}),
        (
            (2, 2, 3),
            {
                "kernel_size": 2,
                "dilation_rate": (1, 1, 2),
                "padding": ((1, 0), (0, 1), (2, 0)),
            },
        ),
    ],
}

# Options of the families with those geometries; rows take them in turn.
PLAIN = [
    {"filters": 6},
    {"filters": 6, "groups": 2, "use_bias": False},
    {"filters": 5, "activation": "tanh", "data_format": "channels_first"},
    {"filters": 8, "groups": 4},
]
DEPTHWISE = [
    {},
    {"depth_multiplier": 2, "use_bias": False},
    {"depth_multiplier": 3, "activation": "tanh", "data_format": "channels_first"},
]
ROUTING = {"routing_weights": (3,)}
MIXED = [
    {"num_experts": 3, "execution": "mix_kernels"},
    {"num_experts": 3, "execution": "mix_outputs", "call": ROUTING},
    {"num_experts": 2},
]
OPTIONS = {
    "Conv{}D": PLAIN,
    "Conv{}DTranspose": PLAIN,
    "PointwiseConv{}D": PLAIN,
    "DepthwiseConv{}D": DEPTHWISE,
    "SeparableConv{}D": [{"filters": 5, **options} for options in DEPTHWISE],
    "CondConv{}D": [{**a, **b} for a, b in zip(itertools.cycle(MIXED), PLAIN)],
    "DynamicConv{}D": [
        {"num_experts": 3, "temperature": 2.0, "execution": "mix_kernels", **PLAIN[0]},
        {"num_experts": 2, "temperature": 0.5, "execution": "mix_outputs", **PLAIN[1]},
        {"num_experts": 2, "reduction_ratio": 1, **PLAIN[2]},
    ],
    "FlattenedConv{}D": PLAIN,
    "LowRankConv{}D": [{"kernel_rank": 4, **options} for options in PLAIN],
    "TuckerConv{}D": [
        {"ranks": (2, 3), **PLAIN[0]},
        {"ranks": (2, 4), **PLAIN[1]},
        {"ranks": 3, **PLAIN[2]},
    ],
    "GatedConv{}D": [
        PLAIN[0],
        {"gate": "feature", **PLAIN[1]},
        {"gate": "feature", **PLAIN[2]},
        PLAIN[3],
    ],
    "GroupConv{}D": [
        {"filters": 6, "groups": 2},
        {"filters": 6, "groups": 2, "share_kernel": True, "use_bias": False},
        {"filters": 4, "groups": 4, "activation": "tanh", "data_format": "channels_first"},
        {"filters": 8, "groups": 4, "share_kernel": True, "data_format": "channels_first"},
    ],
    "DeformableConv{}D": [
        {"offset_groups": 2, **PLAIN[0]},
        {"modulated": False, **PLAIN[1]},
        {"offset_groups": 4, **PLAIN[2]},
        PLAIN[3],
    ],
    "DeformableAggregation{}D": [
        {"groups": 2, "depthwise_kernel_size": 2},
        {"group_channels": 1, "center_feature_scale": True, "activation": "tanh"},
        {
            **{"groups": 1, "depthwise_kernel_size": None, "normalize_features": False},
            **{"softmax": False, "offset_scale": 0.7, "data_format": "channels_first"},
        },
        {"groups": 4, "project_inputs": False, "project_outputs": False},
    ],
    "Involution{}D": [
        {"groups": 2, "reduction_ratio": 1},
        {"group_channels": 1, "reduction_ratio": 2, "activation": "tanh"},
        {"groups": 1, "reduction_ratio": 1, "data_format": "channels_first"},
    ],
}
RANKS_WITH_GEOMETRIES = {
    **{family.format(rank): rank for family in OPTIONS for rank in GEOMETRIES},
    "DepthwiseCondConv2D": 2,
    "LocallyConnected1D": 1,
    "LocallyConnected2D": 2,
}
OPTIONS_OF_ONE_RANK = {
    "DepthwiseCondConv2D": [{**a, **b} for a, b in zip(MIXED, DEPTHWISE)],
    "LocallyConnected1D": PLAIN,
    "LocallyConnected2D": PLAIN,
}
# Families with native ops.
NATIVE = ("Involution", "Deformable", "LocalSelfAttention", "CondConv", "DynamicConv")


class Row(NamedTuple):
    """A layer and its inputs.

    Attributes:
        name: The layer's class.
        arguments: Those of its constructor.
        shapes: Shapes of its inputs, without the batch: of one by itself, or of a list.
        call: Shapes of further call arguments by name.
    """

    name: str
    arguments: dict[str, Any]
    shapes: Any
    call: dict[str, tuple[int, ...]]

    def __str__(self):
        words = [f"{name}={_word(value)}" for name, value in self.arguments.items()]
        return f"{self.name}({', '.join([*words, *self.call])})-{self.shapes}".replace(" ", "")


def _word(value):
    """An argument as text, the same in every process."""
    if isinstance(value, list):
        return [_word(element) for element in value]
    return type(value).__name__ if isinstance(value, keras.layers.Layer) else value


def row(name, arguments, *shapes, **call):
    """A row of the table; with several shapes, the layer takes a list."""
    return Row(name, arguments, list(shapes) if len(shapes) > 1 else shapes[0], call)


def rows_over_geometries(name):
    """A layer over the geometries of its rank, its options in turn."""
    rank = RANKS_WITH_GEOMETRIES[name]
    options = OPTIONS_OF_ONE_RANK.get(name) or OPTIONS[name.replace(str(rank), "{}", 1)]
    for (sizes, geometry), chosen in zip(GEOMETRIES[rank], itertools.cycle(options)):
        arguments = {**geometry, **chosen}
        call = arguments.pop("call", {})
        if name.startswith("Pointwise"):
            del arguments["kernel_size"]
        if name.endswith("Transpose") and geometry.get("padding") not in (None, "same", "causal"):
            sizes = tuple(n + 3 for n in sizes)  # these paddings cut outputs off
        shape = (*sizes, CHANNELS)
        if chosen.get("data_format") == "channels_first":
            shape = (CHANNELS, *sizes)
        yield row(name, arguments, shape, **call)


def attention_rows(rank):
    name, sizes = f"SelfAttention{rank}D", (3, 2, 2)[:rank]
    yield row(name, {"num_heads": 2, "key_dim": 3}, (*sizes, 4))
    yield row(name, {"num_heads": 1, "key_dim": 2, "value_dim": 3, "use_bias": False}, (*sizes, 4))
    yield row(
        name,
        {"num_heads": 2, "key_dim": 2, "filters": 5, "relative_position_bias": True},
        (*sizes, 4),
    )
    yield row(
        name, {"num_heads": 3, "key_dim": 1, "data_format": "channels_first"}, (4, *sizes[::-1])
    )
    yield row(name, {"num_heads": 2, "key_dim": 3, "activation": "tanh"}, (*[1] * rank, 4))


def output_padding_rows(rank):
    name, size = f"Conv{rank}DTranspose", (3, 2, 2)[:rank]
    for padding in ("valid", "same", 1, *(["causal"] if rank == 1 else [])):
        arguments = {"filters": 4, "kernel_size": 3, "strides": 2, "groups": 2}
        yield row(name, {**arguments, "padding": padding, "output_padding": 1}, (*size, CHANNELS))


def conv2d(**arguments):
    return keras.layers.Conv2D(2, 3, padding="same", **arguments)


ROWS = [
    *(row for name in RANKS_WITH_GEOMETRIES for row in rows_over_geometries(name)),
    *(row for rank in (1, 2, 3) for row in attention_rows(rank)),
    *(row for rank in (1, 2, 3) for row in output_padding_rows(rank)),
    row(
        "DeformableConv2D",
        {"filters": 6, "kernel_size": (3, 2), "padding": "same"},
        (3, 4, 4),
        offset=(3, 4, 12),
        modulation=(3, 4, 6),
    ),
    row(
        "DeformableConv2D",
        {"filters": 6, "kernel_size": 2, "strides": 2, "padding": 1, "groups": 2},
        (4, 3, 4),
        offset=(3, 2, 16),
    ),
    row(
        "DeformableConv2D",
        {"filters": 3, "kernel_size": 1, "data_format": "channels_first"},
        (4, 2, 3),
        offset=(4, 2, 3),
        modulation=(2, 2, 3),
    ),
    row(
        "DeformableConv3D",
        {"filters": 2, "kernel_size": (2, 1, 2), "padding": "same", "offset_groups": 2},
        (2, 3, 2, 4),
        offset=(2, 3, 2, 24),
        modulation=(2, 3, 2, 8),
    ),
    row("DeformableAggregation2D", {"groups": 2, "remove_center": True}, (3, 4, 4)),
    row("LocalSelfAttention2D", {"filters": 4, "kernel_size": 3, "num_heads": 2}, (3, 4, 5)),
    row("LocalSelfAttention2D", {"filters": 6, "kernel_size": (2, 4), "num_heads": 1}, (4, 3, 2)),
    row(
        "LocalSelfAttention2D",
        {"filters": 9, "kernel_size": 3, "num_heads": 3, "dilation_rate": 2, "use_bias": True},
        (4, 3, 4),
    ),
    row(
        "LocalSelfAttention2D",
        {"filters": 4, "kernel_size": 2, "num_heads": 2, "data_format": "channels_first"},
        (4, 3, 3),
    ),
    row(
        "LocalSelfAttention2D",
        {"filters": 4, "kernel_size": 3, "num_heads": 2, "activation": "tanh"},
        (1, 1, 4),
    ),
    row(
        "LocalSelfAttention2D",
        {
            "filters": 4,
            "kernel_size": 3,
            "num_heads": 2,
            "strides": 2,
            "relative_positions": "bias",
        },
        (3, 4, 4),
    ),
    row(
        "LocalSelfAttention1D",
        {"filters": 4, "kernel_size": 2, "num_heads": 2, "causal": True, "dilation_rate": 2},
        (6, 4),
    ),
    row(
        "LocalSelfAttention1D",
        {"filters": 4, "kernel_size": 3, "num_heads": 2, "edges": "shifted", "strides": 3},
        (7, 4),
    ),
    row(
        "LocalSelfAttention3D",
        {"filters": 6, "kernel_size": (1, 3, 2), "num_heads": 2},
        (2, 3, 2, 4),
    ),
    row(
        "LocalSelfAttention3D",
        {"filters": 4, "kernel_size": 2, "num_heads": 1, "edges": "shifted"}
        | {"relative_positions": None, "data_format": "channels_first"},
        (4, 2, 3, 2),
    ),
    row("LocalSelfAttention1D", {"filters": 4, "kernel_size": 2, "num_heads": 1}, (5, 3)),
    row(
        "LocalSelfAttention1D",
        {"filters": 6, "kernel_size": 3, "num_heads": 3, "causal": True, "dilation_rate": 2},
        (8, 4),
    ),
    row(
        "LocalSelfAttention1D",
        {"filters": 2, "kernel_size": 4, "num_heads": 2, "use_bias": False}
        | {"activation": "tanh", "data_format": "channels_first"},
        (3, 6),
    ),
    row("LocalSelfAttention3D", {"filters": 3, "kernel_size": 3, "num_heads": 1}, (3, 2, 3, 2)),
    row(
        "LocalSelfAttention3D",
        {"filters": 6, "kernel_size": 2, "num_heads": 2, "causal": (True, False, False)},
        (3, 3, 2, 3),
    ),
    row(
        "LocalSelfAttention3D",
        {"filters": 6, "kernel_size": 2, "num_heads": 2, "strides": 2, "use_bias": False},
        (4, 3, 3, 2),
    ),
    row("CondDense", {"units": 3, "num_experts": 2}, (4,)),
    row("CondDense", {"units": 3, "num_experts": 2, "use_bias": False}, (5, 4)),
    row("CondDense", {"units": 1, "num_experts": 2, "activation": "tanh"}, (2, 3, 4)),
    row("CondDense", {"units": 3, "num_experts": 3}, (4,), **ROUTING),
    row("CondDense", {"units": 3, "num_experts": 3}, (1, 2, 1, 4), **ROUTING),
    row("ChannelShuffle", {"groups": 2}, (4,)),
    row("ChannelShuffle", {"groups": 3, "inverse": True}, (2, 6)),
    row("ChannelShuffle", {"groups": 3, "data_format": "channels_first"}, (6, 2, 3)),
    row("ChannelShuffle", {"groups": 6, "inverse": True, "data_format": "channels_first"}, (6, 1)),
    row("ChannelShuffle", {"groups": 1}, (2, 1, 3, 2, 5)),
    row("SqueezeExcite", {"reduction_ratio": 1, "activation": "tanh"}, (5, 4)),
    row("SqueezeExcite", {"reduction_ratio": 2, "use_bias": False}, (3, 2, 8)),
    row("SqueezeExcite", {"squeeze_channels": 3, "data_format": "channels_first"}, (4, 2, 3)),
    row(
        "SqueezeExcite",
        {"reduction_ratio": 9, "activation": None, "gate_activation": "tanh"},
        (1, 1, 1, 4),
    ),
    row("SqueezeExcite", {"reduction_ratio": 1, "data_format": "channels_first"}, (4, 1, 2, 2)),
    row("WeightedSum", {}, (3, 2), (3, 2)),
    row("WeightedSum", {"normalization": "softmax"}, (2,), (2,), (2,)),
    row("WeightedSum", {"normalization": "fast"}, (1, 2, 3), (1, 2, 3), (1, 2, 3), (1, 2, 3)),
    row("WeightedSum", {"normalization": "fast", "epsilon": 0.5}, *[(3, 2, 1, 2)] * 5),
    row("WeightedSum", {"normalization": "softmax"}, *[(1, 1, 1, 1, 1)] * 2),
    row("SplitTransformMerge", {"transform": conv2d(), "groups": 2}, (3, 4, 4)),
    row(
        "SplitTransformMerge",
        {"transform": conv2d(data_format="channels_last"), "groups": 2, "merge": "shuffle"},
        (3, 1, 4),
    ),
    row(
        "SplitTransformMerge",
        {"transform": [conv2d(dilation_rate=2), conv2d(use_bias=False)], "merge": "weighted_sum"},
        (1, 2, 4),
    ),
    row(
        "SplitTransformMerge",
        {"transform": [tfconv.Conv1D(3, 2, padding="full"), tfconv.Conv1D(3, 2, padding=1)]}
        | {"merge": "sum", "data_format": "channels_first"},
        (4, 3),
    ),
    row(
        "SplitTransformMerge",
        {"transform": keras.layers.Dense(3, activation="tanh"), "groups": 4, "merge": "mean"},
        (2, 2, 2, 4),
    ),
]

RUNS = [
    pytest.param(
        number, implementation, id=f"{implementation}-{row}", marks=pytest.mark.kind(row.name)
    )
    for number, row in enumerate(ROWS)
    for implementation in ("native", "portable")
    if implementation == "native" or row.name.startswith(NATIVE)
]
over_rows = pytest.mark.parametrize("number, implementation", RUNS, indirect=["implementation"])


def test_every_layer_has_rows():
    counts = {name: sum(row.name == name for row in ROWS) for name in tfconv.layers.__all__}
    assert min(counts.values()) >= 5, counts
    assert len({str(row) for row in ROWS}) == len(ROWS)


def loss_of(y):
    """A scalar that depends on every output, and not linearly."""
    return tf.reduce_sum(tf.sin(y))


class Case:
    """A row's layer, built and with random weights.

    Attributes:
        layer: The layer.
        names: Names of its inputs and further call arguments.
        rng: The generator of all random numbers.
    """

    def __init__(self, row, dtype):
        self.dtype = dtype
        self.row, self.listed = row, isinstance(row.shapes, list)
        self.shapes = [*(row.shapes if self.listed else [row.shapes]), *row.call.values()]
        count = len(self.shapes) - len(row.call)
        self.names = [f"input {i}" for i in range(count)] + list(row.call)
        self.rng = np.random.default_rng(0)
        self.layer = getattr(tfconv, row.name)(**row.arguments, dtype=dtype)
        self(self.inputs(1))
        self.layer.set_weights([self._weights(w.name, w.shape) for w in self.layer.weights])

    def inputs(self, batch):
        """Random inputs and call arguments, in one list."""
        return [
            tf.constant(self._values(name, (batch, *shape)), self.dtype)
            for name, shape in zip(self.names, self.shapes)
        ]

    def _values(self, name, shape):
        if name == "offset":  # between pixels, where the sampling has a slope
            return self.rng.integers(-2, 3, shape) + self.rng.uniform(0.2, 0.8, shape)
        return self.rng.standard_normal(shape)

    def _weights(self, name, shape):
        values = self.rng.uniform(0.2, 0.6, shape)
        positive = "variance" in name or "temperature" in name
        return values if positive else values * self.rng.choice([-1.0, 1.0], shape)

    def __call__(self, inputs):
        count = len(inputs) - len(self.row.call)
        given = dict(zip(self.row.call, inputs[count:]))
        return tf.convert_to_tensor(
            self.layer(list(inputs[:count]) if self.listed else inputs[0], **given)
        )

    def outputs_and_gradients(self, inputs):
        """Outputs, and the loss's gradients by all inputs and trainable weights, by name."""
        weights = self.layer.trainable_weights
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = self(inputs)
            loss = loss_of(y)
        gradients = tape.gradient(loss, [*inputs, *weights])
        names = [*self.names, *(getattr(w, "path", w.name) for w in weights)]
        return y, dict(zip(names, gradients))

    def computed_shape(self, batch):
        shapes = self.row.shapes if self.listed else [self.row.shapes]
        shapes = [(batch, *shape) for shape in shapes]
        shape = self.layer.compute_output_shape(shapes if self.listed else shapes[0])
        return tuple(tf.TensorShape(shape))


@functools.cache
def case_of(number, dtype="float64"):
    return Case(ROWS[number], dtype)


@pytest.mark.dear
@over_rows
def test_batches(number, implementation):
    case = case_of(number)
    inputs = case.inputs(33)
    y = case(inputs).numpy()
    assert y.shape == case.computed_shape(33)
    assert y.size and np.isfinite(y).all()
    one = 17
    alone = case([x[one : one + 1] for x in inputs]).numpy()
    assert alone.shape == case.computed_shape(1)
    np.testing.assert_allclose(alone[0], y[one], rtol=0, atol=1e-12 * np.abs(y).max())


@pytest.mark.dear
@over_rows
def test_batch_of_none(number, implementation):
    case = case_of(number, "float32")  # TensorFlow's convolutions are others then
    inputs = case.inputs(0)
    y, gradients = case.outputs_and_gradients(inputs)
    assert y.shape == case.computed_shape(0)
    variables = [*inputs, *case.layer.trainable_weights]
    for (name, gradient), variable in zip(gradients.items(), variables):
        assert gradient is not None, name
        np.testing.assert_array_equal(gradient, np.zeros(variable.shape), err_msg=name)


@pytest.mark.dear
@over_rows
def test_gradients(number, implementation):
    case, step = case_of(number), 1e-5
    inputs, weights = case.inputs(2), case.layer.trainable_weights
    _, gradients = case.outputs_and_gradients(inputs)
    assert len(gradients) == len(inputs) + len(weights)

    def loss(moved, change):
        """The loss with input or weight number ``moved`` changed."""
        if moved < len(inputs):
            moved_inputs = [x + change if i == moved else x for i, x in enumerate(inputs)]
            return loss_of(case(moved_inputs)).numpy()
        weight = weights[moved - len(inputs)]
        value = weight.numpy()
        weight.assign(value + change)
        result = loss_of(case(inputs)).numpy()
        weight.assign(value)
        return result

    sizes = []
    for moved, (name, gradient) in enumerate(gradients.items()):
        assert gradient is not None, name
        gradient = np.asarray(gradient)
        assert np.isfinite(gradient).all(), name
        direction = case.rng.standard_normal(gradient.shape)
        direction /= np.linalg.norm(direction)
        numeric = (loss(moved, step * direction) - loss(moved, -step * direction)) / (2 * step)
        sizes.append(np.linalg.norm(gradient))
        tolerance = 1e-6 * sizes[-1] / np.sqrt(gradient.size) + 1e-9
        assert abs((gradient * direction).sum() - numeric) <= tolerance, name
    # Behind a ReLU or a softmax of one element, a weight may rightly have no slope.
    assert max(sizes[: len(inputs)]) > 1e-3


AVERAGING = {
    "CondConv2D": lambda: tfconv.CondConv2D(4, 3, dtype="mixed_float16"),
    "CondDense": lambda: tfconv.CondDense(4, dtype="mixed_float16"),
    "DepthwiseCondConv2D": lambda: tfconv.DepthwiseCondConv2D(3, dtype="mixed_float16"),
    "DynamicConv2D": lambda: tfconv.DynamicConv2D(4, 3, temperature=1, dtype="mixed_float16"),
    "SqueezeExcite": lambda: tfconv.SqueezeExcite(reduction_ratio=1, dtype="mixed_float16"),
}


@pytest.mark.parametrize("name", AVERAGING)
def test_means_of_large_maps_in_float16(name):
    """Their sums are beyond float16's range."""
    layer = AVERAGING[name]()
    x = np.random.default_rng(0).uniform(0, 12, (2, 112, 112, 3)).astype(np.float32)
    y = layer(x).numpy()
    config = {**layer.get_config(), "dtype": "float32"}
    wide = type(layer).from_config(config)
    wide.build(x.shape)
    wide.set_weights(layer.get_weights())
    expected = wide(x).numpy()
    np.testing.assert_allclose(y, expected, rtol=0, atol=0.01 * np.abs(expected).max())
