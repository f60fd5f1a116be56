"""Differences between the TensorFlow and Keras versions that tfconv runs on.

The only module that touches TensorFlow's or Keras's private modules. Everything else
imports ``keras`` from here, so that it is Keras 3 on TensorFlow >= 2.16, Keras 2 on
TensorFlow 2.15 and tf_keras under ``TF_USE_LEGACY_KERAS=1``.
"""

import contextlib
import functools
import inspect
import sys
import threading

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ImportError(
        "tfconv needs TensorFlow, which is not installed: `pip install tensorflow` or, without "
        "CUDA, `pip install tensorflow-cpu`"
    ) from None
from tensorflow import keras
from tensorflow.python.saved_model import loader_impl as _loader_impl
from tensorflow.python.saved_model import save_context as _save_context

KERAS_3 = int(getattr(keras, "__version__", "2").split(".")[0]) >= 3  # Keras 2 has none here

tree = keras.tree if KERAS_3 else tf.nest  # what flattens structures of Keras's tensors


def require_tensorflow_backend() -> None:
    """Raises ImportError when Keras 3 runs on another backend than TensorFlow."""
    if KERAS_3 and keras.config.backend() != "tensorflow":
        raise ImportError(
            "tfconv's layers need Keras's TensorFlow backend. Set the environment variable "
            'KERAS_BACKEND=tensorflow before keras is imported, or put "backend": "tensorflow" '
            "into ~/.keras/keras.json. "
            f"Received: backend={keras.config.backend()!r}"
        )


# Those that trace a model themselves, outside of TensorFlow's scope for saving.
_EXPORTERS = ("keras.src.export.", "tf_keras.src.export.", "tf2onnx.", "openvino.", "coremltools.")


# Those that trace it for TensorFlow Lite.
_TO_TFLITE = ("tensorflow.lite.python.", "keras.src.export.litert")


def tracing_for_export() -> bool:
    """True exactly while functions are traced to save or convert them."""
    if _save_context.in_save_context():
        return True
    return not tf.executing_eagerly() and _called_by(_EXPORTERS)


def tracing_for_tflite() -> bool:
    """True exactly while functions are traced to convert them to TensorFlow Lite."""
    return tracing_for_export() and (_tflite.scopes > 0 or _called_by(_TO_TFLITE))


def _called_by(modules) -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(modules):
            return True
        frame = frame.f_back
    return False


class _Scopes(threading.local):
    scopes = 0


_tflite = _Scopes()


@contextlib.contextmanager
def tflite_scope():
    """Scope in which functions that are traced for export are for TensorFlow Lite."""
    _tflite.scopes += 1
    try:
        yield
    finally:
        _tflite.scopes -= 1


def export_scope():
    """Scope in which functions are traced as TensorFlow traces them to save a model."""
    return _save_context.save_context(tf.saved_model.SaveOptions())


def forbid_export(reason: str) -> None:
    """Has an error raised when the functions that are being traced are saved or converted.

    Functions that are traced in another function forbid it to that one too.
    """
    _check_when_frozen(reason)
    graph = tf.compat.v1.get_default_graph()
    while hasattr(graph, "mark_as_unsaveable"):
        graph.mark_as_unsaveable(reason)
        graph = graph.outer_graph


@functools.cache
def _check_when_frozen(reason: str) -> None:
    # TensorFlow asks whether a function may be exported when it saves one. All converters of
    # traced functions (TensorFlow Lite's, tf2onnx, OpenVINO) freeze them first.
    from tensorflow.python.framework import convert_to_constants

    freezing = convert_to_constants._FunctionConverterData
    start = freezing.__init__

    @functools.wraps(start)
    def checked_start(self, func, *args, **kwargs):
        if reason in func.graph.saving_errors:
            raise ValueError(f"Unable to convert function {func.name!r}: {reason}")
        start(self, func, *args, **kwargs)

    freezing.__init__ = checked_start


def model_input(model):
    """What a functional model, or a sequential one that is built, is called with."""
    # A sequential model of Keras 3 has no `input` before it is called.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def flattened_shape(layer) -> "tuple[int, ...] | None":
    """Shape, channels last, of what a layer of a functional model gets from a Flatten before it.

    None where another layer comes before it; a Dropout in between does not count.
    """
    while hasattr(layer, "input"):  # AttributeError where a layer was not called with symbols
        layer = getattr(layer.input, "_keras_history", (None,))[0]
        if isinstance(layer, keras.layers.Flatten):
            _, *shape = layer.input.shape
            first = layer.data_format == "channels_first"
            return (*shape[1:], shape[0]) if first else tuple(shape)
        if not isinstance(layer, keras.layers.Dropout):
            break
    return None


def saved_model_graph(path):
    """The MetaGraphDef of the SavedModel in the folder ``path``."""
    (meta_graph,) = _loader_impl.parse_saved_model(str(path)).meta_graphs
    return meta_graph


def frozen(concrete_function, lower_control_flow: bool = True):
    """A concrete function without variables and calls: values and ops in one flat graph.

    Loops and conditions are operations of that graph, or hold graphs of their own.
    """
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(
        concrete_function, lower_control_flow, aggressive_inlining=not lower_control_flow
    )


def tensorflow_version() -> str:
    """The version of the TensorFlow that is running, such as ``"2.21.0"``."""
    return tf.__version__


def convert_variable(value, dtype=None) -> tf.Tensor:
    """A tensor of ``value``, which may be a variable of either Keras, in ``dtype``."""
    tensor = tf.convert_to_tensor(value)
    return tensor if dtype is None or tensor.dtype == dtype else tf.cast(tensor, dtype)


def is_keras_tensor(value) -> bool:
    """Whether a value is a symbolic tensor of the functional API."""
    return isinstance(value, keras.KerasTensor) if KERAS_3 else hasattr(value, "_keras_history")


def standardized_data_format(data_format: "str | None") -> str:
    """``data_format`` or, for None, the one set in Keras's configuration."""
    if data_format is None:
        data_format = keras.backend.image_data_format()
    name = str(data_format).lower()
    if name not in ("channels_last", "channels_first"):
        raise ValueError(
            '`data_format` must be "channels_last", "channels_first" or None. '
            f"Received: data_format={data_format!r}"
        )
    return name


def is_symbolic(value) -> bool:
    """Whether a value is a tensor of a functional model."""
    return hasattr(value, "_keras_history")


def check_input(layer, x) -> None:
    """Raises ValueError unless an input fits a layer's ``input_spec``, as a call of it does."""
    module = sys.modules[keras.layers.InputSpec.__module__]
    module.assert_input_compatibility(layer.input_spec, x, layer.name)


def traced_output_spec(layer, *args, **kwargs):
    """What a call of a layer gives, found by tracing it: Keras 2 does so by itself."""
    return keras.Operation.compute_output_spec(layer, *args, **kwargs)


@contextlib.contextmanager
def in_float32(model):
    """Scope in which a model takes and computes in float32 what has another real type."""
    parts = list(_float32_parts(model))
    before = [vars(owner)[name] for owner, name, _ in parts]
    try:
        for owner, name, value in parts:
            vars(owner)[name] = value
        yield
    finally:
        for (owner, name, _), value in zip(parts, before):
            vars(owner)[name] = value


def _float32_parts(model):
    """What makes a model compute in float32: objects, their attributes, and values for these."""
    layers = all_layers(model)
    for layer in layers:
        policy = own_policy_of(layer)
        if _is_other_real(policy.compute_dtype) or _is_other_real(policy.variable_dtype):
            if KERAS_3:
                mode, of, _ = policy.name.rpartition("_from_")  # of quantized layers
                yield layer, "_dtype_policy", keras.dtype_policies.get(f"{mode}{of}float32")
            else:
                yield layer, "_dtype_policy", keras.mixed_precision.Policy("float32")
                yield layer, "_compute_dtype_object", tf.float32
        # Keras 3 has operations in its models too.
        for each in getattr(layer, "operations", ()):
            if not isinstance(each, keras.layers.Layer) and _is_other_real(vars(each).get("dtype")):
                yield each, "dtype", "float32"
        for x in getattr(layer, "inputs", None) or ():
            if _is_other_real(x.dtype):
                spec = None if KERAS_3 else tf.TensorSpec(x.shape, tf.float32, x.name)
                yield (x, "_dtype", "float32") if KERAS_3 else (x, "_type_spec", spec)
    made = {}

    def twin(value):
        if id(value) not in made:
            kind = tf.Variable if isinstance(value, tf.Variable) else tf.identity
            made[id(value)] = kind(tf.cast(value, tf.float32))
        return made[id(value)]

    def is_other(value):
        return isinstance(value, (tf.Tensor, tf.Variable)) and _is_other_real(value.dtype)

    for variable in model.variables if KERAS_3 else ():
        if is_other(variable._value):
            yield variable, "_value", twin(variable._value)
            yield variable, "_dtype", "float32"
    for layer in layers:
        for name, value in vars(layer).items():
            if is_other(value):
                yield layer, name, twin(value)
            elif not KERAS_3 and isinstance(value, (list, tuple)) and any(map(is_other, value)):
                yield layer, name, [twin(v) if is_other(v) else v for v in value]


def _is_other_real(dtype) -> bool:
    """Whether a type, or what Keras takes for one, is one of real numbers but not float32."""
    try:
        dtype = tf.as_dtype(dtype)
    except TypeError:
        return False
    return dtype.is_floating and dtype != tf.float32


def all_layers(model) -> list:
    """The layers of a model, those inside others included."""
    return list(model._flatten_layers())  # the same name in both Keras


def child_layers(layer) -> list:
    """The layers that stand directly in a layer or model."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def policy_of(layer):
    """The dtype policy of a layer of either Keras."""
    return layer.dtype_policy if KERAS_3 else layer._dtype_policy


def is_quantized(policy) -> bool:
    """Whether a dtype policy, or its configuration, is that of a quantized layer of Keras 3."""
    return KERAS_3 and keras.dtype_policies.get(policy).quantization_mode is not None


def is_quantized_itself(layer) -> bool:
    """The same of a layer's own policy, as far as it is known before there is a path for a map."""
    policy = policy_of(layer)
    of_many = KERAS_3 and isinstance(policy, keras.dtype_policies.DTypePolicyMap)
    return not of_many and is_quantized(policy)


def track_list(layer, name, values) -> None:
    """Has `tf.train.Checkpoint` find what is in a list that is an attribute of a layer.

    Keras 2 does that by itself.
    """
    if KERAS_3:
        for number, value in enumerate(values):
            layer._track_trackable(value, f"{name}_{number}", overwrite=True)


def own_policy_of(layer):
    """The same, a layer's own where there is a map for several."""
    policy = policy_of(layer)
    if KERAS_3 and isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy[layer.path]
    return policy


def policy_inside(layer, *names):
    """The dtype policy for a layer inside one that is being built, by the names on the way to it.

    Of a map for several, it is that layer's own: Keras quantizes no layer that has a map.
    """
    policy = policy_of(layer)
    if KERAS_3 and isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy["/".join((layer.path, *names))]
    return policy


def resolve_policies(layer, outer, *names) -> None:
    """Gives a layer in an outer one, and those inside it, their own policies of the outer's map.

    What was built before it had a place in the outer one may have been found by another path.
    """
    names = (*names, layer.name)
    for part in child_layers(layer):
        resolve_policies(part, outer, *names)
    policies = policy_of(layer)
    if not (KERAS_3 and isinstance(policies, keras.dtype_policies.DTypePolicyMap)):
        return
    policy, as_built = policy_inside(outer, *names), policies[layer.path or ""]
    if layer.built and policy == policies.default_policy:
        policy = as_built
    mode = policy.quantization_mode if layer.built and policy != as_built else None
    vars(layer)["_dtype_policy"] = policies.default_policy if mode else policy
    if mode:
        layer.quantize(mode)


def weights_by_name(layer) -> dict:
    """The weights of a layer and of those inside it; a copy of the layer has the same keys.

    Their order depends on when a layer was quantized or got adapters. Keras 2 has neither.
    """
    if not KERAS_3:
        return dict(enumerate(layer.weights))
    found = {}
    for number, part in enumerate(all_layers(layer)):
        for weight in part._trainable_variables + part._non_trainable_variables:
            same = sum(key[:2] == (number, weight.name) for key in found)
            found[number, weight.name, same] = weight
    return found


def quantization_of(layer) -> "str | None":
    """How Keras has quantized a layer, or one inside it, such as "int8"; None if it has not."""
    modes = (getattr(part, "quantization_mode", None) for part in all_layers(layer))
    return next(filter(None, modes), None)


def quantize_as(old, new) -> None:
    """Quantizes in a layer's copy what is quantized in the layer, and adds the same adapters.

    A configuration does not tell of layers inside that were changed by themselves.
    """
    for source, target in zip(all_layers(old), all_layers(new)):
        mode = getattr(source, "quantization_mode", None)
        if mode and not target.quantization_mode:
            config = getattr(source, "quantization_config", None)
            target.quantize(mode, **({"config": config} if config else {}))
        if getattr(source, "lora_enabled", False) and not target.lora_enabled:
            alpha = getattr(source, "lora_alpha", None)
            target.enable_lora(source.lora_rank, **({"lora_alpha": alpha} if alpha else {}))


def has_adapters(layer) -> bool:
    """Whether low-rank adapters belong to a layer, or one inside it."""
    return any(getattr(part, "lora_enabled", False) for part in all_layers(layer))


@contextlib.contextmanager
def more_weights(layer):
    """Scope in which a layer that is built may make weights, which Keras 3 forbids."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    yield
    if locked:
        layer._tracker.lock()


def is_graph(model) -> bool:
    """Whether the calls of a model's layers are known: it is functional, or sequential and built.

    Keras 2 keeps the calls that make losses of `add_loss` apart; a model with such has no graph.
    Nor has one whose class has a `call` of its own.
    """
    known = "keras", "tf_keras"
    if type(model).call.__module__.partition(".")[0] not in known:
        return False
    graph = getattr(model, "_functional", model)  # what is in a sequential model of Keras 3
    return min(getattr(graph, "_nodes_by_depth", [-1])) >= 0


def calls_of(model):
    """The calls that a model with a graph consists of, in an order in which they can be made.

    Yields:
        The layer (or operation of Keras 3), its arguments and keyword arguments, and the list of
        tensors that it gave.
    """
    nodes = getattr(model, "_functional", model)._nodes_by_depth
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            if node.is_input:
                continue
            if KERAS_3:
                yield node.operation, node.arguments.args, node.arguments.kwargs, node.outputs
            else:
                yield node.layer, node.call_args, node.call_kwargs, tf.nest.flatten(node.outputs)


def source_of(tensor):
    """The layer or operation that gave a tensor of a functional model."""
    return tensor._keras_history[0]


def config_of(layer) -> dict:
    """A layer's configuration, in which functions that Keras has no name for are themselves."""
    config = layer.get_config()
    for name, value in config.items():
        function = getattr(layer, name, None)
        if isinstance(value, dict) and inspect.isfunction(function):
            config[name] = function
    return config


def copy_of(layer):
    """A layer, or operation of Keras 3, with the same configuration and no weights yet."""
    if isinstance(layer, keras.layers.Lambda):  # the configuration holds no function
        return type(layer)(
            layer.function,
            layer._output_shape,
            layer.mask,
            layer.arguments,
            name=layer.name,
            dtype=policy_of(layer),
        )
    return type(layer).from_config(config_of(layer))


def tflite_schema():
    """The module that reads and writes the flatbuffers of TensorFlow Lite models."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def tensorflow_variable(variable) -> tf.Variable:
    """TensorFlow's variable behind one of Keras."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def scale_dense_layers_as_a_whole(converter) -> None:
    """Has a converter give each matrix of weights one scale, rather than one for each output."""
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True


def calibrated_tflite(converter) -> bytes:
    """A TensorFlow Lite model in float32 with the ranges of its tensors, for `integer_tflite`."""
    converter._experimental_calibrate_only = True
    return converter.convert()


def integer_tflite(calibrated: bytes, float_operators=(), dense_as_a_whole: bool = False) -> bytes:
    """A calibrated model in integers.

    Args:
        calibrated: What `calibrated_tflite` gives.
        float_operators: Names of the first outputs of operators that stay in floating point.
        dense_as_a_whole: See `scale_dense_layers_as_a_whole`.
    """
    from tensorflow.lite.python import convert

    options = {}
    if (
        "disable_per_channel_for_dense_layers"
        in inspect.signature(convert.mlir_quantize).parameters
    ):
        options["disable_per_channel_for_dense_layers"] = dense_as_a_whole
    return convert.mlir_quantize(calibrated, denylisted_nodes=list(float_operators), **options)
