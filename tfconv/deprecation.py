"""Old names of arguments: they work for one more minor version, and warn."""

from __future__ import annotations

import warnings


def warn_of_old_name(owner: str, old: str, new: str, gone: str) -> None:
    """Warns that an argument has another name now.

    Args:
        owner: What takes the argument, such as "SqueezeExcite".
        old: Its name until now.
        new: Its name.
        gone: The version of tfconv that does without the old one, such as "0.3".
    """
    # A FutureWarning, which Python shows wherever it comes from.
    warnings.warn(
        f"{owner} has `{new}` in place of `{old}`, which goes with tfconv {gone}.",
        FutureWarning,
        stacklevel=3,
    )
