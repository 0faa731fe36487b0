"""What luck gives, against neurons that know nothing and against permuted labels."""

from dataclasses import replace

import pytest
import torch
from planted import planted_classifier

from skillneurons import claims, find_skill_neurons
from skillneurons.neurons.luck import best_by_luck, chosen_intervals, searched
from skillneurons.tasks.task import SPLITS


def random_counts(n, n_1, shape, seed, share=0.5):
    """Decisions of neurons that know nothing, counted by class."""
    generator = torch.Generator().manual_seed(seed)
    above = torch.rand(n, *shape, generator=generator) < share
    labels = (torch.arange(n) < n_1).long()
    return torch.stack([above[labels == 0].sum(0), above[labels == 1].sum(0)])[None], torch.tensor([n - n_1, n_1])


def best_of(above, n):
    accuracy = (n[0] - above[0, 0] + above[0, 1]).double() / n.sum()
    return torch.maximum(accuracy, 1 - accuracy).max().item()


@pytest.mark.parametrize(("n", "n_1", "share"), [(40, 20, 0.5), (101, 50, 0.3), (60, 18, 0.5), (200, 60, 0.1)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_best_of_neurons_that_know_nothing_stays_below_as_often_as_it_says(n, n_1, share, level):
    draws, at_most, below = 400, 0, 0
    for seed in range(draws):
        above, counts = random_counts(n, n_1, (4, 2, 30), seed, share)
        luck = best_by_luck(above, counts, level)
        at_most += best_of(above, counts) <= luck + 1e-9
        below += best_of(above, counts) < luck - 1e-9
    # Scores are whole numbers of rows, so that the level lies between the two; three standard errors.
    slack = 3 * (level * (1 - level) / draws) ** 0.5
    assert at_most / draws >= level - slack
    assert below / draws <= level + slack


def test_neurons_that_share_what_they_do_are_never_above():
    generator = torch.Generator().manual_seed(0)
    labels, exceeded = torch.arange(80) % 2, 0
    for _ in range(200):
        common = torch.randn(80, 1, generator=generator)
        above = 2 * common + torch.randn(80, 200, generator=generator) > 0
        counts = torch.stack([above[labels == 0].sum(0), above[labels == 1].sum(0)]).reshape(1, 2, 1, 1, 200)
        n = torch.tensor([40, 40])
        exceeded += best_of(counts, n) > best_by_luck(counts, n, 0.95) + 1e-9
    assert exceeded <= 10


def test_more_neurons_and_fewer_rows_give_luck_more():
    few, n = random_counts(100, 50, (1, 1, 10), 0)
    many, _ = random_counts(100, 50, (1, 1, 10_000), 0)
    short, n_short = random_counts(20, 10, (1, 1, 10), 0)
    assert 0.5 < best_by_luck(few, n, 0.5) < best_by_luck(few, n, 0.95) < best_by_luck(many, n, 0.5) < 1
    assert best_by_luck(short, n_short, 0.5) > best_by_luck(few, n, 0.5)


def test_a_neuron_always_on_one_side_reaches_the_majority_without_knowing_anything():
    above, n = torch.zeros(1, 2, 3, 1, 5, dtype=torch.long), torch.tensor([70, 30])
    assert best_by_luck(above, n, 0.5) == best_by_luck(above, n, 0.95) == 0.7


def test_rows_in_copies_are_worth_one_each():
    above, n = random_counts(60, 30, (2, 1, 50), 3)
    copies = best_by_luck(4 * above, 4 * n, 0.95, design_effect=torch.full((1, 1, 50), 4.0))
    assert copies == pytest.approx(best_by_luck(above, n, 0.95), abs=0.02)
    assert copies > best_by_luck(4 * above, 4 * n, 0.95) + 0.05


def test_groups_give_luck_more_and_are_said():
    planted = planted_classifier(0, flip=0.5)
    plain = find_skill_neurons(planted.classifier, planted.task)
    in_pairs = {s: [dict(row) | {"group": i // 4} for i, row in enumerate(getattr(planted.task, s))] for s in SPLITS}
    grouped = find_skill_neurons(planted.classifier, replace(planted.task, **in_pairs))
    assert searched(grouped).luck_95 >= searched(plain).luck_95
    assert "103 validation rows in 26 groups" in str(searched(grouped)) and "groups" not in str(searched(plain))
    wide, narrow = (chosen_intervals(one) for one in (grouped, plain))
    assert bool((wide[0] <= narrow[0] + 1e-9).all() and (wide[1] >= narrow[1] - 1e-9).all())


def test_levels_that_are_none_are_refused():
    above, n = random_counts(20, 10, (1, 1, 5), 0)
    with pytest.raises(ValueError, match=r"not 1\.5"):
        best_by_luck(above, n, 1.5)


def test_what_is_found_is_told_from_nothing():
    planted = planted_classifier(0)
    scores = find_skill_neurons(planted.classifier, planted.task)
    found = searched(scores)
    assert not found.nothing and found.n_significant >= len(planted.neurons)
    assert found.best > found.luck_95 > found.luck > 0.5 and str(found).startswith("signal0: ")
    knows_nothing = planted_classifier(0, flip=0.5)
    nothing = searched(find_skill_neurons(knows_nothing.classifier, knows_nothing.task))
    assert nothing.nothing and not nothing.n_on_test and str(nothing).startswith("Nothing found on signal0: ")


def test_a_perfect_score_on_few_rows_says_little():
    planted = planted_classifier(0, n_train=20, n_validation=4, n_test=40)
    scores = find_skill_neurons(planted.classifier, planted.task)
    table = claims(scores, 5)
    assert table.predictivity[0] == 1 and table.predictivity_low[0] < 0.1
    assert (table.luck == 1).all()
    low, high = chosen_intervals(scores, 0.5)
    assert bool((low >= 0).all() and (high <= 1).all() and (low < high).all())
