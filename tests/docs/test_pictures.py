"""The pictures: there is one a family, what they show is so, and the files are of today."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from docs import drawing


def family(name):
    """ "Conv2DTranspose" is of the family "conv_transpose"."""
    name = re.sub("[123]D", "", name)
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


def of(layer, shape, *names):
    """The connections of a layer built with random weights, and the layer."""
    rng = np.random.default_rng(1)
    layer(tf.zeros([1, *shape], tf.float64))
    for name in names:
        variable = getattr(layer, name)
        variable.assign(rng.normal(size=variable.shape))
    variables = {name: getattr(layer, name) for name in names}
    return drawing.connections(layer, shape, variables), layer


def test_every_family_has_a_picture():
    families = {family(name) for name in tfconv.layers.__all__}
    others = {"conv_paddings", "conv_dilation", "structures", "deformable_volume", "views"}
    assert set(drawing.pictures()) == families | others
    assert set(drawing.tiles()) == families


FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
NAMES = sorted([*drawing.pictures(), *(f"tiles/{name}" for name in drawing.tiles())])


def test_files():
    """What is drawn is in the repository, and nothing else; all of it is small."""
    files = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.svg")}
    assert files == set(NAMES)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.svg")) < 3 * 2**20


def parts(svg):
    """An SVG's words, and its numbers and colours, which rounding may change a little."""
    svg = re.sub(r"\b[a-z][0-9a-f]{10}\b", "id", svg)  # hashes of what they name
    number = r"(#[0-9a-f]{6}\b|-?\d+(?:\.\d+)?)"
    words, values = re.split(number, svg)[::2], []
    for each in re.findall(number, svg):
        if each[0] == "#":
            values += [int(each[i : i + 2], 16) / 50 for i in (1, 3, 5)]
        else:
            values.append(float(each))
    return words, np.array(values)


@pytest.mark.dear
@pytest.mark.parametrize("name", NAMES)
def test_drawing(name, tmp_path):
    """Drawing compares stages and held values with the layer, and fails where they differ; what it

    draws is what the repository has.
    """
    (path,) = drawing.draw(tmp_path, [name])
    svg = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    shapes = root.findall(".//{http://www.w3.org/2000/svg}path")
    assert len(shapes) > 10  # without what is drawn, there is paper only
    (words, values), (kept, drawn) = parts(svg), parts((FOLDER / f"{name}.svg").read_text("utf-8"))
    assert words == kept, f"{name} has changed: `make pages`"
    np.testing.assert_allclose(values, drawn, atol=0.1, err_msg=f"{name}: `make pages`")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strides": 2, "padding": "same"},
        {"dilation_rate": 2, "padding": "full"},
        {"groups": 2, "padding": "causal"},
    ],
)
def test_convolution(arguments):
    connected, layer = of(tfconv.Conv1D(4, 3, dtype="float64", **arguments), (6, 2), "kernel")
    matrix = tfconv.ops.conv_matrix(layer.kernel, (6, 2), **arguments).numpy()
    np.testing.assert_allclose(connected.matrix, matrix, rtol=1e-12)
    np.testing.assert_array_equal(connected.connected, matrix != 0)
    kernel = layer.kernel.numpy()
    for output, source in np.argwhere(matrix != 0):
        ((name, index),) = connected.makers(output, source)
        assert name == "kernel"
        assert index[2] == output % 4
        assert kernel[index] == pytest.approx(matrix[output, source])
    assert np.array_equal(connected.made_by.any(-1), matrix != 0)
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)  # as it was


def test_convolutions_share_weights_and_locally_connected_layers_do_not():
    shared, _ = of(tfconv.Conv1D(2, 3, dtype="float64"), (6, 2), "kernel")
    own, _ = of(tfconv.LocallyConnected1D(2, 3, dtype="float64"), (6, 2), "kernel")
    np.testing.assert_array_equal(shared.connected, own.connected)
    assert (shared.made_by.sum((0, 1)) == 4).all()  # once for each of four positions
    assert (own.made_by.sum((0, 1)) == 1).all()


def test_depthwise_convolution_keeps_channels_apart():
    connected, _ = of(tfconv.DepthwiseConv1D(3, dtype="float64"), (6, 3), "depthwise_kernel")
    outputs, inputs = np.nonzero(connected.connected)
    assert len(outputs) == 4 * 3 * 3
    np.testing.assert_array_equal(outputs % 3, inputs % 3)


def test_separable_convolution_is_made_by_two_weights_each():
    layer = tfconv.SeparableConv1D(2, 3, dtype="float64")
    connected, _ = of(layer, (6, 2), "depthwise_kernel", "pointwise_kernel")
    for output, source in np.argwhere(connected.connected):
        names = [name for name, _ in connected.makers(output, source)]
        assert names == ["depthwise_kernel", "pointwise_kernel"]


def test_shuffle_is_a_permutation():
    connected = drawing.connections(tfconv.ChannelShuffle(2, dtype="float64"), (2, 6))
    assert set(np.unique(connected.matrix)) == {0, 1}
    assert (connected.matrix.sum(0) == 1).all() and (connected.matrix.sum(1) == 1).all()
    assert not np.array_equal(connected.matrix, np.eye(12))
    assert connected.makers(0, 0) == []


def test_colours_are_one_for_each_weight():
    connected, _ = of(tfconv.Conv1D(2, 3, dtype="float64"), (6, 2), "kernel")
    palette = drawing.Palette.of(connected.weights)
    assert set(palette.colours) == set(connected.weights)
    assert len(set(palette.colours.values())) == 12
    hues = {weight: palette.hue_of(weight) for weight in connected.weights}
    assert len(set(hues.values())) == 3  # one a tap
