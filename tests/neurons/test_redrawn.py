"""Rankings on redrawn rows and under shuffled labels: against loops, and what they claim against fresh data."""

import numpy as np
import pytest
import torch
from helpers import scipys_spearman, unchecked
from scipy import stats
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._permutation_test import _permuted
from skillneurons.neurons.agreement import correlation_interval, rank_correlations, share_interval
from skillneurons.neurons.redrawn import redrawn

N, N_PROMPT, N_LAYERS, D_MLP = 31, 3, 2, 11


def drawn(seed=0, n=N, shape=(N_PROMPT, N_LAYERS, D_MLP)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=generator) < torch.rand(shape, generator=generator)


def score(above, labels, weights, balanced):
    """The best of positions and directions, by loops; in units that rank as `redrawn`'s do."""
    best = np.zeros(above.shape[2:])
    for layer, neuron in np.ndindex(*best.shape):
        for position in range(above.shape[1]):
            hits = total = 0.0
            for i in range(len(above)):
                right = bool(above[i, position, layer, neuron]) == bool(labels[i])
                of_class = weights[labels == labels[i]].sum() if balanced else 1
                hits += weights[i] * right / of_class
                total += weights[i] / of_class
            best[layer, neuron] = max(best[layer, neuron], hits / total, 1 - hits / total)
    return best


@pytest.mark.parametrize("balanced", [False, True])
def test_shuffles_and_resamples_rank_neurons_as_loops_do(balanced):
    labels = (torch.arange(N) % 3 == 0).long()
    every = [Decisions.of(drawn(seed), labels) for seed in (0, 1)]
    found = redrawn(every, n_draws=3, seed=5, balanced=balanced)
    weights = torch.poisson(torch.ones(3, N), generator=derive_generator(5, "weights of rows")).numpy()
    shuffled = _permuted(labels, 3, 5)
    for draw in range(3):
        for ours, used, weight in (
            (found.shuffled[draw], shuffled[draw].numpy(), np.ones(N)),
            (found.resampled[draw], labels.numpy(), weights[draw]),
        ):
            slow = np.sum([score(drawn(seed), used, weight, balanced) for seed in (0, 1)], axis=0).flatten()
            assert np.corrcoef(ours.flatten().numpy(), slow)[0, 1] == pytest.approx(1, abs=1e-6)


def test_rows_of_one_group_are_redrawn_together():
    labels, ids = torch.arange(N) % 2, [i // 4 for i in range(N)]
    found = redrawn(Decisions.of(drawn(), labels, ids), n_draws=400)
    alone = redrawn(Decisions.of(drawn(), labels), n_draws=400)
    whole = drawn(3, 8)[torch.tensor(ids)]  # rows of a group decide alike
    together, apart = (redrawn(Decisions.of(whole, labels // 1, one), n_draws=400) for one in (ids, None))
    assert found.shuffled.shape == alone.shuffled.shape == (400, N_LAYERS, D_MLP)
    assert not torch.equal(found.resampled, alone.resampled)
    assert together.resampled.std(0).mean() > 0
    same = torch.tensor([i // 4 % 2 for i in range(N)])  # and have one label
    together, apart = (redrawn(Decisions.of(whole, same, one), n_draws=400) for one in (ids, None))
    assert together.resampled.std(0).mean() > 1.3 * apart.resampled.std(0).mean()


def test_rank_correlations_are_scipys():
    a, b = (torch.randint(5, (4, 23), generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    expected = [scipys_spearman(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert rank_correlations(a, b).tolist() == pytest.approx(expected)


def test_shuffled_labels_agree_as_much_as_labels_without_meaning_do():
    """P-values of two unrelated rankings with unequal neurons are uniform; those against 0 would not be."""
    n, p_values, against_zero = 60, [], []
    rates = torch.rand(1, 1, 200, generator=torch.Generator().manual_seed(9)) ** 3  # few neurons can be predictive
    for trial in range(60):
        generator = torch.Generator().manual_seed(trial)
        rankings = []
        for run in range(2):
            above = torch.rand(n, 1, 1, 200, generator=generator) < rates
            decisions = Decisions.of(above, torch.arange(n) % 2)
            signs = 2.0 * (torch.arange(n) % 2) - 1
            value = (signs @ (2.0 * above[:, 0, 0].float() - 1)).abs()
            rankings.append((value, redrawn(decisions, n_draws=99, seed=1000 * run + trial).shuffled[:, 0]))
        (one, null), (other, other_null) = rankings
        rho = rank_correlations(one[None], other[None]).item()
        p_values.append((1 + int((rank_correlations(null, other_null) >= rho).sum())) / 100)
        against_zero.append(unchecked(stats.spearmanr(one, other, alternative="greater")).pvalue)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(against_zero) < 0.05) > 0.5


def test_the_intervals_hold_what_other_rows_would_give():
    """Of 95 %, for two runs of neurons that know the label more or less, and share what they know."""
    n, d_mlp, hits, shares = 120, 60, 0, 0
    strength = torch.linspace(0, 0.35, d_mlp)

    def rankings(seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % 2
        sign = 2.0 * labels[:, None] - 1
        above = [torch.rand(n, d_mlp, generator=generator) < 0.5 + sign * strength for _ in range(2)]
        values = [(sign[:, 0] @ (2.0 * one.float() - 1)).abs() for one in above]
        return labels, above, values

    def agreements(values):
        tops = [set(value.argsort(descending=True)[:12].tolist()) for value in values]
        return rank_correlations(values[0][None], values[1][None]).item(), len(tops[0] & tops[1]) / 12

    expected = np.array([agreements(rankings(10_000 + i)[2]) for i in range(300)]).mean(0)
    for trial in range(60):
        labels, above, values = rankings(trial)
        rho, share = agreements(values)
        draws = [redrawn(Decisions.of(one[:, None, None], labels), n_draws=99).resampled[:, 0] for one in above]
        again = [agreements(pair) for pair in zip(*draws, strict=True)]
        low, high = correlation_interval(rho, torch.tensor([one for one, _ in again]))
        hits += low <= expected[0] <= high
        low, high = share_interval(share, torch.tensor([one for _, one in again]))
        shares += low <= expected[1] <= high
    assert hits >= 0.85 * 60 and shares >= 0.85 * 60


def test_ends_of_intervals_stay_where_they_can_be():
    low, high = correlation_interval(1.0, torch.tensor([1.0, 0.99, 0.98]))
    assert 0.5 < low <= high <= 1.0
    assert share_interval(1.0, torch.tensor([0.8, 0.9, 1.0])) == (pytest.approx(0.804, abs=1e-3), 1.0)
