"""Masked layers in place of PyTorch's, and the conversion of whole models."""

from gemkern.nn.accelerate import (
    accelerate,
    acceleration,
    form_of,
    large_enough,
    pays,
    restore_form,
    runs_sparse,
    why_never,
)
from gemkern.nn.compression import check_form_may_change, decelerate, is_accelerated
from gemkern.nn.convert import Report, convert, unconvert, why_not_masked
from gemkern.nn.layers import MaskedConv2d, MaskedLinear
from gemkern.nn.memory import keep_freed_memory

__all__ = [
    "MaskedConv2d",
    "MaskedLinear",
    "Report",
    "accelerate",
    "acceleration",
    "check_form_may_change",
    "convert",
    "decelerate",
    "form_of",
    "is_accelerated",
    "keep_freed_memory",
    "large_enough",
    "pays",
    "restore_form",
    "runs_sparse",
    "unconvert",
    "why_never",
    "why_not_masked",
]
