"""Peers compute the same, a wrong one is not timed, and the table says who was faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.cpu_layers import Layer
from benchmarks.peers import contenders
from benchmarks.peers.__main__ import rows, words
from benchmarks.peers.contenders import BACKWARD, BOTH, CSR, DENSE, FORWARD, OURS, SPARSEPROP
from benchmarks.peers.report import markdown

SMALL = Layer("small", 8, 16, 5, 2)


def made() -> dict[str, contenders.Calls]:
    return {
        "convolution": contenders.convolution(SMALL, 16, 0.2),
        "drop-in layer": contenders.drop_in(SMALL, 16, 0.2),
        "linear layer": contenders.linear(20, 10, 16, 0.2),
    }


def test_all_contenders_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "sparseprop", lambda: None)
    found = {
        use: {which: set(one) for which, one in calls.items()} for use, calls in made().items()
    }
    layouts = {OURS, "contiguous", "channels_last"}
    assert found == {
        "convolution": {FORWARD: layouts, BACKWARD: layouts},
        "drop-in layer": {BOTH: {OURS, DENSE}},
        "linear layer": {FORWARD: {OURS, DENSE, CSR}, BACKWARD: {OURS, DENSE}},
    }


class Peer:
    """Stands for SparseProp: dense layers of its interface, that may be wrong."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def SparseConv2d(self, weight: Tensor, padding: int, stride: int) -> torch.nn.Module:
        layer = torch.nn.Conv2d(*weight.shape[1::-1], 3, stride, padding, bias=False)
        return self._with(layer, weight)

    def SparseLinear(self, weight: Tensor) -> torch.nn.Module:
        return self._with(torch.nn.Linear(*weight.shape[::-1], bias=False), weight)

    def _with(self, layer: Any, weight: Tensor) -> torch.nn.Module:
        layer.weight.data = weight * self.factor
        layer.W_val = layer.weight
        return layer


def test_a_peer_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "sparseprop", lambda: Peer(1.0))
    assert all(SPARSEPROP in one for calls in made().values() for one in calls.values())
    monkeypatch.setattr(contenders, "sparseprop", lambda: Peer(1.01))
    with pytest.raises(AssertionError, match=f"{SPARSEPROP} is wrong by"):
        made()


def test_the_table_says_how_many_times_faster_ours_is() -> None:
    def row(of: str, **ms: float) -> dict[str, Any]:
        about = {"use": "linear layer", "of": of, "batch": 16, "density": 0.05, "which": FORWARD}
        return {**about, "ms": ms}

    kept = {"rows": [row("a", gemkern=1.0, dense=4.0, CSR=0.5), row("b", gemkern=1.0, dense=1.0)]}
    *_, line = markdown(kept).splitlines()
    assert line == f"| linear layer, {FORWARD} | 2 | 16 | - | 0.50x | 2.00x |"


def test_rows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.__main__.LAYERS", (SMALL,))
    monkeypatch.setattr("benchmarks.peers.__main__.LINEAR", ((20, 10),))
    found = list(rows((0.2,), 0.0))
    assert len(found) == 3 + 2 * 3
    assert found[0]["of"] == words(SMALL) == "small: 8 to 16 at 5x5, stride 2"
    for row in found:
        assert set(row["ms"]) == set(row["quartiles"])
        assert all(one > 0 for one in row["ms"].values())
