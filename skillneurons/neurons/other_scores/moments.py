"""Rival measures that are sums: one pass, any number of examples, memory of a few numbers for each neuron."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations.statistic import Summed, add_sum, check_activations, stack_layers, widened
from skillneurons.activations.sums import LabelSums
from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store


@dataclass(eq=False)
class LabelMoments(LabelSums):
    """Sums of the activations and of their squares over the examples of each class, in float64 throughout."""

    summed = ("totals", "n", "squares")

    n_labels: int = 2
    squares: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        wide = activations.double()
        super().update(layer, wide, batch, counts)
        if layer == len(self.squares):
            self.squares.append(torch.zeros_like(self.totals[layer]))
        for label, part in enumerate(wide.split(list(counts))):
            if len(part):
                self.squares[layer][label] += part.square().sum(0)

    @property
    def variance(self) -> Float[Tensor, "prompt layer neuron"]:
        """Over all examples."""
        square = stack_layers(self.squares, dim=2).sum(0) / self.n.sum()
        return (square - self.mean.square()).clamp_min(0.0)

    @property
    def label_variance(self) -> Float[Tensor, "label prompt layer neuron"]:
        """Within each class, over its n examples (not n - 1)."""
        square = stack_layers(self.squares, dim=2) / self.n[:, None, None, None]
        return (square - self.label_mean.square()).clamp_min(0.0)


def mean_difference(moments: LabelMoments) -> Float[Tensor, "prompt layer neuron"]:
    """Distance between the two classes' mean activations, in units of the activation.

    Source: the "probeless" ranking of Antverg and Belinkov 2022. It favours neurons of large scale.
    """
    mean = _of_two(moments).label_mean
    return (mean[1] - mean[0]).abs()


def point_biserial(moments: LabelMoments) -> Float[Tensor, "prompt layer neuron"]:
    """Absolute correlation between activation and label, in [0, 1]; 0 for a constant activation.

    `r = |m_1 - m_0| / s * sqrt(n_1 n_0) / N`, with s over all examples.
    """
    n = _of_two(moments).n.double()
    share = n / n.sum()
    within = (share[:, None, None, None] * moments.label_variance).sum(0)
    between = share.prod() * mean_difference(moments).square()
    total = within + between
    # Where all examples agree, rounding of the sums of squares is all that is left.
    floor = 1e-12 * (moments.mean.square() + 1e-12)
    return torch.where(total > floor, (between / total.clamp_min(1e-300)).sqrt(), 0.0)


def _of_two(moments: LabelMoments) -> LabelMoments:
    if len(moments.n) != 2 or int(moments.n.min()) <= 0:
        raise ValueError(f"Examples of two classes are needed, but the classes hold {moments.n.tolist()}.")
    return moments


@dataclass(eq=False)
class GaussianHits(Summed):
    """Examples that a Gaussian probe decides rightly: one normal density for each class, fitted on other rows.

    `1[log N(a; m_1, s_1) + log n_1 > log N(a; m_0, s_0) + log n_0]` for each neuron by itself, as in naive Bayes.

    Args:
        fitted: Moments of the rows it is fitted on (train).
        floor: Smallest standard deviation, as a share of the largest in the layer.
    """

    summed = ("hits", "n")

    fitted: LabelMoments
    floor: float = 1e-4
    hits: list[Tensor] = field(default_factory=list)
    n: int = 0
    sums: list[Tensor] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        _of_two(self.fitted)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.hits):
            self.hits.append(torch.zeros(activations.shape[1:], dtype=torch.long, device=activations.device))
        wide = widened(activations)
        add_sum(self.sums, layer, wide)
        log_odds = self.log_odds(layer, wide)
        is_one = torch.zeros(len(activations), dtype=torch.bool, device=activations.device)
        is_one[counts[0] :] = True
        self.hits[layer] += ((log_odds > 0) == is_one[:, None, None]).sum(0)
        self.n += len(activations) if layer == 0 else 0

    def log_odds(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"]
    ) -> Float[Tensor, "batch prompt neuron"]:
        """Of class 1 against class 0."""
        n = self.fitted.n.double()
        mean = self.fitted.totals[layer] / n[:, None, None]
        variance = self.fitted.squares[layer] / n[:, None, None] - mean.square()
        variance = variance.clamp_min(float(self.floor**2 * variance.amax()) + 1e-30)
        mean, variance = mean.to(activations), variance.to(activations)
        by_class = [
            -(activations - mean[label]).square() / (2 * variance[label]) - variance[label].log() / 2 + n[label].log()
            for label in (0, 1)
        ]
        return by_class[1] - by_class[0]

    def finish(self) -> None:
        super().finish()
        check_activations(self.sums)

    @property
    def accuracy(self) -> Float[Tensor, "prompt layer neuron"]:
        """Share of rows decided rightly. One direction only: the fit has chosen it."""
        return stack_layers(self.hits, dim=1).double() / self.n


@dataclass(eq=False)
class LayerExamples:
    """The activations of some layers, in the order of the rows. Memory: rows x positions x neurons of these layers."""

    keeps_rows: ClassVar[bool] = True

    n: int
    layers: Sequence[int]
    values: dict[int, Float[Tensor, "batch prompt neuron"]] = field(default_factory=dict)
    labels: Int[Tensor, " batch"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if not len(self.labels):
            self.labels = torch.full((self.n,), -1)
        if layer == 0:
            self.labels[batch.index] = batch.labels.cpu()
        if layer in self.layers:
            if layer not in self.values:
                self.values[layer] = torch.empty(self.n, *activations.shape[1:])
            self.values[layer][batch.index] = activations.float().cpu()

    def finish(self) -> None:
        for layer, part in self.values.items():
            store.check_finite(f"activations of layer {layer}", part, "Check the model's weights and the prompt.")


@dataclass(eq=False)
class PositionMeans:
    """Each row's activations averaged over the positions: what a probe of all neurons is fitted on."""

    keeps_rows: ClassVar[bool] = True

    n: int
    parts: list[Tensor] = field(default_factory=list)
    labels: Int[Tensor, " batch"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append(torch.empty(self.n, activations.shape[2]))
        if not len(self.labels):
            self.labels = torch.full((self.n,), -1)
        self.parts[layer][batch.index] = activations.float().mean(1).cpu()
        self.labels[batch.index] = batch.labels.cpu()

    def finish(self) -> None:
        check_activations(self.parts)

    @property
    def values(self) -> Float[Tensor, "batch layer neuron"]:
        return stack_layers(self.parts, dim=1)
