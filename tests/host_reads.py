"""Which operators ran, those inside of gemkern's own included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Where the host waits for numbers of the device: a value, or the size of a result.
HOST_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}


def host_reads(run: Callable[[], Any]) -> set[str]:
    # A dispatch mode would not see what happens inside an operator.
    with torch.profiler.profile() as profile:
        run()
    return {event.key for event in profile.key_averages()} & HOST_READS
