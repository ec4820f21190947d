"""A first call that compiles says so, once; one that finds its code on the disk says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOTICE = "gemkern: compiling CPU kernels for this machine, once: one to ten minutes for a race\n"
SILENCE = "import logging; logging.getLogger('gemkern').setLevel('ERROR')\n"
KERNELS = """
import sys

import numba, torch
from gemkern import ops
from gemkern.kernels.cpu.machine.threads import start_threads

start_threads()
# Functions of the user's own, compiled each time; one of no module.
numba.njit(lambda x: x + 1)(1)
numba.njit(eval("lambda x: x + 1", {}))(1)
print(end="|", file=sys.stderr)
for dtype in (torch.float32, torch.float64):
    ops.threshold([torch.rand(3, dtype=dtype)], [torch.ones(3, dtype=torch.bool)])
"""


def said(script: str, cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "GEMKERN_BACKEND": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    return done.stderr


def test_compiling_is_said_once_and_loading_is_not(tmp_path: Path) -> None:
    assert said(KERNELS, tmp_path) == f"|{NOTICE}"
    assert said(KERNELS, tmp_path) == "|"


def test_what_is_older_than_the_sources_is_compiled_anew(tmp_path: Path) -> None:
    said(KERNELS, tmp_path)
    kept = list(tmp_path.rglob("*.nbi"))
    assert kept
    for index in kept:
        os.utime(index, (0, 0))
    assert len({index.parent for index in kept}) > 1, "one folder alone says nothing of the others"
    assert said(KERNELS, tmp_path) == f"|{NOTICE}"
    assert all(index.stat().st_mtime for index in tmp_path.rglob("*.nbi"))
    assert said(KERNELS, tmp_path) == "|"


def test_logging_switches_it_off(tmp_path: Path) -> None:
    assert said(SILENCE + KERNELS, tmp_path) == "|"
    assert list(tmp_path.rglob("*.nbi")), "it did compile"
