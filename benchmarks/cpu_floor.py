"""The memory floor of a training step: the least it moves, at the rate of a copy."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cpu_timing import interleaved

READ_AND_WRITTEN = 2
OPERATORS = (nn.Conv2d, nn.Linear, nn.MaxPool2d)


class Traffic(NamedTuple):
    """Bytes that a step moves at least, and the sizes of its activations in numbers."""

    moved: int
    sizes: list[int]


@torch.no_grad()
def traffic(model: nn.Module, x: Tensor) -> Traffic:
    """Return what a training step of `model` on images x moves, counted from the shapes.

    Counted are convolutions, linear layers, poolings and batch norms. Forward, each but a norm
    reads its input and writes its output once: whoever writes an activation can measure it, and
    whoever reads it normalise it. Backward, each but a norm reads the gradient of its output once
    and writes that of its input (the first layer does not), and each but a pooling reads its input
    again: a norm's gradient needs it beside sums that are known only at its end.

    Not counted, as a step may do without: a second pass for the statistics of a batch norm or of
    its gradient; ReLUs and additions, which another operator can do on its way; the conversions of
    the layout; weights and the optimiser, a hundredth of the activations where they are sparse.
    """
    moved: list[int] = []
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        read, written = inputs[0], output.numel()
        forward = read.numel() + written
        again = 0 if isinstance(module, nn.MaxPool2d) else read.numel()
        backward = written + again + (0 if read is x else read.numel())
        moved.append(x.element_size() * (forward + backward))
        sizes.append(written)

    def note_norm(module: nn.Module, inputs: Any, output: Tensor) -> None:
        moved.append(x.element_size() * output.numel())

    hooks = []
    for module in model.modules():
        if isinstance(module, OPERATORS):
            hooks.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_hook(note_norm))
    model(x)
    for hook in hooks:
        hook.remove()
    return Traffic(sum(moved), sizes)


def copy_bandwidth(sizes: list[int], seconds: float = 0.3) -> float:
    """Return bytes a second, read and written, of copies of float32 tensors of `sizes` in turn.

    All of them are copied before the first is copied again: caches help as far as they help a step.
    On torch's number of threads.
    """
    sources = [torch.ones(size) for size in sizes]
    copies = [torch.zeros(size) for size in sizes]

    def copy() -> None:
        for made, source in zip(copies, sources, strict=True):
            made.copy_(source)

    (times,) = interleaved({"copy": copy}, seconds).values()
    moved = READ_AND_WRITTEN * sum(source.nbytes for source in sources)
    return moved / (1e-3 * median(times))
