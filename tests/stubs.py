"""Types of the layers, for type checkers and editors: what is composed at import, they cannot see.

`python -m tests.stubs` writes `tfconv/layers/__init__.pyi`; `tests/test_stubs.py` holds it against
the layers of today.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tfconv  # noqa: E402
from tfconv.catalog import METHODS, family_name  # noqa: E402

# Keyword arguments of all layers of Keras, which are no `**kwargs` here: a wrong name is an error.
KERAS = {
    "name": "str | None = ...",
    "dtype": "Any = ...",
    "trainable": "bool = ...",
    "autocast": "bool = ...",
    "input_shape": "Sequence[int | None] = ...",
}
PATH = Path(tfconv.layers.__file__).with_suffix(".pyi")
HEAD = '''\
"""Types of the layers. Written by `python -m tests.stubs`; their signatures are composed."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras.layers import Layer

from tfconv.ops.geometry import Padding

class _Layer(Layer):
    # Arguments and weights are attributes.
    def __getattr__(self, name: str) -> Any: ...
'''


def stub() -> str:
    """The file: one class a family, and below it those for each rank."""
    text, written = HEAD, {}
    for name in tfconv.layers.__all__:
        family, body = family_name(name), "\n".join(_body(getattr(tfconv, name)))
        if family == name:
            text += f"\nclass {name}(_Layer):\n{body}\n"
            continue
        if (family, body) not in written:
            number = sum(family == other for other, _ in written)
            written[family, body] = f"_{family}{number or ''}"
            text += f"\nclass {written[family, body]}(_Layer):\n{body}\n\n"
        text += f"class {name}({written[family, body]}): ...\n"
    names = "".join(f'    "{name}",\n' for name in tfconv.layers.__all__)
    return f"{text}\n__all__ = [\n{names}]\n"


def _body(layer_class: type) -> Iterator[str]:
    """The methods' lines."""
    *taken, _ = inspect.signature(layer_class).parameters.values()  # but Keras's own
    own = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=of) for name, of in KERAS.items()]
    yield _method("__init__", [*taken, *own], "None")
    _, *given = inspect.signature(layer_class.call).parameters.values()
    others = Parameter("kwargs", Parameter.VAR_KEYWORD)  # Keras's: `training`, `mask`
    yield _method("__call__", [p for p in given if p.kind is not others.kind] + [others], "Any")
    for name in METHODS:
        method = inspect.getattr_static(layer_class, name, None)
        if inspect.isfunction(method):
            signature = inspect.signature(method)
            _, *given = signature.parameters.values()
            yield _method(name, given, signature.return_annotation)


def _method(name: str, parameters: Sequence[Parameter], result: Any) -> str:
    shown, starred = ["self"], False
    result = "Any" if result is Parameter.empty else result
    for parameter in parameters:
        if parameter.kind is Parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        stars = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
        annotation = parameter.annotation if parameter.annotation is not Parameter.empty else "Any"
        default = json.dumps if isinstance(parameter.default, str) else repr
        default = "" if parameter.default is Parameter.empty else f" = {default(parameter.default)}"
        shown.append(f"{stars.get(parameter.kind, '')}{parameter.name}: {annotation}{default}")
    line = f"    def {name}({', '.join(shown)}) -> {result}: ..."
    if len(line) > 100:
        line = (
            f"    def {name}(\n        " + ",\n        ".join(shown) + f",\n    ) -> {result}: ..."
        )
    return line


if __name__ == "__main__":
    PATH.write_text(stub())
