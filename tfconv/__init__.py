"""tfconv: a Keras layer for every kind of convolution.

Layers stand at top level (``tfconv.Involution2D``), functions in `tfconv.ops`; `tfconv.export`
takes models out of Python. `native_status()` says whether the fast native ops serve; `portable()`
and `keep_native()` choose.
"""

from tfconv import _compat

_compat.require_tensorflow_backend()

from tfconv import (  # noqa: E402
    analysis,
    blocks,
    callbacks,
    export,
    layers,
    lite,
    models,
    ops,
    surgery,
    visual,
)
from tfconv._version import __version__  # noqa: E402
from tfconv.layers import *  # noqa: E402,F403
from tfconv.ops.dispatch import (  # noqa: E402
    NativeStatus,
    keep_native,
    native_status,
    portable,
)
from tfconv.replacements import replacements  # noqa: E402

__all__ = [
    "NativeStatus",
    "__version__",
    "analysis",
    "blocks",
    "callbacks",
    "export",
    "keep_native",
    "layers",
    "lite",
    "models",
    "native_status",
    "ops",
    "portable",
    "replacements",
    "surgery",
    "visual",
    *layers.__all__,
]
