"""Numbers that launches read on the device: filled once, whoever reads them, and whenever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gemkern.kernels import kept
from torch._subclasses.fake_tensor import FakeTensorMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


class FakeCuda:
    """What `torch.cuda` is to numbers that are kept, with a word for each thing that is done."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.capturing: set[int] = set()
        self._current = 0

    def Stream(self, device: torch.device) -> str:
        return f"stream of {device}"

    @contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        self.log.append(f"on {stream}")
        yield
        self.log.append("off")

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self._current = self._current, device.index
        yield
        self._current = before

    def is_current_stream_capturing(self) -> bool:
        return self._current in self.capturing

    def synchronize(self, device: torch.device) -> None:
        self.log.append(f"wait for {device}")


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(kept, "_captured", {})
    kept._stream.cache_clear()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    log: list[str] = []
    on_host = SimpleNamespace(to=lambda device: log.append(f"copy to {device}"))
    fake = FakeCuda(log)
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: on_host)
    yield fake
    kept._stream.cache_clear()


def ask(key: Any, device: torch.device, made: list[Any]) -> Any:
    return kept.kept(key, device, lambda: made.append(key) or f"item of {key}")


def test_what_was_asked_for_is_found_again() -> None:
    made: list[Any] = []
    assert [ask(key, CPU, made) for key in (1, 2, 1)] == ["item of 1", "item of 2", "item of 1"]
    assert made == [1, 2]


def test_the_least_recently_read_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 4)
    made: list[Any] = []
    for key in (1, 2, 3, 4, 1, 5):
        ask(key, CPU, made)
    made.clear()
    for key in (1, 4, 5, 2, 3):
        ask(key, CPU, made)
    assert made == [2, 3]


def test_a_fill_is_over_before_anyone_hears_of_it(cuda: FakeCuda) -> None:
    """On a stream of its own, by a copy that the host waits for: no other stream has to."""
    kept.filled([1, 2], torch.int64, CUDA)
    assert cuda.log == ["on stream of cuda:1", "copy to cuda:1", "off"]


def test_what_a_graph_has_captured_is_never_let_go(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    made: list[Any] = []
    ask("captured", CUDA, made)
    cuda.capturing = {0}
    ask("on another device", CUDA, made)
    cuda.capturing = {1}
    for key in ("captured", "too", "many"):
        ask(key, CUDA, made)
    assert set(kept._captured) == {"captured", "too", "many"}
    assert cuda.log == [], "while a graph is captured nothing may wait for the device"


def test_nothing_is_let_go_while_a_kernel_may_read_it(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    made: list[Any] = []
    for key in (1, 2):
        ask(key, CUDA, made)
    assert cuda.log == []
    ask(3, CUDA, made)
    assert cuda.log == ["wait for cuda:1"]
    assert list(kept._kept) == [2, 3]


def test_a_number_is_one_tensor_for_all_that_read_it() -> None:
    half = kept.number(0.5, torch.float32, CPU)
    assert half is kept.number(0.5, torch.float32, CPU)
    assert half is not kept.number(0.5, torch.float64, CPU)
    assert (half.item(), half.dtype, half.shape) == (0.5, torch.float32, ())


def test_a_number_made_in_inference_can_be_saved_for_a_gradient() -> None:
    with torch.inference_mode():
        third = kept.number(1 / 3, torch.float32, CPU)
    assert not third.is_inference()
    x = torch.ones((), requires_grad=True)
    (x * third).backward()
    assert x.grad == third


def test_a_number_made_while_tensors_are_fake_is_real() -> None:
    with FakeTensorMode():
        number = kept.number(0.25, torch.float32, CPU)
    assert type(number) is torch.Tensor
    assert number.item() == 0.25
