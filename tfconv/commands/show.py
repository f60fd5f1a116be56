"""The command `tfconv show`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tfconv.commands.arguments import (
    arrays_in,
    check_folder,
    check_input,
    check_model,
    check_output,
    positive,
)
from tfconv.commands.loading import load_model
from tfconv.commands.messages import fail
from tfconv.commands.process import start

_WHAT = ("sampling", "kernels", "routing", "receptive-field")
_FIELD_IMAGES = 32  # that a receptive field is averaged over at most
_OPTIONS = {  # what the arguments of tfconv.visual's functions are called here
    "image": "--image",
    "images": "--image",
    "layer": "--layer",
    "levels": "--levels",
    "path": "--output",
    "position": "--position",
}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of pictures, by the channels that a model takes


def add_show(commands: Any) -> None:
    """Adds `tfconv show` to a parser's commands."""
    parser = commands.add_parser(
        "show",
        help="draw what a model's layers do to an image",
        description="Draws what the layers of a Keras model do to an image: where deformable "
        "convolutions sample, the kernels that involutions make, routing weights, and what an "
        "output really sees.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a Keras model: a file, or a folder of Keras 2"
    )
    parser.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        required=True,
        help="a picture, which is resized to the model's input; or a .npy or .npz file of inputs "
        "as the model takes them, in the latter with their classes as `labels` if you like",
    )
    parser.add_argument(
        "--what", choices=_WHAT, help="what to draw (default: all for which there are layers)"
    )
    parser.add_argument("--layer", metavar="NAME", help="only this layer")
    parser.add_argument(
        "--position",
        type=_pair(int),
        action="append",
        metavar="Y,X",
        help="a pixel of the model's input, for whose place to draw samples, kernels and the "
        "receptive field; several times for several (default: three on the diagonal, and the "
        "middle for the receptive field)",
    )
    parser.add_argument(
        "--levels",
        type=positive,
        default=1,
        metavar="N",
        help="follow samples through so many deformable convolutions (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=_pair(float),
        metavar="LOW,HIGH",
        help="what black and white of a picture become for the model, such as --scale=-1,1 "
        "(default: 0,1, or 0,255 if the model takes integers)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="with --what, the picture to write; else a folder for several (default: named after "
        "the model, in the current folder)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    if not arguments.model.exists():
        return fail("there is no such model.", arguments.model)
    try:
        check_model(arguments.model)
    except ValueError as error:
        return fail(f"{arguments.model} cannot be loaded as a Keras model.", error)
    try:
        check_input(arguments.image, "--image")
        if arguments.what and arguments.output:
            check_output(arguments.output, "--output", arguments.model, arguments.image)
        elif arguments.output:
            check_folder(arguments.output, "--output")
    except ValueError as error:
        return fail("nothing was drawn.", error)
    start(onednn=False)
    from tfconv.figures import empty_figure

    try:
        model = load_model(arguments.model)
    except ValueError as error:
        return fail(f"{arguments.model} cannot be loaded as a Keras model.", error)
    try:
        images, labels = _inputs(arguments.image, model, arguments.scale)
    except (ImportError, OSError, ValueError) as error:
        return fail(f"{arguments.image} cannot be shown to {model.name}.", error)
    try:
        found = _found(model, images, labels, arguments)
    except Exception as error:  # of Keras: an input may not fit the model
        return fail(f"nothing was drawn of {arguments.model}.", error, _OPTIONS)
    name = arguments.model.stem
    if arguments.what:
        paths = {arguments.what: arguments.output or Path(f"{name}-{arguments.what}.png")}
    else:
        folder = arguments.output or Path(f"{name}-pictures")
        paths = {what: folder / f"{what}.png" for what in found}
    try:
        if not arguments.what:
            empty_figure(1, 1)  # without Matplotlib there is nothing to make a folder for
            folder.mkdir(parents=True, exist_ok=True)
        for what, path in paths.items():
            found[what].plot(path)
            print(path)
    except (ImportError, OSError, ValueError) as error:
        return fail("the pictures cannot be written.", error, _OPTIONS)
    return 0


def _found(model: Any, images: Any, labels: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """What there is to draw, by its name."""
    from tfconv import visual

    layer, position = arguments.layer, arguments.position
    functions = {
        "sampling": lambda: visual.sampling_points(
            model, images[0], layer, position, levels=arguments.levels
        ),
        "kernels": lambda: visual.involution_kernels(model, images[0], layer, position),
        "routing": lambda: visual.routing_weights(model, images, layer, labels),
        "receptive-field": lambda: visual.effective_receptive_field(
            model, images[:_FIELD_IMAGES], layer, position and position[0]
        ),
    }
    if arguments.what:
        return {arguments.what: functions[arguments.what]()}
    # What was asked for must be there; the model need not be fit for every kind.
    asked = layer is not None or position is not None
    unsuitable = visual.NoSuchLayer if asked else ValueError
    found, missing = {}, None
    for what, function in functions.items():
        try:
            found[what] = function()
        except unsuitable as error:
            missing = error
    if not found:
        raise missing
    return found


# What the model is shown.


def _inputs(path: Path, model: Any, scale: tuple[float, float] | None) -> tuple[Any, Any]:
    """A batch of inputs, and their labels or None.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If there is no such file.
        ValueError: If the file holds something else.
    """
    if path.suffix in (".npy", ".npz"):
        return _arrays(path)
    return _picture(path, model, scale)[None], None


def _arrays(path: Path) -> tuple[Any, Any]:
    arrays = arrays_in(path, "--image")
    arrays = arrays if isinstance(arrays, dict) else {"images": arrays}
    labels = arrays.pop("labels", None)
    if len(arrays) != 1:
        raise ValueError(
            "--image must have one array of inputs, beside `labels`. "
            f"Received: {path} with {', '.join(arrays) or 'none'}"
        )
    (images,) = arrays.values()
    if images.ndim < 2 or not len(images):
        raise ValueError(
            "--image must have an array [examples, ...] of inputs. "
            f"Received: {path} with one of shape {images.shape}"
        )
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(
            f"--image must have one of `labels` for each of {len(images)} inputs. "
            f"Received: {path} with labels of shape {labels.shape}"
        )
    return images, labels


def _picture(path: Path, model: Any, scale: tuple[float, float] | None) -> Any:
    """A picture in the size and the colours of the model's input, if that is known."""
    import numpy as np
    import tensorflow as tf

    from tfconv.layers.base import static_shape
    from tfconv.visual.places import channels_first

    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError(
            f"Pictures need Pillow, which cannot be imported ({error}): pip install pillow"
        ) from error
    inputs = getattr(model, "inputs", None)  # a subclassed model of Keras 3 has none
    shape = static_shape(inputs[0].shape) if inputs else (None, None, None, 3)
    first = channels_first(model)
    height, width, channels = (*shape[2:], shape[1]) if first else (*shape[1:], None, None)[:3]
    if len(shape) != 4 or channels not in _MODES:
        raise ValueError(
            "The model must take images of 1, 3 or 4 channels to be shown a picture; for others, "
            f"--image takes a .npy or .npz file. Received: a model of inputs {shape[1:]}"
        )
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert(_MODES[channels])
    except UnidentifiedImageError as error:
        raise ValueError(f"--image must be a picture, a .npy or a .npz file. {error}") from error
    size = (width or picture.width, height or picture.height)
    pixels = np.asarray(picture.resize(size), np.float32).reshape(size[1], size[0], channels)
    integers = bool(inputs) and tf.as_dtype(inputs[0].dtype).is_integer
    low, high = scale or (0, 255 if integers else 1)
    pixels = low + (high - low) * pixels / 255
    return pixels.transpose(2, 0, 1) if first else pixels


def _pair(number: type) -> Any:
    """An argument's type: two numbers with a comma."""

    def pair(text: str) -> tuple[Any, Any]:
        first, second = map(number, text.split(","))
        return first, second

    pair.__name__ = "pair of numbers"  # argparse names the type in its errors
    return pair
