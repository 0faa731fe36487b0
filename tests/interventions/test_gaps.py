"""Verdicts beside random sets, and stopping early: false claims as often as they say."""

import numpy as np
import pytest
import torch

from skillneurons.interventions.gaps import beside_random, gap_p, half_width, paired_gap, resampled_rows
from skillneurons.utilities.row_groups import groups_of


def null_gap(rng, n_draws, rows=60, level=0.95):
    """A chosen set that is one more random set, in effects that differ between sets and rows."""
    effects = rng.normal(size=n_draws + 1)[:, None] * 0.3 + rng.normal(size=(n_draws + 1, rows)) * 0.5
    shared = rng.normal(size=rows)
    values = torch.from_numpy(effects + shared)
    return paired_gap(values[0], values[1:], level=level)


@pytest.mark.parametrize("n_draws", [4, 10])
def test_a_family_of_cells_is_called_anything_in_one_case_of_twenty(n_draws):
    rng, called = np.random.default_rng(n_draws), 0
    for _ in range(400):
        gaps = torch.tensor([null_gap(rng, n_draws) for _ in range(8)])
        called += any(said != "neither" for said in beside_random(gaps, n_draws))
    assert called / 400 <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5


def test_below_and_above_are_told_apart_and_what_is_not_a_number_is_untested():
    gaps = torch.tensor([[-1.0, -1.1, -0.9], [1.0, 0.9, 1.1], [0.1, -0.5, 0.7], [torch.nan] * 3])
    assert beside_random(gaps, 10) == ["below", "above", "neither", "untested"]
    assert beside_random(gaps[3:], 1) == ["untested"]


def test_few_random_sets_and_many_cells_make_a_verdict_harder():
    gap = torch.tensor([[-1.0, -1.6, -0.4]])
    assert beside_random(gap, 10) == ["below"] and gap_p(tuple(gap[0].tolist()), 10) < gap_p((-1.0, -1.6, -0.4), 3)
    assert beside_random(gap.repeat(20, 1), 10) == ["neither"] * 20


@pytest.mark.parametrize("pays", [True, False])
def test_stopping_where_random_sets_agree_keeps_its_level_only_where_it_pays(pays):
    """Drawing in fours up to twelve, stopped where the half-width is small, as `necessity` does."""
    rng, excluded, n = np.random.default_rng(0), 0, 1500
    for _ in range(n):
        effects = torch.from_numpy(rng.normal(size=13)[:, None] * 0.3 + rng.normal(size=(13, 40)) * 0.2)
        drawn = next(k for k in (4, 8, 12) if k == 12 or half_width(effects[1 : k + 1].mean(1)) < 0.35)
        _, low, high = paired_gap(effects[0], effects[1 : drawn + 1], level=1 - 0.05 / (3 if pays else 1))
        excluded += low > 0 or high < 0
    assert (excluded / n <= 0.05) == pays


def test_resampled_rows_vary_as_means_over_groups_do():
    """Ten groups of twelve rows that always agree: means vary as those of ten rows, and not of 120."""
    of_group = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_row, groups = of_group.repeat_interleave(12)[None], groups_of([i // 12 for i in range(120)])
    alone, together = (resampled_rows(by_row, 4000, 0, one).std().item() for one in (None, groups))
    assert together == pytest.approx(of_group.std(correction=0).item() / 10**0.5, rel=0.05)
    assert alone == pytest.approx(of_group.std(correction=0).item() / 120**0.5, rel=0.05)
