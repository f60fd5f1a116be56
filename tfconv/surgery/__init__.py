"""Changes to whole models: their weights taken from PyTorch's checkpoints."""

from tfconv.surgery.torch_weights import LoadReport, load_torch_weights

__all__ = ["LoadReport", "load_torch_weights"]
