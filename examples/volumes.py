# %% [markdown]
# # Volumes with 3-D layers
#
# Each volume holds a bent tube and two ellipsoids that are as bright, under noise; the network
# says of every voxel whether it belongs to the tube. Of its four convolutions the two in the
# middle are plain or deformable: `DeformableConv3D` beside `Conv3D`, and beside one with more
# filters. Several seeds, each with volumes of its own, give an interval. Some minutes on two
# cores.

# %%
import math
import os
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from tensorflow import keras

import tfconv

QUICK = "TFCONV_EXAMPLE_QUICK" in os.environ
OUTPUT = Path(os.environ.get("TFCONV_EXAMPLE_OUTPUT", "example-output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
SIZES, COUNT, EPOCHS, SEEDS = ((4, 6, 6), 8, 1, 2) if QUICK else ((10, 16, 16), 128, 12, 3)
NOISE, BATCH = 0.5, 8


# %%
def volumes(count, sizes, seed, noise=NOISE):
    """[count, *sizes, 1] volumes, and 1 where the tubes are."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).astype(np.float64)
    largest = np.array(sizes) - 1.0
    along = np.linspace(0, 1, 4 * max(sizes))[:, None]
    x, tubes = np.zeros((count, *sizes), bool), np.zeros((count, *sizes), bool)
    for number in range(count):
        start, bend, end = rng.uniform(0, 1, (3, 3)) * largest
        start[-1], end[-1] = 0, largest[-1]
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        distances = ((grid[..., None, :] - curve) ** 2).sum(-1).min(-1)
        tubes[number] = distances < 1.3**2
        for centre, axes in zip(rng.uniform(0, 1, (2, 3)) * largest, rng.uniform(1.5, 4, (2, 3))):
            x[number] |= (((grid - centre) / axes) ** 2).sum(-1) < 1
    x = (x | tubes) + rng.normal(0, noise, x.shape)
    return x[..., None].astype(np.float32), tubes[..., None].astype(np.float32)


# %% [markdown]
# ## Networks

# %%
LAYERS = {
    "Conv3D": lambda: tfconv.Conv3D(8, 3, padding="same"),
    "Conv3D, 20 filters": lambda: tfconv.Conv3D(20, 3, padding="same"),
    "DeformableConv3D": lambda: tfconv.DeformableConv3D(8, 3, padding="same"),
}


def network(layer):
    """Four convolutions, the two in the middle of the kind that is compared."""
    inputs = x = keras.Input((*SIZES, 1))
    for make in (LAYERS["Conv3D"], LAYERS[layer], LAYERS[layer]):
        x = keras.layers.BatchNormalization(momentum=0.9)(make()(x))
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, tfconv.PointwiseConv3D(1)(x))


def overlap(said, tubes):
    """How much of what is a tube, or is said to be one, is both (intersection over union)."""
    return float((said & (tubes > 0)).sum() / max(1, (said | (tubes > 0)).sum()))


# %% [markdown]
# ## Training, the same for all

# %%
overlaps = {layer: [] for layer in LAYERS}
for seed in range(SEEDS):
    x, tubes = volumes(COUNT, SIZES, seed)
    held_out, truth = volumes(max(1, COUNT // 2), SIZES, 1000 + seed)
    for layer in LAYERS:
        keras.utils.set_random_seed(seed)
        model = network(layer)
        rate = keras.optimizers.schedules.CosineDecay(1e-2, EPOCHS * -(-COUNT // BATCH))
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
        begin = time.perf_counter()
        model.fit(x, tubes, batch_size=BATCH, epochs=EPOCHS, verbose=0)
        said = model.predict(held_out, batch_size=BATCH, verbose=0) > 0
        overlaps[layer].append(overlap(said, truth))
        print(
            f"seed {seed}, {layer}: {model.count_params():,} weights, "
            f"{time.perf_counter() - begin:.0f} s, overlap {overlaps[layer][-1]:.3f}",
            flush=True,
        )

# %% [markdown]
# ## Result
#
# The difference is from Conv3D with the same seed and volumes; half of an interval of 95% follows,
# by Student's t, for there are few seeds.


# %%
def interval(values):
    """Half of an interval of 95% of the mean."""
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


for layer, found in overlaps.items():
    apart = [own - other for own, other in zip(found, overlaps["Conv3D"])]
    print(
        f"{layer:20} {statistics.mean(found):.3f} ± {interval(found):.3f}, "
        f"difference {statistics.mean(apart):+.3f} ± {interval(apart):.3f}"
    )

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
places = range(len(LAYERS))
left.bar(
    places,
    [statistics.mean(found) for found in overlaps.values()],
    yerr=[interval(found) for found in overlaps.values()],
    capsize=4,
)
left.set_xticks(places, [name.replace(", ", "\n") for name in LAYERS], fontsize=8)
left.set(ylabel="overlap on volumes held out", title=f"{SEEDS} seeds")
middle.imshow(held_out[0, ..., 0].max(0), cmap="gray")
middle.set(title="a volume, the brightest along its depth", xticks=[], yticks=[])
right.imshow(truth[0, ..., 0].max(0) + said[0, ..., 0].max(0), cmap="viridis")
right.set(title="its tube, and what the network says", xticks=[], yticks=[])
figure.savefig(OUTPUT / "volumes.png", dpi=120)
