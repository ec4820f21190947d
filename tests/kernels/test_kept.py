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
        # Streams, and devices whose current stream is another one.
        self.capturing: set[str | int | None] = set()
        self._current: str | int | None = 0
        self._handed_out = 0

    def Stream(self, device: torch.device, priority: int) -> str:
        """Hand out one of three streams in turn."""
        self._handed_out += 1
        return f"stream {self._handed_out % 3} of {device}"

    @contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self._current = self._current, device.index
        yield
        self._current = before

    def copy(self, device: torch.device) -> None:
        self.log.append(f"copy to {device} on {self._current}")

    def is_current_stream_capturing(self) -> bool:
        return self._current in self.capturing

    def synchronize(self, device: torch.device) -> None:
        self.log.append(f"wait for {device}")


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(kept, "_captured", {})
    monkeypatch.setattr(kept, "_streams", {})


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda([])
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: SimpleNamespace(to=fake.copy))
    return fake


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
    for _ in range(2):
        kept.filled([1, 2], torch.int64, CUDA)
    assert cuda.log == 2 * ["copy to cuda:1 on stream 1 of cuda:1"]


def test_a_fill_takes_no_stream_that_is_captured(cuda: FakeCuda) -> None:
    """There are few, and they are handed out again and again."""
    kept.filled([1], torch.int64, CUDA)
    cuda.capturing = {"stream 1 of cuda:1", "stream 2 of cuda:1"}
    kept.filled([2], torch.int64, CUDA)
    cuda.capturing = {"stream 1 of cuda:1"}
    kept.filled([3], torch.int64, CUDA)
    assert [line[-19:] for line in cuda.log] == [
        " stream 1 of cuda:1", " stream 0 of cuda:1", " stream 0 of cuda:1"
    ]  # fmt: skip


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


def test_every_graph_reads_what_the_first_one_reads(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another has pushed it out meanwhile: the first still reads what it had."""
    monkeypatch.setattr(kept, "MOST", 2)
    first, again = object(), object()
    cuda.capturing = {1}
    assert kept.kept("number", CUDA, lambda: first) is first
    cuda.capturing = set()
    for key in range(5):
        ask(key, CUDA, [])
    assert "number" not in kept._kept
    cuda.capturing = {1}
    assert kept.kept("number", CUDA, lambda: again) is first


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
