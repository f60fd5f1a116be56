# %% [markdown]
# # Image classification with RedNet26
#
# Trains a residual network of involutions on handwritten digits, as one trains any Keras model:
# `tf.data` with augmentation, mixed precision, a schedule, early stopping, checkpoints,
# TensorBoard, and a run that goes on where it was interrupted. Some minutes on two cores.

# %%
import importlib.util
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tensorflow import keras

import tfconv.models

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ  # a look at how it goes
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
SIZE, BATCH, EPOCHS = 32, 64, 1 if QUICK else 12
keras.utils.set_random_seed(0)

# %% [markdown]
# ## Numbers
#
# Under `mixed_bfloat16` layers compute in bfloat16 and keep their weights in float32; it needs
# no loss scaling, unlike `mixed_float16`. GPUs from Ampere on and processors with AVX512-BF16
# or AMX gain from it, others lose: leave this line out there.

# %%
keras.mixed_precision.set_global_policy("mixed_bfloat16")

# %% [markdown]
# ## Data
#
# The 1,797 digits of scikit-learn. A third is held out for the result at the end, which nothing
# is chosen by; of the others 200 say when to stop and which epoch was the best. Augmentation runs
# on the training images only, after the shuffle and before the batch, so that every epoch sees
# others.

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=1 / 3, stratify=labels, random_state=0
)
train_x, valid_x, train_y, valid_y = train_test_split(
    train_x, train_y, test_size=200, stratify=train_y, random_state=0
)
if QUICK:
    train_x, train_y, test_x, test_y = train_x[:64], train_y[:64], test_x[:64], test_y[:64]
    valid_x, valid_y = valid_x[:32], valid_y[:32]


def prepared(image, label):
    """A digit as large as the network wants it."""
    return tf.image.resize(image, [SIZE, SIZE], "bicubic"), label


def augmented(image, label):
    """Shifted by up to an eighth, lighter or darker."""
    image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), [SIZE, SIZE, 1])
    return tf.image.random_brightness(image, 0.1), label


train = (
    tf.data.Dataset.from_tensor_slices((train_x, train_y))
    .map(prepared, num_parallel_calls=tf.data.AUTOTUNE)
    .cache()
    .shuffle(len(train_x), seed=0)
    .map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(BATCH)
    .prefetch(tf.data.AUTOTUNE)
)
valid = tf.data.Dataset.from_tensor_slices((valid_x, valid_y)).map(prepared).batch(BATCH).cache()
test = tf.data.Dataset.from_tensor_slices((test_x, test_y)).map(prepared).batch(BATCH)

# %% [markdown]
# ## Network
#
# Without its classifier, RedNet26 gives an image's features; the own one computes in float32,
# so that the loss does.

# %%
features = tfconv.models.RedNet26(
    include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 1), weights=None
)
logits = keras.layers.Dense(10, dtype="float32", name="digits")(features.output)
model = keras.Model(features.input, logits)
steps = EPOCHS * -(-len(train_x) // BATCH)
model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
print(f"{model.count_params():,} weights, policy {keras.mixed_precision.global_policy().name}")

# %% [markdown]
# ## Training
#
# Interrupt it and run it again: `BackupAndRestore` goes on with the epoch that was not done. At
# the end the weights are those of the best epoch, and `best.keras` holds them as well. With
# TensorBoard installed, `tensorboard --logdir example-output/logs` shows the curves while they
# grow.

# %%
callbacks = [
    keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=6, restore_best_weights=True
    ),
    keras.callbacks.ModelCheckpoint(
        str(OUTPUT / "best.keras"), "val_accuracy", mode="max", save_best_only=True
    ),
    keras.callbacks.BackupAndRestore(str(OUTPUT / "resume")),
]
if importlib.util.find_spec("tensorboard") and not QUICK:
    callbacks.append(keras.callbacks.TensorBoard(str(OUTPUT / "logs")))
history = model.fit(train, epochs=EPOCHS, validation_data=valid, verbose=2, callbacks=callbacks)

# %% [markdown]
# ## Result

# %%
restored = keras.models.load_model(OUTPUT / "best.keras")
scores = restored.predict(test, verbose=0)
wrong = np.flatnonzero(scores.argmax(-1) != test_y)
print(f"accuracy on {len(test_y)} digits held out: {1 - len(wrong) / len(test_y):.1%}")

figure = plt.figure(figsize=(9, 3.4), layout="constrained")
curves, grid = figure.subplots(1, 2)
epochs = np.array(history.epoch) + 1  # of a run that went on, its own
curves.plot(epochs, history.history["accuracy"], label="training")
curves.plot(epochs, history.history["val_accuracy"], label="validation")
curves.set(xlabel="epoch", ylabel="accuracy", title="RedNet26 on digits")
curves.legend()
shown = np.zeros([3 * 8, 6 * 8])
for place, number in enumerate(wrong[:18]):
    row, column = divmod(place, 6)
    shown[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = test_x[number, ..., 0]
grid.imshow(shown, cmap="gray")
grid.set(xticks=[], yticks=[], title=f"{len(wrong)} mistakes among {len(test_y)} held out")
figure.savefig(OUTPUT / "image_classification.png", dpi=120)
