import pytest
import torch
from tiny_search import assert_same_state, network, same_bits

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.tickets import Ticket, reinitialised, shuffled
from gemkern.tickets.state import checksum


def ticket():
    model = network()
    gk.convert(model)
    model[0].active[0] = False
    model[4].active[:, 10:] = False
    return Ticket.from_model(model, method="gem-miner", name="tiny", seed=0)


def test_shuffling_moves_the_mask_within_each_layer_alone():
    original = ticket()
    drawn = shuffled(original, seed=1)
    for name, mask in original.masks.items():
        assert drawn.masks[name].shape == mask.shape
        assert drawn.masks[name].sum() == mask.sum()
        assert not torch.equal(drawn.masks[name], mask)
    assert (drawn.method, drawn.seed, drawn.checksum) == ("shuffled", 0, original.checksum)
    assert drawn.weights is original.weights


def test_shuffling_is_a_function_of_the_seed():
    one, same, other = (shuffled(ticket(), seed=seed).masks for seed in (1, 1, 2))
    assert_same_state(dict(one), dict(same))
    assert not torch.equal(one["4"], other["4"])


@pytest.mark.parametrize("convert", [False, True])
def test_reinitialising_keeps_the_masks_and_takes_other_weights(convert):
    original, fresh = ticket(), network(seed=9)
    expected = network(seed=9).state_dict()
    if convert:
        gk.convert(fresh, scores=True)
    other = reinitialised(original, fresh, model_seed=9)
    assert_same_state(dict(other.masks), dict(original.masks))
    assert_same_state(dict(other.weights), dict(expected))
    assert not same_bits(other.weights["0.weight"], original.weights["0.weight"])
    assert (other.method, other.model, other.seed) == ("reinitialised", "tiny", 9)
    assert other.checksum == checksum(expected, ("0", "4")) != original.checksum


def test_reinitialising_needs_the_same_architecture():
    with pytest.raises(GemkernError, match="no layer '4'"):
        reinitialised(ticket(), network()[:4])
