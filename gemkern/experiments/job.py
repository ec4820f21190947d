"""A job: one method at one density for one group of seeds, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gemkern.errors import GemkernError
from gemkern.experiments.records import Phase
from gemkern.experiments.settings import PLANS, Settings
from gemkern.tickets import METHODS, Ticket

PHASES: tuple[Phase, ...] = ("find", "finetune")
# Each is a job, or a part of one, with files of its own.
MOST_SEEDS = 10_000
# PyTorch's generators take no larger ones.
LARGEST_SEED = 2**64 - 1
# Characters of a method in the name of a file, of which there is room for 255 bytes.
LONGEST = 60
# What says where a job runs, not what it comes to.
PLACES = ("data_dir", "checkpoint_minutes")
# What a ticket is compared with, to see whether it knows more than its layer densities.
CHECKS = ("shuffled", "reinitialised", "random", "inverted")


@dataclass(frozen=True)
class Job:
    """What to run, as plain data: it is all that another machine has to be told.

    Attributes:
        method: its name in the table of methods.
        seeds: what train together.
        settings: those that the method reads, by name.
        phases: "find" a ticket, "finetune" it, or both.
        ticket: for a job that is given a ticket from elsewhere, its digest.
        donor: the method whose ticket this one is made of, if not that of the table.
    """

    method: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    phases: tuple[Phase, ...] = PHASES
    ticket: str | None = None
    donor: str | None = None

    @property
    def hash(self) -> str:
        """Return what tells this job from every other, in hex; places do not count."""
        content = asdict(self)
        if self.donor is None:
            del content["donor"]
        content["settings"] = {
            name: value for name, value in self.settings.items() if name not in PLACES
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Return the name of the job's folder: readable, and no other job's."""
        seeds = "-".join(str(seed) for seed in self.seeds)
        density = f"{self.settings['density']:g}"
        return f"{in_a_name(self.method)}-{density}-seed{seeds}-{self.hash[:8]}"

    @property
    def needs(self) -> str | None:
        """Return the method whose tickets this job takes from another job of the run."""
        if "find" not in self.phases or self.ticket is not None or self.method not in METHODS:
            return None
        return self.donor or METHODS[self.method].needs

    def as_dict(self) -> dict[str, Any]:
        """Return the job in JSON's types."""
        return asdict(self) | {"seeds": list(self.seeds), "phases": list(self.phases)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Job:
        """Return the job that `as_dict` wrote down.

        Raises:
            GemkernError: it is not whole.
        """
        lie = "it is no object" if not isinstance(values, Mapping) else _lie(values)
        if lie:
            raise GemkernError(f"a job is not whole ({lie}): begin the run anew in another folder")
        found = {**values, "seeds": tuple(values["seeds"]), "phases": tuple(values["phases"])}
        return cls(**{**found, "settings": dict(values["settings"])})


def _lie(values: Mapping[str, Any]) -> str:
    """Return what of a job is not what `as_dict` writes; an empty text if all is."""
    known = {one.name for one in fields(Job)}
    if not known - {"ticket", "donor"} <= values.keys() <= known:
        return f"it has the fields {', '.join(map(repr, values))[:200]}"
    seeds, phases, settings = values["seeds"], values["phases"], values["settings"]
    if not isinstance(values["method"], str):
        return "its method is no text"
    if not isinstance(seeds, list) or not seeds or not all(map(_is_seed, seeds)):
        return "its seeds are no list of whole numbers"
    if len(set(seeds)) < len(seeds) or len(seeds) > MOST_SEEDS:
        return "its seeds are repeated or too many"
    if phases not in ([*PHASES], *([phase] for phase in PHASES)):
        return f"its phases are none of {', '.join(PHASES)}"
    if not isinstance(settings, dict) or not _is_fraction(settings.get("density")):
        return "its settings have no density"
    for name in ("ticket", "donor"):
        if not isinstance(values.get(name), (str, type(None))):
            return f"its {name} is no text"
    return ""


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_SEED


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def in_a_name(text: str) -> str:
    """Return a text as it may stand in the name of a file: a ticket's method can be anything."""
    return "".join(one if one.isprintable() and one not in "/\\" else "_" for one in text[:LONGEST])


def plan(
    settings: Settings, methods: Sequence[str], seeds: Sequence[int], of: str | None = None
) -> list[Job]:
    """Return the jobs of a race, in an order in which each finds what it needs.

    Seeds train together, as many as the settings' `seeds_at_once`. Methods that need another's
    ticket need that of the method `of`, if it is given.

    Raises:
        GemkernError: the methods do not fit together, or a seed is repeated.
    """
    check_methods(tuple(methods), of)
    if not seeds or len(set(seeds)) < len(seeds):
        raise GemkernError("seeds are missing or repeated: give each of them once")
    groups = [
        tuple(seeds[first : first + settings.seeds_at_once])
        for first in range(0, len(seeds), settings.seeds_at_once)
    ]
    ordered = sorted(methods, key=lambda method: METHODS[method].needs is not None)
    return [
        job(settings, method, group, donor=of if METHODS[method].needs else None)
        for group in groups
        for method in ordered
    ]


def job(
    settings: Settings,
    method: str,
    seeds: Sequence[int],
    phases: tuple[Phase, ...] = PHASES,
    ticket: str | None = None,
    donor: str | None = None,
) -> Job:
    """Return the job of a method and a group of seeds, with the settings that it reads."""
    needed = METHODS[method].needs if method in METHODS else None
    read = {PLANS, method, donor or needed or PLANS}
    return Job(method, tuple(seeds), settings.as_dict(read), phases, ticket, donor)


def plan_checks(
    settings: Settings, tickets: Sequence[Ticket], checks: Sequence[str], seeds: int
) -> list[Job]:
    """Return the jobs that finetune `tickets`, and what `checks` make of them, with `seeds` each.

    A check that searches by itself (the score inversion) has as many runs as there are tickets
    times seeds.

    Raises:
        GemkernError: a check is not known, tickets are of several methods or no ticket is given.
    """
    if unknown := [check for check in checks if check not in CHECKS]:
        raise GemkernError(
            f"{unknown[0]!r} is not a sanity check: give --checks out of {', '.join(CHECKS)}"
        )
    methods = sorted({ticket.method for ticket in tickets})
    if len(methods) != 1:
        raise GemkernError(
            f"tickets of {', '.join(methods) or 'no method'} cannot be checked together: give "
            "those of one method"
        )
    if methods[0] in checks:
        raise GemkernError(f"a ticket of {methods[0]} is not checked by {methods[0]}: leave it out")
    jobs = []
    for i, ticket in enumerate(tickets):
        for seed in range(i * seeds, (i + 1) * seeds):
            jobs.append(job(settings, ticket.method, [seed], ("finetune",), ticket.digest))
            for check in checks:
                given = None if METHODS[check].needs is None else ticket.digest
                jobs.append(job(settings, check, [seed], ticket=given))
    return jobs


def check_methods(methods: tuple[str, ...], of: str | None = None) -> None:
    """Check that a race can be run with `methods`.

    Raises:
        GemkernError: none is given, one is unknown or given twice, or one needs a ticket of another
            that is not among them.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods or len(set(methods)) < len(methods):
        what = f"{unknown[0]!r} is not a method" if unknown else "methods are missing or repeated"
        raise GemkernError(f"{what}: give --methods as a list out of {', '.join(METHODS)}")
    for method in methods:
        needed = METHODS[method].needs and (of or METHODS[method].needs)
        if needed is not None and METHODS.get(needed, METHODS[method]).needs is not None:
            raise GemkernError(
                f"{method} cannot be drawn from the ticket of {needed}: give --of one that finds "
                "tickets by itself"
            )
        if needed is not None and needed not in methods:
            raise GemkernError(
                f"{method} is drawn from the ticket of {needed}: add {needed} to --methods"
            )
