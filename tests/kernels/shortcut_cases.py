"""Images and shortcuts of them: odd sizes, steps past the edge, nothing to take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from gemkern.kernels.reference.batch_last import batch_last
from torch import Tensor

INF, NAN = float("inf"), float("nan")
# Of what is copied no bit may change.
SPECIAL = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, 1e-40, 1.0])


class Case(NamedTuple):
    """Of images [channels, height, width]; stride by height and width, channels of zeros."""

    image: tuple[int, int, int]
    stride: tuple[int, int]
    before: int
    after: int

    def special(self, images: int) -> Tensor:
        """Return images, batch-last, of numbers that arithmetic would change."""
        return special(images, *self.image)


def special(*shape: int) -> Tensor:
    drawn = torch.randint(len(SPECIAL), shape, generator=torch.Generator().manual_seed(0))
    return batch_last(SPECIAL[drawn])


CASES = [
    Case((4, 8, 8), (2, 2), 2, 2),
    Case((3, 5, 7), (2, 3), 1, 0),
    Case((2, 7, 4), (1, 2), 0, 3),
    Case((1, 3, 5), (4, 9), 2, 1),
    Case((3, 4, 4), (1, 1), 0, 0),
    Case((0, 4, 4), (2, 2), 1, 2),
    Case((2, 0, 3), (2, 2), 1, 1),
]
