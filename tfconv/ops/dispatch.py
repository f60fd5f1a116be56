"""Native or portable: the one place that decides which implementation of an op runs.

Native when the library is loaded and has kernels for the data type and the device; portable
while TensorFlow traces for saving or conversion, inside `tfconv.portable()`, or when there is
no library. `tfconv.keep_native()` keeps native ops in what is exported. Where there is no library,
XLA compiles those portable twins that it makes faster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfconv import _compat
from tfconv.ops import native, xla

_HALF_DTYPES = (tf.float16, tf.bfloat16)
_NATIVE_DTYPES = (*_HALF_DTYPES, tf.float32, tf.float64)
_NOT_FOR_EXPORT = (
    "it was traced with tfconv's native ops. Trace it anew, inside `tfconv.portable()` for stock "
    "ops, or inside `tfconv.keep_native()` for a file that needs tfconv's library."
)


class _Scopes(threading.local):
    """How many `portable` and `keep_native` scopes the thread is in, innermost last."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.server: str | None = None


_scopes = _Scopes()


@contextlib.contextmanager
def _scope(name: str) -> Iterator[None]:
    _scopes.stack.append(name)
    try:
        yield
    finally:
        _scopes.stack.pop()


def portable() -> contextlib.AbstractContextManager[None]:
    """Scope in which tfconv's functions use stock TensorFlow ops only.

    It acts when an operation is run eagerly or traced. A `tf.function` that was traced before
    keeps what it was traced with.

    Example:
        >>> with tfconv.portable():
        ...     y = tfconv.ops.involution(tf.ones([1, 4, 4, 2]), tf.ones([1, 4, 4, 9]), 3)
        >>> y.shape
        TensorShape([1, 4, 4, 2])
    """
    return _scope("portable")


def keep_native() -> contextlib.AbstractContextManager[None]:
    """Scope in which models are saved and converted with their native ops kept.

    What is exported then needs the native library wherever it is loaded. The innermost of
    `portable()` and `keep_native()` holds.
    """
    return _scope("keep_native")


@contextlib.contextmanager
def server_export(jit_compile: bool) -> Iterator[None]:
    """Scope in which what is saved is for TensorFlow's servers.

    Args:
        jit_compile: Whether twins that XLA makes faster are functions that it must compile there.
    """
    before, _scopes.server = _scopes.server, "compiled" if jit_compile else "stock"
    try:
        yield
    finally:
        _scopes.server = before


def for_stock_server() -> bool:
    """Whether what is traced is for a server's stock operations: not compiled, never trained."""
    return _scopes.server == "stock"


@dataclasses.dataclass(frozen=True)
class NativeStatus:
    """What is in force, and why.

    Attributes:
        in_force: "native" or "portable": what an operation called here and now would use.
        reason: Why, in words.
        library: Path of the native library that was found, or None.
        built_with: TensorFlow version that the library was built with, or None.
        tensorflow: TensorFlow version that is running.
        isa: Instruction set that the CPU kernels use ("base", "avx2", "avx512" or
            "avx512bf16"), or None.
        isas: Instruction sets that the library has CPU kernels for, where it could be asked.
        cuda: Whether the library has GPU kernels; portable ops serve on GPUs where it has none.
        xla: Where there is no library, "yes" if XLA compiles the portable ops that it makes
            faster, otherwise why it does not. None where that is not needed.
    """

    in_force: str
    reason: str
    library: str | None
    built_with: str | None
    tensorflow: str
    isa: str | None
    isas: tuple[str, ...]
    cuda: bool
    xla: str | None = None


def native_status() -> NativeStatus:
    """Says whether the native ops are in force and why (see `NativeStatus`)."""
    library = native.library()
    reason = _why_portable()
    return NativeStatus(
        in_force="portable" if reason else "native",
        reason=reason or "the native library is loaded",
        library=None if library.path is None else str(library.path),
        built_with=library.built_with,
        tensorflow=_compat.tensorflow_version(),
        isa=library.isa,
        isas=library.isas,
        cuda=library.cuda,
        xla=(xla.problem() or "yes") if library.module is None else None,
    )


def _why_portable() -> str | None:
    """The reason for the portable implementation here and now, None for the native one."""
    scope = _scopes.stack[-1] if _scopes.stack else None
    if scope == "portable":
        return "inside tfconv.portable()"
    if scope != "keep_native" and _compat.tracing_for_export():
        return "TensorFlow traces for saving or conversion; tfconv.keep_native() would keep them"
    library = native.library()
    if library.module is None:
        return library.problem
    return None


def keeps_native() -> bool:
    """True inside `keep_native`, unless `portable` is further in."""
    return _scopes.stack[-1:] == ["keep_native"]


def _on_gpu(tensor: tf.Tensor) -> bool:
    """True when an op on ``tensor`` would be placed on a GPU."""
    device = tensor.device or ""
    if device:
        return "GPU" in device.upper()
    return bool(tf.config.list_logical_devices("GPU"))


def dispatch(
    native_call: Callable[[Any], Any],
    portable_call: Callable[[], Any],
    x: tf.Tensor,
) -> Any:
    """Runs ``native_call(module)`` or ``portable_call()``, whichever serves ``x`` here.

    Half-precision data goes through the portable twin in float32 (see `in_float32`), so
    that both accumulate alike.
    """
    library = native.library()
    without_kernel = x.dtype not in _NATIVE_DTYPES or (_on_gpu(x) and not library.cuda)
    if without_kernel or _why_portable() is not None:
        native.warn_if_unavailable()
        return portable_call()
    if not (tf.executing_eagerly() or keeps_native()):
        _compat.forbid_export(_NOT_FOR_EXPORT)
    return native_call(library.module)


def compiled(
    function: Callable,
    *tensors: tf.Tensor | None,
    arguments: tuple = (),
    before: Callable[..., tuple] | None = None,
) -> Any:
    """``function(*tensors, *arguments)``, compiled by XLA where that is wanted.

    It is where no native library serves, unless somebody asks for portable operations or XLA is
    switched off, and in exports that are to be compiled. It compiles for sizes: so all but that of
    the batch must be known when a function is traced.

    Args:
        function: A portable twin that XLA makes faster; a function of a module.
        tensors: Its tensors.
        arguments: What else it takes; can be a key of a dict.
        before: What is better done outside of what XLA compiles: takes tensors and arguments, and
            gives those to go on with.
    """
    x = tensors[0]
    exported = _compat.tracing_for_export()
    if exported:
        wanted = _scopes.server == "compiled"
    else:
        portable_wanted = _scopes.stack[-1:] == ["portable"]
        wanted = not (portable_wanted or native.library().module or _on_gpu(x) or xla.problem())
    shapes = [t.shape for t in tensors if t is not None]
    if wanted and any(None in shape[1:] for shape in shapes):
        if exported:
            raise ValueError(
                "`jit_compile` needs layers whose inputs have one size, that of the batch aside: "
                "XLA would compile for each size when its first request comes. Received: "
                f"{function.__name__.strip('_')} of {', '.join(map(str, shapes))}"
            )
        wanted = False
    if not wanted:
        return function(*tensors, *arguments)
    if before is not None:
        tensors, arguments = before(tensors, arguments)
    return xla.call(function, tensors, arguments, exported)


def runs_on_cpu(x: tf.Tensor) -> bool:
    """True when `dispatch` gives ``x`` to kernels for the CPU, here and now.

    For ops that they alone have, which are in no file: it may come to a GPU, or to TFLite.
    """
    if x.dtype not in _NATIVE_DTYPES or _on_gpu(x) or _compat.tracing_for_export():
        return False
    return _why_portable() is None


def widened(x: tf.Tensor | None) -> tf.Tensor | None:
    """``x`` in float32 if it is in float16 or bfloat16."""
    return x if x is None or x.dtype not in _HALF_DTYPES else tf.cast(x, tf.float32)


def in_float32(function: Callable[..., tf.Tensor], *tensors: tf.Tensor | None) -> tf.Tensor:
    """``function(*tensors)`` with float16 and bfloat16 tensors computed in float32."""
    dtype = tensors[0].dtype
    if dtype not in _HALF_DTYPES:
        return function(*tensors)
    return tf.cast(function(*map(widened, tensors)), dtype)


def with_an_example(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """``function(x)``; where x has no examples, of one of zeros that is left out again.

    For none, TensorFlow's convolutions in oneDNN give a tensor of x's shape.
    """
    count = x.shape[0]
    if count or (count is None and _compat.tracing_for_export()):  # nobody exports for none
        return function(x)
    count = tf.shape(x)[0]
    more = [[0, tf.maximum(1 - count, 0)], *[[0, 0]] * (x.shape.rank - 1)]
    # Padding by nothing and taking everything copy nothing. oneDNN makes Pad, but not PadV2, a part
    # of the convolution behind it, whose examples it does not pad.
    zero = tf.zeros([], x.dtype)
    padded = tf.raw_ops.PadV2(input=x, paddings=tf.stack(more), constant_values=zero)
    padded.set_shape([None, *x.shape[1:]])
    y = tf.convert_to_tensor(function(padded))
    cut = tf.slice(y, [0] * y.shape.rank, [count, *[-1] * (y.shape.rank - 1)])
    cut.set_shape([x.shape[0], *y.shape[1:]])
    return cut


def invalid_argument(message: str) -> tf.errors.InvalidArgumentError:
    """The error that the native ops raise, for checks made before any op is called."""
    return tf.errors.InvalidArgumentError(None, None, message)


def is_wanted(op, index: int) -> bool:
    """Whether somebody asks for the gradient of an input.

    Outside of graphs the tape knows, and says so as it does to TensorFlow's own gradients. Graphs
    do not know while they are built, and prune what is not used.

    Args:
        op: The op of a registered gradient.
        index: Number of the input.
    """
    return index not in (getattr(op, "skip_input_indices", None) or ())


def apart(*gradients: tf.Tensor) -> list[tf.Tensor]:
    """Outputs of one gradient op, each from an op of its own.

    TensorFlow's pass for oneDNN takes all outputs of an op for one tensor: of two convolutions
    whose outputs an op has, it would give one the gradient of the other's bias.
    """
    return [tf.ensure_shape(gradient, gradient.shape) for gradient in gradients]


def second_order(
    function: Callable[..., tf.Tensor], inputs: list[tf.Tensor], upstream: tf.Tensor, grads: list
) -> list[tf.Tensor | None]:
    """Gradient of a gradient op, through the portable twin.

    Args:
        function: The portable twin of the forward op.
        inputs: The forward op's inputs.
        upstream: The gradient that the gradient op received.
        grads: What flows into each of the gradient op's outputs; None counts as zero.

    Returns:
        Gradients of ``[*inputs, upstream]``.
    """
    with tf.GradientTape() as outer:
        outer.watch([*inputs, upstream])
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = function(*inputs)
        first = inner.gradient(y, inputs, output_gradients=upstream, unconnected_gradients="zero")
    wanted = [(f, g) for f, g in zip(first, grads) if g is not None]
    return outer.gradient(
        [f for f, _ in wanted],
        [*inputs, upstream],
        output_gradients=[g for _, g in wanted],
        unconnected_gradients="zero",
    )
