"""Masked layers in place of PyTorch's, and the conversion of whole models."""

from gemkern.nn.accelerate import accelerate, acceleration, large_enough, pays, runs_sparse
from gemkern.nn.compression import decelerate, is_accelerated
from gemkern.nn.convert import Report, convert, unconvert, why_not_masked
from gemkern.nn.layers import MaskedConv2d, MaskedLinear
from gemkern.nn.memory import keep_freed_memory

__all__ = [
    "MaskedConv2d",
    "MaskedLinear",
    "Report",
    "accelerate",
    "acceleration",
    "convert",
    "decelerate",
    "is_accelerated",
    "keep_freed_memory",
    "large_enough",
    "pays",
    "runs_sparse",
    "unconvert",
    "why_not_masked",
]
