"""Masked layers in place of PyTorch's, and the conversion of whole models."""

from gemkern.nn.accelerate import (
    ANY_DENSITY,
    Policy,
    accelerate,
    acceleration,
    form_of,
    restore_form,
    take_form,
    why_left,
)
from gemkern.nn.activations import plain
from gemkern.nn.compression import check_form_may_change, decelerate, is_accelerated
from gemkern.nn.convert import Report, convert, mask_zeros, unconvert, why_not_masked
from gemkern.nn.layers import MaskedConv2d, MaskedLinear
from gemkern.nn.memory import keep_freed_memory

__all__ = [
    "ANY_DENSITY",
    "MaskedConv2d",
    "MaskedLinear",
    "Policy",
    "Report",
    "accelerate",
    "acceleration",
    "check_form_may_change",
    "convert",
    "decelerate",
    "form_of",
    "is_accelerated",
    "keep_freed_memory",
    "mask_zeros",
    "plain",
    "restore_form",
    "take_form",
    "unconvert",
    "why_left",
    "why_not_masked",
]
