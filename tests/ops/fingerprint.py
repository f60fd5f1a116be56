"""Program: runs all native ops with a number of threads, prints hashes, saves the results.

Usage: python -m tests.ops.fingerprint <threads> <results.npz>
"""

import hashlib
import json
import sys

import numpy as np
import tensorflow as tf

import tfconv
from tests.ops.geometries import gradients


def results():
    """Outputs and gradients by name: sizes large enough to be split among threads."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape)

    def involution(x, kernel):
        return tfconv.ops.involution(x, kernel, 5)

    def attention(query, key, value, bias):
        arguments = {"num_heads": 5, "bias": bias, "dilation_rate": 2, "edges": "shifted"}
        return tfconv.ops.local_attention(query, key, value, (3, 7), **arguments)

    def sample(x, offset, mask):
        return tfconv.ops.deformable_sample(x, offset, mask, kernel_size=3)

    x, mask = draw(3, 23, 29, 20), rng.uniform(size=(3, 23, 29, 18))
    offset = draw(3, 23, 29, 36) * 3
    calls = {
        "involution": (involution, [x, draw(3, 23, 29, 100)]),
        "local_attention": (attention, [x, draw(3, 23, 29, 20), draw(3, 23, 29, 15), draw(5, 21)]),
        "deformable_aggregation": (
            lambda *inputs: tfconv.ops.deformable_aggregation(*inputs, 3),
            [x, offset, mask],
        ),
        "deformable_sample": (sample, [x, offset, mask]),
        "deformable_conv2d": (
            tfconv.ops.deformable_conv2d,
            [x, offset, draw(3, 3, 10, 24) / 10, mask],
        ),
        "per_example_conv": (
            lambda x, kernels: tfconv.ops.per_example_conv(x, kernels, strides=(2, 1)),
            [x, draw(3, 3, 3, 10, 24) / 10],
        ),
    }
    found = {}
    for name, (function, inputs) in calls.items():
        for dtype in (tf.bfloat16, tf.float32, tf.float64):
            typed = [tf.cast(t, dtype) for t in inputs]
            for i, tensor in enumerate(gradients(function, typed)):
                wide = tf.cast(tensor, tf.float64).numpy()
                found[f"{name}/{dtype.name}/{'y' if i == 0 else i - 1}"] = wide
    # TensorFlow's threads take subnormal numbers of float32 for zero; these are no such numbers.
    subnormal = np.arange(1024, dtype=np.uint16).view(np.float16).reshape(1, 64, 16)
    y = tfconv.ops.involution(subnormal, np.ones((1, 64, 1), np.float16), 1)
    found["subnormal/float16/y"] = y.numpy().astype(np.float64)
    return found


def hashes(arrays):
    """Hashes of the bits of arrays, by name."""
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def main():
    threads, path = sys.argv[1:]
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    status = tfconv.native_status()
    assert status.in_force == "native", status.reason
    found = results()
    np.savez(path, **found)
    print(json.dumps({"isa": status.isa, "hashes": hashes(found)}))


if __name__ == "__main__":
    main()
