"""What is asked of CUDA when steps are captured, in which order; nothing here needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gemkern.training import graphs


class FakeCuda:
    """What `torch.cuda` is to a capture, with a word for each thing that is done to it."""

    def __init__(self, fails: bool) -> None:
        self.log: list[str] = []
        self._fails = fails
        self._made = 0

    def Stream(self, device: torch.device) -> FakeStream:
        self._made += 1
        return FakeStream(("side", "first", "second", "third")[self._made - 1], self.log)

    def current_stream(self, device: torch.device) -> FakeStream:
        return FakeStream("current", self.log)

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.log.append(f"on {stream.name}")
        yield
        self.log.append("off")

    def set_stream(self, stream: FakeStream) -> None:
        self.log.append(f"set {stream.name}")

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    @contextmanager
    def graph(self, graph: Any, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        self.log.append(f"capture on {stream.name}")
        yield
        if self._fails:
            raise RuntimeError("the capture was invalidated")


@dataclass
class FakeStream:
    name: str
    log: list[str]

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.mark.parametrize("fails", [False, True])
def test_cuda_warms_up_and_captures_on_one_stream(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    cuda = FakeCuda(fails)
    monkeypatch.setattr(torch, "cuda", cuda)
    ours = graphs.graphs_on(torch.device("cuda"))
    assert ours is not None
    ours.warm_up(lambda: cuda.log.append("call"))
    ordered = ["side waits for current", "on side", "call", "off", "current waits for side"]
    assert cuda.log == ordered
    cuda.log.clear()
    with pytest.raises(RuntimeError) if fails else nullcontext():
        ours.capture(lambda: cuda.log.append("call"))()
    assert cuda.log == ["capture on side", "call", "set current" if fails else "replay"]


def test_cuda_runs_steps_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(fails=False)
    monkeypatch.setattr(torch, "cuda", cuda)
    ours = graphs.graphs_on(torch.device("cuda"))
    assert ours is not None
    calls = [lambda: cuda.log.append("one"), lambda: cuda.log.append("two")]
    for _ in range(2):
        cuda.log.clear()
        ours.side_by_side(calls)
        assert cuda.log == [
            *("first waits for current", "on first", "one", "off"),
            *("second waits for current", "on second", "two", "off"),
            *("current waits for first", "current waits for second"),
        ]
