"""Writes the API reference as Markdown, from the signatures and docstrings of tfconv.

    python docs/reference.py > reference.md

Docstrings have sections such as "Args:", "Weights:" or "Source:". Layers that differ in rank only
share one entry, which is made from the class that they have in common.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tfconv  # noqa: E402
import tfconv.testing  # noqa: E402
from tfconv.catalog import METHODS  # noqa: E402
from tfconv.layers.signatures import compose  # noqa: E402

_COLUMNS = {
    "Args": "argument",
    "Call arguments": "argument of a call",
    "Weights": "weight",
    "Attributes": "attribute",
    "Raises": "error",
}
_TEXTS = ("Input shape", "Output shape", "Returns", "Yields", "Source")
_SECTION = re.compile(rf"^({'|'.join((*_COLUMNS, *_TEXTS, 'Example'))}):\s*(.*)$")
MODULES = {
    "Export": tfconv.export,
    "Native ops in TFLite": tfconv.lite,
    "Networks": tfconv.models,
    "Blocks": tfconv.blocks,
    "Arithmetic": tfconv.analysis,
    "Surgery": tfconv.surgery,
    "What layers do to an image": tfconv.visual,
}


def reference() -> str:
    """The page."""
    lines = [
        "# Reference",
        "",
        "Everything public, from the docstrings. [Layers](layers.md) explains the layers with",
        "pictures and says when to use which; here are their arguments, shapes and errors.",
        "",
        "## Layers",
        "",
    ]
    for family, classes in families().items():
        lines += _family(family, classes)
    lines += ["## Functions", "", _text(inspect.getdoc(tfconv.ops)), ""]
    for name in tfconv.ops.__all__:
        lines += _entry(f"tfconv.ops.{name}", getattr(tfconv.ops, name))
    lines += ["## Replacing Keras's layers", ""]
    lines += _entry("tfconv.replacements", tfconv.replacements)
    lines += ["## Callbacks", "", _text(inspect.getdoc(tfconv.callbacks)), ""]
    for name, value in vars(tfconv.callbacks).items():
        if inspect.isclass(value) and value.__module__ == "tfconv.callbacks":
            lines += _entry(f"tfconv.callbacks.{name}", value)
    lines += ["## Native or portable", ""]
    for name in ("native_status", "NativeStatus", "portable", "keep_native"):
        lines += _entry(f"tfconv.{name}", getattr(tfconv, name))
    for heading, module in MODULES.items():
        lines += [f"## {heading}", "", _text(inspect.getdoc(module)), ""]
        for name in module.__all__:
            lines += _entry(f"{module.__name__}.{name}", getattr(module, name))
    lines += ["## Checks for layers", "", _text(inspect.getdoc(tfconv.testing)), ""]
    for name in tfconv.testing.__all__:
        value = getattr(tfconv.testing, name)
        if callable(value):
            lines += _entry(f"tfconv.testing.{name}", value)
    return "\n".join(lines)


def families() -> dict[str, list[type]]:
    """The layers, by their names without the rank, in the order of the names."""
    found: dict[str, list[type]] = {}
    for name in tfconv.layers.__all__:
        found.setdefault(re.sub("[123]D", "", name), []).append(getattr(tfconv.layers, name))
    return found


def _family(family: str, classes: Sequence[type]) -> Iterator[str]:
    names = [layer.__name__ for layer in classes]
    yield f"### {', '.join(names)} {{ #{family} }}"
    yield ""
    for name in names:
        yield f'<span id="tfconv.{name}"></span>'
    yield ""
    first = classes[0]
    described = first
    if len(classes) > 1:
        described = next(c for c in first.__mro__[1:] if c.__name__ == family)
        compose(described)
    yield from _signature(f"tfconv.{names[0]}", first)
    if len(names) > 1:
        yield f"The arguments of {' and '.join(f'`{name}`' for name in names[1:])} are the same."
        yield ""
    yield from _docstring(described)
    if described is not first:
        for layer in classes:
            yield from _docstring(layer, only=("Example",))
    for name in METHODS:
        method = inspect.getattr_static(first, name, None)
        if inspect.isfunction(method):
            yield f"#### {family}.{name} {{ #{family}.{name} }}"
            yield ""
            yield from _signature(name, method)
            yield from _docstring(method)


def _entry(path: str, value: Any) -> Iterator[str]:
    yield f"### {path.rsplit('.', 1)[-1]} {{ #{path} }}"
    yield ""
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        yield from _signature(path, value)
    yield from _docstring(value)


# Signatures.


def _signature(path: str, value: Any) -> Iterator[str]:
    parameters = _parameters(value)
    shown, starred = [], False
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        starred = starred or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        shown.append(_parameter(parameter))
    call = f"{path}({', '.join(shown)})"
    if len(call) > 88:
        call = "\n".join([f"{path}(", *(f"    {each}," for each in shown), ")"])
    yield from ("```python", call, "```", "")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    name = stars.get(parameter.kind, "") + parameter.name
    if parameter.default is inspect.Parameter.empty:
        return name
    default = parameter.default
    text = f'"{default}"' if isinstance(default, str) else repr(default)
    return f"{name}={text}"


def _parameters(value: Any) -> list[inspect.Parameter]:
    found = inspect.signature(value).parameters.values()
    return [parameter for parameter in found if parameter.name != "self"]


# Docstrings.


def _sections(value: Any) -> dict[str, str]:
    """The parts of a docstring by their headings; what comes first has the heading ""."""
    parts, heading, lines = {}, "", []
    blank = False
    for line in (inspect.getdoc(value) or "").splitlines():
        match = _SECTION.match(line)
        back = blank and heading and line and not line.startswith(" ")
        if match or back:
            parts[heading] = (parts.get(heading, "") + "\n".join(lines)).strip("\n")
            heading = match.group(1) if match else ""
            lines = [match.group(2)] if match else ["", "", line]
        else:
            lines.append(line)
        blank = not line.strip()
    parts[heading] = (parts.get(heading, "") + "\n".join(lines)).strip("\n")
    return parts


def _items(block: str) -> list[tuple[str, str]]:
    """The entries "name: text" of a section, each with its continuation lines."""
    entries: list[list[str]] = []
    for line in textwrap.dedent(block).splitlines():
        if line.startswith(" ") and entries:
            entries[-1].append(line.strip())
        elif line:
            entries.append([line])
    pairs = []
    for entry in entries:
        name, colon, text = " ".join(entry).partition(": ")
        pairs.append((name, text) if colon else ("", name))
    return pairs


def _docstring(value: Any, only: Sequence[str] = ()) -> Iterator[str]:
    if not inspect.getdoc(value):
        raise ValueError(f"{value} has no docstring")
    for heading, block in _sections(value).items():
        if only and heading not in only:
            continue
        if heading == "":
            yield from (_text(block), "")
        elif heading == "Example":
            yield from ("```pycon", textwrap.dedent(block), "```", "")
        elif heading in _COLUMNS:
            yield from (f"| {_COLUMNS[heading]} | |", "|---|---|")
            for name, text in _items(block):
                yield f"| {_names(name)} | {_cell(text)} |"
            yield ""
        else:
            yield from (f"**{heading}.** {_text(textwrap.dedent(block))}", "")


def _names(names: str) -> str:
    """Names of arguments or weights as code; words between them stay words."""
    if re.fullmatch(r"[\w*.]+(, [\w*.]+)*", names):
        return ", ".join(f"`{name}`" for name in names.split(", "))
    first, _, rest = names.partition(" ")
    if re.fullmatch(r"\w*_\w*", first):
        return f"`{first}` {_text(rest)}"
    return _text(names)


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def _text(text: str) -> str:
    """A docstring's text as Markdown: code stays code, and nothing else is markup."""
    pieces = _CODE.split(text)
    done = []
    for is_code, piece in zip(itertools.cycle((False, True)), pieces):
        if is_code:
            done.append(_linked(re.sub(r"\s+", " ", piece)))
        else:
            piece = re.sub(r"([*_])", r"\\\1", piece).replace("<", "&lt;").replace("$", "&#36;")
            done.append(_ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", piece))
    return "".join(done)


def _linked(code: str) -> str:
    """Code, as a link if it is the name of something that has an entry here."""
    name = code.strip("`")
    last = name.rsplit(".", 1)[-1]
    anchor = None
    if last in families():
        anchor = last
    elif last in tfconv.layers.__all__:
        anchor = f"tfconv.{last}"
    elif name.startswith("tfconv.ops.") and last in tfconv.ops.__all__:
        anchor = name
    elif name == "tfconv.callbacks.TemperatureAnnealing":
        anchor = name
    return f"[{code}](#{anchor})" if anchor and not code.startswith("``") else code


if __name__ == "__main__":
    print(reference())
