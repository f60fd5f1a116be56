"""Writes the API reference as Markdown, from the signatures and docstrings of tfconv.

    python -m docs.reference

Docstrings have sections such as "Args:", "Weights:" or "Source:". Layers that differ in rank only
share one entry, which is made from the class that they have in common. The pages stand in the
repository, so that they read there as on the site.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tfconv  # noqa: E402
import tfconv.testing  # noqa: E402
from tfconv.catalog import METHODS  # noqa: E402
from tfconv.layers.signatures import compose  # noqa: E402

FOLDER = Path(__file__).resolve().parent / "reference"
ROOT = FOLDER.parents[1]
_COLUMNS = {
    "Args": "argument",
    "Call arguments": "argument of a call",
    "Weights": "weight",
    "Attributes": "attribute",
    "Raises": "error",
}
_TEXTS = ("Input shape", "Output shape", "Returns", "Yields", "Source")
_SECTION = re.compile(rf"^({'|'.join((*_COLUMNS, *_TEXTS, 'Example'))}):\s*(.*)$")
_MADE = "<!-- Made by `python -m docs.reference` from the docstrings: change those. -->"
# The pages beside that of the layers: their titles, and the modules on them.
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "functions": ("Functions", {"": tfconv.ops}),
    "networks": ("Networks and blocks", {"Networks": tfconv.models, "Blocks": tfconv.blocks}),
    "export": ("Export", {"Export": tfconv.export, "Native ops in TFLite": tfconv.lite}),
    "tools": (
        "Tools",
        {
            "Arithmetic": tfconv.analysis,
            "Surgery": tfconv.surgery,
            "Pruning, clustering, quantization": tfconv.compression,
            "What layers do to an image": tfconv.visual,
            "Callbacks": tfconv.callbacks,
            "Checks for layers": tfconv.testing,
        },
    ),
}
SINGLE = {
    "Native or portable": ("native_status", "NativeStatus", "portable", "keep_native"),
    "Replacing Keras's layers": ("replacements",),
}


def pages() -> dict[str, str]:
    """The pages: names of files and what stands in them."""
    lines = ["# Layers", _MADE, ""]
    lines += ["[The layers](../layers.md) explains them with pictures and says when to use which;"]
    lines += ["here are their arguments, shapes and errors.", ""]
    for family, classes in families().items():
        lines += _family(family, classes)
    made = {"layers.md": lines}
    for name, (title, modules) in PAGES.items():
        lines = [f"# {title}", _MADE, ""]
        for heading, module in modules.items():
            lines += [f"## {heading}", ""] if heading else []
            lines += [_text(inspect.getdoc(module)), ""]
            for entry in _public(module):
                lines += _entry(f"{module.__name__}.{entry}", getattr(module, entry))
        made[f"{name}.md"] = lines
    for heading, names in SINGLE.items():
        made["tools.md"] += [f"## {heading}", ""]
        for name in names:
            made["tools.md"] += _entry(f"tfconv.{name}", getattr(tfconv, name))
    titles = {"layers": "Layers", **{name: title for name, (title, _) in PAGES.items()}}
    lines = ["# Reference", _MADE, "", "Everything public, from the docstrings, with its source:"]
    made["README.md"] = [*lines, "", *(f"- [{t}]({name}.md)" for name, t in titles.items())]
    return {name: "\n".join(lines).rstrip("\n") + "\n" for name, lines in made.items()}


def _public(module: Any) -> list[str]:
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if inspect.isclass(value)
    ]
    found = {name: getattr(module, name) for name in names}
    return [
        name
        for name, value in found.items()
        if callable(value) and (hasattr(module, "__all__") or value.__module__ == module.__name__)
    ]


def families() -> dict[str, list[type]]:
    """The layers, by their names without the rank, in the order of the names."""
    found: dict[str, list[type]] = {}
    for name in tfconv.layers.__all__:
        found.setdefault(re.sub("[123]D", "", name), []).append(getattr(tfconv.layers, name))
    return found


def _family(family: str, classes: Sequence[type]) -> Iterator[str]:
    names = [layer.__name__ for layer in classes]
    yield "".join(f'<a id="{name}"></a>' for name in dict.fromkeys((family, *names)))
    yield ""
    yield f"## {', '.join(names)}"
    yield ""
    first = classes[0]
    described = first
    if len(classes) > 1:
        described = next(c for c in first.__mro__[1:] if c.__name__ == family)
        compose(described)
    yield from _signature(f"tfconv.{names[0]}", first)
    yield from _source(first)
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
            yield f"### {family}.{name}"
            yield ""
            yield from _signature(name, method)
            yield from _docstring(method)


def _entry(path: str, value: Any) -> Iterator[str]:
    name = path.rsplit(".", 1)[-1]
    yield from (f'<a id="{path}"></a>', "", f"### {name}", "")
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        yield from _signature(path, value)
    yield from _source(value)
    yield from _docstring(value)


def _source(value: Any) -> Iterator[str]:
    """A link to where it is written; without the line, which moves with every change above it."""
    path = Path(inspect.getsourcefile(inspect.unwrap(value))).resolve().relative_to(ROOT)
    yield from (f"[{path}](../../{path})", "")


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
    text = default.__name__ if inspect.isroutine(default) else text  # no address
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
    """Code, as a link if it is the name of something that has an entry."""
    name = code.strip("`")
    last = name.rsplit(".", 1)[-1]
    target = None
    if last in families() or last in tfconv.layers.__all__:
        target = f"layers.md#{last}"
    elif name.startswith("tfconv.ops.") and last in tfconv.ops.__all__:
        target = f"functions.md#{name}"
    elif name == "tfconv.callbacks.TemperatureAnnealing":
        target = f"tools.md#{name}"
    return f"[{code}]({target})" if target and not code.startswith("``") else code


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"the reference in {FOLDER}")


if __name__ == "__main__":
    main()
