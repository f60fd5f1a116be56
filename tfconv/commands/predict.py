"""The command `tfconv predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tfconv.checkpoints import IMAGENET, Checkpoint, checkpoints
from tfconv.commands.arguments import check_input, network_names, positive
from tfconv.commands.messages import fail, wide_console
from tfconv.commands.process import start

_CROP = 0.875  # of a file's weights, of which nothing is known
_OPTIONS = {"weights": "--weights"}


def add_predict(commands: Any) -> None:
    """Adds `tfconv predict` to a parser's commands."""
    parser = commands.add_parser(
        "predict",
        help="tell what is on a picture, by a network with public weights",
        description="Fetches a network's public weights, unless they are there, and prints the "
        "likeliest of ImageNet's classes for each picture.",
    )
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="a picture")
    parser.add_argument(
        "--network", metavar="NAME", help="a network of tfconv.models, such as MobileNetV1"
    )
    parser.add_argument(
        "--weights",
        default=IMAGENET,
        metavar="NAME",
        help="which of the network's weights, or a file of them (default: the first that --list "
        "has of the network)",
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=5,
        metavar="N",
        help="how many classes to print (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="list the weights and where they are")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    try:
        if arguments.list:
            _check_network(arguments.network or network_names()[0])
            wide_console().print(_table(checkpoints(arguments.network)))
            return 0
        checkpoint = _checked(arguments)
    except ValueError as error:
        return fail("nothing was predicted.", error)
    start()
    from tfconv import models

    function = getattr(models, arguments.network)
    try:
        model = function(weights=arguments.weights)
        for image in arguments.images:
            x, seen = _picture(image, model.input_shape[1], checkpoint)
            mode = {} if checkpoint is None else {"mode": checkpoint.mode}
            scores = model.predict(function.preprocess_input(x[None], **mode), verbose=0)
            _tell(image, function.decode_predictions(scores, arguments.top)[0], seen)
    except (ImportError, OSError, ValueError) as error:
        return fail("nothing was predicted.", error, _OPTIONS)
    return 0


def _checked(arguments: argparse.Namespace) -> Checkpoint | None:
    """The weights that are meant, None for a file; ValueError if an argument does not fit."""
    if arguments.network is None or not arguments.images:
        given = ["IMAGE"] * bool(arguments.images) + ["--network"] * bool(arguments.network)
        raise ValueError(
            f"IMAGE and --network are needed, or --list. Received: {', '.join(given) or 'neither'}"
        )
    _check_network(arguments.network)
    for image in arguments.images:
        check_input(image, "IMAGE")
    known = checkpoints(arguments.network)
    for checkpoint in known:
        if arguments.weights in (IMAGENET, checkpoint.name):
            return checkpoint
    if not Path(arguments.weights).is_file():
        names = ", ".join(each.name for each in known) or "no names"
        raise ValueError(
            f"`--weights` must be a file, or for {arguments.network} one of: {names}. "
            f"Received: --weights {arguments.weights}"
        )
    return None


def _check_network(name: str) -> None:
    names = network_names()
    if name not in names:
        raise ValueError(
            f"`--network` must be one of {', '.join(names)}. Received: --network {name}"
        )


def _picture(path: Path, size: int, checkpoint: Checkpoint | None) -> tuple[Any, str]:
    """[size, size, 3] of 0..255, the middle of a picture, and what of it that is.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If there is no such file.
        ValueError: If the file holds something else.
    """
    import numpy as np

    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError(
            f"Pictures need Pillow, which cannot be imported ({error}): pip install pillow"
        ) from error
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"IMAGE must be a picture. {error}") from error
    crop = _CROP if checkpoint is None else checkpoint.crop
    bilinear = checkpoint is not None and checkpoint.interpolation == "bilinear"
    how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    scale = int(size / crop) / min(picture.size)
    width, height = (max(size, round(scale * side)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), how)
    middle = resized.crop((left, top, left + size, top + size))
    return np.asarray(middle, np.float32), f"{picture.width}x{picture.height}"


def _tell(path: Path, classes: list[tuple[str, str, float]], seen: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"{path} ({seen})", markup=False)
    for number, name, score in classes:
        console.print(f"  {score:8.2%}  {name.replace('_', ' ')}  ({number})", markup=False)


def _table(found: list[Checkpoint]) -> Any:
    from rich import box
    from rich.table import Table

    heads = ("network", "weights", "arguments", "top-1", "size", "licence", "from")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=head in ("network", "weights"), overflow="fold")
    for each in found:
        # The convention goes without saying: a name brings it along.
        own = [f"{key}={value}" for key, value in each.arguments.items() if key != "convention"]
        table.add_row(
            each.network,
            each.name,
            ", ".join(own),
            f"{each.top1:.2f}",
            str(each.size),
            each.licence or "not stated",
            each.address.removeprefix("https://"),
        )
    return table
