"""What a pass over examples fills: the protocol of statistics, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store


@runtime_checkable
class Statistic(Protocol):
    """What `collect` fills.

    `update` is called once for each layer and batch, whose tokens and mask are those of the positions asked for; rows
    of a batch are ordered by label. `finish` is called once at the end, moves totals to the CPU and checks them.
    """

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None: ...

    def finish(self) -> None: ...


@dataclass(eq=False)
class Together:
    """Several statistics filled in one pass, each for itself; in one process only."""

    parts: Sequence[Statistic]

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        for part in self.parts:
            part.update(layer, activations, batch, counts)

    def finish(self) -> None:
        for part in self.parts:
            part.finish()


S = TypeVar("S", bound=Statistic)


def stack_layers(parts: Sequence[Tensor], dim: int) -> Tensor:
    """One tensor with a `layer` axis from a tensor for each layer.

    Raises:
        ValueError: The layers have different numbers of neurons, as after pruning.
    """
    widths = [part.shape[-1] for part in parts]
    if len(set(widths)) > 1:
        raise ValueError(
            f"The layers of this pruned model have different numbers of neurons, {widths}, and do not stack. Read the "
            "statistic's list of layers instead (`totals`, or `parts` of `Examples`)."
        )
    return torch.stack(list(parts), dim=dim)


def widened(activations: Tensor) -> Tensor:
    """The activations in float32 at least: in half precision, sums and thresholds would be rounded."""
    return activations if activations.dtype == torch.float64 else activations.float()


def add_sum(sums: list[Tensor], layer: int, activations: Tensor) -> None:
    """Add to a layer's running sum, which is NaN or infinite at the end where an activation was.

    For statistics whose own totals would hide it: NaN is not above a threshold. Reads nothing back from the device.
    """
    if layer == len(sums):
        sums.append(torch.zeros((), dtype=activations.dtype, device=activations.device))
    sums[layer] += activations.sum()


def check_activations(totals: Sequence[Tensor]) -> None:
    """Raise `FloatingPointError` where a layer's totals are not finite."""
    for layer, total in enumerate(totals):
        store.check_finite(f"activations of layer {layer}", total, "Check the model's weights and the prompt.")


def check_even_layers(model: Any) -> None:
    """Raise where layers have different numbers of neurons, before a pass whose result would have a `layer` axis."""
    widths = getattr(model.cfg, "d_mlps", ())
    if len(set(widths)) > 1:
        raise ValueError(
            f"The layers of this pruned model have different numbers of neurons, {list(widths)}, but scores need as "
            "many in each. Score the model before pruning: neuron i of a layer is `keep.indices(layer)[i]` there."
        )


def check_n_labels(statistic: Any, labels: Int[Tensor, " batch"]) -> int:
    """How many labels a statistic counts; any that there are, if it does not say. Raises where a row has another."""
    # A pooled statistic counts what the one inside does.
    n_labels = getattr(getattr(statistic, "inner", statistic), "n_labels", int(labels.max()) + 1)
    if not 0 <= int(labels.min()) <= int(labels.max()) < n_labels:
        raise ValueError(
            f"`labels` need to be 0 to {n_labels - 1}, but run from {int(labels.min())} to {int(labels.max())}. Give "
            "each row an integer 'label', and the statistic as many labels as the task has."
        )
    return n_labels
