"""Statistics that are sums and counts for each class."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations.statistic import Summed, add_sum, check_activations, stack_layers, widened
from skillneurons.tasks.batching import Batch
from skillneurons.utilities.arguments import checked


@checked
@dataclass(eq=False)
class LabelSums(Summed):
    """Sum of the activations over the examples of each class.

    Sums within a batch are taken in the activations' precision (float32 at least), across batches in float64.

    Example:
        >>> from skillneurons import LabelSums, collect, load_example
        >>> classifier, task = load_example()
        >>> sums = collect(classifier, task.train, LabelSums(task.n_labels))
        >>> sums.n.tolist(), sums.label_mean.shape
        ([16, 16], torch.Size([2, 16, 4, 768]))
    """

    n_labels: int
    totals: list[Tensor] = field(default_factory=list)
    n: Int[Tensor, " label"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.totals):
            shape = (self.n_labels, *activations.shape[1:])
            self.totals.append(torch.zeros(shape, dtype=torch.float64, device=activations.device))
        for label, part in enumerate(widened(activations).split(list(counts))):
            if len(part):
                self.totals[layer][label] += part.sum(dim=0)
        if layer == 0:
            self.n = torch.tensor(counts) if not len(self.n) else self.n + torch.tensor(counts)

    @property
    def mean(self) -> Float[Tensor, "prompt layer neuron"]:
        """Mean over all examples: the baseline activation of Wang et al. 2022, equation 3."""
        return stack_layers([total.sum(0) for total in self.totals], dim=1) / self.n.sum()

    @property
    def label_mean(self) -> Float[Tensor, "label prompt layer neuron"]:
        """Mean over the examples of each class."""
        return stack_layers(self.totals, dim=2) / self.n[:, None, None, None]


@checked
@dataclass(eq=False)
class AboveCounts(Summed):
    """For each class, the number of examples on which a neuron is above its baseline.

    Args:
        baseline: Threshold of each position and neuron, `[prompt layer neuron]`.
        n_labels: Number of classes.

    Example:
        >>> from skillneurons import AboveCounts, LabelSums, collect, load_example
        >>> classifier, task = load_example()
        >>> baseline = collect(classifier, task.train, LabelSums(2)).mean
        >>> counts = collect(classifier, task.validation, AboveCounts(baseline, 2))
        >>> counts.n.tolist(), counts.above.shape
        ([16, 16], torch.Size([2, 16, 4, 768]))
    """

    baseline: Float[Tensor, "prompt layer neuron"]
    n_labels: int
    totals: list[Tensor] = field(default_factory=list)
    n: Int[Tensor, " label"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    sums: list[Tensor] = field(default_factory=list, repr=False)
    thresholds: list[Tensor] = field(default_factory=list, repr=False)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        wide = widened(activations)
        if layer == len(self.totals):
            shape = (self.n_labels, *activations.shape[1:])
            self.totals.append(torch.zeros(shape, dtype=torch.int32, device=activations.device))
            self.thresholds.append(self._threshold(layer, wide))
        add_sum(self.sums, layer, wide)
        above = wide > self.thresholds[layer]
        for label, part in enumerate(above.split(list(counts))):
            if len(part):
                self.totals[layer][label] += _count(part)
        if layer == 0:
            self.n = torch.tensor(counts) if not len(self.n) else self.n + torch.tensor(counts)

    def _threshold(self, layer: int, activations: Tensor) -> Tensor:
        threshold = self.baseline[:, layer]
        if threshold.shape != activations.shape[1:]:
            raise ValueError(
                f"`baseline` has {tuple(threshold.shape)} positions and neurons in layer {layer}, but the activations "
                f"have {tuple(activations.shape[1:])}. Take it from the same prompt and positions."
            )
        # In the precision that is compared, so that a baseline saved in float64 cannot break ties anew.
        return threshold.to(activations)

    def finish(self) -> None:
        super().finish()
        check_activations(self.sums)

    @property
    def above(self) -> Int[Tensor, "label prompt layer neuron"]:
        return stack_layers(self.totals, dim=2).long()


def _count(above: Tensor) -> Int[Tensor, "prompt neuron"]:
    """Number of True along the first axis. Bytes are summed 255 at a time, which is several times faster on a CPU."""
    total = torch.zeros(above.shape[1:], dtype=torch.int32, device=above.device)
    for part in above.view(torch.uint8).split(255):
        total += part.sum(dim=0, dtype=torch.uint8)
    return total
