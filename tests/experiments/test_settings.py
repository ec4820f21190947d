"""Presets are the paper's, settings resolve in a known order, bad ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemkern.errors import GemkernError
from gemkern.experiments.presets import PAPER, PRESETS, nearest_preset, resolve
from gemkern.experiments.settings import Settings, pick_autocast, pick_device
from gemkern.models import NAMES
from gemkern.tickets.imp import rewind_point


def mined(settings: Settings) -> Any:
    return settings.own["gem-miner"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete(name: str) -> None:
    settings = resolve(name, {"data_dir": "somewhere"})
    assert settings.model in NAMES
    assert mined(settings).freeze_every < mined(settings).mine_epochs
    rewind_point(settings.own["imp"].imp_rewind)


@pytest.mark.parametrize("name", PAPER)
def test_a_papers_preset_is_named_by_its_density(name: str) -> None:
    model, _, percent = name.rpartition("-")
    assert PAPER[name]["model"] == model
    assert PAPER[name]["density"] == pytest.approx(float(percent) / 100)


def test_the_default_run_of_the_paper() -> None:
    settings = resolve("resnet20-1.44", {})
    of = settings.as_dict().__getitem__
    assert (of("mine_epochs"), of("freeze_every"), of("batch_size")) == (150, 5, 128)
    assert (of("score_optimizer"), of("score_lr"), of("l2")) == ("sgd", 0.1, 5e-5)
    assert (of("finetune_lr"), of("finetune_schedule")) == (0.01, "multistep")
    assert (of("imp_epochs"), of("imp_rewind"), of("imp_prune")) == (150, "1000", 0.2)


TINY = (
    # Preset, epochs, freezes, optimiser, rate, lambda, batch, rate of finetuning, Nesterov, ticket.
    ("tiny_resnet18-0.5", 200, 5, "adam", 1e-3, 1e-5, 256, 0.1, False, "active"),
    ("tiny_resnet18-1.4", 200, 5, "adam", 1e-3, 5e-6, 256, 0.1, False, "active"),
    ("tiny_resnet18-5", 200, 5, "adam", 1e-3, 8e-6, 256, 0.1, False, "active"),
    ("tiny_resnet18-20", 200, 10, "sgd", 0.1, 3e-6, 256, 0.1, False, "rounded"),
    ("tiny_resnet18-50", 200, 10, "sgd", 0.1, 0.0, 256, 0.1, False, "rounded"),
    ("resnet50-0.5", 150, 5, "adam", 0.01, 1e-6, 128, 0.1, True, "active"),
    ("resnet50-1.4", 150, 5, "adam", 0.01, 1e-6, 128, 0.1, True, "active"),
    ("resnet50-5", 150, 5, "adam", 0.01, 1e-6, 128, 0.1, True, "active"),
)
READ = (
    *("mine_epochs", "freeze_every", "score_optimizer", "score_lr", "l2"),
    *("batch_size", "finetune_lr", "finetune_nesterov", "mine_keep"),
)


@pytest.mark.parametrize("row", TINY, ids=lambda row: row[0])
def test_tinyimagenet_is_mined_as_the_authors_do(row: tuple[Any, ...]) -> None:
    name, *expected = row
    settings = resolve(name, {"data_dir": "somewhere"})
    of = settings.as_dict().__getitem__
    assert [of(one) for one in READ] == expected
    assert settings.data == "tiny-imagenet"
    assert of("finetune_epochs") == of("imp_epochs") == of("mine_epochs")
    assert (of("affine"), of("finetune_schedule"), of("weight_decay")) == (False, "multistep", 1e-4)


def test_a_method_may_have_batches_of_its_own() -> None:
    found = resolve("digits", {"device": "cpu"}, ["batch_size=32", "batch_sizes=snip=64, imp=16"])
    sizes = [found.batch_size_of(method) for method in ("snip", "imp", "gem-miner", "mine")]
    assert sizes == [64, 16, 32, 32]


@pytest.mark.parametrize(
    "said", ["snip", "snip=", "snap=3", "snip=-3", "snip=3.5", "=3", "imp=1=2"]
)
def test_batches_that_are_none_are_named(said: str) -> None:
    with pytest.raises(GemkernError, match=f"batch_sizes says '{said}': give METHOD=IMAGES"):
        Settings.of({"batch_sizes": said}).batch_size_of("imp")


def inits(*assignments: str) -> list[str]:
    found = resolve("digits", {"device": "cpu"}, assignments)
    return [found.init_of(method) for method in ("gem-miner", "imp", "smart-ratio", "dense")]


@pytest.mark.parametrize("name", PRESETS)
def test_each_method_starts_as_its_authors_start_it(name: str) -> None:
    settings = resolve(name, {"data_dir": "somewhere"})
    for method in ("gem-miner", "random", "shuffled", "reinitialised"):
        assert settings.init_of(method) == "signed_constant"
    for method in ("imp", "smart-ratio", "dense"):
        assert settings.init_of(method) == "kaiming_normal"


def test_one_start_can_be_given_to_all_methods_or_to_one() -> None:
    signed, normal, authors = "signed_constant", "kaiming_normal", "signed_constant_authors"
    assert inits("init=signed_constant") == [signed] * 4
    assert inits(f"mine_init={authors}") == [authors, normal, normal, normal]
    assert inits(f"imp_init={signed}", f"init={normal}") == [normal, signed, normal, normal]
    settings = resolve("digits", {"init": normal}).as_dict()
    assert "init" not in settings
    assert settings["mine_init"] == normal


def test_what_is_chosen_goes_over_the_preset_and_assignments_over_both() -> None:
    settings = resolve(
        "resnet20-1.44", {"density": 0.03, "model": None}, ["density=0.05", "affine=yes"]
    )
    assert settings.density == 0.05
    assert settings.model == "resnet20"
    assert settings.affine is True


@pytest.mark.parametrize(
    ("data", "model", "density", "expected"),
    [
        ("cifar10", "resnet20", 0.0144, "resnet20-1.44"),
        ("cifar10", "resnet20", 0.005, "resnet20-0.59"),
        ("cifar10", "resnet20", None, "resnet20-1.44"),
        ("fashion-mnist", "vgg16", 0.04, "vgg16-5"),
        ("tiny-imagenet", "resnet50", 0.02, "resnet50-1.4"),
        ("digits", None, None, "digits"),
        ("fashion-mnist", None, 0.02, "fashion-mnist"),
        ("mnist", "resnet8", 0.02, "fashion-mnist"),
    ],
)
def test_the_nearest_preset(
    data: str, model: str | None, density: float | None, expected: str
) -> None:
    assert nearest_preset(data, model, density) == expected


def test_the_data_stay_what_was_asked_for_when_the_preset_is_of_other_data() -> None:
    settings = resolve(None, {"data": "mnist", "model": "resnet20"})
    assert (settings.data, mined(settings).mine_epochs) == ("mnist", 150)


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", "cpu", "none"),
        ("auto", "cuda", "bfloat16"),
        ("auto", "cuda:1", "bfloat16"),
        ("none", "cuda", "none"),
        ("bfloat16", "cpu", "bfloat16"),
    ],
)
def test_products_are_narrow_on_cuda_unless_told_otherwise(
    asked: str, device: str, expected: str
) -> None:
    assert pick_autocast(asked, device) == expected


def test_on_a_cpu_steps_are_as_exact_as_the_weights() -> None:
    settings = resolve("digits", {"device": "cpu"})
    assert (settings.autocast, settings.graph) == ("none", True)
    settings = resolve("digits", {}, ["autocast=bfloat16", "graph=false"])
    assert (settings.autocast, settings.graph) == ("bfloat16", False)


def test_a_budget_scales_every_length() -> None:
    settings = resolve("resnet20-1.44", {}).scaled(0.1)
    lengths = (
        mined(settings).mine_epochs,
        settings.finetune_epochs,
        settings.own["imp"].imp_epochs,
    )
    assert lengths == (15, 15, 15)
    assert mined(settings).freeze_every == 1
    with pytest.raises(GemkernError, match="budget is 0"):
        settings.scaled(0)


@pytest.mark.parametrize("epochs", [0, -3])
def test_a_budget_makes_no_epochs_out_of_none(epochs: int) -> None:
    settings = resolve("digits", {"mine_epochs": epochs, "freeze_every": epochs}).scaled(1.0)
    assert (mined(settings).mine_epochs, mined(settings).freeze_every) == (epochs, epochs)


def test_a_folder_of_any_size_is_used_whole_unless_a_limit_is_given() -> None:
    assert resolve(None, {"data": "mnist"}).train_at_most == 8000
    assert resolve(None, {"data": "folder"}).train_at_most is None
    assert resolve(None, {"data": "folder", "train_limit": 50}).train_limit == 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve("resnet21-1", {}), r"'resnet21-1': choose one of resnet20-0\.59"),
        (lambda: resolve("digits", {"density": 1.5}), r"density is 1\.5.*between 0 and 1"),
        (lambda: resolve("digits", {"density": 0.0}), r"density is 0\.0"),
        (lambda: resolve("digits", {}, ["density=nan"]), r"density is nan"),
        (lambda: resolve("digits", {}, ["speed=9"]), r"no setting is called 'speed'"),
        (lambda: resolve("digits", {}, ["l2=much"]), r"'much' is not a value for l2; give a float"),
        (lambda: resolve("digits", {}, ["affine=perhaps"]), r"not a value for affine"),
        (lambda: pick_device("cuda:99"), r"'cuda:99' cannot be used here"),
        (lambda: pick_device("toaster"), r"'toaster' cannot be used here"),
        (lambda: rewind_point("later"), r"rewind to 'later': give init"),
        (
            lambda: resolve("digits", {}, ["autocast=float16"]),
            r"autocast cannot be 'float16': choose one of auto, none, bfloat16",
        ),
    ],
)
def test_bad_settings_are_named(call, message: str) -> None:
    with pytest.raises(GemkernError, match=message):
        call()


def test_rewind_points() -> None:
    assert [rewind_point(text) for text in ("init", "learning-rate", "1000")] == [
        "init",
        "learning-rate",
        1000,
    ]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("density", "0.3", "float"),
        ("density", None, "float"),
        ("density", True, "float"),
        ("batch_size", 0.5, "int"),
        ("batch_size", [64], "int"),
        ("affine", 1, "bool"),
        ("data", 3, "str"),
        ("data_dir", {}, "str"),
        ("mine_epochs", "3", "int"),
        ("imp_rewind", 3, "str"),
    ],
)
def test_a_setting_of_another_kind_is_refused(name: str, value: Any, kind: str) -> None:
    with pytest.raises(GemkernError, match=f"the setting {name} is .*: give a {kind}"):
        Settings.of({name: value})


def test_a_setting_may_be_called_as_an_argument_is() -> None:
    with pytest.raises(GemkernError, match="no setting is called 'self'"):
        Settings.of({"self": 1})


def test_a_folder_may_be_a_path() -> None:
    assert Settings.of({"data_dir": Path("images")}).data_dir == "images"
    assert Settings.of({"density": 1, "weight_decay": 0}).density == 1
