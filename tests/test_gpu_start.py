"""A GPU's machine gets a bare copy of the tree: no repository, no network, nothing installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "runs", "build", "dist")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of the tree with an environment that has all that gemkern needs, and not gemkern."""
    shutil.copytree(ROOT, tmp_path / "tree", ignore=LEFT_OUT)
    venv.create(tmp_path / "environment", with_pip=False)
    (site,) = (tmp_path / "environment" / "lib").glob("python3*/site-packages")
    # Packages alone: what is installed in place there, by files like this one, does not follow.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "tree"


@pytest.mark.timeout(600)
def test_one_command_starts_from_a_bare_copy(bare: Path, tmp_path: Path) -> None:
    kept_out = ("PYTHON", "VIRTUAL", "GEMKERN", "GIT")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(kept_out)}
    environment |= {
        "PYTHON": str(tmp_path / "environment" / "bin" / "python"),
        # Whoever asked an index, or a repository above the copy, would fail.
        "PIP_INDEX_URL": "file:///nowhere",
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
        "TRITON_INTERPRET": "1",
    }
    command = [
        bare / "benchmarks" / "gpu" / "start.sh", "--rehearse", "--sections", "ceilings,graphs",
        "--commit", "abc123", "--out", tmp_path / "out",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("*.json")
    about = json.loads(path.read_text(encoding="utf-8"))["about"]
    assert about["commit"] == "abc123"
    assert str(ROOT) not in done.stdout
    where = subprocess.run(
        [environment["PYTHON"], "-c", "import gemkern.kernels as k; print(k.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(bare)), "what runs is the copy"
    assert sys.prefix not in where.stdout
