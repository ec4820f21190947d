"""Versions, devices and backends: true, complete, and cheap to ask for."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gemkern.kernels.table import BACKENDS, OPERATORS
from rich.console import Console

from gemkern.ops.dispatch import availability
from gemkern.report import environment


def shown(width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(environment.info())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_versions_are_those_installed() -> None:
    versions = environment.versions()
    assert list(versions) == [
        "gemkern", "python", "torch", "numpy", "triton", "numba", "safetensors", "scikit-learn",
    ]  # fmt: skip
    assert versions["python"] == platform.python_version()
    assert versions["gemkern"] == metadata.version("gemkern")
    assert versions["torch"] == metadata.version("torch")


def test_what_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert environment.versions()["no-such-package"] == "not installed"


def test_versions_import_no_package(tmp_path: Path) -> None:
    """Stand-ins for the packages have a version, and break when they are imported."""
    for package, folder in (("triton", "triton"), ("numba", "numba"), ("scikit-learn", "sklearn")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise ImportError('imported')\n")
        described = tmp_path / f"{package.replace('-', '_')}-9.8.7.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.8.7\n"
        )
    asked = (
        "import json, sys\n"
        "from gemkern.report.environment import versions\n"
        "before = set(sys.modules)\n"
        "found = versions()\n"
        "roots = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps([found, sorted(roots), 'sklearn' in sys.modules]))\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    versions, imported, sklearn = json.loads(answer.stdout)
    assert {versions[name] for name in ("triton", "numba", "scikit-learn")} == {"9.8.7"}
    assert not {"triton", "numba", "sklearn", "torch", "numpy"} & set(imported)
    assert not sklearn


def test_the_cpu_comes_first() -> None:
    cpu = environment.devices()[0]
    assert cpu["device"] == "cpu"
    assert cpu["name"]
    assert 1 <= cpu["cores"] <= cpu["hardware_threads"] == os.cpu_count()
    assert cpu["torch_threads"] == torch.get_num_threads()
    assert cpu["capability"] == torch.backends.cpu.get_cpu_capability()
    assert json.loads(json.dumps(environment.devices())) == environment.devices()


def test_the_cpu_is_named_and_its_cores_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [
        {"model name": "Fast: 9000", "physical id": socket, "core id": core}
        for socket in "01"
        for core in "01"
        for _ in range(2)
    ]
    text = "\n\n".join(
        "\n".join(f"{key}\t: {value}" for key, value in thread.items()) for thread in threads
    )
    monkeypatch.setattr(Path, "read_text", lambda path, **options: text + "\n\n")
    cpu = environment.devices()[0]
    assert (cpu["name"], cpu["cores"]) == ("Fast: 9000", 4)


def test_a_system_that_describes_no_processor_still_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, **options: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    cpu = environment.devices()[0]
    assert cpu["name"] == (platform.processor() or platform.machine())
    assert cpu["cores"] == os.cpu_count()


def test_each_cuda_device_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="Big GPU", total_memory=3 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    _, first, second = environment.devices()
    assert first == {
        "device": "cuda:0", "name": "Big GPU", "memory_bytes": 3 * 2**30, "capability": "9.0",
    }  # fmt: skip
    assert second["device"] == "cuda:1"
    text = shown()
    assert "cuda:1" in text
    assert "3.0 GiB" in text


def test_info_names_every_operator_and_backend_and_says_why_not() -> None:
    words = shown().replace(",", " ").split()
    assert set(OPERATORS) <= set(words)
    assert set(BACKENDS) <= set(words)
    reasons = {reason for row in availability().values() for reason in row.values() if reason}
    for reason in reasons:
        assert set(reason.replace(",", " ").split()) <= set(words)
    assert environment.SERVES in words


def test_info_shows_versions_and_devices() -> None:
    text = shown()
    for package, version in environment.versions().items():
        assert any(line.split() == [package, *version.split()] for line in text.splitlines())
    assert environment.devices()[0]["name"] in text


def test_operators_with_one_answer_share_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = "triton is not installed: pip install 'gemkern[gpu]'"
    answers = {
        "threshold": {"gpu": absent, "reference": ""},
        "select_kth": {"gpu": "", "reference": ""},
        "pack_mask": {"gpu": absent, "reference": ""},
    }
    monkeypatch.setattr(environment, "availability", lambda: answers)
    lines = [line.split() for line in shown(width=140).splitlines()]
    assert ["threshold,", "pack_mask", *absent.split(), "serves"] in lines
    assert ["select_kth", "serves", "serves"] in lines
