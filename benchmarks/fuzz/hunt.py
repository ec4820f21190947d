"""One fuzzer: hypothesis makes inputs, a child tries them, and what fails is made small."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from benchmarks.fuzz.child import PATIENCE, Attempt, Child, Outcome

# How often a process may die while one failure is made small: each start takes seconds.
MOST_STARTS = 6
# Kinds of failure that are made small, of one fuzzer; others are counted with them.
MOST_KINDS = 8


class Fuzzer(NamedTuple):
    """A reader or some operators, and what they are fed with.

    Attributes:
        attempt: called in the child with an input and a folder; raises what comes of it.
        inputs: returns plain data, which tells the child what to make.
        ready: an input that is whole; in the first one's time, kernels are compiled.
    """

    name: str
    attempt: Attempt
    inputs: Callable[[], SearchStrategy[Any]]
    ready: Any = None


@dataclass
class Failure:
    """Inputs that fail at one place: how many, and the smallest."""

    outcome: Outcome
    smallest: str
    count: int = 1


@dataclass
class Tally:
    """What came of the inputs of a fuzzer."""

    name: str
    accepted: int = 0
    refused: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many inputs failed."""
        return sum(failure.count for failure in self.failures.values())

    @property
    def tried(self) -> int:
        """How many inputs there were."""
        return self.accepted + self.refused + self.failed


class _Found(Exception):
    """An input fails in a way that was not seen before."""


class _Enough(BaseException):
    """A process died too often; hypothesis lets it through."""


def fuzz(fuzzer: Fuzzer, child: Child, inputs: int, number: int) -> Tally:
    """Try `inputs` inputs made from the seed `number`; return what came of them."""
    tally = Tally(fuzzer.name)
    if fuzzer.ready is not None:
        outcome = child.attempt(fuzzer.attempt, fuzzer.ready, seconds=PATIENCE)
        if outcome.verdict != "accepted":
            wrong = Outcome("failed", f"what is whole is {outcome.verdict}: {outcome.what}")
            tally.failures[_key(wrong)] = Failure(wrong, repr(fuzzer.ready))
    while tally.tried < inputs:
        before = tally.tried
        _go_on(fuzzer, child, inputs - before, number + before, tally)
        if tally.tried == before:
            break
    return tally


def _go_on(fuzzer: Fuzzer, child: Child, inputs: int, number: int, tally: Tally) -> None:
    """Try inputs until all are tried, or a failure that is new has been made small."""
    hunted: list[str] = []
    first_start = child.starts

    @seed(number)
    @settings(
        max_examples=inputs,
        phases=(Phase.generate, Phase.shrink),
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzzer.inputs())
    def look(value: Any) -> None:
        outcome = child.attempt(fuzzer.attempt, value)
        found = is_small(outcome, value) if hunted else is_new(outcome, value)
        if found and child.starts - first_start > MOST_STARTS:
            raise _Enough
        # Of what is raised at one place, hypothesis knows that it is the same.
        if found:
            raise _Found

    def is_new(outcome: Outcome, value: Any) -> bool:
        """Count the outcome; return whether it is a failure to be made small."""
        if outcome.verdict == "accepted":
            tally.accepted += 1
        elif outcome.verdict == "refused":
            tally.refused += 1
        elif (known := tally.failures.get(_key(outcome))) is not None:
            known.count += 1
        else:
            tally.failures[_key(outcome)] = Failure(outcome, repr(value))
            if len(tally.failures) <= MOST_KINDS:
                hunted.append(_key(outcome))
        return bool(hunted)

    def is_small(outcome: Outcome, value: Any) -> bool:
        """Return whether the outcome is the failure that is hunted; then this is its smallest."""
        is_same = outcome.verdict == "failed" and _key(outcome) == hunted[0]
        if is_same:
            known = tally.failures[hunted[0]]
            known.outcome, known.smallest = outcome, repr(value)
        return is_same

    with contextlib.suppress(_Found, _Enough, Flaky):
        look()


def _key(outcome: Outcome) -> str:
    return f"{outcome.where} {outcome.what.split(':')[0]}"
