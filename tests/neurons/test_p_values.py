"""p-values, corrections and intervals against enumeration and slow loops; permutation tests against slow loops."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import unchecked
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import norm

import skillneurons.neurons._permutation_test as decisions_module
from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import Decisions
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import AboveCounts, LabelSums
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.neurons._permutation_test import _permuted, permutation_test
from skillneurons.neurons._predictivity import (
    accuracy,
    accuracy_from_counts,
    balanced_accuracy_from_counts,
    predictivity,
)
from skillneurons.neurons.p_values import (
    Correction,
    adjusted,
    association_p_values,
    binomial_intervals,
    combine_seeds,
    held_out_hits,
    held_out_intervals,
    held_out_p_values,
    neuron_p_values,
)
from skillneurons.utilities.intervals import clopper_pearson


def random_decisions(n, n_prompt, n_layers, d_mlp, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    above = torch.from_numpy(rng.random((n, n_prompt, n_layers, d_mlp)) < share)
    labels = torch.from_numpy((rng.random(n) < 0.4).astype(np.int64))
    return above, labels


def counts_of(above, labels):
    return torch.stack([above[labels == label].sum(0) for label in (0, 1)])


# Exact p-values


def test_the_p_value_is_the_share_of_all_labellings_that_do_as_well():
    above = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])

    def measure(chosen):
        y = torch.zeros(8, dtype=torch.long)
        y[list(chosen)] = 1
        hits = (above.long() == y).double().mean().item()
        return max(hits, 1 - hits)

    observed = measure(labels.nonzero().flatten().tolist())
    as_good = [measure(chosen) >= observed for chosen in combinations(range(8), 4)]
    ours = association_p_values(counts_of(above.reshape(8, 1, 1, 1), labels), labels.bincount())
    assert ours.item() == pytest.approx(np.mean(as_good))


def test_p_values_agree_with_fishers_exact_test_by_tails():
    above, labels = random_decisions(41, 3, 2, 7, share=0.3)
    n = labels.bincount()
    counts = counts_of(above, labels)
    ours = association_p_values(counts, n)
    for index in np.ndindex(ours.shape):
        a, b = (int(counts[label][index]) for label in (0, 1))
        table = [[b, int(n[1]) - b], [a, int(n[0]) - a]]
        tails = [unchecked(stats.fisher_exact(table, side)).pvalue for side in ("less", "greater")]
        assert ours[index].item() == pytest.approx(min(1, 2 * min(tails)), rel=1e-9)


def test_a_neuron_that_is_always_on_one_side_has_p_value_one_in_unequal_classes():
    counts = torch.tensor([[0, 80], [0, 20]]).reshape(2, 2, 1, 1)
    assert association_p_values(counts, torch.tensor([80, 20])).flatten().tolist() == [1.0, 1.0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95))
def test_p_values_do_not_depend_on_which_class_or_side_is_called_one(seed, share):
    above, labels = random_decisions(23, 2, 1, 5, seed, share)
    labels[:2] = torch.tensor([0, 1])
    one = association_p_values(counts_of(above, labels), labels.bincount())
    classes_swapped = association_p_values(counts_of(above, 1 - labels), (1 - labels).bincount())
    sides_swapped = association_p_values(counts_of(~above, labels), labels.bincount())
    torch.testing.assert_close(one, classes_swapped)
    torch.testing.assert_close(one, sides_swapped)


def test_a_neuron_pays_for_its_positions_and_seeds():
    above, labels = random_decisions(41, 3, 2, 7)
    other, _ = random_decisions(41, 3, 2, 7, seed=1)
    n, counts = labels.bincount(), torch.stack([counts_of(x, labels) for x in (above, other)])
    by_position = torch.stack([association_p_values(one, n) for one in counts])
    for layer, neuron in np.ndindex(2, 7):
        smallest = [min(by_position[s, p, layer, neuron].item() for p in range(3)) for s in range(2)]
        paid = [min(1, 3 * p) for p in smallest]
        sidak = [1 - (1 - p) ** 3 for p in smallest]

        def ours(**options):
            return neuron_p_values(counts, n, **options)[layer, neuron].item()  # noqa: B023

        assert ours(over_seeds="bonferroni") == pytest.approx(min(1, 2 * min(paid)))
        assert ours(over_seeds="all") == pytest.approx(max(paid))
        assert ours(over_seeds="geometric") == pytest.approx(min(1, np.e * np.sqrt(paid[0] * paid[1])))
        deviate = np.mean([norm.isf(min(p, 0.5)) for p in paid])
        assert ours() == pytest.approx(norm.sf(deviate) if deviate > 0 else 1)
        assert ours(over_positions="sidak", over_seeds="all") == pytest.approx(max(sidak))


def test_one_seed_pays_nothing_for_seeds():
    p = torch.rand(1, 2, 3, dtype=torch.float64)
    for method in ("normal", "geometric", "bonferroni", "all"):
        assert torch.equal(combine_seeds(p, method), p[0])


@pytest.mark.parametrize("method", ["normal", "geometric", "bonferroni", "all"])
def test_combined_p_values_hold_also_for_identical_and_for_opposed_seeds(method):
    p = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for partner in (p, 1 - p):
        combined = combine_seeds(torch.stack([p, partner])[:, None], method)
        for alpha in (0.01, 0.05, 0.2):
            assert (combined <= alpha).double().mean().item() <= alpha + 3 * (alpha / 20_000) ** 0.5


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_normal_combinations_hold_for_seeds_that_share_rows_and_waste_less(correlation):
    """Two-tailed p-values of three seeds, whose evidence is jointly normal."""
    generator = torch.Generator().manual_seed(1)
    common, own = torch.randn(1, 1, 40_000, generator=generator), torch.randn(3, 1, 40_000, generator=generator)
    z = (correlation**0.5 * common + (1 - correlation) ** 0.5 * own).double()
    p = 2 * torch.special.ndtr(-z.abs())
    for alpha in (0.01, 0.05):
        assert (combine_seeds(p) <= alpha).double().mean().item() <= alpha + 3 * (alpha / 40_000) ** 0.5
    # Of neurons that one seed finds more often than not, several find no less, and more than the geometric mean does.
    p = 2 * torch.special.ndtr(-(z + 4).abs())
    found = {name: (combine_seeds(p, name) <= 0.001).double().mean().item() for name in ("normal", "geometric")}
    one = (p[0] <= 0.001).double().mean().item()
    assert found["normal"] > found["geometric"] and found["normal"] > one - 0.01


def test_seeds_that_say_the_same_find_what_one_does():
    p = torch.logspace(-300, -0.31, 7, dtype=torch.float64)[None, None]
    torch.testing.assert_close(combine_seeds(p.repeat(3, 1, 1)), p[0], rtol=1e-6, atol=0)
    assert combine_seeds(torch.ones(2, 1, 1)).item() == 1


def test_held_out_p_values_and_hits_agree_with_a_loop():
    above, labels = random_decisions(37, 3, 2, 5)
    above_test, labels_test = random_decisions(43, 3, 2, 5, seed=1)
    n, n_test = labels.bincount(), labels_test.bincount()
    counts, counts_test = counts_of(above, labels)[None], counts_of(above_test, labels_test)[None]
    p = held_out_p_values(counts, n, counts_test, n_test)
    hits = held_out_hits(counts, n, counts_test, n_test)[0]
    for layer, neuron in np.ndindex(2, 5):
        accuracies = [(above[:, q, layer, neuron].long() == labels).double().mean().item() for q in range(3)]
        best = max(range(3), key=lambda q: max(accuracies[q], 1 - accuracies[q]))
        decision = above_test[:, best, layer, neuron]
        if accuracies[best] < 0.5:
            decision = ~decision
        assert hits[layer, neuron] == (decision.long() == labels_test).sum()

        def tails(decision, labels):
            """P-values of many and of few of class 1 above the baseline."""
            n_1, n_above, x = int(labels.sum()), int(decision.sum()), int((decision & (labels == 1)).sum())
            one = stats.hypergeom(len(labels), n_above, n_1)
            return {"up": one.sf(x - 1), "down": one.cdf(x)}

        on_validation = {
            (q, way): tail for q in range(3) for way, tail in tails(above[:, q, layer, neuron], labels).items()
        }
        q, way = min(on_validation, key=lambda one: on_validation[one])
        expected = tails(above_test[:, q, layer, neuron], labels_test)[way]
        assert p[layer, neuron].item() == pytest.approx(expected, rel=1e-9)


def test_on_test_rows_too_a_neuron_may_be_significant_without_beating_the_majority():
    """Above on 240 of 800 rows of class 0 and on none of the 200 of class 1; or clear at one of two positions."""
    n, above = torch.tensor([800, 200]), torch.zeros(1, 2, 2, 1, 2, dtype=torch.long)
    above[0, 0, :, 0, 0] = 240
    above[0, :, 0, 0, 1] = torch.tensor([200, 150])
    assert (held_out_p_values(above, n, above, n) < 1e-20).all()


# Corrections


def test_holm_adjustment_agrees_with_a_loop():
    p = torch.tensor([[0.3, 0.001, 0.02, 0.02, 0.9]], dtype=torch.float64)
    order, expected, largest = sorted(range(5), key=lambda i: p[0, i].item()), [0.0] * 5, 0.0
    for rank, i in enumerate(order):
        largest = max(largest, (5 - rank) * p[0, i].item())
        expected[i] = min(1.0, largest)
    assert adjusted(p)[0].tolist() == pytest.approx(expected)


def test_false_discovery_adjustments_agree_with_a_loop():
    p = np.array([0.3, 0.001, 0.02, 0.021, 0.9, 0.04])
    factors: dict[Correction, float] = {"fdr": 1.0, "fdr_any": sum(1 / i for i in range(1, 7))}
    for method, factor in factors.items():
        expected = [
            min(1, min(factor * 6 * q / (np.sum(p <= q)) for q in p if q >= p_i))  # Benjamini-Hochberg's own rule
            for p_i in p
        ]
        assert adjusted(torch.from_numpy(p)[None], method)[0].tolist() == pytest.approx(expected)


# Intervals


def test_intervals_are_those_of_scipy():
    low, high = binomial_intervals(torch.arange(18), 17, level=0.9)
    for hits in range(18):
        expected = stats.binomtest(hits, 17).proportion_ci(0.9, method="exact")
        assert (low[hits].item(), high[hits].item()) == pytest.approx((expected.low, expected.high))
    assert binomial_intervals(torch.tensor(5), 10)[0].item() == pytest.approx(clopper_pearson(5, 10)[0])


def test_intervals_over_seeds_contain_those_of_one_seed_counted_twice():
    one = held_out_intervals(torch.tensor([[[61]]]), 100)
    two = held_out_intervals(torch.tensor([[[61]], [[61]]]), 100)
    assert two[0].item() < one[0].item() < 0.61 < one[1].item() < two[1].item()


# Decisions


@pytest.fixture
def tiny_classifier(tiny_model, tiny_task):
    words = Verbalizer.from_words(tiny_model.tokenizer, tiny_task.label_words)
    return Classifier(tiny_model, random_prompt(tiny_model, 5), words)


def test_collected_decisions_are_those_of_the_activations(tiny_classifier, tiny_task):
    rows = tiny_task.validation
    baseline = collect(tiny_classifier, tiny_task.train, LabelSums(2)).mean
    decisions = collect(tiny_classifier, rows, Decisions(baseline, len(rows)), tokens_per_batch=64)
    values = collect(tiny_classifier, rows, Examples(len(rows))).values
    assert decisions.labels.tolist() == [row["label"] for row in rows]
    for layer in range(2):
        assert torch.equal(decisions.unpack(layer), (values > baseline.float())[:, :, layer])
        assert torch.equal(decisions.unpack(layer, 8, 21), (values > baseline.float())[:, :, layer, 8:21])
    assert torch.equal(decisions.above, collect(tiny_classifier, rows, AboveCounts(baseline, 2)).above)
    assert decisions.n_bytes == 34 * 5 * 2 * 4


def test_decisions_of_other_positions_or_another_number_of_rows_are_refused(
    tiny_classifier, tiny_task, unchecked_types
):
    baseline = collect(tiny_classifier, tiny_task.train, LabelSums(2)).mean
    with pytest.raises(ValueError, match=r"\(3, 29\) positions and neurons in layer 0.*\(5, 29\)"):
        collect(tiny_classifier, tiny_task.test, Decisions(baseline[:3], len(tiny_task.test)))
    with pytest.raises(ValueError, match="made for 27 rows, but 26 come"):
        collect(tiny_classifier, tiny_task.test, Decisions(baseline, len(tiny_task.test) + 1))


def test_decisions_in_half_precision_are_not_rounded_to_it(tiny_classifier, tiny_task):
    tiny_classifier.model.bfloat16()
    rows = tiny_task.validation
    baseline = collect(tiny_classifier, tiny_task.train, LabelSums(2)).mean
    decisions = collect(tiny_classifier, rows, Decisions(baseline, len(rows)))
    above = collect(tiny_classifier, rows, Examples(len(rows))).values > baseline.float()
    assert all(torch.equal(decisions.unpack(layer), above[:, :, layer]) for layer in range(2))


def test_decisions_on_activations_that_are_nan_are_refused(tiny_classifier, tiny_task):
    def broken(activations, hook=None):
        return activations.masked_fill(activations == activations.max(), torch.nan)

    classifier = replace(tiny_classifier, extra_hooks=[("blocks.1.mlp.hook_post", broken)])
    with pytest.raises(FloatingPointError, match="layer 1"):
        collect(classifier, tiny_task.test, Decisions(torch.zeros(5, 2, 29), len(tiny_task.test)))


def test_decisions_of_a_part_begin_at_a_whole_byte(unchecked_types):
    above, labels = random_decisions(11, 2, 1, 19)
    decisions = Decisions.of(above, labels)
    assert torch.equal(decisions.unpack(0, 8), above[:, :, 0, 8:])
    for start, stop in ((3, 7), (8, 20), (8, 8), (-8, 8)):
        with pytest.raises(ValueError, match=f"at most 19, but they are {start} and {stop}"):
            decisions.unpack(0, start, stop)
    with pytest.raises(ValueError, match="`above` has 11 rows and `labels` 12"):
        Decisions.of(above, torch.arange(12) % 2)


# Permutation tests


def slow_test(parts, labels, measure, n_permutations, seed):
    """Everything from the definition, one labelling at a time."""

    def of(y):
        total = torch.zeros(())
        for above in parts:
            counts, n = counts_of(above, y), y.bincount()
            by_position = (accuracy_from_counts if measure == "predictivity" else balanced_accuracy_from_counts)(
                counts, n
            )
            total = total + predictivity(by_position)
        return total / len(parts)

    observed = of(labels)
    null = torch.stack([of(y) for y in _permuted(labels, n_permutations, seed)])
    largest = null.flatten(1).amax(1)
    p = (1 + (null >= observed - 1e-9).sum(0)).double() / (n_permutations + 1)
    p_fwer = (1 + (largest[:, None, None] >= observed - 1e-9).sum(0)).double() / (n_permutations + 1)
    return observed, p, p_fwer, largest


@pytest.mark.parametrize("measure", ["predictivity", "balanced_accuracy"])
@pytest.mark.parametrize("n_seeds", [1, 2])
def test_permutation_tests_agree_with_a_loop(monkeypatch, measure, n_seeds):
    monkeypatch.setattr(decisions_module, "NEURONS_PER_BLOCK", 8)
    monkeypatch.setattr(decisions_module, "PERMUTATIONS_PER_BLOCK", 13)
    above, labels = random_decisions(23, 3, 2, 19, share=0.3)
    above[:, 1, 1, 17] = (labels == 1) ^ (torch.arange(23) % 11 == 0)
    parts = [above, random_decisions(23, 3, 2, 19, seed=1)[0]][:n_seeds]
    result = permutation_test([Decisions.of(part, labels) for part in parts], n_permutations=47, measure=measure)
    observed, p, p_fwer, largest = slow_test(parts, labels, measure, 47, 0)
    torch.testing.assert_close(result.observed, observed)
    torch.testing.assert_close(result.null_max, largest)
    assert torch.equal(result.p, p) and torch.equal(result.p_fwer, p_fwer)


def test_the_observed_measure_is_predictivity(tiny_classifier, tiny_task):
    rows = tiny_task.validation
    baseline = collect(tiny_classifier, tiny_task.train, LabelSums(2)).mean
    decisions = collect(tiny_classifier, rows, Decisions(baseline, len(rows)))
    values = collect(tiny_classifier, rows, Examples(len(rows))).values
    expected = predictivity(accuracy(values, decisions.labels, baseline.float()))
    torch.testing.assert_close(permutation_test(decisions, n_permutations=19).observed, expected.double())


def test_a_tie_of_the_balanced_accuracy_counts_as_one():
    # 925 of 1,000 rows are above the baseline: 185 of the 200 of class 1 expected, 192 seen, and 178 as far away.
    labels, above = torch.arange(1000) < 200, torch.ones(1000, dtype=torch.bool)
    above[:8] = above[200:267] = False
    decisions = Decisions.of(above.reshape(1000, 1, 1, 1), labels.long())
    result = permutation_test(decisions, n_permutations=199, measure="balanced_accuracy")
    in_class_1 = _permuted(labels.long(), 199, 0).long() @ above.long()
    assert result.p.item() == (1 + ((in_class_1 - 185).abs() >= 7).sum().item()) / 200
    assert result.p_fwer.item() == result.p.item()


def test_many_rows_do_not_overflow():
    labels = torch.arange(50_000) % 2
    decisions = Decisions.of(labels.bool().reshape(-1, 1, 1, 1), labels)
    result = permutation_test(decisions, n_permutations=19, measure="balanced_accuracy")
    assert result.observed.item() == 1 and result.p.item() == 0.05


def test_permuted_labels_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    labels = torch.arange(53) % 2
    whole = _permuted(labels, 29, 0)
    monkeypatch.setattr(decisions_module, "PERMUTATIONS_PER_BLOCK", 7)
    assert torch.equal(_permuted(labels, 29, 0), whole)
    assert (whole.sum(1) == 26).all() and len(whole.unique(dim=0)) == 29


def test_permutation_p_values_come_close_to_the_exact_ones():
    above, labels = random_decisions(60, 1, 1, 40)
    labels = torch.arange(60) % 2
    decisions = Decisions.of(above, labels)
    exact = neuron_p_values(decisions.above[None], labels.bincount())
    permuted = permutation_test(decisions, n_permutations=4000).p
    # Four standard errors of a share of 4,000 permutations.
    assert ((permuted - exact).abs() < 4 * (exact * (1 - exact) / 4000).sqrt() + 1 / 4000).all()


def test_a_neuron_is_significant_exactly_above_the_threshold():
    above, labels = random_decisions(53, 2, 2, 31)
    for neuron in range(9):
        above[: 53 - 4 * neuron, 0, 0, neuron] = labels[: 53 - 4 * neuron].bool()
    result = permutation_test(Decisions.of(above, labels), n_permutations=199, model="abc")
    chosen = result.significant(0.05)
    assert 0 < len(chosen) < 10 and chosen.model == "abc"
    assert torch.equal(chosen.mask, result.observed > result.threshold(0.05))
    assert torch.equal(result.significant(0.05, "fdr").mask, adjusted(result.p, "fdr") <= 0.05)
    assert result.to_dataframe().query("p_fwer <= 0.05").shape == (len(chosen), 5)


def test_permutation_tests_say_what_is_wrong(unchecked_types):
    above, labels = random_decisions(11, 2, 1, 3)
    one = Decisions.of(above, labels)
    with pytest.raises(ValueError, match="11 and 7 rows"):
        permutation_test([one, Decisions.of(above[:7], labels[:7])])
    with pytest.raises(ValueError, match=r"\[0, 1, 2\]. Collect .*`task.one_vs_rest\(label\)`"):
        permutation_test(Decisions.of(above, torch.arange(11) % 3))
    with pytest.raises(ValueError, match="'auroc'"):
        permutation_test(one, measure=unchecked("auroc"))
    result = permutation_test(one, n_permutations=19)
    for use in (result.threshold, result.significant, lambda alpha: result.significant(alpha, "fdr")):
        with pytest.raises(ValueError, match=r"0\.01 needs at least 99 permutations, not 19"):
            use(0.01)
        for alpha in (0, 1, 5, -1):
            with pytest.raises(ValueError, match=f"not {alpha}"):
                use(alpha)


def test_statistics_say_what_is_wrong(unchecked_types):
    with pytest.raises(ValueError, match=r"\[9, 2\].*\[5, 5\]"):
        association_p_values(torch.tensor([9, 2]).reshape(2, 1, 1, 1), torch.tensor([5, 5]))
    with pytest.raises(ValueError, match=r"\[5, 0\]"):
        association_p_values(torch.tensor([3, 0]).reshape(2, 1, 1, 1), torch.tensor([5, 0]))
    with pytest.raises(ValueError, match="'stouffer'"):
        combine_seeds(torch.rand(2, 1, 1), unchecked("stouffer"))
    with pytest.raises(ValueError, match="'by'"):
        adjusted(torch.rand(2, 3), unchecked("by"))
    with pytest.raises(ValueError, match=r"1\.5"):
        adjusted(torch.tensor([[1.5]]))
    with pytest.raises(ValueError, match="95"):
        binomial_intervals(torch.tensor([3]), 5, level=95)
    with pytest.raises(ValueError, match="run from 3 to 7"):
        binomial_intervals(torch.tensor([3, 7]), 5)
