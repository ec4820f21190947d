"""What tests of several rooms need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed


@pytest.fixture(autouse=True)
def exact_denormals() -> Iterator[None]:
    """Let no test leave denormals flushed, as commands do for as long as their process lives."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of one."""
    # The host's name need not lead to an address of this machine.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()
