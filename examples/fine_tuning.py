# %% [markdown]
# # Fine-tuning with frozen layers
#
# A network that has learned one task learns another from few images: first a new classifier on
# frozen features, then the last layers too, more slowly. The first task here is to tell the digits
# 0 to 6 apart, the second one 7, 8 and 9 with three images of each; a network that starts from
# nothing stands beside it. It learns more slowly, but such images are easy: in the end it comes
# close, and which is ahead then depends on the three images.
#
# With ImageNet's weights it goes the same way; they are fetched from the hub:
#
#     base = tfconv.models.MobileNetV3Small(
#         include_top=False, pooling="avg", weights="imagenet", input_shape=(224, 224, 3)
#     )

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from tensorflow import keras

import tfconv
from tfconv import blocks

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
FIRST = 7  # digits of the first task
EPOCHS, FEW = (1, 2) if QUICK else (15, 3)  # images of each digit of the second task
keras.utils.set_random_seed(0)

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
first = np.flatnonzero(labels < FIRST)
first, first_held_out = first[:900], first[900:]
few = np.concatenate([np.flatnonzero(labels == digit)[:FEW] for digit in range(FIRST, 10)])
held_out = np.setdiff1d(np.flatnonzero(labels >= FIRST), few)
if QUICK:
    first, first_held_out, held_out = first[:32], first_held_out[:32], held_out[:32]
print(f"{len(first)} images of the first task, {len(few)} of the second")


# %% [markdown]
# ## A network
#
# Convolutions, a deformable one and experts, by `tfconv.blocks`; any model without its
# classifier does.


# %%
def features():
    """A model from digits to 64 features."""
    inputs = keras.Input((8, 8, 1))
    x = blocks.conv_norm(inputs, 16, 3, names=("stem", "stem_norm"))
    x = blocks.conv_norm(x, 32, 3, names=("middle", "middle_norm"))
    x = tfconv.DeformableConv2D(
        32, 3, strides=2, padding="same", activation="relu", name="deformable"
    )(x)
    x = tfconv.CondConv2D(64, 3, padding="same", num_experts=4, activation="relu", name="last")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="features")


def classifier(base, classes):
    """It, with classes; called with training=False, normalizations keep their averages."""
    inputs = keras.Input((8, 8, 1))
    x = base(inputs, training=False) if not base.trainable else base(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes, name="classes")(x))


def train(model, chosen, tested, rate, epochs):
    """Accuracy on what is held out of a task, after every epoch."""
    task_begins = labels[chosen].min()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    found = model.fit(
        images[chosen],
        labels[chosen] - task_begins,
        batch_size=16,
        epochs=epochs,
        validation_data=(images[tested], labels[tested] - task_begins),
        verbose=0,
    ).history
    weights = sum(int(np.prod(each.shape)) for each in model.trainable_weights)
    print(
        f"  {weights:,} weights trained: {found['val_accuracy'][-1]:.1%} of what is held out right"
    )
    return found["val_accuracy"]


# %% [markdown]
# ## The first task

# %%
print("first task")
base = features()
train(classifier(base, FIRST), first, first_held_out, 3e-3, EPOCHS)
base.save(OUTPUT / "features.keras")

# %% [markdown]
# ## The second one
#
# `trainable` counts when the model is compiled, so it is compiled again. A frozen normalization
# keeps its averages: few images would ruin them.

# %%
print("second task: the classifier, on frozen features")
base = keras.models.load_model(OUTPUT / "features.keras")
base.trainable = False
model = classifier(base, 10 - FIRST)
tuned = train(model, few, held_out, 3e-2, 2 * EPOCHS)

print("second task: the last two layers as well, more slowly")
base.trainable = True
for layer in base.layers:
    layer.trainable = layer.name in ("deformable", "last")
tuned += train(model, few, held_out, 4e-3, 2 * EPOCHS)

print("second task: from nothing")
scratch = train(classifier(features(), 10 - FIRST), few, held_out, 3e-3, 4 * EPOCHS)

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.plot(tuned, label="fine-tuned")
axes.plot(scratch, label="from nothing")
axes.axvline(2 * EPOCHS, color="gray", linestyle=":")
axes.text(2 * EPOCHS, axes.get_ylim()[0], " last layers too", color="gray", va="bottom")
axes.set(xlabel="epoch", ylabel="accuracy held out", title=f"{FEW} images of each digit")
axes.legend()
figure.savefig(OUTPUT / "fine_tuning.png", dpi=120)
