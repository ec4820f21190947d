"""The benchmarks for a GPU, rehearsed: every line is there, and no wrong number can be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import typer
from gemkern.kernels.gpu import masked_linear
from gemkern.kernels.gpu import threshold as gpu_threshold
from gemkern.kernels.table import OPERATORS
from rehearsals import Row, rows_of
from rich.console import Console

from benchmarks import result_files, roofline
from benchmarks.gpu import (
    account,
    baselines,
    bench,
    elementwise,
    products,
    run,
    shapes,
    step,
    trainer,
)
from benchmarks.gpu.__main__ import REHEARSAL, main
from benchmarks.gpu.bars import bars
from benchmarks.gpu.correctness import MODELS
from benchmarks.gpu.exactness import WrongResult, copied, require_as_exact_as, require_same
from benchmarks.gpu.layers import PASSES
from benchmarks.gpu.result import FAILED, MEASURED, NOT_MEASURED, Result
from benchmarks.gpu.timing import (
    CAPTURED,
    QUANTILES,
    Clock,
    NotMeasured,
    WallClock,
    Work,
)
from benchmarks.gpu.ways import in_kernel
from gemkern.ops import dispatch

# What a CPU cannot do.
EXCUSES = (
    "no CUDA graphs", "no compute-sanitizer", "compiles nothing", "interpreter", "cores alone",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """The result file of a rehearsal."""
    out = tmp_path_factory.mktemp("rehearsal")
    with pytest.MonkeyPatch.context() as patch:
        # Put back what the command sets.
        patch.setenv("GEMKERN_BACKEND", "auto")
        main(out=out, rehearse=True)
    return json.loads((out / f"{REHEARSAL}.json").read_text(encoding="utf-8"))


@pytest.fixture
def fresh_backends() -> Iterator[None]:
    """Let operators look their kernels up anew, here and after."""
    dispatch._load.cache_clear()
    yield
    dispatch._load.cache_clear()


def test_every_section_has_rows_and_none_fails(whole: Row) -> None:
    rows = whole["rows"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == list(run.SECTIONS)
    assert [row for row in rows if row["status"] == FAILED] == []
    for row in rows:
        assert row["status"] == MEASURED or any(why in row["reason"] for why in EXCUSES), row


def test_every_operator_of_the_table_is_checked(whole: Row) -> None:
    checked = [row for row in whole["rows"] if row["section"].endswith("correctness")]
    measured = {row["operator"] for row in checked if row["status"] == MEASURED}
    assert measured == {name for name, entries in OPERATORS.items() if entries["gpu"].module}
    assert all(row["compared"] > 0 for row in checked if row["status"] == MEASURED)


def test_every_mask_operator_and_product_has_a_roof(whole: Row, tmp_path: Path) -> None:
    moved = roofline.moved(whole)
    masks = {name for name, entries in OPERATORS.items() if entries["gpu"].module} - set(PASSES)
    assert {row.kernel for row in moved} == masks
    assert all(row.rate > 0 and row.share > 0 for row in moved)
    multiplied = roofline.multiplied(whole)
    assert {row.kernel for row in multiplied if row.group.startswith("masked")} == set(PASSES)
    for row in multiplied:
        dense = row.group.startswith("dense")
        assert row.useful == row.dense if dense else 0 < row.useful < row.dense
    assert len(roofline.draw(whole, tmp_path / "gpu")) == 2


def test_a_rehearsal_is_not_kept_among_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        main(rehearse=True)
    assert ended.value.exit_code == 1
    assert "give a folder with --out" in capsys.readouterr().err


def test_rows_have_their_rivals_times_and_spread(whole: Row) -> None:
    rivals = {
        "elementwise": {
            elementwise.OURS,
            "gemkern, called",
            "authors, called",
            "eager, called",
        },
        "step": {*step.MINERS, step.DENSE, "authors", "forward and backward"},
        "trainer": {trainer.EAGER},
        "products": {"in-kernel", "materialised"},
        "cudnn": {"forward", "input gradient", "weight gradient"},
    }
    for row in whole["rows"]:
        if row["section"] in rivals and row["status"] == MEASURED:
            assert set(row["times"]) == rivals[row["section"]], row["name"]
            assert row["layout"]
        for times in row.get("times", {}).values():
            assert set(times) == {*QUANTILES, "repetitions"}
            assert times["median_us"] > 0


def test_the_file_says_what_stands_behind_it(whole: Row) -> None:
    about = whole["about"]
    assert about["benchmark"].startswith("rehearsal")
    assert about["devices"][0]["device"] == "cpu"
    assert {"commit", "driver", "cuda", "versions", "written", "command"} <= set(about)
    assert whole["bars"] == [], "a rehearsal decides nothing"


def test_a_wrong_mask_is_caught_and_not_timed(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch, fresh_backends: None
) -> None:
    right = gpu_threshold.threshold
    monkeypatch.setattr(gpu_threshold, "threshold", lambda *of: [~mask for mask in right(*of)])
    checked = rows_of(rehearsed, "mask correctness", operator="threshold")
    timed = rows_of(rehearsed, "elementwise", operator="threshold")
    assert len(checked) == len(MODELS)
    assert timed
    for row in (*checked, *timed):
        assert row["status"] == FAILED
        assert "WrongResult" in row["reason"]
        assert "times" not in row
    assert bars(rehearsed.result)[0]["verdict"] == "not met"


def test_a_wrong_product_is_caught_and_not_timed(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = masked_linear.masked_linear
    monkeypatch.setattr(masked_linear, "masked_linear", lambda *of: right(*of) * 1.001)
    checked = rows_of(
        rehearsed, "product correctness", operator="masked_linear", way="in-kernel", mode="float32"
    )
    timed = rows_of(rehearsed, "products", operator="masked_linear")
    assert checked
    assert timed
    assert all(row["status"] == FAILED and "times" not in row for row in (*checked, *timed))


def test_a_section_that_raises_leaves_the_others(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(of: bench.Bench) -> Iterator[bench.Row]:
        yield from run.ceilings.plan(of)
        raise ValueError("no plan")

    monkeypatch.setitem(run.SECTIONS, "broken", broken)
    chosen = ("broken", "cudnn")
    run.measure(rehearsed, chosen, Console(quiet=True), tmp_path)
    plan = rehearsed.result.find("broken", "plan")
    assert (plan["status"], plan["reason"]) == (FAILED, "ValueError: no plan")
    assert [row["status"] for row in rehearsed.result.of("cudnn")] == [MEASURED] * 4


def test_the_first_call_fits_nine_minutes(whole: Row, tmp_path: Path) -> None:
    """By the harness's own account: to start, to compile on 16 cores, and to measure."""
    result = Result(tmp_path / "gpu.json", {})
    for row in whole["rows"]:
        result.add(row["section"], row["name"], row)
    assert run.CALLS["first"][:3] == ("ceilings", "graphs", "mask correctness")
    assert account.call_seconds(result, "first") < 540
    for planned in account.planned(result, run.CALLS["first"]):
        assert planned.rows > 0
        assert (planned.contenders > 0) == (not planned.section.endswith(("correctness", "graphs")))
        assert (planned.kernels > 0) == (planned.section != "ceilings")


def test_where_no_repository_says_the_commit_it_has_to_be_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(result_files, "commit", str)
    with pytest.raises(typer.Exit):
        main(out=tmp_path)
    assert "give it with --commit" in capsys.readouterr().err


def test_sections_have_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.chosen("") == list(run.SECTIONS)
    assert run.chosen("second,step") == [*run.SECOND, "step"]
    with pytest.raises(typer.Exit):
        main(out=tmp_path, rehearse=True, sections="steps")
    assert (
        "no section is called steps: choose of first, second, ceilings" in capsys.readouterr().err
    )


def test_without_a_gpu_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(typer.Exit) as ended:
        main(out=tmp_path)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


class Tape(Clock):
    """A clock whose times are given."""

    warmups = 1

    def __init__(self, *readings: float) -> None:
        self._readings = iter(readings)

    def captured(self, call: Callable[[], object]) -> Callable[[], object]:
        return call

    def _timed(self, call: Callable[[], object], cold: bool, queued: bool) -> Callable[[], float]:
        reading = next(self._readings)
        return lambda: reading

    def alive(self) -> bool:
        return True


def test_contenders_take_turns() -> None:
    tape = Tape(*(reading for number in range(50) for reading in (float(number), 7.0)))
    raced = tape.race({"ours": Work(int, CAPTURED), "theirs": Work(int)})
    spread = {"p10_us": 5.0, "median_us": 24.0, "p90_us": 44.0, "repetitions": 50}
    assert raced["times"]["ours"] == spread
    assert raced["times"]["theirs"]["median_us"] == 7.0


def test_a_contender_may_drop_out_but_not_all() -> None:
    def broken() -> None:
        raise ValueError("too old")

    raced = WallClock().race({"ours": Work(int), "theirs": Work(broken)})
    assert list(raced["times"]) == ["ours"]
    assert raced["without"] == {"theirs": "ValueError: too old"}
    with pytest.raises(NotMeasured, match="no CUDA graphs"):
        WallClock().race({"ours": Work(int, CAPTURED)})


def test_the_baselines_do_the_same_step() -> None:
    networks = shapes.rehearsal().networks
    ours = baselines.random_state(networks["vgg16"], "cpu", torch.float16)
    eager = baselines.State(*copied(ours.lists()))
    authors = baselines.authors_score_step(baselines.State(*copied(ours.lists())))
    for _ in range(20):
        baselines.our_score_step(ours, backend="reference")
        baselines.eager_score_step(eager)
        authors()
    for one, other in zip(ours.scores, eager.scores, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(ours.effective, authors(), strict=True):
        assert (one == other).all()
    before = baselines.authors_threshold(eager)()
    for one, other in zip(ours.effective, before, strict=True):
        assert torch.equal(one != 0, other != 0)


def test_resnet50_is_whole() -> None:
    weights = shapes.resnet50_weights()
    assert (len(weights), sum(map(math.prod, weights))) == (54, 25_502_912)


def test_rounding_is_allowed_and_nothing_else() -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    plain = exact + 1e-3
    assert require_as_exact_as(plain, plain, exact, "sum") == pytest.approx(1e-3 * 2**0.5 / 5**0.5)
    for wrong in (exact + 3e-3, exact * torch.nan, exact[:1]):
        with pytest.raises(WrongResult):
            require_as_exact_as(wrong, plain, exact, "sum")
    for one, other in ((0.0, -0.0), (1.0, torch.nan)):
        with pytest.raises(WrongResult, match="1 of 1 differ"):
            require_same([torch.tensor(one)], [torch.tensor(other)], "sum")
    require_same([torch.tensor(torch.nan)], [-torch.tensor(torch.nan)], "sum")


def product_row(rows: int, ours: float, theirs: float, spread: float = 0.1) -> Row:
    def times(median: float) -> Row:
        return {"p10_us": median - spread, "median_us": median, "p90_us": median + spread}

    return {
        "section": products.SECTION, "status": MEASURED, "operator": "masked_linear",
        "dtype": "bfloat16", "rows": rows,
        "times": {"in-kernel": times(ours), "materialised": times(theirs)},
    }  # fmt: skip


def test_a_way_is_taken_as_far_as_it_wins_everywhere_beyond_the_spread() -> None:
    rows = [
        product_row(64, 5, 9), product_row(1, 5, 9), product_row(1, 6, 7),
        product_row(256, 8.85, 9), product_row(4096, 5, 9),
    ]  # fmt: skip
    result = {"about": {"devices": [{"name": "cpu"}, {"name": "H100"}]}, "rows": rows}
    (found,) = in_kernel(result, "gpu.json")
    assert found == {
        "device": "H100", "operator": "masked_linear", "dtype": "bfloat16", "rows": 64,
        "measured": "gpu.json",
    }  # fmt: skip
    result["rows"].append(product_row(1, 9, 9))
    assert in_kernel(result, "gpu.json") == []


def test_bars_take_the_worst_row(tmp_path: Path) -> None:
    result = Result(tmp_path / "gpu.json", {})
    for network, share in (("vgg16", 0.9), ("resnet50", 0.86)):
        name = f"threshold {network} cold"
        result.add(elementwise.SECTION, name, {"status": MEASURED, "share": share})
    overhead = {"overhead": {step.FUSED: 0.06}}
    result.add(step.SECTION, "vgg16 captured", {"status": MEASURED, **overhead})
    verdicts = {bar["claim"]: (bar["value"], bar["verdict"]) for bar in bars(result)}
    assert verdicts["threshold: share of a copy, 10 M weights or more, cold"] == (0.86, "met")
    assert verdicts["masks' share of a step, vgg16, captured"] == (0.06, "not met")
    assert verdicts["masks' share of a step, vgg16, called"] == (None, NOT_MEASURED)
