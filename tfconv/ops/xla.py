"""Portable twins compiled by XLA: one loop where stock operations write a tensor for each tap.

`dispatch.compiled` says when; here is how.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

PREFIX = "compiled_"  # of the names of functions that XLA compiles
# Sizes that a twin is compiled for outside of graphs: each takes about a second.
MOST_SHAPES = 16


class _Tracing(threading.local):
    """Whether XLA compiles what is traced now."""

    compiled = False


_tracing = _Tracing()


def summed(terms: Iterable[tf.Tensor], run: int, in_runs: bool = False) -> tf.Tensor:
    """The sum of terms, one after another.

    Where XLA compiles it, or ``in_runs``, of so many at a time and then of these sums. Of chains
    that are short XLA makes code that is a third faster, and integers round their sums less often.
    """
    terms = iter(terms)
    if not (in_runs or _tracing.compiled):
        return functools.reduce(operator.add, terms)
    sums: list[tf.Tensor] = []
    for first in terms:
        sums.append(functools.reduce(operator.add, itertools.islice(terms, run - 1), first))
    while len(sums) > 1:
        rest = sums[len(sums) // 2 * 2 :]
        sums = [a + b for a, b in zip(sums[::2], sums[1::2])] + rest
    return sums[0]


def problem() -> str | None:
    """Why XLA compiles no twins that run here, None if it does."""
    if os.environ.get("TFCONV_XLA", "1") == "0":
        return "switched off by the environment variable TFCONV_XLA=0"
    return missing()


@functools.cache
def missing() -> str | None:
    """Why this TensorFlow cannot compile for the CPU, None if it can."""
    try:
        with tf.init_scope(), tf.device("CPU:0"):
            tf.function(tf.negative, jit_compile=True)(tf.zeros([]))
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        return f"this TensorFlow has no XLA for the CPU ({str(error).splitlines()[0]})"
    return None


def call(function: Callable, tensors: tuple, arguments: tuple, exported: bool) -> Any:
    """``function(*tensors, *arguments)`` in a function of its own that XLA compiles.

    Args:
        function: A function of a module, which gives a tensor.
        tensors: Tensors and Nones.
        arguments: What else it takes; can be a key of a dict.
        exported: Whether this is traced to be saved. What is not has a gradient that computes
            the function again: nothing but its inputs is kept.
    """
    given = tuple(t is not None for t in tensors)
    twin = _twin(function, arguments, given, exported)
    present = [t for t in tensors if t is not None]
    if tf.executing_eagerly():
        shapes = tuple((tuple(t.shape), t.dtype) for t in present)
        if shapes not in twin.shapes and len(twin.shapes) >= MOST_SHAPES:
            return function(*tensors, *arguments)
        twin.shapes.add(shapes)
    return twin(*present)


@functools.lru_cache(maxsize=256)
def _twin(function, arguments, given, exported) -> Any:
    def plain(*present):
        tensors = iter(present)
        return function(*(next(tensors) if there else None for there in given), *arguments)

    def compiled(*present):
        before, _tracing.compiled = _tracing.compiled, True
        try:
            return plain(*present)
        finally:
            _tracing.compiled = before

    def gradient(upstream, *present):
        with tf.GradientTape() as tape:
            tape.watch(present)
            y = plain(*present)
        return tape.gradient(y, present, upstream, unconnected_gradients="zero")

    compiled.__name__ = PREFIX + function.__name__.strip("_")
    forward, backward = (
        tf.function(f, jit_compile=True, autograph=False) for f in (compiled, gradient)
    )

    def unwatched(*tensors):  # or tapes would look for gradients inside, which are given here
        return map(tf.stop_gradient, tensors)

    @tf.custom_gradient
    def compiled_gradient(upstream, *present):
        def second(*by):
            # As it is: in what it compiles TensorFlow takes operations without a gradient.
            inputs = [upstream, *present]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                first = gradient(upstream, *present)
            return tape.gradient(first, inputs, list(by), unconnected_gradients="zero")

        return backward(*unwatched(upstream, *present)), second

    def each_by_itself(upstream, *present):
        # As `dispatch.apart`: TensorFlow's pass for oneDNN takes all outputs of an op for one.
        gradients = compiled_gradient(upstream, *present)
        return [tf.ensure_shape(each, each.shape) for each in gradients]

    @tf.custom_gradient
    def twin(*present):
        return forward(*unwatched(*present)), lambda upstream: each_by_itself(upstream, *present)

    def called(*present):
        return forward(*present) if exported else twin(*present)

    called.shapes = set()
    return called
