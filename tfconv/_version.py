"""The version of tfconv: its single place."""

__version__ = "0.1.0"
