"""Checks of operator arguments; they read shapes, dtypes and devices, never a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gemkern.errors import GemkernError


def check_mask(where: str, weight: Tensor, scores: Tensor | None, active: Tensor) -> None:
    """Check that scores and active fit the weight of the layer that `where` names."""
    if active.dtype != torch.bool:
        raise GemkernError(f"{where}: active is {active.dtype}; give a bool tensor")
    _check_like(where, "active", active, weight)
    if scores is None:
        return
    _check_like(where, "scores", scores, weight)
    wide_enough = scores.dtype == torch.float32 or scores.dtype == weight.dtype == torch.float64
    if not wide_enough:
        raise GemkernError(
            f"{where}: scores are {scores.dtype}; keep them in float32, whatever the weight's dtype"
        )


def _check_like(where: str, name: str, tensor: Tensor, weight: Tensor) -> None:
    if tensor.shape != weight.shape:
        raise GemkernError(
            f"{where}: {name} has shape {tuple(tensor.shape)} and the weight {tuple(weight.shape)};"
            " give one entry for each weight"
        )
    if tensor.device != weight.device:
        raise GemkernError(
            f"{where}: {name} is on {tensor.device} and the weight on {weight.device}; "
            "move the whole layer to one device"
        )


def check_input(where: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Check dtypes and devices of x and bias against the weight, and the length of the bias."""
    if x.device != weight.device:
        raise GemkernError(
            f"{where}: x is on {x.device} and the weight on {weight.device}; move one to the other"
        )
    if x.dtype != weight.dtype:
        raise GemkernError(
            f"{where}: x is {x.dtype} and the weight {weight.dtype}; convert one, or use autocast"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise GemkernError(
            f"{where}: bias has shape {tuple(bias.shape)}; give ({weight.shape[0]},), "
            "one number for each output"
        )


def check_linear(x: Tensor, weight: Tensor) -> None:
    """Check the shapes of masked_linear."""
    if weight.dim() != 2:
        raise GemkernError(
            f"masked_linear: weight has shape {tuple(weight.shape)}; give (outputs, inputs)"
        )
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise GemkernError(
            f"masked_linear: x has shape {tuple(x.shape)} and the weight {tuple(weight.shape)}; "
            f"give x with {weight.shape[1]} features in its last dimension"
        )


def check_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """Check the shapes and the geometry of masked_conv2d."""
    if weight.dim() != 4:
        raise GemkernError(
            f"masked_conv2d: weight has shape {tuple(weight.shape)}; "
            "give (outputs, inputs / groups, height, width)"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise GemkernError(
            f"masked_conv2d: {weight.shape[0]} outputs do not split into {groups} groups; "
            "give a divisor"
        )
    if x.dim() != 4 or x.shape[1] != weight.shape[1] * groups:
        raise GemkernError(
            f"masked_conv2d: x has shape {tuple(x.shape)} and the weight {tuple(weight.shape)} in "
            f"{groups} groups; give x as (batch, {weight.shape[1] * groups}, height, width)"
        )
    for name, pair, least in (("stride", stride, 1), ("padding", padding, 0),
                              ("dilation", dilation, 1)):  # fmt: skip
        if min(pair) < least:
            raise GemkernError(f"masked_conv2d: {name} is {tuple(pair)}; give at least {least}")
    for size, pad, kernel, dilate in zip(
        x.shape[2:], padding, weight.shape[2:], dilation, strict=True
    ):
        if size + 2 * pad < dilate * (kernel - 1) + 1:
            raise GemkernError(
                f"masked_conv2d: a kernel of {tuple(weight.shape[2:])} with dilation "
                f"{tuple(dilation)} is larger than the image {tuple(x.shape[2:])} with padding "
                f"{tuple(padding)}; pad more or shrink the kernel"
            )


def check_layers(where: str, **lists: Sequence[Tensor] | None) -> None:
    """Check that lists over layers have one length and, layer by layer, one shape and device."""
    given = {name: list(tensors) for name, tensors in lists.items() if tensors is not None}
    (first, reference), *others = given.items()
    for name, tensors in others:
        if len(tensors) != len(reference):
            raise GemkernError(
                f"{where}: {first} has {len(reference)} layers and {name} {len(tensors)}; "
                "give one tensor for each layer"
            )
        for i, (tensor, like) in enumerate(zip(tensors, reference, strict=True)):
            if tensor.shape != like.shape or tensor.device != like.device:
                raise GemkernError(
                    f"{where}: in layer {i}, {name} is {tuple(tensor.shape)} on {tensor.device} "
                    f"and {first} {tuple(like.shape)} on {like.device}; make them alike"
                )
    for tensor in given.get("active", ()):
        if tensor.dtype != torch.bool:
            raise GemkernError(f"{where}: active is {tensor.dtype}; give bool tensors")
