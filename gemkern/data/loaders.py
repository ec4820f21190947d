"""PyTorch's DataLoaders in the place of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gemkern.data.batches import WHOLE, Share
from gemkern.data.randomness import Stream, random_numbers
from gemkern.errors import GemkernError

Batch = tuple[Tensor, Tensor]


class Loaders:
    """The batches of DataLoaders, which yield pairs of inputs and class labels.

    Args:
        train: of a known length. Its order becomes a function of seed and epoch: its generator, or
            PyTorch's global one where it has none, is seeded when an epoch begins.
        test: looked at when a phase has ended; at the end of each epoch too where there is no
            `validation`.
        validation: looked at at the end of each epoch.
        name: for messages and records.
        device: where batches are brought.

    Raises:
        GemkernError: a loader that is empty or yields something else.
    """

    def __init__(
        self,
        train: DataLoader[Any],
        test: DataLoader[Any],
        validation: DataLoader[Any] | None = None,
        *,
        name: str = "loaders",
        device: torch.device | str = "cpu",
    ) -> None:
        self._splits = {"train": train, "test": test, "validation": validation or test}
        self.name = name
        self.device = torch.device(device)
        self._length = _length(train)
        with torch.random.fork_rng(devices=[]):
            inputs, _ = next(self.evaluation("test"), (None, None))
        if inputs is None:
            raise GemkernError("the test loader yields no batch: give one with data")
        self._input_shape = inputs.shape[1:]

    @property
    def classes(self) -> int | None:
        """How many classes the training data name, by their `classes`; None where they do not."""
        named = getattr(getattr(self._splits["train"], "dataset", None), "classes", None)
        return named if isinstance(named, int) else None if named is None else len(named)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: channels, height and width of an image."""
        return tuple(self._input_shape)

    def to(self, device: torch.device | str) -> Loaders:
        """Return the same loaders, with batches brought to `device`."""
        train, test, validation = self._splits.values()
        return Loaders(train, test, validation, name=self.name, device=device)

    def training(self, batch_size: int, seed: int, share: Share = WHOLE) -> LoaderBatches:
        """Return the training batches; their size is the loader's.

        Raises:
            GemkernError: a share of each batch is asked for.
        """
        if share != WHOLE:
            raise GemkernError(
                "the batches of a DataLoader are not shared by ranks: give a Dataset of gemkern, "
                "or train in one process"
            )
        return LoaderBatches(self._splits["train"], self._length, seed, self.device)

    def evaluation(self, split: str, batch_size: int = 500) -> Iterator[Batch]:
        """Iterate over the loader of `split`, "train", "validation" or "test"."""
        return (_pair(batch, self.device) for batch in self._splits[split])


class LoaderBatches:
    """The batches of a DataLoader, epoch by epoch."""

    capturable = False

    def __init__(
        self, loader: DataLoader[Any], length: int, seed: int, device: torch.device
    ) -> None:
        self._loader, self._length, self._seed, self.device = loader, length, seed, device
        self._batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return self._length

    def begin(self, epoch: int, step: int = 0) -> None:
        """Go to the batch of `step` of `epoch`."""
        drawn = int(random_numbers(Stream.EPOCH, self._seed, epoch).integers(2**62))
        own = getattr(self._loader, "generator", None)
        torch.manual_seed(drawn) if own is None else own.manual_seed(drawn)
        set_epoch = getattr(getattr(self._loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        self._batches = iter(self._loader)
        for _ in range(step):
            next(self._batches)

    def take(self) -> Batch:
        """Return inputs and labels of the next batch.

        Raises:
            GemkernError: there is none, or it is no pair of tensors.
        """
        batch = next(self._batches, None)
        if batch is None:
            raise GemkernError(
                f"the training loader ended before its {self._length} batches: let its length be "
                "what it yields"
            )
        return _pair(batch, self.device)


def _length(loader: Iterable[Any]) -> int:
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError as error:
        raise GemkernError(
            "the training loader has no length: give one over a data set that has one"
        ) from error
    if length < 1:
        raise GemkernError("the training loader yields no batch: lower its batch_size")
    return length


def _pair(batch: Any, device: torch.device) -> Batch:
    is_pair = isinstance(batch, (list, tuple)) and len(batch) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in batch):
        raise GemkernError(
            f"a loader yields a {type(batch).__name__} where a pair of inputs and class labels is "
            "read: wrap it so that it does"
        )
    inputs, labels = batch
    return inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
