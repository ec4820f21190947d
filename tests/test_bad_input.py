"""Whatever goes wrong: one sentence, exit code 2, and nothing half-written under a final name."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import call
from PIL import Image
from torch import nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.experiments.run_folder import RunFolder
from gemkern.models import registry
from gemkern.tickets import GemMiner, Ticket

SHORT = [
    "--data", "digits", "--train-limit", "128", "--density", "0.3", "--device", "cpu",
    "--set", "batch_size=16", "--set", "mine_epochs=2", "--set", "freeze_every=1",
    "--set", "imp_epochs=1", "--set", "imp_prune=0.5", "--set", "finetune_epochs=1",
]  # fmt: skip
TICKET = "gem-miner-seed0.ticket.safetensors"


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ticket of a small ResNet for the digits, one channel of 8 x 8 pixels."""
    out = tmp_path_factory.mktemp("mined")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, "mine", *SHORT, "--out", out) == 0
    return out / TICKET


def assert_one_sentence(capfd: pytest.CaptureFixture[str], message: str) -> None:
    """Check that the error is `message` in a sentence of its own, and no traceback."""
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("gemkern: ")]
    assert message in sentence
    assert errors.rstrip().endswith(sentence), "the sentence is the last word"


def assert_nothing_half_written(out: Path) -> None:
    """Check that every file in `out` has its final name and is whole."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.suffix == ".safetensors":
            Ticket.load(path)
        elif path.name in ("config.json", "results.json"):
            json.loads(path.read_text())
        elif path.is_dir():
            assert path.name == "jobs"
            assert not list(path.glob("*/.*.*")), "a temporary or unfinished file was left"
        elif path.name != ".lock":
            assert path.name == "epochs.jsonl", "a temporary or unfinished file was left"
            RunFolder(out).epochs()


@contextmanager
def disk_of(bytes_a_file: int) -> Iterator[None]:
    """Let the operating system refuse whatever a file would hold beyond `bytes_a_file`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("race", ["--density", "0"], "the density is 0.0"),
        ("imp", ["--density", "1"], "the density is 1.0"),
        ("mine", ["--set", "density=nan"], "the density is nan"),
        ("mine", ["--set", "freeze_every=2"], "never happens in a search of 2 epochs"),
        ("mine", ["--density", "1e-7"], "no weight of 74512 would be left"),
        ("race", ["--set", "imp_prune=1"], "a round cannot prune 1"),
        ("imp", ["--set", "imp_rewind=soon"], "IMP cannot rewind to 'soon'"),
        ("race", ["--set", "batch_size=129"], "larger than the 128 training images"),
        ("mine", ["--set", "batch_size=0"], "a batch of 0 images"),
        ("mine", ["--set", "score_lr=nan"], "lr is nan"),
        ("race", ["--set", "finetune_lr=-1"], "lr is -1.0"),
        ("race", ["--set", "finetune_lr=1e45"], "lr is 1e+45"),
        ("race", ["--train-limit", "5"], "train_limit is 5"),
        ("race", ["--budget", "inf"], "the budget is inf"),
        ("race", ["--budget", "-1"], "the budget is -1.0"),
        ("mine", ["--device", "meta"], "'meta' cannot be used here"),
        ("mine", ["--set", "momentum=0.9"], "no setting is called 'momentum'"),
        ("mine", ["--set", "l2"], "'' is not a value for l2"),
        ("mine", ["--model", "vgg16"], "give images of at least 16 pixels"),
        ("race", ["--methods", ","], "methods are missing or repeated"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_folder_is_made(
    command: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, command, *SHORT, *arguments, "--out", out) == 2
    assert_one_sentence(capfd, message)
    assert not out.exists()


@pytest.mark.parametrize("place", ["missing", "file", "empty", "file/below"])
@pytest.mark.parametrize("data", ["cifar10", "mnist", "folder"])
def test_a_data_folder_that_cannot_be_read_is_named(
    place: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    folder, out = tmp_path / place, tmp_path / "out"
    code = call(monkeypatch, "mine", "--data", data, "--data-dir", folder, "--out", out)
    assert code == 2
    assert_one_sentence(capfd, str(folder))
    assert not out.exists()


@pytest.mark.parametrize("place", ["missing.safetensors", "", "file/below.safetensors"])
def test_a_ticket_that_cannot_be_read_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    path, out = tmp_path / place, tmp_path / "out"
    assert call(monkeypatch, "finetune", path, "--out", out) == 2
    assert_one_sentence(capfd, str(path))
    assert not out.exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_out_folder_that_cannot_be_made_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert call(monkeypatch, "mine", *SHORT, "--out", tmp_path / place) == 2
    assert_one_sentence(capfd, f"could not write {tmp_path / place}")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("command", "bytes_a_file", "code", "refused"),
    [
        ("mine", 200, 2, "config.json"),
        ("mine", 100_000, 2, "checkpoint-000001.safetensors"),
        ("race", 100_000, 1, "checkpoint-000001.safetensors"),
        ("imp", 100_000, 2, "checkpoint-000001.safetensors"),
    ],
)
def test_a_full_disk_leaves_no_half_file(
    command: str,
    bytes_a_file: int,
    code: int,
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with disk_of(bytes_a_file):
        assert call(monkeypatch, command, *SHORT, "--out", tmp_path) == code
    shown = capfd.readouterr()
    said = "".join((shown.err + shown.out).split())
    assert "couldnotwrite" in said
    assert refused in said
    assert "Traceback" not in shown.err
    assert_nothing_half_written(tmp_path)
    assert call(monkeypatch, command, *SHORT, "--out", tmp_path, "--resume") == 0


def test_a_full_disk_leaves_the_ticket_that_was_there(ticket: Path, tmp_path: Path) -> None:
    mined = Ticket.load(ticket)
    copy = tmp_path / TICKET
    copy.write_bytes(ticket.read_bytes())
    with disk_of(100_000), pytest.raises(GemkernError, match="could not write"):
        mined.save(copy)
    assert copy.read_bytes() == ticket.read_bytes()
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize("rate", ["1e10", "1e38"])
def test_a_race_whose_loss_is_not_finite_ends_with_a_sentence(
    rate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = call(
        monkeypatch, "race", *SHORT, "--methods", "gem-miner,random", "--seeds", "1",
        "--set", f"finetune_lr={rate}", "--out", tmp_path,
    )  # fmt: skip
    assert code == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert "gem-miner, seed 0, failed: the loss is nan in epoch 1 of 1: lower the learning" in shown
    assert (tmp_path / TICKET).exists(), "what was found before is there"
    assert_nothing_half_written(tmp_path)
    assert [epoch.phase for epoch in RunFolder(tmp_path).epochs()] == ["find", "find"]


def test_scores_that_are_not_numbers_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = GemMiner._draw_scores

    def spoil(miner: GemMiner, seed: int, start: str) -> None:
        draw(miner, seed, start)
        miner.layers["stages.0.0.conv1"].scores.detach()[0, 0] = float("nan")

    monkeypatch.setattr(GemMiner, "_draw_scores", spoil)
    assert call(monkeypatch, "mine", *SHORT, "--out", tmp_path) == 2
    assert_one_sentence(capfd, "layer 'stages.0.0.conv1' has a score that is NaN at the end of")
    assert not list(tmp_path.glob("*.safetensors"))
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize("command", ["mine", "imp", "race"])
def test_a_model_with_nothing_to_mask_is_refused(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def bare(channels: int, classes: int, size: int, norm: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LayerNorm(size * size))

    monkeypatch.setitem(registry.MAKERS, "resnet8", (4, bare))
    out = tmp_path / "out"
    assert call(monkeypatch, command, *SHORT, "--out", out) == 2
    assert_one_sentence(capfd, "nothing to mask")
    assert not out.exists()


def test_images_of_another_shape_than_the_tickets_are_refused(
    ticket: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    numbers = np.random.default_rng(0)
    for label in range(10):
        for split, count in (("train", 4), ("test", 1)):
            folder = tmp_path / "images" / split / str(label)
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = numbers.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    out = tmp_path / "out"
    code = call(
        monkeypatch, "finetune", ticket, "--data", "folder", "--data-dir", tmp_path / "images",
        "--device", "cpu", "--train-limit", "30", "--set", "batch_size=10", "--out", out,
    )  # fmt: skip
    assert code == 2
    assert_one_sentence(capfd, "does not fit the model: layer 'conv' has a weight of shape")
    assert not out.exists()


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8)])
def test_a_batch_of_the_wrong_shape_is_named(ticket: Path, shape: tuple[int, ...]) -> None:
    model = gk.models.build("resnet8", channels=1, image_size=8)
    Ticket.load(ticket).apply(model)
    message = rf"x has shape {re.escape(str(shape))}.*give x as \(batch, 1, height, width\)"
    with pytest.raises(GemkernError, match=message):
        model(torch.zeros(shape))
