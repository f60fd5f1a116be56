"""Tests of tfconv: they mirror the package's folders."""
