"""The examples as notebooks: `python -m tests.notebooks` writes examples/notebooks.

A script's cells begin with lines `# %%`; those of text with `# %% [markdown]`, each line a comment.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FOLDER = EXAMPLES / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def scripts() -> list[Path]:
    """The examples, in alphabetical order."""
    return sorted(EXAMPLES.glob("*.py"))


def cells(script: str) -> list[dict]:
    """The cells of a script, as notebooks have them."""
    before, *parts = re.split(r"^# %%( \[markdown\])?\n", script, flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"A script must begin with a cell. Received: {before[:60]!r}")
    made = []
    for number, (kind, text) in enumerate(zip(parts[::2], parts[1::2])):
        lines = text.strip("\n").splitlines(keepends=True)
        cell = {"id": f"cell-{number}", "metadata": {}}
        if kind:
            source = [re.sub("^# ?", "", line) for line in lines]
            made.append({"cell_type": "markdown", **cell, "source": source})
        else:
            made.append(
                {
                    "cell_type": "code",
                    "execution_count": None,
                    **cell,
                    "outputs": [],
                    "source": lines,
                }
            )
    return made


def notebook(script: str) -> str:
    """The notebook of a script, as its file has it."""
    content = {"cells": cells(script), "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.ipynb"):
        path.unlink()
    for script in scripts():
        text = notebook(script.read_text(encoding="utf-8"))
        (FOLDER / f"{script.stem}.ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
