"""Do error rates hold? 200 data sets without any signal, on tensors and on random models; power where there is one.

`tests/benchmarks/bench_permutations.py --calibrate 1000` repeats the first part at greater length and prints the power.
"""

from dataclasses import replace
from typing import Literal, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import legend_of
from planted import planted_classifier
from scipy.stats import binomtest, kstest

from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import Decisions
from skillneurons.activations.sums import LabelSums
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons._permutation_test import permutation_test
from skillneurons.neurons.controls import against_random, claims, selectivity
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.p_values import Correction, OverSeeds, adjusted, neuron_p_values
from skillneurons.neurons.scores import NeuronScores, find_skill_neurons
from skillneurons.plots.statistics import plot_claims, plot_false_positives, plot_null
from skillneurons.tasks._control_task import control_task

REPETITIONS, ALPHA = 200, 0.05


def correlated_decisions(seed, n=102, n_prompt=3, n_layers=2, d_mlp=23):
    """Positions and neurons share a part, as in a model."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 1, 1, 1, generator=generator)
    above = (shared + torch.randn(n, n_prompt, n_layers, d_mlp, generator=generator)) > 0
    return above, (torch.arange(n) % 2)[torch.randperm(n, generator=generator)]


@pytest.fixture(scope="module")
def without_signal():
    """For each data set: any claim by each method, and one neuron's permutation p-value."""
    claimed = {"fwer": [], "fdr": [], "permutations": []}
    one_p = []
    for seed in range(REPETITIONS):
        above, labels = correlated_decisions(seed)
        decisions = Decisions.of(above, labels)
        p = neuron_p_values(decisions.above[None], labels.bincount())
        for method in ("fwer", "fdr"):
            claimed[method].append(bool((adjusted(p, method) <= ALPHA).any()))
        result = permutation_test(decisions, n_permutations=99, seed=seed)
        claimed["permutations"].append(len(result.significant(ALPHA)) > 0)
        one_p.append(result.p[1, 3].item())
    return claimed, one_p


def test_the_permutation_maximum_meets_its_false_positive_rate(without_signal):
    false_positives = sum(without_signal[0]["permutations"])
    assert binomtest(false_positives, REPETITIONS, ALPHA).pvalue > 0.01
    assert false_positives > 0


@pytest.mark.parametrize("method", ["fwer", "fdr"])
def test_exact_tests_do_not_exceed_their_false_positive_rate(without_signal, method):
    false_positives = sum(without_signal[0][method])
    assert binomtest(false_positives, REPETITIONS, ALPHA, alternative="greater").pvalue > 0.01


def test_a_neurons_permutation_p_values_are_never_too_small(without_signal):
    p = np.array(without_signal[1])
    # One-sided: small counts have ties, which make p-values larger.
    assert kstest(p, "uniform", alternative="greater").pvalue > 0.01
    for level in (0.05, 0.2, 0.5):
        assert binomtest(int((p <= level).sum()), REPETITIONS, level, alternative="greater").pvalue > 0.01


def test_scoring_and_choosing_the_same_neuron_without_a_null_would_fail(without_signal):
    # The control of this file: without correction, nearly every data set yields a "discovery".
    discoveries = 0
    for seed in range(20):
        above, labels = correlated_decisions(seed)
        p = neuron_p_values(Decisions.of(above, labels).above[None], labels.bincount())
        discoveries += bool((p <= ALPHA).any())
    assert discoveries > 3


# Several prompts, unequal classes, test rows


def decisions_of_prompts(seed, n=101, n_seeds=3, n_prompt=3, n_layers=2, d_mlp=11):
    """Of validation and of test rows: neurons of one value share what they decide over positions and prompts."""
    generator = torch.Generator().manual_seed(seed)
    threshold = torch.randn(n_seeds, 1, n_prompt, n_layers, d_mlp, generator=generator)
    splits = []
    for _ in range(2):
        shared = torch.randn(n, 1, n_layers, d_mlp, generator=generator)
        shared = shared + torch.randn(n, 1, 1, 1, generator=generator)
        above = shared + 0.7 * torch.randn(n_seeds, n, n_prompt, n_layers, d_mlp, generator=generator) > threshold
        labels = (torch.arange(n) < n // 4).long()[torch.randperm(n, generator=generator)]
        splits.append([Decisions.of(of_one, labels) for of_one in above])
    return splits


Rows: TypeAlias = Literal["validation", "test"]
EXACT: list[tuple[Rows, Correction, OverSeeds]] = [
    (rows, method, over_seeds)
    for rows in ("validation", "test")
    for method in ("fwer", "fdr", "fdr_any")
    for over_seeds in ("normal", "geometric", "bonferroni", "all")
]
MEASURES = ("predictivity", "balanced_accuracy")


@pytest.fixture(scope="module")
def without_signal_in_unequal_classes():
    """In how many data sets each way of testing claims anything."""
    claimed = dict.fromkeys([*EXACT, *MEASURES], 0)
    ways: set[tuple[Rows, OverSeeds]] = {(rows, over_seeds) for rows, _, over_seeds in EXACT}
    for seed in range(REPETITIONS):
        validation, test = decisions_of_prompts(seed)
        above, above_test = (torch.stack([one.above for one in split]) for split in (validation, test))
        n, n_test = validation[0].labels.bincount(), test[0].labels.bincount()
        meta = {"model": "none", "seeds": [0, 1, 2], "task": "chance"}
        scores = NeuronScores(above, n, above_test, n_test, torch.zeros(3, 3, 2, 11), meta)
        for rows, over_seeds in ways:
            p = scores.p_values(rows=rows, over_seeds=over_seeds)
            for method in ("fwer", "fdr", "fdr_any"):
                claimed[rows, method, over_seeds] += bool((adjusted(p, method) <= ALPHA).any())
        for measure in MEASURES:
            result = permutation_test(validation, n_permutations=99, seed=seed, measure=measure)
            claimed[measure] += len(result.significant(ALPHA)) > 0
    return claimed


@pytest.mark.parametrize("how", EXACT, ids="-".join)
def test_exact_tests_of_several_prompts_do_not_exceed_their_rate(without_signal_in_unequal_classes, how):
    false_positives = without_signal_in_unequal_classes[how]
    assert binomtest(false_positives, REPETITIONS, ALPHA, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("measure", MEASURES)
def test_permutation_tests_of_several_prompts_meet_their_rate(without_signal_in_unequal_classes, measure):
    false_positives = without_signal_in_unequal_classes[measure]
    assert binomtest(false_positives, REPETITIONS, ALPHA).pvalue > 0.01 and false_positives > 0


def test_balanced_accuracy_finds_in_unequal_classes_what_predictivity_does_not():
    """A neuron above on 45 % of the rows of class 1 and on 20 % of the others: always answering 0 is more accurate."""
    found = dict.fromkeys(MEASURES, 0)
    for seed in range(20):
        (first, *_), _ = decisions_of_prompts(seed, n=401)
        above = torch.stack([first.unpack(layer) for layer in range(2)], dim=2)
        share = torch.where(first.labels == 1, 0.45, 0.2)[:, None]
        above[:, :, 1, 5] = torch.rand(401, 3, generator=torch.Generator().manual_seed(seed)) < share
        decisions = Decisions.of(above, first.labels)
        for measure in MEASURES:
            found[measure] += (1, 5) in permutation_test(decisions, n_permutations=99, measure=measure).significant()
    assert found["balanced_accuracy"] >= 19 and found["predictivity"] <= 2


def test_random_models_with_labels_that_mean_nothing_meet_their_false_positive_rate(
    build_hf, roberta_tokenizer, tiny_task
):
    claimed = {"exact": 0, "permutations": 0}
    rows = [dict(row) for row in tiny_task.train]
    for seed in range(REPETITIONS):
        hf_model = build_hf("roberta", seed=seed, vocab_size=len(roberta_tokenizer), num_hidden_layers=1)
        model = HookedEncoder.from_hf(hf_model, roberta_tokenizer)
        words = Verbalizer.from_words(roberta_tokenizer, tiny_task.label_words)
        classifier = Classifier(model, random_prompt(model, 3, seed), words)
        labels = np.random.default_rng(seed).permutation([row["label"] for row in rows])
        shuffled = [row | {"label": int(label)} for row, label in zip(rows, labels, strict=True)]
        baseline = collect(classifier, tiny_task.validation, LabelSums(2)).mean
        decisions = collect(classifier, shuffled, Decisions(baseline, len(rows)))
        p = neuron_p_values(decisions.above[None], decisions.labels.bincount())
        claimed["exact"] += bool((adjusted(p) <= ALPHA).any())
        claimed["permutations"] += len(permutation_test(decisions, n_permutations=99, seed=seed).significant(ALPHA)) > 0
    assert binomtest(claimed["exact"], REPETITIONS, ALPHA, alternative="greater").pvalue > 0.01
    assert binomtest(claimed["permutations"], REPETITIONS, ALPHA).pvalue > 0.01


def test_power_rises_with_the_signal_and_false_discoveries_stay_rare():
    """46 neurons, 6 of which agree with the label more often than not."""
    power, wrong = {}, []
    for share in (0.0, 0.3, 0.6):
        found = {"exact": [], "permutations": []}
        for seed in range(30):
            above, labels = correlated_decisions(seed)
            told = torch.rand(102, 3, 1, 6, generator=torch.Generator().manual_seed(1000 + seed)) < share
            above[:, :, 1:, :6] = torch.where(told, labels.bool()[:, None, None, None], above[:, :, 1:, :6])
            decisions = Decisions.of(above, labels)
            p = neuron_p_values(decisions.above[None], labels.bincount())
            by_method = {
                "exact": adjusted(p) <= ALPHA,
                "permutations": permutation_test(decisions, n_permutations=199).significant(ALPHA).mask,
            }
            for name, mask in by_method.items():
                found[name].append(mask[1, :6].double().mean().item())
            if share:
                discovered = adjusted(p, "fdr") <= ALPHA
                false = int(discovered.sum() - discovered[1, :6].sum())
                wrong.append(false / max(1, int(discovered.sum())))
        power[share] = {name: float(np.mean(values)) for name, values in found.items()}
    for name in ("exact", "permutations"):
        assert power[0.0][name] < 0.02 < 0.2 < power[0.3][name] < power[0.6][name] and power[0.6][name] > 0.95
    # Permutations know that positions and neurons depend on each other.
    assert power[0.3]["permutations"] >= power[0.3]["exact"]
    assert np.mean(wrong) < ALPHA


# On a model whose neurons are known


@pytest.fixture(scope="module")
def planted():
    found = planted_classifier(0, flip=0.1)
    return found, find_skill_neurons(found.classifier, found.task)


@pytest.mark.parametrize("method", ["fwer", "fdr", "fdr_any"])
@pytest.mark.parametrize("rows", ["validation", "test"])
def test_planted_neurons_are_significant(planted, method, rows):
    found, scores = planted
    chosen = scores.significant(0.05, method, rows=rows)
    assert len(found.neurons - chosen) == 0
    assert chosen.model == found.model.fingerprint() and chosen.meta["rows"] == rows


def test_no_selective_or_foreign_neuron_of_layer_0_is_significant(planted):
    found, scores = planted
    bystanders = (found.others | found.selective).layers(0)
    assert len(bystanders) and len(scores.significant(0.05) & bystanders) == 0


def test_claims_show_the_optimism_beside_the_held_out_accuracy(planted):
    found, scores = planted
    table = claims(scores, 4)
    assert set(zip(table.layer, table.neuron, strict=True)) == set(found.neurons)
    np.testing.assert_allclose(table.optimism, table.predictivity - table.held_out)
    assert ((table.low < table.held_out) & (table.held_out < table.high)).all()
    assert (table.p <= table.p_adjusted).all() and (table.p_adjusted < 0.05).all()
    assert (table.majority == scores.majority).all()


def test_intervals_pay_for_the_neurons_that_there_are(planted):
    scores = planted[1]
    all_of_them, more = claims(scores, 87), claims(scores, 1000)
    assert len(more) == 87 and more.equals(all_of_them)


def test_choosing_and_scoring_on_the_same_rows_overstates_chance_neurons():
    above, labels = correlated_decisions(0)
    above_test, labels_test = correlated_decisions(1)
    counts = [Decisions.of(a, y).above[None] for a, y in ((above, labels), (above_test, labels_test))]
    n, n_test = labels.bincount(), labels_test.bincount()
    meta = {"model": "none", "seeds": [0], "task": "chance"}
    scores = NeuronScores(counts[0], n, counts[1], n_test, torch.zeros(1, 3, 2, 23), meta)
    table = claims(scores, 46)
    assert table.optimism.mean() > 0.03
    assert table.held_out.mean() == pytest.approx(0.5, abs=0.03)


def test_the_control_task_keeps_texts_and_shares_and_forgets_labels(tiny_task):
    control = control_task(tiny_task)
    assert [row["text"] for row in control.train] == [row["text"] for row in tiny_task.train]
    labels, old = (np.array([row["label"] for row in task.train]) for task in (control, tiny_task))
    assert binomtest(int((labels == old).sum()), len(labels), 0.5).pvalue > 0.01
    assert binomtest(int(labels.sum()), len(labels), 0.5).pvalue > 0.01
    assert [row["label"] for row in control_task(tiny_task, seed=1).train] != labels.tolist()
    by_text = {}
    for row in (*control.train, *control.validation, *control.test):
        assert by_text.setdefault(row["text"], row["label"]) == row["label"]


def test_planted_neurons_are_selective_and_others_are_not(planted):
    found, scores = planted
    control = find_skill_neurons(found.classifier, control_task(found.task))
    result = selectivity(scores, control)
    is_planted = found.neurons.mask
    assert result.selectivity[is_planted].min() > 0.2
    assert result.above_majority[is_planted].min() > 0.2
    assert len(control.significant(0.05)) == 0
    assert result.to_dataframe().shape == (3 * 29, 7)
    with pytest.raises(ValueError, match=r"'signal0:control'.*'signal0'"):
        selectivity(scores, scores)


def test_scores_from_other_prompts_positions_or_rows_are_not_compared_with_the_control(planted):
    found, scores = planted
    control_of = control_task(found.task)

    def alike(classifier=found.classifier, task=control_of, **options):
        return selectivity(scores, find_skill_neurons(classifier, task, **options))

    other_prompt = replace(found.classifier, prompt=replace(found.classifier.prompt, seed=7))
    shorter = replace(other_prompt.prompt, vectors=other_prompt.prompt.vectors[:3], seed=found.classifier.prompt.seed)
    with pytest.raises(ValueError, match=r"the same seeds, but have \[0\] and \[7\]"):
        alike(other_prompt)
    with pytest.raises(ValueError, match="as many positions, but have 5 and 3"):
        alike(Classifier(found.model, shorter, found.classifier.verbalizer, found.classifier.labels))
    with pytest.raises(ValueError, match="the same `positions`, but have prompt and mask_and_prompt"):
        alike(positions="mask_and_prompt")
    with pytest.raises(ValueError, match=r"as many rows, but have .*'validation': 103.*'validation': 40"):
        alike(task=control_of.subset(40))


def test_planted_neurons_beat_every_matched_random_set(planted):
    found, scores = planted
    result = against_random(scores.held_out, found.neurons, n_draws=49)
    assert result.p == 0.02 and result.chosen > result.random.max()
    chance = against_random(scores.held_out, found.neurons.random_like(seed=3), n_draws=49)
    assert chance.p > 0.02
    with pytest.raises(ValueError, match=r"`n_draws` is .*, not 0"):
        against_random(scores.held_out, found.neurons, n_draws=0)


def test_significant_says_what_is_wrong(planted, unchecked_types):
    with pytest.raises(ValueError, match="not 5"):
        planted[1].significant(5)
    with pytest.raises(ValueError, match="'train'"):
        planted[1].significant(rows="train")


# Figures


def test_figures_show_what_they_say(planted):
    found, scores = planted
    decisions = collect(found.classifier, found.task.validation, Decisions(scores.baseline[0], 103))
    test = permutation_test(decisions, n_permutations=99)
    ax = plot_null(test)
    assert f"{len(test.significant())} neurons lie above" in legend_of(ax)[-1]
    assert np.asarray(ax.lines[0].get_xdata())[0] == test.threshold()
    table = claims(scores, 6)
    ax = plot_claims(table)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata()), table.held_out)
    ax = plot_false_positives({"exact": (3, 200), "permutations": (11, 200)})
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [0.015, 0.055]
    plt.close("all")


def test_a_score_that_is_nan_is_no_evidence():
    score = torch.tensor([[float("nan"), 0.5, 0.6, 0.5]])
    with pytest.raises(ValueError, match="holds NaN"):
        against_random(score, NeuronSet(torch.tensor([[True, False, False, False]])), n_draws=9)
