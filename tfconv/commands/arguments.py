"""What the arguments of commands must be, as far as that can be told without TensorFlow."""

from __future__ import annotations

import argparse
import ast
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"


def positive(text: str) -> int:
    """A positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Received: {text}")
    return value


def seed(text: str) -> int:
    """An integer that seeds random numbers."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}. Received: {text}")
    return value


positive.__name__ = seed.__name__ = "integer"  # argparse names the type in its errors

ANY = "any"


def batch(text: str) -> int | str:
    """A positive integer, or `ANY`."""
    return text if text == ANY else positive(text)


def shape(text: str) -> tuple[int, ...]:
    """Sizes with commas between them."""
    return tuple(positive(size) for size in text.split(","))


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [float(number) for number in text.split(",")]


def named_file(text: str) -> tuple[str, Path]:
    """A file, and the name before it: "class=labels.txt"."""
    name, equals, path = text.rpartition("=")
    return (name, Path(path)) if equals else ("", Path(text))


batch.__name__, shape.__name__ = f'integer or "{ANY}"', "list of integers"
numbers.__name__ = "list of numbers"


# Layers.


def layer_names() -> list[str]:
    """The names of the classes in `tfconv.layers`, which is read here and not imported."""
    return _names("layers")


def network_names() -> list[str]:
    """The names of the networks in `tfconv.models`, likewise."""
    return [name for name in _names("models") if name[0].isupper()]


def _names(package: str) -> list[str]:
    source = Path(__file__).parents[1].joinpath(package, "__init__.py")
    body = ast.parse(source.read_text(encoding="utf-8")).body
    imports = [statement for statement in body if isinstance(statement, ast.ImportFrom)]
    return sorted(alias.name for statement in imports for alias in statement.names)


def check_layers(names: Sequence[str], others: Iterable[str] = ()) -> None:
    """Raises ValueError unless each is a layer, a family or one of others, in any case."""
    layers = layer_names()
    families = sorted({re.sub("[123]D", "", name, count=1) for name in layers})
    known = {name.lower() for name in (*layers, *families, *others)}
    for name in names:
        if name.lower() not in known:
            raise ValueError(
                f"LAYER must be among {', '.join((*others, *families))}, or a layer of these "
                f"families. Received: {name!r}"
            )


# Files.


def check_model(path: Path) -> None:
    """Raises ValueError if there cannot be a Keras model at a path."""
    if path.is_dir():
        if not any(path.joinpath(name).is_file() for name in ("saved_model.pb", "config.json")):
            raise ValueError(f"{path} is there, but is a folder, and not one of Keras.")
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
    except FileNotFoundError:
        raise ValueError(f"There is no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"{path} is there, but cannot be read: {error.strerror}") from error
    if start == _HDF5:
        if path.suffix == ".keras":
            raise ValueError(f"{path} is there, but is an HDF5 file: its name must end with .h5")
    elif not start.startswith(_ZIP):
        what = "no Keras file" if start else "empty"
        raise ValueError(f"{path} is there, but is {what}.")
    else:
        _check_archive(path)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is there, but is damaged or cut off: {error}") from error
    if "config.json" not in names:
        raise ValueError(f"{path} is there, but is no Keras file: it has no config.json.")
    if path.suffix in (".h5", ".hdf5"):
        raise ValueError(f"{path} is there, but is no HDF5 file: its name must end with .keras")


def check_input(path: Path, option: str) -> None:
    """Raises ValueError unless there is a file to read."""
    if path.is_dir():
        raise ValueError(f"`{option}` must be a file: there is a folder. Received: {option} {path}")
    if not path.exists():
        raise ValueError(f"No such file: `{option}` must be one. Received: {option} {path}")


def check_output(path: Path, option: str, *inputs: Path | None) -> None:
    """Raises ValueError if no file can be written to a path, or it is one of those to read."""
    if not path.parent.is_dir():
        raise ValueError(f"`{option}` must lie in a folder that exists. Received: {option} {path}")
    if path.is_dir():
        raise ValueError(f"`{option}` must be a file: there is a folder. Received: {option} {path}")
    check_apart(path, option, *inputs)


def check_apart(path: Path, option: str, *inputs: Path | None) -> None:
    """Raises ValueError if what is to be written would take the place of what is read."""
    for given in filter(None, inputs):
        if path.exists() and given.exists() and path.samefile(given):
            raise ValueError(
                f"`{option}` must not be {given}, which is read. Received: {option} {path}"
            )


def check_folder(path: Path, option: str) -> None:
    """Raises ValueError if something else than a folder is where one is to be."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"`{option}` must be a folder: there is a file. Received: {option} {path}")


def arrays_in(path: Path, option: str) -> Any:
    """The array in a .npy file, or those in a .npz file by their names.

    Raises:
        OSError: If there is no such file.
        ValueError: If it holds something else.
    """
    import numpy as np

    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = "" if "pickle" in str(error) else f" ({error})"  # which nobody should allow
        raise ValueError(
            f"`{option}` must be a .npz or .npy file of arrays{why}. Received: {option} {path}"
        ) from error
