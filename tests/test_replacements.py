"""Which layers can stand in for which."""

import pytest
import tensorflow as tf

import tfconv
from tfconv._compat import keras


def names(layer):
    return [replacement.layer_class.__name__ for replacement in tfconv.replacements(layer)]


@pytest.mark.parametrize(
    "layer, there, not_there",
    [
        ("Conv1D", {"DeformableConv1D", "Involution1D", "SelfAttention1D"}, {"CondConv2D"}),
        ("Conv2D", {"DeformableConv2D", "LocalSelfAttention2D", "LocallyConnected2D"}, {"Dense"}),
        ("Conv3D", {"DynamicConv3D", "SelfAttention3D"}, {"CondConv2D", "DepthwiseCondConv2D"}),
        ("DepthwiseConv2D", {"DepthwiseCondConv2D", "Involution2D"}, {"CondConv2D"}),
        ("Dense", {"CondDense"}, {"CondConv2D"}),
    ],
)
def test_classes(layer, there, not_there):
    found = names(getattr(keras.layers, layer))
    assert there <= set(found)
    assert not not_there & set(found)
    assert set(found) <= set(tfconv.layers.__all__)


@pytest.mark.parametrize("name", ["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"])
def test_transposed_convolutions_are_none(name):
    """In Keras 2 they are subclasses of convolutions."""
    assert set(names(getattr(keras.layers, name))) <= {name}


@pytest.mark.parametrize(
    "layer, name, expected",
    [
        (lambda: keras.layers.Conv2D(4, 3, padding="same"), "SelfAttention2D", True),
        (lambda: keras.layers.Conv2D(4, 3), "SelfAttention2D", False),
        (lambda: keras.layers.Conv2D(4, 3, 2, padding="same"), "LocalSelfAttention2D", False),
        (lambda: keras.layers.DepthwiseConv2D(3), "Involution2D", True),
        (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2), "Involution2D", False),
    ],
)
def test_arguments_rule_some_out(layer, name, expected):
    assert (name in names(layer())) is expected


def test_layers_without_groups_are_not_offered_for_grouped_convolutions():
    found = names(keras.layers.Conv2D(4, 3, groups=2, padding="same"))
    assert not {"SelfAttention2D", "LocalSelfAttention2D", "Involution2D"} & set(found)
    assert "GroupConv2D" in found


def test_own_subclasses():
    class Mine(keras.layers.Conv2D):
        pass

    assert names(Mine(3, 3)) == names(keras.layers.Conv2D(3, 3))


@pytest.mark.parametrize("layer", ["Conv2D", "DepthwiseConv2D", "Dense"])
def test_replacements_work(layer):
    """Each takes the place of the layer and gives an output of its shape."""
    x = tf.ones([2, 6, 6, 16])
    arguments = {
        "Conv2D": {"filters": 16, "kernel_size": 3, "padding": "same"},
        "DepthwiseConv2D": {"kernel_size": 3, "padding": "same"},
        "Dense": {"units": 16},
    }[layer]
    special = {
        "Involution2D": {"kernel_size": 3},
        "DeformableAggregation2D": {"kernel_size": 3, "filters": 16},
        "SelfAttention2D": {"num_heads": 2, "key_dim": 4},
        "LocalSelfAttention2D": {"filters": 16, "kernel_size": 3},
        "GroupConv2D": {**arguments, "groups": 2},
    }
    theirs = getattr(keras.layers, layer)(**arguments)
    found = tfconv.replacements(theirs)
    assert found
    for replacement in found:
        ours = replacement.layer_class
        if ours.__name__ in ("LowRankConv2D", "TuckerConv2D"):
            continue  # their ranks are a choice
        y = ours(**special.get(ours.__name__, arguments))(x)
        assert y.shape == theirs(x).shape, replacement


def test_reads_well():
    (replacement,) = (
        r for r in tfconv.replacements(keras.layers.Conv2D) if "Involution" in repr(r)
    )
    assert repr(replacement) == (
        "Involution2D: a kernel for each position, made from the input there "
        "(if it has no groups and as many filters as channels)"
    )


@pytest.mark.parametrize("layer", [keras.layers.Flatten, "Conv2D", None, tf.nn.conv2d])
def test_others_are_refused(layer):
    with pytest.raises(ValueError, match="`layer`.*Received: "):
        tfconv.replacements(layer)
