"""Trains a small model under a distribution strategy and prints its losses as JSON.

A program of its own, since devices are set up before anything runs:

    python -m tests.distributed_training one | mirrored | worker

A worker finds its cluster in the environment variable TF_CONFIG.
"""

import json
import os
import sys

import numpy as np
import tensorflow as tf

import tfconv
from tfconv._compat import keras

BATCH = 8


def network():
    """Layers whose results do not depend on how a batch is divided: no batch statistics."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            tfconv.CondConv2D(8, 3, padding="same", num_experts=2, activation="relu"),
            tfconv.DeformableConv2D(8, 3, padding="same", activation="relu"),
            tfconv.DynamicConv2D(8, 3, padding="same", num_kernels=2, activation="relu"),
            tfconv.GroupConv2D(8, 3, padding="same", groups=2, activation="relu"),
            tfconv.SqueezeExcite(ratio=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


def losses(strategy):
    """Losses of three epochs over 32 images, and the weights' mean square at their end."""
    with strategy.scope():
        model = network()
        values = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(values.normal(0, 0.2, weight.shape))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
    x = values.normal(size=(32, 8, 8, 3)).astype(np.float32)
    y = values.integers(0, 4, 32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    options = tf.data.Options()
    # Each worker takes its part of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    history = model.fit(data.with_options(options), epochs=3, verbose=0).history
    weights = float(np.mean([np.mean(np.square(w)) for w in model.trainable_weights]))
    return [*map(float, history["loss"]), weights]


def main():
    how = sys.argv[1]
    if how == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
    elif how == "worker":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        assert strategy.num_replicas_in_sync == len(
            json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
        )
    else:
        strategy = tf.distribute.get_strategy()
    print(json.dumps({"native": tfconv.native_status().in_force, "losses": losses(strategy)}))


if __name__ == "__main__":
    main()
