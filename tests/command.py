"""The command line, called as a user calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gemkern.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Return the exit code of `gemkern ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["gemkern", *(str(argument) for argument in arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
