"""Tests of tfconv.ops."""
