"""Trains a small model under a distribution strategy and prints its losses as JSON.

A program of its own, since devices are set up before anything runs:

    python -m tests.distributed_training (one | mirrored | worker) (fit | loop)

With "loop" it trains in a loop of its own instead of `fit`. A worker finds its cluster in the
environment variable TF_CONFIG.
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
            tfconv.DynamicConv2D(8, 3, padding="same", num_experts=2, activation="relu"),
            tfconv.GroupConv2D(8, 3, padding="same", groups=2, activation="relu"),
            tfconv.SqueezeExcite(reduction_ratio=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


def losses(strategy, loop):
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
    data = data.with_options(options)
    if loop:
        found = epochs_of_own_loop(strategy, model, data)
    else:
        found = model.fit(data, epochs=3, verbose=0).history["loss"]
    weights = float(np.mean([np.mean(np.square(w)) for w in model.trainable_weights]))
    return [*map(float, found), weights]


def epochs_of_own_loop(strategy, model, data):
    """The mean loss of each of three epochs, without `fit`."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            # Of this replica's part; summed over the replicas it is the batch's mean.
            value = tf.reduce_sum(loss(y, model(x, training=True))) / BATCH
        weights = model.trainable_variables
        model.optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
        return value

    @tf.function
    def step(x, y):
        return strategy.reduce("SUM", strategy.run(replica_step, (x, y)), axis=None)

    parts = strategy.experimental_distribute_dataset(data)
    return [np.mean([step(*batch).numpy() for batch in parts]) for _ in range(3)]


def moving_averages(strategy):
    """Those of Involution's normalization, 2 before an image that the last replica gets."""
    with strategy.scope():
        layer = tfconv.Involution2D(3, group_channels=2, kernel_initializer="ones")
        layer.build((None, 8, 8, 4))
    averages = layer.normalization.moving_mean, layer.normalization.moving_variance
    for average in averages:
        average.assign(np.full(average.shape, 2.0))
    image = np.random.default_rng(0).random((1, 8, 8, 4)).astype(np.float32)

    def part(context):
        last = context.replica_id_in_sync_group == context.num_replicas_in_sync - 1
        return tf.constant(image if last else image[:0])

    @tf.function
    def step(x):
        def run(x):
            layer(tf.ensure_shape(x, [None, 8, 8, 4]), training=True)

        strategy.run(run, args=(x,))

    step(strategy.experimental_distribute_values_from_function(part))
    return [np.asarray(average).tolist() for average in averages]


def main():
    how, loop = sys.argv[1:]
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
    found = {"native": tfconv.native_status().in_force, "losses": losses(strategy, loop == "loop")}
    if how != "worker":
        found["averages"] = moving_averages(strategy)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
