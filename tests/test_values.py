"""Values that no run could have: a sentence, exit code 2, and nothing on the disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import call

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.experiments.job import plan
from gemkern.experiments.settings import Settings, pick_device
from gemkern.starting import SENTENCE, STOPPED

LONG = 400 * "9"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epochs", LONG], "is a number of 1329 bits: give at most 1000000"),
        (["--epochs", "2147483648"], "is 2147483648: give at most 1000000"),
        (["--set", f"mine_epochs={LONG}"], "mine_epochs is a number of 1329 bits: give at most"),
        (["--set", f"freeze_every={LONG}"], "freeze_every is a number of 1329 bits"),
        (["--set", f"batch_size={LONG}"], "batch_size is a number of 1329 bits"),
        (["--set", f"epoch_steps={LONG}"], "epoch_steps is a number of 1329 bits"),
        (["--set", f"seeds_at_once={LONG}"], "seeds_at_once is a number of 1329 bits"),
        (["--train-limit", LONG], "train_limit is a number of 1329 bits"),
        (["--budget", "1e308"], "_epochs is 2147483648: give at most 1000000"),
        (["--budget", LONG], "the budget is inf: give a positive factor"),
        (["--density", LONG], "the density is inf: give the fraction of weights"),
        (["--set", "checkpoint_minutes=nan"], "checkpoint_minutes is nan: give a finite number"),
        (["--set", "finetune_lr=1e999"], "finetune_lr is inf: give a finite number"),
        (["--device", "hpu"], "the device 'hpu' cannot be used here: choose auto, cpu or a CUDA"),
        (["--device", "cuda:99999999999999999999"], "cannot be used here: choose auto, cpu or"),
        (["--set", f"weights_file={300 * 'a'}"], "weights file .* cannot be read as safetensors"),
        (["--set", "weights_file=/dev/zero"], "/dev/zero is a pipe, a socket or a device: give"),
        (["--set", f"accelerate={300 * 'a'}"], "accelerate cannot be 'a+': give one of"),
    ],
)
def test_a_value_that_cannot_be(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "mine", *options, "--out", tmp_path / "run") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(sentence, line), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        (300 * "a", "{}/config.json cannot be looked at"),
        ("/dev/null/run", "could not write {}/config.json"),
        ("/dev/full", "could not write {}/config.json"),
    ],
)
def test_a_place_that_cannot_be(
    out: str,
    sentence: str,
    resume: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "mine", "--epochs", "2", "--out", out, *resume) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert sentence.format(out) in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["show", "job", "finetune", "check"])
@pytest.mark.parametrize("path", [300 * "a", "/dev/zero"])
def test_a_file_that_cannot_be(
    command: str,
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, command, path) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert path in line
    assert not list(tmp_path.iterdir())


def test_as_many_seeds_as_there_can_be() -> None:
    with pytest.raises(GemkernError, match="seeds is 2147483648: give at most 10000"):
        gk.race("resnet8", "digits", seeds=2**31)
    assert len(plan(Settings(), ["dense"], range(10))) == 10


def test_devices_are_the_cpu_and_those_of_cuda() -> None:
    assert pick_device("cpu") == "cpu"
    for name in ("meta", "hpu", "xla", "mps", "", "cuda:-1", "cpu:x"):
        with pytest.raises(GemkernError, match="cannot be used here"):
            pick_device(name)


COMMAND = [sys.executable, "-m", "gemkern"]


def test_an_output_that_is_full_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "info"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 74
    assert done.stderr == (
        "gemkern: what it prints could not be written (No space left on device): let it print to "
        "a place that has room\n"
    )


def test_a_closed_output_is_no_error() -> None:
    words = f"{sys.executable} -m gemkern info"
    done = subprocess.run(
        ["sh", "-c", f"{words} >&- && {words} >&- 2>&-"], stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_while_modules_are_loaded(tmp_path: Path) -> None:
    # The first thing that is loaded after the package itself waits for the signal.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch':\n"
        "            print('loading', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (STOPPED, f"{SENTENCE}\n")
