"""What layers have whose positions see each other."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from tfconv._compat import keras
from tfconv.layers.arguments import integer, number, optional
from tfconv.layers.calls import SecondOutput
from tfconv.layers.masking import divided


class Attention(SecondOutput):
    """An attention over positions, by the arguments of Keras's MultiHeadAttention.

    Args:
        dropout: Share of the attention that is dropped in training.
        seed: Seed of what is dropped.

    Call arguments:
        inputs: [N, *spatial, C] tensor (or [N, C, *spatial]).
        return_attention_scores: Whether to give what `attention` gives as a second output.
        training: Whether attention is dropped.
        use_causal_mask: Whether positions see only themselves and those before them, row by row.
        mask: Optional booleans [N, *spatial]: the positions that are seen, and that see. Keras's
            masks come here by themselves, and go on to the next layer.
    """

    asks_for_second = "return_attention_scores"

    def __init__(self, *args: Any, dropout: float = 0.0, seed: int | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.take(functools.partial(number, most=1), dropout=dropout)
        self.take(optional(integer), seed=seed)
        self.supports_masking = True

    def build_dropout(self) -> None:
        """Makes what drops attention, if anything does."""
        if self.dropout:
            arguments = {"rate": self.dropout, "seed": self.seed}
            self.sublayer("attention_dropout", keras.layers.Dropout, (None,), **arguments)

    def dropped(self, attention: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The attention that values are weighted by."""
        if not self.dropout:
            return attention
        kept = tf.convert_to_tensor(self.attention_dropout(attention, training=training))
        return tf.cast(kept, attention.dtype)


def masked_softmax(logits: tf.Tensor, allowed: tf.Tensor | None) -> tf.Tensor:
    """Softmax over the last axis among the allowed; 0 for the others, and where none are.

    The others take the least logit of all: a large negative number would leave no steps for the
    rest in 8-bit integers.
    """
    if allowed is None:
        return tf.nn.softmax(logits)
    least = tf.stop_gradient(tf.reduce_min(logits, axis=-1, keepdims=True))
    weights = tf.nn.softmax(tf.where(allowed, logits, least))
    weights = tf.where(allowed, weights, tf.zeros_like(weights))
    return divided(weights, tf.reduce_sum(weights, axis=-1, keepdims=True))
