"""CUDA graphs, as strict as they are, on a CPU: a call is recorded as a list of operators.

A replay runs the operators that ran at the capture, on the tensors and with the numbers of then,
and not a line of the call's Python. What a later step reads elsewhere, or as a number of the host,
it gets wrong bits from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Call = Callable[[], None]
# What a stream that is captured refuses, for the host would wait for it; and a tensor made of a
# number of the host, which has to be copied to the device.
FORBIDDEN = {
    torch.ops.aten.lift_fresh.default,
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
}
# Launches that only bring a number to the device.
FILLS = {
    torch.ops.aten.full.default,
    torch.ops.aten.fill_.Scalar,
    torch.ops.aten.scalar_tensor.default,
    torch.ops.aten.zeros.default,
}
# A replay is unknown to autograd: no version of a tensor counts it.
_COUNTS_VERSIONS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


class RecordedGraphs:
    """`gemkern.training.graphs.Graphs` that counts what is asked of it, and FILLS of a capture."""

    def __init__(self) -> None:
        self.warm_ups = self.captures = self.replays = self.widest = self.fills = 0

    def warm_up(self, call: Call) -> None:
        self.warm_ups += 1
        call()

    def side_by_side(self, calls: Sequence[Call]) -> None:
        self.widest = max(self.widest, len(calls))
        for call in calls:
            call()

    def capture(self, call: Call) -> Call:
        self.captures += 1
        recording = Recording()
        try:
            with recording:
                call()
        finally:
            recording.undo()
        self.fills = sum(func in FILLS for func, *_ in recording.operators)

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return replay


class Recording(TorchDispatchMode):
    """Records the operators that run in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FORBIDDEN:
            raise RuntimeError(f"{func} is not permitted while a stream is captured")
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._before:
                self._before[storage.data_ptr()] = storage, storage.clone()
        out = func(*args, **kwargs)
        if func.namespace != "profiler":
            self.operators.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        """Put every tensor that was there back to what it was: a capture computes nothing."""
        for storage, before in self._before.values():
            storage.copy_(before)
        self._before.clear()

    @torch.no_grad()
    def replay(self) -> None:
        uncounted = torch._C._ExcludeDispatchKeyGuard(_COUNTS_VERSIONS)
        with torch._C._AutoDispatchBelowAutograd(), uncounted:
            for func, args, kwargs, out in self.operators:
                again = func(*args, **kwargs)
                for then, now in zip(_tensors(out), _tensors(again), strict=True):
                    if then.untyped_storage().data_ptr() != now.untyped_storage().data_ptr():
                        then.copy_(now)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
