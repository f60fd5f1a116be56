"""Tests of tfconv.models."""
