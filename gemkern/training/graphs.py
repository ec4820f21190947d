"""Steps as CUDA graphs: the host asks for a whole step at once instead of for each of its kernels.

A graph repeats the device's part of a call, on the addresses and with the host's numbers of the
moment in which it was captured; Python takes no part in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import ClassVar, Protocol

import torch

from gemkern.errors import GemkernError
from gemkern.training.step import TrainingStep

# Steps before the capture: the first ones choose dtypes, make memory and compile kernels.
WARM_UPS = 3

Call = Callable[[], None]

logger = logging.getLogger(__name__)


class Graphs(Protocol):
    """How a device captures calls."""

    def warm_up(self, call: Call) -> None:
        """Run `call` where it will be captured."""

    def side_by_side(self, calls: Sequence[Call]) -> None:
        """Run `calls`, which share nothing that one of them writes, at once if the device can."""

    def capture(self, call: Call) -> Call:
        """Return what replays `call`; nothing is computed by now."""


class CudaGraphs:
    """CUDA graphs of calls that work on `device`."""

    # The allocator may ask a graph again whose capture failed.
    _failed: ClassVar[list[torch.cuda.CUDAGraph]] = []

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._branches: list[torch.cuda.Stream] = []

    def warm_up(self, call: Call) -> None:
        stream = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(stream)
        with torch.cuda.stream(self._stream):
            call()
        stream.wait_stream(self._stream)

    def side_by_side(self, calls: Sequence[Call]) -> None:
        while len(self._branches) < len(calls):
            self._branches.append(torch.cuda.Stream(self._device))
        stream, branches = torch.cuda.current_stream(self._device), self._branches[: len(calls)]
        for call, branch in zip(calls, branches, strict=True):
            branch.wait_stream(stream)
            with torch.cuda.stream(branch):
                call()
        for branch in branches:
            stream.wait_stream(branch)

    def capture(self, call: Call) -> Call:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        # Kernels that work on many tensors have their addresses brought to the device meanwhile, by
        # a copy that is waited for: stricter modes forbid it.
        mode = "relaxed"
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode=mode):
                call()
        except Exception:
            # What failed may leave its stream behind.
            torch.cuda.set_stream(stream)
            self._failed.append(graph)
            raise
        return graph.replay


def graphs_on(device: torch.device) -> Graphs | None:
    """Return how calls that work on `device` are captured; None where they cannot be."""
    return CudaGraphs(device) if device.type == "cuda" else None


def in_turn(calls: Sequence[Call]) -> None:
    """Run one call after the other."""
    for call in calls:
        call()


def ways_to_run(steps: Sequence[TrainingStep]) -> Iterator[Call]:
    """Yield how to take a step of each: from Python, and after a few captured, if that is possible.

    Every one is a step of the training. Where steps could be captured and are not, a warning says
    why, and the training goes on from Python.
    """
    device = steps[0].device
    graphs = graphs_on(device)
    if graphs is None:
        yield from repeat(partial(in_turn, steps))
    elif not all(step.capturable for step in steps):
        _warn("it changes what a graph would read")
        yield from repeat(partial(in_turn, steps))
    else:
        yield from repeat(partial(graphs.warm_up, partial(graphs.side_by_side, steps)), WARM_UPS)
        yield from repeat(_captured(steps, graphs, device))


def _captured(steps: Sequence[TrainingStep], graphs: Graphs, device: torch.device) -> Call:
    """Return what replays a step of each, or takes it; nothing is computed or drawn by now."""
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return graphs.capture(partial(graphs.side_by_side, steps))
    except Exception as error:
        for step in steps:
            step.clear_gradients()
        # The end of a capture that has failed fails too.
        cause = error.__context__ or error
        why = " ".join(f"{type(cause).__name__}: {cause}".split())
        _require_random_numbers(device, why)
        _warn(why)
        return partial(in_turn, steps)


def _require_random_numbers(device: torch.device, why: str) -> None:
    """Check that a capture that has failed did not leave PyTorch's generator in the midst of it.

    Raises:
        GemkernError: it did: no later step of this process could draw a number.
    """
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.rand((), device=device)
    except RuntimeError as error:
        raise GemkernError(
            f"a training step could not be captured as a CUDA graph ({why}), and since then "
            "PyTorch draws no random numbers: train in a new process, with graph=False"
        ) from error


def _warn(reason: str) -> None:
    logger.warning("gemkern: training goes on without a CUDA graph of its step (%s)", reason)
