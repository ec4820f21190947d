"""Changes of layout by the CPU backend: copies, bit for bit."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu import batch_last as layouts
from gemkern.kernels.reference.batch_last import is_batch_last

SHAPES = [
    (128, 3, 32, 32),
    (128, 64, 8, 8),
    (16, 700),
    (1000, 10),
    (3, 5, 29, 31),
    (77, 130),
    (1, 3, 64, 64),
    (9000, 1),
    # From here on results go past the caches.
    (128, 16, 32, 33),
    (130, 4, 64, 65),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("few", [0, 2**13])
def test_there_and_back(shape: tuple[int, ...], few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "FEW", few)
    x = torch.randn(shape)
    x.view(-1)[::7] = float("nan")
    turned = layouts.batch_last(x)
    assert is_batch_last(turned)
    assert torch.equal(turned.view(torch.int32), x.view(torch.int32))
    back = layouts.contiguous(turned)
    assert back.is_contiguous()
    assert torch.equal(back.view(torch.int32), x.view(torch.int32))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(0, 3, 4, 4),
        torch.randn(4, 0, 3, 3),
        torch.randn(64, 16, 16, 16, dtype=torch.float64),
        torch.randn(64, 16, 16, 16).to(memory_format=torch.channels_last),
        torch.randn(64, 16, 32, 16)[:, :, ::2],
        torch.randn(()).expand(64, 16, 16, 16),
    ],
    ids=["no images", "no channels", "float64", "channels last", "strided", "expanded"],
)
def test_what_it_leaves_to_pytorch(x: torch.Tensor) -> None:
    turned = layouts.batch_last(x)
    assert turned.stride() == reference.batch_last(x).stride()
    assert torch.equal(turned, x)
    assert torch.equal(layouts.contiguous(x), x)
    assert layouts.contiguous(x).is_contiguous()


def test_what_lies_right_is_no_copy() -> None:
    x = torch.randn(64, 16, 16, 16)
    assert layouts.contiguous(x) is x
    turned = layouts.batch_last(x)
    assert layouts.batch_last(turned) is turned
