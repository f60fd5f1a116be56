"""Brings LiteRT.js beside the page "Draw a digit", so that the page needs no network.

    python -m docs.litert        # needs npm

The files go to docs/draw/litert/, which git leaves out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

DRAW = Path(__file__).resolve().parent / "draw"
NPM = DRAW.parents[1] / "build" / "litert"
PACKAGES = NPM / "node_modules" / "@litertjs"


def files(packages: Path = PACKAGES) -> dict[Path, str]:
    """The files of npm's packages that the page loads, by where it looks for them."""
    wasm = packages / "core" / "wasm"
    kinds = [*wasm.glob("litert_wasm_internal.*"), *wasm.glob("litert_wasm_compat_internal.*")]
    modules = {"core": "index.js", "wasm-utils": "wasm-utils.js"}
    found = {packages / name / "dist" / "index.js": place for name, place in modules.items()}
    return {**found, **{path: f"wasm/{path.name}" for path in kinds}}


def copy(folder: Path, packages: Path = PACKAGES) -> None:
    """Puts them into a folder."""
    for source, place in files(packages).items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / place)


def main() -> None:
    version = re.search(r'VERSION = "([\d.]+)"', (DRAW / "draw.js").read_text("utf-8"))[1]
    command = ["npm", "install", "--silent", "--prefix", str(NPM), f"@litertjs/core@{version}"]
    subprocess.run(command, check=True)
    copy(DRAW / "litert")


if __name__ == "__main__":
    main()
