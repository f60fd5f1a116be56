# %% [markdown]
# # Replacing layers of a Keras network, and training on
#
# A MobileNet of `keras.applications` is trained on digits. Then its last 1x1 convolutions
# become mixtures of experts (CondConv), which start with the kernels that are there: the new
# model gives what the old one gave, and goes on from there. The same training of the model as
# it was stands beside it.

# %%
import functools
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tensorflow import keras

import tfconv
import tfconv.surgery

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
EPOCHS = 1 if QUICK else 12
keras.utils.set_random_seed(0)

# %%
images, labels = load_digits(return_X_y=True)
images = np.kron(images.reshape(-1, 8, 8, 1), np.ones([1, 4, 4, 1])).astype(np.float32) / 16
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=1 / 3, stratify=labels, random_state=0
)
if QUICK:
    train_x, train_y, test_x, test_y = train_x[:32], train_y[:32], test_x[:32], test_y[:32]


def train(model, rate):
    """Accuracy on what is held out, after every epoch."""
    loss = keras.losses.SparseCategoricalCrossentropy()
    schedule = keras.optimizers.schedules.CosineDecay(rate, EPOCHS * -(-len(train_x) // 64))
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    held_out = (test_x, test_y)
    found = model.fit(train_x, train_y, 64, EPOCHS, verbose=2, validation_data=held_out)
    return found.history["val_accuracy"]


# %%
model = keras.applications.MobileNet(
    alpha=0.25, weights=None, classes=10, input_shape=(32, 32, 1), dropout=0.1
)
if QUICK:  # the first few blocks only
    middle = model.get_layer("conv_pw_3_relu").output
    top = keras.layers.Dense(10, "softmax")(keras.layers.GlobalAveragePooling2D()(middle))
    model = keras.Model(model.input, top)
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.9  # its averages are of the last hundreds of batches: here are few
before = train(model, 4e-3)

# %% [markdown]
# ## Replace
#
# A rule names layers and what comes in their place; `report` says what became of each kernel.

# %%
experts = functools.partial(tfconv.CondConv2D, num_experts=4)
rules = {"conv_pw_3" if QUICK else "conv_pw_1[0-3]": experts}
mixed = tfconv.surgery.replace(model, rules, report=print)
apart = np.abs(mixed.predict(test_x, verbose=0) - model.predict(test_x, verbose=0)).max()
print(f"largest difference of the probabilities: {apart:.1e}")
assert apart < 1e-4
print(f"{model.count_params():,} weights, {mixed.count_params():,} with experts")

# %% [markdown]
# ## Train on
#
# Nothing is lost in the exchange, and little is to be gained here: the network knows its 1,198
# images nearly by heart when the experts come. They are for networks that are too small for their
# data; whether they gain on yours, the model that is trained on beside them tells.

# %%
plain = train(keras.models.clone_model(model) if QUICK else model, 1e-3)
after = train(mixed, 1e-3)
print(f"held out: {before[-1]:.1%} before, {plain[-1]:.1%} as it is, {after[-1]:.1%} with experts")

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.plot(range(EPOCHS), before, color="gray", label="MobileNet")
for name, curve in (("trained on as it is", plain), ("with experts", after)):
    axes.plot(range(EPOCHS - 1, 2 * EPOCHS), before[-1:] + curve, label=name)
axes.set(xlabel="epoch", ylabel="accuracy held out", title="Four 1x1 convolutions replaced")
axes.legend()
figure.savefig(OUTPUT / "replacing_layers.png", dpi=120)
