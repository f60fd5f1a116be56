"""Changes to whole models: layers replaced, factorized, folded; weights taken from PyTorch."""

from tfconv.surgery.factorize_report import FactorizedLayer, FactorizeReport
from tfconv.surgery.factorizing import factorize
from tfconv.surgery.folding import Folded, fold_batchnorm
from tfconv.surgery.replacing import Replaced, replace
from tfconv.surgery.torch_weights import LoadReport, load_torch_weights

__all__ = [
    "FactorizeReport",
    "FactorizedLayer",
    "Folded",
    "LoadReport",
    "Replaced",
    "factorize",
    "fold_batchnorm",
    "load_torch_weights",
    "replace",
]
