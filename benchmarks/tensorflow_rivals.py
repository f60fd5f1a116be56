"""tfconv's native ops and their rivals made of TensorFlow's own ops, the latter for stride 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

import tfconv
from benchmarks.cases import INPUTS, Case, Product, Rival


def _involution(case: Case, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(kernel, [*kernel.shape[:3], -1])
    return tfconv.ops.involution(x, flat, case.kernel, case.stride)


def _attention(case: Case, query: tf.Tensor, key: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    heads = case.channels // case.group_channels
    return tfconv.ops.local_attention(
        query, key, x, case.kernel, num_heads=heads, strides=case.stride
    )


def _aggregation(case: Case, x: tf.Tensor, offset: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tfconv.ops.deformable_aggregation(x, offset, weights, case.kernel, strides=case.stride)


def _depthwise(case: Case, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")


def _patches(case: Case, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The form of keras.io's example."""
    n, height, width, taps, groups = kernel.shape
    patches = tf.image.extract_patches(
        x,
        sizes=[1, case.kernel, case.kernel, 1],
        strides=[1, 1, 1, 1],
        rates=[1, 1, 1, 1],
        padding="SAME",
    )
    patches = tf.reshape(patches, [n, height, width, taps, groups, case.group_channels])
    y = tf.reduce_sum(kernel[..., None] * patches, axis=3)
    return tf.reshape(y, [n, height, width, case.channels])


def _deformable(
    case: Case, x: tf.Tensor, offset: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor
) -> tf.Tensor:
    return tfconv.ops.deformable_conv(x, offset, kernel, mask, strides=case.stride)


def _conv(case: Case, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def _conv3d(case: Case, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv3d(x, kernel, [1] * 5, "SAME")


def _per_example(case: Case, x: tf.Tensor, kernels: tf.Tensor) -> tf.Tensor:
    return tfconv.ops.per_example_conv(x, kernels, strides=case.stride)


def _split_loop(case: Case, x: tf.Tensor, kernels: tf.Tensor) -> tf.Tensor:
    """One tf.nn.conv2d for each example of a batch whose size is known."""
    pairs = zip(tf.split(x, x.shape[0]), tf.unstack(kernels))
    return tf.concat([_conv(case, one, kernel) for one, kernel in pairs], 0)


def _mixed(experts: tf.Tensor, routing: tf.Tensor) -> tf.Tensor:
    """A kernel for each example, mixed from experts."""
    flat = tf.matmul(routing, tf.reshape(experts, [experts.shape[0], -1]))
    return tf.reshape(flat, [-1, *experts.shape[1:]])


def _condconv(case: Case, x: tf.Tensor, experts: tf.Tensor, routing: tf.Tensor) -> tf.Tensor:
    return _per_example(case, x, _mixed(experts, routing))


def _condconv_split(case: Case, x: tf.Tensor, experts: tf.Tensor, routing: tf.Tensor) -> tf.Tensor:
    return _split_loop(case, x, _mixed(experts, routing))


def _in_portable_scope(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    def portable(*arguments):
        with tfconv.portable():
            return function(*arguments)

    return portable


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to compute a family's output.

    Attributes:
        function: Takes the case and the inputs, returns the output.
        inputs: Names of the inputs.
        orders: Orders of axes, by input, in which it wants them if not in the case's.
    """

    function: Callable[..., tf.Tensor]
    inputs: Sequence[str]
    orders: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


_OURS = {
    "involution": _involution,
    "attention": _attention,
    "aggregation": _aggregation,
    "deformable": _deformable,
    "deformable_3d": _deformable,
    "per_example": _per_example,
    "condconv": _condconv,
}

PEERS = {
    **{("tfconv", family): Peer(f, INPUTS[family]) for family, f in _OURS.items()},
    **{
        ("portable twin", family): Peer(_in_portable_scope(f), INPUTS[family])
        for family, f in _OURS.items()
    },
    ("tf.nn.depthwise_conv2d", "involution"): Peer(_depthwise, ["x", "depthwise_kernel"]),
    **{
        ("involution", family): Peer(_involution, INPUTS["involution"])
        for family in ("attention", "aggregation")
    },
    ("tf.image.extract_patches", "involution"): Peer(
        _patches, INPUTS["involution"], {"position_kernels": (0, 1, 2, 4, 3)}
    ),
    **{
        ("tf.nn.conv2d", family): Peer(_conv, ["x", "kernel"])
        for family in ("deformable", "per_example", "condconv")
    },
    ("tf.nn.conv3d", "deformable_3d"): Peer(_conv3d, ["x", "kernel"]),
    ("split loop", "per_example"): Peer(_split_loop, INPUTS["per_example"]),
    ("split loop", "condconv"): Peer(_condconv_split, INPUTS["condconv"]),
}


class Engine:
    """Prepares rivals; one to a process, because the number of threads is."""

    def __init__(self, threads: int):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        status = tfconv.native_status()
        if status.in_force != "native":
            raise RuntimeError(f"there is nothing to measure: {status.reason}")
        self.description = f"TensorFlow {status.tensorflow}, native ops for {status.isa}"

    @staticmethod
    def prepare(rival: Rival) -> Callable[[], list[tf.Tensor]]:
        """What computes the output and, for a backward pass, then the inputs' gradients."""
        case = rival.case
        if isinstance(case, Product):
            a = tf.random.normal([case.rows, case.depth])
            b = tf.random.normal([case.depth, case.columns])
            return _traced(lambda a, b: [tf.matmul(a, b)], [a, b])
        peer = PEERS[rival.name, case.family]
        inputs = [tf.cast(_arranged(case, peer, name), case.dtype) for name in peer.inputs]

        def forward(*inputs):
            return [peer.function(case, *inputs)]

        def step(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = peer.function(case, *inputs)
            return [y, *tape.gradient(y, inputs, output_gradients=y)]

        return _traced(step if case.backward else forward, inputs)

    def results(self, rival: Rival) -> dict[str, np.ndarray]:
        """The output as "y" and the gradients by input, with their axes as the case has them."""
        peer = PEERS[rival.name, rival.case.family]
        y, *gradients = (t.numpy() for t in self.prepare(rival)())
        found = {"y": y}
        for name, gradient in zip(peer.inputs, gradients):
            order = peer.orders.get(name)
            found[name] = gradient if order is None else gradient.transpose(np.argsort(order))
        return found


def _traced(
    function: Callable[..., list[tf.Tensor]], inputs: Sequence[tf.Tensor]
) -> Callable[[], list[tf.Tensor]]:
    """A call of the `tf.function` made of ``function``."""
    graph = tf.function(function).get_concrete_function(*inputs)
    return lambda: graph(*inputs)


def _arranged(case: Case, peer: Peer, name: str) -> np.ndarray:
    values = case.array(name)
    return values.transpose(peer.orders[name]) if name in peer.orders else values
