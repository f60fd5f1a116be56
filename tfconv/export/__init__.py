"""Models that leave Python, and what is in their files."""

from tfconv.export.errors import ExportError
from tfconv.export.onnx import OnnxReport, to_onnx
from tfconv.export.tflite import to_tflite
from tfconv.export.tflite_report import TFLiteReport

__all__ = ["ExportError", "OnnxReport", "TFLiteReport", "to_onnx", "to_tflite"]
