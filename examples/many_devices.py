# %% [markdown]
# # Experts on many devices
#
# A network with CondConv is trained on one device, on two replicas of a MirroredStrategy, and
# by two workers of a MultiWorkerMirroredStrategy, which are two processes on this machine. All
# see the same batches from the same weights, so all losses are the same, but for the order of
# sums. With many machines little changes: what, is said at the end.

# %%
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The program that every process runs
#
# Devices are set up before anything runs and workers have to be processes of their own, hence a
# file. Weights are made inside of `strategy.scope()`. The loop is one's own: Keras 3 cannot
# `fit` under a MultiWorkerMirroredStrategy, whatever the layers, and under the others it can.

# %%
PROGRAM = """
import json
import sys

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from tensorflow import keras

import tfconv

how, epochs = sys.argv[1], int(sys.argv[2])
BATCH = 64  # of all replicas together
if how == "mirrored":  # on a machine with GPUs: tf.distribute.MirroredStrategy(), and no more
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
elif how == "worker":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
else:
    strategy = tf.distribute.get_strategy()

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
data = tf.data.Dataset.from_tensor_slices((images[:1280], labels[:1280])).batch(BATCH)
options = tf.data.Options()  # each worker takes its part of every batch
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
parts = strategy.experimental_distribute_dataset(data.with_options(options))

keras.utils.set_random_seed(0)  # the same weights everywhere
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            tfconv.CondConv2D(16, 3, padding="same", num_experts=4, activation="relu"),
            tfconv.CondConv2D(
                32, 3, strides=2, padding="same", num_experts=4, activation="relu"
            ),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    optimizer = keras.optimizers.Adam(5e-3)
    optimizer.build(model.trainable_variables)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


def replica_step(x, y):
    with tf.GradientTape() as tape:
        # Of this replica's part; summed over the replicas it is the batch's mean.
        value = tf.reduce_sum(loss(y, model(x, training=True))) / BATCH
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value


@tf.function
def step(x, y):
    return strategy.reduce("SUM", strategy.run(replica_step, (x, y)), axis=None)


losses = []
for epoch in range(epochs):
    losses.append(float(np.mean([step(*batch).numpy() for batch in parts])))
print(json.dumps(losses))
"""
program = OUTPUT / "many_devices_program.py"
program.write_text(PROGRAM)
EPOCHS = 1 if QUICK else 15


def start(name, how, **variables):
    """Starts the program; what TensorFlow says goes into a file."""
    with open(OUTPUT / f"many_devices_{name.replace(' ', '_')}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, str(program), how, str(EPOCHS)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **variables},
        )


def losses_of(name, process):
    """What it prints at its end."""
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{name} failed: {OUTPUT} has its log")
    losses = json.loads(printed.splitlines()[-1])
    print(f"{name:13}", " ".join(f"{each:.3f}" for each in losses), flush=True)
    return losses


# %% [markdown]
# ## One device, two replicas, two workers
#
# A worker finds the others by the environment variable TF_CONFIG: all addresses, and which one
# it is.

# %%
with ExitStack() as stack:  # two ports that are free
    sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
print(f"the loss after each of {EPOCHS} epochs")
found = {}
for name, how in () if QUICK else (("one device", "one"), ("two replicas", "mirrored")):
    found[name] = losses_of(name, start(name, how))
running = {
    name: start(
        name,
        "worker",
        TF_CONFIG=json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        ),
    )
    for index, name in enumerate(("first worker", "second worker"))
}
for name, process in running.items():
    found[name] = losses_of(name, process)
first, *others = found.values()
for other in others:
    np.testing.assert_allclose(other, first, rtol=1e-3)
print("they are the same, but for sums in another order")

# %% [markdown]
# ## On many machines
#
# - The same program runs on each, with the same list of workers and an index of its own;
#   clusters' schedulers write TF_CONFIG themselves.
# - `BATCH` is that of all together: with more workers it is larger, and the learning rate with
#   it.
# - Each worker reads the same files and skips what is not its own (`AutoShardPolicy.DATA`);
#   with many files, `FILE` reads each one once.
# - The first worker writes checkpoints for all; the others write theirs into a folder that is
#   thrown away.
# - One worker that fails stops all: they are started again, and go on from the checkpoint.

# %%
import matplotlib.pyplot as plt  # noqa: E402

figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
for number, (name, losses) in enumerate(found.items()):
    axes.plot(losses, label=name, linewidth=8 - 2 * number, alpha=0.6)
axes.set(xlabel="epoch", ylabel="loss", title="The same losses on one device and on many")
axes.legend()
figure.savefig(OUTPUT / "many_devices.png", dpi=120)
