"""Every mask operator over all weights of a network: its bandwidth as a share of a copy's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from gemkern.kernels.table import OPERATORS

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.ceilings import share_of_copy
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import QUEUED, Work
from benchmarks.traffic import WEIGHT_OPERATORS, over_weights

SECTION = "traffic"
OURS = "gemkern"
# Too large for the caches: there the bandwidth of a copy is the bound.
NETWORKS = ("vgg16", "resnet50")


def plan(bench: Bench) -> Iterator[Row]:
    for network, operator in product(NETWORKS, WEIGHT_OPERATORS):
        if OPERATORS[operator]["gpu"].module:
            yield Row(_measure, operator=operator, network=network)


def _measure(bench: Bench, operator: str, network: str) -> Entry:
    shapes = bench.shapes.networks[network]
    moving = over_weights(operator, network, shapes, bench.device, bench.narrow)
    raced = bench.clock.race({OURS: Work(moving.call("gpu"), QUEUED)}, cold=True)
    seconds = 1e-6 * raced["times"][OURS]["median_us"]
    return {
        "bytes": moving.bytes,
        "dtype": f"float32, effective weights {bench.narrow}",
        "layout": "channels last",
        "bytes_per_s": moving.bytes / seconds,
        "share": share_of_copy(bench.result, moving.bytes, 1e6 * seconds),
        **raced,
    }
