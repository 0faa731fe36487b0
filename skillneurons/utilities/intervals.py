"""Intervals of means and proportions over rows, which pay for rows that belong together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from skillneurons.utilities.row_groups import RowGroups, check_rows

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


def proportion(hits: Bool[Tensor, " batch"], groups: RowGroups | None = None, level: float = 0.95) -> Proportion:
    """Exact interval of the share of hits; with groups, that of as many independent rows as these are worth.

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
        return Proportion(*clopper_pearson(int(hits.sum()), len(hits), level))
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


def proportion_effects(hits: Bool[Tensor, " batch *axes"], groups: RowGroups) -> Float[Tensor, "*axes"]:
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
