"""Images as the networks' checkpoints want them, and what the classes are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.arguments import one_of, positive_int

MODES = ("torch", "tf", "caffe", "bgr")
CLASSES = 1000
NAMES = "imagenet_class_index.json"
NAMES_FROM = f"https://storage.googleapis.com/download.tensorflow.org/data/{NAMES}"


def preprocess_input(x: Any, data_format: str | None = None, mode: str = "torch") -> Any:
    """Images of 0..255 in RGB, normalized as `keras.applications` does it.

    Each network has the function with the mode of its checkpoints: ``RedNet26.preprocess_input``.

    Args:
        x: An array or a tensor of one image or of a batch; integers are taken for floats. It is
            not changed.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting.
        mode: "torch" gives ``(x / 255 - mean) / std`` with ImageNet's mean and standard deviation
            of each colour, "tf" ``x / 127.5 - 1``, "caffe" BGR less ImageNet's mean, and "bgr" BGR
            as it is.

    Returns:
        An array or a tensor of floats, of the shape of ``x``.

    Raises:
        ValueError: If an argument is not what is described above.

    Example:
        >>> x = tfconv.models.preprocess_input(np.full([1, 2, 2, 3], 255, np.uint8), mode="tf")
        >>> float(x.min()), float(x.max())
        (1.0, 1.0)
    """
    one_of(mode, "mode", MODES)
    data_format = _compat.standardized_data_format(data_format)
    if isinstance(x, np.ndarray):
        x = x.astype(x.dtype if np.issubdtype(x.dtype, np.floating) else keras.backend.floatx())
    elif isinstance(x, tf.Tensor) and not x.dtype.is_floating:
        x = tf.cast(x, keras.backend.floatx())
    if mode == "bgr":
        last = data_format == "channels_last"
        return x[..., ::-1] if last else x[..., ::-1, :, :]
    return keras.applications.imagenet_utils.preprocess_input(x, data_format, mode)


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The likeliest of ImageNet's classes, as `keras.applications` gives them.

    The names are in a file of Keras's, which it fetches once.

    Args:
        preds: [images, 1000] probabilities or logits.
        top: How many classes of each image.

    Returns:
        For each image the classes, likeliest first: their numbers in WordNet, their names and
        what ``preds`` has for them.

    Raises:
        ValueError: If an argument is not what is described above.
        ConnectionError: If the file is not there and cannot be fetched.

    Example:
        >>> tfconv.models.decode_predictions(np.zeros([1, 10]))
        Traceback (most recent call last):
        ValueError: `preds` must have the shape [images, 1000]. Received: shape (1, 10)
    """
    positive_int(top, "top")
    preds = np.asarray(preds)
    if preds.ndim != 2 or preds.shape[1] != CLASSES:
        raise ValueError(
            f"`preds` must have the shape [images, {CLASSES}]. Received: shape {preds.shape}"
        )
    utils = keras.applications.imagenet_utils
    try:
        return utils.decode_predictions(preds, min(top, CLASSES))
    except Exception as error:  # Keras raises its base class
        raise ConnectionError(
            f"The names of the classes cannot be fetched: {error}. Put {NAMES} from {NAMES_FROM} "
            "into the folder models of Keras's (~/.keras, or KERAS_HOME)."
        ) from error
