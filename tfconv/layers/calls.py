"""What layers do with inputs and outputs of other kinds: optional ones, second ones, integers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.base import BaseLayer


class OptionalInputs(BaseLayer):
    """A layer that makes an input itself when the caller gives none.

    Weights for making it exist only in layers that were built without it, so that no trainable
    weight is ever left without a gradient. The choice is saved with the layer.
    """

    given_at_build = False

    def note_given(self, given: bool) -> None:
        """Call before the layer is built: whether the caller gives the optional input."""
        if not self.built:
            self.given_at_build = given

    def given_inputs(self, **inputs: Any) -> dict[str, Any]:
        """Those inputs that are given; arrays as tensors, whose values no error shows."""
        return {
            name: tf.convert_to_tensor(x) if isinstance(x, (np.ndarray, list, tuple)) else x
            for name, x in inputs.items()
            if x is not None
        }

    def require_own(self, name: str) -> None:
        """Raises when the optional input is missing and the layer cannot make it."""
        if self.given_at_build:
            raise ValueError(
                f"{type(self).__name__} was built with `{name}` given, so it has no weights to "
                f"make them from its input: give `{name}` in every call. Received: {name}=None"
            )

    def get_build_config(self) -> dict[str, Any] | None:
        config = super().get_build_config()
        return {**config, "given_at_build": True} if config and self.given_at_build else config

    def build_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config or {})
        self.given_at_build = config.pop("given_at_build", False)
        super().build_from_config(config)


class SecondOutput(BaseLayer):
    """A layer that can give what it made on the way as well: a second output, when asked."""

    asks_for_second: ClassVar[str]  # the argument of its call that asks

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Of Keras 3 only. The shapes of both outputs are known to TensorFlow.
        if kwargs.get(self.asks_for_second):
            return _compat.traced_output_spec(self, *args, **kwargs)
        return super().compute_output_spec(*args, **kwargs)

    def second_output(self, inputs: Any, **arguments: Any) -> Any:
        """What the layer makes of a functional model's tensor, as another such tensor."""
        return self(inputs, **arguments, **{self.asks_for_second: True})[1]


class Rearranged(BaseLayer):
    """A layer whose outputs are values of its input, of whatever type, in other places."""

    takes_integers = True

    def compute_output_spec(self, inputs: Any) -> Any:
        # Of Keras 3 only, which takes them for floats. Keras 2 traces the call.
        spec = super().compute_output_spec(inputs)
        if "float" in str(inputs.dtype):
            return spec
        return keras.tree.map_structure(lambda y: keras.KerasTensor(y.shape, inputs.dtype), spec)
