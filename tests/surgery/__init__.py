"""Tests of tfconv.surgery."""
