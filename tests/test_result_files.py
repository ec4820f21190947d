"""Result files are named by their machine and say what stands behind them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import readme, result_files
from benchmarks.result_files import machine
from gemkern.experiments.presets import resolve
from gemkern.experiments.run_folder import RunFolder


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Intel(R) Xeon(R) Processor", "xeon"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "xeon-platinum-8481c"),
        ("AMD EPYC 7B13 64-Core Processor", "epyc-7b13"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("x86_64", "x86-64"),
        ("Processor", "unknown"),
    ],
)
def test_a_machine_has_a_short_name(device: str, name: str) -> None:
    assert machine({"name": device}) == name
    assert machine({"name": device, "torch_threads": 2}) == f"{name}-2-threads"


def test_wide_vectors_are_in_the_name_of_a_machine() -> None:
    device = {"name": "AMD EPYC", "torch_threads": 2}
    assert machine({**device, "capability": "AVX512"}) == "epyc-avx512-2-threads"
    assert machine({**device, "capability": "AVX2"}) == "epyc-2-threads"


def test_a_device_is_found_by_its_pytorch_name() -> None:
    there = [{"device": "cpu"}, {"device": "cuda:0"}, {"device": "cuda:1"}]
    for name, place in (("cpu", 0), ("cuda", 1), ("cuda:1", 2)):
        assert result_files.used(name, there) == there[place]


def test_what_is_kept_is_read_and_plain_lists_take_a_line(tmp_path: Path) -> None:
    content = {"one": [1, -2.5e-3], "text": ["a, [b]", 'c "d"'], "rows": [{"x": [1, [2, 3]]}, {}]}
    path = result_files.keep(tmp_path, "some-machine", content)
    assert result_files.kept("some-machine", tmp_path) == content
    assert ' "one": [1, -0.0025],\n' in path.read_text(encoding="utf-8")


def test_results_do_not_count_as_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(result_files, "ROOT", tmp_path)
    code, result = tmp_path / "code.py", tmp_path / "benchmarks" / "results" / "cpu.json"
    result.parent.mkdir(parents=True)
    for path in (code, result):
        path.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    result.write_text("2")
    about = result_files.about("command")
    assert len(about["commit"]) == 40
    assert not about["changed"]
    code.write_text("2")
    assert result_files.changed()


def test_folders_are_left_out_of_a_command() -> None:
    line = "gemkern race --data-dir /a/b --seeds 3 --out=c/d"
    assert result_files.without_folders(line) == "gemkern race --data-dir DIR --seeds 3 --out DIR"


def test_a_run_is_kept_under_the_name_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**resolve("digits", {"device": "cpu"}).as_dict(), "data_dir": "a/b"}
    folder = RunFolder.create(tmp_path / "run", config=config, command="gemkern race --out a/b")
    folder.write([])
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    readme.keep(folder.path, "digits")
    found = result_files.kept(result_files.named("digits", result_files.used("cpu")), tmp_path)
    assert found["command"] == "gemkern race --out DIR"
    assert found["config"]["data_dir"] is None
    assert found["dtype"] == "float32"
    assert {"commit", "changed", "layout", "versions", "runs"} <= set(found)
