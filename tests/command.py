"""The command line, called as a user calls it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemkern.cli import main
from gemkern.tickets import METHODS, Start


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[Any], seconds: float) -> None:
    """Wait until `condition` holds, while `process` lives; not longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fail_at(monkeypatch: pytest.MonkeyPatch, method: str, seed: int, error: Exception) -> None:
    """Let a method raise where it is made for a seed."""
    entry = METHODS[method]

    def broken(start: Start) -> Any:
        if start.seed == seed:
            raise error
        return entry.make(start)

    monkeypatch.setitem(METHODS, method, replace(entry, make=broken))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Return the exit code of `gemkern ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["gemkern", *(str(argument) for argument in arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
