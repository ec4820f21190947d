"""The Triton kernels in Triton's interpreter, on the CPU, against the reference.

Every tensor that a launcher allocates is poisoned, and lies between guard bands that are checked
after each test: an element that no program wrote, or a store beyond the end, cannot pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from guards import Guards

pytest.register_assert_rewrite("suites")

if os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError(
        "tests/interpreter needs TRITON_INTERPRET=1 from the start of the process: see Makefile"
    )


@pytest.fixture(autouse=True)
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guards]:
    """Poison and guard what is allocated under the name torch.empty and its like."""
    guards = Guards()
    monkeypatch.setattr(torch, "empty", guards.empty)
    monkeypatch.setattr(torch, "empty_like", guards.empty_like)
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda *args, **kw: guards.new_empty(*args, **kw)
    )
    yield guards
    guards.check()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from gemkern.kernels.gpu.threshold import threshold_kernel

    name = type(threshold_kernel).__name__
    terminalreporter.write_line(f"kernels ran as {name}")
    assert name == "InterpretedFunction"
