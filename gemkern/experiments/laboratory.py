"""Where experiments happen: data on its device, fresh models, and what all methods share."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gemkern.data import Data, Dataset, Loaders, load
from gemkern.errors import GemkernError
from gemkern.experiments import own
from gemkern.experiments.records import Phase
from gemkern.experiments.settings import AUTOCAST, PLANS, Settings
from gemkern.models import build, load_weights
from gemkern.nn import convert
from gemkern.optim import masked_layers
from gemkern.tickets import METHODS, Search, Start, Ticket, weights_left
from gemkern.training import WeightTraining, evaluate
from gemkern.training.forms import CHOICES, NEVER, Accelerated, Record, runs_sparse
from gemkern.training.randomness import own_random_numbers

# The record of a method, a seed and a phase.
Records = Mapping[tuple[str, int, str], Record]
Build = Callable[..., nn.Module]


class Laboratory:
    """The settings of an experiment, with its data loaded to the device.

    Args:
        records: of the run that the settings' `accelerate` names, to be replayed.
        data: in place of what the settings name.
        build: returns a network, in place of what the settings name; called with those of classes,
            channels, image_size, seed, init and affine that its signature takes.

    Raises:
        GemkernError: the data cannot be read, the model or the device is not known, or the settings
            do not fit together.
    """

    def __init__(
        self,
        settings: Settings,
        records: Records | None = None,
        *,
        data: Data | None = None,
        build: Build | None = None,
    ) -> None:
        self.settings = settings
        self._records = records or {}
        self._told = {""}
        self._build = build or _named(settings.model)
        self.data: Data = (_load(settings) if data is None else data).to(settings.device)
        if settings.epoch_steps is not None:
            self.data = _shortened(self.data, settings.epoch_steps)
        sizes = {settings.batch_size, *map(settings.batch_size_of, METHODS)}
        if min(sizes) < 1:
            raise GemkernError(
                f"a batch of {min(sizes)} images cannot be trained on: "
                "give --set batch_size=64 or another number of at least 1"
            )
        if settings.seeds_at_once < 1:
            raise GemkernError(
                f"{settings.seeds_at_once} seeds at once train nothing: "
                "give --set seeds_at_once=1 or more"
            )
        if isinstance(self.data, Dataset) and len(self.data.train) < max(sizes):
            raise GemkernError(
                f"a batch of {max(sizes)} images is larger than the "
                f"{len(self.data.train)} training images: lower it with --set batch_size=N"
            )

    def fresh_model(self, seed: int, method: str = PLANS, redrawn: bool = False) -> nn.Module:
        """Return the network of the settings with the initial weights of `method` and `seed`.

        Args:
            redrawn: they are drawn even where the settings name a file of weights.

        Raises:
            GemkernError: there is no such network, it cannot be made for the data, or the file of
                weights is none of it.
        """
        channels, size = (*self.data.image_shape, None, None)[:2]
        known = {"classes": self.data.classes, "channels": channels, "image_size": size}
        # What takes no seed draws from the global numbers: they are the seed's too.
        with own_random_numbers(seed, torch.device(self.settings.device)):
            model = own.call(
                self._build,
                **{name: value for name, value in known.items() if value is not None},
                affine=self.settings.affine,
                init=self.settings.init_of(method),
                seed=seed,
            )
        if not isinstance(model, nn.Module):
            raise GemkernError(
                f"{own.name_of(self._build)} returns a {type(model).__name__}: let it return the "
                "network, an nn.Module"
            )
        if self.settings.weights_file is not None and not redrawn:
            self._tell(load_weights(model, self.settings.weights_file))
        model = model.to(self.settings.device)
        if self.settings.device.startswith("cuda"):
            # cuDNN's layout, as that of the images; PyTorch's types do not know the argument.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def _tell(self, sentence: str) -> None:
        """Say a sentence about fresh models, of which there are many, once; an empty one never."""
        if sentence not in self._told:
            self._told.add(sentence)
            warnings.warn(sentence, stacklevel=3)

    @cached_property
    def maskable_weights(self) -> int:
        """How many weights of the network can be masked."""
        model = self.fresh_model(seed=0)
        convert(model)
        return sum(layer.active.numel() for layer in masked_layers(model).values())

    @cached_property
    def matched_weights(self) -> int:
        """How many of them Gem-Miner's schedule, and so every ticket of a race, leaves."""
        return matched_weights(self.settings, self.maskable_weights)

    def start(
        self,
        method: str,
        seed: int,
        ticket: Ticket | None = None,
        accelerated: Callable[[], Accelerated] = lambda: NEVER,
    ) -> Start:
        """Return what `method` starts from; `ticket` is the one that it is given.

        A method without initial weights of its own draws them as that of the ticket did.
        """
        drawn_as = method if METHODS[method].init or ticket is None else ticket.method
        from_file = self.settings.weights_file is not None
        return Start(
            own=self.settings.own[method],
            seed=seed,
            name=self.settings.model,
            fresh=lambda seed: self.fresh_model(seed, drawn_as),
            density=self.settings.density,
            total=self.maskable_weights,
            weights=self.matched_weights,
            weight_decay=self.settings.weight_decay,
            schedule=self.settings.finetune_schedule,
            accelerated=accelerated,
            batches=partial(self.batches, seed, method),
            ticket=ticket,
            redrawn=partial(self.fresh_model, method=drawn_as, redrawn=True) if from_file else None,
        )

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of products and convolutions; None for that of the weights."""
        return AUTOCAST[self.settings.autocast]

    @property
    def may_accelerate(self) -> bool:
        """Whether the sparse kernels serve here, and are asked for."""
        served = runs_sparse(self.settings.device) and self.autocast is None
        return served and self.settings.accelerate != NEVER

    def accelerated(self, method: str, seed: int, phase: Phase) -> Accelerated:
        """Return how a phase of a run is to be accelerated.

        Raises:
            GemkernError: it is to be replayed, and there is no record of it.
        """
        chosen = self.settings.accelerate if self.may_accelerate else NEVER
        if chosen in CHOICES:
            return chosen
        if (method, seed, phase) not in self._records:
            raise GemkernError(
                f"{chosen} has no record of {method}, seed {seed}, {phase}: "
                "replay a run of the same methods and seeds"
            )
        return self._records[method, seed, phase]

    def batches(self, seed: int, method: str = PLANS) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches of `seed`, epoch after epoch, of the size of `method`'s."""
        batches = self.data.training(self.settings.batch_size_of(method), seed)
        for epoch in itertools.count():
            batches.begin(epoch)
            for _ in range(len(batches)):
                yield batches.take()

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of a training step: the first batch of seed 0."""
        return next(self.batches(seed=0))

    def finetuning(self, model: nn.Module, accelerated: Accelerated = NEVER) -> WeightTraining:
        """Return the settings' finetuning recipe for `model`, before its first step."""
        return WeightTraining(
            model,
            self.settings.finetune_epochs,
            lr=self.settings.finetune_lr,
            weight_decay=self.settings.weight_decay,
            nesterov=self.settings.finetune_nesterov,
            sign_in=self.settings.finetune_sign_in,
            schedule=self.settings.finetune_schedule,
            accelerated=accelerated,
        )

    def test(self, model: nn.Module) -> float:
        """Return the accuracy of `model` on the test set, a fraction."""
        return evaluate(model, self.data, "test", autocast=self.autocast)

    def validate(self, model: nn.Module) -> float:
        """Return the accuracy of `model` on the validation set, a fraction."""
        return evaluate(model, self.data, "validation", autocast=self.autocast)

    def with_ticket(self, ticket: Ticket, seed: int) -> nn.Module:
        """Return a fresh model under `ticket`, ready to finetune."""
        model = self.fresh_model(seed, ticket.method)
        ticket.apply(model)
        return model


def matched_weights(settings: Settings, total: int) -> int:
    """Return how many of `total` weights Gem-Miner's schedule leaves."""
    own = settings.own[PLANS]
    plan = own.mine_epochs, own.freeze_every, own.mine_rule
    return weights_left(total, settings.density, *plan)[-1]


def rehearse(laboratory: Laboratory, methods: Sequence[str]) -> dict[str, int]:
    """Set up what `methods` train, and train none: bad settings are refused at once.

    Returns:
        how many epochs each of them searches.

    Raises:
        GemkernError: the settings do not fit together.
    """
    epochs = dict.fromkeys(methods, 0)
    for method in methods:
        if METHODS[method].needs is None:
            made = METHODS[method].make(laboratory.start(method, seed=0))
            epochs[method] = made.epochs if isinstance(made, Search) else 0
        laboratory.finetuning(laboratory.fresh_model(0, method))
    return epochs


def _named(name: str) -> Build:
    if own.is_own(name):
        return own.find(name)

    def named(**fitting: Any) -> nn.Module:
        missing = {"classes", "channels", "image_size"} - fitting.keys()
        if missing:
            raise GemkernError(
                f"{name} needs {min(missing)}, which the data do not tell: give a function that "
                "builds the network"
            )
        return build(name, **fitting)

    return named


def _load(settings: Settings) -> Data:
    name = settings.data
    if not own.is_own(name):
        return load(
            name,
            settings.data_dir,
            train_limit=settings.train_limit,
            at_most=settings.train_at_most,
            resize=settings.resize,
            test_folder=settings.test_folder,
            validation=settings.validation,
        )
    found = own.call(own.find(name), data_dir=settings.data_dir, train_limit=settings.train_limit)
    return as_data(found, name)


def _shortened(data: Data, steps: int) -> Dataset:
    if not isinstance(data, Dataset):
        raise GemkernError(
            "epoch_steps ends epochs of a gemkern.data.Dataset: leave it out, your DataLoader says "
            "how long its epochs are"
        )
    return replace(data, epoch_steps=steps)


def as_data(found: Any, name: str = "loaders") -> Data:
    """Return a `Dataset`, `Loaders`, or a pair or triple of DataLoaders, as data.

    Raises:
        GemkernError: it is nothing of that.
    """
    if isinstance(found, (Dataset, Loaders)):
        return found
    if isinstance(found, (list, tuple)) and len(found) in (2, 3):
        return Loaders(*found, name=name)
    raise GemkernError(
        f"the data are a {type(found).__name__}: give a gemkern.data.Dataset, or the DataLoaders "
        "of training and test"
    )
