"""Statistics that keep rows: one neuron's activations, or all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations.statistic import stack_layers
from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.types import Library


@checked
@dataclass(eq=False)
class OneNeuron:
    """Activations of a single neuron at a single prompt position, in the order of the rows.

    Args:
        n: Number of rows.
        layer: The neuron's layer.
        neuron: Its index.
        position: Index into the positions that are collected.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.examples import OneNeuron
        >>> classifier, task = load_example()
        >>> n, neuron = len(task.test), {"layer": 2, "neuron": 648, "position": 0}
        >>> collect(classifier, task.test, OneNeuron(n, **neuron)).values.shape
        torch.Size([32])
    """

    keeps_rows: ClassVar[bool] = True

    n: int
    layer: int
    neuron: int
    position: int
    values: Float[Tensor, " batch"] = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        check_whole("neuron", self.neuron)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if not len(self.values):
            self.values = torch.empty(self.n)
        if layer == self.layer:
            self.values[batch.index] = activations[:, self.position, self.neuron].float().cpu()

    def finish(self) -> None:
        store.check_finite("activations", self.values, "Check the model's weights and the prompt.")


@checked
@dataclass(eq=False)
class Examples:
    """The activations themselves, in the order of the rows. Memory: rows x positions x neurons; for small sets.

    Example:
        >>> from skillneurons import Examples, collect, load_example
        >>> classifier, task = load_example()
        >>> collect(classifier, task.test, Examples(len(task.test))).values.shape
        torch.Size([32, 16, 4, 768])
    """

    keeps_rows: ClassVar[bool] = True
    fixed_positions: ClassVar[bool] = True

    n: int
    neurons: Library = None
    parts: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append(torch.empty(self.n, *activations.shape[1:]))
        self.parts[layer][batch.index] = activations.float().cpu()

    def finish(self) -> None:
        for layer, part in enumerate(self.parts):
            store.check_finite(f"activations of layer {layer}", part, "Check the model's weights and the prompt.")

    @property
    def values(self) -> Float[Tensor, "batch prompt layer neuron"]:
        return stack_layers(self.parts, dim=2)
