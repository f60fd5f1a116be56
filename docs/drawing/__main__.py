"""Draws the pictures of docs/layers.md: `python -m docs.drawing docs/pictures`."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import draw


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws what each family of layers connects.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="such as conv or tiles/conv")
    arguments = parser.parse_args()
    paths = draw(arguments.folder, arguments.names)
    print(f"{len(paths)} pictures in {arguments.folder}")


if __name__ == "__main__":
    main()
