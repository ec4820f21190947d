"""All fuzzers."""

from __future__ import annotations

from benchmarks.fuzz import (
    of_arrays,
    of_images,
    of_layers,
    of_masks,
    of_runs,
    of_tensors,
)
from benchmarks.fuzz.hunt import Fuzzer

ROOMS = (of_arrays, of_images, of_tensors, of_runs, of_masks, of_layers)
FUZZERS: tuple[Fuzzer, ...] = tuple(fuzzer for room in ROOMS for fuzzer in room.FUZZERS)
