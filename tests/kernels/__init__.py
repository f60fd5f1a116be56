"""Tests of the numeric kernels on their own, without TensorFlow."""
