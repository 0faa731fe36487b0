"""Rows that belong together, against loops over pairs of rows, and intervals against their formulas and the truth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skillneurons.utilities.intervals import (
    clopper_pearson,
    effective_intervals,
    effective_rows,
    mean_interval,
    mean_variance,
    proportion,
    proportion_effects,
)
from skillneurons.utilities.row_groups import groups_of, row_groups

IDS = st.one_of(st.none(), st.integers(0, 4), st.lists(st.integers(0, 4), max_size=3))


def share_one(one, other):
    one, other = ([] if ids is None else ids if isinstance(ids, list) else [ids] for ids in (one, other))
    return bool(set(one) & set(other))


@settings(deadline=None, max_examples=60)
@given(st.lists(IDS, min_size=2, max_size=11), st.integers(0, 100))
def test_the_variance_is_the_sum_over_pairs_of_rows_that_share_a_group(ids, seed):
    groups, n = groups_of(ids), len(ids)
    pairs = [(i, j) for i in range(n) for j in range(n) if i == j or share_one(ids[i], ids[j])]
    if groups is None:
        assert len(pairs) == n
        return
    residuals = torch.randn(n, 3, 2, generator=torch.Generator().manual_seed(seed))
    expected = sum(residuals[i].double() * residuals[j].double() for i, j in pairs)
    torch.testing.assert_close(groups.variance(residuals), expected)
    assert groups.n_effective == pytest.approx(n**2 / len(pairs))


def test_groups_inside_another_and_equal_ones_bring_nothing():
    document, author = [0, 0, 1, 1, 2, 2], [9, 9, 9, 9, 8, 8]
    both = groups_of([[("d", d), ("a", a)] for d, a in zip(document, author, strict=True)])
    assert both is not None
    assert both.disjoint and both.n_groups == 2 and both.n_effective == pytest.approx(36 / (16 + 4))


def test_rows_without_a_partner_are_groups_of_their_own():
    groups = groups_of(["a", None, "a", float("nan"), "b", []])
    assert groups is not None
    assert groups.n_groups == 5 and groups.sums(torch.arange(6.0)).tolist() == [2, 1, 3, 4, 5]
    assert groups_of([None, float("nan"), "b", []]) is None
    assert row_groups([{"text": "x", "label": 0}, {"text": "y", "label": 1}]) is None
    with pytest.raises(TypeError, match=r"\{'id': 3\}"):
        groups_of([{"id": 3}])


def test_even_groups_of_rows_that_agree_are_as_good_as_one_row_for_each():
    """Of 12 values seven times each, the mean varies as the mean of the 12."""
    values = torch.randn(12, generator=torch.Generator().manual_seed(0)).double()
    groups = groups_of([i for i in range(12) for _ in range(7)])
    repeated = values.repeat_interleave(7)
    assert mean_variance(repeated, groups) == (pytest.approx(values.var().item() / 12), pytest.approx(11))
    low, high = stats.t.interval(0.9, 11, values.mean().item(), stats.sem(values))
    assert mean_interval(repeated, groups, 0.9)[1:] == (pytest.approx(low), pytest.approx(high))


def test_without_groups_a_mean_has_students_interval():
    values = torch.randn(13, generator=torch.Generator().manual_seed(1)).double()
    low, high = stats.t.interval(0.95, 12, values.mean().item(), stats.sem(values))
    assert mean_interval(values)[1:] == (pytest.approx(low), pytest.approx(high))
    assert mean_variance(values) == (values.var().item() / 13, 12)


def test_rows_that_cancel_within_groups_make_no_interval_narrower():
    groups = groups_of([i for i in range(11) for _ in range(2)])
    assert groups is not None
    values = torch.tensor([0.0, 1.0]).repeat(11)
    assert mean_variance(values, groups)[0] == values.var().item() / 22
    assert proportion_effects(values.bool(), groups).item() == 1


def test_a_proportion_pays_by_its_design_effect():
    groups = groups_of([i for i in range(31) for _ in range(5)])
    by_group = torch.arange(31) % 3 > 0
    result, alone = proportion(by_group.repeat_interleave(5), groups), clopper_pearson(int(by_group.sum()), 31)
    # The unbiased variance over groups: n / (n - 1) of the binomial one.
    assert result.n_groups == 31 and result.design_effect == pytest.approx(5 * 31 / 30)
    assert result.low < alone[0] and result.high > alone[1]
    assert result.high - result.low < 1.1 * (alone[1] - alone[0])
    share = torch.tensor([0.3, 0.5]).double()
    n = effective_rows(torch.tensor([1.0, 4.0]), 155, 31.0)
    assert n.tolist() == pytest.approx(
        [155 / k * (stats.t.ppf(0.975, 154) / stats.t.ppf(0.975, 30)) ** 2 for k in (1, 4)]
    )
    low, high = effective_intervals(share, torch.tensor([10.0, 20.0]))
    assert [(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)] == [
        pytest.approx(clopper_pearson(3, 10)),
        pytest.approx(clopper_pearson(10, 20)),
    ]


def test_where_all_rows_are_right_groups_count_as_rows():
    groups = groups_of([i for i in range(31) for _ in range(5)])
    result = proportion(torch.ones(155, dtype=torch.bool), groups)
    assert result.high == 1 and result.design_effect == 5
    assert clopper_pearson(28, 28)[0] < result.low < clopper_pearson(31, 31)[0]
    assert proportion(torch.zeros(155, dtype=torch.bool), groups).low == 0


def test_one_group_says_nothing():
    result = proportion(torch.tensor([True, False, True]), groups_of(["a", "a", "a"]))
    assert (result.low, result.high) == (0, 1)
    with pytest.raises(ValueError, match="there are 3 of 1"):
        mean_interval(torch.tensor([1.0, 2.0, 3.0]), groups_of(["a", "a", "a"]))
    with pytest.raises(ValueError, match="of 3 rows, but 4"):
        mean_interval(torch.ones(4), groups_of(["a", "a", "b"]))


@pytest.mark.parametrize("n_own", [1, 2])
@pytest.mark.parametrize("truth", [0.5, 0.75, 0.95])
def test_intervals_miss_as_seldom_as_they_say(truth, n_own):
    """600 rows of 60 groups that decide most of a row; each row has one group, or two."""
    rng, misses = np.random.default_rng(int(100 * truth)), {"proportion": 0, "mean": 0, "rows alone": 0}
    for _ in range(200):
        ids = np.sort(np.stack([rng.permutation(np.arange(600) % 60) for _ in range(n_own)]), axis=0).T
        effects = rng.normal(size=60)
        value = (effects[ids].sum(1) + 0.5 * rng.normal(size=600)) / (n_own + 0.25) ** 0.5
        same = (ids[:, 0] == ids[:, -1]) & (n_own == 2)
        value[same] = effects[ids[same, 0]]
        hits, groups = torch.from_numpy(value < stats.norm.ppf(truth)), groups_of(ids.tolist())
        result, (_, low, high) = proportion(hits, groups), mean_interval(hits.double(), groups)
        misses["proportion"] += not result.low <= truth <= result.high
        misses["mean"] += not low <= truth <= high
        low, high = clopper_pearson(int(hits.sum()), 600)
        misses["rows alone"] += not low <= truth <= high
    assert stats.binomtest(misses["proportion"], 200, 0.05, alternative="greater").pvalue > 0.01
    # Student's interval is symmetric, which a share near 1 is not.
    assert truth > 0.9 or stats.binomtest(misses["mean"], 200, 0.05, alternative="greater").pvalue > 0.01
    assert misses["rows alone"] > 40
