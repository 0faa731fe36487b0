"""Baseline, accuracy and predictivity against loops written from the paper's equations, and by their laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from skillneurons import accuracy, baseline_activation, predictivity
from skillneurons.neurons._predictivity import (
    accuracy_from_counts,
    balanced_accuracy_from_counts,
    best_position,
    held_out_accuracy,
)

N, P, L, M = 11, 2, 3, 5


def integers(seed, n=N):
    """Whole numbers, so that sums and shifts are exact and ties occur."""
    return torch.randint(-3, 4, (n, P, L, M), generator=torch.Generator().manual_seed(seed)).float()


def labels_of(seed, n=N):
    labels = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed + 1))
    labels[0], labels[1] = 0, 1
    return labels


def slow_accuracy(activations, labels, baseline):
    result = torch.zeros(P, L, M)
    for p in range(P):
        for layer in range(L):
            for neuron in range(M):
                decisions = [int(a > baseline[p, layer, neuron]) for a in activations[:, p, layer, neuron]]
                result[p, layer, neuron] = accuracy_score(labels, decisions)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_that_of_a_slow_loop(seed):
    activations, labels = integers(seed), labels_of(seed)
    baseline = baseline_activation(integers(seed + 7))
    torch.testing.assert_close(accuracy(activations, labels, baseline), slow_accuracy(activations, labels, baseline))


def test_baseline_is_the_mean_over_examples():
    activations = integers(0)
    expected = sum(activations[i] for i in range(N)) / N
    torch.testing.assert_close(baseline_activation(activations), expected)


def test_counts_give_the_accuracy_that_decisions_give():
    activations, labels = integers(3), labels_of(3)
    baseline = baseline_activation(activations)
    above = torch.stack([(activations > baseline)[labels == label].sum(0) for label in (0, 1)])
    n = labels.bincount(minlength=2)
    torch.testing.assert_close(accuracy_from_counts(above, n).float(), accuracy(activations, labels, baseline))
    decisions = (activations[:, 1, 2, 4] > baseline[1, 2, 4]).long()
    expected = balanced_accuracy_score(labels, decisions)
    assert balanced_accuracy_from_counts(above, n)[1, 2, 4].item() == pytest.approx(expected)


def test_a_constant_neuron_scores_the_majority_but_half_when_classes_weigh_the_same():
    above, n = torch.tensor([3, 8]).reshape(2, 1, 1, 1), torch.tensor([3, 8])
    assert accuracy_from_counts(above, n).item() == pytest.approx(8 / 11)
    assert balanced_accuracy_from_counts(above, n).item() == 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(-5, 5))
def test_laws_of_predictivity(seed, shift):
    activations, labels = integers(seed), labels_of(seed)
    baseline = integers(seed + 1)[0]
    acc = accuracy(activations, labels, baseline)
    pred = predictivity(acc)
    assert ((pred >= 0.5) & (pred <= 1)).all()
    torch.testing.assert_close(predictivity(accuracy(activations, 1 - labels, baseline)), pred)
    assert torch.equal(predictivity(accuracy(activations + shift, labels, baseline + shift)), pred)
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(predictivity(accuracy(activations[..., order], labels, baseline[..., order])), pred[:, order])


def test_held_out_accuracy_uses_the_position_and_direction_chosen_elsewhere():
    chosen_on, reported_on = torch.rand(7, P, L, M), torch.rand(7, P, L, M)
    result = held_out_accuracy(chosen_on, reported_on)
    position, upward = best_position(chosen_on)
    for seed in range(7):
        for layer in range(L):
            for neuron in range(M):
                values = [max(a, 1 - a) for a in chosen_on[seed, :, layer, neuron].tolist()]
                best = values.index(max(values))
                up = chosen_on[seed, best, layer, neuron] >= 0.5
                test = reported_on[seed, best, layer, neuron].item()
                assert position[seed, layer, neuron] == best
                assert upward[seed, layer, neuron] == up
                assert result[seed, layer, neuron].item() == pytest.approx(test if up else 1 - test)


def test_the_best_chance_neuron_looks_good_where_it_was_chosen_and_is_not_elsewhere():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 2
    noise = torch.randn(200, 16, 4, 500, generator=generator)
    baseline = torch.zeros(16, 4, 500)
    validation, test = (accuracy(noise[half], labels, baseline) for half in (slice(0, 100), slice(100, 200)))
    best = predictivity(validation).argmax()
    assert predictivity(validation).flatten()[best] > 0.7
    assert abs(held_out_accuracy(validation, test).mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, y, b: (a, y + 1, b), r"hold \[1, 2\].*subtasks"),
        (lambda a, y, b: (a[:0], y[:0], b), "no examples"),
        (lambda a, y, b: (a.where(a > -3, torch.nan), y, b), "NaN"),
    ],
)
def test_bad_input_to_accuracy_is_named(change, message):
    activations, labels = integers(0), labels_of(0)
    with pytest.raises(ValueError, match=message):
        accuracy(*change(activations, labels, activations[0]))
