"""The peers need PyTorch, torchvision and timm; where they are missing, nothing is collected."""

import importlib.util

PACKAGES = ("torch", "torchvision", "timm")
collect_ignore = []
if any(importlib.util.find_spec(package) is None for package in PACKAGES):
    collect_ignore.append("test_peers.py")
