"""SavedModels in folders of versions, as TF Serving takes them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Group

from tfconv import _compat
from tfconv._compat import keras
from tfconv.export import serving_files, tables
from tfconv.export.errors import ExportError
from tfconv.export.files import writing
from tfconv.export.samples import random_samples
from tfconv.export.signatures import DEFAULT, Signature, answers, trace
from tfconv.export.tflite_file import NATIVE_PREFIX
from tfconv.export.verification import relative_error
from tfconv.ops import xla
from tfconv.ops.dispatch import keeps_native

_BOUND = 1e-4  # sums in another order, in float32
_HALF_BOUND = 5e-2  # the same where a layer computes in half of it


@dataclasses.dataclass(frozen=True)
class SavedModelReport:
    """What `to_saved_model` has written.

    Attributes:
        path: The folder of the version.
        version: Its number.
        signatures: What can be asked for, by name.
        ops: How often each operation occurs, functions included.
        warmup_requests: Number of requests that a server warms up with.
        size: Bytes on disk.
        error: The largest root mean square of an output's difference from the Keras model, as a
            share of that of the output; None if it was not measured.
        compiled: How often each function occurs that XLA compiles when the model runs.
    """

    path: Path
    version: int
    signatures: dict[str, Signature]
    ops: dict[str, int]
    warmup_requests: int
    size: int
    error: float | None = None
    compiled: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def native_ops(self) -> dict[str, int]:
        """Those of `ops` that a server has only if it is linked with tfconv's."""
        return {op: n for op, n in self.ops.items() if op.startswith(NATIVE_PREFIX)}

    @property
    def _compiled(self) -> str:
        return ", ".join(f"{name} ({count})" for name, count in self.compiled.items())

    def __rich__(self) -> Group:
        facts = [
            ("SavedModel", os.fspath(self.path)),
            ("version", str(self.version)),
            ("size", tables.kilobytes(self.size)),
            *(("signature", f"{name}: {text}") for name, text in self.signatures.items()),
            ("native ops", ", ".join(self.native_ops) or "none"),
            *([("compiled by XLA", self._compiled)] if self.compiled else []),
        ]
        if self.error is not None:
            facts.append(("error", f"{self.error:.2g}"))
        return Group(tables.facts(facts), tables.counts("op", self.ops))

    def __str__(self) -> str:
        native = ", ".join(self.native_ops) or "none"
        error = [] if self.error is None else [f"  error: {self.error:.2g}"]
        if self.compiled:
            error.insert(0, f"  compiled by XLA: {self._compiled}")
        return "\n".join(
            [
                f"{self.path}: version {self.version}, {self.size:,} bytes",
                *(f"  {name}: {signature}" for name, signature in self.signatures.items()),
                f"  {sum(self.ops.values())} ops of {len(self.ops)} kinds; native ops: {native}",
                f"  {self.warmup_requests} requests to warm up with",
                *error,
            ]
        )


def to_saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    version: int | None = None,
    signatures: Mapping[str, Any] | None = None,
    warmup: Any = None,
    batching: Mapping[str, Any] | bool | None = None,
    keep_native: bool = False,
    verify: bool = True,
    *,
    jit_compile: bool = False,
) -> SavedModelReport:
    """Writes a version of a model for TF Serving: ``<directory>/<version>/``.

    A server that polls the folder sees the version when it is complete, never before. Beside the
    versions stand models.config, batching.config and docker-compose.yml for the stock image
    tensorflow/serving; those that are there already stay, unless `batching` is given or
    `jit_compile` needs others.

    The signature "serving_default" is the model, with a batch of any size unless the model's is
    fixed. An only input is called "inputs" and an only output "outputs"; several have the names
    that Keras gives them, or the keys of their dict.

    Args:
        model: The Keras model, functional or built; another one needs
            `signatures={"serving_default": ...}`.
        directory: The folder of the versions; its name is the model's. Created if need be.
        version: A number that no version has yet; None for the next one after the highest.
        signatures: Further signatures by name, or another "serving_default". Each is a Keras model
            (layers may be shared), a `tf.function` with an input signature, or a pair of a function
            and its inputs, a `tf.TensorSpec` for each name. The function is called with the inputs
            as keyword arguments: there preprocessing has its place.
        warmup: Requests that the server runs before it answers others: one or a list of them, each
            an array, a dict of arrays by the inputs' names or, for another signature than
            "serving_default", a pair of its name and one of these. Needs tensorflow-serving-api.
        batching: Parameters of the server's batching (max_batch_size, batch_timeout_micros,
            max_enqueued_batches, num_batch_threads, allowed_batch_sizes,
            pad_variable_length_inputs), or False for none. None is like True if every signature can
            be batched, like False otherwise.
        keep_native: Keep the native ops, as inside `tfconv.keep_native()`. Only a server that is
            linked with them takes the model.
        verify: Whether "serving_default", if it is the model, is loaded, run on random inputs and
            compared with it: the root mean square of the difference may be 1e-4 of that of the
            output, 5% where layers compute in float16 or bfloat16. Inputs of unknown size and
            strings cannot be made up: such models are not compared.
        jit_compile: Whether XLA compiles the layers that it makes faster than stock ops are
            (involution, local attention), each when a size of the batch comes for the first time.
            The server needs the flag ``--xla_cpu_compilation_enabled=true``, which
            docker-compose.yml has then. Batches are padded to sizes that are powers of two unless
            `batching` has others, and the warm-up holds a request for each: those of `warmup`,
            repeated or cut, or zeros.

    Returns:
        A report of what was written; `print` shows it.

    Raises:
        ValueError: If an argument is wrong, the version exists, the folder cannot be written to, or
            `jit_compile` has nothing to compile, or not for a size that is known.
        ExportError: If the results differ.
        ImportError: If `warmup` or `jit_compile` is given and tensorflow-serving-api is not
            installed.
        After any error, nothing of the export is left on disk.

    Example:
        >>> import tempfile
        >>> inputs = tf.keras.Input((8, 8, 4))
        >>> model = tf.keras.Model(inputs, tfconv.Involution2D(3, group_channels=2)(inputs))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = tfconv.export.to_saved_model(model, folder + "/my_model")
        >>> report.version, report.native_ops
        (1, {})
        >>> print(report.signatures["serving_default"])
        (inputs: float32 [?, 8, 8, 4]) -> (outputs: float32 [?, 8, 8, 4])

    Source: TF Serving's guides to the SavedModel warm-up, to batching and to its configuration.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: {model!r}")
    folder, version = _checked_folder(directory), serving_files.checked_version(version)
    if version is not None and version in _versions(folder):
        raise _version_exists(folder, version)
    if signatures is not None and not isinstance(signatures, Mapping):
        raise ValueError(f"`signatures` must be a dict by name. Received: {signatures!r}")
    if jit_compile:
        _check_compilation(keep_native or keeps_native())
    functions, found = trace({DEFAULT: model, **(signatures or {})}, keep_native, jit_compile)
    parameters = serving_files.batching_parameters(batching, found)
    most = None if parameters is None else parameters["max_batch_size"]
    requests = serving_files.warmup_requests(warmup, found, most)
    if jit_compile:
        sizes = serving_files.with_allowed_sizes(parameters)
        requests = serving_files.requests_of_sizes(requests, found, sizes)
    if requests:
        serving_files.serving_apis()

    with _scratch(folder) as scratch, writing(folder):
        made = scratch / "model"
        roots = [model]
        for value in (signatures or {}).values():
            roots.append(value[0] if isinstance(value, (tuple, list)) else value)
        try:
            tf.saved_model.save(_holder(functions, roots), str(made), signatures=functions)
        except tf.errors.OpError as error:  # of TensorFlow's file system
            raise OSError(errno.EIO, error.message) from error
        ops, compiled = _ops(made)
        if jit_compile and not compiled:
            raise ValueError(
                "`jit_compile` needs a layer that XLA makes faster: an involution or local "
                f"attention. Received: jit_compile=True for {model.name!r}, which has none"
            )
        error = None
        if verify and DEFAULT not in (signatures or {}):
            error = _compared(model, made, found[DEFAULT])
        if requests:
            serving_files.write_warmup(made, folder.name, requests)
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        native = any(op.startswith(NATIVE_PREFIX) for op in ops)
        texts = {
            serving_files.MODELS: serving_files.models_config(folder.name),
            serving_files.COMPOSE: serving_files.compose_file(
                folder.name, bool(most), native, jit_compile
            ),
        }
        if parameters is not None:
            texts[serving_files.BATCHING] = serving_files.batching_config(parameters)
        replace = batching is not None or (jit_compile and not serving_files.compiles(folder))
        with _placed(texts, folder, scratch, replace):
            number = _publish(made, folder, version)
    path = folder / str(number)
    return SavedModelReport(path, number, found, ops, len(requests), size, error, compiled)


def _check_compilation(keep_native: bool) -> None:
    if keep_native:
        raise ValueError(
            "`jit_compile` compiles stock ops: a model keeps its native ops or has XLA compile "
            "others. Received: jit_compile=True with native ops kept"
        )
    if xla.missing():
        raise ValueError(f"`jit_compile` does not work: {xla.missing()}. Received: True")


def _holder(functions: Mapping[str, Any], roots: list[Any]) -> tf.Module:
    """An object that owns the variables and tables which the functions use, as saving needs it."""
    holder = tf.Module()
    variables = {id(v): v for f in functions.values() for v in f.variables}
    holder.served_variables = list(variables.values())
    trackable = [root for root in roots if isinstance(root, (tf.Module, keras.layers.Layer))]
    parts = {id(p): p for root in trackable for p in tf.train.TrackableView(root).descendants()}
    kind = tf.saved_model.experimental.TrackableResource
    holder.served_tables = [part for part in parts.values() if isinstance(part, kind)]
    return holder


def _compared(model: keras.Model, path: Path, signature: Signature) -> float | None:
    """The largest error of an output of a SavedModel; None if there are no inputs to compare on.

    Raises:
        ExportError: If it is too large.
    """
    specs = [tf.TensorSpec(s.shape, s.dtype, name) for name, s in signature.inputs.items()]
    if any(None in spec.shape[1:] or spec.dtype == tf.string for spec in specs):
        return None
    run = tf.saved_model.load(str(path)).signatures[DEFAULT]
    samples, errors = random_samples(specs), {}
    fixed = max(spec.shape[0] or 0 for spec in specs)
    for count in (fixed,) if fixed else (1, 3):
        tensors = {name: tf.constant(x) for name, x in samples.batch(count).items()}
        actual = run(**tensors)
        for name, expected in answers(model, tensors).items():
            y = expected.numpy()
            if expected.dtype.is_floating and np.isfinite(y.astype(np.float64)).all():
                error = relative_error(actual[name].numpy(), y)
                errors[name] = max(error, errors.get(name, 0.0))
    worst = max(errors, key=errors.__getitem__, default=None)
    if worst is None:
        return None
    layers = _compat.all_layers(model)
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers)
    bound = _HALF_BOUND if half else _BOUND
    if not errors[worst] <= bound:
        raise ExportError(
            "The SavedModel gives other results than the Keras model: the error of output "
            f"`{worst}` is {errors[worst]:.2g} of it, where at most {bound:.2g} is right. Of a "
            "model that draws random numbers that is no wonder: `verify=False`."
        )
    return errors[worst]


def _ops(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """How often each operation, and each function that XLA compiles, occurs in a SavedModel."""
    graph = _compat.saved_model_graph(path).graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    names = (re.search(rf"{xla.PREFIX}(\w+?)_\d+$", node.attr["f"].func.name) for node in nodes)
    counted = (node.op for node in nodes), (name[1] for name in names if name)
    ops, compiled = (dict(sorted(collections.Counter(each).items())) for each in counted)
    return ops, compiled


# The folder of the versions.


def _checked_folder(directory: Any) -> Path:
    text = os.fspath(directory) if isinstance(directory, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text.strip() or "://" in text:
        raise ValueError(
            f"`directory` must be the path of a local folder. Received: directory={directory!r}"
        )
    folder = Path(text).resolve()
    if set("[\\") & set(str(folder)):
        raise ValueError(
            "`directory` must be a path without [ and \\, which TensorFlow takes for parts of a "
            f"pattern as it looks for variables. Received: directory={folder}"
        )
    return folder


def _versions(folder: Path) -> set[int]:
    """The versions in a folder: a server takes every name for one that is a number."""
    try:
        return {int(name) for name in os.listdir(folder) if name.isdecimal()}
    except OSError:
        return set()


def _version_exists(folder: Path, version: int) -> ValueError:
    return ValueError(
        f"`version` must be new: {folder} has {sorted(_versions(folder))}. Received: {version}"
    )


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Scope with a hidden folder inside `folder`, which exists afterwards if all went well."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".export-"))
        except OSError as error:
            raise ValueError(
                f"`directory` cannot be written to ({error.strerror}). "
                f"Received: directory={str(folder)!r}"
            ) from error
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _placed(texts: dict[str, str], folder: Path, scratch: Path, replace: bool) -> Iterator[None]:
    """Scope in which the texts stand in `folder`; after an error in it they are gone again."""
    with contextlib.ExitStack() as undo:
        for name, text in texts.items():
            target, kept = folder / name, scratch / f"{name}.old"
            if not target.exists():
                undo.callback(target.unlink, missing_ok=True)
            elif replace:
                shutil.copy2(target, kept)
                undo.callback(os.replace, kept, target)
            else:
                continue
            (scratch / name).write_text(text, encoding="utf-8")
            os.replace(scratch / name, target)
        yield
        undo.pop_all()


def _publish(made: Path, folder: Path, version: int | None) -> int:
    """Gives the complete version its name; returns its number."""
    while True:
        number = version or max(_versions(folder), default=0) + 1
        try:
            os.rename(made, folder / str(number))
        except OSError as error:
            # Another process was faster.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if version is not None:
                raise _version_exists(folder, version) from error
        else:
            return number
