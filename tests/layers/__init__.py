"""Tests of tfconv.layers."""
