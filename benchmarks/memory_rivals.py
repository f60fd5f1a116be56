"""TensorFlow's rivals in a process where the allocator counts memory exactly."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from benchmarks import tensorflow_rivals


class Engine(tensorflow_rivals.Engine):
    """As `tensorflow_rivals.Engine`, with memory to measure instead of time."""

    def __init__(self, threads: int):
        super().__init__(threads)
        # TensorFlow's allocator hands out the best of its free pieces, and counts the piece even
        # if it is twice as large as what was asked for. From one large piece it cuts what is
        # needed. These 4 GiB are never touched, so they take no memory.
        tf.raw_ops.Empty(shape=[2**30], dtype=tf.float32)

    @staticmethod
    def extra_bytes(run: Callable[[], list[tf.Tensor]]) -> int:
        """The most memory that a call holds at any time beside its inputs and outputs.

        As TensorFlow's allocator counts it, which all of tfconv's memory comes from: the peak,
        less what is still held when the call has returned.
        """
        run()
        tf.config.experimental.reset_memory_stats("CPU:0")
        outputs = run()
        info = tf.config.experimental.get_memory_info("CPU:0")
        del outputs
        return info["peak"] - info["current"]
