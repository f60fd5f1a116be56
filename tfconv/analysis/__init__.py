"""The arithmetic of layers and models: weights, multiply-adds, memory, receptive fields.

`profile` counts, `compare` puts variants side by side, and `rule` says what a layer of one's own
costs. `docs/analysis.md` defines what is counted.
"""

from tfconv.analysis import rules as _rules  # noqa: F401  (registers them)
from tfconv.analysis.comparing import Comparison, compare
from tfconv.analysis.cost import Cost, rule
from tfconv.analysis.profiling import profile
from tfconv.analysis.receptive_field import Field
from tfconv.analysis.result import Profile, Row

__all__ = ["Comparison", "Cost", "Field", "Profile", "Row", "compare", "profile", "rule"]
