"""A job is plain data; what cannot be raced is refused before anything trains."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_race import settings

from gemkern.errors import GemkernError
from gemkern.experiments.job import Job, check_methods, job, plan
from gemkern.experiments.laboratory import Laboratory, matched_weights, rehearse
from gemkern.experiments.run_folder import RunFolder
from gemkern.tickets import METHODS, imp_weights_left

DRAWN = [name for name, entry in METHODS.items() if entry.needs]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((), "methods are missing or repeated: give --methods as a list out of dense, gem-miner"),
        (("imp", "dense", "imp"), "methods are missing or repeated"),
        (("gem-miner", "luck"), "'luck' is not a method: give --methods as a list out of dense"),
        *(((method, "imp"), f"{method} is drawn from the ticket of gem-miner") for method in DRAWN),
    ],
)
def test_methods_that_do_not_fit_are_named(methods: tuple[str, ...], message: str) -> None:
    with pytest.raises(GemkernError, match=re.escape(message)):
        plan(settings(), methods, [0])


def test_every_method_alone_or_beside_what_it_needs_fits() -> None:
    for method, entry in METHODS.items():
        check_methods((method,) if entry.needs is None else (method, entry.needs))


def test_a_name_is_one_setting_whoever_reads_it() -> None:
    classes = [entry.settings for entry in METHODS.values()]
    own = [one for kind in classes for one in dataclasses.fields(kind)]
    by_name = {one.name: one for one in own}
    for one in own:
        other = by_name[one.name]
        assert (one.default, one.metadata, one.type) == (other.default, other.metadata, other.type)
    assert not {*by_name} & {*vars(settings())}


def test_jobs_come_in_an_order_in_which_each_finds_what_it_needs() -> None:
    jobs = plan(settings(seeds_at_once=2), ("random", "gem-miner", "dense"), (3, 1, 2))
    assert [(one.method, one.seeds) for one in jobs] == [
        ("gem-miner", (3, 1)), ("dense", (3, 1)), ("random", (3, 1)),
        ("gem-miner", (2,)), ("dense", (2,)), ("random", (2,)),
    ]  # fmt: skip
    assert {one.method: one.needs for one in jobs} == {
        "gem-miner": None,
        "dense": None,
        "random": "gem-miner",
    }
    with pytest.raises(GemkernError, match="seeds are missing or repeated"):
        plan(settings(), ("dense",), (1, 1))


def test_a_job_is_plain_data_and_comes_back() -> None:
    one = job(settings(), "imp", [0, 4])
    again = Job.of(json.loads(json.dumps(one.as_dict())))
    assert (again, again.hash, again.name) == (one, one.hash, one.name)
    assert one.name.startswith("imp-0.3-seed0-4-")
    assert {"imp_lr", "mine_epochs", "batch_size"} <= set(one.settings)
    assert "dense_init" not in one.settings, "a job knows what it reads"
    with pytest.raises(GemkernError, match="a job is not whole"):
        Job.of({"method": "imp"})


def test_a_job_is_another_by_what_it_comes_to_and_not_by_where_it_runs() -> None:
    one = job(settings(), "imp", [0])
    assert job(settings(data_dir="elsewhere", checkpoint_minutes=1.0), "imp", [0]).hash == one.hash
    others = [
        job(settings(imp_lr=0.2), "imp", [0]),
        job(settings(), "imp", [1]),
        job(settings(), "imp", [0], ("find",)),
        job(settings(), "dense", [0]),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 5
    assert job(settings(dense_init="signed_constant"), "imp", [0]).hash == one.hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_every": 3}, "freezing every 3 epochs never happens in a search of 3"),
        ({"density": 1e-6}, "no weight of 74512 would be left"),
        ({"score_optimizer": "adagrad"}, "optimizer cannot be 'adagrad'"),
        ({"imp_prune": 1.0}, "a round cannot prune 1"),
        ({"imp_rewind": "later"}, "IMP cannot rewind to 'later'"),
        ({"imp_lr": float("nan")}, "lr is nan"),
        ({"finetune_lr": -1.0}, "lr is -1.0"),
        ({"finetune_epochs": 0}, "training lasts 0 epochs"),
        ({"finetune_schedule": "steep"}, "no schedule is called 'steep'"),
        ({"model": "resnet21"}, "no model is called 'resnet21'"),
        *(
            ({f"{part}_init": "zeros"}, "no initialisation is called 'zeros'")
            for part in ("mine", "imp", "smart_ratio", "dense")
        ),
    ],
)
def test_a_rehearsal_finds_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GemkernError, match=re.escape(message)):
        rehearse(Laboratory(settings(**changes)), list(METHODS))


def test_settings_that_fit_pass_the_rehearsal() -> None:
    rehearse(Laboratory(settings()), list(METHODS))


def test_a_rehearsal_sets_up_what_was_asked_for_alone() -> None:
    laboratory = Laboratory(settings(imp_rewind="later"))
    assert rehearse(laboratory, ["gem-miner", "random", "dense"]) == {
        "gem-miner": 3,
        "random": 0,
        "dense": 0,
    }
    with pytest.raises(GemkernError, match="IMP cannot rewind to 'later'"):
        rehearse(laboratory, ["imp"])


@pytest.mark.parametrize(
    ("changes", "weights", "rounds"),
    [
        ({"density": 0.25, "mine_epochs": 2, "imp_prune": 0.5}, 250, 2),
        ({"density": 0.24, "mine_epochs": 2, "imp_prune": 0.5}, 240, 3),
        ({"density": 0.5, "mine_epochs": 2, "imp_prune": 0.2}, 500, 4),
    ],
)
def test_rivals_are_planned_to_the_weights_that_gem_miner_leaves(
    changes: dict[str, Any], weights: int, rounds: int
) -> None:
    chosen = settings(**changes)
    assert matched_weights(chosen, 1000) == weights
    assert len(imp_weights_left(1000, weights / 1000, chosen.own["imp"].imp_prune)) == rounds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", None),
        ("method", ["imp"]),
        ("seeds", []),
        ("seeds", "0"),
        ("seeds", [0, 0]),
        ("seeds", [True]),
        ("seeds", [-1]),
        ("seeds", [0.5]),
        ("phases", []),
        ("phases", ["finetune", "find"]),
        ("phases", [{}]),
        ("settings", None),
        ("settings", {}),
        ("settings", {"density": "0.3"}),
        ("settings", {"density": 10**400}),
        ("ticket", 3),
        ("donor", []),
        ("more", 1),
    ],
)
def test_a_job_that_lies_is_refused(name: str, value: Any) -> None:
    whole = job(settings(), "imp", [0]).as_dict()
    with pytest.raises(GemkernError, match="a job is not whole"):
        Job.of(whole | {name: value})
    for values in (None, 3, [whole], "imp"):
        with pytest.raises(GemkernError, match="a job is not whole"):
            Job.of(values)


@pytest.mark.parametrize("method", ["../../up", "/up", "a\0b", "a\nb", "\ud800", 300 * "x"])
def test_the_folder_of_a_job_is_in_that_of_its_run(method: str, tmp_path: Path) -> None:
    """A ticket's file says by which method it was found: that may be anything."""
    one = dataclasses.replace(job(settings(), "imp", [0]), method=method)
    assert one.name != job(settings(), "imp", [0]).name
    own = RunFolder(tmp_path / "run").folder_of(one)
    assert own.path.parent == tmp_path / "run" / "jobs"
    assert own.tickets() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
