"""What Keras, TensorFlow Lite and TF Serving expect of a layer, as checks.

What a layer computes is the business of its own tests.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import tfconv
from tfconv import _compat
from tfconv._compat import KERAS_3, keras
from tfconv.export import inspection, tflite_file
from tfconv.export.tflite_file import NATIVE_PREFIX

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # LiteRT as a package of its own came after TensorFlow 2.15
    Interpreter = tf.lite.Interpreter

Shape = Sequence[Any]
# TensorFlow 2.16's converter ends the process for models of Keras 3, whatever their layers.
_CONVERTS_KERAS = not (KERAS_3 and tf.__version__.startswith("2.16."))


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """A layer in one configuration.

    Attributes:
        layer_class: Its class.
        input_shape: Channels-last shape of its input, without the batch.
        kwargs: Arguments of its constructor.
        extra: Shapes of further call arguments by name, without the batch.
        as_list: Whether the layer takes its input and the further ones as one list.
        any_size: Whether the layer takes inputs of any spatial size, once built.
    """

    layer_class: type
    input_shape: tuple[int, ...]
    kwargs: Mapping[str, Any]
    extra: Mapping[str, tuple[int, ...]]
    as_list: bool = False
    any_size: bool = True

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"{self.layer_class.__name__}({arguments}) on {self.shapes}"

    def layer(self, **changes: Any) -> Any:
        """A new layer; ``changes`` replace arguments of its constructor."""
        return self.layer_class(**{**self.kwargs, **changes})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all inputs by name, without the batch."""
        return {"x": self.input_shape, **self.extra}

    def arrays(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs by name."""
        rng = np.random.default_rng(seed)
        return {
            name: rng.standard_normal((batch, *shape)).astype(np.float32)
            for name, shape in self.shapes.items()
        }

    def model(self, layer: Any = None, unknown_sizes: bool = False) -> Any:
        """A functional model of the layer, for the given or for unknown spatial sizes."""
        layer = self.layer(name="checked") if layer is None else layer
        shapes = {
            name: (None,) * (len(shape) - 1) + shape[-1:] if unknown_sizes else shape
            for name, shape in self.shapes.items()
        }
        # Of the layer's type: others would be converted, and gradients of float64 rounded.
        inputs = {
            name: keras.Input(shape, name=name, dtype=layer.variable_dtype)
            for name, shape in shapes.items()
        }
        return keras.Model(list(inputs.values()), self.called(layer, inputs))

    def called(self, layer: Any, inputs: Mapping[str, Any]) -> Any:
        """What the layer gives for inputs by name."""
        if self.as_list:
            return layer(list(inputs.values()))
        return layer(inputs["x"], **{name: inputs[name] for name in self.extra})

    def built(self, layer: Any) -> Any:
        """The layer after a call with one example."""
        arrays = self.arrays(1)
        self.called(layer, {name: tf.constant(array) for name, array in arrays.items()})
        return layer

    @functools.cached_property
    def has_weights(self) -> bool:
        """Whether the layer has any, once built."""
        return bool(self.built(self.layer()).weights)

    def computed_shape(self, layer: Any, *sizes: int | None) -> tuple[int | None, ...]:
        """The layer's output shape, computed for the batch and the sizes given, or the case's."""

        def given(shape: tuple[int, ...]) -> tuple[int | None, ...]:
            return (*sizes, *shape[len(sizes) - 1 :])

        shapes = [given(shape) for shape in self.shapes.values()]
        return tuple(
            tf.TensorShape(layer.compute_output_shape(shapes if self.as_list else shapes[0]))
        )

    def randomized_model(self) -> Any:
        """A model none of whose weights is zero, not even those that start there."""
        model = self.model()
        randomize(model)
        return model


def randomize(model: Any) -> None:
    """Gives all weights random values; positive ones to those that are variances."""
    rng = np.random.default_rng(1)
    values = []
    for variable in model.weights:
        value = rng.uniform(0.2, 0.6, variable.shape)
        if "variance" not in variable.name:
            value *= rng.choice([-1, 1], variable.shape)
        values.append(value)
    model.set_weights(values)


def apply(model: Any, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The model's outputs, in inference."""
    inputs = [tf.convert_to_tensor(array) for array in arrays.values()]
    return np.asarray(model(inputs if len(inputs) > 1 else inputs[0], training=False))


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Outputs equal up to what float32 sums in another order may differ."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    scale = max(np.abs(expected).max(), 1e-6)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


# The checks.


def output_shape(case: LayerCase) -> None:
    """Outputs have the computed shape, for one example, many, and an unknown number."""
    layer = case.layer()
    model = case.model(layer)
    assert tuple(tf.TensorShape(model.output_shape)) == case.computed_shape(layer, None)
    for batch in (1, 33):
        y = apply(model, case.arrays(batch))
        assert y.shape == case.computed_shape(layer, batch)
        assert np.isfinite(y).all()


def configuration(case: LayerCase) -> None:
    """A layer made from a layer's configuration is the same layer."""
    layer = case.layer()
    config = layer.get_config()
    for name in case.kwargs:
        assert name in config, f"{name} is not in the configuration"
    text = json.dumps(keras.layers.serialize(layer))
    for copy in (
        case.layer_class.from_config(config),
        keras.layers.deserialize(json.loads(text)),
    ):
        assert type(copy) is case.layer_class
        assert json.dumps(copy.get_config(), default=str) == json.dumps(config, default=str)


def files(case: LayerCase) -> None:
    """Models and weights come back from files as they were."""
    models = {"functional": case.randomized_model()}
    if not case.extra:
        models["sequential"] = keras.Sequential([keras.Input(case.input_shape), case.layer()])
        randomize(models["sequential"])
    arrays = case.arrays(2)
    with tempfile.TemporaryDirectory() as folder:
        for kind, model in models.items():
            expected = apply(model, arrays)
            path = f"{folder}/{kind}.keras"
            model.save(path)
            assert_same(apply(keras.models.load_model(path), arrays), expected, 1e-6)
        model = models["functional"]
        expected = apply(model, arrays)
        path = f"{folder}/model.h5"
        model.save(path)
        assert_same(apply(keras.models.load_model(path), arrays), expected, 1e-6)
        names = ["new.weights.h5"] if KERAS_3 else ["new.weights.h5", "legacy.h5"]
        for name in names:
            path = f"{folder}/{name}"
            model.save_weights(path)
            fresh = case.model()
            fresh.load_weights(path)
            assert_same(apply(fresh, arrays), expected, 1e-6)


def frozen(case: LayerCase) -> None:
    """A frozen layer has nothing to train, however it came to be, and no step changes it."""
    layer = case.built(case.layer())
    free = len(layer.trainable_weights)
    assert not case.built(case.layer(trainable=False)).trainable_weights, "by its constructor"
    before = case.layer()
    before.trainable = False
    for frozen, how in ((case.built(before), "before it was built"), (layer, "afterwards")):
        frozen.trainable = False
        assert not frozen.trainable_weights, how
        frozen.trainable = True
        assert len(frozen.trainable_weights) == free, f"set free, frozen {how}"
    model = case.model(case.layer(name="checked"))
    model.trainable = False
    network = keras.Model(model.inputs, keras.layers.Dense(1)(model(model.inputs)))
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.h5")
        network.save(f"{folder}/network.keras")
        copies = {
            "cloned": keras.models.clone_model(model),
            "from an .h5 file": keras.models.load_model(f"{folder}/model.h5"),
            "in a network from a .keras file": keras.models.load_model(f"{folder}/network.keras"),
        }
    for how, copy in copies.items():
        others = 2 if "network" in how else 0
        assert len(copy.trainable_weights) == others, how
        if others:
            _check_that_training_keeps(copy.layers[-2], copy, case)
        copy.trainable = True
        for part in _compat.all_layers(copy):  # models that Keras 3 cloned do not tell theirs
            part.trainable = True
        assert len(copy.trainable_weights) == free + others, f"{how}, set free"


def _check_that_training_keeps(layer: Any, model: Any, case: LayerCase) -> None:
    kept = [weight.numpy() for weight in layer.weights]
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    target = np.ones(case.computed_shape(case.layer(), 2))[..., :1]
    model.train_on_batch(list(case.arrays(2).values()), target)
    for weight, old in zip(layer.weights, kept):
        assert np.array_equal(weight.numpy(), old), f"{weight.name} changed in training"


def checkpoint(case: LayerCase) -> None:
    """`tf.train.Checkpoint` saves all variables and gives them back."""
    layer, other = case.built(case.layer()), case.built(case.layer())
    randomize(layer)
    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(layer=layer).save(f"{folder}/checkpoint")
        names = [name for name, _ in tf.train.list_variables(path)]
        saved = sum(name.startswith("layer/") for name in names)
        assert saved == len(layer.weights), f"{saved} of {len(layer.weights)} variables are saved"
        tf.train.Checkpoint(layer=other).restore(path).assert_existing_objects_matched()
    for weight, expected in zip(other.weights, layer.weights):
        assert np.array_equal(weight.numpy(), expected.numpy()), f"{weight.name} is not restored"


def training(case: LayerCase) -> None:
    """One step of training changes every trainable weight."""
    model = case.model()
    assert model.trainable_weights
    randomize(model)
    arrays = case.arrays(4)
    target = np.random.default_rng(2).standard_normal(apply(model, arrays).shape)
    before = [w.numpy() for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = list(arrays.values())
    model.fit(x if len(x) > 1 else x[0], target.astype(np.float32), batch_size=4, verbose=0)
    for variable, old in zip(model.trainable_weights, before):
        new = variable.numpy()
        assert np.isfinite(new).all(), variable.name
        assert not np.array_equal(new, old), f"{variable.name} did not change"


def mixed_precision(case: LayerCase) -> None:
    """Variables in float32, outputs in half precision, near the outputs in float32."""
    reference = case.randomized_model()
    arrays = case.arrays(2)
    expected = apply(reference, arrays)
    for policy, dtype in (("mixed_float16", tf.float16), ("mixed_bfloat16", tf.bfloat16)):
        model = case.model(case.layer(dtype=policy))
        model.set_weights(reference.get_weights())
        assert {tf.as_dtype(w.dtype) for w in model.weights} <= {tf.float32}
        y = tf.convert_to_tensor(model([tf.convert_to_tensor(a) for a in arrays.values()]))
        assert y.dtype == dtype
        # Offsets multiply rounding errors by the image's slope: this is no test of accuracy.
        error = np.abs(tf.cast(y, tf.float32) - expected).mean()
        assert error < 0.1 * np.abs(expected).mean(), f"{policy}: mean error {error}"
    model = case.model(case.layer(dtype="float64"))
    model.set_weights(reference.get_weights())
    assert {tf.as_dtype(w.dtype) for w in model.weights} <= {tf.float64}
    y = model([tf.convert_to_tensor(a, tf.float64) for a in arrays.values()])
    assert tf.as_dtype(y.dtype) == tf.float64
    assert_same(y, expected)


def data_formats(case: LayerCase) -> None:
    """Channels first and last give the same, where the layer has the choice."""
    expected_model = case.randomized_model()
    arrays = case.arrays(2)
    expected = apply(expected_model, arrays)
    moved = {
        name: np.moveaxis(array, -1, 1) if array.ndim > 2 else array
        for name, array in arrays.items()
    }
    shapes = {name: array.shape[1:] for name, array in moved.items()}
    first = dataclasses.replace(
        case,
        input_shape=shapes.pop("x"),
        extra=shapes,
        kwargs={**case.kwargs, "data_format": "channels_first"},
    )
    layer = first.layer()
    model = first.model(layer)
    model.set_weights(expected_model.get_weights())
    y = apply(model, moved)
    assert_same(np.moveaxis(y, 1, -1), expected, 1e-5)
    assert first.computed_shape(layer, 2) == y.shape


def unknown_sizes(case: LayerCase) -> None:
    """A model for any spatial size gives what one for the size at hand gives."""
    expected_model = case.randomized_model()
    layer = case.layer()
    model = case.model(layer, unknown_sizes=True)
    model.set_weights(expected_model.get_weights())
    for batch in (1, 3):
        arrays = case.arrays(batch)
        assert_same(apply(model, arrays), apply(expected_model, arrays), 1e-5)
    unknown = (None,) * len(case.input_shape)
    assert tuple(tf.TensorShape(model.output_shape)) == case.computed_shape(layer, *unknown)
    if not case.extra:
        sizes = tuple(n + 1 for n in case.input_shape[:-1])
        other = dataclasses.replace(case, input_shape=(*sizes, case.input_shape[-1]))
        y = apply(model, other.arrays(2))
        assert y.shape == other.computed_shape(layer, 2)


def graph(case: LayerCase) -> None:
    """Traced, the layer gives what it gives eagerly."""
    model = case.randomized_model()
    arrays = case.arrays(2)
    traced = tf.function(lambda *inputs: model(list(inputs), training=False))
    y = traced(*(tf.convert_to_tensor(array) for array in arrays.values()))
    assert_same(y, apply(model, arrays), 1e-5)


def implementations(case: LayerCase) -> None:
    """Native and portable ops give the same outputs and gradients."""
    results, inputs = _outputs_and_gradients(case)
    native = results(*inputs)
    with tfconv.portable():
        portable = results(*inputs)
    for actual, expected in zip(native, portable):
        assert_same(actual, expected, 1e-9)


def xla(case: LayerCase) -> None:
    """Compiled by XLA for an unknown batch, outputs and gradients are what they are eagerly."""
    assert getattr(case.layer(), "supports_jit", True), "the layer has supports_jit = False"
    results, inputs = _outputs_and_gradients(case)
    signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs]
    compiled = tf.function(results, input_signature=signature, jit_compile=True)
    # Of Keras's layers, some compute in float32 whatever they are given.
    tolerance = 1e-9 if case.layer_class.__module__.startswith("tfconv.") else 1e-6
    for actual, expected in zip(compiled(*inputs), results(*inputs)):
        assert_same(actual, expected, tolerance)


def _outputs_and_gradients(case: LayerCase) -> tuple[Callable[..., Any], list[tf.Tensor]]:
    """A function of a model's inputs, in float64, and inputs for it."""
    model = case.model(case.layer(dtype="float64"))
    randomize(model)

    def results(*inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.convert_to_tensor(model(list(inputs) if len(inputs) > 1 else inputs[0]))
            loss = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(loss, [*inputs, *model.trainable_weights])]

    return results, [tf.convert_to_tensor(array, tf.float64) for array in case.arrays(2).values()]


def tensorflow_lite(case: LayerCase) -> None:
    """Plain conversion gives builtin operators only, and the same outputs.

    Two inputs on one interpreter: a converter may take what depends on the input for a
    constant. Two batch sizes: it may take the batch for one.
    """
    model = case.randomized_model()
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    custom = tflite_file.read(content).custom_counts
    assert not custom, custom
    interpreter = Interpreter(model_content=content)
    for batch, seed in ((1, 0), (1, 1), (3, 2)):
        arrays = case.arrays(batch, seed)
        details = {_input_name(d["name"]): d["index"] for d in interpreter.get_input_details()}
        assert sorted(details) == sorted(arrays)
        if (batch, seed) != (1, 1):
            for name, index in details.items():
                interpreter.resize_tensor_input(index, arrays[name].shape)
            interpreter.allocate_tensors()
        for name, index in details.items():
            interpreter.set_tensor(index, arrays[name])
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        assert_same(interpreter.get_tensor(output["index"]), apply(model, arrays))


def saved_model(case: LayerCase) -> None:
    """An exported model holds stock operations only, takes any batch, and gives the same."""
    model = case.randomized_model()
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder)
        ours = sorted(op for op in saved_operations(folder) if op.startswith(NATIVE_PREFIX))
        assert not ours, ours
        signature = tf.saved_model.load(folder).signatures["serving_default"]
        names = [_input_name(name) for name in signature.structured_input_signature[1]]
        assert sorted(names) == sorted(case.shapes)
        for batch in (1, 3):
            arrays = case.arrays(batch)
            (y,) = signature(**{name: tf.constant(a) for name, a in arrays.items()}).values()
            assert_same(y, apply(model, arrays))


@dataclasses.dataclass(frozen=True)
class Check:
    """A check of layers.

    Attributes:
        run: Runs it on a case; raises an error that says what is wrong.
        applies: Whether a case has what is checked.
    """

    run: Callable[[LayerCase], None]
    applies: Callable[[LayerCase], bool] = lambda case: True

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")

    @property
    def description(self) -> str:
        return self.run.__doc__.partition("\n")[0]

    def __call__(self, case: LayerCase) -> None:
        """Runs the check where it applies; an AssertionError tells the case and what is wrong."""
        if not self.applies(case):
            return
        try:
            self.run(case)
        except Exception as error:
            raise AssertionError(
                f"check `{self.name}` failed for {case}: {type(error).__name__}: {error}"
            ) from error


CHECKS: tuple[Check, ...] = (
    Check(output_shape),
    Check(configuration),
    Check(files),
    Check(frozen, lambda case: case.has_weights),
    Check(checkpoint, lambda case: case.has_weights),
    Check(training, lambda case: case.has_weights),
    Check(mixed_precision),
    Check(data_formats, lambda case: "data_format" in case.layer().get_config()),
    Check(unknown_sizes, lambda case: case.any_size),
    Check(graph),
    Check(implementations, lambda case: tfconv.native_status().in_force == "native"),
    Check(xla),
    Check(tensorflow_lite, lambda case: _CONVERTS_KERAS),
    Check(saved_model),
)


def layer_case(
    layer_class: type,
    input_shape: Sequence[int],
    *,
    extra: Mapping[str, Sequence[int]] | None = None,
    as_list: bool = False,
    any_size: bool = True,
    **kwargs: Any,
) -> LayerCase:
    """A `LayerCase`, the arguments of the layer's constructor among its own."""
    extra = {name: tuple(shape) for name, shape in (extra or {}).items()}
    return LayerCase(layer_class, tuple(input_shape), kwargs, extra, as_list, any_size)


def check_layer(
    layer_class: type,
    input_shape: Sequence[int],
    *,
    extra: Mapping[str, Sequence[int]] | None = None,
    as_list: bool = False,
    any_size: bool = True,
    **kwargs: Any,
) -> None:
    """Takes a layer through all `CHECKS`; the error says which of them failed, and how.

    Args:
        layer_class: The layer's class.
        input_shape: Channels-last shape of its input, without the batch.
        extra: Shapes of further call arguments by name, without the batch.
        as_list: Whether the layer takes its input and the further ones as one list.
        any_size: Whether the layer takes inputs of any spatial size, once built.
        **kwargs: Arguments of the layer's constructor.
    """
    case = layer_case(
        layer_class, input_shape, extra=extra, as_list=as_list, any_size=any_size, **kwargs
    )
    for check in CHECKS:
        check(case)


def check_keeps_native(layer_class: type, input_shape: Sequence[int], **kwargs: Any) -> None:
    """Within `tfconv.keep_native()`, an exported model keeps the native ops and works."""
    case = layer_case(layer_class, input_shape, **kwargs)
    model = case.randomized_model()
    with tempfile.TemporaryDirectory() as folder:
        with tfconv.keep_native():
            model.export(folder)
        assert any(op.startswith(NATIVE_PREFIX) for op in saved_operations(folder))
        arrays = case.arrays(2)
        signature = tf.saved_model.load(folder).signatures["serving_default"]
        (y,) = signature(**{name: tf.constant(a) for name, a in arrays.items()}).values()
        assert_same(y, apply(model, arrays))


# Files.


def saved_operations(folder: str) -> set[str]:
    """Types of all operations in a SavedModel, functions included."""
    return set(inspection.inspect(folder).operations)


def _input_name(name: str) -> str:
    """The name given to an input: "x" of "serving_default_x:0" and of "x"."""
    return name.split(":")[0].removeprefix("serving_default_")
