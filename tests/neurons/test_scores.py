"""find_skill_neurons on the planted model, where the truth is known; provenance and files."""

from dataclasses import replace

import pytest
import torch
from helpers import unchecked
from planted import planted_classifier, planted_task

from skillneurons import NeuronScores, find_skill_neurons
from skillneurons.neurons._predictivity import balanced_accuracy_from_counts
from skillneurons.neurons.controls import claims
from skillneurons.neurons.scores import union_of_top


@pytest.fixture(scope="module")
def planted():
    return [planted_classifier(0, seed=seed) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def scores(planted):
    return find_skill_neurons([p.classifier for p in planted], planted[0].task)


def test_the_planted_neurons_and_no_others_come_out_on_top(planted, scores):
    # Layer 2's planted path is attention: the neurons below the last layer are the ones planted.
    share = len(planted[0].neurons) / planted[0].neurons.mask.numel()
    assert scores.top(share, per_layer=False) == planted[0].neurons


def test_planted_neurons_hold_up_on_test_and_chance_neurons_do_not(planted, scores):
    own, others = planted[0].neurons.mask, ~(planted[0].neurons | planted[0].others).mask
    assert scores.held_out[own].min() > 0.9
    assert abs(scores.held_out[others].mean() - 0.5) < 0.05
    assert scores.predictivity[others].mean() > scores.held_out[others].mean() + 0.03


def test_shuffled_labels_find_nothing(planted):
    task = planted_task(0, flip=0.5)
    scores = find_skill_neurons(planted[0].classifier, task)
    assert scores.held_out.max() < 0.7


def test_predictivity_is_the_mean_over_seeds_of_the_best_position(scores):
    best = torch.maximum(scores.accuracy, 1 - scores.accuracy).amax(1)
    torch.testing.assert_close(scores.predictivity, best.mean(0))
    assert scores.accuracy.shape == (3, 5, 3, 29)
    assert scores.seeds == [0, 1, 2]


def test_several_seeds_are_the_single_ones_side_by_side(planted, scores):
    single = find_skill_neurons(planted[1].classifier, planted[1].task)
    assert torch.equal(single.above[0], scores.above[1])
    assert torch.equal(single.held_out, NeuronScores.merge_seeds([single]).held_out)


def test_validation_and_test_are_not_mixed_up(planted, scores):
    assert scores.n.sum() == len(planted[0].task.validation)
    assert scores.n_test.sum() == len(planted[0].task.test)
    assert not torch.equal(scores.above, scores.above_test)


def test_scores_survive_a_file_with_their_provenance(scores, tmp_path, planted):
    scores.save(tmp_path / "scores")
    loaded = NeuronScores.load(tmp_path / "scores")
    assert torch.equal(loaded.above_test, scores.above_test)
    assert loaded.meta == scores.meta
    assert loaded.meta["model"] == planted[0].model.fingerprint()
    assert loaded.meta["task_fingerprint"] == planted[0].task.fingerprint
    assert loaded.top(0.1).meta["seeds"] == [0, 1, 2]


def test_the_table_and_the_tensors_agree(scores):
    table = scores.to_dataframe()
    row = table.iloc[29 + 4]
    assert (row.layer, row.neuron) == (1, 4)
    assert row.predictivity == pytest.approx(scores.predictivity[1, 4].item())
    best = scores.best(3)
    assert best.predictivity.is_monotonic_decreasing
    assert best.predictivity.iloc[0] == pytest.approx(scores.predictivity.max().item())


def test_several_classes_are_the_union_of_subtasks_with_equal_shares():
    topics = planted_classifier("topics")
    parts = [find_skill_neurons(topics.classifier, subtask) for subtask in topics.task.subtasks()]
    union = union_of_top(parts, 0.3)
    assert all(part.top(0.1) - union == part.top(0.0) for part in parts)
    assert len(union) <= 3 * len(parts[0].top(0.1))


def test_test_rows_that_were_seen_before_are_told(planted):
    classifier, task = planted[0].classifier, planted[0].task
    assert task.n_seen == 0
    leaky = replace(task, validation=[*task.validation, *task.test[:50]])
    n = len(task.test)
    with pytest.warns(UserWarning, match=rf"50 of {n} test rows of .* are in train or validation too"):
        find_skill_neurons(classifier, leaky)
    # One in a hundred is no reason to.
    find_skill_neurons(classifier, replace(task, validation=[*task.validation, *task.test[: n // 100]]))


def test_progress_counts_every_row_of_every_pass(planted):
    task, classifiers = planted[0].task, [one.classifier for one in planted]
    told = []
    find_skill_neurons(classifiers, task, progress=lambda *step: told.append(step))
    for classifier in classifiers:
        for split in ("train", "validation", "test"):
            what, n = f"score {task.name}, seed {classifier.prompt.seed}, {split}", len(getattr(task, split))
            steps = [done for of, done, total in told if of == what and total == n]
            assert steps == sorted(set(steps)) and steps[-1] == n
    assert len({what for what, *_ in told}) == 9


def test_bad_input_is_named(planted):
    with pytest.raises(ValueError, match="empty"):
        find_skill_neurons([], planted[0].task)
    topics = planted_classifier("topics")
    with pytest.raises(ValueError, match=r"has 3: first, second, third.*subtasks"):
        find_skill_neurons(topics.classifier, topics.task)
    shorter = planted_classifier(0, n_prompt=3)
    with pytest.raises(ValueError, match=r"\{3, 5\}"):
        find_skill_neurons([planted[0].classifier, shorter.classifier], planted[0].task)


# Unequal classes


def unequal(planted, share):
    """The planted task with fewer rows of class 1 in validation and test."""

    def thinned(rows):
        ones = [row for row in rows if row["label"] == 1]
        return [row for row in rows if row["label"] == 0] + ones[: round(len(ones) * share)]

    return replace(planted[0].task, validation=thinned(planted[0].task.validation), test=thinned(planted[0].task.test))


def test_unequal_classes_are_ranked_by_balanced_accuracy_which_is_said(planted):
    task = unequal(planted, 0.3)
    scores = find_skill_neurons(planted[0].classifier, task)
    assert scores.measure == "balanced_accuracy" and "ranked by balanced accuracy (majority 0.7" in repr(scores)
    by_hand = torch.stack([balanced_accuracy_from_counts(one, scores.n) for one in scores.above])
    expected = torch.maximum(by_hand, 1 - by_hand).amax(dim=1).mean(dim=0)
    assert torch.equal(scores.ranking, expected) and torch.equal(scores.balanced_predictivity, expected)
    assert scores.top(0.05, per_layer=False) == scores.top(0.05, per_layer=False, score=expected)
    first = divmod(int(expected.argmax()), expected.shape[1])
    assert (scores.best(1).layer[0], scores.best(1).neuron[0]) == first
    assert (claims(scores, 1).layer[0], claims(scores, 1).neuron[0]) == first
    plain = find_skill_neurons(planted[0].classifier, task, measure="predictivity")
    assert plain.measure == "predictivity" and torch.equal(plain.ranking, plain.predictivity)
    assert torch.equal(plain.above, scores.above) and "ranked" not in repr(plain)


def test_equal_classes_are_ranked_by_predictivity_unless_asked(planted, scores, tmp_path, unchecked_types):
    assert scores.measure == "predictivity" and "measure" not in scores.meta
    asked = find_skill_neurons(planted[0].classifier, planted[0].task, measure="balanced_accuracy")
    assert NeuronScores.load(asked.save(tmp_path / "asked")).measure == "balanced_accuracy"
    with pytest.raises(ValueError, match="not 'auroc'"):
        find_skill_neurons(planted[0].classifier, planted[0].task, measure=unchecked("auroc"))
