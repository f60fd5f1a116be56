"""Checks of arguments: each gives back its value in one form, or raises naming the argument."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfconv import _compat
from tfconv._compat import keras
from tfconv.ops.geometry import is_int

Check = Callable[[Any, str], Any]
KINDS = ("initializer", "regularizer", "constraint")  # ends of the names of weights' arguments
_OF_KERAS = ("activation", *KINDS)  # what Keras makes of a name or a configuration


def positive_int(value: Any, name: str) -> int:
    """``value`` as an int of at least 1; ValueError names the argument otherwise."""
    if not is_int(value) or value < 1:
        raise _refused(value, name, "a positive integer")
    return int(value)


def integer(value: Any, name: str) -> int:
    """``value`` as an int; ValueError names the argument otherwise."""
    if not is_int(value):
        raise _refused(value, name, "an integer")
    return int(value)


def boolean(value: Any, name: str) -> bool:
    """``value`` as a bool; ValueError names the argument otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise _refused(value, name, "True or False")
    return bool(value)


def flags_per_axis(value: Any, name: str, rank: int) -> bool | tuple[bool, ...]:
    """``value`` as a bool, or one per spatial axis; ValueError names the argument otherwise."""
    if isinstance(value, (list, tuple)) and len(value) == rank:
        if all(isinstance(flag, (bool, np.bool_)) for flag in value):
            return tuple(map(bool, value))
    if not isinstance(value, (bool, np.bool_)):
        raise _refused(value, name, f"True or False, or {rank} of them (one per spatial axis)")
    return bool(value)


def number(value: Any, name: str, least: float = 0.0, most: float = math.inf) -> float:
    """``value`` as a finite float from ``least`` to ``most``; ValueError names the argument."""
    result = _as_float(value)
    if not least <= result <= most or math.isinf(result):
        interval = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise _refused(value, name, f"a number {interval}")
    return result


def positive_number(value: Any, name: str) -> float:
    """``value`` as a finite float above zero; ValueError names the argument otherwise."""
    result = _as_float(value)
    if not 0 < result < math.inf:
        raise _refused(value, name, "a positive number")
    return result


def optional(check: Check) -> Check:
    """A check that lets None pass."""
    return lambda value, name: None if value is None else check(value, name)


def choice(*choices: str | None) -> Check:
    """A check for one of some names."""
    return lambda value, name: one_of(value, name, choices)


def known_data_format(value: Any, name: str) -> str:
    """A data format; for None the one of Keras's configuration."""
    return _compat.standardized_data_format(value)


def one_of(value: Any, name: str, choices: Sequence[str | None]) -> Any:
    """``value`` if it is one of ``choices``; ValueError names the argument otherwise."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        listed = ", ".join("None" if choice is None else f'"{choice}"' for choice in choices)
        raise _refused(value, name, f"one of {listed}")
    return value


def resolved(value: Any, name: str, default: str | None = None) -> Any:
    """What Keras makes of an activation, initializer, regularizer or constraint.

    The end of ``name`` says which of them it is.

    Args:
        value: A name, configuration, function or object; None gives no activation, regularizer
            or constraint, and for an initializer ``default``.
        name: The argument's name.
        default: An initializer's name; None takes Keras's for such a weight.

    Raises:
        ValueError: If Keras can make nothing of it; names the argument.
    """
    kind = name.rsplit("_", 1)[-1]
    given = value
    if kind == "initializer" and value is None:
        given = default or ("zeros" if name == "bias_initializer" else "glorot_uniform")
    try:
        result = _module_of(name).get(given)
    except Exception as error:  # of several types, which differ between the versions of Keras
        raise _refused(value, name, _known_to_keras(kind)) from error
    # Keras 2 gives back regularizers that it does not know.
    if result is not None and (not callable(result) or inspect.isclass(result)):
        raise _refused(value, name, _known_to_keras(kind))
    return result


def _module_of(name: str) -> Any:
    """Keras's module for what an argument of this name takes."""
    return getattr(keras, name.rsplit("_", 1)[-1] + "s")


def _as_float(value: Any) -> float:
    """``value`` as a float; NaN where it is no number."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _known_to_keras(kind: str) -> str:
    article = "an" if kind[0] in "ai" else "a"
    return f"{article} {kind} that Keras knows: a name, a configuration or a callable"


def _refused(value: Any, name: str, expected: str) -> ValueError:
    return ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def serialized(value: Any, name: str) -> Any:
    """An argument as a configuration has it."""
    if isinstance(value, tuple):
        return [serialized(item, name) for item in value]
    if value is None or name.rsplit("_", 1)[-1] not in _OF_KERAS:
        return value
    result = _module_of(name).serialize(value)
    # Keras 2 takes a registered function for its own of the same name.
    if isinstance(result, str) and not _compat.KERAS_3:
        registered = keras.utils.get_registered_name(value)
        return registered if ">" in registered else result
    return result
