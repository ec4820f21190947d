"""Faults in training and in experiments: checkpoints, resuming, seeds, records."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/experiments/checkpoints.py",
        "for _, older in found[: 1 - KEPT]:",
        "for _, older in found[:-KEPT]:",
        "tests/experiments/test_resume.py::test_the_last_two_checkpoints_are_kept",
    ),
    Fault(
        "gemkern/experiments/checkpoints.py",
        "for _, path in reversed(self._found()):",
        "for _, path in self._found():",
        "tests/experiments/test_resume.py"
        "::test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_is_used[cut]",
    ),
    Fault(
        "gemkern/experiments/checkpoints.py",
        'if header.get("job") != self._job:',
        'if header.get("job") is None:',
        "tests/experiments/test_resume.py"
        "::test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_is_used[foreign]",
    ),
    Fault(
        "gemkern/experiments/states.py",
        "tensors[name] = value.detach().cpu().clone()",
        "tensors[name] = value.detach().cpu()",
        "tests/experiments/test_resume.py::test_what_shares_its_memory_is_written_twice",
    ),
    Fault(
        "gemkern/experiments/states.py",
        "if all(isinstance(key, str) and key != MARK for key in value):",
        "if all(isinstance(key, str) for key in value):",
        "tests/experiments/test_resume.py::test_states_come_back_from_their_files",
    ),
    Fault(
        "gemkern/experiments/job.py",
        "if name not in PLACES",
        "if name",
        "tests/experiments/test_job.py"
        "::test_a_job_is_another_by_what_it_comes_to_and_not_by_where_it_runs",
    ),
    Fault(
        "gemkern/experiments/job.py",
        "key=lambda method: METHODS[method].needs is not None",
        "key=lambda method: METHODS[method].needs is None",
        "tests/experiments/test_job.py"
        "::test_jobs_come_in_an_order_in_which_each_finds_what_it_needs",
    ),
    Fault(
        "gemkern/experiments/job_folder.py",
        "whole = lines if _is_record(lines[-1]) else lines[:-1]",
        "whole = lines",
        "tests/experiments/test_resume.py::test_epochs_after_the_checkpoint_are_trained_again",
    ),
    Fault(
        "gemkern/experiments/running.py",
        "folder.rewrite(work.records())",
        "pass",
        "tests/experiments/test_resume.py::test_epochs_after_the_checkpoint_are_trained_again",
    ),
    Fault(
        "gemkern/experiments/records.py",
        "self.steps * (self.dense_ms - self.accelerated_ms) / 1e3",
        "self.steps * (self.accelerated_ms - self.dense_ms) / 1e3",
        "tests/report/test_savings_table.py::test_rows_are_means_and_sums_over_seeds",
    ),
    Fault(
        "gemkern/experiments/work.py",
        "seconds=before + stats.seconds,",
        "seconds=stats.seconds,",
        "tests/experiments/test_laboratory.py"
        "::test_a_record_says_all_of_its_epoch_and_is_handed_on",
    ),
    Fault(
        "gemkern/experiments/work.py",
        "accuracy_before=course.accuracy,",
        "accuracy_before=self.laboratory.test(model),",
        "tests/experiments/test_race.py::test_gem_miner_is_measured_as_mined_before_finetuning",
    ),
    Fault(
        "gemkern/experiments/laboratory.py",
        "batches.begin(epoch)",
        "batches.begin(0)",
        "tests/experiments/test_laboratory.py::test_batches_of_a_seed_go_on_epoch_after_epoch",
    ),
    Fault(
        "gemkern/experiments/laboratory.py",
        'return evaluate(model, self.data, "validation", autocast=self.autocast)',
        'return evaluate(model, self.data, "test", autocast=self.autocast)',
        "tests/experiments/test_laboratory.py::test_epochs_are_judged_on_the_validation_split",
    ),
    Fault(
        "gemkern/training/loop.py",
        "step.total.copy_(total)",
        "pass",
        "tests/experiments/test_resume.py::test_seeds_that_train_together_go_on_together",
    ),
    Fault(
        "gemkern/training/loop.py",
        "step.begin(self.epoch, self.step)",
        "step.begin(self.epoch)",
        "tests/experiments/test_resume.py::test_seeds_that_train_together_go_on_together",
    ),
    Fault(
        "gemkern/training/loop.py",
        "model.train(was_training)",
        "pass",
        "tests/training/test_loop.py::test_evaluation_counts_exactly_and_changes_nothing",
    ),
    Fault(
        "gemkern/training/loop.py",
        "if not math.isfinite(loss):",
        "if math.isnan(loss):",
        "tests/training/test_loop.py::test_a_loss_that_is_not_finite_ends_the_run",
    ),
    Fault(
        "gemkern/training/step.py",
        "return self.total.item() / self.count",
        "return self.total.item()",
        "tests/training/test_loop.py::test_the_loss_of_an_epoch_is_the_mean_over_its_batches",
    ),
    Fault(
        "gemkern/training/randomness.py",
        "random.setstate((version, tuple(numbers), gauss))",
        "pass",
        "tests/tickets/test_saliency.py::test_the_model_and_the_random_numbers_are_what_they_were",
    ),
    Fault(
        "gemkern/training/randomness.py",
        "torch.manual_seed(seed)",
        "pass",
        "tests/tickets/test_saliency.py::test_dropout_is_a_function_of_the_seed",
    ),
)
