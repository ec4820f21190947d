"""Time whole training steps on the CPU, sparse beside dense, and what bounds them.

The dense step is the better of the contiguous and the channels-last layout. A wrong sparse step is
not timed.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks.cpu_floor import copy_bandwidth, traffic
from benchmarks.cpu_memory import peak_bytes
from benchmarks.cpu_networks import (
    DENSITY,
    LAYOUTS,
    SPARSE,
    WIDER,
    Case,
    batch_of,
    network,
    steps_of,
)
from benchmarks.cpu_timing import interleaved, spread

NETWORKS = ("resnet20", "vgg16", "wide_resnet28_2")
# Of ResNet-20, whose step is bound by memory, and of VGG-16, whose step is bound by its sums.
GROWING = ("resnet20", "vgg16")
DENSITIES = (0.002, 0.005, 0.0144, 0.05, 0.1, 0.2)
BATCHES = (32, 64, 128, 256, 512)
# Of a row, for all its contenders.
SECONDS = 6.0

CASES = tuple(
    dict.fromkeys(
        [Case(name) for name in NETWORKS]
        + [Case("resnet20", masks="ticket")]
        + [Case(name, density=density) for name in GROWING for density in DENSITIES]
        + [Case("resnet20", batch=batch) for batch in BATCHES]
        + [Case(name) for name in WIDER]
    )
)


@dataclass(frozen=True, kw_only=True)
class Row(Case):
    """A training step. Times are milliseconds, a spread the first and third quartile of them.

    Memory is in bytes, as `benchmarks.cpu_memory` measures it: None where the system does not tell.
    `floor` is the time in which as many bytes as the step moves at least (`floor_bytes`) are
    copied, at so many bytes a second (`copy_bandwidth`): see `benchmarks.cpu_floor`.
    """

    threads: int
    sparse: float
    sparse_spread: tuple[float, float]
    sparse_memory: int | None
    dense: float
    dense_spread: tuple[float, float]
    dense_memory: int | None
    dense_layout: str
    ratio: float
    floor: float
    floor_bytes: int
    copy_bandwidth: float


def rows(cases: Sequence[Case] = CASES, seconds: float = SECONDS) -> Iterator[Row]:
    """Measure every case on torch's number of threads, in `seconds` each, and its memory."""
    for case in cases:
        yield measure(case, seconds)
        gc.collect()


def measure(case: Case, seconds: float) -> Row:
    """Measure one case.

    Raises:
        AssertionError: the sparse step is wrong.
    """
    times = interleaved(steps_of(case), seconds)
    medians = {name: statistics.median(found) for name, found in times.items()}
    layout = min(LAYOUTS, key=medians.__getitem__)
    moved, sizes = traffic(network(case).to("meta"), batch_of(case)[0].to("meta"))
    bandwidth = copy_bandwidth(sizes)
    # A dense step needs the same memory whatever the masks of the sparse one.
    unmasked = replace(case, density=DENSITY, masks="uniform")
    return Row(
        **asdict(case),
        threads=torch.get_num_threads(),
        sparse=medians[SPARSE],
        sparse_spread=spread(times[SPARSE]),
        sparse_memory=peak_bytes(case, SPARSE),
        dense=medians[layout],
        dense_spread=spread(times[layout]),
        dense_memory=peak_bytes(unmasked, layout),
        dense_layout=layout,
        ratio=medians[layout] / medians[SPARSE],
        floor=1e3 * moved / bandwidth,
        floor_bytes=moved,
        copy_bandwidth=bandwidth,
    )
