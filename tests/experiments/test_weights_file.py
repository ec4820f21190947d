"""Networks that begin with weights from a file: every method's, but where a check draws anew."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_race import Race, settings
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.presets import resolve
from gemkern.experiments.settings import Settings
from gemkern.models import build

State = dict[str, Tensor]
HEAD = "classifier.weight"


def source(classes: int = 10, affine: bool = False) -> nn.Module:
    shape = {"channels": 1, "image_size": 8, "classes": classes}
    return build("resnet8", **shape, affine=affine, init="kaiming_normal", seed=99)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(source().state_dict(), path)
    return path


def named(path: Path) -> Settings:
    return settings(weights_file=str(path))


def differing(one: State, other: State) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("method", ["gem-miner", "imp", "dense"])
def test_every_method_begins_with_the_weights_of_the_file(method: str, path: Path) -> None:
    laboratory = Laboratory(named(path))
    for seed in (0, 5):
        assert not differing(
            laboratory.fresh_model(seed, method).state_dict(), source().state_dict()
        )
    redrawn = laboratory.fresh_model(0, method, redrawn=True).state_dict()
    assert not differing(redrawn, Laboratory(settings()).fresh_model(0, method).state_dict())


def test_a_classifier_of_other_classes_is_drawn_by_the_seed_and_said_once(path: Path) -> None:
    save_file(source(classes=7).state_dict(), path)
    laboratory = Laboratory(named(path))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        zero, again, five = (laboratory.fresh_model(seed).state_dict() for seed in (0, 0, 5))
        rehearse(laboratory, ["gem-miner", "imp"])
    assert len([one for one in said if "7 classes and the network's 10" in str(one.message)]) == 1
    assert not differing(zero, again)
    assert differing(zero, five) == {HEAD}
    drawn = Laboratory(settings()).fresh_model(0).state_dict()
    assert torch.equal(zero[HEAD], drawn[HEAD])


def test_tickets_hold_the_weights_of_the_file_but_where_they_are_drawn_anew(path: Path) -> None:
    race = Race(Laboratory(named(path)))
    race.hold(["gem-miner", "random", "reinitialised"])
    mined, random, redrawn = (
        race.tickets[method, 0] for method in ("gem-miner", "random", "reinitialised")
    )
    weights = {name for name in source().state_dict() if name.endswith("weight")}
    for ticket, expected in ((mined, set()), (random, set()), (redrawn, weights)):
        assert ticket.weights is not None
        assert differing(dict(ticket.weights), source().state_dict()) & weights == expected
    assert all(torch.equal(redrawn.masks[name], mask) for name, mask in mined.masks.items())


def test_what_does_not_fit_is_refused_before_anything_is_trained(path: Path) -> None:
    save_file(source(affine=True).state_dict(), path)
    with pytest.raises(GemkernError, match="let norms have scales and shifts by affine=True"):
        rehearse(Laboratory(named(path)), ["gem-miner"])
    rehearse(Laboratory(named(path).changed(affine=True)), ["gem-miner"])
    with pytest.raises(GemkernError, match="there is no weights file nowhere: check the path"):
        rehearse(Laboratory(settings(weights_file="nowhere")), ["dense"])


def test_a_network_of_ones_own_begins_with_them_too(path: Path) -> None:
    def own(channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(144, classes))

    begun = own(1, 10)
    save_file(begun.state_dict(), path)
    model = Laboratory(named(path), build=own).fresh_model(3)
    assert not differing(model.state_dict(), begun.state_dict())


def test_it_is_a_setting_of_the_command_line() -> None:
    assert resolve("digits", {"device": "cpu"}).weights_file is None
    found = resolve("digits", {"device": "cpu"}, ["weights_file=resnet.safetensors"])
    assert found.weights_file == "resnet.safetensors"
