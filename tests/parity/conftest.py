"""Imports PyTorch before TensorFlow: the other way round, some of its builds end the process.

So the peers take part only where tests/conftest.py is left out, by `--confcutdir=tests/parity`.
"""

import sys

collect_ignore = []
if "tensorflow" in sys.modules:
    collect_ignore += ["test_authors.py", "test_peers.py"]
else:
    import timm  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401
