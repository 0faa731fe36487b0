"""Redundancy against numpy and against what was planted, with error rates."""

import numpy as np
import pytest
import torch
from planted import planted_classifier
from planted_signals import L, M, planted_splits, redundancy_in, scored

from skillneurons import Examples, NeuronSet, collect, find_skill_neurons
from skillneurons.findings.localization_parts.measured import claim_of, of_seed
from skillneurons.findings.localization_parts.redundancy import redundancy_of
from skillneurons.neurons import predictivity

N_BUILDS = 100


def is_redundant(found):
    return found.share_same > 0 or found.n_alike > 0


def test_a_unique_neuron_is_seldom_called_redundant():
    wrong = sum(is_redundant(redundancy_in(planted_splits("unique", seed))) for seed in range(N_BUILDS))
    assert wrong <= 0.05 * N_BUILDS


def test_copies_are_never_called_unique():
    for seed in range(N_BUILDS):
        found = redundancy_in(planted_splits("copies", seed))
        assert found.share_same == 1
        assert found.n_alike == 10
        assert found.with_partner.item() == pytest.approx(1)
        assert found.within.item() == pytest.approx(1)
        assert found.crowd.item() == 10


def test_a_noisy_crowd_is_seen_and_agrees_less_within_classes():
    results = [redundancy_in(planted_splits("noisy crowd", seed)) for seed in range(20)]
    assert all(is_redundant(found) for found in results)
    assert np.median([found.crowd.item() for found in results]) >= 15
    assert all(found.within.item() < found.with_partner.item() for found in results)


def test_without_signal_the_largest_of_many_is_luck_and_the_double_is_not():
    results = [redundancy_in(planted_splits("no signal", seed)) for seed in range(30)]
    # The largest of 119 correlations over 120 rows is far from zero; the double's, chosen on other rows, is not.
    assert np.mean([found.largest.item() for found in results]) > 0.2
    assert np.mean([found.with_partner.item() for found in results]) < 0.11
    assert not any(found.share_same for found in results)


def test_a_planted_neuron_ranks_first():
    for seed in range(10):
        accuracy, held_out, _ = scored(planted_splits("unique", seed))
        assert int(predictivity(accuracy).argmax()) == M + 7
        assert held_out.shape == (L, M)
        assert held_out[1, 7] > 0.85


@pytest.fixture(scope="module")
def claim():
    planted = planted_classifier(0, flip=0.05)
    scores = find_skill_neurons(planted.classifier, planted.task)
    return claim_of(planted.classifier, planted.task, scores.top(0.1), scores, n_rows=1000)


def test_redundancy_of_a_classifier_is_that_of_its_activations(claim):
    values = {}
    for split in ("train", "test"):
        rows = getattr(claim, split)
        each = collect(claim.classifier, rows, Examples(len(rows))).values.double()
        values[split] = each.gather(1, claim.position.expand(len(rows), 1, 3, 29))[:, 0].flatten(1).numpy()
    inside = claim.neurons.mask.flatten().numpy()
    r = {split: np.abs(np.corrcoef(each.T)) for split, each in values.items()}
    found = redundancy_of(
        claim.correlations(claim.train), claim.correlations(claim.test), claim.neurons, claim.held_out, claim.first
    )
    held_out = claim.held_out.flatten().numpy()
    outside = [other for other in range(87) if not inside[other]]
    for i, neuron in enumerate(np.flatnonzero(inside)):
        partner = max(outside, key=lambda other: r["train"][neuron, other])
        assert found.address[i].tolist() == list(divmod(int(neuron), 29))
        assert found.partner[i].tolist() == list(divmod(partner, 29))
        assert found.with_partner[i] == pytest.approx(r["test"][neuron, partner], abs=1e-6)
        assert found.largest[i] == pytest.approx(max(r["test"][neuron, other] for other in outside), abs=1e-6)
        assert found.crowd[i] == sum(r["test"][neuron, other] > 0.7 for other in outside)
    first = held_out[claim.first[0] * 29 + claim.first[1]]
    assert found.n_alike == sum(held_out[other] >= first - 0.01 - 1e-9 for other in outside)
    assert found.n_outside == 87 - len(claim.neurons)


def test_the_first_neuron_is_the_sets_own_first_where_it_has_a_score(claim):
    assert claim.scores.ranking[claim.first] == claim.scores.ranking[claim.neurons.mask].max()
    score = -claim.scores.ranking
    other = NeuronSet(claim.neurons.mask, score=score)
    worst = claim_of(claim.classifier, claim.task, other, claim.scores, n_rows=50).first
    assert claim.scores.ranking[worst] == claim.scores.ranking[claim.neurons.mask].min()


def test_scoring_under_no_intervention_gives_the_scores(claim):
    again = claim.scored_under([])
    torch.testing.assert_close(again.held_out, claim.scores.held_out)
    torch.testing.assert_close(again.chosen, claim.scores.predictivity)


@pytest.mark.parametrize("neurons", [NeuronSet(torch.zeros(3, 29).bool()), NeuronSet(torch.ones(3, 29).bool())])
def test_a_claim_is_about_some_of_the_neurons(claim, neurons):
    with pytest.raises(ValueError, match=f"{len(neurons)} of 87 are chosen"):
        claim_of(claim.classifier, claim.task, neurons, claim.scores, n_rows=50)


def test_neurons_of_another_model_are_refused(claim):
    for neurons in (NeuronSet(claim.neurons.mask, "other"), NeuronSet.from_pairs([(0, 0)], n_layers=2, d_mlp=3)):
        with pytest.raises(ValueError, match="of the scored model"):
            claim_of(claim.classifier, claim.task, neurons, claim.scores, n_rows=50)


def test_scores_of_one_seed_are_those_of_that_seed_alone():
    two = [planted_classifier(0, seed=seed) for seed in (0, 1)]
    both = find_skill_neurons([one.classifier for one in two], two[0].task)
    alone = find_skill_neurons(two[1].classifier, two[1].task)
    assert of_seed(both, 1).seeds == [1]
    assert torch.equal(of_seed(both, 1).above_test, alone.above_test)
    assert torch.equal(of_seed(both, 1).held_out, alone.held_out)
