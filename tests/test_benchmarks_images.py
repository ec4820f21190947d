"""Large images and inference: results are right, and the table says how much faster they come."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import images, result_files
from benchmarks.cpu_networks import LAYOUTS, SPARSE, Case
from benchmarks.images import INFERENCE, LARGE, TRAINING

SMALL = Case("resnet8", 0.1, 2, image_size=8)


def test_all_contenders_answer() -> None:
    answers = images.answers_of(SMALL)
    assert set(answers) == {SPARSE, *LAYOUTS}
    dense = [answers[name]() for name in LAYOUTS]
    torch.testing.assert_close(dense[0], dense[1])
    assert answers[SPARSE]().shape == dense[0].shape == (2, 10)


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "TOLERANCE", -1.0)
    with pytest.raises(AssertionError, match="wrong logits: off by"):
        images.answers_of(SMALL)


def test_rows_have_a_time_of_every_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [(TRAINING, replace(SMALL, batch=16)), (INFERENCE, SMALL)]
    monkeypatch.setattr(images, "cases", lambda: iter(small))
    rows = list(images.rows(0.01))
    assert [(row["use"], row["batch"]) for row in rows] == [(TRAINING, 16), (INFERENCE, 2)]
    for row in rows:
        assert set(row["ms"]) == set(row["quartiles"]) == {SPARSE, *LAYOUTS}


def test_rows_are_kept_with_what_stands_behind_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    monkeypatch.setattr(images, "cases", lambda: iter([(INFERENCE, SMALL)]))
    images.main(seconds=0.01)
    (path,) = tmp_path.glob("images-*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["rows"][0]["network"] == "resnet8"
    assert content["command"].startswith("python -m benchmarks.images")
    said = capsys.readouterr().out
    assert "inference, resnet8, batch 2, 10 %: sparse" in said
    assert "kept in" in said


def test_what_is_measured() -> None:
    found = list(images.cases())
    assert len(found) == 8 + 6
    assert {case.image_size for use, case in found if use == TRAINING} == {LARGE}
    assert {case.batch for use, case in found if use == INFERENCE} == {1, 4, 16}


def test_the_table_compares_with_the_better_layout() -> None:
    row = {
        "use": TRAINING, "network": "resnet50", "image_size": 224, "batch": 16, "density": 0.0144,
        "ms": {SPARSE: 100.0, "contiguous": 500.0, "channels-last": 250.0},
    }  # fmt: skip
    lines = images.markdown({"rows": [row]}).splitlines()
    assert lines[2] == "| a training step | resnet50 | 224 | 16 | 1.44 | 250.0 | 100.0 | 2.50x |"
