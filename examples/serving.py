# %% [markdown]
# # Serving, with batching
#
# A model goes into a folder that TensorFlow's model server reads, with its batching configured:
# requests that come at once are computed together. Here the exported model is asked as the
# server asks it, alone and in batches, to see what batching brings; then come the commands for
# the server itself.

# %%
import os
import shutil
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from tensorflow import keras

import tfconv
from tfconv.export import to_saved_model

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
EPOCHS, ROUNDS = (1, 2) if QUICK else (15, 200)
SIZES = (1, 4) if QUICK else (1, 2, 4, 8, 16, 32, 64)
keras.utils.set_random_seed(0)

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
inputs = keras.Input((8, 8, 1), name="digits")
x = tfconv.Conv2D(32, 3, padding="same", activation="relu")(inputs)
x = tfconv.Involution2D(3, group_channels=8)(x)
x = tfconv.DeformableConv2D(64, 3, strides=2, padding="same", activation="relu")(x)
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
loss = keras.losses.SparseCategoricalCrossentropy()
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
model.fit(images[:1200], labels[:1200], 64, EPOCHS, verbose=2)

# %% [markdown]
# ## Export
#
# Every call adds a version; a server that watches the folder takes it by itself.
# `max_batch_size` bounds how much is computed at once, `batch_timeout_micros` how long the
# first request waits for company.

# %%
shutil.rmtree(OUTPUT / "digits", ignore_errors=True)
report = to_saved_model(
    model, OUTPUT / "digits", batching={"max_batch_size": 32, "batch_timeout_micros": 2000}
)
print(report)
print((OUTPUT / "digits" / "batching.config").read_text())

# %% [markdown]
# ## Ask it
#
# Its ops are TensorFlow's own: neither tfconv nor Keras is needed where it runs.

# %%
served = tf.saved_model.load(str(OUTPUT / "digits" / "1")).signatures["serving_default"]
(name,) = served.structured_input_signature[1]
held_out = images[1200:]
(said,) = served(**{name: tf.constant(held_out)}).values()
np.testing.assert_allclose(said, model.predict(held_out, verbose=0), atol=1e-5)
print(f"accuracy of what is served: {np.mean(np.argmax(said, -1) == labels[1200:]):.1%}")

throughput = []
for size in SIZES:
    batch = tf.constant(held_out[:size])
    served(**{name: batch})  # the first call prepares
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        served(**{name: batch})
        times.append(time.perf_counter() - begin)
    seconds = float(np.median(times))  # other work on the machine makes some calls slow
    throughput.append(size / seconds)
    print(f"batches of {size:2}: {1e3 * seconds:.2f} ms, {throughput[-1]:,.0f} images a second")

# %% [markdown]
# ## The server
#
# With Docker, in the folder that was written: `docker compose up`. Without it:
#
#     tensorflow_model_server --rest_api_port=8501 --model_name=digits \
#         --model_base_path="$PWD/example-output/digits" --enable_batching=true \
#         --batching_parameters_file="$PWD/example-output/digits/batching.config"
#
# Ask it by `curl -d '{"instances": [...]}' localhost:8501/v1/models/digits:predict`.

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.plot(SIZES, throughput, marker="o")
axes.set(xscale="log", xlabel="images computed together", ylabel="images a second")
axes.set_xticks(SIZES, [str(size) for size in SIZES], minor=False)
axes.set_title("What batching brings")
figure.savefig(OUTPUT / "serving.png", dpi=120)
