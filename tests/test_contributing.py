"""What CONTRIBUTING shows works as it is printed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import gemkern as gk
from gemkern.tickets import METHODS

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
# The example takes its place in the table's own file; here it goes again.
SHORT = {"train_limit": 128, "batch_size": 32, "accelerate": "never"}


def test_the_worked_example_is_a_method_of_races(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(code.splitlines()) <= 100
    monkeypatch.setitem(METHODS, "largest", METHODS["dense"])
    (tmp_path / "largest.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("largest")
    race = gk.race(
        "resnet8", "digits", methods=["dense", "largest"], density=0.1, seeds=2, epochs=2,
        freeze_every=1, largest_init="signed_constant", **SHORT,
    )  # fmt: skip
    assert not race.failures
    assert [(run.method, run.seed) for run in race.runs] == [
        ("dense", 0), ("dense", 1), ("largest", 0), ("largest", 1),
    ]  # fmt: skip
    ticket = race.tickets["largest", 1]
    assert (ticket.method, ticket.seed) == ("largest", 1)
    assert ticket.density == pytest.approx(0.1, abs=0.001)
    assert ticket.weights is not None
    first = next(iter(ticket.masks))
    assert len(ticket.weights[f"{first}.weight"].abs().unique()) == 1, "its own setting was read"
