"""A race and the same race without acceleration, side by side on README's page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme, readme_races
from benchmarks.result_files import named
from gemkern.experiments.records import Run

DEVICE = {"device": "cpu", "name": "CPU", "torch_threads": 2}


def run(method: str, seed: int, seconds: float, accuracy: float) -> dict[str, Any]:
    return asdict(
        Run(method, seed, 0.01, 7, 0.1, accuracy, 5, 2, seconds, seconds / 4, 3.0, {"linear": 0.01})
    )


def kept(accelerate: str | bool, seconds: float, **config: Any) -> dict[str, Any]:
    runs = [run(m, s, seconds, 0.8 + 0.02 * s) for m in ("imp", "gem-miner") for s in (0, 1)]
    return {
        "command": "gemkern race --out DIR",
        "config": {"model": "resnet20", "device": "cpu", "accelerate": accelerate, **config},
        "versions": {"torch": "2", "numba": "0.6", "python": "3"},
        "devices": [DEVICE],
        "runs": runs,
    }


def page(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: dict[str, Any]
) -> list[str]:
    def read(name: str) -> dict[str, Any]:
        return json.loads((tmp_path / f"{name}.json").read_text())

    for module in (readme, readme_races):
        monkeypatch.setattr(module, "kept", read)
    names = [named(kind, DEVICE) for kind in ("digits", "digits-dense")]
    for name, content in zip(names, (kept(True, 20.0), dense), strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return readme.filled(f"<!-- {kind}: {names[0]} -->\nold\n<!-- end -->\n").splitlines()


def test_each_method_is_shown_dense_and_accelerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = page("accelerated", tmp_path, monkeypatch, kept(False, 40.0))
    assert lines[4:8] == [
        "| imp | dense | 40.0 | 50.0 | 1.0 | 81.00±1.41 |",
        "| imp | accelerated | 20.0 | 25.0 | 2.0 | 81.00±1.41 |",
        "| gem-miner | dense | 40.0 | 50.0 | 1.0 | 81.00±1.41 |",
        "| gem-miner | accelerated | 20.0 | 25.0 | 2.0 | 81.00±1.41 |",
    ]
    assert lines[9].startswith("`gemkern race --out DIR`: resnet20, 2 seeds")
    assert "old" not in lines


@pytest.mark.parametrize("dense", [kept(False, 40.0, model="vgg16"), kept(True, 40.0)])
def test_other_races_are_not_compared(
    dense: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        page("accelerated", tmp_path, monkeypatch, dense)
