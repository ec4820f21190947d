"""What is seen of a run while it lasts: a bar, and how long the whole of it will still take."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean

from tqdm import tqdm

from gemkern.experiments.records import EpochRecord

# A method and a phase.
Kind = tuple[str, str]


class Estimate:
    """How long epochs that are left will take: each as those of its method and phase did so far.

    Args:
        left: how many epochs there are of each kind.
    """

    def __init__(self, left: Mapping[Kind, int]) -> None:
        self._left = Counter(left)
        self._took: dict[Kind, list[float]] = {}

    def note(self, kind: Kind, seconds: float) -> None:
        """Note that an epoch has ended, and what it took."""
        self._left[kind] -= 1
        self._took.setdefault(kind, []).append(seconds)

    def seconds(self) -> float:
        """Return the seconds that are left; kinds not seen yet take as those of their phase."""
        return sum(count * self._each(kind) for kind, count in self._left.items() if count > 0)

    def _each(self, kind: Kind) -> float:
        of_phase = [fmean(took) for seen, took in self._took.items() if seen[1] == kind[1]]
        of_all = [fmean(took) for took in self._took.values()]
        return fmean(self._took.get(kind) or of_phase or of_all or [0.0])


@contextmanager
def progress(left: Mapping[Kind, int], done: int = 0) -> Iterator[Callable[[EpochRecord], None]]:
    """Show a bar of all epochs while the body runs; what it is given hears of each.

    Args:
        left: how many epochs are left of each kind.
        done: how many there were before.
    """
    # A terminal is redrawn; a log gets a line now and then.
    interval = 0.2 if sys.stderr.isatty() else 15.0
    estimate, last = Estimate(left), time.monotonic()
    total = done + sum(left.values())
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}{postfix}]"
    with tqdm(total=total, initial=done, mininterval=interval, bar_format=form) as bar:

        def on_epoch(record: EpochRecord) -> None:
            nonlocal last
            now = time.monotonic()
            estimate.note((record.method, record.phase), now - last)
            last = now
            density, validation = 100 * record.density, 100 * record.validation_accuracy
            bar.set_postfix_str(
                f"{_long(estimate.seconds())} left; seed {record.seed} {record.method} "
                f"{record.phase}: density {density:.2f} %, validation {validation:.1f} %",
                refresh=False,
            )
            bar.update()

        yield on_epoch


def _long(seconds: float) -> str:
    """Return a length of time in words, as exact as an estimate is."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
