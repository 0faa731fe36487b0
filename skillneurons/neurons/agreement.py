"""How far two rankings or two sets of neurons agree, against chance."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from skillneurons.neurons.neuron_set import NeuronSet


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


def overlap_test(a: NeuronSet, b: NeuronSet) -> dict[str, Any]:
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
