"""The zoo asks networks what it says it asks, and goes on whatever happens to one of them."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import gemkern as gk
from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo.checks import DENSITY, OK, Row, examine
from benchmarks.zoo.nets import NETS, Net
from benchmarks.zoo.trio import sparse
from gemkern.optim import masked_layers

QUESTIONS = dict.fromkeys(("convert", *zoo.QUESTIONS), OK)


class Words(nn.Module):
    """Scores of what words mean on average, beside the words."""

    def __init__(self) -> None:
        super().__init__()
        self.meaning = nn.Embedding(100, 32)
        self.inner, self.outer = nn.Linear(32, 64), nn.Linear(64, 9)

    def forward(self, words: Tensor) -> dict[str, Any]:
        means = self.inner(self.meaning(words)).relu().mean(1)
        return {"scores": [self.outer(means)], "words": words}


def convolutions() -> nn.Module:
    def unit(inputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())

    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 5)
    return nn.Sequential(unit(3), unit(32), *pooled)


def nothing() -> nn.Module:
    raise ValueError("no\nweights")


IMAGES = Net("hand", "convolutions", convolutions, 12, 4)
SENTENCES = Net("hand", "words", Words, 0, 4)


def printed(*rows: Row) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(zoo.table(list(rows)))
    return console.file.getvalue()


@pytest.mark.parametrize("net", [IMAGES, SENTENCES], ids=lambda net: net.name)
def test_a_network_that_is_served_says_yes_to_all(net: Net) -> None:
    row = examine(net, 0.0)
    assert row.answers == QUESTIONS
    assert row.errors.keys() == {"output", "step", "switch"}
    assert printed(row).count("yes") == len(zoo.QUESTIONS)


def test_what_is_not_masked_is_counted() -> None:
    row = examine(SENTENCES, 0.0)
    masked, others = 32 * 64 + 64 * 9, 100 * 32 + 64 + 9
    assert (row.parameters, row.masked) == (masked + others, masked / (masked + others))
    assert "not masked: 1 torch.Embedding" in printed(row)


def test_a_network_is_timed() -> None:
    row = examine(IMAGES, 0.01)
    assert row.is_ok("speed")
    ratio = row.times["masked"] / row.times["accelerated"]
    assert f"{ratio:.1f}x" in printed(row)


def test_every_channel_keeps_a_weight_and_every_layer_its_strength() -> None:
    torch.manual_seed(0)
    dense = convolutions()
    for name, layer in masked_layers(sparse(IMAGES, DENSITY)).items():
        assert layer.active.flatten(1).any(1).all()
        strength = layer.weight.norm() / dense.get_submodule(name).weight.norm()
        assert 0.5 < strength < 2, name


def test_a_wrong_network_says_so_and_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = gk.accelerate

    def spoil(model: nn.Module) -> nn.Module:
        model.get_parameter("0.1.bias").data += 1e-3
        return accelerate(model)

    monkeypatch.setattr(gk, "accelerate", spoil)
    row = examine(IMAGES, 0.01)
    assert "the output in eval(): tensor 0 is off by" in row.answers["output"]
    assert not row.is_ok("step")
    assert "speed" not in row.answers
    assert row.errors["output"][0] > 10 * row.errors["output"][1]
    assert " no " in printed(row)


def test_a_network_that_cannot_be_built_is_a_row() -> None:
    row = examine(Net("hand", "nothing", nothing), 0.0)
    assert row.answers == {"convert": "ValueError: no weights"}
    assert "convert: ValueError: no weights" in printed(row, examine(IMAGES, 0.0))


def test_a_process_that_ends_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, -11, "", "one\nSegmentation fault\n")

    def hang(command: list[str], **_: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 1)

    def work(command: list[str], **_: Any) -> Any:
        line = json.dumps(vars(Row(command[-2], 64, 2, 7, 0.5, errors={"step": (0.1, 0.2)})))
        return subprocess.CompletedProcess(command, 0, f"a library says\n{line}\n", "")

    net = NETS["torchvision/resnet18"]
    for run, said in ((crash, "ended with -11: Segmentation fault"), (hang, "was not done in")):
        monkeypatch.setattr(subprocess, "run", run)
        row = zoo.examined(net, 0.0)
        assert said in row.answers["process"]
        assert net.title in printed(row)
    monkeypatch.setattr(subprocess, "run", work)
    assert zoo.examined(net, 0.0).parameters == 7


def test_the_zoo_is_large_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(NETS) >= 25
    monkeypatch.setattr(zoo.metadata, "version", lambda library: f"{library}'s")
    kept = json.loads(zoo.keep([examine(SENTENCES, 0.0)], tmp_path).read_text())
    assert kept["networks"][0]["answers"] == QUESTIONS
    assert kept["versions"]["timm"] == "timm's"
    assert kept.keys() > {"commit", "changed", "devices", "density"}
