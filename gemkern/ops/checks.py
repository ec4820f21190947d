"""Checks of operator arguments; they read shapes, dtypes and devices, never a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from gemkern.errors import GemkernError

# What autocast casts: every float dtype but float64.
CASTABLE = (torch.float32, torch.bfloat16, torch.float16)
# What is computed with: PyTorch has others, of 8 bits and fewer, which it only stores.
FLOATS = (*CASTABLE, torch.float64)
# Pixels of a stride, a padding or a dilation: kernels count in 32 bits.
LARGEST_STEP = 2**15
# Pixels of a maximum's window: where it stands is kept in a byte.
LARGEST_WINDOW = 256


def autocasts(device: str) -> bool:
    """Return whether autocast is on for tensors on a `device` type."""
    return (
        torch._C._is_any_autocast_enabled()
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    )


def compute_dtype(where: str, x: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype to compute in: autocast's where it is on, else that of x and the weight."""
    device = x.device.type
    if autocasts(device) and x.dtype in CASTABLE and weight.dtype in CASTABLE:
        return torch.get_autocast_dtype(device)
    if x.dtype != weight.dtype:
        raise GemkernError(
            f"{where}: x is {x.dtype} and the weight {weight.dtype}; convert one, or use autocast"
        )
    return x.dtype


def check_layer(
    where: str,
    x: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    bias: Tensor | None,
) -> None:
    """Check that the mask and the bias fit the weight, and that x is on its device."""
    check_mask(where, weight, scores, active)
    check_device(where, "x", x, weight)
    if bias is not None:
        check_device(where, "bias", bias, weight)
        check_float(where, "bias", bias)
        if bias.shape != weight.shape[:1]:
            raise GemkernError(
                f"{where}: bias has shape {tuple(bias.shape)}; give ({weight.shape[0]},), "
                "one number for each output"
            )


def check_mask(where: str, weight: Tensor, scores: Tensor | None, active: Tensor) -> None:
    """Check that scores and active fit the weight of the layer that `where` names."""
    check_float(where, "the weight", weight)
    if active.dtype != torch.bool:
        raise GemkernError(f"{where}: active is {active.dtype}; give a bool tensor")
    _check_like(where, "active", active, weight)
    if scores is not None:
        _check_like(where, "scores", scores, weight)
        check_scores(where, scores, weight.dtype)


def check_scores(where: str, scores: Tensor, weight_dtype: torch.dtype = torch.float64) -> None:
    """Check that scores are float32, or float64 under a float64 weight."""
    wide = scores.dtype == weight_dtype == torch.float64
    if scores.dtype != torch.float32 and not wide:
        raise GemkernError(
            f"{where}: scores are {scores.dtype}; keep them in float32, whatever the weight's dtype"
        )


def check_float(where: str, name: str, tensor: Tensor) -> None:
    """Check that the tensor called `name` is of a float dtype that is computed with."""
    if tensor.dtype not in FLOATS:
        raise GemkernError(f"{where}: {name} is {tensor.dtype}; give a float dtype")


def check_changed(where: str, name: str, tensor: Tensor) -> None:
    """Check that no two entries of the tensor called `name`, which changes in place, are one."""
    if not tensor.is_contiguous() and _overlaps(tensor):
        raise GemkernError(
            f"{where}: {name} changes in place, and its entries share their memory (strides "
            f"{tensor.stride()} of {tuple(tensor.shape)}); give a clone"
        )


def _overlaps(tensor: Tensor) -> bool:
    room = 1
    for step, side in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if side == 0:
            return False
        if side > 1:
            if step < room:
                return True
            room += step * (side - 1)
    return False


def _check_like(where: str, name: str, tensor: Tensor, weight: Tensor) -> None:
    check_device(where, name, tensor, weight)
    if tensor.shape != weight.shape:
        raise GemkernError(
            f"{where}: {name} has shape {tuple(tensor.shape)} and the weight {tuple(weight.shape)};"
            " give one entry for each weight"
        )


def check_device(where: str, name: str, tensor: Tensor, weight: Tensor) -> None:
    """Check that the tensor called `name` is where the weight is."""
    if tensor.device != weight.device:
        raise GemkernError(
            f"{where}: {name} is on {tensor.device} and the weight on {weight.device}; "
            "move one to the other"
        )


def pair(value: int | Sequence[int]) -> list[int]:
    """Return an int as a pair, and what is a sequence as a list."""
    return [value, value] if isinstance(value, int) else list(value)


def check_linear(x: Tensor, shape: Sequence[int], where: str = "masked_linear") -> None:
    """Check x and the shape of the weight of the linear operator called `where`."""
    if len(shape) != 2:
        raise GemkernError(f"{where}: weight has shape {tuple(shape)}; give (outputs, inputs)")
    if x.dim() < 1 or x.shape[-1] != shape[1]:
        raise GemkernError(
            f"{where}: x has shape {tuple(x.shape)} and the weight {tuple(shape)}; "
            f"give x with {shape[1]} features in its last dimension"
        )


def check_conv2d(
    where: str,
    x: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """Check x, the shape of the weight and the geometry of the convolution called `where`."""
    if len(shape) != 4:
        raise GemkernError(
            f"{where}: weight has shape {tuple(shape)}; "
            "give (outputs, inputs / groups, height, width)"
        )
    outputs, inputs, *kernel = shape
    if min(kernel) < 1:
        raise GemkernError(f"{where}: weight has shape {tuple(shape)}; give a kernel of pixels")
    if groups < 1 or outputs % groups:
        raise GemkernError(
            f"{where}: {outputs} outputs do not split into {groups} groups; give a divisor"
        )
    if x.dim() != 4 or x.shape[1] != inputs * groups:
        raise GemkernError(
            f"{where}: x has shape {tuple(x.shape)} and the weight {tuple(shape)} in "
            f"{groups} groups; give x as (batch, {inputs * groups}, height, width)"
        )
    _check_pair(where, "stride", stride, 1)
    _check_pair(where, "padding", padding, 0)
    _check_pair(where, "dilation", dilation, 1)
    image = x.shape[2:]
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        if image[axis] + 2 * padding[axis] < reach:
            raise GemkernError(
                f"{where}: a kernel of {tuple(kernel)} with dilation "
                f"{tuple(dilation)} is larger than the image {tuple(image)} with padding "
                f"{tuple(padding)}; pad more or shrink the kernel"
            )
    if 0 in image:
        raise GemkernError(f"{where}: x has shape {tuple(x.shape)}; give images of pixels")


def check_norm(
    where: str, x: Tensor, residual: Tensor | None, named: Mapping[str, Tensor | None]
) -> None:
    """Check x [N, C, ...], its residual, and what is per channel, by name, of a norm."""
    if x.dim() < 2 or x.dtype not in FLOATS:
        raise GemkernError(
            f"{where}: x is {x.dtype} {tuple(x.shape)}; give floats (batch, channels, ...)"
        )
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise GemkernError(
            f"{where}: the residual is {residual.dtype} {tuple(residual.shape)} and x "
            f"{x.dtype} {tuple(x.shape)}; make them alike"
        )
    channels = x.shape[1:2]
    for name, tensor in named.items():
        if tensor is not None and tensor.shape != channels:
            raise GemkernError(
                f"{where}: {name} has shape {tuple(tensor.shape)}; "
                f"give ({x.shape[1]},), one number for each channel"
            )
        if tensor is not None:
            check_float(where, name, tensor)
    for name, tensor in {"the residual": residual, **named}.items():
        if tensor is not None and tensor.device != x.device:
            raise GemkernError(
                f"{where}: {name} is on {tensor.device} and x on {x.device}; move one to the other"
            )


def check_windows(
    where: str,
    x: Tensor,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
) -> tuple[list[int], list[int], list[int]]:
    """Check the windows of a pooling; return kernel, stride (None is the kernel) and padding."""
    kernel, padding = pair(kernel), pair(padding)
    stride = kernel if stride is None else pair(stride)
    check_images(where, x)
    if not _fit(kernel, stride, padding):
        raise GemkernError(
            f"{where}: kernel {tuple(kernel)}, stride {tuple(stride)} and padding "
            f"{tuple(padding)} do not fit; give a kernel of at least 1, a stride of at least 1 "
            f"and at most {LARGEST_STEP}, and a padding of at most half the kernel"
        )
    if 0 in x.shape[1:]:
        raise GemkernError(
            f"{where}: x has shape {tuple(x.shape)}; give images of at least one channel and pixel"
        )
    for axis in (0, 1):
        if x.shape[2 + axis] + 2 * padding[axis] < kernel[axis]:
            raise GemkernError(
                f"{where}: a window of {tuple(kernel)} is larger than the image "
                f"{tuple(x.shape[2:])} with padding {tuple(padding)}; shrink it"
            )
    return kernel, stride, padding


def _fit(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Return whether there are windows of a kernel, a stride and a padding: each of them a pair."""
    return all(len(one) == 2 for one in (kernel, stride, padding)) and all(
        1 <= taps <= LARGEST_STEP and 1 <= step <= LARGEST_STEP and 0 <= pad <= taps // 2
        for taps, step, pad in zip(kernel, stride, padding, strict=True)
    )


def check_images(where: str, x: Tensor) -> None:
    """Check that x is [N, C, H, W], of a float dtype."""
    if x.dim() != 4:
        raise GemkernError(
            f"{where}: x has shape {tuple(x.shape)}; give (batch, channels, height, width)"
        )
    check_float(where, "x", x)


def check_taps(where: str, kernel: Sequence[int]) -> None:
    """Check that a byte can tell the pixels of a window apart."""
    rows, columns = kernel
    if rows * columns > LARGEST_WINDOW:
        raise GemkernError(
            f"{where}: a window of {rows} x {columns} pixels is larger than the "
            f"{LARGEST_WINDOW} that a byte can tell apart; use torch.nn.functional.max_pool2d"
        )


def _check_pair(where: str, name: str, pair: Sequence[int], least: int) -> None:
    if len(pair) != 2 or min(pair) < least or max(pair) > LARGEST_STEP:
        raise GemkernError(
            f"{where}: {name} is {tuple(pair)}; give an int or a pair, at least {least} and at "
            f"most {LARGEST_STEP}"
        )


def dtypes(tensors: Iterable[Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors}


def _are_alike(lists: Sequence[Sequence[Tensor]]) -> bool:
    """Return whether there are lists of one length, of one shape in each place, on one device."""
    if any(isinstance(tensors, Tensor) for tensors in lists):
        return False
    shapes = [tensor.shape for tensor in lists[0]]
    return (
        bool(shapes)
        and all([tensor.shape for tensor in tensors] == shapes for tensors in lists[1:])
        and len({tensor.device for tensors in lists for tensor in tensors}) == 1
    )


def check_layers(where: str, **lists: Sequence[Tensor] | None) -> None:
    """Check that lists over layers have one length and one device, and layer by layer one shape.

    A list of None is not looked at; a list called `active` must be bool.
    """
    given = {name: tensors for name, tensors in lists.items() if tensors is not None}
    if _are_alike(list(given.values())) and dtypes(given.get("active", ())) <= {torch.bool}:
        return
    (first, reference), *_ = given.items()
    for name, tensors in given.items():
        if isinstance(tensors, Tensor):
            raise GemkernError(f"{where}: {name} is a tensor; give a list with one for each layer")
        if not tensors or len(tensors) != len(reference):
            raise GemkernError(
                f"{where}: {first} has {len(reference)} layers and {name} {len(tensors)}; "
                "give one tensor for each layer, and one layer at least"
            )
        for i, (tensor, like) in enumerate(zip(tensors, reference, strict=True)):
            if tensor.shape != like.shape or tensor.device != reference[0].device:
                raise GemkernError(
                    f"{where}: in layer {i}, {name} is {tuple(tensor.shape)} on {tensor.device} "
                    f"and {first} {tuple(like.shape)} on {like.device}; make them alike, all "
                    "layers on one device"
                )
    for i, tensor in enumerate(given.get("active", ())):
        if tensor.dtype != torch.bool:
            raise GemkernError(
                f"{where}: in layer {i}, active is {tensor.dtype}; give bool tensors"
            )
