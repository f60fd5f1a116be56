# %% [markdown]
# # To a phone, in 8-bit integers
#
# A small network is trained, converted to TensorFlow Lite in float32, in 8-bit integers and in
# a mixture, and run by the interpreter that phones have. `to_tflite` measures on images that it
# did not see what the integers cost, and refuses a file that is off.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tensorflow import keras

import tfconv
from tfconv.export import ExportError, to_tflite

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # an older TensorFlow has its own
    from tensorflow.lite import Interpreter

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
EPOCHS = 1 if QUICK else 25
KINDS = (None, "int8") if QUICK else (None, "float16", "int8", "mixed")
keras.utils.set_random_seed(0)

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=1 / 3, stratify=labels, random_state=0
)
if QUICK:
    test_x, test_y = test_x[:100], test_y[:100]

# %%
inputs = keras.Input((8, 8, 1))
x = tfconv.Conv2D(16, 3, padding="same", activation="relu")(inputs)
x = tfconv.SeparableConv2D(32, 3, strides=2, padding="same", activation="relu")(x)
x = tfconv.SqueezeExcite(reduction_ratio=4)(x)
x = tfconv.CondConv2D(48, 3, padding="same", num_experts=4, activation="relu")(x)
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
loss = keras.losses.SparseCategoricalCrossentropy()
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
model.fit(train_x, train_y, 64, EPOCHS, verbose=2, validation_data=(test_x, test_y))

# %% [markdown]
# ## Convert
#
# `representative_data` are inputs as they will come. With `io_dtype="int8"` the phone's code
# gives and takes integers, too.

# %%
sizes, accuracies, reports = {}, {}, {}
for kind in KINDS:
    path = OUTPUT / f"digits_{kind or 'float32'}.tflite"
    data = train_x[:100] if kind in ("int8", "mixed") else None
    try:
        reports[kind] = to_tflite(model, path, quantize=kind, representative_data=data)
    except ExportError as error:  # the network is not fit for these numbers, and it says where
        print(f"{kind}: {error}")
        continue
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    said = [next(iter(runner(**{name: x[None]}).values())).argmax() for x in test_x]
    sizes[kind], accuracies[kind] = path.stat().st_size / 1024, np.mean(said == test_y)
    print(f"{path}: {sizes[kind]:.0f} KB, accuracy {accuracies[kind]:.1%}")

# %% [markdown]
# ## On the phone
#
# The file holds builtin operators only. On Android, put it into the app's assets and depend on
# `com.google.ai.edge.litert:litert`; on iOS, on the pod `TensorFlowLiteSwift`. To time it on a
# phone first, with TensorFlow's benchmark tool on it:
#
#     adb push example-output/digits_int8.tflite /data/local/tmp
#     adb shell /data/local/tmp/benchmark_model --graph=/data/local/tmp/digits_int8.tflite
#
# XNNPACK, which is on by default, takes most operators; `print(reports["int8"])` says which.

# %%
if not QUICK:
    print(reports["int8"] if "int8" in reports else reports[None])
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
names = [kind or "float32" for kind in sizes]
left.bar(names, list(sizes.values()))
left.set(ylabel="KB", title="size of the file")
right.bar(names, [100 * each for each in accuracies.values()])
right.set(ylabel="% of digits held out", title="accuracy")
figure.savefig(OUTPUT / "phone.png", dpi=120)
