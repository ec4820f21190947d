"""Faults in tickets: what they hold, what they are made of, and their files."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/tickets/ticket.py",
        'return tensor.detach().to("cpu", copy=True)',
        'return tensor.detach().to("cpu")',
        "tests/tickets/test_ticket.py::test_a_ticket_is_a_copy",
    ),
    Fault(
        "gemkern/tickets/ticket.py",
        "if weights and checksum(weights, ticket.masks) != ticket.checksum:",
        "if weights and not ticket.checksum:",
        "tests/tickets/test_ticket.py::test_a_file_that_contradicts_itself_is_refused",
    ),
    Fault(
        "gemkern/tickets/ticket.py",
        "if ticket.density != header.density:",
        "if ticket.density > 1:",
        "tests/tickets/test_ticket.py::test_a_file_that_contradicts_itself_is_refused",
    ),
    Fault(
        "gemkern/tickets/ticket.py",
        "ours is None or theirs is None or ours.shape != theirs.shape:",
        "ours is None or theirs is None:",
        "tests/tickets/test_ticket.py::test_a_model_that_does_not_fit_is_left_as_it_was",
    ),
    Fault(
        "gemkern/tickets/ticket.py",
        "layer.drop_scores()",
        "pass",
        "tests/tickets/test_ticket.py::test_applying_sets_masks_and_weights_and_lets_weights_learn",
    ),
    Fault(
        "gemkern/tickets/ticket.py",
        "zero_masked_weights(model)",
        "pass",
        "tests/tickets/test_ticket.py::test_applying_sets_masks_and_weights_and_lets_weights_learn",
    ),
    Fault(
        "gemkern/tickets/ticket.py",
        "if not replace and os.path.exists(path) and not _holds(",
        "if not replace and not os.path.exists(path) and not _holds(",
        "tests/tickets/test_ticket.py::test_a_ticket_takes_no_other_files_place",
    ),
    Fault(
        "gemkern/tickets/state.py",
        'for entry in ("scores", "active")',
        'for entry in ("scores",)',
        "tests/tickets/test_ticket.py::test_applying_sets_masks_and_weights_and_lets_weights_learn",
    ),
    Fault(
        "gemkern/tickets/state.py",
        "layer.weight.masked_fill_(~layer.active, 0.0)",
        "layer.weight.mul_(layer.active)",
        "tests/tickets/test_imp.py"
        "::test_rewinding_to_init_gives_the_initial_weights_times_the_mask_to_the_bit",
    ),
    Fault(
        "gemkern/tickets/sanity.py",
        "mask.flatten()[torch.randperm(mask.numel(), generator=stream)]",
        "mask.flatten()[torch.randint(mask.numel(), mask.shape, generator=stream)]",
        "tests/tickets/test_sanity.py::test_shuffling_moves_the_mask_within_each_layer_alone",
    ),
    Fault(
        "gemkern/tickets/random_ticket.py",
        "mask[order[:count]] = True",
        "mask[:count] = True",
        "tests/tickets/test_random_ticket.py::test_every_position_is_drawn_equally_often",
    ),
    Fault(
        "gemkern/tickets/randomness.py",
        'hashlib.sha256(f"{purpose} {seed}".encode())',
        'hashlib.sha256(f"{seed}".encode())',
        "tests/tickets/test_random_ticket.py::test_purposes_draw_numbers_of_their_own",
    ),
    Fault(
        "gemkern/tickets/search.py",
        "if self.epoch < self.epochs:",
        "if self.epoch > self.epochs:",
        "tests/tickets/test_gem_miner.py::test_a_search_ends",
    ),
    Fault(
        "gemkern/tickets/search.py",
        "if self._steps_of_epoch == 0:",
        "if self._steps_of_epoch < 0:",
        "tests/tickets/test_plans.py"
        "::test_a_step_without_a_gradient_and_an_epoch_without_a_step_are_refused",
    ),
    Fault(
        "gemkern/tensor_file.py",
        "if not is_whole or digest.tolist() != digest_of(metadata[kind.header], tensors):",
        "if not is_whole:",
        "tests/tickets/test_ticket.py::test_any_flipped_byte_is_noticed",
    ),
    Fault(
        "gemkern/tensor_file.py",
        "if version != kind.version:",
        "if version is None:",
        "tests/tickets/test_ticket.py::test_a_wrong_header_is_refused",
    ),
    Fault(
        "gemkern/tensor_file.py",
        "json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()",
        "json.dumps([name, str(tensor.dtype)]).encode()",
        "tests/tickets/test_ticket.py::test_the_checksum_is_of_the_masked_layers_weights_alone",
    ),
)
