"""What rows that belong together cost each neuron: against loops, in files, and where there are none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from planted import planted_classifier
from scipy import stats

from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._predictivity import accuracy_from_counts, best_position
from skillneurons.neurons.controls import claims
from skillneurons.neurons.design_effects import association_effects
from skillneurons.neurons.p_values import association_p_values, association_z, grouped_p_values, strongest_position
from skillneurons.neurons.scores import NeuronScores, find_skill_neurons
from skillneurons.utilities import store
from skillneurons.utilities.intervals import clopper_pearson, effective_intervals, effective_rows
from skillneurons.utilities.row_groups import groups_of, row_groups


def grouped(task, group):
    """The task with a group for each row: of 4 rows in validation, or two overlapping ones on test."""
    splits = {
        split: [dict(row, group=group(split, i)) for i, row in enumerate(getattr(task, split))]
        for split in ("train", "validation", "test")
    }
    return replace(task, **splits)


@pytest.fixture(scope="module")
def found():
    planted = planted_classifier(0, flip=0.1)
    task = grouped(planted.task, lambda split, i: i // 4 if split == "validation" else [i // 5, -1 - i % 11])
    other = replace(planted.classifier.prompt, vectors=planted.classifier.prompt.vectors * 1.1, seed=5)
    classifiers = [planted.classifier, replace(planted.classifier, prompt=other)]
    return planted, classifiers, task, find_skill_neurons(classifiers, task)


def first_seed(scores):
    names = ("above", "above_test", "baseline", "design_effects")
    return replace(scores, **{name: getattr(scores, name)[:1] for name in names})


def test_the_effects_are_those_of_every_rows_decisions(found):
    _, classifiers, task, scores = found
    for seed, classifier in enumerate(classifiers):
        above = {}
        for split in ("validation", "test"):
            rows = getattr(task, split)
            decisions = collect(classifier, rows, Decisions(scores.baseline[seed], len(rows)))
            above[split] = torch.stack([decisions.unpack(layer) for layer in range(3)], dim=2)
        by_p, _ = strongest_position(scores.above[seed], scores.n)
        by_accuracy, upward = best_position(accuracy_from_counts(scores.above[seed], scores.n))
        for layer, neuron in ((0, 0), (1, 7), (2, 28), (1, 13)):
            for which, split in ((0, "validation"), (1, "test"), (2, "test")):
                rows = getattr(task, split)
                y = np.array([row["label"] for row in rows], dtype=float)
                position = (by_accuracy if which == 2 else by_p)[layer, neuron]
                d = above[split][:, position, layer, neuron].numpy().astype(float)
                groups = [{row["group"]} if split == "validation" else set(row["group"]) for row in rows]
                share = np.array([[bool(a & b) for b in groups] for a in groups])
                if which == 2:
                    e = (d == y) == upward[layer, neuron].item()
                    free = len(y) ** 2 / share.sum()
                    e, alone = e - e.mean(), len(y) * e.mean() * (1 - e.mean()) * (free - 1) / free
                else:
                    e = (y - y.mean()) * (d - d.mean())
                    alone = len(y) ** 2 * y.var() * d.var() / (len(y) - 1)
                expected = max(1.0, (e @ share @ e) / alone) if alone else 1.0
                assert scores.design_effects[seed, which, layer, neuron].item() == pytest.approx(expected)


def test_p_values_pay_by_the_effect_and_are_never_below_those_of_independent_rows(found):
    *_, scores = found
    alone = replace(scores, design_effects=None)
    assert (scores.p_values() >= alone.p_values() - 1e-12).all()
    position, _ = strongest_position(scores.above[0], scores.n)
    z, exact = (f(scores.above[0], scores.n)[position[1, 3], 1, 3] for f in (association_z, association_p_values))
    effect = scores.design_effects[0, 0, 1, 3]
    expected = min(1.0, 5 * max(exact.item(), 2 * stats.norm.sf(abs(z.item()) / effect.item() ** 0.5)))
    one = first_seed(scores)
    assert one.p_values()[1, 3].item() == pytest.approx(expected)


def test_the_score_of_the_test_is_that_of_its_group_sums():
    """`z / sqrt(effect)` is the sum over groups, divided by the root of its sum of squares."""
    generator = torch.Generator().manual_seed(2)
    above, labels = torch.rand(60, 7, generator=generator) < 0.4, torch.arange(60) // 6 % 2
    above[:, :3] |= labels.bool()[:, None]
    groups = groups_of((torch.arange(60) // 3).tolist())
    assert groups is not None
    counts = torch.stack([above[labels == label].sum(0) for label in (0, 1)])[:, None]
    z = association_z(counts, labels.bincount())[0]
    sums = groups.sums((labels - 0.5)[:, None] * (above.double() - above.double().mean(0)))
    root = sums.square().sum(0).sqrt()
    effect = association_effects(above, labels, groups)
    expected = torch.where(effect > 1, sums.sum(0) / root, z)
    torch.testing.assert_close(z / effect.sqrt(), expected)
    # Two tails are twice the smaller one.
    both, up, down = (
        grouped_p_values(counts, labels.bincount(), effect[None], upward)
        for upward in (None, torch.ones(1, 7, dtype=torch.bool), torch.zeros(1, 7, dtype=torch.bool))
    )
    torch.testing.assert_close(both, (2 * torch.minimum(up, down)).clamp_max(1))


def test_held_out_intervals_pay_by_the_effect(found):
    _, _, task, scores = found
    one = first_seed(scores)
    low, high = one.held_out_interval(0.9)
    groups = row_groups(task.test)
    assert groups is not None
    n, n_effective = len(task.test), groups.n_effective
    rows = effective_rows(one.design_effects[0, 2, 2, 5], n, n_effective, 0.9)
    expected = [end.item() for end in effective_intervals(one.held_out[2, 5], rows, 0.9)]
    assert [low[2, 5].item(), high[2, 5].item()] == pytest.approx(expected)
    assert scores.meta["groups"]["test"] == {"n_groups": groups.n_groups, "n_effective": n_effective}
    independent = clopper_pearson(round(one.held_out[2, 5].item() * n), n, 0.9)
    assert low[2, 5] < independent[0] < independent[1] < high[2, 5]


def test_results_say_how_many_groups_they_used(found):
    *_, scores = found
    table = claims(scores, 3)
    assert (table.n_groups == scores.groups("test")).all()
    best = scores.design_effects[:, 2].mean(0).flatten()[scores.predictivity.flatten().argmax()]
    assert table.design_effect[0] == pytest.approx(best.item())
    assert f"{scores.groups()} groups, design effect {best:.1f}" in repr(scores)
    assert scores.significant().meta["n_groups"] == scores.groups("validation")


@pytest.mark.parametrize("group", [lambda split, i: None, lambda split, i: f"{split} {i}"])
def test_rows_that_share_nothing_give_what_they_gave(found, group):
    planted, *_ = found
    scores = find_skill_neurons(planted.classifier, planted.task)
    other = find_skill_neurons(planted.classifier, grouped(planted.task, group))
    assert other.design_effects is None and "groups" not in other.meta and scores.groups() is None
    assert torch.equal(other.p_values(), scores.p_values()) and claims(other, 3).equals(claims(scores, 3))
    assert repr(other) == repr(scores) and "n_groups" not in other.significant().meta


def test_groups_do_not_move_counts_and_are_kept_in_files_which_earlier_ones_do_without(found, tmp_path):
    planted, classifiers, _, scores = found
    alone = find_skill_neurons(classifiers, planted.task)
    assert torch.equal(alone.above, scores.above) and torch.equal(alone.above_test, scores.above_test)
    again = NeuronScores.load(scores.save(tmp_path / "grouped"))
    assert again.design_effects is not None and torch.equal(again.design_effects, scores.design_effects)
    assert again.meta["groups"] == scores.meta["groups"]
    assert "design_effects" not in store.load(alone.save(tmp_path / "alone"), "NeuronScores")[0]
    assert NeuronScores.load(tmp_path / "alone").design_effects is None
    with pytest.raises(ValueError, match="Of 2 scores to merge, 1 know"):
        NeuronScores.merge_seeds([alone, replace(scores, meta=alone.meta)])


def test_processes_find_the_same_effects(found):
    planted, _, task, scores = found
    shared = find_skill_neurons(planted.classifier, task, accelerator=PartialState(cpu=True))
    assert shared.design_effects is not None and torch.equal(shared.design_effects[0], scores.design_effects[0])


def test_neurons_are_taken_in_blocks_of_any_size(found, monkeypatch):
    planted, _, task, scores = found
    monkeypatch.setattr("skillneurons.neurons.design_effects.VALUES_PER_BLOCK", 1)
    effects = find_skill_neurons(planted.classifier, task).design_effects
    assert effects is not None
    torch.testing.assert_close(effects[0], scores.design_effects[0])
