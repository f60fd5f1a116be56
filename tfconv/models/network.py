"""What all networks share: their arguments, their heads and their weights."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfconv import _compat
from tfconv._compat import keras
from tfconv.blocks.convolution import PYTORCH, Convention, checked_convention
from tfconv.checkpoints import IMAGENET, IN_TRAINING, Checkpoint, checkpoints
from tfconv.export.files import why_no_file
from tfconv.layers.arguments import boolean, one_of, positive_int, resolved
from tfconv.layers.base import static_shape
from tfconv.models.hub import fetch
from tfconv.models.preprocessing import CLASSES, decode_predictions, preprocess_input
from tfconv.ops.geometry import is_int
from tfconv.surgery.torch_weights import SUFFIXES, load_torch_weights, top_module

ENDS = (*SUFFIXES, ".h5", ".keras")  # of files that somebody may have meant
# Modules that checkpoints have besides the network: torchvision's GoogLeNet, mmpretrain's models.
AUXILIARY = ("aux1", "aux2", "neck")

COMMON = """include_top: Whether the classifier belongs to it.
        weights: None for random ones; "imagenet" or another name of `tfconv.models.checkpoints`,
            which is fetched; or a file: one of Keras's or a PyTorch checkpoint (.pth or
            .safetensors), which `tfconv.surgery.load_torch_weights` reads.
        input_tensor: A Keras tensor of images that takes the place of the network's own input;
            with layers before it, the model begins where they begin.
        input_shape: Shape of an image, such as (224, 224, 3) or (None, None, 3).
        pooling: What follows the features without the classifier: "avg", "max" or None.
        classes: How many classes the classifier tells apart.
        classifier_activation: Activation of the classifier; None gives logits.
        name: The model's name.

    Returns:
        A functional `keras.Model` of images that have been normalized as its weights want it:
        by the network's ``preprocess_input``, see `tfconv.models.preprocess_input`.

    Raises:
        ValueError: If an argument is not what is described above, or the file's weights do not
            fit, leave out some, or are of a larger network.
        OSError: If weights that are given by name cannot be fetched."""


def _checked_shape(input_shape: Any, size: int) -> tuple[int | None, ...]:
    """The shape of an image, by default of ``size`` x ``size`` pixels in three colours."""
    channels_last = keras.backend.image_data_format() == "channels_last"
    if input_shape is None:
        return (size, size, 3) if channels_last else (3, size, size)
    try:
        shape = tuple(input_shape)
    except TypeError:
        shape = ()
    sizes = shape if channels_last else (*shape[1:], *shape[:1])
    if (
        len(shape) != 3
        or any(n is not None and (not is_int(n) or n < 1) for n in sizes)
        or sizes[-1] is None
    ):
        raise ValueError(
            "`input_shape` must be the height, width and channels of an image, in Keras's data "
            f"format; height and width may be None. Received: input_shape={input_shape!r}"
        )
    return shape


def _input(input_tensor: Any, input_shape: Any, size: int) -> tuple[Any, Any]:
    """What the model takes, and the images."""
    if input_tensor is None:
        inputs = keras.Input(_checked_shape(input_shape, size))
        return inputs, inputs
    if not _compat.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, such as `keras.Input` gives. Received: "
            f"input_tensor={input_tensor!r}"
        )
    shape = static_shape(input_tensor.shape)
    if input_shape is not None and _checked_shape(input_shape, size) != shape[1:]:
        raise ValueError(
            "`input_shape` must be that of the images in `input_tensor`. Received: "
            f"input_shape={input_shape!r}, input_tensor of shape {shape}"
        )
    _checked_shape(shape[1:], size)
    sources = keras.utils.get_source_inputs(input_tensor)
    return (sources[0] if len(sources) == 1 else sources), input_tensor


def _checkpoint(network: str, weights: Any, own: dict, defaults: dict) -> Checkpoint | None:
    """The public checkpoint that is meant by a name; None for a file."""
    named = checkpoints(network)
    if not isinstance(weights, str) or weights not in (IMAGENET, *(c.name for c in named)):
        _check_file(network, weights)
        return None
    chosen = [c for c in named if weights in (IMAGENET, c.name)]
    for checkpoint in chosen:
        needed = {**defaults, **_arguments(checkpoint)}
        given = own if weights == IMAGENET else {**needed, **own}
        complete = {**defaults, **given}
        if all(complete[key] == needed[key] for key in needed if key not in IN_TRAINING):
            return checkpoint
    if not chosen:
        _check_file(network, weights)
    rows = "; ".join(f"{c.name!r}: {dict(_arguments(c)) or 'no arguments'}" for c in chosen)
    raise ValueError(
        f"`weights` must be those of {network} with the same arguments of its own; there are "
        f"{rows}. Received: weights={weights!r}, {own}"
    )


def _arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """The network's own arguments that a checkpoint needs."""
    arguments = dict(checkpoint.arguments)
    if "convention" in arguments:
        arguments["convention"] = Convention(**arguments["convention"])
    return arguments


def _check_classes(include_top: bool, classes: int, weights: str) -> None:
    if include_top and classes != CLASSES:
        raise ValueError(
            f"`classes` must be {CLASSES} with a classifier of ImageNet's; without it "
            f"(`include_top=False`) put your own on top. Received: classes={classes}, "
            f"weights={weights!r}"
        )


def _check_file(network: str, weights: Any) -> None:
    if isinstance(weights, (str, os.PathLike)):
        path = Path(weights)
        if path.is_file():
            return
        why = why_no_file(path)
        if isinstance(weights, str) and path.name == weights and path.suffix not in ENDS:
            names = [IMAGENET, *(c.name for c in checkpoints(network))]
            why = f"by name there are {', '.join(names)}"
            if not names[1:]:
                why = f"{network} has none by name; docs/networks.md says whose checkpoints fit"
        raise ValueError(f"`weights` must be None or a file: {why}. Received: weights={weights!r}")
    raise ValueError(f"`weights` must be None or a file's path. Received: weights={weights!r}")


def _load(model: keras.Model, weights: Any, include_top: bool) -> None:
    """Loads a file of Keras's, or a PyTorch checkpoint that has just what the model needs."""
    if Path(weights).suffix not in SUFFIXES:
        model.load_weights(os.fspath(weights))
        return
    report = load_torch_weights(model, weights)
    if report.missing:
        raise ValueError(
            f"`weights` leaves out {len(report.missing)} of the weights of {model.name}, such as "
            f"{report.missing[0]!r}. Received: weights={str(weights)!r}"
        )
    # Without the classifier, modules that the network does not have may be left over.
    known = set(map(top_module, report.used))
    other = [
        key
        for key in report.unused
        if top_module(key) in known or (include_top and top_module(key) not in AUXILIARY)
    ]
    if other:
        raise ValueError(
            f"`weights` must be those of {model.name}, which has no place for {len(other)} of "
            f"them, such as {other[0]!r}. Received: weights={str(weights)!r}"
        )


def network(
    *,
    size: int = 224,
    classifier: str = "fc",
    use_bias: bool = True,
    dropout: float = 0.0,
    normalization: str = "torch",
    head: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., keras.Model]]:
    """Decorator that makes a network of a function that gives an image's features.

    The function takes a Keras tensor and keyword arguments of the network's own. The network
    takes those of `keras.applications` as well, and describes them in its docstring in the place
    of ``{common}``.

    Args:
        size: Height and width of the images that it is made for.
        classifier: Name of the last dense layer.
        use_bias: Whether that layer has a bias.
        dropout: Fraction dropped before it.
        normalization: Mode of `preprocess_input` that its checkpoints want.
        head: What comes between pooling and it; takes the pooled features and the network's own
            arguments.
    """

    def decorate(features: Callable[..., Any]) -> Callable[..., keras.Model]:
        parameters = list(inspect.signature(features).parameters.values())[1:]
        defaults = {parameter.name: parameter.default for parameter in parameters}

        @functools.wraps(features)
        def build(
            include_top: bool = True,
            weights: str | os.PathLike | None = None,
            input_tensor: Any = None,
            input_shape: tuple[int | None, ...] | None = None,
            pooling: str | None = None,
            classes: int = 1000,
            classifier_activation: Any = "softmax",
            name: str | None = None,
            **own: Any,
        ) -> keras.Model:
            include_top = boolean(include_top, "include_top")
            one_of(pooling, "pooling", (None, "avg", "max"))
            classes = positive_int(classes, "classes")
            resolved(classifier_activation, "classifier_activation")  # raises
            if weights is not None:
                checkpoint = _checkpoint(features.__name__, weights, own, defaults)
                if checkpoint is not None:
                    _check_classes(include_top, classes, weights)
                    own = {**_arguments(checkpoint), **own}
                    weights = fetch(checkpoint)
            own = {**defaults, **own}
            checked_convention(own.get("convention", PYTORCH))
            inputs, images = _input(input_tensor, input_shape, size)
            x = features(images, **own)
            if include_top:
                x = keras.layers.GlobalAveragePooling2D()(x)
                x = x if head is None else head(x, **own)
                x = keras.layers.Dropout(dropout)(x) if dropout else x
                x = keras.layers.Dense(
                    classes, classifier_activation, use_bias=use_bias, name=classifier
                )(x)
            elif pooling == "avg":
                x = keras.layers.GlobalAveragePooling2D()(x)
            elif pooling == "max":
                x = keras.layers.GlobalMaxPooling2D()(x)
            model = keras.Model(inputs, x, name=name or features.__name__.lower())
            if weights is not None:
                _load(model, weights, include_top)
            return model

        given = inspect.signature(build, follow_wrapped=False).parameters.values()
        common = [p for p in given if p.kind is not inspect.Parameter.VAR_KEYWORD]
        build.__signature__ = inspect.Signature(
            [*common, *parameters], return_annotation=keras.Model
        )
        build.__doc__ = (features.__doc__ or "").replace("{common}", COMMON)
        build.decode_predictions = decode_predictions
        build.preprocess_input = functools.partial(preprocess_input, mode=normalization)
        return build

    return decorate


def stages(x: Any, block: Callable[..., Any], widths: Any, depths: Any, strides: Any) -> Any:
    """Blocks ``layer<stage>.<number>``, the first of each stage with the stage's strides."""
    for stage, (width, depth, stride) in enumerate(zip(widths, depths, strides), 1):
        for number in range(depth):
            x = block(x, width, stride if number == 0 else 1, name=f"layer{stage}.{number}")
    return x
