"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A small allocation may take the end of a block just freed, so single rounds ask for memory anew.
FEWEST_FAULTS = """
import resource, torch
from gemkern.nn import keep_freed_memory
{first}
fewest = 2**24
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    fewest = min(fewest, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(fewest)
"""


def _fewest_faults(first: str) -> int:
    """Return how many pages a tensor of 64 MiB asks the system for, in the best of 16 rounds."""
    run = [sys.executable, "-c", FEWEST_FAULTS.format(first=first)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


ACCELERATED = """
import gemkern as gk
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
gk.convert(model)
model[0].active.zero_()
gk.accelerate(model)
"""


@pytest.mark.parametrize("keeping", ["keep_freed_memory()", ACCELERATED])
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives pages back")
def test_freed_memory_is_used_again(keeping: str) -> None:
    assert _fewest_faults(keeping) < _fewest_faults("") / 2
