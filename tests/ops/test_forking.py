"""Children that are forked from a process whose kernels have run in threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where a process forks")

PROGRAM = """
import os, signal, torch
import gemkern as gk
from gemkern import ops
torch.set_num_threads(2)
layer = gk.MaskedConv2d(3, 4, 3)
layer.active.view(-1)[::2] = False
layer.compress()
x = torch.randn(4, 3, 5, 5)
expected = layer(x) + 0
assert ops.dispatch.choose("norm_sparse_conv2d", "cpu") == "cpu"
child = os.fork()
if child == 0:
    signal.alarm(30)
    try:
        layer(x) + 0
    except gk.GemkernError as error:
        print(error, flush=True)
    torch.set_num_threads(1)
    torch.testing.assert_close(layer(x) + 0, expected)
    layer(x).sum().backward()
    print("served by", ops.dispatch.choose("norm_sparse_conv2d", "cpu"), flush=True)
    os._exit(0)
print("the child returned", os.waitpid(child, 0)[1])
torch.testing.assert_close(layer(x) + 0, expected)
print("the parent goes on with", ops.dispatch.choose("norm_sparse_conv2d", "cpu"))
"""


def test_a_forked_child_is_refused_or_works() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=True
    )
    refusal, served, returned, parent = run.stdout.splitlines()
    assert "forked from: start it by spawn, or call torch.set_num_threads(1)" in refusal
    assert served == "served by reference"
    assert returned == "the child returned 0"
    assert parent == "the parent goes on with cpu"
