"""Draws what each family of layers connects: one SVG a family.

    python -m docs.drawing docs/pictures

Nothing is drawn by hand: a real layer is built on a small input, the derivatives of its outputs
by its inputs give the connections, and changing one weight after the other shows which weights
make each of them.

``connections`` computes, ``style`` has colours, ``panels`` draws parts of a picture, ``layouts``
whole ones. The other modules have the pictures, a function each.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from . import dependent, places, shared, stages, views  # noqa: E402, F401 (they list their pictures)
from .connections import Connections, connections  # noqa: E402
from .layouts import as_svg, draw, pictures, tiles  # noqa: E402
from .style import Palette  # noqa: E402

__all__ = ["Connections", "Palette", "as_svg", "connections", "draw", "pictures", "tiles"]
