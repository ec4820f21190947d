"""What becomes of faults, and what that says of the tests."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.mutants.fault import Fault
from benchmarks.mutants.workshop import Outcome, Workshop, is_interpreted
from gemkern.errors import GemkernError

# Of all faults, those that tests have to notice.
ENOUGH = 0.95
# Exit codes of pytest.
PASSED, FAILED = 0, 1
# Of a process whose memory a fault has spoiled.
CRASHED = (-signal.SIGSEGV, -signal.SIGABRT)
# Characters of what pytest said, from the end.
SHOWN = 3000


class Trying(Protocol):
    """What tries faults: a `Workshop`, but for tests of what stands here."""

    def check(self, tests: Sequence[str]) -> Outcome: ...

    def attempt(self, fault: Fault) -> Outcome: ...


@dataclass
class Tally:
    """The faults of a room, by what became of them.

    `broken` are those whose test could not be run, with what was said of it.
    """

    killed: list[Fault] = field(default_factory=list)
    survived: list[Fault] = field(default_factory=list)
    broken: list[tuple[Fault, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.killed) + len(self.survived) + len(self.broken)

    def add(self, fault: Fault, outcome: Outcome) -> None:
        """Count a fault: it is killed where its test fails, crashes or never ends."""
        if outcome.code in (FAILED, None, *CRASHED):
            self.killed.append(fault)
        elif outcome.code == PASSED:
            self.survived.append(fault)
        else:
            self.broken.append((fault, outcome.said[-SHOWN:]))


def tried(
    rooms: Mapping[str, Sequence[Fault]],
    workshops: Sequence[Trying],
    on_fault: Callable[[Fault], None] = lambda fault: None,
) -> dict[str, Tally]:
    """Try all faults, one at a time in each workshop; return a tally for each room.

    Args:
        on_fault: hears of each fault that was tried.

    Raises:
        GemkernError: a test does not pass where there is no fault.
    """
    free: queue.SimpleQueue[Trying] = queue.SimpleQueue()
    for workshop in workshops:
        free.put(workshop)

    @contextlib.contextmanager
    def lent() -> Iterator[Trying]:
        workshop = free.get()
        try:
            yield workshop
        finally:
            free.put(workshop)

    def check(tests: Sequence[str]) -> Outcome:
        with lent() as workshop:
            return workshop.check(tests)

    def attempt(fault: Fault) -> Outcome:
        with lent() as workshop:
            return workshop.attempt(fault)

    tallies = {room: Tally() for room in rooms}
    with ThreadPoolExecutor(len(workshops)) as threads:
        try:
            for outcome in threads.map(check, _together(rooms)):
                _refuse_failing(outcome)
            futures = {
                threads.submit(attempt, fault): (room, fault)
                for room, faults in rooms.items()
                for fault in faults
            }
            for done in as_completed(futures):
                room, fault = futures[done]
                tallies[room].add(fault, done.result())
                on_fault(fault)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return tallies


def report(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """Yield a line for each room, one for each fault that was not noticed, and the score."""
    for room, tally in tallies.items():
        if tally.total:
            yield (
                f"{room:28} {tally.total:3} faults, {len(tally.killed):3} killed, "
                f"{len(tally.survived)} survived"
            )
    for tally in tallies.values():
        yield from (f"survived: {fault}" for fault in tally.survived)
        for fault, said in tally.broken:
            yield f"broken: {fault.path}: {fault.old!r}, tried by {fault.test}\n{said}"
    total, killed = _sum(tallies)
    survived = sum(len(tally.survived) for tally in tallies.values())
    yield (
        f"{total} mutants, {killed} killed, {survived} survived, "
        f"score {100 * killed / max(total, 1):.1f} %"
    )


def is_enough(tallies: Mapping[str, Tally]) -> bool:
    """Return whether tests notice enough, and every test could be run."""
    total, killed = _sum(tallies)
    is_broken = any(tally.broken for tally in tallies.values())
    return not is_broken and killed >= ENOUGH * total


def workshops_below(folder: Path, root: Path, count: int) -> list[Workshop]:
    """Return so many copies of the repository."""
    return [Workshop(root, folder / f"copy {number}") for number in range(count)]


def _sum(tallies: Mapping[str, Tally]) -> tuple[int, int]:
    every = tallies.values()
    return sum(tally.total for tally in every), sum(len(tally.killed) for tally in every)


def _together(rooms: Mapping[str, Sequence[Fault]]) -> list[list[str]]:
    """Return the tests of all faults, each once, by the way in which they run."""
    tests = dict.fromkeys(fault.test for faults in rooms.values() for fault in faults)
    groups = ([test for test in tests if is_interpreted(test) == way] for way in (False, True))
    return [group for group in groups if group]


def _refuse_failing(outcome: Outcome) -> None:
    if outcome.code != PASSED:
        what = "ran for too long" if outcome.code is None else f"ended with {outcome.code}"
        raise GemkernError(
            f"the tests that are to notice faults {what} where there is none: let them pass "
            f"first\n{outcome.said[-SHOWN:]}"
        )
