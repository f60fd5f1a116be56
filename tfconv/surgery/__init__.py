"""Changes to whole models: layers replaced, normalizations folded, weights taken from PyTorch."""

from tfconv.surgery.folding import Folded, fold_batchnorm
from tfconv.surgery.replacing import Replaced, replace
from tfconv.surgery.torch_weights import LoadReport, load_torch_weights

__all__ = ["Folded", "LoadReport", "Replaced", "fold_batchnorm", "load_torch_weights", "replace"]
