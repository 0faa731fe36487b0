"""What chance alone would give: p-values, corrections for many neurons, and intervals. Tensors only.

Everything here needs counts, not activations. It costs two hypergeometric tails (scipy) for each distinct pair of
counts: on 872 rows a second or two for 36,864 neurons at 16 positions under 5 prompts. With ten times the rows hardly a
pair occurs twice, and each prompt takes some 20 seconds. Permutation tests, which need each row's decision, are in
`decisions`.
"""

from typing import Literal, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from scipy.stats import beta, false_discovery_control, hypergeom
from torch import Tensor

from skillneurons.neurons._predictivity import accuracy_from_counts, best_position
from skillneurons.utilities.intervals import effective_intervals, effective_rows

OverSeeds: TypeAlias = Literal["normal", "geometric", "bonferroni", "all"]
OverPositions: TypeAlias = Literal["bonferroni", "sidak"]
Correction: TypeAlias = Literal["fwer", "fdr", "fdr_any"]


def association_p_values(
    above: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"]
) -> Float[Tensor, "prompt layer neuron"]:
    """For each position and neuron, how surprising its decisions' association with the labels is.

    With N examples, n_1 of class 1, and K of them above the baseline, the number X above in class 1 is hypergeometric
    when decisions have nothing to do with labels. `p = min(1, 2 min(P(X <= x), P(X >= x)))`: the factor 2 pays for the
    free direction. This is the permutation test of the labels, carried out exactly; where the classes are equally
    frequent it is also that of `max(Acc, 1 - Acc)`.

    Args:
        above: Examples of class 0 and of class 1 above the baseline.
        n: Examples of each class.

    Returns:
        In [0, 1]; 1 for a neuron that is always on one side, whatever the majority's share.

    Raises:
        ValueError: A class has no examples, or more are above than there are.

    Example:
        >>> association_p_values(torch.tensor([0, 5]).reshape(2, 1, 1, 1), torch.tensor([5, 5])).item()
        0.0079...
    """
    lower, upper = _tails(above, n)
    return (2 * torch.minimum(lower, upper)).clamp_max(1.0)


def _tails(above: Int[Tensor, " label *axes"], n: Int[Tensor, " label"]) -> tuple[Tensor, Tensor]:
    """`P(X <= x)` and `P(X >= x)` of the number above in class 1, given the margins."""
    if len(n) != 2 or len(above) != 2 or int(n.min()) <= 0:
        raise ValueError(f"Counts of two classes with examples in both are needed, but the classes hold {n.tolist()}.")
    most = above.flatten(1).amax(1)
    if bool((most > n).any()) or int(above.min()) < 0:
        raise ValueError(
            f"`above` counts up to {most.tolist()} examples of the classes (and at least {int(above.min())}), but `n` "
            f"says they hold {n.tolist()}. Pass the counts of one split."
        )
    total, n_1 = int(n.sum()), int(n[1])
    # Few pairs (K, X) are distinct, so each tail is computed once.
    code = (above.sum(0) * (n_1 + 1) + above[1]).numpy()
    distinct, where = np.unique(code, return_inverse=True)
    drawn, x = np.divmod(distinct, n_1 + 1)
    lower = np.clip(hypergeom.cdf(x, total, drawn, n_1), 0.0, 1.0)
    upper = np.clip(hypergeom.sf(x - 1, total, drawn, n_1), 0.0, 1.0)
    shape = above.shape[1:]
    return torch.from_numpy(lower[where]).reshape(shape), torch.from_numpy(upper[where]).reshape(shape)


def association_z(above: Int[Tensor, " label *axes"], n: Int[Tensor, " label"]) -> Float[Tensor, "*axes"]:
    """How many standard deviations the number above in class 1 is from its mean under permutations of the labels.

    Example:
        >>> association_z(torch.tensor([0, 5]).reshape(2, 1, 1, 1), torch.tensor([5, 5])).item()
        3.0
    """
    total, drawn = n.sum().double(), above.sum(0).double()
    variance = n.double().prod() * drawn * (total - drawn) / (total**2 * (total - 1))
    return torch.where(variance > 0, (above[1] - n[1] * drawn / total) / variance.clamp_min(1e-12).sqrt(), 0.0)


def strongest_position(
    above: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"]
) -> tuple[Int[Tensor, "layer neuron"], Bool[Tensor, "layer neuron"]]:
    """Where each neuron's decisions are most associated with the labels, and whether "above" means label 1 there.

    Example:
        >>> above = torch.tensor([[0, 3], [5, 3]]).reshape(2, 2, 1, 1)
        >>> [one.item() for one in strongest_position(above, torch.tensor([5, 5]))]
        [0, True]
    """
    z = association_z(above, n)
    position = z.abs().argmax(dim=0)
    return position, _at(position, z) > 0


def grouped_p_values(
    above: Int[Tensor, "label layer neuron"],
    n: Int[Tensor, " label"],
    design_effect: Float[Tensor, "layer neuron"],
    upward: Bool[Tensor, "layer neuron"] | None = None,
) -> Float[Tensor, "layer neuron"]:
    """p-values of neurons at one position each, of rows that belong together.

    `z / sqrt(design_effect)` is a sum over groups divided by the root of its sum of squares, which is no larger than a
    normal deviate where group sums are as often above as below 0 (Efron 1969). The p-value is its normal tail, or the
    exact one of independent rows if that is larger.

    Args:
        above: At each neuron's position.
        n: Examples of each class.
        design_effect: See `design_effects.association_effects`.
        upward: For one tail: the direction chosen on other rows. Without it both tails count.
    """
    lower, upper = _tails(above, n)
    z = association_z(above, n) / design_effect.sqrt()
    if upward is None:
        exact, normal = 2 * torch.minimum(lower, upper), 2 * _normal_tail(z.abs())
    else:
        exact, normal = torch.where(upward, upper, lower), _normal_tail(torch.where(upward, z, -z))
    return torch.maximum(exact, normal).clamp_max(1.0)


def neuron_p_values(
    above: Int[Tensor, "seed label prompt layer neuron"],
    n: Int[Tensor, " label"],
    *,
    over_positions: OverPositions = "bonferroni",
    over_seeds: OverSeeds = "normal",
    design_effect: Float[Tensor, "seed layer neuron"] | None = None,
) -> Float[Tensor, "layer neuron"]:
    """A p-value for each neuron, which has paid for its best position, its free direction and its several prompts.

    The hypothesis is that the neuron's decisions at every position, under every prompt, are independent of the labels.
    Valid on rows that the prompts were not tuned on.

    Args:
        above: Counts on the rows that choose; `NeuronScores.above`.
        n: Examples of each class.
        over_positions: `"bonferroni"`: P times the smallest of the P positions' p-values, valid whatever the positions
            share. `"sidak"`: `1 - (1 - min p)^P`, a little smaller; holds for jointly normal counts (Sidak 1967).
        over_seeds: See `combine_seeds`.
        design_effect: Of rows that belong together, at the position of `strongest_position`; see `grouped_p_values`.

    Returns:
        In [0, 1].

    Example:
        >>> above = torch.tensor([[0, 3], [5, 3]]).reshape(1, 2, 2, 1, 1)
        >>> neuron_p_values(above, torch.tensor([5, 5])).item()
        0.0158...
    """
    n_positions = above.shape[2]
    if design_effect is None:
        smallest = torch.stack([association_p_values(one, n).amin(dim=0) for one in above])
    else:
        smallest = torch.stack(
            [
                grouped_p_values(_counts_at(strongest_position(one, n)[0], one), n, effect)
                for one, effect in zip(above, design_effect, strict=True)
            ]
        )
    if over_positions == "bonferroni":
        by_seed = (smallest * n_positions).clamp_max(1.0)
    elif over_positions == "sidak":
        by_seed = -torch.expm1(n_positions * torch.log1p(-smallest))
    else:
        raise ValueError(f"`over_positions` is 'bonferroni' or 'sidak', not {over_positions!r}.")
    return combine_seeds(by_seed, over_seeds)


def held_out_p_values(
    above: Int[Tensor, "seed label prompt layer neuron"],
    n: Int[Tensor, " label"],
    above_test: Int[Tensor, "seed label prompt layer neuron"],
    n_test: Int[Tensor, " label"],
    *,
    over_seeds: OverSeeds = "normal",
    design_effect: Float[Tensor, "seed layer neuron"] | None = None,
) -> Float[Tensor, "layer neuron"]:
    """A p-value for each neuron on untouched rows, at the position and in the direction chosen on other rows.

    One tail at one position, so nothing is paid for positions or direction. They are those of the smallest p-value on
    the other rows; the most accurate, as in `held_out_hits`, would often be "always the larger class" where classes are
    unequal.

    Args:
        above: Counts on the rows that choose.
        n: Their examples of each class.
        above_test: Counts on the rows that report.
        n_test: Their examples of each class.
        over_seeds: See `combine_seeds`.
        design_effect: On the rows that report, where they belong together; see `grouped_p_values`.

    Example:
        >>> import torch
        >>> from skillneurons.neurons.p_values import held_out_p_values
        >>> n = torch.tensor([5, 5])
        >>> above = torch.tensor([[0, 3], [5, 3]]).reshape(1, 2, 2, 1, 1)
        >>> above_test = torch.tensor([[1, 0], [4, 5]]).reshape(1, 2, 2, 1, 1)
        >>> held_out_p_values(above, n, above_test, n).item()  # at the first position
        0.103...
    """
    by_seed = []
    for seed, (chosen_on, reported_on) in enumerate(zip(above, above_test, strict=True)):
        if design_effect is not None:
            position, upward = strongest_position(chosen_on, n)
            by_seed.append(grouped_p_values(_counts_at(position, reported_on), n_test, design_effect[seed], upward))
            continue
        lower, upper = _tails(chosen_on, n)
        position = torch.minimum(lower, upper).argmin(dim=0)
        upward = _at(position, upper < lower)
        lower, upper = (_at(position, tail) for tail in _tails(reported_on, n_test))
        by_seed.append(torch.where(upward, upper, lower))
    return combine_seeds(torch.stack(by_seed), over_seeds)


def _at(position: Int[Tensor, "layer neuron"], values: Tensor) -> Tensor:
    """The values at each neuron's own position; `values` is `[prompt layer neuron]`."""
    return values.gather(0, rearrange(position, "layer neuron -> 1 layer neuron"))[0]


def _normal_tail(z: Tensor) -> Tensor:
    """`P(Z > z)`; exact far out too, where torch's `ndtr` is 0."""
    return torch.special.erfc(z / 2**0.5) / 2


def _counts_at(position: Int[Tensor, "layer neuron"], above: Tensor) -> Int[Tensor, "label layer neuron"]:
    """The counts of both classes at each neuron's own position; `above` is `[label prompt layer neuron]`."""
    return torch.stack([_at(position, of_label) for of_label in above])


def combine_seeds(p: Float[Tensor, "seed layer neuron"], method: OverSeeds = "normal") -> Tensor:
    """One p-value for each neuron from those of several prompts, which share their rows and so are not independent.

    Args:
        p: For each seed.
        method: `"normal"`: the tail of the seeds' mean normal deviate, where p-values above one half count as one half.
            The mean varies most where all seeds say the same, and then it is theirs: valid whatever the correlation of
            jointly normal evidence, which counts over the same permuted rows are in the limit; several alike seeds find
            what one of them does. `"geometric"`: e times the geometric mean, valid under any dependence (Vovk and
            Wang 2020, section 3), at a third of its level where seeds agree. `"bonferroni"`: S times the smallest.
            `"all"`: the largest: small only if the neuron is significant under each prompt by itself, the strictest.

    Returns:
        In [0, 1]. With one seed, `p` itself.

    Example:
        >>> combine_seeds(torch.tensor([0.01, 0.04]).reshape(2, 1, 1), "all").item()
        0.03...
    """
    if method not in ("normal", "geometric", "bonferroni", "all"):
        raise ValueError(f"`over_seeds` is 'normal', 'geometric', 'bonferroni' or 'all', not {method!r}.")
    if len(p) == 1:
        return p[0]
    if method == "all":
        return p.amax(0)
    if method == "bonferroni":
        return (len(p) * p.amin(0)).clamp_max(1.0)
    tiny = torch.finfo(torch.float64).tiny
    if method == "normal":
        mean = -torch.special.ndtri(p.double().clamp(tiny, 0.5)).mean(0)
        return torch.where(mean > 0, _normal_tail(mean), 1.0)
    return (1 + p.double().clamp_min(tiny).log().mean(0)).exp().clamp_max(1.0)


def adjusted(p: Float[Tensor, "layer neuron"], method: Correction = "fwer") -> Float[Tensor, "layer neuron"]:
    """p-values adjusted for having looked at every neuron: compare them with the error rate that is wanted.

    Args:
        p: One for each neuron.
        method: `"fwer"`: the chance of a single false claim (Holm 1979, under any dependence). `"fdr"`: the expected
            share of false claims among the claims (Benjamini and Hochberg 1995; independent or positively dependent
            neurons). `"fdr_any"`: the same under any dependence (Benjamini and Yekutieli 2001), about eleven
            times stricter at 36,864 neurons.

    Example:
        >>> [round(p, 3) for p in adjusted(torch.tensor([[0.01, 0.04, 0.5]]))[0].tolist()]
        [0.03, 0.08, 0.5]
    """
    flat = p.double().flatten()
    if bool(flat.isnan().any()) or not 0 <= float(flat.min()) <= float(flat.max()) <= 1:
        raise ValueError(f"`p` needs p-values from 0 to 1, but runs from {float(flat.min())} to {float(flat.max())}.")
    if method == "fwer":
        order = flat.argsort()
        steps = (flat[order] * torch.arange(len(flat), 0, -1)).cummax(0).values.clamp_max(1.0)
        result = torch.empty_like(flat).scatter(0, order, steps)
    elif method in ("fdr", "fdr_any"):
        kind = "bh" if method == "fdr" else "by"
        result = torch.from_numpy(np.asarray(false_discovery_control(flat.numpy(), method=kind)))
    else:
        raise ValueError(f"`method` is 'fwer', 'fdr' or 'fdr_any', not {method!r}.")
    return result.reshape(p.shape)


def check_alpha(alpha: float) -> None:
    """Raise unless `alpha` can be an error rate."""
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` is an error rate between 0 and 1, for example 0.05, not {alpha}.")


def held_out_hits(
    above: Int[Tensor, "seed label prompt layer neuron"],
    n: Int[Tensor, " label"],
    above_test: Int[Tensor, "seed label prompt layer neuron"],
    n_test: Int[Tensor, " label"],
) -> Int[Tensor, "seed layer neuron"]:
    """Test rows that each neuron decides rightly, at the position and in the direction chosen on validation."""
    by_seed = []
    for chosen_on, reported_on in zip(above, above_test, strict=True):
        position, upward = best_position(accuracy_from_counts(chosen_on, n))
        hits = _at(position, n_test[0] - reported_on[0] + reported_on[1])
        by_seed.append(torch.where(upward, hits, int(n_test.sum()) - hits))
    return torch.stack(by_seed)


def binomial_intervals(
    hits: Int[Tensor, "*axes"], n: int, level: float = 0.95
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """Clopper-Pearson intervals of proportions: they cover the truth at least as often as `level` says.

    Source: Clopper and Pearson 1934, by quantiles of the beta distribution (scipy). TransformerLens's
    `success_rate_ci` is the same for one proportion, in a loop; here every neuron has one.

    Args:
        hits: From 0 to `n`.
        n: Rows.
        level: Of each interval by itself.

    Returns:
        Lower and upper ends.

    Example:
        >>> low, high = binomial_intervals(torch.tensor([5]), 10)
        >>> low.item(), high.item()
        (0.187..., 0.812...)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` lies between 0 and 1, for example 0.95, not {level}.")
    if int(hits.min()) < 0 or int(hits.max()) > n:
        raise ValueError(f"`hits` must run from 0 to `n` ({n}), but run from {int(hits.min())} to {int(hits.max())}.")
    tail, k = (1 - level) / 2, np.arange(n + 1)
    # At the ends scipy's beta has a zero parameter, where the bound is known.
    low = np.where(k == 0, 0.0, beta.ppf(tail, np.maximum(k, 1), n - k + 1))
    high = np.where(k == n, 1.0, beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1)))
    return torch.from_numpy(low)[hits], torch.from_numpy(high)[hits]


def held_out_intervals(
    hits: Int[Tensor, "seed layer neuron"],
    n: int,
    level: float = 0.95,
    *,
    design_effect: Float[Tensor, "seed layer neuron"] | None = None,
    n_effective: float | None = None,
) -> tuple[Float[Tensor, "layer neuron"], Float[Tensor, "layer neuron"]]:
    """Intervals of each neuron's held-out accuracy, averaged over seeds.

    The seeds' accuracies come from the same rows. So each seed gets an interval of level `1 - (1 - level) / S`; all S
    cover at once with probability `level`, and then so do the averages of their ends. Conservative.

    Args:
        hits: From `held_out_hits`.
        n: Test rows.
        level: Of each neuron's interval by itself. For k neurons at once, pass `1 - (1 - level) / k`.
        design_effect: Of the accuracies, where rows belong together; see `intervals.proportion_effects`.
        n_effective: Groups in effect, with `design_effect`; see `RowGroups`.

    Example:
        >>> import torch
        >>> from skillneurons.neurons.p_values import held_out_intervals
        >>> hits = torch.tensor([8, 9]).reshape(2, 1, 1)
        >>> [end.item() for end in held_out_intervals(hits, 10)]
        [0.455..., 0.990...]
    """
    each = 1 - (1 - level) / len(hits)
    if design_effect is None or n_effective is None:
        low, high = binomial_intervals(hits, n, each)
    else:
        low, high = effective_intervals(hits / n, effective_rows(design_effect, n, n_effective, each), each)
    return low.mean(0), high.mean(0)
