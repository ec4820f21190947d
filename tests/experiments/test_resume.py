"""A job that is stopped anywhere goes on to the same bits, from files alone."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_race import settings, state, without_clock
from torch import nn

from gemkern import tensor_file
from gemkern.data import Loaders
from gemkern.errors import GemkernError
from gemkern.experiments.checkpoints import FILE, Checkpoints
from gemkern.experiments.job import job
from gemkern.experiments.job_folder import Busy, JobFolder
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.ranks import ALONE
from gemkern.experiments.running import begun, run_job
from gemkern.experiments.settings import Settings, lengths
from gemkern.experiments.states import pack, unpack
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.experiments.work import Work
from gemkern.nn import convert
from gemkern.tickets import METHODS, Ticket, smart_ratio_ticket


class StopAfter(Stop):
    """Asks to stop at the look of a number."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def requested(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    @requested.setter
    def requested(self, value: bool) -> None: ...


def outcome(folder: JobFolder) -> Any:
    result = folder.result()
    tickets = {seed: state(Ticket.load(path)) for seed, path in folder.tickets().items()}
    return (
        [without_clock(run) for run in result.runs],
        [(saving.phase, saving.steps, saving.record) for saving in result.savings],
        [without_clock(record) for record in folder.epochs()],
        {seed: {k: v.tolist() for k, v in each.items()} for seed, each in tickets.items()},
    )


def run_in_pieces(folder: JobFolder, laboratory: Any, looks: int) -> int:
    """Run a job that is stopped every few looks; return how often that was."""
    for stops in itertools.count():
        assert stops < 60
        try:
            run_job(folder, laboratory(), stop=StopAfter(looks))
        except Stopped:
            continue
        return stops
    raise AssertionError


# Weights learn, under masks that change, on the sparse kernels too.
FOLLOWED = ("gem-miner", "imp", "lr-rewind", "magnitude", "rigl", "set", "dense")


@pytest.mark.parametrize(
    ("method", "choice"),
    [*((method, "never") for method in METHODS), *((method, "always") for method in FOLLOWED)],
)
def test_a_job_in_pieces_is_the_job_in_one(tmp_path: Path, method: str, choice: str) -> None:
    chosen = settings(
        **{**lengths(2), "mine_epochs": 3, "imp_epochs": 1, "imp_short_epochs": 1},
        accelerate=choice,
        imp_rewind="3",
        score_optimizer="sgd",
        score_lr=5.0,
        grasp_samples=2,
        rigl_every=2,
        set_every=2,
        loft_local_steps=3,
    )
    needed = METHODS[method].needs
    one = job(chosen, method, [0])
    whole, pieces = (JobFolder.create(tmp_path / name, one) for name in ("whole", "pieces"))
    if needed is not None:
        for folder in (whole, pieces):
            folder.give([mined(chosen)])
    run_job(whole, Laboratory(chosen))
    stops = run_in_pieces(pieces, lambda: Laboratory(chosen), looks=5)
    assert stops >= 1
    assert outcome(pieces) == outcome(whole)
    assert not list(pieces.path.glob("checkpoint-*")), "a finished job needs none"


@pytest.mark.parametrize("choice", ["never", "always"])
def test_finetuning_by_sign_in_goes_on_to_the_same_bits(tmp_path: Path, choice: str) -> None:
    chosen = settings(accelerate=choice, finetune_epochs=3, finetune_sign_in=2)
    one = job(chosen, "erk", [0])
    whole, pieces = (JobFolder.create(tmp_path / name, one) for name in ("whole", "pieces"))
    run_job(whole, Laboratory(chosen))
    assert run_in_pieces(pieces, lambda: Laboratory(chosen), looks=5) >= 1
    assert outcome(pieces) == outcome(whole)


def mined(chosen: Settings) -> Ticket:
    """Return a ticket for what needs one."""
    model = Laboratory(chosen).fresh_model(0)
    convert(model)
    return smart_ratio_ticket(model, 0.3, seed=0, name="resnet8", model_seed=0)


@pytest.mark.parametrize("method", ["gem-miner", "imp"])
def test_what_is_measured_goes_on_being_measured(tmp_path: Path, method: str) -> None:
    chosen = settings(accelerate="measure", density=0.05, mine_epochs=6, imp_epochs=3)
    pieces = JobFolder.create(tmp_path, job(chosen, method, [0]))
    assert run_in_pieces(pieces, lambda: Laboratory(chosen), looks=7) >= 2
    numbers = [(record.phase, record.epoch) for record in pieces.epochs()]
    assert numbers == sorted(numbers), "find before finetune, each from its first epoch"
    assert len(numbers) == len(set(numbers))
    find, finetune = pieces.result().savings
    assert {find.phase, finetune.phase} == {"find", "finetune"}
    assert any("ms" in entry for entry in find.record), "a trial was ended"


def test_seeds_that_train_together_go_on_together(tmp_path: Path) -> None:
    chosen = settings(seeds_at_once=2, checkpoint_minutes=0.0)
    one = job(chosen, "gem-miner", [3, 1])
    whole, pieces = (JobFolder.create(tmp_path / name, one) for name in ("whole", "pieces"))
    run_job(whole, Laboratory(chosen))
    assert run_in_pieces(pieces, lambda: Laboratory(chosen), looks=9) >= 2
    assert outcome(pieces) == outcome(whole)


class Noisy(nn.Module):
    """A network that draws from every generator while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 8, 3)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = x + 0.1 * float(np.random.rand())  # noqa: NPY002
        return self.head(self.drop(self.features(x).relu()).flatten(1))


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Noisy()


def loaders(generator: torch.Generator | None = None) -> Loaders:
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(96, 1, 8, 8, generator=stream)
    data = torch.utils.data.TensorDataset(images, torch.arange(96) % 10)
    train = torch.utils.data.DataLoader(data, 16, shuffle=True, generator=generator)
    return Loaders(train, torch.utils.data.DataLoader(data, 32))


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("method", ["gem-miner", "imp"])
def test_own_data_and_noise_go_on_to_the_same_bits(
    tmp_path: Path, method: str, own_generator: bool
) -> None:
    chosen = settings(model="own:build", data="own:data")

    def laboratory() -> Laboratory:
        generator = torch.Generator() if own_generator else None
        return Laboratory(chosen, data=loaders(generator), build=build)

    one = job(chosen, method, [2])
    whole, pieces = (JobFolder.create(tmp_path / name, one) for name in ("whole", "pieces"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run_job(whole, laboratory())
    assert torch.equal(torch.get_rng_state(), before), "nobody else's numbers are drawn"
    torch.rand(7)
    assert run_in_pieces(pieces, laboratory, looks=8) >= 2
    assert outcome(pieces) == outcome(whole)


def test_a_run_is_stopped_between_any_two_steps(tmp_path: Path) -> None:
    chosen = settings(imp_rewind="2")
    one = job(chosen, "imp", [0])
    whole = JobFolder.create(tmp_path / "whole", one)
    run_job(whole, Laboratory(chosen))
    for looks in range(3, 12):
        pieces = JobFolder.create(tmp_path / str(looks), one)
        assert run_in_pieces(pieces, lambda: Laboratory(chosen), looks) >= 1
        assert outcome(pieces) == outcome(whole), looks


@pytest.fixture
def stopped(tmp_path: Path) -> JobFolder:
    """Return a job with two checkpoints."""
    folder = JobFolder.create(tmp_path / "job", job(settings(), "gem-miner", [0]))
    with pytest.raises(Stopped):
        run_job(folder, Laboratory(settings()), stop=StopAfter(18))
    return folder


def checkpoints(folder: JobFolder) -> list[Path]:
    return sorted(folder.path.glob("checkpoint-*"))


def test_the_last_two_checkpoints_are_kept(stopped: JobFolder) -> None:
    assert len(checkpoints(stopped)) == 2
    assert stopped.state() == "stopped"
    numbers = [int(path.stem.split("-")[1]) for path in checkpoints(stopped)]
    assert numbers[1] == numbers[0] + 1 > 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "older", "empty"])
def test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_is_used(
    stopped: JobFolder, tmp_path: Path, damage: str
) -> None:
    *_, newest = checkpoints(stopped)
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "flipped":
        content[-100] ^= 1
        newest.write_bytes(content)
    elif damage == "older":
        newest.write_bytes(content.replace(b'{\\"format\\": 1', b'{\\"format\\": 0'))
        assert newest.read_bytes() != content
    else:
        Checkpoints(tmp_path / "other", "another job").save({"epoch": 3})
        (tmp_path / "other" / "checkpoint-000001.safetensors").replace(newest)
    with pytest.warns(UserWarning, match=f"the checkpoint file {newest}"):
        run_job(stopped, Laboratory(settings()))
    whole = JobFolder.create(tmp_path / "whole", stopped.job())
    run_job(whole, Laboratory(settings()))
    assert outcome(stopped) == outcome(whole)


def misshape(folder: JobFolder, newest: int) -> None:
    """Let the newest checkpoints be such as another version of a search has written."""
    states = list(folder.checkpoints().states())
    folder.checkpoints().clear()
    for number, one in reversed(list(enumerate(states))):
        if number < newest:
            one["methods"][0]["forms"] = {"of": "another shape"}
        folder.checkpoints().save(one)


def test_a_checkpoint_that_does_not_fit_is_said_and_the_one_before_is_used(
    stopped: JobFolder, tmp_path: Path
) -> None:
    misshape(stopped, newest=1)
    with pytest.warns(UserWarning, match=r"is passed over: .* does not fit this gemkern"):
        run_job(stopped, Laboratory(settings()))
    whole = JobFolder.create(tmp_path / "whole", stopped.job())
    run_job(whole, Laboratory(settings()))
    assert outcome(stopped) == outcome(whole)


@pytest.mark.filterwarnings("ignore:a checkpoint is passed over")
def test_hours_are_not_lost_where_no_checkpoint_fits(stopped: JobFolder) -> None:
    misshape(stopped, newest=2)
    before = [path.read_bytes() for path in checkpoints(stopped)]
    with pytest.raises(GemkernError, match="go on with those that wrote it"):
        run_job(stopped, Laboratory(settings()))
    assert [path.read_bytes() for path in checkpoints(stopped)] == before


LIES = {
    "nothing": lambda state: None,
    "a number": lambda state: 3,
    "no methods": lambda state: {key: state[key] for key in state if key != "methods"},
    "epochs of texts": lambda state: {
        **state,
        "courses": [{**state["courses"][0], "records": [{"epoch": "first"}]}],
    },
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_lies_is_passed_over(stopped: JobFolder, lie: str) -> None:
    first, *_ = stopped.checkpoints().states()
    stopped.checkpoints().save(LIES[lie](first))
    assert len(checkpoints(stopped)) == 2
    with pytest.warns(UserWarning, match=r"is damaged|is passed over") as said:
        work = begun(lambda: Work(stopped.job(), Laboratory(settings())), stopped, ALONE)
    assert all(str(one.message).isprintable() for one in said)
    assert work.phase == first["phase"], "the one before is gone on with"


def test_a_state_that_is_deeper_than_python_follows(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    content = {"job": "job", "state": {"deep": deep}}
    tensor_file.write(tmp_path / "checkpoint-000001.safetensors", FILE, content, {})
    with pytest.warns(UserWarning, match="its state is not whole"):
        assert list(Checkpoints(tmp_path, "job").states()) == []


def test_epochs_after_the_checkpoint_are_trained_again(stopped: JobFolder) -> None:
    text = (stopped.path / "epochs.jsonl").read_text()
    more = {**json.loads(text.splitlines()[-1]), "epoch": 77}
    (stopped.path / "epochs.jsonl").write_text(text + json.dumps(more) + '\n{"method": "gem')
    run_job(stopped, Laboratory(settings()))
    epochs = [record.epoch for record in stopped.epochs()]
    assert epochs == [1, 2, 3, 1, 2]


def test_two_do_not_work_in_one_folder(stopped: JobFolder) -> None:
    with stopped.locked():
        assert stopped.state() == "running"
        with pytest.raises(Busy, match="another process works in"):
            run_job(stopped, Laboratory(settings()))
    assert stopped.state() == "stopped"


def test_a_finished_job_is_not_run_again(tmp_path: Path) -> None:
    folder = JobFolder.create(tmp_path, job(settings(), "dense", [0]))
    first = run_job(folder, Laboratory(settings()))
    seen: list[Any] = []
    assert run_job(folder, Laboratory(settings()), seen.append) == first
    assert (seen, folder.state()) == ([], "finished")


STATES = [
    {"a": [1, 2.5, None, True, "x"], "b": (1, (2, [3])), "c": {0: "int", "0": "text", 1.5: ()}},
    {"$": "marked", "nested": {"$": {"$": 1}}, "alike": {"$": "tuple", "items": [1]}},
    {"$": "tensor", "name": "0.model"},
    {"inf": math.inf, "minus": -math.inf, "tiny": 5e-324, "third": 1 / 3},
    [{"t": torch.randn(3, 4)[:, ::2], "scalar": torch.tensor(True), "empty": torch.zeros(0, 2)}],
    {"half": torch.randn(5).bfloat16(), "bytes": torch.arange(7, dtype=torch.uint8)},
]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(map(same, one, other)) and len(one) == len(other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("original", STATES)
def test_states_come_back_from_their_files(tmp_path: Path, original: Any) -> None:
    Checkpoints(tmp_path, "job").save({"state": original})
    loaded = next(Checkpoints(tmp_path, "job").states())
    assert same(loaded["state"], original)
    tree, tensors = pack(original)
    assert same(unpack(json.loads(json.dumps(tree)), tensors), original)


def test_what_a_checkpoint_cannot_hold_is_named() -> None:
    with pytest.raises(GemkernError, match=r"holds a set at models.0, which a checkpoint cannot"):
        pack({"models": [{1, 2}]})


def test_what_shares_its_memory_is_written_twice(tmp_path: Path) -> None:
    tied = torch.randn(4)
    Checkpoints(tmp_path, "job").save({"a": tied, "b": tied.view(2, 2)})
    loaded = next(Checkpoints(tmp_path, "job").states())
    assert torch.equal(loaded["a"], loaded["b"].flatten())
