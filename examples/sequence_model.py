# %% [markdown]
# # A sequence model: whose code is this?
#
# From 160 characters of Python's own library, a network tells which package they are from. It
# knows the files of none that it is asked about. Causal gated convolutions that are dilated
# more and more read the text, experts chosen by the whole of it (DynamicConv1D) and attention
# to the neighbourhood follow.

# %%
import importlib
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from tensorflow import keras

import tfconv

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
LENGTH = 160
COUNT, EPOCHS = (32, 1) if QUICK else (6000, 12)
PACKAGES = ("asyncio", "email", "encodings", "json", "multiprocessing", "unittest", "xml")
keras.utils.set_random_seed(0)


# %% [markdown]
# ## Text
#
# A third of every package's files is held out. The license and what else all files share is not
# removed: some excerpts cannot be told apart.


# %%
def excerpts(count, held_out, seed):
    """[count, LENGTH] bytes, and the numbers of their packages."""
    rng = np.random.default_rng(seed)
    texts = []
    for package in PACKAGES:
        folder = Path(importlib.import_module(package).__file__).parent
        files = sorted(path for path in folder.rglob("*.py") if path.stat().st_size > LENGTH)
        chosen = [path for number, path in enumerate(files) if (number % 3 == 0) == held_out]
        texts.append(b"\n".join(path.read_bytes() for path in chosen))
    y = rng.integers(0, len(PACKAGES), count)
    begins = [rng.integers(0, len(texts[package]) - LENGTH) for package in y]
    x = [list(texts[package][begin : begin + LENGTH]) for package, begin in zip(y, begins)]
    return np.minimum(np.array(x, np.int32), 127), y


train_x, train_y = excerpts(COUNT, False, 1)
test_x, test_y = excerpts(max(32, COUNT // 5), True, 2)
print("an excerpt:", repr(bytes(train_x[0].astype(np.uint8))[:70].decode()))

# %% [markdown]
# ## Network
#
# `padding="causal"` lets a position see itself and what was before; with dilations 1, 2, 4, 8
# and five taps that is 61 characters. The DynamicConv1D attends to the whole text, so behind it
# nothing is causal any more: for a model that writes text, leave it out and give the attention
# `causal=True`.

# %%
inputs = keras.Input((LENGTH,), dtype="int32")
x = keras.layers.Embedding(128, 32)(inputs)
for dilation in (1, 2, 4, 8):
    gated = tfconv.GatedConv1D(32, 5, padding="causal", dilation_rate=dilation)(x)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, gated]))
x = keras.layers.MaxPooling1D(4)(x)
x = tfconv.DynamicConv1D(64, 3, padding="same", num_experts=4, activation="relu")(x)
attended = tfconv.LocalSelfAttention1D(64, 9, num_heads=4)(x)
x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attended]))
x = keras.layers.Dropout(0.3)(keras.layers.GlobalMaxPooling1D()(x))
model = keras.Model(inputs, keras.layers.Dense(len(PACKAGES))(x))
model.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(
    train_x, train_y, 64, EPOCHS, verbose=2, validation_data=(test_x, test_y)
).history

# %%
said = model.predict(test_x, verbose=0).argmax(-1)
table = np.zeros([len(PACKAGES)] * 2, int)
np.add.at(table, (test_y, said), 1)
print(
    f"accuracy on files held out: {np.mean(said == test_y):.1%}; guessing: {1 / len(PACKAGES):.1%}"
)

figure, (curves, confusion) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
curves.plot(history["accuracy"], label="training")
curves.plot(history["val_accuracy"], label="files held out")
curves.set(xlabel="epoch", ylabel="accuracy")
curves.legend()
confusion.imshow(table / np.maximum(1, table.sum(1, keepdims=True)), cmap="Blues")
confusion.set_xticks(range(len(PACKAGES)), PACKAGES, rotation=45, ha="right")
confusion.set_yticks(range(len(PACKAGES)), PACKAGES)
confusion.set(xlabel="the network says", ylabel="the package")
figure.savefig(OUTPUT / "sequence_model.png", dpi=120)
