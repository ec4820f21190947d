import dataclasses
import io
import math
import os
import struct

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from tiny_search import (
    TOTAL,
    active,
    assert_same_state,
    batches,
    count,
    network,
    run_step,
    same_bits,
)
from torch import nn

import gemkern as gk
from gemkern import ops, tensor_file
from gemkern.errors import GemkernError
from gemkern.report.show import ticket_table
from gemkern.tickets import Ticket
from gemkern.tickets.state import checksum
from gemkern.tickets.ticket import FILE
from gemkern.training import WeightTraining

LAYERS = ("0", "4")


def ticket(seed=0, dtype=torch.float32):
    model = network(seed).to(dtype)
    gk.convert(model)
    stream = torch.Generator().manual_seed(1)
    for name in LAYERS:
        layer = model.get_submodule(name)
        layer.active.copy_(torch.rand(layer.active.shape, generator=stream) < 0.25)
    return Ticket.from_model(model, method="gem-miner", name="tiny", seed=seed)


def saved(tmp_path, **options):
    path = tmp_path / "tiny.ticket.safetensors"
    ticket().save(path, **options)
    return path


def parts(whole):
    """The header and the tensors from which `Ticket.save` makes the file of `whole`."""
    header = {
        "layers": {name: list(mask.shape) for name, mask in whole.masks.items()},
        "model": whole.model,
        "method": whole.method,
        "seed": whole.seed,
        "density": whole.density,
        "checksum": whole.checksum,
    }
    tensors = {f"mask/{name}": ops.pack_mask(mask) for name, mask in whole.masks.items()}
    tensors |= {f"weight/{entry}": weight for entry, weight in whole.weights.items()}
    return header, tensors


def test_numbers_of_a_ticket():
    found = ticket()
    kept = [int(found.masks[name].sum()) for name in LAYERS]
    assert found.weights_left == sum(kept) < TOTAL
    assert found.density == sum(kept) / TOTAL
    assert found.layer_density == {"0": kept[0] / 72, "4": kept[1] / 192}


def test_a_ticket_is_a_copy():
    model = network()
    gk.convert(model)
    found = Ticket.from_model(model, method="test")
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].active.zero_()
    assert found.masks["0"].all()
    assert found.weights["0.weight"].any()
    assert found.model == "Sequential"


def test_a_ticket_keeps_a_weight():
    model = network()
    gk.convert(model)
    masks = {name: torch.zeros_like(mask) for name, mask in active(model).items()}
    with pytest.raises(GemkernError, match="keeps no weight"):
        Ticket.from_model(model, method="test", masks=masks)


def test_the_checksum_is_of_the_masked_layers_weights_alone():
    base = dict(network().state_dict())
    reference = checksum(base, LAYERS)
    assert reference == checksum(dict(reversed(base.items())), LAYERS)
    assert reference == checksum({**base, "4.bias": base["4.bias"] + 1}, LAYERS)
    one = torch.ones(1).expand(1, 1)
    assert checksum({"0.weight": one}, ("0",)) == checksum({"0.weight": one.clone()}, ("0",))
    channels_last = base["0.weight"].to(memory_format=torch.channels_last)
    assert reference == checksum({**base, "0.weight": channels_last}, LAYERS)
    changed = base["4.weight"].clone()
    changed[-1, -1] += 1e-6
    others = [
        checksum({**base, "4.weight": changed}, LAYERS),
        checksum(base, tuple(reversed(LAYERS))),
        checksum(base, ("0",)),
        checksum({**base, "4.weight": base["4.weight"].reshape(64, 3)}, LAYERS),
        checksum({entry: tensor.half() for entry, tensor in base.items()}, LAYERS),
    ]
    assert len({reference, *others}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_round_trip_keeps_every_bit(tmp_path, dtype):
    written, path = ticket(dtype=dtype), tmp_path / "folder" / "tiny.ticket.safetensors"
    written.save(path)
    read = Ticket.load(path)
    assert_same_state(dict(read.masks), dict(written.masks))
    assert sorted(read.weights) == sorted(written.weights)
    assert all(same_bits(read.weights[entry], written.weights[entry]) for entry in read.weights)
    for field in ("model", "method", "seed", "checksum", "density", "layer_density"):
        assert getattr(read, field) == getattr(written, field)


def test_a_file_without_weights_holds_one_bit_a_weight(tmp_path):
    path = saved(tmp_path, weights=False)
    read = Ticket.load(path)
    assert read.weights is None
    assert read.checksum == ticket().checksum
    assert_same_state(dict(read.masks), dict(ticket().masks))
    (header_size,) = struct.unpack("<Q", path.read_bytes()[:8])
    digest_size = 32
    assert path.stat().st_size - 8 - header_size - digest_size == TOTAL // 8
    with pytest.raises(GemkernError, match="weights=False"):
        read.save(tmp_path / "again", weights=True)
    read.save(tmp_path / "again", weights=False)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("weights", [True, False])
def test_any_flipped_byte_is_noticed(tmp_path, weights):
    path = saved(tmp_path, weights=weights)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(GemkernError, match=str(path)):
            Ticket.load(path)


def test_a_truncated_file_is_noticed(tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(GemkernError, match=r"tiny\.ticket\.safetensors is damaged"):
            Ticket.load(path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(GemkernError, match=r"there is no ticket file .*absent"):
        Ticket.load(tmp_path / "absent")
    with pytest.raises(GemkernError, match="is a folder: give a file on a disk"):
        Ticket.load(tmp_path)
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(GemkernError, match=r"model\.safetensors is not a ticket file"):
        Ticket.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"format": 2}', "format version 2 where version 1"),
        ("{}", "format version None"),
        ('{"format": 1}', "does not match its digest"),
        ('{"format": 1' + 5000 * "0" + "}", "not JSON"),
        (100_000 * "[", "not JSON"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path, text, message):
    path = tmp_path / "t"
    save_file({"mask/0": torch.ones(2)}, path, metadata={FILE.header: text})
    with pytest.raises(GemkernError, match=message):
        Ticket.load(path)


def test_parts_are_what_save_writes(tmp_path):
    header, tensors = parts(ticket())
    tensor_file.write(tmp_path / "t", FILE, header, tensors)
    assert (tmp_path / "t").read_bytes() == saved(tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(density=0.5), "its header says 0.5"),
        (lambda h, t: h.update(checksum="0" * 64), "weights do not match their checksum"),
        (lambda h, t: t["weight/0.weight"].neg_(), "weights do not match their checksum"),
        (lambda h, t: t.pop("weight/4.weight"), "no weights for the masked layer '4'"),
        (lambda h, t: h["layers"].update({"4": [3, 65]}), "layer '4'.*needs 25 bytes"),
        (lambda h, t: t.pop("mask/0"), "layer '0' is missing"),
        (lambda h, t: t.update({"mask/0": torch.ones(9)}), "layer '0' is .*float32"),
        (lambda h, t: h.pop("seed"), "header is not complete"),
        (lambda h, t: h.update(sparsity=1), "header is not complete"),
        (lambda h, t: h.update(model=7), "its model, its method or its checksum is no text"),
        (lambda h, t: h.update(method=["imp"]), "its model, its method or its checksum is no"),
        (lambda h, t: h.update(checksum=None), "its model, its method or its checksum is no"),
        (lambda h, t: h.update(seed="0"), "its seed is no whole number"),
        (lambda h, t: h.update(seed=True), "its seed is no whole number"),
        (lambda h, t: h.update(seed=0.5), "its seed is no whole number"),
        (lambda h, t: h.update(density="0.25"), "its density is no number"),
        (lambda h, t: h.update(density=[]), "its density is no number"),
        (lambda h, t: h.update(density=math.nan), "its header says nan"),
        (lambda h, t: h.update(layers=[]), "names no layers"),
        (lambda h, t: h.update(layers={}), "names no layers"),
        (lambda h, t: h.update(layers="0"), "names no layers"),
        *(
            (lambda h, t, shape=shape: h["layers"].update({"4": shape}), "shape of layer '4' is no")
            for shape in (
                None,
                "3x64",
                {},
                [],
                [192],
                [3, -64],
                [-3, -64],
                [3, 64.0],
                [3, "64"],
                [3, True],
                [0, 2**70],
                [2**31, 64],
                [1] * 6,
                [[3], 64],
            )
        ),
        (lambda h, t: h["layers"].update({"4": [2**30] * 5}), "layer '4'.* needs"),
        (lambda h, t: h["layers"].pop("4"), "no layer of its header has its 'mask/4'"),
        (lambda h, t: t.update(other=torch.ones(1)), "no layer of its header has its 'other'"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change, message):
    header, tensors = parts(ticket())
    change(header, tensors)
    tensor_file.write(tmp_path / "t", FILE, header, tensors)
    with pytest.raises(GemkernError, match=message):
        Ticket.load(tmp_path / "t")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(GemkernError, match="could not write"):
        ticket().save(tmp_path / "taken", replace=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("scores", [None, False, True])
def test_applying_sets_masks_and_weights_and_lets_weights_learn(scores):
    found, model = ticket(seed=0), network(seed=5)
    if scores is not None:
        gk.convert(model, scores=scores)
    found.apply(model)
    assert_same_state(active(model), dict(found.masks))
    for name in LAYERS:
        layer = model.get_submodule(name)
        expected = torch.where(found.masks[name], found.weights[f"{name}.weight"], 0.0)
        assert same_bits(layer.weight, expected)
        assert layer.scores is None
    for entry in ("1.weight", "1.running_mean", "4.bias"):
        assert same_bits(model.state_dict()[entry], found.weights[entry])
    assert all(parameter.requires_grad for parameter in model.parameters())
    training = WeightTraining(model, 1, weight_decay=0.1)
    for batch in batches(0):
        run_step(model, training, batch)
    assert count(active(model)) == found.weights_left
    for name in LAYERS:
        weight = model.get_submodule(name).weight.detach()
        assert not weight[~found.masks[name]].any()
        assert not torch.equal(weight, torch.where(found.masks[name], weight, 1.0))
        assert not same_bits(weight, found.weights[f"{name}.weight"])


def test_applying_then_unconverting_is_weights_times_mask(tmp_path):
    found, model = ticket(), network(seed=5)
    Ticket.load(saved(tmp_path)).apply(model)
    gk.unconvert(model)
    assert [type(module) for module in model] == [type(module) for module in network()]
    for name in LAYERS:
        expected = torch.where(found.masks[name], found.weights[f"{name}.weight"], 0.0)
        assert same_bits(model.get_submodule(name).weight, expected)
    assert list(model.state_dict()) == list(network().state_dict())


def test_masks_change_in_place():
    model = network()
    gk.convert(model)
    address = model[4].active.data_ptr()
    ticket().apply(model)
    assert model[4].active.data_ptr() == address


def test_a_ticket_without_weights_wants_the_same_initial_weights(tmp_path):
    bare = Ticket.load(saved(tmp_path, weights=False))
    model = network(seed=0)
    bare.apply(model)
    assert same_bits(model[4].weight, torch.where(bare.masks["4"], network()[4].weight, 0.0))
    other = network(seed=1)
    with pytest.raises(GemkernError, match=r"not the initial weights.*seed 0"):
        bare.apply(other)
    assert type(other[0]) is nn.Conv2d


def test_layers_outside_the_ticket_stay_dense():
    model, found = network(), ticket()
    part = dataclasses.replace(found, masks={"4": found.masks["4"]})
    part.apply(model)
    assert type(model[0]) is nn.Conv2d
    assert list(active(model)) == ["4"]


def wider():
    model = network()
    model[4] = nn.Linear(64, 5)
    return model


def shorter():
    return network()[:4]


def all_masked_but_one_unknown():
    model = network().append(nn.Linear(3, 3))
    gk.convert(model)
    return model


def without_bias():
    model = network()
    model[4].bias = None
    return model


def of_a_wider_norm():
    model = network()
    model[1] = nn.BatchNorm2d(5)
    return model


def with_more():
    return network().append(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (wider, r"layer '4' has a weight of shape \(5, 64\) where the ticket's mask has \(3, 64\)"),
        (shorter, "no layer '4'"),
        (all_masked_but_one_unknown, "no mask for its layer '5'"),
        (without_bias, r"'4.bias' is of shape \(3,\) in the ticket and missing there"),
        (of_a_wider_norm, r"'1.weight' is of shape \(4,\) in the ticket and of shape \(5,\) there"),
        (with_more, r"'5.weight' is missing in the ticket and of shape \(3, 3\) there"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_was(build, message):
    model = build()
    before = {entry: tensor.clone() for entry, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model]
    with pytest.raises(GemkernError, match=message):
        ticket().apply(model)
    assert [type(module) for module in model] == kinds
    assert_same_state(dict(model.state_dict()), before)


def test_a_layer_that_cannot_be_masked_is_named():
    class Special(nn.Linear):
        pass

    model = network()
    model[4] = Special(64, 3)
    with pytest.raises(GemkernError, match="layer '4' cannot be masked"):
        ticket().apply(model)


def test_an_empty_layer_is_said():
    found = ticket()
    assert found.empty_layers == []
    masks = {**found.masks, "0": torch.zeros_like(found.masks["0"])}
    emptied = dataclasses.replace(found, masks=masks)
    assert emptied.empty_layers == ["0"]
    with pytest.warns(UserWarning, match="keeps no weight of '0'"):
        emptied.apply(network())


def test_modules_see_the_version_of_their_state():
    """Of torchvision's MNASNet, which refuses a state without one."""

    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
            assert local_metadata.get("version") == 2
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    model = nn.Sequential(nn.Linear(4, 4), Versioned(4, 2))
    gk.convert(model)
    model[0].active[0] = False
    Ticket.from_model(model, method="x").apply(nn.Sequential(nn.Linear(4, 4), Versioned(4, 2)))


def test_a_ticket_takes_no_other_files_place(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()
    ticket().save(path)
    for write in (
        lambda: ticket(seed=1).save(path),
        lambda: ticket().save(path, weights=False),
        lambda: dataclasses.replace(ticket(), method="imp").save(path),
    ):
        with pytest.raises(GemkernError, match=f"{path} is there and holds something else: choose"):
            write()
    assert path.read_bytes() == before
    ticket(seed=1).save(path, replace=True)
    assert Ticket.load(path).seed == 1
    (tmp_path / "photograph").write_text("of a cat")
    with pytest.raises(GemkernError, match="photograph is there"):
        ticket().save(tmp_path / "photograph")


def test_weights_of_another_kind_of_number_do_not_fit():
    whole = ticket()
    weights = {**whole.weights, "4.bias": torch.ones(3, dtype=torch.int64)}
    with pytest.raises(GemkernError, match=r"'4.bias' is of torch.int64 in the ticket and of"):
        dataclasses.replace(whole, weights=weights).apply(network())


def test_a_pipe_is_no_ticket(tmp_path):
    os.mkfifo(tmp_path / "t")
    with pytest.raises(GemkernError, match="t is a pipe, a socket or a device: give a file"):
        Ticket.load(tmp_path / "t")


def test_what_a_terminal_would_obey_is_shown_and_not_done(tmp_path):
    clear, link = "\x1b[2J", "[link=https://bad.example]here[/link]\x9b31m\u202e"
    whole = dataclasses.replace(ticket(), model=clear, method=link)
    whole.save(tmp_path / "t")
    loaded = Ticket.load(tmp_path / "t")
    assert (loaded.model, loaded.method) == (clear, link)
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    console.print(ticket_table(loaded))
    shown = console.file.getvalue()
    assert r"[link=https://bad.example]here[/link]\x9b31m\u202e of" in shown
    assert r"\x1b[2J, seed 0" in shown
    assert clear not in shown
    assert str(GemkernError(f"{clear} and\nmore")) == r"\x1b[2J and\nmore"
