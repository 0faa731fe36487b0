"""Do error rates hold where rows belong together and the groups' labels mean nothing? And what is still found?

`docs/results/statistics/clustered_null.py` asks the same of the bundled model and its clauses.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import Decisions
from skillneurons.activations.statistic import Together
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import At, Pooled
from skillneurons.classifiers._load_example import load_example
from skillneurons.findings.existence import existence
from skillneurons.neurons._permutation_test import permutation_test
from skillneurons.neurons._predictivity import accuracy_from_counts, best_position
from skillneurons.neurons.design_effects import association_effects
from skillneurons.neurons.p_values import strongest_position
from skillneurons.neurons.scores import NeuronScores, find_skill_neurons
from skillneurons.utilities.intervals import proportion_effects
from skillneurons.utilities.row_groups import groups_of

REPETITIONS, N_GROUPS, N_PROMPT, D_MLP = 200, 40, 3, 29


def drawn(rng, n_own, share, signal=0.0):
    """Rows of groups whose labels mean nothing, nine rows to a group or, of two groups a row, eighteen.

    A neuron's decision on a row is mostly that of the row's groups. The first four neurons tell the label as well.
    """
    of_group = np.arange(N_GROUPS) < share * N_GROUPS
    ids = np.repeat(np.arange(N_GROUPS), 9)[:, None]
    if n_own == 2:  # both of one class, as texts are composed of clauses
        other = ids[:, 0].copy()
        for label in (False, True):
            rows = of_group[other] == label
            other[rows] = rng.permutation(other[rows])
        ids = np.stack([ids[:, 0], other], axis=1)
    labels = of_group[ids[:, 0]]
    effects = rng.normal(size=(N_GROUPS, N_PROMPT, D_MLP)) + 0.5 * rng.normal(size=(N_GROUPS, 1, D_MLP))
    value = effects[ids].sum(1) + rng.normal(size=(len(ids), N_PROMPT, D_MLP))
    value[:, :, :4] += signal * (2 * labels[:, None, None] - 1)
    groups = groups_of(ids.tolist())
    assert groups is not None
    return torch.from_numpy(value > 0)[:, :, None], torch.from_numpy(labels).long(), groups


def scores_of(splits):
    """As `find_skill_neurons` makes them, from decisions."""
    decisions = [Decisions.of(*split) for split in splits]
    (above, n), (above_test, n_test) = ((one.above, one.labels.bincount()) for one in decisions)
    index = torch.arange(D_MLP)
    by_p, _ = strongest_position(above, n)
    by_accuracy, upward = best_position(accuracy_from_counts(above, n))
    effects = [association_effects(one[:, by_p[0], 0, index], labels, groups) for one, labels, groups in splits]
    test, labels, groups = splits[1]
    right = (test[:, by_accuracy[0], 0, index] == labels.bool()[:, None]) == upward[0]
    effects = torch.stack([*effects, proportion_effects(right, groups)])[None, :, None]
    described = {"n_groups": groups.n_groups, "n_effective": groups.n_effective}
    meta = {"model": "none", "seeds": [0], "task": "chance", "groups": {"validation": described, "test": described}}
    baseline = torch.zeros(1, N_PROMPT, 1, D_MLP)
    scores = NeuronScores(above[None], n, above_test[None], n_test, baseline, meta, effects)
    return scores, NeuronScores(above[None], n, above_test[None], n_test, baseline, meta | {"groups": {}}), decisions[0]


@pytest.fixture(scope="module", params=[(1, 0.5), (2, 0.5), (1, 0.3)], ids=["one", "two", "unequal"])
def without_signal(request):
    """In how many relabellings each way of testing claims anything, and how often intervals miss one half."""
    rng, claimed, missed = np.random.default_rng(0), {}, {"grouped": [], "rows alone": []}
    for seed in range(REPETITIONS):
        grouped, alone, decisions = scores_of([drawn(rng, *request.param) for _ in range(2)])
        tests = {("rows alone", "validation"): alone.p_values()}
        tests |= {("grouped", rows): grouped.p_values(rows=rows) for rows in ("validation", "test")}
        for name, p in tests.items():
            for alpha in (0.05, 0.01):
                claimed.setdefault((*name, alpha), []).append(bool((p * D_MLP <= alpha).any()))
        result = permutation_test(decisions, n_permutations=199, seed=seed, measure="balanced_accuracy")
        for alpha in (0.05, 0.01):
            claimed.setdefault(("signs", alpha), []).append(bool((result.p_fwer <= alpha).any()))
        if request.param[1] == 0.5:
            for name, scores in (("grouped", grouped), ("rows alone", alone)):
                low, high = scores.held_out_interval()
                missed[name].append(((low > 0.5) | (high < 0.5)).double().mean().item())
    return {name: sum(found) for name, found in claimed.items()}, missed


def test_no_more_is_claimed_than_is_said(without_signal):
    claimed, _ = without_signal
    for name, found in claimed.items():
        if "rows alone" not in name:
            assert binomtest(found, REPETITIONS, name[-1], alternative="greater").pvalue > 0.01, (name, found)


def test_signs_of_groups_meet_their_rate(without_signal):
    claimed, _ = without_signal
    assert claimed["signs", 0.05] > 0


def test_the_same_rows_taken_for_independent_claim_something_nearly_always(without_signal):
    claimed, missed = without_signal
    assert claimed["rows alone", "validation", 0.05] > 0.9 * REPETITIONS
    assert not missed["rows alone"] or np.mean(missed["rows alone"]) > 0.2


def test_intervals_miss_no_more_than_they_say(without_signal):
    _, missed = without_signal
    # One number for each relabelling, since its neurons share their rows.
    if missed["grouped"]:
        assert np.mean(missed["grouped"]) - 2.3 * np.std(missed["grouped"]) / REPETITIONS**0.5 < 0.05


def test_neurons_that_tell_the_label_are_found_all_the_same():
    rng, found = np.random.default_rng(1), {"grouped": [], "signs": []}
    for _ in range(10):
        grouped, _, decisions = scores_of([drawn(rng, 1, 0.5, signal=2.0) for _ in range(2)])
        chosen = {
            "grouped": grouped.significant(),
            "signs": permutation_test(decisions, n_permutations=199).significant(),
        }
        for name, one in chosen.items():
            found[name].append(one.mask[0, :4].double().mean().item())
    assert min(np.mean(found["grouped"]), np.mean(found["signs"])) > 0.95


# The draws of signs themselves


@pytest.mark.parametrize("measure", ["predictivity", "balanced_accuracy"])
def test_draws_of_signs_agree_with_a_loop(measure, monkeypatch):
    rng = np.random.default_rng(3)
    above, labels, groups = drawn(rng, 2, 0.3)
    others = drawn(rng, 2, 0.3)[0]
    signs = torch.from_numpy(rng.choice([-1, 1], size=(7, groups.n_groups))).to(torch.int8)
    monkeypatch.setattr("skillneurons.neurons._permutation_test.group_signs", lambda *_: signs)
    every = [Decisions.of(one, labels, groups) for one in (above, others)]
    result = permutation_test(every, n_permutations=7, measure=measure)
    assert result.meta["n_groups"] == groups.n_groups and f"7 permutations of {groups.n_groups} groups" in repr(result)
    member, share = groups.member.toarray(), groups.member.toarray() @ groups.member.toarray().T > 0
    y, n = labels.numpy().astype(float), len(labels)
    null = np.zeros((7, 11))
    for neuron in range(11):
        for draw in range(7):
            by_seed = []
            for one in (above, others):
                best = 0.0
                for position in range(N_PROMPT):
                    d = one[:, position, 0, neuron].numpy().astype(float)
                    e = (y - y.mean()) * (d - d.mean())
                    variance = max(e @ share @ e, n**2 * y.var() * d.var() / (n - 1))
                    weight = (variance / ((member.T @ e) ** 2).sum()) ** 0.5
                    drawn_sum = weight * (member.T @ e) @ signs[draw].numpy()
                    if measure == "predictivity":  # 2 e is what a row adds to hits less half of the rows
                        value = 2 * drawn_sum / n + (2 * y.mean() - 1) * (2 * d.mean() - 1) / 2
                    else:
                        value = drawn_sum / (n * y.mean() * (1 - y.mean())) / 2
                    best = max(best, abs(value))
                by_seed.append(0.5 + best)
            null[draw, neuron] = np.mean(by_seed)
    as_good = (null >= result.observed[0, :11].numpy() - 1e-9).sum(0)
    np.testing.assert_allclose(result.p[0, :11], (1 + as_good) / 8)
    assert (result.null_max.numpy() >= null.max(1) - 1e-9).all()
    few = permutation_test(
        [Decisions.of(one[..., :11], labels, groups) for one in (above, others)], n_permutations=7, measure=measure
    )
    np.testing.assert_allclose(few.null_max, null.max(1))


def test_the_observed_measure_does_not_depend_on_groups():
    above, labels, groups = drawn(np.random.default_rng(4), 1, 0.3)
    for measure in ("predictivity", "balanced_accuracy"):
        with_groups, without = (
            permutation_test(Decisions.of(above, labels, one), n_permutations=19, measure=measure)
            for one in (groups, None)
        )
        torch.testing.assert_close(with_groups.observed, without.observed)
        assert "n_groups" not in without.meta
    with pytest.raises(ValueError, match="or none"):
        permutation_test([Decisions.of(above, labels, groups), Decisions.of(above, labels)], n_permutations=19)


def test_a_pass_takes_the_groups_from_the_rows():
    classifier, task = load_example()
    rows, baseline = [dict(row, group=i // 2) for i, row in enumerate(task.validation)], torch.zeros(16, 4, 768)
    groups = collect(classifier, rows, Decisions(baseline, 32)).groups
    assert groups is not None and groups.n_groups == 16
    alone = [{key: value for key, value in row.items() if key != "group"} for row in rows]
    assert collect(classifier, alone, Decisions(baseline, 32)).groups is None


def test_a_pass_takes_the_groups_from_the_rows_however_deep_a_statistic_asks():
    classifier, task = load_example()
    rows, baseline = [dict(row, group=i // 2) for i, row in enumerate(task.validation)], torch.zeros(16, 4, 768)
    deep, pooled = Decisions(baseline, 32), Decisions(torch.zeros(1, 4, 768), 32)
    told, sums = Decisions(baseline, 32, groups=groups_of([0, 0, *range(1, 31)])), LabelSums(2)
    inside = Together([At(classifier.layout.positions("prompt"), one) for one in (deep, told, sums)])
    words = classifier.layout.positions("text")
    collect(classifier, rows, Together([inside, At(words, Pooled(pooled, "mean"))]), positions="all")
    assert [one.groups and one.groups.n_groups for one in (deep, pooled, told)] == [16, 16, 31]
    assert not hasattr(sums, "groups")


def test_the_null_of_existence_pays_for_groups():
    classifier, task = load_example()
    task = replace(task, validation=[dict(row, group=i // 8) for i, row in enumerate(task.validation)])
    scores = find_skill_neurons(classifier, task)
    decisions = collect(classifier, task.validation, Decisions(scores.baseline[0], 32))
    result = existence([classifier], task, scores, n_permutations=19, probe=False)
    assert decisions.groups is not None
    torch.testing.assert_close(result.null_max, permutation_test(decisions, n_permutations=19).null_max)
