"""docs/layers.md as data: its sections, and the symbols of its formulas.

The page's formulas are Python expressions in its symbols. They are evaluated for real layers and
held against the layers' weights, and against products counted apart from the page: in the graph
of a call, or by doing what the definition says, product by product.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

import tfconv
from tests.docs.products import products_in_graph

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "layers.md").read_text(encoding="utf-8")

INTERPOLATION = "Interpolation, not counted above"  # a row that one section has


def family(name: str) -> str:
    """The name of a layer's family: its class's name without the rank."""
    return re.sub("[123]D", "", name)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def anchor(heading: str) -> str:
    """What Markdown makes of a heading for links."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        heading: Its heading.
        text: What stands below it.
        line: The number of its first line, so that errors name the page's lines.
    """

    heading: str
    text: str
    line: int

    @property
    def names(self) -> list[str]:
        return self.heading.split(", ")

    @property
    def example(self) -> str:
        return re.findall(r"^```python\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)[0]

    def cell(self, row: str) -> str | None:
        """The second cell of a row of the section's table."""
        found = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", self.text, re.MULTILINE)
        return found and found.group(1)

    def formula(self, row: str) -> str | None:
        """The one formula of a row, None if there is no such row."""
        cell = self.cell(row)
        return None if cell is None else codes(cell)[0]

    @property
    def weights(self) -> dict[str, str]:
        """Formulas of the weights' shapes by name."""
        return dict(code.split(" ", 1) for code in codes(self.cell("Weights")) if " [" in code)


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@functools.cache
def sections() -> dict[str, Section]:
    """All sections by heading."""
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    found, line = {}, parts[0].count("\n") + 1
    for heading, text in zip(parts[1::2], parts[2::2]):
        found[heading] = Section(heading, text, line)
        line += text.count("\n") + 1
    return found


@functools.cache
def families() -> dict[str, Section]:
    """The sections of layers, by family."""
    return {family(s.names[0]): s for s in sections().values() if s.names[0] in dir(tfconv.layers)}


def rows(heading: str) -> list[list[str]]:
    """The table of a section, without its header."""
    lines = [line for line in sections()[heading].text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# The symbols.

FUNCTIONS = {"len": len, "max": max, "min": min, "prod": math.prod, "sum": sum, "zip": zip}


def narrow(layer: Any, x: tf.Tensor) -> int:
    """Channels in the narrow middle of a layer, as its arguments say."""
    config = layer.get_config()
    if config.get("kernel_rank") or config.get("squeeze_channels"):
        return config.get("kernel_rank") or config["squeeze_channels"]
    return max(x.shape[-1] // config["reduction_ratio"], 1)


# What the page's symbols are: from a layer's arguments, its (first) input and its output.
SYMBOLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "N": lambda layer, x, y: x.shape[0],
    "c": lambda layer, x, y: x.shape[-1],
    "f": lambda layer, x, y: y.shape[-1],
    "q_i": lambda layer, x, y: tuple(x.shape[1:-1]),
    "q": lambda layer, x, y: math.prod(x.shape[1:-1]),
    "p_i": lambda layer, x, y: tuple(y.shape[1:-1]),
    "p": lambda layer, x, y: math.prod(y.shape[1:-1]),
    "k_i": lambda layer, x, y: layer.kernel_size,
    "k": lambda layer, x, y: math.prod(layer.kernel_size),
    "a_i": lambda layer, x, y: [
        math.prod(y.shape[1 : i + 2]) * math.prod(x.shape[i + 2 : -1])
        for i in range(len(x.shape) - 2)
    ],
    "l_i": lambda layer, x, y: layer.depthwise_kernel_size,
    "b": lambda layer, x, y: int(layer.use_bias),
    "g": lambda layer, x, y: layer.groups or x.shape[-1] // layer.group_channels,
    "j": lambda layer, x, y: 1 if layer.share_kernel else layer.groups,
    "m": lambda layer, x, y: layer.depth_multiplier,
    "r": lambda layer, x, y: narrow(layer, x),
    "r_1": lambda layer, x, y: layer.ranks[0],
    "r_2": lambda layer, x, y: layer.ranks[1],
    "e": lambda layer, x, y: layer.num_experts,
    "o": lambda layer, x, y: layer.offset_groups,
    "s": lambda layer, x, y: layer.rank + layer.modulated,
    "h": lambda layer, x, y: layer.num_heads,
    "d": lambda layer, x, y: getattr(layer, "key_dim", None) or layer.filters // layer.num_heads,
    "v": lambda layer, x, y: layer.value_dim or layer.key_dim,
    "z": lambda layer, x, y: (
        math.prod(2 * size - 1 for size in x.shape[1:-1]) if layer.relative_position_bias else 0
    ),
    "n": lambda layer, x, y: layer.kernel.shape[0],
    "t_i": lambda layer, x, y: [part.count_params() for part in layer.transforms],
    "u_i": lambda layer, x, y: [
        products_in_graph(part, split)
        for part, split in zip(layer.transforms, tf.split(x, layer.groups, axis=-1))
    ],
    "w": lambda layer, x, y: int(layer.merge == "weighted_sum"),
}


def names_in(formula: str) -> set[str]:
    """The symbols of a formula."""
    nodes = [node for node in ast.walk(ast.parse(formula)) if isinstance(node, ast.Name)]
    own = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    return {node.id for node in nodes} - own - set(FUNCTIONS)


def evaluated(formula: str, values: dict[str, Any]) -> Any:
    return eval(formula, {"__builtins__": FUNCTIONS, **values})
