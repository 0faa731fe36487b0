"""On which rows neurons are right, and what is made of it: intervals and comparisons on the same rows."""

import math

import numpy as np
import pytest
import torch
from planted import planted_classifier

from skillneurons import find_skill_neurons
from skillneurons.findings import compare_places, robustness
from skillneurons.findings.prompts import PLACES, place_scores
from skillneurons.findings.rows_right import Read, accuracy_intervals, rows_right
from skillneurons.utilities.intervals import clopper_pearson, interval_p, mean_interval, paired_difference
from skillneurons.utilities.row_groups import groups_of


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0)


def test_rows_right_add_up_to_the_held_out_accuracy_of_every_place(planted):
    places = list(PLACES.values())
    scores = place_scores([planted.classifier], planted.task, places)
    rows = planted.classifier.encode(planted.task.test)
    neurons = [(0, 0), (1, 5), (2, 7)]
    reads = [Read(one, neuron, *how) for one, how in zip(scores, places, strict=True) for neuron in neurons]
    right = rows_right([planted.classifier], rows, reads)
    expected = torch.stack([one.held_out[layer, neuron] for one in scores for layer, neuron in neurons])
    torch.testing.assert_close(right.mean((1, 2)), expected, rtol=0, atol=1e-12)


def test_each_prompt_is_read_at_its_own_position(planted):
    other = planted.classifier.with_prompt(
        planted.classifier.prompt.__class__(
            planted.classifier.prompt.vectors.flip(0), planted.classifier.prompt.model, "tuned", 7
        )
    )
    both = [planted.classifier, other]
    scores = find_skill_neurons(both, planted.task)
    right = rows_right(both, planted.classifier.encode(planted.task.test), [Read(scores, (2, 7))])
    assert right.shape[1] == 2 and right.mean().item() == pytest.approx(scores.held_out[2, 7].item(), abs=1e-12)


def test_intervals_are_exact_for_one_prompt_and_wider_where_rows_share_something(planted):
    rows = planted.classifier.encode(planted.task.test)
    right = torch.zeros(1, 1, len(rows), dtype=torch.float64)
    right[..., : len(rows) // 2] = 1
    exact = clopper_pearson(len(rows) // 2, len(rows))
    assert accuracy_intervals(right, rows)[0].tolist() == pytest.approx(exact)
    half = len(rows) // 2
    tied = [dict(row) | {"group": i // 4} for i, row in enumerate(planted.task.test)]
    low, high = accuracy_intervals(right, planted.classifier.encode(tied))[0].tolist()
    assert low < exact[0] and high > exact[1] and half > 4


def test_places_are_compared_on_the_same_rows(planted):
    result = compare_places(planted.classifier, planted.task)
    table = result.to_dataframe()
    assert table.lead[0] == 0 and table.lead_low[0] < 0 < table.lead_high[0]
    assert table.lead.tolist() == pytest.approx((table.best_held_out[0] - table.best_held_out).tolist())
    assert (table.lead_low <= table.lead_high).all() and (table.best_held_out_low < table.best_held_out_high).all()


def test_paired_intervals_cover_the_truth_and_are_narrower_than_unpaired_ones():
    """Two neurons that agree on most rows: .8 and .7 right, 5 and 15 % of the rows tell them apart."""
    rng, covered, paired, unpaired = np.random.default_rng(0), 0, 0.0, 0.0
    for _ in range(500):
        kind = rng.choice(4, size=150, p=(0.65, 0.15, 0.05, 0.15))
        one, other = (torch.from_numpy(np.isin(kind, of).astype(float)) for of in ((0, 1), (0, 2)))
        _, low, high = paired_difference(one, other)
        covered += low <= 0.1 <= high
        paired += high - low
        (low, high), (other_low, other_high) = (clopper_pearson(int(each.sum()), 150) for each in (one, other))
        unpaired += np.hypot(high - low, other_high - other_low)
    assert 0.93 <= covered / 500 <= 1 and paired < 0.75 * unpaired


def test_paired_intervals_pay_for_groups():
    rng, covered = np.random.default_rng(1), {True: 0, False: 0}
    for _ in range(400):
        difference = torch.from_numpy(np.repeat(rng.choice([-1.0, 0.0, 1.0], size=60, p=(0.1, 0.7, 0.2)), 5))
        groups = groups_of([i // 5 for i in range(300)])
        for pays in covered:
            _, low, high = paired_difference(difference, torch.zeros(300), groups if pays else None)
            covered[pays] += low <= 0.1 <= high
    assert covered[True] / 400 >= 0.93 and covered[False] / 400 < 0.75


def test_a_difference_that_no_row_shows_has_a_width_still():
    same = torch.ones(50)
    difference, low, high = paired_difference(same, same)
    assert difference == 0 and low < 0 < high and high < 3 / 50 + 0.01


@pytest.mark.parametrize("n", [5, 40])
def test_the_p_value_of_an_interval_is_students(n):
    from scipy import stats

    values = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + 0.4
    expected = stats.ttest_1samp(values.numpy(), 0)[1]
    assert interval_p(mean_interval(values), n - 1) == pytest.approx(expected, rel=1e-6)
    assert interval_p((0.0, -1.0, 1.0)) == 1.0 and interval_p((1.0, 1.0, 1.0)) == 1.0
    assert interval_p((math.nan, math.nan, math.nan)) == 1.0


def test_robustness_pays_for_rows_that_share_something(planted):
    tied = [dict(row) | {"group": i // 6} for i, row in enumerate(planted.task.test)]
    scores = find_skill_neurons(planted.classifier, planted.task)
    alone, together = (
        robustness([planted.classifier], planted.task, scores, adversarial=rows).to_dataframe().iloc[1]
        for rows in (planted.task.test, tied)
    )
    assert alone.best_neuron == together.best_neuron
    width = [one.best_neuron_high - one.best_neuron_low for one in (alone, together)]
    assert width[1] >= width[0]
