"""How far chosen neurons are from random sets, with intervals that pay for rows and for the luck of one set."""

import math
from contextlib import suppress

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.p_values import adjusted
from skillneurons.utilities.intervals import interval_p, mean_variance
from skillneurons.utilities.row_groups import RowGroups, row_weights


def spread(chosen: NeuronSet, exclude: NeuronSet | None = None) -> float:
    """How many times more a random set varies, around the mean of draws disjoint from it, than those draws vary.

    Draws from what a set leaves share a smaller pool, and are more alike than sets drawn from all neurons: with effects
    that add up over neurons, k of a layer chosen and m free to draw from, the variances have the ratio
    `(m + k) / (m - k)`: 1.04 for 2 % of a layer, 2.5 for 30 %.

    Args:
        chosen: The set that the draws are disjoint from.
        exclude: Further neurons that are not drawn.

    Raises:
        ValueError: As many neurons are free as are drawn, so that all draws are the same.

    Example:
        >>> spread(NeuronSet.from_pairs([(0, 0), (0, 1)], n_layers=1, d_mlp=10))
        1.66...
    """
    taken = chosen if exclude is None else chosen | exclude
    k, m = chosen.per_layer.double(), chosen.exists.sum(dim=1).double() - taken.per_layer
    ours, draws = (k * (m + k) / m).nansum().item(), (k * (m - k) / m).nansum().item()
    if draws <= 0:
        raise ValueError("Random sets need more free neurons than they take. Perturb less than half of a layer.")
    return ours / draws


def paired_gap(
    one: Float[Tensor, " batch"],
    many: Float[Tensor, "draw batch"],
    spread: float = 1.0,
    level: float = 0.95,
    groups: RowGroups | None = None,
) -> tuple[float, float, float]:
    """Mean of `one` minus mean of `many`, with an interval that pays for rows and for the luck of one random set.

    The interval excludes 0 where the chosen neurons do what a random set in their place would seldom do: with more
    rows it does not shrink below what random sets differ by. `d_i = one_i - mean_r many_ri` has the variance
    `Var_i(d_i) / n + Var_r(mean_i many_ri) (spread + 1 / R)`, and the interval is Student's t with Welch and
    Satterthwaite's degrees of freedom. It is a normal approximation: with accuracies, expect it to be rough where fewer
    than about ten rows change; where none does, it has no width and says nothing about changes rarer than three in n
    rows.

    Args:
        one: Value of each row under the intervention that is studied: right or not, or a margin.
        many: The same for each random draw.
        spread: Of the chosen set, see `spread`; 1 for draws from all neurons.
        level: Of the interval.
        groups: Which rows belong together; the first variance is then that of a mean over them (`mean_variance`).

    Returns:
        Gap, lower end, upper end.

    Raises:
        ValueError: There are fewer than two rows or draws, or all rows are of one group.

    Example:
        >>> import torch
        >>> paired_gap(torch.tensor([0.0, 1.0, 0.0]), torch.ones(5, 3))[0]
        -0.66...
    """
    wide = many.double()
    n, n_draws = len(one), len(wide)
    if min(n, n_draws) < 2:
        raise ValueError(f"An interval needs two rows and two draws or more, but there are {n} and {n_draws}.")
    difference = one.double() - wide.mean(dim=0)
    rows, free = mean_variance(difference, groups)
    draws = wide.mean(dim=1).var().item() * (spread + 1 / n_draws)
    gap, total = difference.mean().item(), rows + draws
    if not total:
        return gap, gap, gap
    freedom = total**2 / (rows**2 / free + draws**2 / (n_draws - 1))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * total**0.5
    return gap, gap - half, gap + half


def gap_if_told(
    values: Float[Tensor, "set batch"], chosen: NeuronSet | None = None, groups: RowGroups | None = None
) -> tuple[float, float, float]:
    """`paired_gap` of the first set and the others; not a number where rows, groups or draws are too few to tell.

    Args:
        values: Of each row, under the chosen set first.
        chosen: That set, where the others are disjoint from it; None where they are drawn from all neurons.
        groups: Which rows belong together.

    Example:
        >>> import torch
        >>> gap_if_told(torch.tensor([[0.0, 1.0]]))
        (nan, nan, nan)
    """
    gap = math.nan, math.nan, math.nan
    with suppress(ValueError):
        gap = paired_gap(values[0], values[1:], 1.0 if chosen is None else spread(chosen), groups=groups)
    return gap


def gap_p(gap: tuple[float, float, float], n_draws: int) -> float:
    """The two-sided p-value that goes with a gap and its 95 % interval, from `paired_gap`.

    With the fewest degrees of freedom that the interval can have, `n_draws - 1`.

    Example:
        >>> round(gap_p((-1.0, -2.0, 0.0), 10), 3), gap_p((-2.0, -3.0, -1.0), 10) < 0.01
        (0.05, True)
    """
    return interval_p(gap, n_draws - 1)


def beside_random(gaps: Float[Tensor, "cell 3"], n_draws: int, alpha: float = 0.05) -> list[str]:
    """Whether each cell of a family lies `"below"` or `"above"` what random sets do, or `"neither"`.

    Both pay for the number of random sets (`gap_p`) and of cells (Holm 1979): with probability `alpha` at most, one of
    all cells is called either where nothing differs. `"untested"` where a gap is not a number.

    Example:
        >>> import torch
        >>> beside_random(torch.tensor([[-1.0, -1.2, -0.8], [0.1, -0.1, 0.3], [torch.nan] * 3]), 10)
        ['below', 'neither', 'untested']
    """
    tested = ~gaps.isnan().any(1)
    said = ["untested"] * len(gaps)
    if not bool(tested.any()):
        return said
    p_values = torch.tensor([[gap_p(tuple(gap), n_draws) for gap in gaps[tested].tolist()]], dtype=torch.float64)
    p = adjusted(p_values)[0].tolist()
    for cell, value in zip(tested.nonzero()[:, 0].tolist(), p, strict=True):
        said[cell] = "neither" if value >= alpha else "below" if gaps[cell, 0] < 0 else "above"
    return said


def half_width(means: Float[Tensor, " draw"], level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean over random draws; infinite for a single draw.

    Example:
        >>> import torch
        >>> half_width(torch.tensor([0.5, 0.5, 0.5]))
        0.0
    """
    n = len(means)
    if n < 2:
        return float("inf")
    return float(stats.t.ppf((1 + level) / 2, n - 1)) * means.double().std().item() / n**0.5


def resampled_rows(
    by_row: Float[Tensor, "score row"], n: int, seed: int, groups: RowGroups | None = None
) -> Float[Tensor, "score resample"]:
    """Means over `n` bootstrap samples of the rows, or of whole groups of them, the same for all scores.

    TransformerLens's `bootstrap_ci` keeps the ends of intervals only; what is made of them here needs each resample.
    """
    if groups is not None:
        weights = row_weights(by_row.shape[1], n, seed, groups).double()
        return by_row.double() @ weights.T / weights.sum(1)
    generator, n_rows = derive_generator(seed, "rows"), by_row.shape[1]
    return torch.stack([by_row[:, torch.randint(n_rows, (n_rows,), generator=generator)].mean(1) for _ in range(n)], 1)


def resampled_luck(random_by_draw: Float[Tensor, " draw"], n: int, seed: int) -> Float[Tensor, " resample"]:
    """How far one more random choice lies from the mean of these, `n` times.

    A normal prediction: t-distributed with R - 1 degrees of freedom, `sqrt(1 + 1 / R)` times their standard deviation
    wide. The `n` evenly spaced quantiles, in random order.
    """
    n_random = len(random_by_draw)
    order = torch.randperm(n, generator=derive_generator(seed, "luck"))
    quantiles = torch.from_numpy(stats.t.ppf((order.double() + 0.5) / n, n_random - 1))
    return quantiles * random_by_draw.std() * (1 + 1 / n_random) ** 0.5
