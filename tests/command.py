"""The command line, called as a user calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gemkern.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Return the exit code of `gemkern ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["gemkern", *(str(argument) for argument in arguments)])
    flushes = bool(torch.tensor(1e-40) * 1.0 == 0.0)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        # A command flushes denormals for as long as it lives, which here is not the process.
        torch.set_flush_denormal(flushes)
    return 0
