"""What TF Serving reads beside a SavedModel: configurations, and requests to warm up with."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv._compat import tensorflow_version
from tfconv.export.signatures import DEFAULT, Signature

MODELS, BATCHING, COMPOSE = "models.config", "batching.config", "docker-compose.yml"
_WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
_XLA = "--xla_cpu_compilation_enabled=true"  # without it, what XLA must compile answers an error
_MOST_WARMUP_REQUESTS = 1000  # a server refuses a model that has more

_BATCHING = {"max_batch_size": 64, "batch_timeout_micros": 1000, "max_enqueued_batches": 100}
# Numbers that the message wraps, with the least that each may be.
_LEAST = {
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 1,
    "num_batch_threads": 1,
}


def batching_parameters(
    batching: Mapping[str, Any] | bool | None, signatures: Mapping[str, Signature]
) -> dict[str, Any] | None:
    """The parameters of a server's batching, or None for a server without it.

    Args:
        batching: As in `to_saved_model`.
        signatures: Those of the model.

    Raises:
        ValueError: If a parameter is wrong, or a signature cannot be batched.
    """
    if batching is False:
        return None
    fixed = [name for name, signature in signatures.items() if not signature.batched]
    if fixed:
        if batching is None:
            return None
        raise ValueError(
            "`batching` needs a batch of any size in all inputs and outputs of every signature, "
            f"which {', '.join(map(repr, fixed))} has not. Received: batching={batching!r}"
        )
    if batching is None or batching is True:
        return dict(_BATCHING)
    if not isinstance(batching, Mapping):
        raise ValueError(
            f"`batching` must be a dict, True, False or None. Received: batching={batching!r}"
        )
    parameters = {**_BATCHING, **batching}
    for name, value in parameters.items():
        if name in _LEAST:
            valid = _is_int(value) and value >= _LEAST[name]
        elif name == "allowed_batch_sizes":
            valid = isinstance(value, (list, tuple)) and all(map(_is_int, value))
            valid = valid and [0, *value] == sorted({0, *value})
            valid = valid and list(value[-1:]) == [parameters["max_batch_size"]]
        else:
            valid = name == "pad_variable_length_inputs" and isinstance(value, bool)
        if not valid:
            raise ValueError(
                f"`batching` takes {', '.join(_LEAST)} (whole numbers), allowed_batch_sizes "
                "(ascending, the last is max_batch_size) and pad_variable_length_inputs (a bool). "
                f"Received: {name}={value!r}"
            )
    for name in _LEAST.keys() & parameters.keys():
        parameters[name] = int(parameters[name])  # NumPy's have no bits to count
    return parameters


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def with_allowed_sizes(parameters: dict[str, Any] | None) -> list[int] | None:
    """The sizes that batches are padded to, powers of two if none were given; None without batches.

    They are put into the parameters.
    """
    if parameters is None:
        return None
    most = parameters["max_batch_size"]
    powers = [2**n for n in range(most.bit_length()) if 2**n < most]
    return list(parameters.setdefault("allowed_batch_sizes", [*powers, most]))


def batching_config(parameters: Mapping[str, Any]) -> str:
    """`parameters` as the text of a BatchingParameters message."""
    lines = []
    for name, value in parameters.items():
        if name in _LEAST:
            lines.append(f"{name} {{ value: {value} }}")
        elif name == "allowed_batch_sizes":
            lines += [f"{name}: {size}" for size in value]
        else:
            lines.append(f"{name}: {str(value).lower()}")
    return "\n".join(lines) + "\n"


def models_config(name: str) -> str:
    """The text of a ModelServerConfig with one model, at the stock image's place for it."""
    return f"""\
model_config_list {{
  config {{
    name: {_quoted(name)}
    base_path: {_quoted(f"/models/{name}")}
    model_platform: "tensorflow"
  }}
}}
"""


def _quoted(text: str) -> str:
    """A string in YAML and in protocol buffers' text, the same in both."""
    return json.dumps(text, ensure_ascii=False)


def compiles(folder: Path) -> bool:
    """Whether the folder's file for Docker Compose lets the server compile by XLA."""
    file = folder / COMPOSE
    return file.is_file() and _XLA in file.read_text(encoding="utf-8", errors="replace")


def compose_file(name: str, batching: bool, native: bool, xla: bool = False) -> str:
    """A file for Docker Compose: the stock image, or a server that has tfconv's ops."""
    image = "${TENSORFLOW_SERVING_IMAGE:-tensorflow/serving}"
    said = f"The model was exported by TensorFlow {tensorflow_version()}."
    if native:
        image = "${TENSORFLOW_SERVING_IMAGE:?a server that is linked with the ops of tfconv}"
        said += " It needs a server that is linked with tfconv's ops."
    folder = f"/models/{name}".replace("$", "$$")  # alone, it begins a variable's name
    flags = [f"--model_config_file={folder}/{MODELS}"]
    if batching:
        flags += ["--enable_batching=true", f"--batching_parameters_file={folder}/{BATCHING}"]
    if xla:
        flags.append(_XLA)
    command = "\n".join(f"      - {_quoted(flag)}" for flag in flags)
    return f"""\
# `docker compose up` here serves the newest version at localhost:8500 (gRPC) and :8501 (REST).
# {said}
services:
  serving:
    image: "{image}"
    ports:
      - "8500:8500"
      - "8501:8501"
    volumes:
      - type: bind
        source: .
        target: {_quoted(folder)}
        read_only: true
    command:
{command}
"""


Request = tuple[str, dict[str, np.ndarray]]


def warmup_requests(
    warmup: Any, signatures: Mapping[str, Signature], most_examples: int | None
) -> list[Request]:
    """The requests of `warmup` (see `to_saved_model`): signature and inputs by name.

    Raises:
        ValueError: If a request does not fit its signature or the server's batches.
    """
    if warmup is None:
        return []
    if not isinstance(warmup, list):
        warmup = [warmup]
    if not 0 < len(warmup) <= _MOST_WARMUP_REQUESTS:
        raise ValueError(
            f"`warmup` must hold 1 to {_MOST_WARMUP_REQUESTS} requests. Received: {len(warmup)}"
        )
    requests = []
    for request in warmup:
        name, values = request if isinstance(request, tuple) else (DEFAULT, request)
        if name not in signatures:
            raise ValueError(
                f"`warmup` must name a signature, one of {sorted(signatures)}. Received: {name!r}"
            )
        requests.append((name, _inputs(name, values, signatures[name].inputs, most_examples)))
    return requests


def requests_of_sizes(
    requests: list[Request], signatures: Mapping[str, Signature], sizes: list[int] | None
) -> list[Request]:
    """Requests, and as many more that each signature has one of each size of the batch.

    Args:
        requests: What `warmup_requests` gives.
        signatures: Those of the model.
        sizes: The sizes of batches; None where they are not known, for those that the requests
            have, or one example.

    Raises:
        ValueError: If a signature has no request, and none of zeros can be made up.
    """
    made = list(requests)
    for name, signature in signatures.items():
        own = [inputs for key, inputs in requests if key == name]
        first = own[0] if own else _zeros(name, signature.inputs)
        if sizes and signature.batched:
            there = {len(next(iter(inputs.values()))) for inputs in own}
            made += [(name, _of_size(first, n)) for n in sizes if n not in there]
        elif not own:
            made.append((name, first))
    return made


def _of_size(inputs: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    return {name: np.resize(x, (size, *x.shape[1:])) for name, x in inputs.items()}


def _zeros(name: str, specs: Mapping[str, tf.TensorSpec]) -> dict[str, np.ndarray]:
    """A request of one example, or of as many as there must be."""
    made = {}
    for key, spec in specs.items():
        if spec.dtype == tf.string or spec.shape.rank is None or None in spec.shape[1:]:
            raise ValueError(
                f"`warmup` must have a request for the signature {name!r} with `jit_compile`: its "
                f"input {key!r} ({spec.dtype.name} {spec.shape}) cannot be made up. Received: none"
            )
        shape = [1 if n is None else n for n in spec.shape]
        made[key] = np.zeros(shape, spec.dtype.as_numpy_dtype)
    return made


def _inputs(
    name: str, values: Any, specs: Mapping[str, tf.TensorSpec], most_examples: int | None
) -> dict[str, np.ndarray]:
    if not isinstance(values, Mapping):
        if len(specs) != 1:
            raise ValueError(
                f"`warmup` must give the signature {name!r} a dict with {sorted(specs)}. "
                f"Received: {type(values).__name__}"
            )
        values = dict.fromkeys(specs, values)
    if values.keys() != specs.keys():
        raise ValueError(
            f"`warmup` must give the signature {name!r} the inputs {sorted(specs)}. "
            f"Received: {sorted(values)}"
        )
    inputs = {}
    for key, spec in specs.items():
        try:
            tensor = tf.convert_to_tensor(values[key], spec.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`warmup` must give {key!r} of the signature {name!r} {spec.dtype.name} values. "
                f"Received: {values[key]!r}"
            ) from error
        fits = spec.shape.is_compatible_with(tensor.shape)
        if not fits or (most_examples is not None and tensor.shape[0] > most_examples):
            batches = "" if most_examples is None else f" with at most {most_examples} examples"
            raise ValueError(
                f"`warmup` must give {key!r} of the signature {name!r} the shape {spec.shape}"
                f"{batches}. Received: shape {tensor.shape}"
            )
        inputs[key] = tensor.numpy()
    return inputs


def write_warmup(path: Path, model_name: str, requests: list[Request]) -> None:
    """Runs the requests on the SavedModel in `path`, and leaves them there for the server.

    A server that cannot answer them does not take the model: so they are tried first.

    Raises:
        ImportError: If tensorflow-serving-api is not installed.
    """
    apis = serving_apis()
    loaded = tf.saved_model.load(str(path))
    (path / _WARMUP).parent.mkdir()
    with tf.io.TFRecordWriter(str(path / _WARMUP)) as writer:
        for signature, inputs in requests:
            loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
            log = apis.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())


def serving_apis() -> Any:
    """The module of TF Serving's PredictionLog.

    Raises:
        ImportError: If tensorflow-serving-api is not installed.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        minor = ".".join(tensorflow_version().split(".")[:2])
        raise ImportError(
            "`warmup` needs TF Serving's messages: `pip install --no-deps "
            f"tensorflow-serving-api=={minor}.*` (without its dependencies, which would install "
            "the package `tensorflow` beside tensorflow-cpu)"
        ) from error
    return prediction_log_pb2


def checked_version(version: Any) -> int | None:
    """`version` as a whole number from 1 on, or None.

    Raises:
        ValueError: If it is neither.
    """
    if version is None:
        return None
    try:
        number = operator.index(version)
    except TypeError:
        number = 0
    if isinstance(version, bool) or not 0 < number < 2**63:
        raise ValueError(
            f"`version` must be a whole number from 1 on, or None. Received: version={version!r}"
        )
    return number
