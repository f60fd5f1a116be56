"""`to_tflite`: what it takes, what it gives, what it refuses, and that nothing is left behind."""

import io

import matplotlib.axes
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import tfconv
from tfconv._compat import keras
from tfconv.export import ExportError, quantization, tflite_file, to_tflite, verification
from tfconv.export.verification import Runner

SIZE = (8, 8, 4)


def network(size=SIZE):
    """Layers of both kinds, which every format treats differently."""
    x = inputs = keras.Input(size, name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    offsets = keras.initializers.RandomNormal(stddev=0.1)
    x = tfconv.DeformableConv2D(
        8, 3, padding="same", offset_initializer=offsets, name="deformable"
    )(x)
    x = tfconv.Involution2D(3, groups=2, name="involution")(x)
    x = tfconv.CondConv2D(8, 3, num_experts=2, name="experts")(x)
    x = keras.layers.GlobalMaxPooling2D()(x)  # a mean of such images is next to nothing
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(x))
    # One tap looks 60 pixels away, so that 8-bit integers leave half a pixel between the offsets
    # of the others: they ruin this layer most, whatever its weights are.
    offsets = model.get_layer("deformable").offset_bias
    offsets.assign(60 * np.eye(1, *offsets.shape)[0])
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((64, *SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def mixed(model, images):
    return to_tflite(model, quantize="mixed", representative_data=images)


def test_float(model, tmp_path):
    path = tmp_path / "model.tflite"
    report = to_tflite(model, path)
    assert path.read_bytes() == report.content
    assert report.size == path.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert report.error < report.bound < 3e-5
    assert report.random_inputs
    assert (report.inputs, report.custom_operators) == (["image"], {})
    assert report.operators["GATHER"] == 4
    assert 0 < report.milliseconds < 1e4
    assert 0 <= report.delegated_share <= 1
    if verification.RUNTIME == "LiteRT":  # the other leaves out models with slices of any size
        assert report.delegated_share > 0.3
    assert tflite_file.read(path).signatures.keys() == {"serving_default"}


@pytest.mark.parametrize("batch_size, timed", [(None, 1), (3, 3)])
def test_the_batch_that_is_timed(batch_size, timed, monkeypatch):
    monkeypatch.setattr(verification.Runner, "milliseconds", lambda self, x: len(*x.values()))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert to_tflite(model, batch_size=batch_size).milliseconds == timed


def test_share_of_xnnpack():
    """Every runtime has it, for batches of any size as well."""
    layers = [keras.layers.Conv2D(4, 3), tfconv.Conv2D(4, 3, activation="relu")]
    report = to_tflite(keras.Sequential([keras.Input(SIZE), *layers]))
    assert report.operators == {"CONV_2D": 2}
    assert report.delegated_share == 1
    assert "100% of the operators" in str(report)


def test_mixed(mixed, model, images):
    assert not mixed.random_inputs
    assert mixed.error < mixed.bound < 0.1
    assert set(mixed.layer_errors) == {"stem", "deformable", "involution", "experts", "head"}
    assert max(mixed.layer_errors.values()) < 0.04
    assert "deformable" in mixed.float_layers
    assert "stem" not in mixed.float_layers
    assert mixed.operator_types["INT8"] > 3
    assert mixed.operator_types["FLOAT32"] > 20
    (y,) = Runner(mixed.content)({"image": images[:3]}).values()
    assert verification.relative_error(y, np.asarray(model(images[:3]))) == pytest.approx(
        mixed.error, rel=3
    )


def test_int8_refuses_what_it_ruins(model, images, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_text("old")
    words = r'gives other results.*at most 0\.1 is.*The worst layer is `deformable`.*"mixed".*`tol'
    with pytest.raises(ExportError, match=words):
        to_tflite(model, path, "int8", images)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_report(mixed, tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=80)
    console.print(mixed)
    for text in (console.file.getvalue(), str(mixed)):
        assert all(word in text for word in ("GATHER", "deformable", "XNNPACK", "held-out", "ms"))
    assert mixed.as_json()["size"] == mixed.size
    picture = mixed.plot(tmp_path / "report.png")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in tmp_path.iterdir()] == ["report.png"]
    bars = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "barh", lambda axes, *given, color: bars.append(dict(zip(*given)))
    )
    mixed.plot(picture)
    assert bars == [mixed.operators, {k: 100 * e for k, e in mixed.layer_errors.items()}]


def test_dynamic_keeps_coordinates(images):
    """Offsets are made with the weights that they had, and all others are small."""
    keras.utils.set_random_seed(0)
    offsets = keras.initializers.RandomNormal(stddev=0.5)
    layer = tfconv.DeformableConv2D(64, 3, padding="same", offset_initializer=offsets)
    model = keras.Sequential([keras.Input((8, 8, 8)), layer])
    report = to_tflite(model, quantize="dynamic")
    assert report.error < 0.02
    assert report.float_layers == [layer.name]
    types = tflite_file.read(report.content).size_by_type
    assert types["INT8"] == 9 * 8 * 64
    assert types["FLOAT32"] >= 4 * 9 * 8 * 27


@pytest.mark.parametrize("kernel", ["that is shared", "that equals another"])
def test_dynamic_with_weights_of_two(images, kernel, monkeypatch):
    """Operators that read the same weights get them back, each or both of them."""
    monkeypatch.setitem(quantization.BOUNDS, "dynamic", 1e-4)
    initializer = keras.initializers.GlorotUniform(seed=0)
    layers = [
        keras.layers.Conv2D(32, 3, kernel_initializer=initializer, name=name) for name in "ab"
    ]
    layers[0].build((None, None, None, 32))
    a, b = layers if kernel == "that equals another" else layers[:1] * 2
    x = keras.Input((8, 8, 32))
    model = keras.Model(x, a(b(x)))
    a.set_weights(b.get_weights())
    report = to_tflite(model, quantize="dynamic")
    assert report.error < 1e-5
    assert report.operator_types == {"FLOAT32": 2}
    assert "INT8" not in tflite_file.read(report.content).size_by_type


@pytest.mark.dear
def test_loops_in_integers():
    """Their ranges cannot be measured, which the converter does not survive."""
    x = keras.Input((4, 3), batch_size=1)
    model = keras.Model(x, keras.layers.GRU(2)(x))
    data = np.random.default_rng(0).standard_normal((8, 4, 3)).astype(np.float32)
    with pytest.raises(ExportError, match="'int8' does not work with loops.*unroll"):
        to_tflite(model, quantize="int8", representative_data=data)
    assert to_tflite(model, quantize="dynamic").error < 0.02


class LastBits(keras.layers.Layer):
    def call(self, inputs):
        return tf.bitwise.bitwise_and(tf.cast(inputs, tf.int32), 3)


def test_what_tensorflow_lite_lacks(tmp_path):
    model = keras.Sequential([keras.Input((8,)), LastBits()])
    words = r"has no operator for: BitwiseAnd \(at .*\)\.$"
    with pytest.raises(ExportError, match=words) as raised:
        to_tflite(model, tmp_path / "model.tflite")
    assert len(str(raised.value)) < 200 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [None, "data"])
def test_models_that_give_no_numbers(images, given):
    model = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(2, 3)])
    model.layers[0].bias.assign([np.nan, 0])
    data = None if given is None else images
    inputs = "random inputs" if given is None else "`representative_data`"
    with pytest.raises(ExportError, match=f"itself gives NaN or infinity for {inputs}"):
        to_tflite(model, representative_data=data)
    assert to_tflite(model, verify=False).error is None


def test_layers_without_integer_kernels():
    layers = [keras.layers.Conv3DTranspose(4, 2, name="float"), keras.layers.Flatten()]
    head = keras.layers.Dense(32, name="head")
    model = keras.Sequential([keras.Input((4, 4, 4, 2)), *layers, head])
    data = np.random.default_rng(0).standard_normal((64, 4, 4, 4, 2)).astype(np.float32)
    report = to_tflite(model, None, "int8", data)
    assert report.float_layers == ["float"]
    assert list(report.layer_errors) == ["float", "head"]


def test_layers_within_their_bound_are_not_blamed(images, monkeypatch):
    monkeypatch.setattr(quantization, "_MODEL_BOUND", 1e-4)
    model = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(8, 3)])
    with pytest.raises(ExportError, match=r'where at most 0\.0001 is right\. quantize="mixed"'):
        to_tflite(model, None, "int8", images)


def test_sabotage_is_found(monkeypatch, tmp_path):
    """A converter that gets a layer wrong: here, one that forgets what the tracing made of it."""
    right = tfconv.Involution2D.call
    expected = {}

    def wrong(self, inputs, training=None):
        y = right(self, inputs, training)
        expected.setdefault("calls", []).append(tf.executing_eagerly())
        return y if tf.executing_eagerly() else 1.01 * y

    monkeypatch.setattr(tfconv.Involution2D, "call", wrong)
    layer = tfconv.Involution2D(3, groups=2)
    with pytest.raises(ExportError, match="gives other results.*of output `.*` is"):
        to_tflite(keras.Sequential([keras.Input(SIZE), layer]), tmp_path / "model.tflite")
    assert {True, False} <= set(expected["calls"])
    assert not list(tmp_path.iterdir())


@pytest.mark.dear
def test_worst_layer_is_named(model, monkeypatch, images):
    """A runtime that gets a layer wrong: the error names it."""
    plain = Runner.__call__

    def wrong(self, arrays):
        outputs = plain(self, arrays)
        after = "layer_2"  # of stem, deformable, involution, ...
        return {n: y * (1.5 if n in ("head", after) else 1) for n, y in outputs.items()}

    monkeypatch.setattr(Runner, "__call__", wrong)
    with pytest.raises(ExportError, match=r"The worst layer is `involution`: 0.5"):
        to_tflite(model, representative_data=images)


def several(given):
    a, b = keras.Input((6, 4), name="a"), keras.Input((3,), name="b")
    y = tfconv.Conv1D(3, 3, padding="same", name="conv")(a)
    sums = keras.layers.Add(name="sum")([keras.layers.GlobalAveragePooling1D()(y), b])
    inputs = {"b": b, "a": a} if given is dict else [a, b]
    return keras.Model(inputs, [y, sums])


@pytest.mark.parametrize("given", [list, dict])
def test_several_inputs_and_outputs(given):
    model = several(given)
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((9, 6, 4)).astype(np.float32),
        "b": rng.standard_normal((9, 3)).astype(np.float32),
    }
    for data in (arrays, lambda: (arrays for _ in range(2))):
        report = to_tflite(model, representative_data=data)
        assert sorted(report.inputs) == ["a", "b"]
        outputs = Runner(report.content)({name: x[:2] for name, x in arrays.items()})
        x = [tf.constant(arrays[name][:2]) for name in "ab"]
        expected = model(dict(zip("ab", x)) if given is dict else x)
        for y in expected:
            assert any(
                o.shape == y.shape and verification.relative_error(o, y.numpy()) < 1e-5
                for o in outputs.values()
            )


def test_subclassed(images):
    class Blocks(keras.Model):
        def __init__(self):
            super().__init__()
            self.involution = tfconv.Involution2D(3, groups=2)

        def call(self, x):
            return self.involution(x) + x

    with pytest.raises(ValueError, match="`representative_data` is needed.*one example"):
        to_tflite(Blocks())
    report = to_tflite(Blocks(), representative_data=images[:2])
    assert report.error < 1e-5


def test_any_size():
    model = network((None, None, 4))
    report = to_tflite(model)
    run = Runner(report.content)
    for size in ((1, 9, 12, 4), (2, 7, 5, 4)):
        x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
        (y,) = run({"image": x}).values()
        assert verification.relative_error(y, np.asarray(model(x))) < 1e-5


@pytest.mark.parametrize("own, given, batch", [(None, 3, 3), (None, None, None), (2, 1, 2)])
def test_batch_sizes(own, given, batch):
    """A model that takes one size only keeps it."""
    model = keras.Sequential([keras.Input(SIZE, batch_size=own), tfconv.Conv2D(8, 3)])
    report = to_tflite(model, quantize="float16", batch_size=given)
    file = tflite_file.read(report.content)
    assert file.inputs[0].shape == (batch, *SIZE)
    assert all(tensor.shape[0] == batch for tensor in file.outputs)
    assert model.input_shape[0] == own
    x = np.random.default_rng(0).standard_normal((6, *SIZE)).astype(np.float32)
    (y,) = Runner(report.content)({report.inputs[0]: x}).values()  # in turns
    expected = np.concatenate([np.asarray(model(part)) for part in np.split(x, 3)])
    assert verification.relative_error(y, expected) < 3e-3


def test_input_shape():
    model = network((None, None, 4))
    report = to_tflite(model, input_shape=(9, 12, 4))
    file = tflite_file.read(report.content)
    assert file.inputs[0].shape == (1, 9, 12, 4)
    assert not {"SHAPE", "PACK"} & set(file.operator_counts)
    for given in ({"b": (3,), "a": [6, 4]}, [(6, 4), (3,)]):
        report = to_tflite(several(list), input_shape=given)
        shapes = {n: t.shape for n, t in _signature(report).inputs.items()}
        assert shapes == {"a": (1, 6, 4), "b": (1, 3)}


def _signature(report):
    return tflite_file.read(report.content).signatures["serving_default"]


@pytest.mark.parametrize("given", [(8, 8), (8, 8, 3), (8, None, 4), 8, "big", [(8, 8, 4)] * 2, {}])
def test_input_shapes_that_do_not_fit(given):
    with pytest.raises(
        ValueError, match=r"`input_shape` must be.*\(None, None, 4\) for `image`.*R"
    ):
        to_tflite(network((None, None, 4)), input_shape=given)


def classifier():
    layers = [
        keras.layers.Conv2D(8, 3, activation="relu", name="stem"),
        tfconv.DepthwiseConv2D(3, name="depthwise"),
        keras.layers.Flatten(),
        keras.layers.Dense(5, activation="softmax", name="head"),
    ]
    return keras.Sequential([keras.Input(SIZE, name="image"), *layers])


@pytest.mark.parametrize("io_dtype", ["int8", "uint8"])
def test_integers_at_the_borders(io_dtype, images):
    model = classifier()
    report = to_tflite(model, None, "int8", images, io_dtype=io_dtype)
    file = tflite_file.read(report.content)
    assert {t.type for t in (*file.inputs, *file.outputs)} == {io_dtype.upper()}
    assert "FLOAT32" not in report.operator_types
    plain = to_tflite(model, None, "int8", images, io_dtype="float32")
    assert plain.operator_types["FLOAT32"] == 1  # the outputs' own
    kept = [op for op in plain.operators if op not in ("QUANTIZE", "DEQUANTIZE")]
    assert {op: report.operators[op] for op in kept} == {op: plain.operators[op] for op in kept}
    assert report.operators.get("QUANTIZE", 0) == (0 if io_dtype == "int8" else 2)
    assert report.error < 0.1 and not report.warnings
    (same,), (as_plain,) = (r.class_agreement.values() for r in (report, plain))
    assert 0.8 < same == pytest.approx(as_plain, abs=0.1)
    assert "same class" in str(report)
    (y,), (z,) = (Runner(r.content)({"image": images}).values() for r in (report, plain))
    np.testing.assert_allclose(y, z, atol=1e-6)
    assert y.dtype == np.float32 and 0.9 < y.sum(1).mean() < 1.1


def test_borders_that_others_read(images):
    """An input that is an output in part, one that two layers read, layers in floating point."""
    x = keras.Input((6, 6, 4), name="image")
    a = keras.layers.Conv2D(4, 3, padding="same", name="a")(x)
    b = keras.layers.Reshape((6, 6, 4))(
        keras.layers.Conv3DTranspose(1, 1)(keras.layers.Reshape((6, 6, 4, 1))(x))
    )
    wave = keras.layers.Activation(tf.sin, name="wave")(a)  # TensorFlow Lite has it in real numbers
    waves = keras.layers.Conv2D(2, 1, name="waves")(wave)
    model = keras.Model(x, [a, keras.layers.Add(name="sum")([a, x]), b, wave, waves])
    for io_dtype in ("int8", "uint8"):
        report = to_tflite(model, None, "int8", images[:, :6, :6], io_dtype=io_dtype)
        file = tflite_file.read(report.content)
        assert {t.type for t in (*file.inputs, *file.outputs)} == {io_dtype.upper()}
        assert report.error < 0.05 and report.operators["SIN"] == 1


def test_borders_without_integers(images):
    layers = [keras.layers.Reshape((8, 8, 4, 1)), keras.layers.Conv3DTranspose(2, 2)]
    model = keras.Sequential([keras.Input(SIZE), *layers])
    with pytest.raises(ExportError, match="io_dtype='int8' does not work.*no form in integers"):
        to_tflite(model, None, "int8", images, io_dtype="int8")


def test_layers_that_integers_cost_much(images, monkeypatch):
    monkeypatch.setitem(quantization.BOUNDS, "int8", 0.005)
    with pytest.warns(UserWarning, match=r'cost layers more than 0%.*`stem` .*"mixed"'):
        report = to_tflite(classifier(), quantize="int8", representative_data=images)
    assert report.warnings[0] in " ".join(str(report).split()) or "`stem`" in str(report)


def test_sixteen_bits(images):
    """What 8 bits ruin; inputs beyond those that ranges were measured on are not cut off."""
    model = keras.Sequential([keras.Input(SIZE), tfconv.Involution2D(3, groups=2, name="one")])
    report = to_tflite(model, None, "int16x8", images)
    assert report.error < 0.01 and report.operator_types["INT16"] > 20
    assert report.layer_errors["one"] < 0.01
    (y,) = Runner(report.content)({report.inputs[0]: 1.5 * images[:8]}).values()
    assert verification.relative_error(y, np.asarray(model(1.5 * images[:8]))) < 0.02


def test_layer_to_blame_where_errors_add_up(images, monkeypatch):
    """The one at which they grow most, not the last."""

    def converted(traced, samples, content, step):
        return quantization.Chosen(content, {"stem": 0.2, "involution": 0.9, "head": 0.95}, [])

    wrong = verification.Comparison({"y": 0.95}, {})
    monkeypatch.setattr(quantization, "sixteen_bits", converted)
    monkeypatch.setattr(verification, "compared", lambda *_, **__: wrong)
    model = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(3, 3)])
    with pytest.raises(ExportError, match="The worst layer is `involution`: 0.9"):
        to_tflite(model, None, "int16x8", images)


def test_tolerance(images):
    model = classifier()
    with pytest.raises(ExportError, match="at most 0.001 is right"):
        to_tflite(model, None, "int8", images, tolerance=1e-3)
    report = to_tflite(model, None, "int8", images, tolerance=0.5)
    assert report.bound == 0.5


def test_names_of_tensors(mixed):
    names = [tensor.name for tensor in tflite_file.read(mixed.content).tensors]
    assert len(set(names)) == len(names)


def test_dataset(images):
    model = keras.Sequential([keras.Input(SIZE), tfconv.Conv2D(8, 3)])
    data = tf.data.Dataset.from_tensor_slices(images).batch(10)
    report = to_tflite(model, quantize="int8", representative_data=data)
    assert report.error < 0.05
    assert not report.float_layers
    with pytest.warns(UserWarning, match="`representative_data` holds one example"):
        to_tflite(model, quantize="int8", representative_data=images[:1], verify=False)


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((0, *SIZE)), "at least one example"),
        (np.zeros((3, 8, 8, 3)), r"shape \[examples, ...\].*\(3, 8, 8, 3\)"),
        ([np.zeros((3, *SIZE))] * 2, "one array for each of the inputs.*2 arrays"),
        ((np.zeros((3, *SIZE)), np.zeros(3)), r"no labels, which `.map\(lambda x, y: x\)` drops"),
        (({"image": np.zeros((3, *SIZE))}, np.zeros(3)), "no labels"),
        (np.zeros((3, *SIZE)), "numbers as they will come.*nothing but zeros in 3 examples"),
        ({"picture": np.zeros((3, *SIZE))}, r"the inputs \['image'\]"),
        (np.full((3, *SIZE), np.nan), "finite"),
        (np.full((3, *SIZE), "a"), "numbers"),
        (7, "Received: 7"),
    ],
)
def test_bad_data(model, data, message):
    with pytest.raises(ValueError, match=f"`representative_data` needs.*{message}"):
        to_tflite(model, quantize="int8", representative_data=data)


def test_bad_arguments(model, tmp_path):
    with pytest.raises(ValueError, match="`quantize` must be one of .*Received: quantize='int4'"):
        to_tflite(model, quantize="int4")
    for quantize in ("int8", "mixed"):
        with pytest.raises(ValueError, match="`representative_data` is needed"):
            to_tflite(model, quantize=quantize)
    for batch_size in (0, -1, 1.5, True, "any"):
        with pytest.raises(ValueError, match="`batch_size` must be a positive .*Received"):
            to_tflite(model, batch_size=batch_size)
    fixed = keras.Sequential([keras.Input(SIZE, batch_size=2), tfconv.Conv2D(8, 3)])
    with pytest.raises(ValueError, match="`batch_size` must be 2, .*Received: batch_size=3"):
        to_tflite(fixed, batch_size=3)
    with pytest.raises(ValueError, match="`io_dtype` must be one of.*Received: io_dtype='int16'"):
        to_tflite(model, quantize="int8", representative_data=[0], io_dtype="int16")
    for quantize in (None, "dynamic", "mixed"):
        with pytest.raises(ValueError, match='`io_dtype` must be "float32" without'):
            to_tflite(model, quantize=quantize, representative_data=[0], io_dtype="uint8")
    for tolerance in (0, -0.1, "much", True):
        with pytest.raises(ValueError, match="`tolerance` must be a positive .*Received"):
            to_tflite(model, tolerance=tolerance)
    with pytest.raises(ValueError, match="`keep_native` works with"):
        to_tflite(model, quantize="mixed", representative_data=[0], keep_native=True)
    with pytest.raises(ValueError, match="`model` must be a Keras model"):
        to_tflite(tfconv.Conv2D(3, 3))
    with pytest.raises(ValueError, match="`path` must lie in a folder"):
        to_tflite(model, tmp_path / "missing" / "model.tflite")


def test_nothing_is_printed(model, capfd):
    to_tflite(model, verify=False)
    assert capfd.readouterr() == ("", "")
