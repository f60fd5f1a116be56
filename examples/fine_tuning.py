# %% [markdown]
# # Fine-tuning with frozen layers
#
# A network that has learned one task learns another from few images: first a new classifier on
# frozen features, then the last layers too, slowly. The first task here is to tell the digits 0
# to 4 apart, the second one 5 to 9 with a few images of each; a network that starts from
# nothing stands beside it.
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
EPOCHS, FEW = (1, 4) if QUICK else (15, 8)  # images of each class of the second task
keras.utils.set_random_seed(0)

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
first, second = np.flatnonzero(labels < 5), np.flatnonzero(labels >= 5)
few = np.concatenate([np.flatnonzero(labels == digit)[:FEW] for digit in range(5, 10)])
rest = np.setdiff1d(second, few)
if QUICK:
    first, rest = first[:32], rest[:32]
print(f"{len(first)} images of the first task, {len(few)} of the second, {len(rest)} held out")


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
    x = blocks.conv_norm(x, 32, 3, 2, names=("middle", "middle_norm"))
    x = tfconv.DeformableConv2D(32, 3, padding="same", activation="relu", name="deformable")(x)
    x = tfconv.CondConv2D(64, 3, padding="same", num_experts=4, activation="relu", name="last")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="features")


def classifier(base):
    """It, with five classes; in a call with training=False, normalizations keep their averages."""
    inputs = keras.Input((8, 8, 1))
    x = base(inputs, training=False) if not base.trainable else base(inputs)
    return keras.Model(inputs, keras.layers.Dense(5, name="classes")(x))


def train(model, chosen, rate, epochs):
    """Accuracy on what is held out of the second task, after every epoch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    held_out = (images[rest], labels[rest] % 5)
    found = model.fit(
        images[chosen],
        labels[chosen] % 5,
        batch_size=16,
        epochs=epochs,
        validation_data=held_out,
        verbose=0,
    ).history
    print(f"  {len(model.trainable_weights)} weights trained: {found['val_accuracy'][-1]:.1%}")
    return found["val_accuracy"]


# %% [markdown]
# ## The first task

# %%
print("first task")
base = features()
train(classifier(base), first, 3e-3, EPOCHS)
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
model = classifier(base)
tuned = train(model, few, 1e-2, 2 * EPOCHS)

print("second task: the last two layers as well, slowly")
base.trainable = True
for layer in base.layers:
    layer.trainable = layer.name in ("deformable", "last")
tuned += train(model, few, 1e-3, 2 * EPOCHS)

print("second task: from nothing")
scratch = train(classifier(features()), few, 3e-3, 4 * EPOCHS)

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.plot(tuned, label="fine-tuned")
axes.plot(scratch, label="from nothing")
axes.axvline(2 * EPOCHS, color="gray", linestyle=":")
axes.text(2 * EPOCHS, axes.get_ylim()[0], " last layers too", color="gray", va="bottom")
axes.set(xlabel="epoch", ylabel="accuracy held out", title=f"{FEW} images of each digit")
axes.legend()
figure.savefig(OUTPUT / "fine_tuning.png", dpi=120)
