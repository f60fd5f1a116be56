"""Kernels and biases by Keras's arguments, their low-rank adaptation, and draws that differ."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfconv import _compat
from tfconv.layers.arguments import boolean, optional, positive_int, positive_number, resolved
from tfconv.layers.base import BaseLayer, require_built
from tfconv.ops.dispatch import widened
from tfconv.ops.geometry import is_int


class KernelArguments(BaseLayer):
    """A layer with kernels and biases, by Keras's arguments for them.

    Args:
        activation: Activation of the outputs.
        use_bias: Whether there is a bias.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer, activity_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
    """

    weight_arguments = {"kernel": "glorot_uniform", "bias": "zeros"}

    def __init__(self, *, activation: Any = None, use_bias: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.take(boolean, use_bias=use_bias)
        self.take(resolved, activation=activation)

    def add_kernel(self, shape: Sequence[int], name: str = "kernel", **arguments: Any) -> Any:
        """Creates a kernel by the layer's kernel arguments; ``arguments`` go before them."""
        return self.add_like(shape, name, "kernel", **arguments)

    def add_bias(self, shape: Sequence[int], name: str = "bias", **arguments: Any) -> Any:
        """Creates a bias by the layer's bias arguments; None without ``use_bias``."""
        return self.add_like(shape, name, "bias", **arguments) if self.use_bias else None

    def arguments_inside(
        self, count: int, kernel: str = "kernel", bias: str = "bias"
    ) -> list[dict[str, Any]]:
        """Arguments for ``count`` layers inside, from this layer's of such kernels and biases."""
        shared = {
            f"{inside}_{kind}": value
            for inside, weight in (("kernel", kernel), ("bias", bias))
            for kind, value in self.arguments_of(weight).items()
        }
        if bias == "bias":
            shared["use_bias"] = self.use_bias
        names = {"kernel_initializer": kernel, "bias_initializer": bias}
        copies = [independent_copies(shared[name], count, of) for name, of in names.items()]
        return [{**shared, **dict(zip(names, each))} for each in zip(*copies)]


def _as_given(value: Any, name: str) -> Any:
    """A positive number, an int if it is one."""
    positive_number(value, name)
    return value


class Adaptable(KernelArguments):
    """A layer with one kernel, which low-rank adaptation trains as that of Keras's layers.

    The kernel stays as it is; beside the bias, two small weights are trained:
    ``kernel + lora_alpha / lora_rank * (lora_kernel_a @ lora_kernel_b)``. Layers call
    `adapt_if_asked` when built, after they have made `kernel` and the bias.

    Args:
        lora_rank: Rank of the difference that low-rank adaptation trains; None for none. As in
            Keras, `enable_lora` starts it later. Keras 3 only.
        lora_alpha: Scales the difference; None for ``lora_rank``.
    """

    lora_enabled = False
    lora_axes: ClassVar[int] = -1  # the kernel as a matrix: which axes the columns are

    def __init__(
        self,
        *args: Any,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.take(optional(positive_int), lora_rank=lora_rank)
        self.take(optional(_as_given), lora_alpha=lora_alpha)
        if lora_rank is not None:
            self._require_lora()
            if lora_alpha is None:
                self.lora_alpha = self.lora_rank

    def _in_force(self) -> Any:
        """The kernel: a variable or, with low-rank adaptation, the tensor that is in force."""
        try:
            kernel = self._kernel
        except AttributeError:
            why = "You must build the layer before accessing `kernel`."
            if self.built:
                why = f"{type(self).__name__} has several kernels, none of which is `kernel`."
            raise AttributeError(why) from None
        if not self.lora_enabled:
            return kernel
        a, b = map(_compat.convert_variable, (self.lora_kernel_a, self.lora_kernel_b))
        a = tf.reshape(a, [*b.shape[:-2], -1, b.shape[-2]])
        difference = self.lora_alpha / self.lora_rank * tf.matmul(a, b)
        kernel = widened(tf.convert_to_tensor(kernel))
        return kernel + tf.cast(tf.reshape(difference, kernel.shape), kernel.dtype)

    kernel = property(_in_force, lambda self, value: setattr(self, "_kernel", value))

    def add_adaptation(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        """Creates a weight of the adaptation, in float32: half types would lose what it adds."""
        weight = self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            regularizer=self.kernel_regularizer,
            dtype="float32",
        )
        weight._autocast = False  # not an argument in every Keras 3
        return weight

    def kernel_as_matrix(self) -> tuple[tuple[int, ...], int]:
        """The axes that are the kernel's rows, and how many columns there are."""
        shape = tuple(self._kernel.shape)
        return shape[: self.lora_axes], math.prod(shape[self.lora_axes :])

    def _require_lora(self) -> None:
        """Raises ValueError where there is no low-rank adaptation, as in Keras."""
        name = type(self).__name__
        if "lora_rank" in self.fixed:
            raise ValueError(
                f"{name} has several kernels, and no low-rank adaptation. Received: `enable_lora`"
            )
        if not _compat.KERAS_3:
            raise ValueError(
                f"Low-rank adaptation of {name} needs Keras 3. Received: `lora_rank` with Keras 2"
            )
        if self.kernel_constraint is not None:
            raise ValueError(
                "`lora_rank` cannot be given together with `kernel_constraint`. Received: "
                f"kernel_constraint={self.kernel_constraint!r}"
            )

    def adapt_if_asked(self) -> None:
        """Starts low-rank adaptation if ``lora_rank`` was given."""
        if self.lora_rank is not None:
            self._adapt(self.lora_rank, self.lora_alpha)

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Starts low-rank adaptation of a layer that is built; its outputs stay as they are.

        Args:
            rank: Rank of the difference that is trained.
            lora_alpha: Scales the difference; None for ``rank``.
            a_initializer: Initializer of ``lora_kernel_a``.
            b_initializer: Initializer of ``lora_kernel_b``.

        Raises:
            ValueError: If an argument is not what is described above, the layer is not built,
                adapts already, or has a ``kernel_constraint``.
        """
        self._require_lora()
        require_built(self)
        if self.lora_enabled:
            raise ValueError(
                f"{type(self).__name__} has low-rank adaptation already. Received: rank={rank}"
            )
        rank = positive_int(rank, "rank")
        alpha = optional(_as_given)(lora_alpha, "lora_alpha")
        self._adapt(rank, rank if alpha is None else alpha, a_initializer, b_initializer)

    def _adapt(
        self,
        rank: int,
        alpha: float,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        rows, columns = self.kernel_as_matrix()
        a_initializer = resolved(a_initializer, "a_initializer")
        b_initializer = resolved(b_initializer, "b_initializer")
        with _compat.more_weights(self):
            self.lora_kernel_a = self.add_adaptation("lora_kernel_a", (*rows, rank), a_initializer)
            self.lora_kernel_b = self.add_adaptation(
                "lora_kernel_b", (rank, columns), b_initializer
            )
        self._kernel.trainable = False
        self.lora_rank, self.lora_alpha, self.lora_enabled = rank, alpha, True

    def save_own_variables(self, store: Any) -> None:
        if not self.lora_enabled:
            super().save_own_variables(store)
            return
        for i, variable in enumerate(self._saved_variables()):
            store[str(i)] = self.kernel if variable is self._kernel else variable

    def load_own_variables(self, store: Any) -> None:
        if not self.lora_enabled:
            super().load_own_variables(store)
            return
        for i, variable in enumerate(self._saved_variables()):
            variable.assign(store[str(i)])
        # The file's kernel is the one that was in force. The other weight stays random: with
        # both zero, as in Keras, neither would be trained any further.
        self.lora_kernel_b.assign(tf.zeros_like(self.lora_kernel_b))

    def _saved_variables(self) -> list[Any]:
        """The layer's own variables but those of the adaptation, which files have in the kernel."""
        adaptation = (self.lora_kernel_a, self.lora_kernel_b)
        own = [*self._trainable_variables, *self._non_trainable_variables]
        return [v for v in own if all(v is not w for w in adaptation)]


def independent_copies(initializer: Any, count: int, of: str = "") -> list[Callable[..., Any]]:
    """``count`` initializers like ``initializer`` that draw different numbers.

    Keras's random initializers give the same numbers at every call: each copy gets a seed of
    its own, derived from the original's when it has one. They are hashes, for where seeds are
    counted on, those of others are met.

    Args:
        initializer: An initializer.
        count: How many copies.
        of: What they are for; copies for other things draw other numbers.
    """
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    seed = config.get("seed", "none")
    if seed is None:
        seed = random.randrange(2**63)
    if not is_int(seed):
        return [initializer] * count
    return [
        type(initializer).from_config({**config, "seed": derived_seed(int(seed), of, number)})
        for number in range(count)
    ]


def derived_seed(seed: int, *what: Any) -> int:
    """A seed for something, which differs from those for other things and other seeds."""
    return random.Random(repr((seed, *what))).randrange(2**31)
