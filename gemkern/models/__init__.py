"""The paper's networks, and the demo's small one: plain PyTorch modules, built by name."""

from gemkern.models.pretrained import load_weights
from gemkern.models.registry import NAMES, build

__all__ = ["NAMES", "build", "load_weights"]
