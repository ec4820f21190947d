"""Faults in kernels for GPUs, whose tests run them in Triton's interpreter."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "kernels/gpu/threshold.py",
        "mask = mask & (load_part(scores_ptr, offsets, size, WHOLE) >= tau)",
        "mask = mask & (load_part(scores_ptr, offsets, size, WHOLE) > tau)",
        "tests/interpreter/test_gpu_threshold.py::TestThreshold::test_masks",
    ),
    Fault(
        "kernels/gpu/threshold.py",
        "place % COLUMNS * ROWS + place // COLUMNS",
        "place % ROWS * COLUMNS + place // ROWS",
        "tests/interpreter/test_gpu_threshold.py::TestThreshold"
        "::test_channels_last_weights_keep_or_change_their_order",
    ),
    Fault(
        "kernels/gpu/popup.py",
        "scores_ptr, scores_ptr, kth, ties, before, part, size, False, True, BLOCK",
        "scores_ptr, scores_ptr, kth, ties, before, part, size, False, False, BLOCK",
        "tests/interpreter/test_gpu_popup.py::test_the_sign_of_a_score_is_not_looked_at",
    ),
    Fault(
        "kernels/gpu/straight_through.py",
        "tl.where(active, grads * weights, 0)",
        "grads * weights",
        "tests/interpreter/test_gpu_materialised.py::test_straight_through",
    ),
    Fault(
        "kernels/gpu/bits.py",
        "tl.sum(bits << tl.arange(0, 8)[None, :], axis=1)",
        "tl.sum(bits << (7 - tl.arange(0, 8)[None, :]), axis=1)",
        "tests/interpreter/test_gpu_bits.py::test_each_entry_has_its_bit",
    ),
    Fault(
        "kernels/gpu/score_step.py",
        "return grads + 2 * l2 * scores",
        "return grads + l2 * scores",
        "tests/interpreter/test_gpu_score_step.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/gpu/score_step.py",
        "moved = tl.where(moved < 0, 0, tl.where(moved > 1, 1, moved))",
        "moved = tl.where(moved < 0, 0, moved)",
        "tests/interpreter/test_gpu_score_step.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/gpu/score_step.py",
        "mask = active & (moved >= TAU)",
        "mask = active & (scores >= TAU)",
        "tests/interpreter/test_gpu_score_step.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/gpu/select_kth.py",
        "before = (up_to < rank) & (bins < BINS - 1)",
        "before = (up_to <= rank) & (bins < BINS - 1)",
        "tests/interpreter/test_gpu_select_kth.py::TestSelectKth"
        "::test_special_values_are_ordered_as_by_the_reference",
    ),
    Fault(
        "kernels/gpu/select_kth.py",
        "(equal & (before + tl.cumsum(counts) <= ties))",
        "(equal & (before + tl.cumsum(counts) < ties))",
        "tests/interpreter/test_gpu_select_kth.py::TestSelectKth"
        "::test_special_values_are_ordered_as_by_the_reference",
    ),
    Fault(
        "kernels/gpu/masked_products.py",
        "mask = mask & (tl.load(scores_ptr + scores_at, mask=inside, other=0) >= 0.5)",
        "mask = tl.load(scores_ptr + scores_at, mask=inside, other=0) >= 0.5",
        "tests/interpreter/test_gpu_masked_linear.py::test_x_has_any_number_of_dimensions",
    ),
    Fault(
        "kernels/gpu/masked_linear.py",
        "bias if splits == 1 else None,",
        "bias,",
        "tests/interpreter/test_gpu_masked_linear.py"
        "::test_parts_of_a_sum_may_be_shorter_or_single_steps",
    ),
    Fault(
        "kernels/gpu/conv2d_tiles.py",
        "mask=inside, other=0) >= TAU)",
        "mask=inside, other=0) > TAU)",
        "tests/interpreter/test_gpu_masked_conv2d.py::test_scores_at_the_threshold_are_on",
    ),
    Fault(
        "kernels/gpu/conv2d_walk.py",
        "origin=padding[i],",
        "origin=-padding[i],",
        "tests/interpreter/test_gpu_masked_conv2d.py::test_scores_at_the_threshold_are_on",
    ),
    Fault(
        "kernels/kept.py",
        "key=lambda key: _kept[key].asked)",
        "key=lambda key: -_kept[key].asked)",
        "tests/kernels/test_kept.py::test_the_least_recently_read_go_first",
    ),
)
