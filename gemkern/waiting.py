"""How threads of OpenMP wait for work; it is settled when PyTorch is loaded.

Threads that spin keep the cores from whoever else would work on them, and each other's work from
being begun: beside other busy processes a step took five to thirty times as long. Those that sleep
at once have to be woken at every kernel. With a short spin a step takes 5 to 20 % longer where
nothing else runs, and is 1.7 to 3.6 times as fast beside one busy process (`benchmarks.busy`).
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

# GNU's OpenMP: turns of a loop before a thread sleeps.
SPINS = {"GOMP_SPINCOUNT": "1000"}
# What a user may have said of it.
SAID = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def prepare() -> None:
    """Let threads of the command line spin for a short time only, unless the user said otherwise.

    A library does not change its user's environment: set GOMP_SPINCOUNT=1000 before Python starts.
    """
    if is_command() and not any(name in os.environ for name in SAID):
        os.environ.update(SPINS)


def is_command() -> bool:
    """Return whether this process is `gemkern` or `python -m gemkern`."""
    words = sys.orig_argv
    as_module = any(pair == ("-m", "gemkern") for pair in itertools.pairwise(words))
    return as_module or Path(sys.argv[0] if sys.argv else "").name in ("gemkern", "gemkern.exe")
