"""Changes to whole models: their weights taken from PyTorch's checkpoints."""

from tfconv.surgery.factorize_report import FactorizedLayer, FactorizeReport
from tfconv.surgery.factorizing import factorize
from tfconv.surgery.torch_weights import LoadReport, load_torch_weights

__all__ = ["FactorizeReport", "FactorizedLayer", "LoadReport", "factorize", "load_torch_weights"]
