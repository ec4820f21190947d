"""Faults in what defines a method."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/tickets/gem_miner.py",
        "k = share(self._freeze_rate, self.weights_left)",
        "k = share(self._freeze_rate, self.total)",
        "tests/tickets/test_gem_miner.py::test_each_freeze_leaves_exactly_the_planned_number",
    ),
    Fault(
        "gemkern/tickets/gem_miner.py",
        'self._sign = 1.0 if freeze == "lowest" else -1.0',
        'self._sign = -1.0 if freeze == "lowest" else 1.0',
        "tests/tickets/test_gem_miner.py::test_the_lowest_scores_of_the_whole_network_freeze",
    ),
    Fault(
        "gemkern/tickets/gem_miner.py",
        "above = [on & (score > kth) for",
        "above = [on & (score >= kth) for",
        "tests/tickets/test_gem_miner.py::test_the_authors_ties_freeze_every_score_up_to_the_last",
    ),
    Fault(
        "gemkern/tickets/gem_miner.py",
        "grad = self._l1 * (layer.active & (scores.detach() > 0))",
        "grad = self._l1 * layer.active",
        "tests/tickets/test_gem_miner_options.py"
        "::test_l1_is_the_gradient_of_the_sum_of_active_scores",
    ),
    Fault(
        "gemkern/tickets/gem_miner.py",
        "BELOW_HALF = 0.5 - 2.0**-25",
        "BELOW_HALF = 0.5 - 2.0**-26",
        "tests/tickets/test_gem_miner.py::test_a_half_is_rounded_as_told",
    ),
    Fault(
        "gemkern/tickets/gem_miner.py",
        "memory.zero_()",
        "pass",
        "tests/tickets/test_gem_miner_options.py::test_rewound_scores_begin_anew_after_each_freeze",
    ),
    Fault(
        "gemkern/tickets/saliency.py",
        "count = max(1, round(density * total))",
        "count = max(1, round(density * left))",
        "tests/tickets/test_saliency.py::test_what_is_not_active_does_not_come_back",
    ),
    Fault(
        "gemkern/tickets/saliency.py",
        "copied = copy.deepcopy(unwrapped(model)).train()",
        "copied = copy.deepcopy(unwrapped(model))",
        "tests/tickets/test_snip.py"
        "::test_batch_norms_are_in_training_mode_whatever_the_model_is_in",
    ),
    Fault(
        "gemkern/tickets/snip.py",
        "(weight.detach() * grad).abs()",
        "grad.abs()",
        "tests/tickets/test_snip.py::test_saliencies_are_the_weights_times_their_gradients",
    ),
    Fault(
        "gemkern/tickets/snip.py",
        "total += grad",
        "total += grad.abs()",
        "tests/tickets/test_snip.py"
        "::test_gradients_of_several_batches_are_added_before_their_size_is_taken",
    ),
    Fault(
        "gemkern/tickets/grasp.py",
        "return [w.detach() * product for",
        "return [-w.detach() * product for",
        "tests/tickets/test_grasp.py::test_saliencies_are_those_of_the_whole_hessian",
    ),
    Fault(
        "gemkern/tickets/grasp.py",
        "F.cross_entropy(model(inputs) / temperature, labels)",
        "F.cross_entropy(model(inputs), labels)",
        "tests/tickets/test_grasp.py::test_the_temperature_is_a_matter_of_the_order",
    ),
    Fault(
        "gemkern/tickets/grasp.py",
        " * (len(labels) / total)",
        " / len(parts)",
        "tests/tickets/test_grasp.py::test_parts_are_the_whole_where_no_norm_sees_the_batch",
    ),
    Fault(
        "gemkern/tickets/synflow.py",
        "(count / left) ** (k / rounds)",
        "(count / left) ** ((k - 1) / rounds)",
        "tests/tickets/test_synflow.py::test_the_schedule_is_exponential",
    ),
    Fault(
        "gemkern/tickets/synflow.py",
        "for parameter in model.parameters():",
        "for parameter in weights_of(model):",
        "tests/tickets/test_synflow.py"
        "::test_biases_and_norms_count_by_their_size_and_statistics_as_they_begin",
    ),
    Fault(
        "gemkern/tickets/synflow.py",
        "model.double().eval()",
        "model.eval()",
        "tests/tickets/test_synflow.py::test_deep_networks_do_not_overflow_before_float64_does",
    ),
    Fault(
        "gemkern/tickets/prospr.py",
        "create_graph=True",
        "create_graph=False",
        "tests/tickets/test_prospr.py"
        "::test_meta_gradients_are_differences_of_the_loss_after_the_steps",
    ),
    Fault(
        "gemkern/tickets/prospr.py",
        "momentum * velocity[name] + grad",
        "momentum * velocity[name] + (1 - momentum) * grad",
        "tests/tickets/test_prospr.py"
        "::test_meta_gradients_are_differences_of_the_loss_after_the_steps",
    ),
    Fault(
        "gemkern/tickets/erk.py",
        '{"erk": sum, "uniform": math.prod}',
        '{"erk": math.prod, "uniform": math.prod}',
        "tests/tickets/test_erk.py::test_by_hand",
    ),
    Fault(
        "gemkern/tickets/erk.py",
        "sorted(rests, key=lambda i: -rests[i])",
        "sorted(rests, key=lambda i: rests[i])",
        "tests/tickets/test_erk.py::test_by_hand",
    ),
    Fault(
        "gemkern/tickets/smart_ratio.py",
        "step = len(layer_sizes) - layer + 1",
        "step = len(layer_sizes) - layer",
        "tests/tickets/test_random_ticket.py::test_smart_ratio_of_three_layers_by_hand",
    ),
    Fault(
        "gemkern/tickets/smart_ratio.py",
        "layer * layer if vgg else 1",
        "layer if vgg else 1",
        "tests/tickets/test_random_ticket.py::test_smart_ratio_of_vgg_by_hand",
    ),
    Fault(
        "gemkern/tickets/edge_popup.py",
        "weight_decay=weight_decay + 2 * l2,",
        "weight_decay=weight_decay + l2,",
        "tests/tickets/test_edge_popup_search.py"
        "::test_scores_move_by_sgd_with_decay_and_regulariser",
    ),
    Fault(
        "gemkern/tickets/edge_popup.py",
        "bound = 1 / math.sqrt(score[0].numel())",
        "bound = 1 / math.sqrt(score.numel())",
        "tests/tickets/test_edge_popup_search.py::test_scores_are_drawn_as_by_kaiming",
    ),
    Fault(
        "gemkern/tickets/edge_popup.py",
        "magnitudes = [score.abs() for score in self._scores()]",
        "magnitudes = self._scores()",
        "tests/tickets/test_edge_popup_search.py"
        "::test_at_every_step_it_computes_with_the_largest_scores",
    ),
    Fault(
        "gemkern/tickets/dynamic.py",
        "_remove([layer.weight.detach().abs() for layer in layers], active, k)",
        "_remove([layer.weight.detach() for layer in layers], active, k)",
        "tests/tickets/test_dynamic.py::test_set_drops_the_smallest_and_grows_at_random_places",
    ),
    Fault(
        "gemkern/tickets/dynamic.py",
        "[-values for _, values, _ in moving]",
        "[values for _, values, _ in moving]",
        "tests/tickets/test_dynamic.py"
        "::test_rigl_drops_the_smallest_and_grows_where_the_dense_gradient_is_largest",
    ),
    Fault(
        "gemkern/tickets/rigl.py",
        "None if gradient is None else gradient.abs() for",
        "gradient for",
        "tests/tickets/test_dynamic.py"
        "::test_rigl_drops_the_smallest_and_grows_where_the_dense_gradient_is_largest",
    ),
    Fault(
        "gemkern/tickets/rigl.py",
        "math.cos(math.pi * self.epoch / self._moving_epochs)",
        "math.cos(math.pi * self.epoch / self.epochs)",
        "tests/tickets/test_dynamic.py"
        "::test_rigl_drops_the_smallest_and_grows_where_the_dense_gradient_is_largest",
    ),
    Fault(
        "gemkern/tickets/set.py",
        'generator(f"growth after step {self._steps}", self._seed)',
        'generator(f"growth after step {self.epoch}", self._seed)',
        "tests/tickets/test_dynamic.py::test_growth_of_set_depends_on_the_seed_and_the_step_alone",
    ),
    Fault(
        "gemkern/tickets/cts.py",
        "return (ours.exp() * (ours - theirs)).sum(-1).mean()",
        "return (theirs.exp() * (theirs - ours)).sum(-1).mean()",
        "tests/tickets/test_cts.py::test_the_objective_is_the_reverse_divergence_in_float64",
    ),
    Fault(
        "gemkern/tickets/cts.py",
        "(_mean(kept) / self._wanted).log()",
        "(self._wanted / _mean(kept)).log()",
        "tests/tickets/test_cts.py::test_the_gradients_of_objective_and_density_are_balanced",
    ),
    Fault(
        "gemkern/tickets/cts.py",
        "return ((logits + noise) / temperature).sigmoid()",
        "return (logits / temperature + noise).sigmoid()",
        "tests/tickets/test_cts.py::test_a_sample_and_its_gradient_are_those_of_the_formula",
    ),
    Fault(
        "gemkern/tickets/cts.py",
        "way = min(1.0, (epoch + 1) / math.ceil(RAMP * epochs))",
        "way = min(1.0, epoch / math.ceil(RAMP * epochs))",
        "tests/tickets/test_cts.py::test_the_wanted_density_goes_down_by_equal_factors_and_stays",
    ),
    Fault(
        "gemkern/tickets/loft.py",
        "so_far + (value - so_far) / (self._worker + 1)",
        "so_far + (value - so_far) / self._workers",
        "tests/tickets/test_loft.py::test_workers_begin_where_the_round_did_and_are_put_together",
    ),
    Fault(
        "gemkern/tickets/loft.py",
        "load_weights_state(self.model, self._before)",
        "pass",
        "tests/tickets/test_loft.py::test_workers_begin_where_the_round_did_and_are_put_together",
    ),
    Fault(
        "gemkern/tickets/loft.py",
        "strengths = weight.abs().flatten(1).mean(1).tolist()",
        "strengths = weight.flatten(1).mean(1).tolist()",
        "tests/tickets/test_loft.py"
        "::test_the_strongest_filter_of_each_layer_comes_first_then_the_strongest_of_all",
    ),
    Fault(
        "gemkern/tickets/layer_tickets.py",
        "key=lambda block: -worth[block]",
        "key=lambda block: worth[block]",
        "tests/tickets/test_layer_tickets.py::test_the_criterion_decides_which",
    ),
    Fault(
        "gemkern/tickets/layer_tickets.py",
        "if child not in SHORTCUTS]",
        "]",
        "tests/tickets/test_layer_tickets.py::test_blocks_are_what_a_shortcut_passes_by",
    ),
    Fault(
        "gemkern/tickets/magnitude.py",
        'RAMPS = {"cubic": 3, "linear": 1}',
        'RAMPS = {"cubic": 2, "linear": 1}',
        "tests/tickets/test_magnitude.py::test_counts_of_ramps_are_exact",
    ),
    Fault(
        "gemkern/tickets/magnitude.py",
        "return list(range(every, last + 1, every))",
        "return list(range(every, last, every))",
        "tests/tickets/test_magnitude.py::test_prunings_end_with_their_fraction_of_the_epochs",
    ),
    Fault(
        "gemkern/training/weights.py",
        "self.epoch % self._sign_in == 0",
        "self.epoch % self._sign_in == 1",
        "tests/training/test_weights.py::test_factors_are_rescaled_every_so_many_epochs",
    ),
)
