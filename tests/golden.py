"""Golden records: every layer's configuration, weights and results, and files, as they once were.

`python -m tests.golden` records layers that have no record; see tests/data/README.md.
`tests/test_golden.py` holds the layers of today against the records.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import tfconv  # noqa: E402
from tfconv._compat import KERAS_3, keras  # noqa: E402
from tfconv.testing import LayerCase, layer_cases  # noqa: E402

FOLDER = Path(__file__).parent / "data" / "golden"
BATCH = 2
ATTEMPTS = 50

# The files that each Keras writes. Those of Keras 2 are for tf_keras too, which writes none.
SUFFIXES = {"keras-3": (".keras", ".weights.h5"), "keras-2": (".keras", ".h5")}
WRITER = "keras-3" if KERAS_3 else "keras-2"


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight of a layer: its name without the layer's own, and its value."""

    name: str
    trainable: bool
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class Golden:
    """A layer in one configuration, as it was when it was recorded.

    Attributes:
        arguments: Arguments of its constructor, as JSON has them.
        config: What `get_config` gave.
        as_list: Whether it takes its inputs as a list; if not, all but the first are arguments.
        inputs: Inputs by name.
        weights: Its weights, in Keras 3's order.
        output: What it gave for them in inference, computed in float64.
    """

    arguments: dict[str, Any]
    config: dict[str, Any]
    as_list: bool
    inputs: dict[str, np.ndarray]
    weights: tuple[Weight, ...]
    output: np.ndarray

    def ordered_weights(self) -> list[Weight]:
        """The weights in the order of this Keras: Keras 2 puts trainable ones first."""
        return (
            list(self.weights) if KERAS_3 else sorted(self.weights, key=lambda w: not w.trainable)
        )

    def called(self, layer: Any, inputs: Mapping[str, Any]) -> Any:
        """The output of ``layer`` for inputs of these names; the first call builds it."""
        first, *others = inputs
        if self.as_list:
            return layer(list(inputs.values()))
        return layer(inputs[first], **{name: inputs[name] for name in others})

    def run(self, layer: Any) -> np.ndarray:
        """The layer's output for the recorded inputs, in the layer's data type."""
        dtype = layer.compute_dtype
        inputs = {name: tf.constant(x, dtype) for name, x in self.inputs.items()}
        return np.asarray(self.called(layer, inputs))


@dataclasses.dataclass(frozen=True)
class Record:
    """All that was recorded of a layer.

    Attributes:
        layer: Name of its class.
        written_with: Versions of the packages that computed it.
        arguments: Of its constructor, as few as make a layer.
        defaults: What `get_config` gave for them.
        cases: Its configurations.
    """

    layer: str
    written_with: dict[str, str]
    arguments: dict[str, Any]
    defaults: dict[str, Any]
    cases: tuple[Golden, ...]

    @property
    def layer_class(self) -> type:
        return getattr(tfconv, self.layer)

    def model(self) -> Any:
        """A model with a layer for each configuration, as it is in the files."""
        inputs, outputs = [], []
        for number, case in enumerate(self.cases):
            layer = self.layer_class.from_config({**case.config, "name": f"case_{number}"})
            given = {
                name: keras.Input(x.shape[1:], name=f"case_{number}_{name}")
                for name, x in case.inputs.items()
            }
            inputs += given.values()
            outputs.append(case.called(layer, given))
        return keras.Model(inputs, outputs)

    def run(self, model: Any) -> list[np.ndarray]:
        """The outputs of such a model for the recorded inputs, one for each configuration."""
        inputs = [tf.constant(x) for case in self.cases for x in case.inputs.values()]
        outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        return [np.asarray(y) for y in tf.nest.flatten(outputs)]

    def save(self, path: Path) -> None:
        """Writes everything but the models' files."""
        described = {
            **{name: getattr(self, name) for name in ("layer", "written_with", "arguments")},
            "defaults": self.defaults,
            "cases": [
                {
                    "arguments": case.arguments,
                    "config": case.config,
                    "as_list": case.as_list,
                    "inputs": list(case.inputs),
                    "weights": [{"name": w.name, "trainable": w.trainable} for w in case.weights],
                }
                for case in self.cases
            ],
        }
        arrays = {}
        for number, case in enumerate(self.cases):
            arrays[f"{number}/output"] = case.output
            arrays.update({f"{number}/inputs/{name}": x for name, x in case.inputs.items()})
            arrays.update({f"{number}/weights/{w.name}": w.value for w in case.weights})
        np.savez_compressed(path, record=np.array(json.dumps(described)), **arrays)


def record_path(layer: str) -> Path:
    """The file with a layer's record."""
    return FOLDER / f"{layer}.npz"


def archive_path(layer: str, writer: str) -> Path:
    """The archive of a layer's model in the files that ``writer`` wrote."""
    return FOLDER / writer / f"{layer}.zip"


def load(layer: str) -> Record:
    """The record of a layer."""
    with np.load(record_path(layer)) as data:
        described = json.loads(str(data["record"]))
        cases = [
            Golden(
                arguments=case["arguments"],
                config=case["config"],
                as_list=case["as_list"],
                inputs={name: data[f"{number}/inputs/{name}"] for name in case["inputs"]},
                weights=tuple(
                    Weight(w["name"], w["trainable"], data[f"{number}/weights/{w['name']}"])
                    for w in case["weights"]
                ),
                output=data[f"{number}/output"],
            )
            for number, case in enumerate(described.pop("cases"))
        ]
    return Record(**described, cases=tuple(cases))


def weight_names(layer: Any) -> list[str]:
    """The names of a built layer's weights, in its order, without the layer's own name."""
    return [
        getattr(w, "path", w.name).split(":")[0].removeprefix(f"{layer.name}/")
        for w in layer.weights
    ]


def plain(value: Any) -> Any:
    """A configuration as every Keras takes it and JSON has it.

    Data types are given by their names, and what Keras's own objects have as None is left out.
    """
    if isinstance(value, keras.layers.Layer):
        return plain(keras.layers.serialize(value))
    if isinstance(value, Mapping):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        result = {key: plain(item) for key, item in value.items()}
        if str(value.get("module")).startswith("keras."):  # versions of Keras differ in these
            given = {key: item for key, item in result["config"].items() if item is not None}
            result["config"] = given
        return result
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def recorded(layer: str, cases: Sequence[LayerCase]) -> Record:
    """A new record of a layer in these configurations, with random weights."""
    if not cases:
        raise ValueError(f"{layer} has no configuration in `tfconv.testing.layer_cases()`")
    rng = np.random.default_rng(sum(map(ord, layer)))
    arguments = _fewest_arguments(cases[0])
    by_default = cases[0].layer_class(**arguments, name="golden")
    packages = {"tfconv": tfconv, "tensorflow": tf, "keras": keras}
    return Record(
        layer=layer,
        written_with={name: package.__version__ for name, package in packages.items()},
        arguments=plain(arguments),
        defaults=plain(by_default.get_config()),
        cases=tuple(_recorded_case(case, rng) for case in cases),
    )


def _fewest_arguments(case: LayerCase) -> dict[str, Any]:
    """Those of a configuration's arguments without which no layer can be made."""
    arguments = dict(case.kwargs)
    for name in case.kwargs:
        others = {other: value for other, value in arguments.items() if other != name}
        with contextlib.suppress(TypeError, ValueError):
            case.layer_class(**others)
            arguments = others
    return arguments


def _recorded_case(case: LayerCase, rng: np.random.Generator) -> Golden:
    inputs = {
        name: rng.standard_normal((BATCH, *shape)).astype(np.float32)
        for name, shape in case.shapes.items()
    }
    config = plain(case.layer(name="golden").get_config())
    exact = case.layer_class.from_config({**config, "dtype": "float64"})
    golden = Golden(plain(dict(case.kwargs)), config, case.as_list, inputs, (), np.zeros(()))
    golden.run(exact)
    names = weight_names(exact)
    for _ in range(ATTEMPTS):
        values = [_random_weight(name, w.shape, rng) for name, w in zip(names, exact.weights)]
        if not all(_matters(i, values, golden, exact, rng) for i in range(len(values))):
            continue
        exact.set_weights(values)
        output = golden.run(exact)
        weights = [
            Weight(name, bool(variable.trainable), value)
            for name, variable, value in zip(names, exact.weights, values)
        ]
        return dataclasses.replace(golden, weights=tuple(weights), output=output.astype("float32"))
    raise ValueError(f"The output does not depend on every weight. Received: {case}")


def _random_weight(name: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    value = rng.uniform(0.2, 0.6, shape)
    if "variance" not in name and "temperature" not in name:  # which are positive
        value *= rng.choice([-1, 1], shape)
    return value.astype(np.float32)


def _matters(
    number: int, values: Sequence[np.ndarray], golden: Golden, layer: Any, rng: np.random.Generator
) -> bool:
    """Whether the output depends on a weight: behind a ReLU, for one, it may not."""
    layer.set_weights(values)
    expected = golden.run(layer)
    changed = values[number] + rng.uniform(0.01, 0.1, values[number].shape)
    layer.set_weights([*values[:number], changed, *values[number + 1 :]])
    return np.abs(golden.run(layer) - expected).max() > 1e-4 * np.abs(expected).max()


def release_path(version: str, writer: str) -> Path:
    """The archive of all layers' models in the files that a release wrote."""
    return FOLDER / "releases" / f"{version}-{writer}.zip"


def filled(record: Record) -> Any:
    """A record's model with the recorded weights."""
    model = record.model()
    for number, case in enumerate(record.cases):
        model.get_layer(f"case_{number}").set_weights([w.value for w in case.ordered_weights()])
    return model


def write_release(names: Sequence[str]) -> Path:
    """Writes all layers' models in the main file of this Keras, as this version writes them."""
    archive, suffix = release_path(tfconv.__version__, WRITER), SUFFIXES[WRITER][0]
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for name in names:
                filled(load(name)).save(f"{folder}/{name}{suffix}")
                made.write(f"{folder}/{name}{suffix}", f"{name}{suffix}")
    return archive


def write_files(record: Record) -> None:
    """Writes a record's model in the files of this Keras, and these into an archive."""
    model = filled(record)
    archive = archive_path(record.layer, WRITER)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for suffix in SUFFIXES[WRITER]:
                path = f"{folder}/model{suffix}"
                if suffix == ".weights.h5":
                    model.save_weights(path)
                else:
                    model.save(path)
                made.write(path, f"model{suffix}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument(
        "--replace",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="record these layers anew: files written with what they were can no longer be loaded",
    )
    parser.add_argument(
        "--release",
        action="store_true",
        help="write all layers' files as this version does: once, when it is released",
    )
    names = tfconv.layers.__all__
    chosen = parser.parse_args(arguments)
    replaced = chosen.replace
    unknown = sorted(set(replaced) - set(names))
    if unknown:
        parser.error(f"there are no such layers: {', '.join(unknown)}")
    if not (KERAS_3 or tf.__version__.startswith("2.15.")):
        parser.error("Keras 2 records in TensorFlow 2.15, not as tf_keras")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        replace = name in replaced
        if KERAS_3 and (replace or not record_path(name).exists()):
            cases = [case for case in layer_cases() if case.layer_class.__name__ == name]
            recorded(name, cases).save(record_path(name))
            print(record_path(name).relative_to(FOLDER))
        if replace or not archive_path(name, WRITER).exists():
            if not record_path(name).exists():
                parser.error(f"{name} has no record yet: run this under Keras 3 first")
            write_files(load(name))
            print(archive_path(name, WRITER).relative_to(FOLDER))
    if chosen.release:
        if release_path(tfconv.__version__, WRITER).exists():
            parser.error(f"{tfconv.__version__} has been released, and has its files")
        print(write_release(names).relative_to(FOLDER))
    return 0


if __name__ == "__main__":
    sys.exit(main())
