"""Who writes and who reads, and who is causal: against slow loops and against what was planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_places import planted_place

from skillneurons import Examples, find_skill_neurons
from skillneurons.findings.localization_parts.causal import CONTROLS, causal_of
from skillneurons.findings.localization_parts.measured import claim_of
from skillneurons.findings.localization_parts.writers import _Reader, writers_of
from skillneurons.interventions.gaps import paired_gap, spread
from skillneurons.interventions.perturbation import Perturbation
from skillneurons.interventions.sweep import SweepSettings, sweep
from skillneurons.neurons.matching import Activity, Crowd


def asked(kind, seed=0, **how):
    place = planted_place(kind, seed, **how)
    scores = find_skill_neurons(place.classifier, place.task)
    claim = claim_of(place.classifier, place.task, place.neurons, scores, n_rows=1000)
    ablate = Perturbation("mean", claim.positions).of(place.classifier, place.task)
    return place, claim, ablate, claim.correlations(claim.train)


def written(kind, seed=0):
    place, claim, ablate, train = asked(kind, seed)
    return place, writers_of(claim, ablate, Crowd(claim.neurons.mask, train.correlation), seed=seed)


def test_a_low_writer_is_told_from_its_readers():
    for seed in range(3):
        place, found = written("writer and readers", seed)
        assert found.writing == [0]
        assert found.writers.tolist() == [list(one) for one in place.writers]
        assert found.taken > 0.7
        assert found.taken_random < 0.3
        assert found.are_written
        assert found.plain.min() > 0.85
        assert found.after[0, 1:].max() < 0.7
        assert found.random[0, 1:].min() > 0.85
        # The readers of layer 1 are held, and those above read as before.
        assert found.after[1, 2] > 0.85
        assert found.gap[1, 2] >= 0


def test_what_is_below_or_at_the_held_layer_has_no_entry():
    _, found = written("writer and readers")
    for table in (found.after, found.random, found.crowd, found.best):
        assert table.isfinite().nonzero().tolist() == [[0, 1], [0, 2], [1, 2]]


def test_neurons_of_one_layer_write_for_nobody():
    _, found = written("copies")
    assert found.after.isnan().all()
    assert found.writing == []
    assert len(found.writers) == 0
    assert (found.taken, found.are_written) == (0.0, False)


@pytest.mark.parametrize("measure", ["predictivity", "balanced_accuracy"])
def test_a_reading_is_that_of_a_slow_loop(measure):
    _, claim, ablate, _ = asked("writer and readers")
    claim = replace(claim, scores=replace(claim.scores, meta=claim.scores.meta | {"measure": measure}))
    held = claim.neurons.layers(1)
    found = _Reader(claim, ablate).read([held])[0][0].mean(0)
    seen = {}
    for split in ("train", "validation", "test"):
        rows = getattr(claim, split)
        seen[split] = claim.collect(rows, Examples(len(rows)), ablate(held)).values.double().numpy()
    base = seen["train"].mean(0)

    def score(split, position, layer, neuron):
        labels = getattr(claim, split).labels.numpy() == 1
        right = (seen[split][:, position, layer, neuron] > base[position, layer, neuron]) == labels
        return right.mean() if measure == "predictivity" else (right[labels].mean() + right[~labels].mean()) / 2

    for layer in range(3):
        slow = []
        for neuron in claim.neurons.indices(layer).tolist():
            on = np.array([score("validation", position, layer, neuron) for position in range(5)])
            position = int(np.maximum(on, 1 - on).argmax())
            there = score("test", position, layer, neuron)
            slow.append(there if on[position] >= 0.5 else 1 - there)
        # A neuron that is held lies on its baseline up to rounding, on either side.
        if layer != 1:
            assert found[layer].item() == pytest.approx(np.mean(slow), abs=0.01)


def test_the_causal_test_is_sweeps_and_paired_gaps():
    _, claim, ablate, train = asked("noisy crowd", groups=4)
    found = causal_of(claim, ablate, train, SweepSettings(n_random=3, progress=False))
    matches = ["layer", Activity(train.mean, train.variance.sqrt()), Crowd(claim.neurons.mask, train.correlation)]
    own = sweep(claim.classifier, claim.test, [(ablate, claim.neurons)], SweepSettings())
    assert found.plain.tolist() == pytest.approx([own.right[0].mean().item(), own.margins[0].mean().item()], abs=1e-5)
    for i, match in enumerate(matches):
        sets = claim.neurons.random_sets(3, seed=0, match=match)
        drawn = sweep(claim.classifier, claim.test, [(ablate, one) for one in sets], SweepSettings(), plain=False)
        wide = spread(claim.neurons) if i == 0 else 11 / 9
        slow = paired_gap(own.margins[1].double(), drawn.margins.double(), wide, groups=claim.test.groups)
        assert found.gaps[i, 1].tolist() == pytest.approx(slow, abs=1e-4)
        assert found.random[i, 0].item() == pytest.approx(drawn.right.mean().item())


def test_a_unique_neuron_is_causal_against_every_control():
    _, claim, ablate, train = asked("unique")
    found = causal_of(claim, ablate, train)
    assert all(found.holds_against(control) for control in CONTROLS)
    assert not found.crowd_costs


def test_of_a_crowd_that_is_listened_to_the_chosen_are_not_the_cause():
    _, claim, ablate, train = asked("crowd causal")
    found = causal_of(claim, ablate, train)
    assert not any(found.holds_against(control) for control in CONTROLS)
    assert found.crowd_costs
    assert found.gaps[2, 1, 1] > 0  # The crowd costs more than the chosen.


def test_one_copy_costs_no_more_than_another():
    _, claim, ablate, train = asked("copies")
    found = causal_of(claim, ablate, train)
    assert not found.holds_against("crowd")
    assert found.chosen[1] < found.plain[1] - 0.5
    assert found.random[2, 1].item() == pytest.approx(found.chosen[1].item(), abs=0.2)


def test_intervals_need_two_random_sets():
    _, claim, ablate, train = asked("unique")
    with pytest.raises(ValueError, match="`n_random` is 1"):
        causal_of(claim, ablate, train, SweepSettings(n_random=1))
    assert torch.isfinite(train.correlation).all()
