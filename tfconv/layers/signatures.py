"""Signatures and docstrings of layers, composed of what their classes and their bases say.

A class writes down its own arguments only. Its users see all of them: in `inspect.signature`, in
`help`, and in the messages of Python's TypeErrors.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter
from typing import Any

from tfconv.layers.arguments import KINDS

_SECTIONS = (
    *("Args", "Call arguments", "Input shape", "Output shape", "Weights", "Raises", "Source"),
    "Example",
)
_HEADING = re.compile(rf"^({'|'.join(_SECTIONS)}):", re.M)
_ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \w+)*):", re.M)
_BY_POSITION = Parameter.POSITIONAL_OR_KEYWORD
_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_OWN = "_own_docstring"  # what a class said before its docstring was composed


def compose(layer_class: type) -> None:
    """Gives a class the signature and the docstring that show its bases' arguments as well."""
    layer_class.__signature__ = _OfClass(signature(layer_class))
    setattr(layer_class, _OWN, layer_class.__doc__)
    layer_class.__doc__ = docstring(layer_class)


class _OfClass:
    """An attribute of a class that its instances do not have: theirs is the signature of calls."""

    def __init__(self, value: inspect.Signature):
        self._value = value

    def __get__(self, instance: object, owner: type) -> inspect.Signature | None:
        return self._value if instance is None else None


def signature(layer_class: type) -> inspect.Signature:
    """All arguments of a class: ``*args`` and ``**kwargs`` stand for those of the next base."""
    found = _parameters(list(layer_class.__mro__))
    most = getattr(layer_class, "by_position", None)
    if most is not None:
        found = [*found[:most], *map(_keyword_only, found[most:])]
    names = [parameter.name for parameter in found]
    outputs = names.index("activity_regularizer")
    if found[outputs].kind is Parameter.KEYWORD_ONLY:  # the first: all layers have it
        others = [i for i, name in enumerate(names) if name.endswith("_regularizer")]
        found.insert(others[-1] if others[1:] else len(found) - 1, found.pop(outputs))
    return inspect.Signature(sorted(found, key=lambda parameter: parameter.kind))


def in_order(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of constructors: they take these arguments, their bases' too, by position."""

    def decorated(init: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            if len(args) > len(names):
                raise TypeError(
                    f"{type(self).__name__} takes at most {len(names)} arguments by position. "
                    f"Received: {len(args)}"
                )
            init(self, **dict(zip(names, args)), **kwargs)

        # Not as `__wrapped__`: Keras 3 inspects constructors in two ways that have to agree.
        __init__.order, __init__.declared = names, init
        return __init__

    return decorated


def _parameters(classes: Sequence[type]) -> list[Parameter]:
    """Those of the first class's constructor."""
    first, *others = classes
    if first.__module__.partition(".")[0] in ("keras", "tf_keras"):
        return [Parameter("kwargs", Parameter.VAR_KEYWORD)]
    if "__init__" not in vars(first):
        found = _parameters(others)
    else:
        declared = getattr(first.__init__, "declared", first.__init__)
        _, *declared = inspect.signature(declared).parameters.values()
        kinds = {parameter.kind for parameter in declared}
        own = {p.name: p for p in declared if p.kind not in _VARIABLE}
        rest = _parameters(others) if Parameter.VAR_KEYWORD in kinds else []
        if Parameter.VAR_POSITIONAL not in kinds:
            rest = [_keyword_only(parameter) for parameter in rest]
        # What a class declares anew stands where its base has it, unless it goes by position.
        by_position = [p for p in own.values() if p.kind is not Parameter.KEYWORD_ONLY]
        rest = [own.get(p.name, p) for p in rest if own.get(p.name, p) not in by_position]
        new = [p for p in own.values() if p not in by_position and p not in rest]
        found = [*by_position, *rest, *new]
    for kind in KINDS:
        for weight, initializer in vars(first).get("weight_arguments", {}).items():
            default = initializer if kind == "initializer" else None
            name = f"{weight}_{kind}"
            found.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation="Any"))
    order = getattr(vars(first).get("__init__"), "order", ())
    by_name = {parameter.name: parameter for parameter in found}
    by_position = [by_name.pop(name).replace(kind=_BY_POSITION) for name in order]
    found = [*by_position, *by_name.values()]
    fixed = vars(first).get("fixed", ())
    return [parameter for parameter in found if parameter.name not in fixed]


def _keyword_only(parameter: Parameter) -> Parameter:
    if parameter.kind is Parameter.VAR_KEYWORD:
        return parameter
    return parameter.replace(kind=Parameter.KEYWORD_ONLY)


def docstring(layer_class: type) -> str:
    """What a class says, its bases' sections where it has none, and all arguments, of calls too."""
    said = [_sections(base) for base in layer_class.__mro__ if _is_ours(base)]
    opening, *more = (sections[""] for sections in said)
    if "\n\n" not in opening:  # a summary: the formula stands in a base
        formulas = (text.partition("\n\n")[2] for text in more)
        opening = "\n\n".join(filter(None, (opening, next(filter(None, formulas), ""))))
    parts = [opening]
    for name in _SECTIONS:
        if name in ("Args", "Call arguments"):
            of_call = inspect.signature(layer_class.call)
            taken = signature(layer_class) if name == "Args" else of_call
            entries = _arguments(list(taken.parameters), [each.get(name, "") for each in said])
            body = "".join(["\n", *entries]).rstrip()
        else:
            found = said[:1] if name == "Example" else said
            body = next((sections[name] for sections in found if name in sections), "")
        if body and (name != "Input shape" or "Call arguments:" not in "".join(parts)):
            parts.append(f"{name}:{body}".rstrip())
    return "\n\n".join(parts) + "\n"


def _is_ours(base: type) -> bool:
    return base.__module__.partition(".")[0] == "tfconv"


def _sections(base: type) -> dict[str, str]:
    """A docstring's text by heading; what comes first has none."""
    text = inspect.cleandoc(vars(base).get(_OWN, base.__doc__) or "")
    opening, *parts = _HEADING.split(text)
    return {"": opening.rstrip(), **dict(zip(parts[::2], parts[1::2]))}


def _arguments(parameters: Sequence[str], described: Sequence[str]) -> Iterator[str]:
    """The entries of all parameters, each as the nearest class describes it."""
    entries: dict[str, tuple[int, str, str]] = {}  # the class, the names, the text
    for number, section in enumerate(described):
        _, *found = _ENTRY.split(section)
        for names, text in zip(found[::2], found[1::2]):
            for name in names.split(", "):
                entries.setdefault(name.lstrip("*"), (number, names, text))
    shown = set()
    for name in parameters:
        if name not in entries or name in shown:
            continue
        entry = entries[name]
        together = [n for n in entry[1].split(", ") if entries[n.lstrip("*")] == entry]
        together = [n for n in together if n.lstrip("*") in parameters]
        shown.update(together)
        yield f"    {', '.join(together)}:{entry[2].rstrip()}\n"
