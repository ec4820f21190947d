"""Small networks of every structure that people give to networks, a kind of structure a file."""

from small_nets import (
    activations,
    attention,
    control,
    convolutions,
    families,
    gradients,
    norms,
    pools,
    residuals,
    structure,
)
from small_nets.registry import NETS, inputs_of

__all__ = [
    "NETS",
    "activations",
    "attention",
    "control",
    "convolutions",
    "families",
    "gradients",
    "inputs_of",
    "norms",
    "pools",
    "residuals",
    "structure",
]
