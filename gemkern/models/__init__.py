"""The paper's networks, and the demo's small one: plain PyTorch modules, built by name."""

from gemkern.models.registry import NAMES, build

__all__ = ["NAMES", "build"]
