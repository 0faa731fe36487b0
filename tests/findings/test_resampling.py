"""Choices made again, against slow loops, and against what chance agreement really is."""

import numpy as np
import pytest
import torch
from planted import planted_classifier
from planted_signals import L, M, planted_splits, scored

from skillneurons import Decisions, NeuronSet, collect, find_skill_neurons
from skillneurons.findings.localization_parts.rankings import (
    agreement,
    agreement_of_rankings,
    generality,
    top_by,
)
from skillneurons.findings.localization_parts.resampling import (
    chosen_by,
    mean_jaccard,
    predictivity_under,
    resample_choice,
    shuffled_labels,
    weighted_labels,
)
from skillneurons.utilities.row_groups import groups_of, row_weights


def decisions_of(kind, seed, n=120, groups=None):
    splits = planted_splits(kind, seed, n)
    _, _, baseline = scored(splits)
    validation = splits[1]
    return Decisions.of(validation.activations > baseline, validation.labels, groups)


@pytest.mark.parametrize("measure", ["predictivity", "balanced_accuracy"])
def test_draws_score_neurons_as_rows_repeated_do(measure):
    generator = torch.Generator().manual_seed(0)
    above = torch.rand(31, 3, 2, 13, generator=generator) > 0.4
    labels = (torch.rand(31, generator=generator) > 0.3).long()
    weights = row_weights(31, 5, 0)
    assert weights.sum(1).tolist() == [31] * 5
    found = predictivity_under(Decisions.of(above, labels), weighted_labels(labels[None], weights, measure))
    for draw in range(5):
        rows = np.repeat(np.arange(31), weights[draw].int().numpy())
        for layer in range(2):
            for neuron in range(13):
                best = 0.0
                for position in range(3):
                    agree = (above[rows, position, layer, neuron] == labels[rows].bool()).double()
                    accuracy = agree.mean()
                    if measure == "balanced_accuracy":
                        accuracy = (agree[labels[rows] == 0].mean() + agree[labels[rows] == 1].mean()) / 2
                    best = max(best, float(accuracy), 1 - float(accuracy))
                assert found[draw, layer, neuron] == pytest.approx(best, abs=2e-5)


def test_the_choice_on_all_rows_is_the_choice():
    planted = planted_classifier(0, flip=0.1)
    scores = find_skill_neurons(planted.classifier, planted.task)
    rows = planted.task.validation
    decisions = collect(planted.classifier, rows, Decisions(scores.baseline[0], len(rows)))
    values = predictivity_under(
        decisions, weighted_labels(decisions.labels[None], torch.ones(1, len(rows)), "predictivity")
    )
    torch.testing.assert_close(values[0].double(), scores.predictivity, atol=2e-5, rtol=0)
    for per_layer in (True, False):
        chosen = scores.top(0.1, per_layer)
        again = chosen_by(values, chosen, per_layer)[0]
        # Up to the order of neurons that are equally good.
        torch.testing.assert_close(values[0][again].sort().values, values[0][chosen.mask].sort().values)
        assert again.sum() == len(chosen)


def test_jaccard_is_that_of_python_sets():
    sets = torch.rand(4, 2, 9, generator=torch.Generator().manual_seed(1)) > 0.5
    python = [set(map(tuple, one.nonzero().tolist())) for one in sets]
    pairs = [(a, b) for i, a in enumerate(python) for b in python[i + 1 :]]
    assert mean_jaccard(sets) == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in pairs]))
    assert np.isnan(mean_jaccard(sets[:1]))


def test_a_unique_neuron_is_chosen_again_and_one_of_many_is_not():
    one = NeuronSet.from_pairs([(1, 7)], n_layers=L, d_mlp=M)
    unique = resample_choice([decisions_of("unique", 0)], one)
    crowd = resample_choice([decisions_of("noisy crowd", 0)], one)
    assert unique.bootstrap == 1
    assert unique.kept.item() == 1
    assert crowd.bootstrap < 0.6
    assert np.isnan(unique.seeds)


def test_without_signal_agreement_is_that_of_shuffled_labels():
    neurons = NeuronSet(torch.arange(L * M).reshape(L, M) % 10 == 0)
    inside = 0
    for seed in range(20):
        found = resample_choice([decisions_of("no signal", seed)], neurons, n_bootstrap=10, n_shuffles=19, seed=seed)
        null = found.bootstrap_null
        inside += null.min() <= found.bootstrap <= null.max()
        assert found.bootstrap > 0.08  # above what independent choices of a tenth agree: .053
    assert inside >= 16


def test_prompts_that_share_activations_agree_by_chance_and_the_null_knows():
    neurons = NeuronSet(torch.arange(L * M).reshape(L, M) % 10 == 0)
    first = decisions_of("no signal", 3)
    noise = torch.rand(first.n, 2, L, M, generator=torch.Generator().manual_seed(0)) < 0.05
    above = torch.stack([first.unpack(layer) for layer in range(L)], dim=2)
    second = Decisions.of(above ^ noise, first.labels)
    found = resample_choice([first, second], neurons, n_shuffles=19)
    assert found.seeds > 0.3
    assert found.seeds_null.min() <= found.seeds <= found.seeds_null.max()


def test_groups_are_drawn_whole_and_turn_whole():
    ids = [i // 4 for i in range(120)]
    groups = groups_of(ids)
    weights = row_weights(120, 7, 0, groups).reshape(7, 30, 4)
    assert torch.equal(weights, weights[:, :, :1].expand_as(weights))
    assert weights.sum((1, 2)).tolist() == [120] * 7
    labels = torch.arange(120) % 2
    turned = (shuffled_labels(labels, 9, 0, groups) != labels).reshape(9, 30, 4)
    assert torch.equal(turned, turned[:, :, :1].expand_as(turned))
    assert 0.3 < turned.float().mean() < 0.7
    alone = shuffled_labels(labels, 9, 0)
    assert alone.sum(1).tolist() == [60] * 9


def test_rows_of_several_groups_vary_together_as_pairs_say():
    groups = groups_of([["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"], "e", "e"])
    weights = row_weights(6, 20_000, 0, groups).double()
    assert weights.mean().item() == pytest.approx(1, abs=0.2)
    covariance = torch.cov(weights.T)
    # Of five groups drawn five times, two that differ have the covariance -1/5: with each other, all but shared ones.
    assert covariance[0, 1] > 0.1  # share `a`
    assert covariance[0, 3] < -0.2  # share nothing
    assert covariance[4, 5] == pytest.approx(covariance[4, 4].item())


def test_choices_that_rest_on_groups_agree_less_when_groups_are_known():
    # Ten rows to a group, and noise that a group's rows share.
    generator = torch.Generator().manual_seed(0)
    labels, ids = (torch.arange(200) // 10) % 2, [i // 10 for i in range(200)]
    above = (torch.rand(20, 1, 1, 60, generator=generator) > 0.5).repeat_interleave(10, 0)
    chosen = NeuronSet.from_pairs([(0, i) for i in range(6)], n_layers=1, d_mlp=60)
    known, unknown = (resample_choice([Decisions.of(above, labels, how)], chosen) for how in (ids, None))
    assert known.bootstrap < unknown.bootstrap - 0.1


def test_equal_scores_come_in_random_order_and_others_in_theirs():
    like = NeuronSet.from_pairs([(0, 0), (0, 1), (1, 0)], n_layers=2, d_mlp=50)
    score = torch.zeros(2, 50)
    score[0, 9], score[1, 3] = 1.0, 2.0
    drawn = [top_by(score, like, seed) for seed in range(9)]
    assert all({(0, 9), (1, 3)} <= set(one) for one in drawn)
    assert len({tuple(one) for one in drawn}) > 5
    assert all(one.per_layer.tolist() == [2, 1] for one in drawn)


def test_agreement_is_against_chance_and_against_shuffled_labels():
    generator = torch.Generator().manual_seed(0)
    chosen = NeuronSet(torch.rand(3, 100, generator=generator) < 0.1)
    others = chosen.random_sets(200, seed=0, disjoint=False)
    found = [agreement("random", chosen, one) for one in others]
    assert np.mean([one.jaccard for one in found]) == pytest.approx(found[0].expected_jaccard, rel=0.15)
    assert np.mean([one.overlap for one in found]) == pytest.approx(found[0].expected, rel=0.15)
    (same,) = generality(chosen, {"itself": chosen}, {"itself": others[:5]})
    assert same.jaccard == same.overlap == 1
    assert same.null == pytest.approx(np.mean([one.jaccard for one in found[:5]]))
    assert same.null_high == pytest.approx(max(one.jaccard for one in found[:5]))


def test_rankings_agree_on_planted_neurons():
    planted = planted_classifier(0)
    found = {one.with_what: one for one in agreement_of_rankings([planted.classifier], planted.task, planted.neurons)}
    assert list(found) == ["lasso weight", "ridge weight", "gradient x activation"]
    # The lasso needs one neuron of a pair that says the same; the ridge and the gradient take all.
    assert found["ridge weight"].overlap == 1
    assert found["gradient x activation"].overlap == 1
    assert 0.25 <= found["lasso weight"].overlap <= 1
    assert found["ridge weight"].expected < 0.1
