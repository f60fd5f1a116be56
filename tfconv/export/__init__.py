"""Models that leave Python, and what is in their files."""

from tfconv.export.errors import ExportError
from tfconv.export.onnx import OnnxReport, to_onnx
from tfconv.export.saved_model import SavedModelReport, to_saved_model
from tfconv.export.tflite import to_tflite
from tfconv.export.tflite_report import TFLiteReport

__all__ = [
    "ExportError",
    "OnnxReport",
    "SavedModelReport",
    "TFLiteReport",
    "to_onnx",
    "to_saved_model",
    "to_tflite",
]
