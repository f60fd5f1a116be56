# %% [markdown]
# # Segmentation with deformable and gated layers
#
# Which pixels belong to which digit? Digits lie on noise, often over one another. The network goes
# down by strided gated convolutions, looks around by deformable ones and comes up again by
# transposed ones.

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
SIZE, CLASSES = 32, 11  # the last class is the background
COUNT, EPOCHS = (16, 1) if QUICK else (1500, 8)
keras.utils.set_random_seed(0)

# %%
digits, names = load_digits(return_X_y=True)
digits = np.kron(digits.reshape(-1, 8, 8), np.ones([1, 2, 2])) / 16  # 16x16


def scenes(count, chosen, seed):
    """Pictures [count, SIZE, SIZE, 1] of two digits each, and the class of every pixel."""
    rng = np.random.default_rng(seed)
    pictures = 0.3 * rng.random([count, SIZE, SIZE])
    classes = np.full([count, SIZE, SIZE], CLASSES - 1)
    for picture, labels in zip(pictures, classes):
        for number in rng.choice(chosen, 2):
            top, left = rng.integers(0, SIZE - 16, 2)
            there = (slice(top, top + 16), slice(left, left + 16))
            inside = digits[number] > 0.3
            picture[there][inside] = digits[number][inside]
            labels[there][inside] = names[number]
    return pictures[..., None].astype(np.float32), classes


order = np.random.default_rng(0).permutation(len(digits))
train_x, train_y = scenes(COUNT, order[:1200], 1)
test_x, test_y = scenes(max(8, COUNT // 5), order[1200:], 2)


# %% [markdown]
# ## Network
#
# `gate="feature"` learns for every pixel what passes. Gates halve what they let through at
# first, so normalizations follow: without them this network learns hardly more than where digits
# are. The deformable layers have masks. `upsampled` is a transposed convolution that starts as
# bilinear interpolation, so training begins with sensible pictures.


# %%
def gated(x, filters, strides=1):
    """A gated convolution, normalized."""
    layer = tfconv.GatedConv2D(
        filters, 3, strides=strides, padding="same", gate="feature", use_bias=False
    )
    return keras.layers.BatchNormalization(momentum=0.9)(layer(x))


inputs = keras.Input((SIZE, SIZE, 1))
fine = gated(inputs, 16)
half = gated(fine, 32, strides=2)
deep = gated(half, 48, strides=2)
for _ in range(2):
    moved = tfconv.DeformableConv2D(48, 3, padding="same", use_bias=False)(deep)
    moved = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(moved))
    deep = keras.layers.Add()([deep, moved])
up = keras.layers.Concatenate()([blocks.upsampled(deep, 48, 2), half])
up = gated(up, 32)
up = keras.layers.Concatenate()([blocks.upsampled(up, 32, 2), fine])
up = gated(up, 16)
model = keras.Model(inputs, tfconv.PointwiseConv2D(CLASSES)(up))
model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, EPOCHS * -(-COUNT // 16))),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train_x, train_y, 16, EPOCHS, verbose=2, validation_data=(test_x, test_y))

# %% [markdown]
# ## Overlap
#
# Accuracy counts the background, of which there is most; intersection over union does not.

# %%
said = model.predict(test_x, verbose=0).argmax(-1)
overlaps = []
for digit in range(CLASSES - 1):
    both = np.sum((said == digit) & (test_y == digit))
    overlaps.append(both / max(1, np.sum((said == digit) | (test_y == digit))))
print("overlap of each digit:", " ".join(f"{each:.2f}" for each in overlaps))
print(f"mean overlap of digits held out: {np.mean(overlaps):.3f}")

# %%
figure, axes = plt.subplots(3, 4, figsize=(8, 6), layout="constrained")
for column in range(4):
    axes[0, column].imshow(test_x[column, ..., 0], cmap="gray")
    for row, classes in ((1, test_y), (2, said)):
        axes[row, column].imshow(classes[column], cmap="tab20", vmin=0, vmax=CLASSES - 1)
for axis, title in zip(axes[:, 0], ("picture", "truth", "network")):
    axis.set_ylabel(title)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig(OUTPUT / "segmentation.png", dpi=120)
