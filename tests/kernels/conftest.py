"""What the tests of kernels on the CPU share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from guards import Guards

pytest.register_assert_rewrite("suites")


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guards]:
    """Poison what is allocated under the name torch.empty and its like, between guard bands."""
    guards = Guards()
    monkeypatch.setattr(torch, "empty_like", guards.empty_like)
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda *args, **options: guards.new_empty(*args, **options)
    )
    yield guards
    guards.check()


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Let a kernel share its work out among so many threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set torch's number of threads; it is put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
