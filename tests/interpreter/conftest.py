"""The Triton kernels in Triton's interpreter, on the CPU, against the reference.

Every tensor that a launcher allocates is poisoned, and lies between guard bands that are checked
after each test: an element that no program wrote, or a store beyond the end, cannot pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton.language as tl
from guards import Guards
from triton.runtime import interpreter

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


@pytest.fixture
def rehearsed(tmp_path: Path) -> Any:
    """A bench of tiny shapes on the CPU."""
    from benchmarks.gpu import run
    from benchmarks.gpu.result import Result

    return run.rehearsed(Result(tmp_path / "gpu.json", {}), seconds=600)


@pytest.fixture(autouse=True)
def denormals_count() -> Iterator[None]:
    """Undo what races and benchmarks ask of their process, whichever test follows them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="session")
def languages_patched_once() -> Iterator[None]:
    """Let a launch patch Triton's language once, and not at every call of a device function.

    What is patched is no built-in function any more, so that to patch it again changes nothing.
    """
    patch, patched = interpreter._patch_lang, set()

    def patch_once(fn: Any) -> Any:
        seen = fn.__globals__.values()
        languages = tuple(any(one is module for one in seen) for module in (tl, tl.core))
        if languages in patched:
            return interpreter._LangPatchScope()
        patched.add(languages)
        scope = patch(fn)
        restore = scope.restore

        def forget() -> None:
            patched.clear()
            restore()

        scope.restore = forget
        return scope

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(interpreter, "_patch_lang", patch_once)
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from gemkern.kernels.gpu.threshold import threshold_kernel

    name = type(threshold_kernel).__name__
    terminalreporter.write_line(f"kernels ran as {name}")
    assert name == "InterpretedFunction"
