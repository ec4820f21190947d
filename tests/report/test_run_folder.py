"""What a run leaves behind comes back, and is whole or absent."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gemkern.errors import GemkernError
from gemkern.experiments.job import plan
from gemkern.experiments.job_folder import JobFolder
from gemkern.experiments.records import EpochRecord, Failure, Run
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.settings import Settings
from gemkern.experiments.summary import summarise
from gemkern.report.environment import devices, versions

Race = tuple[list[Run], list[EpochRecord]]


def create(path: Path) -> RunFolder:
    return RunFolder.create(path, config={"density": 0.0144}, command="gemkern race")


def finished(path: Path, race: Race) -> RunFolder:
    folder = create(path)
    for epoch in race[1]:
        folder.append(epoch)
    folder.write(race[0])
    return folder


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_runs_and_epochs_come_back(tmp_path: Path, race: Race) -> None:
    finished(tmp_path / "new" / "run", race)
    folder = RunFolder.load(tmp_path / "new" / "run")
    runs, epochs = race
    assert folder.runs() == runs
    assert folder.epochs() == epochs
    assert [list(run.layer_density) for run in folder.runs()] == [
        list(run.layer_density) for run in runs
    ], "layers keep the order of the network"


def test_the_configuration_says_what_ran_where(tmp_path: Path) -> None:
    config = {"density": 0.0144, "data_dir": Path("data/cifar"), "tickets": (Path("a"), "b")}
    about = {"versions": versions(), "devices": devices()}
    RunFolder.create(tmp_path, config=config, command="gemkern race --seeds 3", about=about)
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text) == {
        "command": "gemkern race --seeds 3",
        "config": {"density": 0.0144, "data_dir": "data/cifar", "tickets": ["a", "b"]},
        **about,
        "jobs": [],
    }
    assert '\n  "command"' in text, "indented by two"


def test_results_hold_the_summary(tmp_path: Path, race: Race) -> None:
    finished(tmp_path, race)
    results = strict_json((tmp_path / "results.json").read_text())
    assert results["summary"] == summarise(race[0])
    assert results["runs"] == [asdict(run) for run in race[0]]


def test_an_epoch_is_on_file_when_append_returns(tmp_path: Path, race: Race) -> None:
    folder = create(tmp_path)
    for count, epoch in enumerate(race[1][:3], start=1):
        folder.append(epoch)
        lines = (tmp_path / "epochs.jsonl").read_text().splitlines()
        assert len(lines) == count
        assert json.loads(lines[-1]) == asdict(epoch)
    assert folder.epochs() == race[1][:3], "readable while the run goes on"


def test_a_loss_that_diverged_is_null_on_file_and_nan_in_memory(tmp_path: Path, race: Race) -> None:
    folder = create(tmp_path)
    folder.append(replace(race[1][0], loss=math.nan))
    folder.append(replace(race[1][0], loss=math.inf))
    lines = (tmp_path / "epochs.jsonl").read_text().splitlines()
    assert [strict_json(line)["loss"] for line in lines] == [None, None]
    assert all(math.isnan(epoch.loss) for epoch in folder.epochs())


@pytest.mark.parametrize("left_behind", ["epochs.jsonl", "results.json"])
def test_a_folder_with_results_is_refused(tmp_path: Path, left_behind: str) -> None:
    (tmp_path / left_behind).write_text("precious")
    with pytest.raises(GemkernError, match=f"already holds the {left_behind}.*another --out"):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [left_behind]
    assert (tmp_path / left_behind).read_text() == "precious"


def test_a_folder_that_saw_no_epoch_may_be_used_again(tmp_path: Path) -> None:
    create(tmp_path)
    RunFolder.create(tmp_path, config={"density": 0.5}, command="gemkern race")
    assert json.loads((tmp_path / "config.json").read_text())["config"] == {"density": 0.5}


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(GemkernError, match="could not write"):
        create(tmp_path / "out")


def test_a_full_disk_leaves_no_half_results(
    tmp_path: Path, race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(tmp_path)

    def half(path: Path, text: str, **options: Any) -> int:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(GemkernError, match=r"could not write .*results\.json: No space left"):
        folder.write(race[0])
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_an_epoch_that_cannot_be_written_is_an_error(tmp_path: Path, race: Race) -> None:
    folder = create(tmp_path)
    (tmp_path / "epochs.jsonl").mkdir()
    with pytest.raises(GemkernError, match=r"could not write .*epochs\.jsonl"):
        folder.append(race[1][0])


def test_load_wants_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match=r"holds no config\.json"):
        RunFolder.load(tmp_path)


def test_a_run_that_has_not_finished_has_no_results(tmp_path: Path) -> None:
    folder = create(tmp_path)
    with pytest.raises(GemkernError, match=r"could not read .*results\.json"):
        folder.runs()
    with pytest.raises(GemkernError, match=r"could not read .*epochs\.jsonl"):
        folder.epochs()


def spoil(record: dict[str, Any], **changes: Any) -> str:
    return json.dumps({"runs": [{**record, **changes}]})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: spoil(run)[:-9], "results.json is damaged"),
        (lambda run: "[]", "results.json is damaged"),
        (lambda run: "{}", "runs"),
        (lambda run: '{"runs": [3]}', "expected the fields method, seed"),
        (lambda run: '{"runs": [{"method": "imp"}]}', "expected the fields method, seed"),
        (lambda run: spoil(run, more=1), "expected the fields method, seed"),
        (lambda run: spoil(run, density="dense"), "density cannot be 'dense'"),
        (lambda run: spoil(run, seed=True), "seed cannot be True"),
        (lambda run: spoil(run, seed=0.5), "seed cannot be 0.5"),
        (lambda run: spoil(run, seed=None), "seed cannot be None"),
        (lambda run: spoil(run, method=7), "method cannot be 7"),
        (lambda run: spoil(run, layer_density=[1]), r"layer_density cannot be \[1\]"),
        (lambda run: spoil(run, layer_density={"a": "b"}), "layer_density.a cannot be 'b'"),
        (lambda run: b"\xff\xfe\x00", "results.json is damaged"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, race: Race, damage: Any, said: str) -> None:
    folder = finished(tmp_path, race)
    spoiled = damage(asdict(race[0][0]))
    content = spoiled if isinstance(spoiled, bytes) else spoiled.encode()
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(GemkernError, match=said) as caught:
        folder.runs()
    assert "results.json is damaged" in str(caught.value)


@pytest.mark.parametrize("damage", ['{"method": "im', "{}", "null", ""])
def test_a_damaged_epoch_is_named_by_its_line(tmp_path: Path, race: Race, damage: str) -> None:
    folder = finished(tmp_path, race)
    lines = (tmp_path / "epochs.jsonl").read_text().splitlines()
    lines[1] = damage
    (tmp_path / "epochs.jsonl").write_text("\n".join(lines))
    with pytest.raises(GemkernError, match=r"line 2 of .*epochs\.jsonl is damaged"):
        folder.epochs()


def test_a_phase_that_nobody_knows_is_damage(tmp_path: Path, race: Race) -> None:
    folder = create(tmp_path)
    line = json.dumps({**asdict(race[1][0]), "phase": "prune"})
    (tmp_path / "epochs.jsonl").write_text(line)
    with pytest.raises(GemkernError, match="phase cannot be 'prune'"):
        folder.epochs()


DEEP = 100_000 * "["


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"failed": 3}', "not iterable"),
        ('{"failed": [3]}', "expected the fields method, seeds, why"),
        ('{"failed": [{"method": "imp"}]}', "expected the fields method, seeds, why"),
        ('{"failed": [{"method": "imp", "seeds": 0, "why": ""}]}', "seeds cannot be 0"),
        ('{"failed": [{"method": "imp", "seeds": ["0"], "why": ""}]}', "seeds.0 cannot be '0'"),
        ('{"failed": [{"method": "imp", "seeds": [0], "why": null}]}', "why cannot be None"),
        (DEEP, "recursion"),
    ],
)
def test_damaged_failures_are_named(tmp_path: Path, text: str, said: str) -> None:
    folder = create(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(GemkernError, match=f"results.json is damaged .*{said}"):
        folder.failures()


def test_a_failure_comes_back(tmp_path: Path) -> None:
    folder = create(tmp_path)
    folder.write([], failures=[Failure("imp", (0, 1), "by chance")])
    assert folder.failures() == [Failure("imp", [0, 1], "by chance")]
    (tmp_path / "results.json").write_text("{}")
    assert folder.failures() == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"command": 3}, "its command is no text"),
        ({"config": None}, "it does not hold what was asked for"),
        ({"config": {"methods": "imp"}}, "its methods are no list"),
        ({"jobs": {"method": "imp"}}, "its jobs are no list"),
    ],
)
def test_a_damaged_configuration_is_named(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    folder = create(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, **config}))
    with pytest.raises(GemkernError, match=f"config.json is damaged .{said}"):
        folder.command(), folder.gather()


def test_epochs_in_epochs(tmp_path: Path) -> None:
    folder = create(tmp_path)
    (tmp_path / "epochs.jsonl").write_text(f"{DEEP}\n")
    with pytest.raises(GemkernError, match=r"line 1 of .*epochs\.jsonl is damaged"):
        folder.epochs()
    (tmp_path / "epochs.jsonl").write_text(DEEP)
    assert folder.epochs() == [], "a last line without its end was being written"


def test_a_number_that_no_mean_could_hold(tmp_path: Path, race: Race) -> None:
    folder = finished(tmp_path, race)
    (tmp_path / "results.json").write_text(spoil(asdict(race[0][0]), weights_left=10**400))
    with pytest.raises(GemkernError, match="weights_left cannot be"):
        folder.runs()


@pytest.mark.parametrize("content", [{}, {"why": 3}])
def test_a_failure_that_does_not_say_why(tmp_path: Path, content: dict[str, Any]) -> None:
    folder = JobFolder(tmp_path)
    (tmp_path / "failure.json").write_text(json.dumps(content))
    with pytest.raises(GemkernError, match=r"failure.json is damaged .it does not say why"):
        folder.failure()


def test_a_job_that_needs_one_that_is_not_there(tmp_path: Path) -> None:
    jobs = plan(Settings(), ["gem-miner", "random"], [0])
    folder = RunFolder.create(tmp_path, config={}, command="", jobs=jobs[1:])
    with pytest.raises(GemkernError, match="0 of its jobs find the ticket that random"):
        folder.given(jobs[1])
    folder = RunFolder.create(tmp_path, config={}, command="", jobs=jobs)
    folder.folder_of(jobs[0]).finish([], [])
    with pytest.raises(GemkernError, match="the ticket of gem-miner, and that of seed 0 is not in"):
        folder.given(jobs[1])
