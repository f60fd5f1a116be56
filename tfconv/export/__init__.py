"""Models that leave Python: SavedModels for TF Serving."""

from tfconv.export.saved_model import SavedModelReport, to_saved_model

__all__ = ["SavedModelReport", "to_saved_model"]
