"""Faults in the reference kernels, which say what the others have to be."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "kernels/reference/bits.py",
        "-bits.numel() % 8",
        "8 - bits.numel() % 8",
        "tests/kernels/test_bits.py::test_the_order_is_row_major_whatever_the_strides",
    ),
    Fault(
        "kernels/reference/threshold.py",
        "else (scores >= tau) & active",
        "else (scores > tau) & active",
        "tests/kernels/test_threshold.py::test_a_score_of_one_half_is_on_and_the_next_below_is_off",
    ),
    Fault(
        "kernels/reference/threshold.py",
        "return [layer.clone() for layer in active]",
        "return list(active)",
        "tests/kernels/test_threshold.py::test_without_scores_the_mask_is_a_copy_of_active",
    ),
    Fault(
        "kernels/reference/threshold.py",
        "return values.clone().masked_fill_(~mask, 0)",
        "return values * mask",
        "tests/kernels/test_threshold.py"
        "::test_weights_pass_bit_for_bit_and_the_rest_is_positive_zero",
    ),
    Fault(
        "kernels/reference/straight_through.py",
        "select(effective_grad.to(dtype) * weight.to(dtype), active)",
        "select(effective_grad.to(dtype), active)",
        "tests/kernels/test_masked_layers.py::test_in_float64_all_agree_with_autograd",
    ),
    Fault(
        "kernels/reference/masked_linear.py",
        "select(_effective_grad(grad_y, x), mask_of(scores, active))",
        "select(_effective_grad(grad_y, x), active)",
        "tests/kernels/test_masked_layers.py::test_in_float64_all_agree_with_autograd",
    ),
    Fault(
        "kernels/reference/batch_norm_relu.py",
        "return _count(x) / max(_count(x) - 1, 1)",
        "return 1.0",
        "tests/kernels/test_batch_norm_relu.py::test_it_is_the_module_and_its_gradients",
    ),
    Fault(
        "kernels/reference/batch_norm_relu.py",
        "g = g.masked_fill(passed <= 0, 0)",
        "g = g.masked_fill(passed < 0, 0)",
        "tests/kernels/test_batch_norm_relu.py::test_it_is_the_module_and_its_gradients",
    ),
    Fault(
        "kernels/reference/batch_norm_relu.py",
        "- x_hat * _per_channel(sum_gx / count, x)",
        "- _per_channel(sum_gx / count, x)",
        "tests/kernels/test_batch_norm_relu.py::test_it_is_the_module_and_its_gradients",
    ),
    Fault(
        "kernels/reference/normalise.py",
        "(-0.5 * sum_gx * scale * inverse.square())",
        "(0.5 * sum_gx * scale * inverse.square())",
        "tests/kernels/test_norm_sparse.py::test_a_norm_by_given_statistics_agrees_with_autograd",
    ),
    Fault(
        "kernels/reference/norm_sparse_conv2d.py",
        "slope = per_channel(2 * grads.var / count, y)",
        "slope = per_channel(grads.var / count, y)",
        "tests/kernels/test_norm_sparse.py::test_all_agrees_with_autograd[norm and ReLU-3x3]",
    ),
    Fault(
        "kernels/reference/pooling.py",
        "taps = (indices // width - rows) * kernel[1]",
        "taps = (indices // width - rows) * kernel[0]",
        "tests/kernels/test_pooling.py::test_max_pooling_is_the_module",
    ),
    Fault(
        "kernels/reference/pattern.py",
        "positions // (active[:1].numel() or 1)",
        "positions // (active.shape[1] or 1)",
        "tests/kernels/test_sparse.py::test_a_pattern_lists_every_place",
    ),
    Fault(
        "kernels/reference/shortcut.py",
        "grad_x[:, :, :: stride[0], :: stride[1]]",
        "grad_x[:, :, :: stride[1], :: stride[0]]",
        "tests/kernels/test_shortcut.py::test_it_is_a_padded_slice",
    ),
    Fault(
        "kernels/reference/popup.py",
        "magnitudes = [score.abs() for score in scores]",
        "magnitudes = list(scores)",
        "tests/kernels/test_popup.py::test_weights_are_kept_whole_and_others_are_plus_zero",
    ),
    Fault(
        "kernels/reference/popup.py",
        "(n - kept[i]).clamp(0, n)",
        "kept[i].clamp(0, n)",
        "tests/kernels/test_popup.py::test_each_layer_keeps_its_largest_magnitudes",
    ),
    Fault(
        "kernels/reference/score_step.py",
        "return grad + 2 * _scalar(l2, p) * p",
        "return grad + _scalar(l2, p) * p",
        "tests/kernels/test_score_step.py"
        "::test_where_nothing_is_clamped_or_frozen_it_is_the_optimiser_of_pytorch",
    ),
    Fault(
        "kernels/reference/score_step.py",
        "p.sub_(by).clamp_(0, 1)",
        "p.sub_(by).clamp_(min=0)",
        "tests/kernels/test_score_step.py::test_scores_stay_between_zero_and_one",
    ),
    Fault(
        "kernels/reference/score_step.py",
        "for state in (p, *memory):",
        "for state in (p,):",
        "tests/kernels/test_score_step.py"
        "::test_frozen_scores_and_their_memories_are_zero_whatever_they_were",
    ),
    Fault(
        "kernels/reference/select_kth.py",
        "(equal & (equal.cumsum(0) <= ties))",
        "(equal & (equal.cumsum(0) < ties))",
        "tests/kernels/test_select_kth.py::test_among_equals_the_first_go",
    ),
    Fault(
        "kernels/reference/select_kth.py",
        "return (values < kth) | (kth.isnan() & ~values.isnan())",
        "return values < kth",
        "tests/kernels/test_select_kth.py::test_nan_is_last_and_an_infinity_before_it",
    ),
)
