"""docs/layers.md: every layer has its section, and what stands there of shapes and costs holds."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import tensorflow as tf

import tfconv
from docs import drawing
from tests.docs.configurations import ROWS, configurations, example, values
from tests.docs.page import (
    DOCS,
    INTERPOLATION,
    PAGE,
    SYMBOLS,
    anchor,
    codes,
    evaluated,
    families,
    family,
    names_in,
    rows,
    sections,
    snake,
)
from tests.docs.products import products_by_definition, products_in_graph


def test_every_layer_has_a_section():
    """One section a family, which lists all its classes."""
    listed = [name for section in families().values() for name in section.names]
    assert sorted(listed) == sorted(tfconv.layers.__all__)
    for name, section in families().items():
        assert {family(each) for each in section.names} == {name}
    assert set(ROWS) == set(families())


@pytest.mark.parametrize("name", ROWS)
def test_section_has_all_parts(name):
    section = families()[name]
    text = section.text
    assert len(text.split("$$")[0].strip()) > 200, "no paragraph that says what it is and when"
    assert len(text.split("$$")) in (3, 5), "no equation"
    pictures = list(re.finditer(r"^!\[([^]]+)\]\(([^)]+)\)\n\n\*([^*]+)\*$", text, re.M))
    assert pictures and pictures[0].group(2) == f"pictures/{snake(name)}.svg"
    assert len(pictures) == text.count("![") == text.count(".svg")
    for picture in pictures:
        assert len(picture.group(3)) > 40, "a caption says what is seen"
    for row in ("Input", "Output", "Weights", "Parameters", "Multiply-adds"):
        assert section.cell(row), row
    assert len(re.findall("^```python$", text, re.MULTILINE)) == 1
    source = text[text.index("\nSource: ") :]
    links = re.findall(r"\]\((https?://[^)]+)\)", source)
    assert links and all("arxiv.org/abs/" in link for link in links) or name == "LocallyConnected"
    for shown, link in re.findall(r"\[arXiv:([\d.]+)\]\(https://arxiv.org/abs/([\d.]+)\)", text):
        assert shown == link


def test_sources_are_those_of_the_docstrings():
    """A number of a paper that stands on the page stands in the layer's module too."""
    for name, section in families().items():
        layer = getattr(tfconv, section.names[0])
        documented = "".join(base.__doc__ or "" for base in layer.__mro__ if base is not object)
        for number in re.findall(r"arxiv.org/abs/([\d.]+)", section.text):
            assert number in documented, (name, number)


def test_symbols():
    """The page explains the symbols that it uses, and no others."""
    explained = [symbol for row in rows("Symbols") for symbol in codes(row[0])]
    assert sorted(explained) == sorted(SYMBOLS)
    used = set()
    for section in families().values():
        for row in ("Parameters", "Multiply-adds"):
            used |= names_in(section.formula(row))
        for shape in section.weights.values():
            used |= names_in(shape.replace("k_i[i]", "k_i"))
    assert used | {"N", "q_i"} == set(SYMBOLS)


@pytest.mark.parametrize("name", ROWS)
def test_configurations_tell_formulas_apart(name):
    """Every symbol of a formula takes two values or more: a wrong place of it would be seen."""
    section = families()[name]
    for row in ("Parameters", "Multiply-adds"):
        formula = section.formula(row)
        for symbol in names_in(formula):
            seen = {
                str(values(symbol, layer, x, y)[symbol]) for _, layer, x, y in configurations(name)
            }
            assert len(seen) > 1, f"{name}: {symbol} of `{formula}` is {seen} everywhere"
    ranks = {len(y.shape) for _, _, _, y in configurations(name)}
    assert len(ranks) > 1 or len(section.names) == 1


@pytest.mark.parametrize("name", ROWS)
def test_example(name):
    """The example runs by itself, and prints what it says."""
    section = families()[name]
    names, printed = example(section)
    said = re.findall(r"^print\(.*\)  # (.*)$", section.example, re.MULTILINE)
    assert said and printed.splitlines() == said
    assert type(names["layer"]).__name__ in section.names
    assert names["y"].shape[0] == tf.nest.flatten(names["x"])[0].shape[0]
    assert "y = layer(x)" in section.example


def at_path(layer: Any, path: str) -> Any:
    """An attribute of an attribute; None where the layer does without one of them."""
    for name in path.split("."):
        layer = layer if layer is None else getattr(layer, name)
    return layer


@pytest.mark.parametrize("name", ROWS)
def test_shapes_and_weights(name):
    """Inputs, outputs and all weights have the shapes that the page gives them."""
    section = families()[name]
    for _, layer, x, y in configurations(name):
        given = x[0] if isinstance(x, list) else x
        for row, tensor in (("Input", given), ("Output", y)):
            formula = next(code for code in codes(section.cell(row)) if code.startswith("["))
            assert evaluated(formula, values(formula, layer, x, y)) == list(tensor.shape), row
        found = 0
        for path, formula in section.weights.items():
            axes = range(len(given.shape) - 2) if path.endswith("_i") else [0]
            for axis in axes:
                weight = at_path(layer, re.sub("_i$", f"_{axis}", path))
                if weight is not None:
                    shape = evaluated(formula, {**values(formula, layer, x, y), "i": axis})
                    assert shape == list(weight.shape), path
                    found += math.prod(shape)
        inside = getattr(layer, "transforms", [])
        assert found + sum(part.count_params() for part in inside) == layer.count_params()


@pytest.mark.parametrize("name", ROWS)
def test_parameters(name):
    formula = families()[name].formula("Parameters")
    for row, layer, x, y in configurations(name):
        count = evaluated(formula, values(formula, layer, x, y))
        assert count == layer.count_params(), (row, layer.get_config())


@pytest.mark.parametrize("name", ROWS)
def test_multiply_adds(name):
    section = families()[name]
    formula = section.formula("Multiply-adds")
    more = section.formula(INTERPOLATION) or "0"
    for row, layer, x, y in configurations(name):
        count = evaluated(formula, values(formula, layer, x, y))
        if row is not None and row.by_definition:
            expected = products_by_definition(name, layer, x, y)
        else:
            expected = products_in_graph(layer, x) - evaluated(more, values(more, layer, x, y))
        assert count == expected, (row, layer.get_config())


@pytest.mark.parametrize("execution, number", [("mix_kernels", 0), ("mix_outputs", 1)])
@pytest.mark.parametrize("name", ["CondConv", "DepthwiseCondConv", "DynamicConv"])
def test_execution(name, execution, number):
    """The two numbers in `min` are those of the two orders."""
    formula = families()[name].formula("Multiply-adds")
    layer = {
        "CondConv": lambda **how: tfconv.CondConv2D(6, 3, groups=2, num_experts=3, **how),
        "DepthwiseCondConv": lambda **how: tfconv.DepthwiseCondConv2D(3, num_experts=3, **how),
        "DynamicConv": lambda **how: tfconv.DynamicConv2D(6, 3, groups=2, num_experts=3, **how),
    }[name](execution=execution)
    x = tf.ones([1, 6, 5, 4])
    symbols = values(formula, layer, x, layer(x))
    count = evaluated(formula, {**symbols, "min": lambda *costs: costs[number]})
    assert count == products_in_graph(layer, x)
    other = evaluated(formula, {**symbols, "min": lambda *costs: costs[1 - number]})
    assert count != other


def test_given_routing():
    """What the page takes off when the caller routes."""
    for name, layer in (
        ("CondConv", tfconv.CondConv1D(6, 3, groups=2, num_experts=3)),
        ("DepthwiseCondConv", tfconv.DepthwiseCondConv2D(3, num_experts=3)),
        ("CondDense", tfconv.CondDense(5, num_experts=3)),
    ):
        x = tf.ones([1, 9, 4]) if name != "DepthwiseCondConv" else tf.ones([1, 6, 5, 4])
        routing = tf.ones([1, 3])
        y = layer(x, routing_weights=routing)
        section = families()["CondConv"]
        parameters, products = re.search(
            r"`routing_weights` given, `(.+?)` parameters and `(.+?)` multiply-adds", section.text
        ).groups()
        for row, fewer, counted in (
            ("Parameters", parameters, layer.count_params()),
            (
                "Multiply-adds",
                products,
                products_in_graph(layer, x, routing_weights=routing),
            ),
        ):
            formula = f"{families()[name].formula(row)} - ({fewer})"
            assert counted == evaluated(formula, values(formula, layer, x, y)), (name, row)


def test_given_offsets():
    """A deformable layer that is given offsets has nothing that makes them."""
    section = families()["DeformableConv"]
    assert "what depends on `s` falls away" in section.text
    layer = tfconv.DeformableConv2D(6, 3, groups=2, offset_groups=2)
    x, offset = tf.ones([1, 6, 5, 4]), tf.fill([1, 4, 3, 2 * 9 * 2], 0.3)
    y = layer(x, offset)
    formula = section.formula("Parameters")
    symbols = values(formula, layer, x, y)
    assert layer.count_params() == evaluated(formula, {**symbols, "s": 0})
    formula, more = section.formula("Multiply-adds"), section.formula(INTERPOLATION)
    symbols = values(f"{formula} + {more}", layer, x, y)
    count = evaluated(formula, {**symbols, "s": 0}) + evaluated(more, {**symbols, "s": 2})
    assert count == products_in_graph(layer, x, offset=offset)


# A wide layer, for the ratios: stride 1, no bias, 3x3 taps on 8x8 positions.
WIDE = {
    **{"c": 256, "f": 384, "q": 64, "p": 64, "k": 9, "k_i": (3, 3), "a_i": (64, 64)},
    **{"b": 0, "g": 8, "j": 8, "m": 1, "r": 60, "r_1": 64, "r_2": 96, "e": 10, "o": 2, "s": 3},
    **{"h": 8, "d": 32, "v": 32, "z": 0, "n": 3, "w": 0, "l_i": (3, 3)},
    **{"t_i": [9 * 32 * 48] * 8, "u_i": [64 * 9 * 32 * 48] * 8},
}
# What differs for some families: groups only in rows that are about them.
GROUPED = ("GroupConv", "SplitTransformMerge", "Involution", "DeformableAggregation")
APART: dict[str, dict[str, Any]] = {
    "DepthwiseConv": {"m": 2, "f": 512},
    "SeparableConv": {"m": 2},
    "ConvTranspose": {"q": 16},
    "SqueezeExcite": {"r": 16, "f": 256},
    "WeightedSum": {"f": 256},
    "DepthwiseCondConv": {"m": 2, "f": 512},
    "CondDense": {"k": 1},
    "DeformableAggregation": {"f": 256, "g": 16},
    "Involution": {"f": 256, "g": 16},
    "LocalSelfAttention": {"f": 256},
    "SelfAttention": {"f": 256},
}


def wide(name: str) -> dict[str, Any]:
    """The symbols of a family's wide layer."""
    return {**WIDE, **({} if name in GROUPED else {"g": 1}), **APART.get(name, {})}


def test_which_convolution_when():
    """A row for every family, in the sections' order, whose ratios follow from the formulas."""
    table = rows("Which convolution when")
    links = [re.match(r"\[(\w+)\]\(#([\w-]+)\)", row[0]) for row in table]
    named = [(link.group(1), link.group(2)) for link in links if link]
    assert named == [(name, anchor(section.heading)) for name, section in families().items()]
    assert table[0][0].startswith("Dense")
    assert [row[1:3] for row in table if "dilation_rate" in row[0]]
    for row, link in zip(table, links):
        assert len(row) == 7 and all(row), row
        name = link.group(1) if link else row[0]
        symbols = wide(name)
        whole = symbols["k"] * symbols["c"] * symbols["f"]
        for said, kind, base in zip(
            row[2:4], ("Parameters", "Multiply-adds"), (whole, symbols["p"] * whole)
        ):
            if link:
                exact = evaluated(families()[name].formula(kind), symbols)
            elif name.startswith("Dense"):  # every output has a weight for every input
                exact = symbols["p"] * symbols["f"] * symbols["q"] * symbols["c"]
            else:
                exact = base
            ratio = evaluated(codes(said)[0], symbols)
            rough = name in ("DepthwiseCondConv", "Involution")  # small networks beside them
            assert ratio == pytest.approx(exact / base, rel=0.02 if rough else 0.005), (name, kind)


def test_pictures():
    """The page shows every picture that is drawn but the README's, and no other."""
    shown = re.findall(r"\]\(pictures/(\w+)\.svg\)", PAGE)
    assert sorted([*shown, "views"]) == sorted(drawing.pictures())


def test_gallery():
    """The first page shows every family, and links to its section."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for name, section in families().items():
        link = f"layers.md#{anchor(section.heading)}"
        assert f"- [![{name}](pictures/tiles/{snake(name)}.svg)]({link})\n" in index
        assert f"  [**{name}**]({link}): " in index


def test_links():
    """Links inside the page lead somewhere."""
    known = {anchor(heading) for heading in sections()}
    targets = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert targets and set(targets) <= known
