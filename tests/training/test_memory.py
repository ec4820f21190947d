"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from gemkern.training import keep_freed_memory
{first}
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(first: str) -> int:
    """Return how many pages 3 x 64 MiB ask the system for."""
    run = [sys.executable, "-c", FAULTS.format(first=first)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives pages back")
def test_freed_memory_is_used_again() -> None:
    assert _faults("keep_freed_memory()") < _faults("") / 2
