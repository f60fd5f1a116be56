"""The reader of TensorFlow Lite models."""

import doctest
import random
from types import SimpleNamespace

import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras
from tfconv.export import rewriting, tflite_file
from tfconv.testing.checks import Interpreter


@pytest.fixture(scope="module")
def model():
    """Layers in layers, one that is called twice, some that are fused, names with numbers."""
    x = keras.Input((8, 7, 4), name="image")
    again = keras.layers.Conv2D(4, 1, name="again")
    y = again(again(tfconv.Involution2D(3, group_channels=2, name="involution")(x)))
    inside = [
        keras.layers.Conv2D(6, 3, name="conv"),
        tfconv.SqueezeExcite(reduction_ratio=2, name="gate"),
    ]
    y = keras.Sequential(inside, name="block")(y)
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = keras.layers.Flatten(name="flat")(keras.layers.ReLU(name="relu")(y))
    return keras.Model(x, keras.layers.Dense(32, activation="softmax", name="flat_1")(y))


@pytest.fixture(scope="module")
def content(model):
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


@pytest.fixture(scope="module")
def file(content, model):
    return tflite_file.read(content, model)


def test_what_the_interpreter_says(content, file):
    """Tensors, inputs, outputs and signatures are those that the interpreter finds."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    found = {tensor.name: tensor for tensor in file.tensors}
    for details in interpreter.get_tensor_details():
        # The interpreter has tensors of its own, which have no name.
        if details["name"]:
            tensor = found.pop(details["name"])
            shape = tuple(None if n < 0 else n for n in details["shape_signature"])
            assert tensor.shape == shape
            assert tensor.type == tf.as_dtype(details["dtype"]).name.upper()
            if tensor.is_constant:
                data = interpreter.get_tensor(details["index"])
                assert tensor.size == data.nbytes
    assert not found
    for tensors, details in (
        (file.inputs, interpreter.get_input_details()),
        (file.outputs, interpreter.get_output_details()),
    ):
        assert [tensor.name for tensor in tensors] == [d["name"] for d in details]
    expected = interpreter.get_signature_list()
    assert set(file.signatures) == set(expected) == {"serving_default"}
    (signature,) = file.signatures.values()
    assert list(signature.inputs) == expected["serving_default"]["inputs"] == ["image"]
    assert list(signature.outputs) == expected["serving_default"]["outputs"]
    assert tuple(signature.inputs.values()) == file.inputs
    assert tuple(signature.outputs.values()) == file.outputs


def test_operators(file):
    assert sum(file.operator_counts.values()) == len(file.operators)
    assert file.operator_counts["CONV_2D"] == len(ORIGINS)
    assert file.operator_counts["SOFTMAX"] == 1
    assert file.custom_counts == {}
    assert file.operators[0].inputs[0] == file.inputs[0]
    assert file.operators[-1].outputs == file.outputs
    last = [operator for operator in file.operators if operator.name == "FULLY_CONNECTED"][-1]
    assert last.inputs[2] is None  # the bias, which is zero
    counts = list(file.operator_counts.values())
    assert counts == sorted(counts, reverse=True)


# An involution has a product for each of its taps.
ORIGINS = ["involution/reduce", *["involution"] * 9, "again", "again", "block/conv"]


def test_origins(file):
    convolutions = [op.origin for op in file.operators if op.name == "CONV_2D"]
    assert convolutions == ORIGINS
    origins = {operator.origin for operator in file.operators}
    layers = {"involution", "block/gate/squeeze", "block/gate/excite", "flat", "flat_1", *ORIGINS}
    assert layers <= origins
    assert origins - layers <= {"block/gate", "norm", "relu"}
    assert {op.origin for op in file.operators if op.name == "SOFTMAX"} == {"flat_1"}


def test_origins_by_the_names_of_tensors(content, file):
    """Without the model, only a second call of a layer looks like a layer of its own."""
    for with_model, without in zip(file.operators, tflite_file.read(content).operators):
        assert without.origin in (with_model.origin, f"{with_model.origin}_1")


def test_sizes(content, file, model):
    shares = file.shares
    assert file.size == len(content)
    assert sum(share.operators for share in shares.values()) == len(file.operators)
    assert sum(share.size for share in shares.values()) == sum(file.size_by_type.values())
    # The weights of the layer that is called twice are there once.
    assert sum(file.size_by_type.values()) < 4 * model.count_params() + 1000
    head = model.get_layer("flat_1").count_params() * 4
    assert head - 4 * 32 <= shares["flat_1"].size <= head
    kernel, bias = model.get_layer("again").get_weights()
    assert shares["again"].size == kernel.nbytes  # its bias is zeros, which the involution has, too
    assert bias.nbytes == 16


@pytest.mark.dear
@pytest.mark.parametrize("types, expected", [([tf.float16], "FLOAT16"), ([], "INT8")])
def test_quantized(model, types, expected):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = types
    file = tflite_file.read(converter.convert(), model)
    largest, *_ = file.size_by_type
    assert largest == expected
    head = model.get_layer("flat_1").count_params()
    size = file.size_by_type[expected]
    assert size >= (head - 32) * (2 if types else 1)
    assert file.shares["flat_1"].size >= size / 2


def test_custom_operators():
    layer, head = tfconv.Involution2D(3, groups=2), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((6, 6, 4)), layer, keras.layers.Flatten(), head])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.allow_custom_ops = True
    with tfconv.keep_native():
        file = tflite_file.read(converter.convert(), model)
    assert file.custom_counts == {"Tfconv>Involution": 1}
    (custom,) = (operator for operator in file.operators if operator.is_custom)
    assert custom.origin == layer.name
    assert file.operators[-1].origin == head.name


def test_damaged(content):
    """However a file is cut off, that is what the error says."""
    for length in [*range(8, len(content), 997), *range(len(content) - 64, len(content))]:
        with pytest.raises(ValueError, match="damaged .* Received: "):
            tflite_file.read(content[:length])


def test_broken(content):
    """Whatever stands in a file, nothing but a ValueError comes out."""
    numbers = random.Random(0)
    for _ in range(100):
        changed = bytearray(content)
        for _ in range(3):
            changed[numbers.randrange(8, len(content))] = numbers.randrange(256)
        try:
            tflite_file.read(bytes(changed))
        except ValueError as error:
            assert "Received: " in str(error)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 is a zip file, a .keras one perhaps"])
def test_something_else(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(ValueError, match="must be a TensorFlow Lite model. Received: "):
            tflite_file.read(source)


def test_missing_file(tmp_path, content):
    path = tmp_path / "model.tflite"
    with pytest.raises(OSError):
        tflite_file.read(path)
    path.write_bytes(content)
    assert tflite_file.read(path) == tflite_file.read(content)


def test_example():
    assert doctest.testmod(tflite_file, extraglobs={"tf": tf}) == (0, 6)


@pytest.mark.parametrize(
    "operators, outputs, expected",
    [
        # Inputs and outputs of each: of two branches, the first that is needed comes whole.
        ([([0], [1]), ([0], [2]), ([1], [3]), ([2], [4]), ([4, 3], [5])], [5], [1, 3, 0, 2, 4]),
        ([([0], [1]), ([1, -1], [2])], [2], [0, 1]),  # an input that is left out
        ([([1], [2]), ([0], [1])], [2], [1, 0]),
        ([([0], [1]), ([0], [2])], [2], [1, 0]),  # what nobody needs comes last
        ([([2], [3]), ([1], None), ([0], [2])], [3], [0, 1, 2]),  # one acts: as they are
        ([([0], [1]), ([0], [-1])], [1], [0, 1]),
        ([([0], [1])], None, [0]),
        (None, [0], []),
    ],
    ids=str,
)
def test_order_of_use(operators, outputs, expected):
    made = operators and [SimpleNamespace(inputs=i, outputs=o) for i, o in operators]
    graph = SimpleNamespace(operators=made, outputs=outputs)
    assert rewriting._by_use(graph) == expected


def test_order_of_use_is_kept(content):
    """The converter's is another; what is computed is the same."""
    ordered = rewriting.in_order_of_use(content)
    assert ordered != content and rewriting.in_order_of_use(ordered) is ordered
    answers = []
    for each in (content, ordered):
        runner = Interpreter(model_content=each).get_signature_runner()
        (name,) = runner.get_input_details()
        (answer,) = runner(**{name: tf.sin(tf.reshape(tf.range(224.0), [1, 8, 7, 4]))}).values()
        answers.append(answer.tobytes())
    assert answers[0] == answers[1]
