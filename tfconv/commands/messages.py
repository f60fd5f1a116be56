"""What commands say when they fail, and what others are kept from saying."""

from __future__ import annotations

import sys


def fail(what: str, error: object) -> int:
    """Says what failed and why; returns the exit status."""
    print(f"tfconv: {what}\n{error}", file=sys.stderr)
    return 1


def quiet_tensorflow() -> None:
    """No warnings from TensorFlow's Python; tfconv's own still come."""
    import logging

    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)
