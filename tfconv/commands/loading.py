"""How commands load the model that they are about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_UNKNOWN = re.compile(r"(?:Could not locate|Unknown) (\w+):? '?(\w+)'?")  # Keras 3, Keras 2
_CHARACTERS = 400


def load_model(path: Path) -> Any:
    """The Keras model in a file or folder.

    Raises:
        ValueError: If it cannot be loaded; the message says why, without the model's configuration.
    """
    from tfconv._compat import keras
    from tfconv.export.quiet import quiet

    with quiet(f"Loading {path}"):
        try:
            return keras.models.load_model(path, compile=False)
        except Exception as error:  # of many kinds: what is not a model can be anything
            raise ValueError(_why(str(error))) from error


def _why(said: str) -> str:
    if unknown := _UNKNOWN.search(said):
        what, name = unknown.groups()
        return (
            f"It holds the {what} `{name}`, which is neither Keras's nor tfconv's: load it in "
            "Python, where that is known, and call the function of tfconv for this."
        )
    why = said.rpartition("Exception encountered: ")[2].strip()
    return why if len(why) <= _CHARACTERS else f"{why[:_CHARACTERS]} ..."
