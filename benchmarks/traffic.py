"""Kernels that work element by element, with what they have to move: on any device.

An operator's bytes are those of its operands and results, each number once: no kernel can do with
less, and the time of a copy that moves as many is the bound of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gemkern.kernels import table
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.normalise import Norm
from torch import Tensor

from benchmarks.gpu.baselines import L2, LR, MOMENTUM, TAU, State, random_state
from benchmarks.gpu.exactness import copied, require_same, tensors

BETAS, EPS = (0.9, 0.999), 1e-8
# What edge-popup keeps of each layer, and what a freeze takes of all layers.
KEPT, FROZEN = 0.5, 0.136
BIT = 1 / 8
WINDOW, NO_PADDING = (2, 2), (0, 0)
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1
REFERENCE = "reference"
# Of a float32 result whose sums may be in another order.
RTOL, ATOL = 1e-3, 1e-4


@dataclass(frozen=True)
class Moving:
    """An operator with its arguments.

    Attributes:
        of: what the arguments are, in words.
        bytes: read and written, each number once.
        exact: whether every backend gives the same bits.
    """

    operator: str
    of: str
    arguments: tuple[Any, ...]
    bytes: int
    exact: bool = True

    def call(self, backend: str) -> Callable[[], Any]:
        """Return the call of a backend's kernel, which may change its arguments in place.

        Raises:
            AssertionError, WrongResult: it gives another result than the reference.
        """
        kernel = table.load(self.operator, backend)
        ours, theirs = copied(self.arguments), copied(self.arguments)
        got = kernel(*ours), ours
        wanted = table.load(self.operator, REFERENCE)(*theirs), theirs
        if self.exact:
            require_same(got, wanted, f"{self.operator} {self.of}")
        else:
            _require_near(got, wanted)
        return lambda: kernel(*ours)


def _require_near(got: Any, wanted: Any) -> None:
    for one, other in zip(tensors(got), tensors(wanted), strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=RTOL, atol=ATOL * scale)


def over_weights(
    operator: str,
    name: str,
    shapes: Sequence[tuple[int, ...]],
    device: str,
    narrow: torch.dtype = torch.float32,
) -> Moving:
    """Return one of WEIGHT_OPERATORS over all weights of a network.

    Args:
        name, shapes: of the network and of its weights.
        narrow: the dtype of effective weights.
    """
    arguments, bytes_of = WEIGHT_OPERATORS[operator]
    of = random_state(shapes, device, narrow)
    weights = sum(score.numel() for score in of.scores)
    moved = round(weights * bytes_of(of.effective[0].element_size()))
    return Moving(operator, name, arguments(of), moved)


def over_activations(batch: int, channels: int, size: int) -> Iterator[Moving]:
    """Yield what works on float32 activations [batch, channels, size, size], batch-last.

    Changes of layout, norms, poolings, and the shortcut that halves the image and doubles the
    channels.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, size, size)
    x, grad_y = (batch_last(torch.randn(shape, generator=generator)) for _ in range(2))
    of, number = f"{channels}x{size}x{size}", x.nbytes
    mean, bias = torch.zeros(channels), torch.full((channels,), 0.1)
    var, weight = torch.ones(channels), torch.full((channels,), 0.9)
    learned = (weight, bias)
    running = (mean.clone(), var.clone(), True, NORM_MOMENTUM, NORM_EPS, True)
    norm = Norm(mean, var, *learned, NORM_EPS)
    reference = {name: table.load(name, REFERENCE) for name in ("batch_norm_relu", "normalise")}
    _, was, invstd = reference["batch_norm_relu"](x, None, *learned, *copied(running))
    z = reference["normalise"](x, norm)
    geometry = (WINDOW, WINDOW, NO_PADDING)
    small, taps = table.load("max_pool2d", REFERENCE)(x, *geometry)
    grad_small = batch_last(torch.randn(small.shape, generator=generator))
    pooled = number + small.nbytes
    padding = (channels // 2, channels - channels // 2)
    short = table.load("padded_shortcut", REFERENCE)(x, WINDOW, *padding)
    # Of x the shortcut reads what it takes, as many pixels as `small` has; of its gradient too.
    forward, back = small.nbytes + short.nbytes, small.nbytes + number
    both, windows = "normalise_max_pool2d", (WINDOW, WINDOW)
    results = table.load(both, REFERENCE)(x, norm, *windows)
    yield from (
        Moving(operator, of, arguments, moved, exact=False)
        for operator, arguments, moved in (
            ("batch_last", (x.contiguous(),), 2 * number),
            ("contiguous", (x,), 2 * number),
            ("batch_norm_relu", (x, None, *learned, *running), 2 * number),
            (
                "batch_norm_relu_backward",
                (grad_y, x, None, *learned, was, invstd, True, True, False),
                3 * number,
            ),
            ("normalise", (x, norm), 2 * number),
            ("normalise_backward", (grad_y, z, x, norm, False), 4 * number),
            (both, (x, norm, *windows), pooled + taps.nbytes),
            (
                f"{both}_backward",
                (grad_small, *results, x, norm, *windows),
                2 * pooled + taps.nbytes,
            ),
            ("average_pool2d", (x, *geometry, True), pooled),
            ("average_pool2d_backward", (grad_small, x.shape, *geometry, True), pooled),
            ("max_pool2d", (x, *geometry), pooled + taps.nbytes),
            ("max_pool2d_backward", (grad_small, taps, x.shape, *geometry), pooled + taps.nbytes),
            ("padded_shortcut", (x, WINDOW, *padding), forward),
            ("padded_shortcut_backward", (short, x.shape, WINDOW, padding[0]), back),
        )
    )


def _threshold(of: State) -> tuple[Any, ...]:
    return of.scores, of.active, _number(of, TAU)


def _effective_weight(of: State) -> tuple[Any, ...]:
    return of.weights, *_threshold(of), of.effective[0].dtype


def _straight_through(of: State) -> tuple[Any, ...]:
    return of.grads, of.weights, of.active


def _pack_mask(of: State) -> tuple[Any, ...]:
    return (torch.cat([on.flatten() for on in of.active]),)


def _unpack_mask(of: State) -> tuple[Any, ...]:
    (mask,) = _pack_mask(of)
    return table.load("pack_mask", REFERENCE)(mask), mask.shape


def _select_kth(of: State) -> tuple[Any, ...]:
    count = sum(on.sum() for on in of.active)
    return of.scores, of.active, (FROZEN * count).long()


def _remove_lowest(of: State) -> tuple[Any, ...]:
    ranked = _select_kth(of)
    return of.scores, of.active, *table.load("select_kth", REFERENCE)(*ranked)


def _popup_mask(of: State) -> tuple[Any, ...]:
    counts = [round(KEPT * score.numel()) for score in of.scores]
    return of.scores, torch.tensor(counts, device=of.scores[0].device)


def _popup_weight(of: State) -> tuple[Any, ...]:
    return of.weights, *_popup_mask(of), of.effective[0].dtype


def _score_step_sgd(of: State) -> tuple[Any, ...]:
    return *of.lists(), _number(of, LR), _number(of, L2), MOMENTUM, False


def _score_step_adam(of: State) -> tuple[Any, ...]:
    squares = [torch.zeros_like(score) for score in of.scores]
    state = (of.scores, of.active, of.grads, of.buffers, squares, of.weights, of.effective)
    return *state, *(_number(of, value) for value in (LR, L2, 1.0)), *BETAS, EPS


def _number(of: State, value: float) -> Tensor:
    return torch.tensor(value, device=of.scores[0].device)


# Arguments, and bytes for a weight where an effective weight takes n: scores, weights, gradients
# and moments are float32, `active` and masks bool. A selection reads each score once, at least.
WEIGHT_OPERATORS: dict[str, tuple[Callable[[State], tuple[Any, ...]], Callable[[int], float]]] = {
    "threshold": (_threshold, lambda n: 4 + 1 + 1),
    "effective_weight": (_effective_weight, lambda n: 4 + 4 + 1 + n),
    "straight_through": (_straight_through, lambda n: 4 + 4 + 1 + 4),
    "pack_mask": (_pack_mask, lambda n: 1 + BIT),
    "unpack_mask": (_unpack_mask, lambda n: BIT + 1),
    "select_kth": (_select_kth, lambda n: 4 + 1),
    "remove_lowest": (_remove_lowest, lambda n: 4 + 1 + 1),
    "popup_mask": (_popup_mask, lambda n: 4 + 1),
    "popup_weight": (_popup_weight, lambda n: 4 + 4 + n),
    "score_step_sgd": (_score_step_sgd, lambda n: (4 + 1 + 4 + 4 + 4) + (4 + 4 + n)),
    "score_step_adam": (_score_step_adam, lambda n: (4 + 1 + 4 + 4 + 4 + 4) + (4 + 4 + 4 + n)),
}
