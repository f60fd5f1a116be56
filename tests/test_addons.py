"""tfconv's layers beside and inside those of TensorFlow Addons."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

import tfconv
from tfconv._compat import keras


def data():
    """Images of two classes: a bright upper or a bright left half."""
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = rng.normal(0, 0.3, (32, 8, 8, 1)).astype(np.float32)
    images[labels == 0, :4] += 1
    images[labels == 1, :, :4] += 1
    return images, labels


def mixed_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            tfa.layers.InstanceNormalization(),
            tfa.layers.WeightNormalization(tfconv.DeformableConv2D(8, 3, padding="same")),
            tfa.layers.GroupNormalization(groups=2),
            keras.layers.Activation(tfa.activations.mish),
            tfa.layers.SpectralNormalization(
                tfconv.DeformableConv2D(8, 3, strides=2, padding="same")
            ),
            tfconv.Involution2D(3, groups=2),
            tfconv.CondConv2D(8, 3, padding="same", num_experts=2),
            tfconv.SqueezeExcite(reduction_ratio=2),
            tfa.layers.AdaptiveAveragePooling2D(2),
            keras.layers.Flatten(),
            tfa.layers.Maxout(4),
            tfconv.CondDense(2, num_experts=2),
        ]
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: tfa.optimizers.LAMB(0.02),
        lambda: tfa.optimizers.AdamW(weight_decay=1e-4, learning_rate=0.01),
    ],
    ids=["LAMB", "AdamW"],
)
def test_training(optimizer, native_module):
    images, labels = data()
    model = mixed_model()
    model.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(images, labels, batch_size=8, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0], losses


def test_weight_normalization_keeps_the_norms():
    layer = tfa.layers.WeightNormalization(tfconv.DeformableConv2D(4, 3), data_init=False)
    layer(tf.ones([1, 6, 6, 2]))
    layer.g.assign([1.0, 2.0, 3.0, 4.0])
    layer(tf.ones([1, 6, 6, 2]))
    norms = tf.norm(tf.reshape(layer.layer.kernel, [-1, 4]), axis=0)
    np.testing.assert_allclose(norms, [1.0, 2.0, 3.0, 4.0], rtol=1e-5)


def test_spectral_normalization_bounds_the_kernel():
    layer = tfa.layers.SpectralNormalization(
        tfconv.DeformableConv2D(4, 3, kernel_initializer="ones"), power_iterations=20
    )
    layer(tf.ones([1, 6, 6, 2]), training=True)
    norm = tf.linalg.svd(tf.reshape(layer.layer.kernel, [-1, 4]), compute_uv=False)[0]
    np.testing.assert_allclose(norm, 1.0, rtol=1e-3)


def test_gradients_flow_through_both(native_module):
    model = mixed_model()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(data()[0], training=True) ** 2)
    for variable, gradient in zip(
        model.trainable_weights, tape.gradient(loss, model.trainable_weights)
    ):
        assert gradient is not None, variable.name
        assert np.isfinite(gradient).all(), variable.name
