"""Existence, prompts, origin and robustness: against the plain tensor functions, and on planted neurons."""

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from planted import planted_classifier
from scipy.stats import beta

from skillneurons import Examples, TuningConfig, collect, evaluate, find_skill_neurons
from skillneurons.activations.decisions import Decisions
from skillneurons.findings import compare_places, existence, origin, random_model, robustness, shuffled_task
from skillneurons.findings.common import held_out_interval
from skillneurons.findings.existence import ShuffledCounts, shuffled_labels
from skillneurons.findings.prompts import PLACES, place_scores
from skillneurons.neurons._permutation_test import permutation_test
from skillneurons.neurons._predictivity import accuracy, baseline_activation
from skillneurons.plots import plot_existence, plot_existence_null, plot_origin, plot_places, plot_robustness

FOUR_OF_ALL = 4 / 87
SIZES = {"n_train": 53, "n_validation": 61, "n_test": 59, "flip": 0.05}


@pytest.fixture(scope="module")
def planted():
    return [planted_classifier(0, seed=seed, **SIZES) for seed in (2, 5)]


@pytest.fixture(scope="module")
def classifiers(planted):
    return [one.classifier for one in planted]


@pytest.fixture(scope="module")
def task(planted):
    return planted[0].task


@pytest.fixture(scope="module")
def scores(classifiers, task):
    return find_skill_neurons(classifiers, task)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def check_interval(table, column, n):
    """The ends in the table are those of the exact interval of as many hits, found by the beta distribution."""
    for share, low, high in table[[column, f"{column}_low", f"{column}_high"]].itertuples(index=False):
        hits = round(share * n)
        assert low == pytest.approx(beta.ppf(0.025, hits, n - hits + 1) if hits else 0)
        assert high == pytest.approx(beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1)


def test_the_interval_of_a_mean_over_seeds_covers_at_least_as_often_as_it_says():
    """Two seeds that agree on most rows: the mean's interval may be too wide, never too narrow."""
    generator, n, covered = torch.Generator().manual_seed(0), 80, 0
    for _ in range(400):
        first = torch.rand(n, generator=generator) < 0.7
        second = torch.where(torch.rand(n, generator=generator) < 0.8, first, torch.rand(n, generator=generator) < 0.7)
        low, high = held_out_interval((first.double() + second.double()).mean().item() / 2, n)
        covered += low <= 0.7 <= high
    assert covered >= 0.95 * 400


# Existence


def test_shuffled_counts_are_accuracies_under_shuffled_labels(classifiers, task, scores):
    rows, baseline = task.validation, scores.baseline[0]
    labels = shuffled_labels(torch.tensor(rows.labels), 3, seed=4)
    counts = collect(classifiers[0], rows, ShuffledCounts(baseline, labels), tokens_per_batch=200).accuracy
    activations = collect(classifiers[0], rows, Examples(len(rows))).values
    for shuffled, got in zip(labels, counts, strict=True):
        torch.testing.assert_close(got.float(), accuracy(activations, shuffled, baseline), rtol=0, atol=1e-6)
    assert not torch.equal(labels[0], labels[1]) and (labels.sum(1) == labels[0].sum()).all()


def test_a_planted_neuron_does_as_well_as_prompt_and_probe(planted, classifiers, task, scores):
    result = existence(classifiers, task, scores, n_permutations=11)
    assert all((int(layer), int(neuron)) in planted[0].neurons for layer, neuron, _ in result.top)
    assert torch.equal(result.prompt_accuracy, torch.tensor([evaluate(c, task.test).accuracy for c in classifiers]))
    assert (result.top_held_out > result.prompt_accuracy - 0.05).all() and (result.probe_accuracy > 0.85).all()
    assert result.predictivity.max() > result.null_max.max() and result.null_max.min() > 0.55
    layer, neuron, position = result.top[0].tolist()
    above = result.activations > result.baseline
    _, upward = scores.position_of(layer, neuron)
    agrees = ((above == result.labels.bool()) == upward).double().mean()
    assert agrees == pytest.approx(result.top_held_out[0].item())
    table = result.to_dataframe()
    assert (table.held_out_low < table.held_out).all() and table["position"].iloc[0] == position
    assert len(plot_existence(result).get_xticks()) == 3
    assert plot_existence_null(result).get_yscale() == "log"


def test_the_bar_of_existence_is_exceeded_once_in_twenty_times(classifiers, task, scores):
    result = existence(classifiers, task, scores, n_permutations=39, probe=False)
    decisions = collect(classifiers[0], task.validation, Decisions(scores.baseline[0], len(task.validation)))
    test = permutation_test(decisions, n_permutations=39, seed=0)
    assert torch.equal(result.null_max, test.null_max) and result.bar == test.threshold(0.05)
    assert result.to_dataframe().null_max_95[0] == result.null_max.sort(descending=True).values[1].item()
    few = existence(classifiers, task, scores, n_permutations=5, probe=False)
    assert few.bar == few.null_max.max().item()


def test_existence_refuses_what_does_not_belong_together(classifiers, task, scores):
    with pytest.raises(ValueError, match=r"seeds \[5, 2\], but `scores` \[2, 5\]"):
        existence(classifiers[::-1], task, scores)
    with pytest.raises(ValueError, match=r"`scores` are of 'signal0', but not of these rows of 'signal1'"):
        existence(classifiers, planted_classifier(1, **SIZES).task, scores)
    for finding in (existence, robustness):
        with pytest.raises(ValueError, match="`classifiers` needs one or more"):
            finding([], task, scores)
    with pytest.raises(ValueError, match="not 0"):
        shuffled_labels(torch.tensor([0, 1]), 0, seed=0)


# Prompts


def test_pooled_scores_are_those_of_each_rows_pooled_activation(classifiers, task):
    [scores] = place_scores(classifiers[:1], task, [("prompt", "mean")])
    pooled = {}
    for split in ("train", "validation"):
        rows = getattr(task, split)
        pooled[split] = collect(classifiers[0], rows, Examples(len(rows))).values.mean(dim=1, keepdim=True)
    baseline = baseline_activation(pooled["train"])
    wanted = accuracy(pooled["validation"], torch.tensor(task.validation.labels), baseline)
    # A tie with the baseline may fall either way by rounding.
    assert (scores.accuracy[0].float() - wanted).abs().max() < 2.5 / len(task.validation)
    assert scores.accuracy.shape == (1, 1, 3, 29)


def test_places_that_share_a_pass_are_scored_as_each_by_itself(classifiers, task):
    together = place_scores(classifiers, task, tuple(PLACES.values()))
    for (positions, pool), scores in zip(PLACES.values(), together, strict=True):
        alone = find_skill_neurons(classifiers, task, positions=positions if pool is None else f"{positions}, {pool}")
        assert alone.meta["positions"] == scores.meta["positions"]
        # The last block is computed at more positions: a tie with the baseline may fall either way by rounding.
        assert (scores.above - alone.above).abs().max() <= 1 and (scores.above_test - alone.above_test).abs().max() <= 1
        assert scores.n.equal(alone.n) and scores.seeds == alone.seeds
        assert torch.allclose(scores.baseline, alone.baseline, atol=1e-5)


def test_pooled_positions_are_pooled_wherever_they_are_collected_and_refused_where_they_cannot_be(classifiers, task):
    rows = task.validation
    one = collect(classifiers[0], rows, Examples(len(rows)), positions="text, mean").values
    batch = next(iter(classifiers[0].batches(rows[:1])))
    with classifiers[0].model.hooks(fwd_hooks=classifiers[0].fwd_hooks):
        _, cache = classifiers[0].model.run_with_cache(batch.tokens, batch.mask)
    words = cache["post", 1][0, classifiers[0].layout.positions("text")]
    torch.testing.assert_close(one[0, 0, 1], words.mean(0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="pooled by 'mean' or 'max', as in 'text, mean', not 'text, median'"):
        collect(classifiers[0], rows, Examples(len(rows)), positions="text, median")
    with pytest.raises(ValueError, match=r"differ in length.*'text, mean'"):
        collect(classifiers[0], rows, Examples(len(rows)), positions="text")


def test_planted_neurons_tell_at_every_place(classifiers, task, scores):
    result = compare_places(classifiers, task, scores=scores, fraction=FOUR_OF_ALL)
    table = result.to_dataframe().set_index("place")
    check_interval(table, "best_held_out", len(task.test))
    assert (table.prompt_neurons_held_out > 0.85).all() and table["rank_correlation"].iloc[0] == pytest.approx(1)
    assert torch.equal(result.predictivity[0], scores.predictivity)
    assert not torch.equal(result.held_out[3], result.held_out[4])
    assert len(plot_places(result).get_yticks()) == len(result.places) == 5


def test_places_refuse_scores_of_another_task(classifiers, task, scores):
    foreign = replace(scores, meta=scores.meta | {"task_fingerprint": "x", "task": "other"})
    with pytest.raises(ValueError, match="are of 'other', but not of these rows of 'signal0'"):
        compare_places(classifiers, task, scores=foreign)
    with pytest.raises(ValueError, match=r"seeds \[2\], but `scores` \[2, 5\]"):
        compare_places(classifiers[:1], task, scores=scores)
    mask = replace(scores, meta=scores.meta | {"positions": "mask"})
    with pytest.raises(ValueError, match="are of 'mask' positions"):
        compare_places(classifiers, task, scores=mask)
    with pytest.raises(ValueError, match="has 3"):
        place_scores(classifiers, planted_classifier("topics", **SIZES).task, [("mask", None)])


# Origin


def test_shuffled_labels_keep_texts_and_counts(task):
    shuffled = shuffled_task(task, seed=3)
    for split in ("train", "validation", "test"):
        before, after = getattr(task, split), getattr(shuffled, split)
        assert [row["text"] for row in before] == [row["text"] for row in after]
        assert before.labels.sum() == after.labels.sum() and (before.labels != after.labels).any()
    assert task.train.labels[0] == 0 and shuffled.name == "signal0:shuffled"


def test_a_random_model_has_other_weights_of_the_same_shape(planted):
    model = planted[0].model
    one, two, other = random_model(model, 0), random_model(model, 0), random_model(model, 1)
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    assert [p.shape for p in one.parameters()] == [p.shape for p in model.parameters()]
    assert one.W_in.std().item() == pytest.approx(0.02, rel=0.1) and bool((one.blocks[1].ln2.weight == 1).all())


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_skill_is_in_the_model_and_not_in_shuffled_labels(planted, classifiers, task, scores):
    told = []
    result = origin(
        classifiers,
        task,
        scores=scores,
        text="word1 word2",
        config=TuningConfig(lr=1e-2, steps=4, eval_every=4),
        fraction=FOUR_OF_ALL,
        progress=lambda what, n, total: told.append((what, n, total)),
    )
    table = result.to_dataframe().set_index("condition")
    check_interval(table, "best_held_out", len(task.test))
    done = [what.removeprefix("origin, ") for what, *share in told if what.startswith("origin, ") and share == [1, 1]]
    assert list(table.index) == done and len(done) == 5
    assert sum(what.startswith("tune ") and n == total for what, n, total in told) == 2 * len(classifiers)
    for condition in ("tuned prompt", "random prompt", "written prompt"):
        assert table.loc[condition, "top_held_out"] > 0.85
        top = result.predictivity[done.index(condition)].flatten().topk(4).indices
        assert {divmod(int(i), 29) for i in top} == set(planted[0].neurons)
    assert table.loc["shuffled labels", "top_held_out"] < 0.7
    assert table.loc["shuffled labels", "best_validation"] > table.loc["shuffled labels", "best_held_out"]
    assert bool(table["rank_correlation"].isna().equals(table.index.to_series() == "random model"))
    assert plot_origin(result).get_xlabel() == "accuracy"


def test_origin_starts_with_the_tuned_prompt(classifiers, task):
    with pytest.raises(ValueError, match=r"not \('random prompt',\)"):
        origin(classifiers, task, conditions=("random prompt",))
    with pytest.raises(ValueError, match="is empty"):
        origin([], task)


def test_origin_refuses_scores_of_other_rows_or_seeds(classifiers, task, scores):
    other = planted_classifier(1, **SIZES)
    with pytest.raises(ValueError, match="but not of these rows of 'signal0'"):
        origin(
            classifiers, task, scores=replace(scores, meta=scores.meta | {"task_fingerprint": other.task.fingerprint})
        )
    with pytest.raises(ValueError, match=r"seeds \[2\], but `scores` \[2, 5\]"):
        origin(classifiers[:1], task, scores=scores)


# Robustness


def test_planted_neurons_hold_on_other_words(planted, classifiers, task, scores):
    result = robustness(classifiers, task, scores, fraction=FOUR_OF_ALL)
    table = result.to_dataframe().set_index("rows")
    check_interval(table.loc[["clean"]], "best_neuron", len(task.test))
    check_interval(table.loc[["adversarial"]], "best_neuron", len(task.adversarial))
    assert result.skill == planted[0].neurons
    assert table.loc["adversarial", "skill_neurons"] > 0.85 and table.loc["adversarial", "overlap"] == 1
    labels = torch.tensor(task.adversarial.labels)
    slow, (layer, neuron) = [], next(iter(result.skill))
    for i, classifier in enumerate(classifiers):
        activations = collect(classifier, task.adversarial, Examples(len(labels))).values
        position, upward = scores.position_of(layer, neuron, seed_index=i)
        above = activations[:, position, layer, neuron] > scores.baseline[i, position, layer, neuron]
        slow.append(((above == labels.bool()) == upward).double().mean().item())
    assert result.adversarial[layer, neuron] == pytest.approx(sum(slow) / 2, abs=1.5 / len(labels))
    assert result.adversarial_accuracy[0] == evaluate(classifiers[0], task.adversarial)
    assert len(plot_robustness(result).lines) == 4


def test_robustness_takes_outside_rows_and_counts_pairs_answered_as_a_whole(classifiers, task, scores):
    outside: list[dict[str, Any]] = [dict(row) | {"pair": f"p{i // 2}"} for i, row in enumerate(task.adversarial)]
    # Some tests rows are originals of a pair, and some of the others have wrong labels, so that pairs are broken.
    test = [dict(row) | ({"pair": f"p{i}"} if i < 9 else {}) for i, row in enumerate(task.test)]
    outside = [row | {"label": 1 - row["label"]} if i % 5 == 0 else row for i, row in enumerate(outside)]
    paired = replace(task, test=test, adversarial=())
    result = robustness(classifiers, paired, scores, adversarial=outside)
    expected, kept = [], []
    for one in classifiers:
        by_pair = {}
        for row in (*test, *outside):
            if "pair" in row:
                by_pair.setdefault(row["pair"], []).append(int(one.predict([row])[0]) == row["label"])
        kept = [answers for answers in by_pair.values() if len(answers) > 1]
        expected.append(sum(all(answers) for answers in kept) / len(kept))
    assert result.consistent == pytest.approx(tuple(expected)) and 0 < expected[0] < 1
    row = result.to_dataframe().set_index("rows").loc["adversarial"]
    assert row.n_pairs == len(kept) and row.consistent_low < row.consistent < row.consistent_high
    assert 0 < row.consistent_if_independent < row.consistent + 0.2 and row.n == len(outside)
    assert row.majority == max(
        sum(one["label"] for one in outside) / row.n, 1 - sum(one["label"] for one in outside) / row.n
    )
    plain = robustness(classifiers, task, scores)
    again = robustness(classifiers, replace(task, adversarial=()), scores, adversarial=task.adversarial)
    assert plain.consistent is None and plain.to_dataframe().equals(again.to_dataframe())


def test_robustness_needs_adversarial_rows_and_their_scores(classifiers, task, scores):
    with pytest.raises(ValueError, match="'signal0' has no adversarial rows"):
        robustness(classifiers, replace(task, adversarial=()), scores)
    with pytest.raises(ValueError, match=r"seeds \[2\]"):
        robustness(classifiers[:1], task, scores)


def test_a_classifier_of_three_classes_is_refused_where_two_are_needed(classifiers, task, scores):
    topics = planted_classifier("topics", seed=2, **SIZES).classifier
    with pytest.raises(ValueError, match=r"a classifier answers \('first', 'second', 'third'\)"):
        origin([topics], task)
    with pytest.raises(ValueError, match=r"has the classes \('bad', 'good'\)"):
        robustness([topics, classifiers[1]], task, scores)


def test_tasks_of_three_classes_are_refused_with_what_to_do(task, scores):
    topics = planted_classifier("topics", seed=2, **SIZES)
    subtask = find_skill_neurons(topics.classifier, topics.task.one_vs_rest("first"))
    remedy = r"'topics' has the classes \('first', 'second', 'third'\).*`task.one_vs_rest\(label\)`.*`several_classes`"
    with pytest.raises(ValueError, match=remedy):
        existence([topics.classifier], topics.task, subtask)
    with pytest.raises(ValueError, match=remedy):
        origin([topics.classifier], topics.task, scores=subtask)
    with pytest.raises(ValueError, match=remedy):
        robustness([topics.classifier], topics.task, subtask)
    with pytest.raises(ValueError, match=r"'topics' has 3: first, second, third. Score each of `task.subtasks\(\)`"):
        compare_places(topics.classifier, topics.task)
    # A binary view answered by the classifier of three classes would compare labels that mean something else.
    with pytest.raises(ValueError, match=r"has the classes \('rest', 'first'\) and a classifier answers \('first'"):
        existence([topics.classifier], topics.task.one_vs_rest("first"), subtask)
