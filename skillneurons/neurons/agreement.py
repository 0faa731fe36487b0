"""How far two rankings or two sets of neurons agree, against chance."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.utilities.types import Json

ALMOST = 1 - 1e-12
"""The largest correlation that Fisher's transform is taken of."""


def spearman(a: Float[Tensor, " item"], b: Float[Tensor, " item"]) -> float:
    """Rank correlation (scipy); NaN where one side is constant.

    Example:
        >>> import torch
        >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0]))
        1.0
    """
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return float("nan")
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)  # type: ignore[attr-defined]


def overlap_test(a: NeuronSet, b: NeuronSet) -> dict[str, Json]:
    """Neurons that two sets share, against chance.

    Under the null, each set is a random choice with the same number of neurons in each layer, independent of the other:
    the shared number is then a sum of one hypergeometric count for each layer, whose distribution is computed exactly.

    Returns:
        `n_shared`, `overlap` (share of the smaller set), `expected` (the overlap of random sets), and `p`, the chance
        that random sets share as many or more.

    Example:
        >>> one = NeuronSet.from_pairs([(0, 0), (0, 1)], n_layers=1, d_mlp=4)
        >>> overlap_test(one, one)["p"]
        0.166...
    """
    n_shared, smaller = len(a & b), min(len(a), len(b))
    if not smaller:
        raise ValueError(f"Both sets need neurons, but they have {len(a)} and {len(b)}. Choose a larger `fraction`.")
    distribution = np.ones(1)
    for width, k, m in zip(a.d_mlps, a.per_layer.tolist(), b.per_layer.tolist(), strict=True):
        distribution = np.convolve(distribution, stats.hypergeom.pmf(np.arange(min(k, m) + 1), width, k, m))
    expected = float((np.arange(len(distribution)) * distribution).sum())
    return {
        "n_shared": n_shared,
        "overlap": n_shared / smaller,
        "expected": expected / smaller,
        "p": float(min(1.0, distribution[n_shared:].sum())),
    }


def rank_correlations(a: Float[Tensor, "draw item"], b: Float[Tensor, "draw item"]) -> Float[Tensor, " draw"]:
    """`spearman` of each row of one with the same row of the other.

    Example:
        >>> import torch
        >>> rank_correlations(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 9.0, 4.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    ranks = [torch.from_numpy(stats.rankdata(one.double().numpy(), axis=1)) for one in (a, b)]
    first, second = (one - one.mean(1, keepdim=True) for one in ranks)
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def correlation_interval(
    correlation: float, resampled: Float[Tensor, " draw"], level: float = 0.95
) -> tuple[float, float]:
    """Interval of a rank correlation, from correlations on resampled rows, whose spread is taken as they are scattered.

    Around the correlation itself, on Fisher's scale: resampled rows repeat each other, so that the correlations on them
    lie lower. It says where the correlation on as many other rows would lie.

    Example:
        >>> import torch
        >>> correlation_interval(0.5, torch.tensor([0.3, 0.4, 0.5]))
        (0.304..., 0.655...)
    """
    middle = np.arctanh(np.clip(correlation, -ALMOST, ALMOST))
    spread = resampled.double().clamp(-ALMOST, ALMOST).arctanh().std()
    half = stats.norm.ppf((1 + level) / 2) * spread.item()
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def share_interval(share: float, resampled: Float[Tensor, " draw"], level: float = 0.95) -> tuple[float, float]:
    """Interval of an overlap, from overlaps on resampled rows, likewise; within 0 and 1."""
    half = float(stats.norm.ppf((1 + level) / 2)) * resampled.double().std().item()
    return max(0.0, share - half), min(1.0, share + half)
