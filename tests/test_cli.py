"""The commands, run as a user runs them, on real images and a tiny schedule."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import call

from gemkern.experiments.presets import resolve
from gemkern.experiments.run_folder import RunFolder
from gemkern.tickets import Ticket

TINY = ["--data", "digits", "--density", "0.1", "--device", "cpu", "--set", "freeze_every=1"]


def test_a_race_leaves_everything_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "race"
    methods = "gem-miner,imp,random,dense"
    code = call(
        monkeypatch, "race", *TINY, "--epochs", "3", "--seeds", "2",
        "--methods", methods, "--set", "imp_epochs=1", "--out", out,
    )  # fmt: skip
    assert code == 0
    shown = capfd.readouterr()
    assert "freeze_every" in shown.out, "the settings are printed in full"
    starts = {"mine_init": "signed_constant", "imp_init": "kaiming_normal", "dense_init": "kaiming"}
    assert all(re.search(rf"{name} +{start}", shown.out) for name, start in starts.items())
    assert all(method in shown.out for method in methods.split(","))
    assert "52/52" in shown.err, "progress is shown while it works"
    assert re.search(r"Acceleration (saved|lost) \d|Nothing ran accelerated", shown.out)
    assert "savings" in json.loads((out / "results.json").read_text())

    folder = RunFolder.load(out)
    runs, epochs = folder.runs(), folder.epochs()
    assert [(run.method, run.seed) for run in runs] == [
        (method, seed) for method in methods.split(",") for seed in (0, 1)
    ]
    kept = {run.weights_left for run in runs if run.method != "dense"}
    assert len(kept) == 1, "the race is at one matched density"
    by_method = {run.method: run for run in runs}
    rounds = by_method["imp"].find_epochs
    assert rounds == 11, "ceil(ln 0.1 / ln 0.8) rounds of one epoch"
    assert (by_method["gem-miner"].find_epochs, by_method["gem-miner"].finetune_epochs) == (3, 3)
    assert (by_method["dense"].density, by_method["dense"].find_seconds) == (1.0, 0.0)
    assert by_method["dense"].accuracy_after > by_method["dense"].accuracy_before
    assert len(epochs) == 2 * ((3 + 3) + (11 + 3) + 3 + 3)
    assert all(e.seconds > 0 and 0 <= e.validation_accuracy <= 1 for e in epochs)

    config = json.loads((out / "config.json").read_text())
    assert config["config"]["density"] == 0.1
    assert (config["config"]["mine_init"], config["config"]["imp_init"]) == (
        "signed_constant",
        "kaiming_normal",
    )
    assert config["command"].startswith("gemkern race --data digits")
    assert "torch" in config["versions"]
    assert (out / "race.png").read_bytes().startswith(b"\x89PNG")
    for method in ("gem-miner", "imp", "random"):
        for seed in (0, 1):
            ticket = Ticket.load(out / f"{method}-seed{seed}.ticket.safetensors")
            assert ticket.weights_left == kept.copy().pop()
    mined = Ticket.load(out / "gem-miner-seed0.ticket.safetensors")
    drawn = Ticket.load(out / "random-seed0.ticket.safetensors")
    assert mined.layer_density == drawn.layer_density

    assert call(monkeypatch, "race", *TINY, "--epochs", "3", "--out", out) == 2
    assert "already" in capfd.readouterr().err


def test_a_ticket_is_mined_twice_the_same_and_finetuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the first measured is not measured again.
    for name, choice in (("a", "measure"), ("b", tmp_path / "a")):
        code = call(
            monkeypatch, "mine", *TINY, "--epochs", "3", "--seed", "5", "--out", tmp_path / name,
            "--set", f"accelerate={choice}",
        )  # fmt: skip
        assert code == 0
    ticket = "gem-miner-seed5.ticket.safetensors"
    assert (tmp_path / "a" / ticket).read_bytes() == (tmp_path / "b" / ticket).read_bytes()

    finetuned = tmp_path / "finetuned"
    code = call(
        monkeypatch, "finetune", tmp_path / "a" / ticket, "--data", "digits", "--device", "cpu",
        "--epochs", "2", "--seed", "5", "--out", finetuned,
    )  # fmt: skip
    assert code == 0
    (run,) = RunFolder.load(finetuned).runs()
    assert run.finetune_epochs == 2
    assert run.accuracy_after > 0.2


def test_imp_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = call(
        monkeypatch, "imp", "--data", "digits", "--density", "0.5", "--epochs", "2",
        "--set", "freeze_every=1", "--device", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0
    ticket = Ticket.load(tmp_path / "imp-seed0.ticket.safetensors")
    assert ticket.method == "imp"
    assert ticket.density == pytest.approx(0.5, abs=0.01)


def test_info_names_what_serves(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "info") == 0
    shown = capfd.readouterr().out
    assert all(word in shown for word in ("torch", "triton", "reference", "masked_conv2d", "gpu"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info"], 0, ["torch", "reference", "masked_conv2d", "gpu", "cpu"]),
        (["mine", "--density", "2"], 2, ["gemkern: the density is 2.0"]),
        (["--help"], 0, ["race", "mine", "imp", "finetune", "info"]),
    ],
)
def test_the_package_is_a_command(arguments: list[str], code: int, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemkern", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code
    shown = done.stderr if code else done.stdout
    assert all(word in shown for word in words)
    assert "Traceback" not in done.stderr


def test_a_preset_is_resolved_and_shown_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = call(
        monkeypatch, "mine", "--preset", "resnet20-1.44", "--data", "digits", "--device", "cpu",
        "--train-limit", "128", "--budget", "0.02", "--set", "score_lr=0.25", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0
    chosen = {"data": "digits", "device": "cpu", "train_limit": 128, "score_lr": 0.25}
    settings = resolve("resnet20-1.44", chosen).scaled(0.02).as_dict(["gem-miner"])
    assert (settings["density"], settings["mine_epochs"], settings["l2"]) == (0.0144, 3, 5e-5)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert settings.items() <= config.items()
    shown = capfd.readouterr().out
    for name, value in settings.items():
        printed = "-" if value is None else re.escape(str(value))
        assert re.search(rf"(^|\s){name} +{printed}(\s|$)", shown), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density", "1.5"], "the density is 1.5"),
        (["--density", "-0.1"], "the density is -0.1"),
        (["--set", "freeze_every=40"], "never happens"),
        (["--data", "fashion-mnist", "--data-dir", "/nonexistent"], "/nonexistent"),
        (["--data", "cifar11"], "cifar11"),
        (["--model", "resnet21"], "resnet21"),
        (["--preset", "nothing"], "no preset"),
        (["--methods", "gem-miner,luck"], "'luck' is not a method"),
        (["--methods", "random,dense"], "add gem-miner to --methods"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--set", "batch_size=100000"], "larger than"),
        (["--set", "score_optimizer=adagrad"], "adagrad"),
        (["--budget", "0"], "budget"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "race", "--device", "cpu", *arguments, "--out", out) == 2
    errors = capfd.readouterr().err.strip()
    last = errors.splitlines()[-1]
    assert last.startswith("gemkern: ")
    assert message in errors
    assert "Traceback" not in errors
    assert not list(out.glob("*.safetensors"))
    assert not (out / "results.json").exists()


def test_a_damaged_ticket_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "x.ticket.safetensors"
    damaged.write_bytes(b"not a ticket")
    assert call(monkeypatch, "finetune", damaged, "--out", tmp_path / "out") == 2
    assert "x.ticket.safetensors" in capfd.readouterr().err
