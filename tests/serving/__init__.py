"""Tests that exports can be served by programs that have neither tfconv nor TensorFlow's Python."""
