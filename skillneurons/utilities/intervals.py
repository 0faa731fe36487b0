"""Intervals of means and proportions over rows, which pay for rows that belong together."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from skillneurons.utilities.row_groups import RowGroups, check_rows

T = TypeVar("T")
ONE_GROUP = 1.0 + 1e-9
"""So few groups in effect say nothing of how groups differ."""


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial proportion (scipy).

    Example:
        >>> clopper_pearson(5, 10)
        (0.187..., 0.812...)
    """
    interval = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def columns(name: str, interval: Iterable[T]) -> dict[str, T]:
    """A number and the ends of its interval, as tables name them.

    Example:
        >>> columns("gap", (0.1, 0.0, 0.2))
        {'gap': 0.1, 'gap_low': 0.0, 'gap_high': 0.2}
    """
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def in_words(n_groups: int | None, design_effect: float | None) -> str:
    """What to say after an interval about rows that belong together; nothing where none do.

    Example:
        >>> in_words(264, 3.61)
        ', 264 groups, design effect 3.6'
    """
    return "" if n_groups is None else f", {n_groups:,} groups, design effect {design_effect:.1f}"


@dataclass(frozen=True)
class Proportion:
    """A share of rows with its interval.

    Args:
        low: Lower end.
        high: Upper end.
        n_groups: Of rows that belong together; None where all are independent.
        design_effect: How many times the variance is that of as many independent rows; None with `n_groups`.
    """

    low: float
    high: float
    n_groups: int | None = None
    design_effect: float | None = None


def proportion(
    hits: Bool[Tensor, " batch"] | Float[Tensor, " batch"], groups: RowGroups | None = None, level: float = 0.95
) -> Proportion:
    """Exact interval of the share of hits; with groups, that of as many independent rows as these are worth.

    Rows may also be a hit in part, by a share between 0 and 1, which varies no more than a hit or a miss.

    Sources: Clopper and Pearson 1934; Korn and Graubard 1998.

    Example:
        >>> from skillneurons.utilities.row_groups import groups_of
        >>> hits = torch.tensor([True, True, True, True, False, False])
        >>> proportion(hits).low
        0.222...
        >>> result = proportion(hits, groups_of(["a", "a", "b", "b", "c", "c"]))
        >>> round(result.low, 3), result.n_groups, round(result.design_effect, 1)
        (0.0, 3, 3.0)
    """
    if groups is None:
        return Proportion(*clopper_pearson(round(hits.double().sum().item()), len(hits), level))
    effect = proportion_effects(hits, groups)
    low, high = effective_intervals(
        hits.double().mean(), effective_rows(effect, groups.n_rows, groups.n_effective, level), level
    )
    return Proportion(low.item(), high.item(), groups.n_groups, effect.item())


def effective_intervals(
    share: Float[Tensor, "*axes"], n: Float[Tensor, "*axes"], level: float = 0.95
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """Clopper-Pearson intervals of shares of `n` rows each, which need not be whole numbers; see `effective_rows`.

    Example:
        >>> [round(end.item(), 3) for end in effective_intervals(torch.tensor(0.5), torch.tensor(10.0))]
        [0.187, 0.813]
    """
    tail, rows = (1 - level) / 2, n.double().numpy()
    k = share.double().numpy() * rows
    # At the ends, and with no rows at all, scipy's beta has a zero parameter, where the bound is known.
    tiny = np.finfo(float).tiny
    low = np.where(k <= 0, 0.0, stats.beta.ppf(tail, np.maximum(k, tiny), rows - k + 1))
    high = np.where(k >= rows, 1.0, stats.beta.ppf(1 - tail, k + 1, np.maximum(rows - k, tiny)))
    return torch.as_tensor(low), torch.as_tensor(high)


def mean_variance(values: Float[Tensor, " batch"], groups: RowGroups | None = None) -> tuple[float, float]:
    """Variance of the mean over rows, and the degrees of freedom of that estimate.

    Args:
        values: One for each row.
        groups: Which rows belong together; none: all are independent.

    Returns:
        With groups, not below what independent rows would have: pairs that cancel may do so by chance.

    Raises:
        ValueError: There are fewer than two rows, or all belong to one group.

    Example:
        >>> from skillneurons.utilities.row_groups import groups_of
        >>> mean_variance(torch.tensor([0.0, 0.0, 1.0, 1.0]), groups_of(["a", "a", "b", "b"]))
        (0.25, 1.0)
    """
    n = len(values)
    if n < 2 or (groups is not None and groups.n_effective < ONE_GROUP):
        raise ValueError(
            f"A variance needs two rows or more, of more than one group, but there are {n} of "
            f"{n if groups is None else groups.n_groups}. Pass more rows."
        )
    alone = values.var().item() / n
    if groups is None:
        return alone, float(n - 1)
    check_rows(groups, n)
    wide, free = values.double(), groups.n_effective - 1
    together = groups.variance(wide - wide.mean()).item() / n**2 * (free + 1) / free
    return max(together, alone), free


def mean_interval(
    values: Float[Tensor, " batch"], groups: RowGroups | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over rows with Student's interval, which pays for rows that belong together.

    Returns:
        Mean, lower end, upper end.

    Example:
        >>> from skillneurons.utilities.row_groups import groups_of
        >>> values = torch.tensor([0.0, 0.1, 1.0, 0.9])
        >>> [round(x, 2) for x in mean_interval(values)]
        [0.5, -0.33, 1.33]
        >>> [round(x, 2) for x in mean_interval(values, groups_of(["a", "a", "b", "b"]))]
        [0.5, -5.22, 6.22]
    """
    variance, free = mean_variance(values, groups)
    mean, half = values.double().mean().item(), float(stats.t.ppf((1 + level) / 2, free)) * variance**0.5
    return mean, mean - half, mean + half


def paired_difference(
    one: Float[Tensor, " batch"], other: Float[Tensor, " batch"], groups: RowGroups | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Difference of two shares of the same rows, with an interval that gains from what the two have in common.

    Student's interval after one more row for each and one more against, half a row in each of four cells: without
    them a difference that no row shows would have no width. Source: Agresti and Min 2005.

    Args:
        one: For each row a hit, a miss, or a share between.
        other: The same rows.
        groups: Which of them belong together.
        level: Of the interval.

    Returns:
        Difference, lower end, upper end.

    Raises:
        ValueError: There are fewer than two rows, or all belong to one group.

    Example:
        >>> one, other = torch.ones(100), torch.cat([torch.zeros(10), torch.ones(90)])
        >>> [round(x, 2) for x in paired_difference(one, other)]
        [0.1, 0.04, 0.16]
        >>> [round(x, 3) for x in paired_difference(one, one)]
        [0.0, -0.019, 0.019]
    """
    values, n = one.double() - other.double(), len(one)
    variance, free = mean_variance(values, groups)
    middle, wide = values.sum().item() / (n + 2), (variance * n**2 + 1) ** 0.5 / (n + 2)
    half = float(stats.t.ppf((1 + level) / 2, free)) * wide
    return values.mean().item(), middle - half, middle + half


def interval_p(interval: tuple[float, float, float], freedom: int | float = math.inf, level: float = 0.95) -> float:
    """The two-sided p-value of "the effect is 0" that an effect's interval amounts to.

    Student's t, with the spread that the end towards 0 tells: 1 - `level` where that end is 0.

    Args:
        interval: Effect, lower end, upper end.
        freedom: Degrees of freedom, or a lower bound of them: with fewer, p-values below 1 - `level` only grow. Without
            end the normal distribution.
        level: Of the interval.

    Returns:
        1 for an interval without width, or with an end that is not a number, and without freedom: it
            tells nothing.

    Example:
        >>> round(interval_p((1.0, 0.0, 3.0)), 3), interval_p((1.0, 0.5, 3.0)) < 0.001
        (0.05, True)
        >>> interval_p((1.0, 0.5, 3.0), freedom=9) > 0.001
        True
    """
    effect, low, high = interval
    distance = effect - low if effect > 0 else high - effect
    if not distance > 0 or freedom <= 0:
        return 1.0
    return float(2 * stats.t.sf(abs(effect) / distance * stats.t.ppf((1 + level) / 2, freedom), freedom))


def proportion_effects(
    hits: Bool[Tensor, " batch *axes"] | Float[Tensor, " batch *axes"], groups: RowGroups
) -> Float[Tensor, "*axes"]:
    """Design effects of proportions: how many times their variance is that of as many independent rows.

    Returns:
        At least 1. Where all rows are hits, or none, nothing shows how they vary, and rows of a group are taken
        to agree always.
    """
    check_rows(groups, len(hits))
    share = hits.double().mean(0)
    alone = groups.n_rows * share * (1 - share)
    free = groups.n_effective
    together = groups.variance(hits.double() - share) * free / max(free - 1, 1e-9)
    most = torch.full_like(alone, groups.n_rows / free)
    return torch.where(alone > 0, together / alone.clamp_min(1e-9), most).clamp_min(1.0)


def effective_rows(
    effect: Float[Tensor, "*axes"], n: int, n_effective: float, level: float = 0.95
) -> Float[Tensor, "*axes"]:
    """Of how many independent rows an exact interval is as wide as that of `n` rows that belong together.

    `n / effect` times the squared ratio of Student's quantiles: few groups tell little of the effect itself. Source:
    Korn and Graubard 1998, with the effective number of groups for that of groups.

    Example:
        >>> effective_rows(torch.tensor(2.0), 100, 50.0).item()
        48.7...
    """
    if n_effective < ONE_GROUP:
        return torch.zeros_like(effect)
    with_rows, with_groups = (float(stats.t.ppf((1 + level) / 2, free)) for free in (n - 1, n_effective - 1))
    return n / effect * min(1.0, (with_rows / with_groups) ** 2)
