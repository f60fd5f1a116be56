"""Tests of tfconv.blocks."""
