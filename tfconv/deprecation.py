"""Old names of arguments: they work for one more minor version, and warn."""

from __future__ import annotations

import sys
import warnings

_BETWEEN = ("tfconv", "keras", "tf_keras")  # the caller and the constructor that warns


def warn_of_old_name(owner: str, old: str, new: str, gone: str) -> None:
    """Warns that an argument has another name now.

    Args:
        owner: What takes the argument, such as "SqueezeExcite".
        old: Its name until now.
        new: Its name.
        gone: The version of tfconv that does without the old one, such as "0.3".
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    # A FutureWarning, which Python shows wherever it comes from.
    warnings.warn(
        f"{owner} has `{new}` in place of `{old}`, which goes with tfconv {gone}.",
        FutureWarning,
        stacklevel=level - 1,
    )
