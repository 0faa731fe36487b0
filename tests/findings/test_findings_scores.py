"""Findings that need scores or weights only: against slow loops, against scipy, and on planted neurons."""

from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import scipys_spearman
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import N_SIGNALS, planted_classifier, planted_task
from scipy.stats import binomtest

from skillneurons import (
    Classifier,
    Decisions,
    HookedEncoder,
    NeuronScores,
    NeuronSet,
    Task,
    Verbalizer,
    find_skill_neurons,
    prune,
    top_neurons,
)
from skillneurons.findings import (
    label_word_selectivity,
    nearest_tokens,
    several_classes,
    stability,
    task_similarity,
    word_selectivity,
)
from skillneurons.interventions.gaps import paired_gap, spread
from skillneurons.neurons._permutation_test import _permuted
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.plots import plot_several_classes, plot_stability, plot_task_similarity, plot_word_selectivity
from skillneurons.utilities.row_groups import groups_of

FOUR_OF_ALL = 4 / 87


@pytest.fixture(scope="module")
def planted():
    return [planted_classifier(k, flip=0.05) for k in range(N_SIGNALS)]


@pytest.fixture(scope="module")
def scores(planted):
    return {f"signal{k}": find_skill_neurons(one.classifier, one.task) for k, one in enumerate(planted)}


@pytest.fixture(scope="module")
def two_seeds(planted):
    classifiers = [planted_classifier(0, seed=seed).classifier for seed in (3, 8)]
    return find_skill_neurons(classifiers, planted[0].task)


def random_scores(n_seeds, seed=0, n=(11, 13)):
    generator = torch.Generator().manual_seed(seed)

    def counts(rows):
        return torch.stack([torch.randint(k + 1, (n_seeds, 5, 2, 7), generator=generator) for k in rows], dim=1)

    meta = {"model": "m", "task": "t", "task_fingerprint": "f", "positions": "prompt", "seeds": list(range(n_seeds))}
    return NeuronScores(counts(n), torch.tensor(n), counts(n), torch.tensor(n), torch.zeros(n_seeds, 5, 2, 7), meta)


# Common parts


def test_overlap_test_agrees_with_counting_all_pairs_of_sets():
    """Two layers of 4 and 3 neurons (as a mask of width 4 and the same width again): every pair of sets by hand."""
    a = NeuronSet.from_pairs([(0, 0), (0, 1), (1, 2)], n_layers=2, d_mlp=4)
    b = NeuronSet.from_pairs([(0, 1), (0, 3), (1, 2)], n_layers=2, d_mlp=4)
    shared = [len({0, 1} & set(first)) + (second == 2) for first in combinations(range(4), 2) for second in range(4)]
    got = overlap_test(a, b)
    assert got["n_shared"] == 2 and got["overlap"] == 2 / 3
    assert got["expected"] == pytest.approx(np.mean(shared) / 3)
    assert got["p"] == pytest.approx(np.mean(np.array(shared) >= 2))


def test_overlap_of_an_empty_set_is_an_error():
    some = NeuronSet.from_pairs([(0, 1)], n_layers=1, d_mlp=3)
    with pytest.raises(ValueError, match="have 1 and 0"):
        overlap_test(some, some - some)


def test_paired_gap_follows_the_formula():
    generator = torch.Generator().manual_seed(0)
    one, many = torch.randn(23, generator=generator), torch.randn(5, 23, generator=generator)
    gap, low, high = paired_gap(one, many, 1.5)
    differences = [float(one[i]) - sum(float(many[r, i]) for r in range(5)) / 5 for i in range(23)]
    rows = np.var(differences, ddof=1) / 23
    draws = np.var([float(many[r].double().mean()) for r in range(5)], ddof=1) * (1.5 + 1 / 5)
    assert gap == pytest.approx(np.mean(differences), rel=1e-6)
    assert (low + high) / 2 == pytest.approx(gap)
    # Between the quantiles of the normal and of t with the fewer degrees of freedom.
    assert 1.95 * (rows + draws) ** 0.5 < high - gap < 2.78 * (rows + draws) ** 0.5


@pytest.mark.parametrize("n_rows", [40, 2000])
def test_a_random_set_differs_from_the_others_about_as_seldom_as_it_says(n_rows):
    """However many rows there are: a set that is one random set among others has an effect of its own too."""
    generator = torch.Generator().manual_seed(1)
    excluded = 0
    for _ in range(300):
        row, effect = torch.randn(n_rows, generator=generator), 0.3 * torch.randn(7, 1, generator=generator)
        values = row + effect + torch.randn(7, n_rows, generator=generator)
        _, low, high = paired_gap(values[0], values[1:])
        excluded += not low <= 0 <= high
    assert binomtest(excluded, 300, 0.05).pvalue > 0.01


@pytest.mark.parametrize("fraction", [0.03, 0.3, 0.45])
def test_disjoint_draws_are_compared_by_how_much_a_random_set_would_vary(fraction):
    """Effects that add up over neurons, chosen sets that are random: sets disjoint from one are too alike."""
    generator, excluded, narrow = torch.Generator().manual_seed(2), 0, 0
    for i in range(300):
        effect = torch.randn(2, 100, generator=generator)
        chosen = top_neurons(torch.rand(2, 100, generator=generator), fraction)
        sets = [chosen, *(chosen.random_like(seed=100 * i + draw) for draw in range(8))]
        values = torch.stack([effect[one.mask].sum() + 0.01 * torch.randn(30, generator=generator) for one in sets])
        gaps = [paired_gap(values[0], values[1:], factor) for factor in (spread(chosen), 1.0)]
        excluded += not gaps[0][1] <= 0 <= gaps[0][2]
        narrow += not gaps[1][1] <= 0 <= gaps[1][2]
    assert binomtest(excluded, 300, 0.05).pvalue > 0.01
    assert narrow / 300 > 0.15 or fraction < 0.1


def test_spread_pays_for_what_is_excluded_too():
    chosen = NeuronSet(torch.tensor([[True] * 10 + [False] * 90]))
    others = NeuronSet(torch.tensor([[False] * 10 + [True] * 40 + [False] * 50]))
    assert spread(chosen) == pytest.approx((90 + 10) / (90 - 10))
    assert spread(chosen, others) == pytest.approx((50 + 10) / (50 - 10))
    with pytest.raises(ValueError, match="less than half"):
        spread(NeuronSet(torch.tensor([[True, False]])))


def test_a_gap_over_rows_that_belong_together_is_that_over_their_means():
    """Groups of equal size: the variance between groups' means, and Student's degrees of freedom of as many groups."""
    generator = torch.Generator().manual_seed(0)
    by_group = torch.randn(6, 20, generator=generator)
    rows = by_group.repeat_interleave(5, dim=1)
    ids = torch.arange(20).repeat_interleave(5).tolist()
    groups = groups_of(ids)
    assert groups is not None
    alone, together = paired_gap(rows[0], rows[1:]), paired_gap(rows[0], rows[1:], groups=groups)
    expected = paired_gap(by_group[0], by_group[1:])
    assert together == pytest.approx(expected, rel=1e-5)
    assert together[2] - together[1] > alone[2] - alone[1]
    assert paired_gap(rows[0], rows[1:], groups=groups_of(list(range(100)))) == alone
    half = torch.arange(100) < 50
    part = groups.of(half)
    assert part is not None and (part.n_rows, part.n_groups) == (50, 10)
    assert groups.of(torch.arange(100) % 5 == 0) is None


def test_paired_gap_of_equal_values_has_no_width_and_one_row_has_no_interval():
    assert paired_gap(torch.ones(7), torch.ones(3, 7)) == (0, 0, 0)
    for one, many in ((torch.ones(1), torch.ones(3, 1)), (torch.ones(7), torch.ones(1, 7))):
        with pytest.raises(ValueError, match="two rows and two draws"):
            paired_gap(one, many)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=11), st.randoms())
@settings(max_examples=50)
def test_spearman_is_scipys_and_knows_no_constant(values, rng):
    others = [rng.randrange(6) for _ in values]
    got = spearman(torch.tensor(values).double(), torch.tensor(others).double())
    if len(set(values)) == 1 or len(set(others)) == 1:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(scipys_spearman(values, others))


# Stability


def test_stability_is_that_of_slow_loops():
    scores = random_scores(3)
    result = stability(scores, 2 / 7)
    values = scores.predictivity_by_seed.numpy()
    for i, j in combinations(range(3), 2):
        assert result.correlation[i, j] == pytest.approx(scipys_spearman(values[i].ravel(), values[j].ravel()))
        tops = []
        for one in (values[i], values[j]):
            ranked = [sorted(range(7), key=lambda n, row=row: (-row[n], n))[:2] for row in one]
            tops.append({(layer, n) for layer in range(2) for n in ranked[layer]})
        assert result.overlap[i, j] == pytest.approx(len(tops[0] & tops[1]) / 4)
        assert result.expected_overlap[i, j] == pytest.approx(2 / 7)
        for layer in range(2):
            wanted = scipys_spearman(values[i, layer], values[j, layer])
            assert result.layer_correlation[layer, i, j] == pytest.approx(wanted)
    assert torch.equal(result.overlap, result.overlap.T) and len(result.to_dataframe()) == 3


def test_planted_neurons_are_stable_across_prompts(two_seeds):
    result = stability(two_seeds, FOUR_OF_ALL, per_layer=False)
    assert result.overlap[0, 1] == 1 and result.p[0, 1] < 1e-3 and result.expected_overlap[0, 1] < 0.1
    assert plot_stability(result).get_ylabel() == "share of neurons in common"
    plt.close("all")


def test_stability_of_nothing_is_chance():
    overlaps, p = [], []
    for seed in range(40):
        result = stability(random_scores(2, seed), 3 / 7)
        overlaps.append(result.overlap[0, 1].item() - result.expected_overlap[0, 1].item())
        p.append(result.p[0, 1].item())
    assert abs(np.mean(overlaps)) < 0.1 and np.mean(np.array(p) < 0.05) < 0.15


def decided(rng, n_prompt, signal=0.0, n_groups=None, d_mlp=197):
    """Decisions of two prompts that see the same rows through neurons much alike, and labels that mean nothing.

    Ten neurons are made to tell the label under both prompts. With `n_groups`, rows of a group are alike and share
    their label.
    """
    group = np.arange(90) * (n_groups or 90) // 90
    labels = torch.from_numpy(rng.permutation(np.arange(n_groups or 90) % 2)[group])
    common = rng.normal(size=(90, 1, d_mlp))
    if n_groups is not None:
        common += rng.normal(size=(n_groups, 1, d_mlp))[group]
    pair = []
    for _ in range(2):
        value = common + 0.7 * rng.normal(size=(90, n_prompt, d_mlp))
        value[:, :, :10] += signal * (2 * labels.numpy()[:, None, None] - 1)
        ids = None if n_groups is None else group.tolist()
        pair.append(Decisions.of(torch.from_numpy(value > 0)[:, :, None], labels, ids))
    return pair


def scores_of(pair):
    above, n = torch.stack([one.above for one in pair]), pair[0].labels.bincount()
    meta = {"model": "m", "task": "t", "task_fingerprint": "f", "positions": "prompt", "seeds": [0, 1]}
    return NeuronScores(above, n, above, n, torch.zeros(2, *above.shape[2:]), meta)


@pytest.mark.parametrize("n_groups", [None, 15], ids=["independent", "groups"])
def test_prompts_that_see_the_same_rows_share_no_more_than_under_shuffled_labels(n_groups):
    rng, p = np.random.default_rng(0), {"shuffled labels": [], "random sets": []}
    extra = []
    for seed in range(200):
        pair = decided(rng, 2, n_groups=n_groups)
        scores = scores_of(pair)
        for one in (stability(scores, 0.3, decisions=pair, n_shuffles=59, seed=seed), stability(scores, 0.3)):
            p[one.meta["chance"]].append(one.p[0, 1].item() <= 0.05)
            if one.meta["chance"] == "shuffled labels":
                extra.append((one.overlap - one.expected_overlap)[0, 1].item())
    assert binomtest(sum(p["shuffled labels"]), 200, 0.05).pvalue > 0.01, p
    assert sum(p["random sets"]) > 40  # what chance is not
    assert abs(np.mean(extra)) < 3 * np.std(extra) / 200**0.5


def test_planted_neurons_are_shared_beyond_shuffled_labels():
    pair = decided(np.random.default_rng(1), 2, signal=2.0, n_groups=30)
    result = stability(scores_of(pair), 10 / 197, decisions=pair)
    assert result.overlap[0, 1] == 1 and result.p[0, 1] == pytest.approx(1 / 200)
    assert result.expected_overlap is not None and result.random_overlap is not None
    assert result.expected_correlation is not None
    assert result.expected_overlap[0, 1] > result.random_overlap[0, 1] == pytest.approx(10 / 197)
    assert result.expected_correlation[0, 1] > 0.2
    assert result.to_dataframe()["chance"].item() == "shuffled labels" and "shuffled labels" in repr(result)


@pytest.mark.parametrize("per_layer", [True, False])
def test_stability_under_shuffled_labels_is_that_of_slow_loops(per_layer):
    rng = np.random.default_rng(2)
    labels = torch.arange(20) % 2
    above = rng.random((2, 20, 3, 2, 7)) < 0.5
    pair = [Decisions.of(torch.from_numpy(one), labels) for one in above]
    result = stability(scores_of(pair), 2 / 7, per_layer=per_layer, decisions=pair, n_shuffles=19, seed=5)
    overlaps, correlations = [], []
    for y in [labels, *_permuted(labels, 19, 5)]:
        right = (above == y.numpy()[:, None, None, None]).mean(1)
        values = np.maximum(right, 1 - right).max(1)  # seed, layer, neuron
        tops = []
        for one in values:
            blocks = list(one) if per_layer else [one.ravel()]
            n_top = 2 if per_layer else 4
            ranked = [sorted(range(len(b)), key=lambda n, b=b: (-b[n], n))[:n_top] for b in blocks]
            tops.append({(layer, n) for layer, some in enumerate(ranked) for n in some})
        overlaps.append(len(tops[0] & tops[1]) / 4)
        correlations.append(scipys_spearman(values[0].ravel(), values[1].ravel()))
    assert result.overlap[0, 1] == overlaps[0] and result.correlation[0, 1] == pytest.approx(correlations[0])
    assert result.expected_overlap is not None and result.expected_correlation is not None
    assert result.expected_overlap[0, 1] == pytest.approx(np.mean(overlaps[1:]))
    assert result.expected_correlation[0, 1] == pytest.approx(np.mean(correlations[1:]), abs=1e-5)
    assert result.p[0, 1] == pytest.approx(np.mean(np.array(overlaps) >= overlaps[0]))


def test_stability_refuses_decisions_on_other_rows(two_seeds):
    pair = decided(np.random.default_rng(3), 2)
    with pytest.raises(ValueError, match="give other scores"):
        stability(scores_of(pair), decisions=decided(np.random.default_rng(4), 2))
    with pytest.raises(ValueError, match="`n_shuffles`"):
        stability(scores_of(pair), decisions=pair, n_shuffles=3)


def test_stability_ranks_by_the_scores_own_measure():
    pair = decided(np.random.default_rng(5), 1)
    balanced = replace(scores_of(pair), meta=scores_of(pair).meta | {"measure": "balanced_accuracy"})
    result = stability(balanced, 0.1, decisions=pair, n_shuffles=19)
    own = balanced.ranking_by_seed
    assert result.correlation[0, 1] == pytest.approx(spearman(own[0].flatten(), own[1].flatten()))
    torch.testing.assert_close(own.mean(0), balanced.ranking)


def test_stability_of_one_seed_is_an_error():
    with pytest.raises(ValueError, match="has 1"):
        stability(random_scores(1))


# Specificity


def test_similarity_is_that_of_slow_loops(scores):
    result = task_similarity(scores, FOUR_OF_ALL, per_layer=False)
    values = [one.predictivity.numpy() for one in scores.values()]
    for i, j in combinations(range(3), 2):
        assert result.correlation[i, j] == pytest.approx(scipys_spearman(values[i].ravel(), values[j].ravel()))
        assert result.layer_correlation[1, i, j] == pytest.approx(scipys_spearman(values[i][1], values[j][1]))
    assert sorted(result.order) == [0, 1, 2] and len(result.to_dataframe()) == 3


def test_tasks_with_neurons_of_their_own_share_none(scores):
    result = task_similarity(scores, FOUR_OF_ALL, per_layer=False)
    assert result.overlap[~torch.eye(3, dtype=torch.bool)].max() == 0


def test_clustering_puts_the_same_skill_together(scores, two_seeds):
    result = task_similarity(scores | {"signal0 again": two_seeds}, FOUR_OF_ALL, per_layer=False)
    first_merge = {result.tasks[int(i)] for i in result.merges[0, :2]}
    assert first_merge == {"signal0", "signal0 again"}
    assert abs(result.order.index(0) - result.order.index(3)) == 1
    ax = plot_task_similarity(result)
    assert [label.get_text() for label in ax.get_yticklabels()] == [result.tasks[i] for i in result.order]
    plt.close("all")


def test_similarity_needs_two_tasks_of_one_model(scores):
    with pytest.raises(ValueError, match="has 1"):
        task_similarity({"signal0": scores["signal0"]})
    foreign = replace(scores["signal1"], meta=scores["signal1"].meta | {"model": "another"})
    with pytest.raises(ValueError, match="'signal1' are of another"):
        task_similarity({"signal0": scores["signal0"], "signal1": foreign})


# Selectivity


def test_nearest_words_are_those_of_a_slow_loop(planted):
    model, chosen = planted[0].model, planted[0].neurons
    for side in ("input", "output"):
        tokens, cosines = nearest_tokens(model, chosen, side, 3)
        for row, (layer, neuron) in enumerate(chosen):
            mlp = model.blocks[layer].mlp
            weights = (mlp.W_in[:, neuron] if side == "input" else mlp.W_out[neuron]).detach()
            words = model.W_E.detach()
            slow = [float(weights @ word / (weights.norm() * word.norm())) for word in words]
            best = sorted((abs(value) for value in slow), reverse=True)[:3]
            assert [abs(slow[token]) for token in tokens[row]] == pytest.approx(best, abs=1e-5)
            assert cosines[row].tolist() == pytest.approx([slow[token] for token in tokens[row]], abs=1e-5)


def test_planted_neurons_read_signal_words_and_write_no_label_word(planted, scores):
    one = planted[1]
    result = word_selectivity(one.model, scores["signal1"], one.classifier.verbalizer, fraction=FOUR_OF_ALL)
    assert result.n_with_label_word == 0 and result.overlap["n_shared"] == 0
    for words in result.words[0]:
        assert {"bad1", "good1"} == set(words[:2])
    assert len(result.to_dataframe()) == 4 and "4 skill neurons" in repr(result)
    assert "cosine" in plot_word_selectivity(result).get_xlabel()
    plt.close("all")


def test_label_word_selectivity_names_the_selective_neurons(planted):
    score = label_word_selectivity(planted[2].model, planted[2].classifier.verbalizer)
    chosen = {tuple(address) for address in (score > 0.3).nonzero().tolist()}
    assert len(chosen) == 2 and all(address in planted[2].selective for address in chosen)
    assert not any(address in planted[2].neurons for address in chosen)


def test_selectivity_of_another_model_is_an_error(planted, tiny_model, scores):
    with pytest.raises(ValueError, match="Scores must be of one model"):
        word_selectivity(tiny_model, scores["signal0"], planted[0].classifier.verbalizer)


# Several classes


@pytest.fixture(scope="module")
def topics():
    return planted_classifier("topics")


@pytest.fixture(scope="module")
def found(topics):
    return several_classes(topics.classifier, topics.task, fraction=3 * FOUR_OF_ALL, per_layer=False)


def test_each_planted_neuron_serves_its_own_class(topics, found):
    assert found.neurons == topics.neurons
    for k, name in enumerate(found.subtasks):
        own = planted_classifier(k).neurons
        table = found.to_dataframe()
        served = table.loc[table["serves"] == name, ["layer", "neuron"]]
        assert {tuple(row) for row in served.to_numpy().tolist()} == set(own)
        assert NeuronSet(found.member[k], own.model) == own
    assert found.overlap[0, 1] == 0
    assert plot_several_classes(found).get_ylabel() == "skill neurons"
    plt.close("all")


def test_two_classes_or_foreign_scores_are_errors(planted, topics, found):
    with pytest.raises(ValueError, match="'signal0' has 2 classes"):
        several_classes(planted[0].classifier, planted[0].task)
    with pytest.raises(ValueError, match=r"third-vs-rest', but not of these rows of 'topics:first-vs-rest'"):
        several_classes(topics.classifier, topics.task, scores=found.scores[::-1])
    fewer = planted_classifier("topics", n_validation=40)
    others = [find_skill_neurons(fewer.classifier, subtask) for subtask in fewer.task.subtasks()]
    with pytest.raises(ValueError, match="but not of these rows"):
        several_classes(topics.classifier, topics.task, scores=others)
    with pytest.raises(ValueError, match="one for each of the 3 subtasks, but has 2"):
        several_classes(topics.classifier, topics.task, scores=found.scores[:2])
    with pytest.raises(ValueError, match=r"`fraction` .* 1, not 1\.5"):
        several_classes(topics.classifier, topics.task, scores=found.scores, fraction=1.5)


def test_neurons_of_a_rare_class_come_before_those_that_never_answer_it(topics):
    """One row in fifteen, and some of the others look like it: plain accuracy would rank constant neurons first."""

    def rare(rows):
        return [dict(row) | {"label": 1 if row["label"] == 0 and i % 5 else row["label"]} for i, row in enumerate(rows)]

    base = planted_task("topics", n_train=300, n_validation=300, n_test=300)
    task = replace(base, **{split: rare(getattr(base, split)) for split in ("train", "validation", "test")})
    found = several_classes(topics.classifier, task, fraction=3 * FOUR_OF_ALL, per_layer=False)
    own = planted_classifier(0).neurons
    assert NeuronSet(found.member[0], own.model) == own
    unequal = task.subtasks(balance=False)[0]
    plain = find_skill_neurons(topics.classifier, unequal, measure="predictivity")
    assert len(plain.top(FOUR_OF_ALL, per_layer=False) & own) < 4
    balanced = find_skill_neurons(topics.classifier, unequal)
    assert len(balanced.top(FOUR_OF_ALL, per_layer=False) & own) > 2


def test_which_class_a_neuron_serves_is_not_chosen_on_the_rows_that_report_it(topics):
    """Fourteen classes that mean nothing: the best of fourteen test accuracies would lie above one half."""
    rng = np.random.default_rng(0)

    def meaningless(rows):
        return [dict(row) | {"label": label} for row, label in zip(rows, rng.integers(0, 14, len(rows)), strict=True)]

    base = planted_task("topics", n_train=400, n_validation=400, n_test=400)
    names = [f"word{i}" for i in range(14)]
    train, validation, test = (meaningless(rows) for rows in (base.train, base.validation, base.test))
    classifier = topics.classifier
    words = Verbalizer.from_words(classifier.model.tokenizer, names)
    task = Task("none", train, validation, test, names)
    table = several_classes(Classifier(classifier.model, classifier.prompt, words), task, fraction=0.9).to_dataframe()
    assert abs(table.held_out_balanced.mean() - 0.5) < 0.02


@pytest.mark.parametrize("n_labels", [4, 14])
def test_tasks_of_many_classes_are_the_union_over_their_subtasks(planted, n_labels):
    """Classes that mean nothing, on the planted model: each subtask gets its equal share, by its own scores."""
    base = planted[0].task
    names = [f"class{k}" for k in range(n_labels)]

    def relabelled(rows):
        return [{"text": row["text"], "label": i % n_labels} for i, row in enumerate(rows)]

    train, validation, test = (relabelled(rows) for rows in (base.train, base.validation, base.test))
    words = [f"word{k}" for k in range(n_labels)]
    task = Task("many", train, validation, test, words, names)
    verbalizer = Verbalizer.from_words(planted[0].model.tokenizer, words)
    classifier = Classifier(planted[0].model, planted[0].classifier.prompt, verbalizer, task.labels)
    found = several_classes(classifier, task, fraction=n_labels / 29)
    assert found.subtasks == tuple(f"{name}-vs-rest" for name in names)
    union = torch.zeros(3, 29).bool()
    for k in range(n_labels):
        one = find_skill_neurons(classifier, task.one_vs_rest(names[k]).balanced()).predictivity
        mask = torch.stack([one[layer] == one[layer].max() for layer in range(3)])
        assert (found.member[k].sum(1) == 1).all() and bool((mask | ~found.member[k]).all())
        union |= found.member[k]
    assert torch.equal(found.neurons.mask, union) and found.held_out.shape == (n_labels, 3, 29)


def test_overlap_of_sets_of_a_pruned_model_counts_the_neurons_that_exist():
    widths = (3, 7)
    a = NeuronSet.from_pairs([(0, 0), (1, 2), (1, 6)], n_layers=2, d_mlp=widths)
    b = NeuronSet.from_pairs([(0, 0), (0, 2), (1, 2)], n_layers=2, d_mlp=widths)
    shared = []
    for first in combinations(range(3), 1):
        for second in combinations(range(7), 2):
            drawn = NeuronSet.from_pairs(
                [*((0, i) for i in first), *((1, i) for i in second)], n_layers=2, d_mlp=widths
            )
            shared.append(len(drawn & b))
    test = overlap_test(a, b)
    assert test["expected"] == pytest.approx(np.mean(shared) / 3)
    assert test["p"] == pytest.approx(np.mean([n >= 2 for n in shared]))


def test_a_task_whose_neurons_all_score_the_same_is_named(scores):
    one = scores["signal0"]
    flat = replace(one, above=torch.zeros_like(one.above), meta=one.meta | {"task": "flat"})
    with pytest.raises(ValueError, match="those of 'flat' are all the same"):
        task_similarity({**scores, "flat": flat})
    with pytest.raises(ValueError, match="under seed 0 all are the same"):
        stability(NeuronScores.merge_seeds([flat, replace(flat, meta=flat.meta | {"seeds": [1]})]))


def test_scores_of_other_positions_do_not_compare(planted, scores):
    mask = find_skill_neurons(planted[1].classifier, planted[1].task, positions="mask")
    with pytest.raises(ValueError, match=r"\['mask', 'prompt'\], do not compare"):
        task_similarity({"signal0": scores["signal0"], "signal1": mask})


def test_selectivity_of_a_pruned_model_is_an_error_that_says_so(planted):
    keep = NeuronSet(torch.rand(3, 29, generator=torch.Generator().manual_seed(0)) < torch.tensor([[0.2], [0.5], [1]]))
    ragged = prune(planted[0].classifier, keep, torch.zeros(3, 29))
    assert isinstance(ragged.model, HookedEncoder) and isinstance(ragged.verbalizer, Verbalizer)
    with pytest.raises(ValueError, match="different numbers of neurons"):
        label_word_selectivity(ragged.model, ragged.verbalizer)
