"""Rival measures of how well an activation tells two classes apart, from the activations themselves.

Each takes activations `[batch …]` and labels and gives one number for each position and neuron, larger for better,
whichever direction the activation takes. They need the order of the examples, so they cannot be streamed. Time: one
sort of the examples for each position and neuron. Memory beside the activations: up to 100 bytes for each value that is
worked on at once, which are a million, or one unit's where it has more examples.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Activations: TypeAlias = Float[Tensor, " batch *unit"]
Labels: TypeAlias = Int[Tensor, " batch"]
PerUnit: TypeAlias = Float[Tensor, "*unit"]

VALUES_PER_BLOCK = 2**20


def by_units(measure: Callable[[Tensor, Tensor], Tensor], activations: Activations, labels: Labels) -> PerUnit:
    """`measure(values, label)` for blocks of units: `values` is `[unit batch]`, sorted; `label` in the same order.

    Returns:
        In float32 at least.

    Raises:
        ValueError: Labels are not 0 and 1, both present, one for each example; or an activation is NaN.
    """
    if len(labels) != len(activations):
        raise ValueError(f"`activations` are of {len(activations)} examples, but there are {len(labels)} `labels`.")
    if not bool(((labels == 0) | (labels == 1)).all()) or len(labels.unique()) != 2:
        raise ValueError(
            f"`labels` must be 0 and 1, both present, but hold {sorted(set(labels.tolist()))[:5]}. "
            "Split a task of several classes with `task.subtasks()`."
        )
    flat, is_one = activations.reshape(len(labels), -1), labels.bool()
    parts = []
    for block in flat.split(max(1, VALUES_PER_BLOCK // len(labels)), dim=1):
        values, order = block.T.contiguous().sort(dim=1)
        if bool(values[:, -1].isnan().any()):  # sorted as the largest
            raise ValueError("`activations` hold NaN, which has no place in their order. Check the model's weights.")
        parts.append(measure(values, is_one[order]))
    dtype = torch.promote_types(activations.dtype, torch.float32)
    return torch.cat(parts).reshape(activations.shape[1:]).to(dtype)


def _ranks(values: Float[Tensor, "unit batch"], *, right: bool = False) -> Int[Tensor, "unit batch"]:
    """How many examples are below each one (`right`: below or equal); the same for ties."""
    return torch.searchsorted(values, values, right=right)


def balanced_accuracy(activations: Activations, labels: Labels) -> PerUnit:
    """Balanced accuracy of the best threshold: the mean of both classes' recalls, in [1/2, 1].

    Chosen and scored on the same examples, over as many thresholds as there are distinct values.

    Example:
        >>> balanced_accuracy(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([0, 0, 1])).item()
        0.75
    """

    def measure(values: Tensor, label: Tensor) -> Tensor:
        n_1 = label[0].sum()
        n_0 = len(label[0]) - n_1
        recall_0 = (~label).cumsum(1) / n_0.double()
        recall_1 = 1 - label.cumsum(1) / n_1.double()
        # A threshold lies between two different values.
        cut = values[:, :-1] < values[:, 1:]
        gain = torch.where(cut, (recall_0 + recall_1)[:, :-1] / 2 - 0.5, 0.0).abs()
        return 0.5 + gain.amax(1)

    return by_units(measure, activations, labels)


def auroc(activations: Activations, labels: Labels) -> PerUnit:
    """Chance that a random example of class 1 lies above one of class 0 (or below, if that is likelier), in [1/2, 1].

    Area under the receiver operating characteristic; the Mann-Whitney U over n_0 n_1. Ties count one half.

    Example:
        >>> auroc(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([0, 0, 1])).item()
        0.5
    """

    def measure(values: Tensor, label: Tensor) -> Tensor:
        n_1 = int(label[0].sum())
        mean_rank = (_ranks(values) + _ranks(values, right=True) + 1).double() / 2
        area = ((mean_rank * label).sum(1) - n_1 * (n_1 + 1) / 2) / (n_1 * (len(label[0]) - n_1))
        return torch.maximum(area, 1 - area)

    return by_units(measure, activations, labels)


def average_precision(activations: Activations, labels: Labels) -> PerUnit:
    """Mean precision at each example of class 1, from the top or from the bottom, whichever is better.

    `AP = sum_i (R_i - R_{i-1}) P_i` over distinct thresholds, as in scikit-learn. By chance about the share of class 1.

    Example:
        >>> average_precision(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([0, 0, 1])).item()
        0.5
    """

    def from_the_top(values: Tensor, label: Tensor) -> Tensor:
        below = _ranks(values)
        ones = torch.nn.functional.pad(label.cumsum(1), (1, 0))
        ones_at_or_above = ones[:, -1:] - ones.gather(1, below)
        precision = ones_at_or_above.double() / (values.shape[1] - below)
        return (precision * label).sum(1) / label.sum(1)

    def measure(values: Tensor, label: Tensor) -> Tensor:
        return torch.maximum(from_the_top(values, label), from_the_top(-values.flip(1), label.flip(1)))

    return by_units(measure, activations, labels)


def mutual_information(activations: Activations, labels: Labels, *, n_bins: int = 8) -> PerUnit:
    """Bits that a neuron's activation, in `n_bins` equally frequent bins, tells about the label.

    The plug-in estimate, which overstates by about `(n_bins - 1) / (2 N ln 2)` bits on N examples.

    Args:
        activations: Of any scale; ties share a bin.
        labels: 0 or 1.
        n_bins: Bins.

    Example:
        >>> mutual_information(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1]), n_bins=2).item()
        1.0
    """

    def measure(values: Tensor, label: Tensor) -> Tensor:
        bins = bins_of(values, n_bins)
        share_1 = label[0].double().mean()
        total = torch.zeros(len(values), dtype=torch.float64)
        for one in range(n_bins):
            inside = bins == one
            p_bin = inside.double().mean(1)
            for chosen, share in ((label, share_1), (~label, 1 - share_1)):
                joint = (inside & chosen).double().mean(1)
                total += torch.where(joint > 0, joint * (joint / (p_bin * share)).clamp_min(1e-300).log(), 0.0)
        return total / math.log(2)

    if n_bins < 2:
        raise ValueError(f"`n_bins` is {n_bins}; with fewer than 2 bins nothing can be told apart.")
    return by_units(measure, activations, labels)


def bins_of(values: Float[Tensor, "unit batch"], n_bins: int) -> Int[Tensor, "unit batch"]:
    """The equally frequent bin that each sorted value falls into."""
    return _ranks(values) * n_bins // values.shape[1]
