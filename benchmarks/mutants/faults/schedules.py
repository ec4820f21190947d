"""Faults in schedules: when weights go, how fast they learn, and what IMP rewinds to."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/tickets/schedules.py",
        'first = freeze_every if rule == "authors" else freeze_every - 1',
        "first = freeze_every - 1",
        "tests/tickets/test_schedules.py::test_authors_freeze_on_multiples_but_not_at_first",
    ),
    Fault(
        "gemkern/tickets/schedules.py",
        "planned = list(range(first, epochs, freeze_every))",
        "planned = list(range(first, epochs + 1, freeze_every))",
        "tests/tickets/test_schedules.py::test_paper_freezes_after_each_period_and_at_the_end",
    ),
    Fault(
        "gemkern/tickets/schedules.py",
        "return 1.0 - density ** (1.0 / freezes)",
        "return 1.0 - density ** (1.0 / epochs)",
        "tests/tickets/test_schedules.py"
        "::test_authors_rule_ends_within_one_weight_a_freeze_of_the_density",
    ),
    Fault(
        "gemkern/tickets/schedules.py",
        "-math.log(1.0 / density) / epochs * freeze_every",
        "-math.log(1.0 / density) / epochs",
        "tests/tickets/test_schedules.py::test_published_schedules",
    ),
    Fault(
        "gemkern/tickets/schedules.py",
        "return math.ceil(round(rate * weights, 6))",
        "return math.ceil(rate * weights)",
        "tests/tickets/test_schedules.py::test_a_rounding_error_removes_no_weight",
    ),
    Fault(
        "gemkern/tickets/schedules.py",
        "left = max(target, left - share(prune, left))",
        "left = left - share(prune, left)",
        "tests/tickets/test_schedules.py::test_imp_removes_a_fifth_a_round_and_ends_on_the_target",
    ),
    Fault(
        "gemkern/tickets/schedules.py",
        "if not 0.0 < density < 1.0:",
        "if not 0.0 <= density < 1.0:",
        "tests/tickets/test_schedules.py::test_a_density_is_between_0_and_1",
    ),
    Fault(
        "gemkern/training/rates.py",
        "math.cos(math.pi * min(epoch, epochs) / epochs)",
        "math.cos(math.pi * min(epoch + 1, epochs) / epochs)",
        "tests/training/test_rates.py::test_cosine_follows_pytorch",
    ),
    Fault(
        "gemkern/training/rates.py",
        "0.1 ** sum(epoch >= milestone for",
        "0.1 ** sum(epoch > milestone for",
        "tests/training/test_rates.py::test_multistep_drops_at_the_papers_milestones",
    ),
    Fault(
        "gemkern/training/rates.py",
        "(epochs // 2, 2 * epochs // 3)",
        "(epochs // 2, 3 * epochs // 4)",
        "tests/training/test_rates.py::test_multistep_drops_at_the_papers_milestones",
    ),
    Fault(
        "gemkern/training/weights.py",
        "set_lr(self.optimizer, self.lr * self._rate(epoch, self.epochs))",
        "set_lr(self.optimizer, self.lr * self._rate(self.epochs - epoch, self.epochs))",
        "tests/training/test_weights.py"
        "::test_the_rate_follows_the_schedule_and_restart_begins_anew",
    ),
    Fault(
        "gemkern/training/weights.py",
        "self.optimizer.forget()",
        "pass",
        "tests/training/test_weights.py"
        "::test_the_rate_follows_the_schedule_and_restart_begins_anew",
    ),
    Fault(
        "gemkern/tickets/imp.py",
        "imp_weights_left(active, density * (self.total / active), prune)",
        "imp_weights_left(active, density, prune)",
        "tests/tickets/test_plans.py::test_the_density_is_that_of_all_weights_whatever_was_active",
    ),
    Fault(
        "gemkern/tickets/imp.py",
        "{entry: tensor.clone() for entry, tensor in weights_state(model).items()}",
        "dict(weights_state(model))",
        "tests/tickets/test_imp.py"
        "::test_rewinding_to_init_gives_the_initial_weights_times_the_mask_to_the_bit",
    ),
    Fault(
        "gemkern/tickets/imp.py",
        "copy.deepcopy(training.state_dict())",
        "training.state_dict()",
        "tests/tickets/test_imp.py::test_rewinding_to_a_step_gives_that_moment_to_the_bit",
    ),
    Fault(
        "gemkern/tickets/imp.py",
        "zero_masked_weights(self.model)",
        "pass",
        "tests/tickets/test_imp.py"
        "::test_rewinding_to_init_gives_the_initial_weights_times_the_mask_to_the_bit",
    ),
    Fault(
        "gemkern/tickets/imp.py",
        "self._steps <= self._rewind_step:",
        "self._steps < self._rewind_step:",
        "tests/tickets/test_imp.py::test_a_rewind_step_beyond_the_first_round_is_refused",
    ),
    Fault(
        "gemkern/tickets/imp.py",
        "if self.epoch % self._round_epochs != 0:",
        "if self.epoch % self._round_epochs != 1:",
        "tests/tickets/test_imp.py::test_each_round_leaves_exactly_the_planned_number",
    ),
)
