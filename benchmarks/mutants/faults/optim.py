"""Faults in optimisers: momentum, weight decay, the clamp, what is frozen."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/optim/masked_sgd.py",
        'for tensor in (layer.weight, self.state.get(layer.weight, {}).get("momentum_buffer"))',
        "for tensor in (layer.weight,)",
        "tests/optim/test_masked_sgd.py::test_masked_weights_and_momentum_are_zero_after_each_step",
    ),
    Fault(
        "gemkern/optim/masked_sgd.py",
        '"weight_decay": weight_decay,',
        '"weight_decay": 0.0,',
        "tests/optim/test_masked_sgd.py::test_with_nothing_masked_it_is_sgd_to_the_bit",
    ),
    Fault(
        "gemkern/optim/masked_sgd.py",
        "grad if layer.weight.grad is None else layer.weight.grad + grad",
        "grad",
        "tests/optim/test_masked_sgd.py::test_capturable_gradients_are_cleared_and_add_up",
    ),
    Fault(
        "gemkern/optim/masked_sgd.py",
        'None if self._capturable or group["nesterov"] else True',
        "None if self._capturable else True",
        "tests/optim/test_masked_sgd.py::test_a_step_leaves_the_gradients",
    ),
    Fault(
        "gemkern/optim/masked_sgd.py",
        "self._mask_gradients(zero)",
        "pass",
        "tests/optim/test_masked_sgd.py::test_what_is_masked_stays_zero_whoever_meddles",
    ),
    Fault(
        "gemkern/optim/masked_sgd.py",
        "memory[name].zero_()",
        "pass",
        "tests/training/test_weights.py"
        "::test_the_rate_follows_the_schedule_and_restart_begins_anew",
    ),
    Fault(
        "gemkern/optim/score_optimizer.py",
        "elif written != value:",
        "elif written is None:",
        "tests/optim/test_score_sgd.py::test_schedulers_drive_the_learning_rate",
    ),
    Fault(
        "gemkern/optim/score_optimizer.py",
        "_layers(group) if _has_gradient(layer)]",
        "_layers(group)]",
        "tests/optim/test_score_sgd.py::test_scores_without_a_gradient_are_left_alone",
    ),
    Fault(
        "gemkern/optim/score_adam.py",
        "beta1, beta2 = group",
        "beta2, beta1 = group",
        "tests/optim/test_score_adam.py::test_away_from_the_bounds_it_is_adam",
    ),
    Fault(
        "gemkern/optim/score_sgd.py",
        'nesterov=group["nesterov"],',
        "nesterov=False,",
        "tests/optim/test_score_sgd.py::test_away_from_the_bounds_it_is_sgd",
    ),
    Fault(
        "gemkern/optim/sign_in.py",
        "grads = (grad * w, grad * m)",
        "grads = (grad * m, grad * w)",
        "tests/optim/test_sign_in.py::test_a_step_is_that_of_sgd_over_both_factors",
    ),
    Fault(
        "gemkern/optim/sign_in.py",
        "weight.square() * 4 + beta**2",
        "weight.square() * 4 + beta",
        "tests/optim/test_sign_in.py::test_factors_are_split_as_they_are_defined",
    ),
    Fault(
        "gemkern/optim/sign_in.py",
        'slope.add_(factor, alpha=group["weight_decay"])',
        "pass",
        "tests/optim/test_sign_in.py::test_a_step_is_that_of_sgd_over_both_factors",
    ),
    Fault(
        "gemkern/optim/effective.py",
        "if known and self._written_from.still(sources(layer)) else None",
        "if known else None",
        "tests/optim/test_effective.py::test_whatever_changes_counts_at_once",
    ),
    Fault(
        "gemkern/optim/effective.py",
        "return product if layer.scores.grad is None else product + layer.scores.grad",
        "return product",
        "tests/optim/test_effective.py::test_gradients_accumulate",
    ),
    Fault(
        "gemkern/optim/carrying.py",
        "remembered[name] = layer.gather(memory)",
        "remembered[name] = memory",
        "tests/nn/test_compression.py::test_what_weight_optimizers_remember_follows",
    ),
)
