"""Masked layers in place of PyTorch's, and the conversion of whole models."""

from gemkern.nn.convert import Report, convert, unconvert
from gemkern.nn.layers import MaskedConv2d, MaskedLinear

__all__ = ["MaskedConv2d", "MaskedLinear", "Report", "convert", "unconvert"]
