"""Statistics over the text's positions, whose number differs from row to row: means, pooled activations, samples.

For `collect(classifier, rows, statistic, positions="text")`. Padding is left out; the tokenizer's special tokens around
the text count as text. Memory as for the statistics of `activations`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, cast, get_args

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations.statistic import S, Statistic, Summed, stack_layers, widened
from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store

Pool: TypeAlias = Literal["mean", "max"]


def place_and_pool(positions: str) -> tuple[str, Pool | None]:
    """The positions that are meant by a name, and how they are pooled, if they are.

    Raises:
        ValueError: They are to be pooled in a way that is not known.

    Example:
        >>> place_and_pool("text, mean"), place_and_pool("prompt")
        (('text', 'mean'), ('prompt', None))
    """
    place, comma, pool = positions.partition(", ")
    if comma and pool not in get_args(Pool):
        raise ValueError(f"Positions are pooled by 'mean' or 'max', as in '{place}, mean', not {positions!r}.")
    return place, cast("Pool", pool) if comma else None


def real_positions(activations: Float[Tensor, "batch prompt neuron"], batch: Batch) -> Bool[Tensor, "batch prompt"]:
    """Which positions are not padding."""
    if batch.mask is None:
        return torch.ones(activations.shape[:2], dtype=torch.bool, device=activations.device)
    return batch.mask.bool()


def pool_positions(
    activations: Float[Tensor, "batch prompt neuron"], real: Bool[Tensor, "batch prompt"], how: Pool
) -> Float[Tensor, "batch 1 neuron"]:
    """Mean or maximum of each row's activations over its real positions, kept as one position.

    Source: Wang et al. 2022, the alternatives to soft prompts.

    Raises:
        ValueError: `how` is not known, or a row has no real position.

    Example:
        >>> activations = torch.tensor([1.0, 3.0, 9.0]).reshape(1, 3, 1)
        >>> pool_positions(activations, torch.tensor([[True, True, False]]), "mean").item()
        2.0
    """
    if not bool(real.any(dim=1).all()):
        raise ValueError(
            f"Row {int((~real.any(dim=1)).int().argmax())} has padding only; each row needs one token at least."
        )
    where = rearrange(real, "batch prompt -> batch prompt 1")
    if how == "max":
        return activations.masked_fill(~where, -torch.inf).amax(dim=1, keepdim=True)
    if how == "mean":
        total = reduce(activations * where, "batch prompt neuron -> batch 1 neuron", "sum")
        return total / where.sum(dim=1, keepdim=True)
    raise ValueError(f"`how` is 'mean' or 'max', not {how!r}.")


@dataclass(eq=False)
class Pooled(Generic[S]):
    """Shows another statistic one pooled activation for each row instead of one for each position.

    Args:
        inner: For example `LabelSums` or `AboveCounts`; it sees a `prompt` axis of length 1.
        how: `"mean"` or `"max"`, over the real positions.

    Example:
        >>> from skillneurons import LabelSums, collect, load_example
        >>> from skillneurons.activations.text import Pooled
        >>> classifier, task = load_example()
        >>> highest = Pooled(LabelSums(2), "max")
        >>> collect(classifier, task.train, highest, positions="text").inner.mean.shape
        torch.Size([1, 4, 768])
    """

    inner: S
    how: Pool = "mean"

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        pooled = pool_positions(widened(activations), real_positions(activations, batch), self.how)
        self.inner.update(layer, pooled, batch, counts)

    def finish(self) -> None:
        self.inner.finish()


@dataclass(eq=False)
class At:
    """Shows a statistic some positions of a pass over all, `collect(…, positions="all")`.

    Args:
        where: Positions.
        inner: The statistic that sees them.
    """

    where: slice
    inner: Statistic

    def update(
        self, layer: int, activations: Float[Tensor, "batch pos neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        self.inner.update(layer, activations[:, self.where], batch.at(self.where), counts)

    def finish(self) -> None:
        self.inner.finish()


@dataclass(eq=False)
class TextSums(Summed):
    """Sum of the activations over all real positions of all rows, and how many there were."""

    fixed_positions = False

    totals: list[Tensor] = field(default_factory=list)
    n: int | Int[Tensor, ""] = 0

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        real = real_positions(activations, batch)
        # Not `activations[real]`, whose shape the host would wait for.
        total = einsum(activations.double(), real.double(), "batch pos neuron, batch pos -> neuron")
        self.add("totals", layer, total)
        if layer == 0:
            self.n = self.n + real.sum()

    def finish(self) -> None:
        super().finish()
        self.n = int(self.n)

    @property
    def mean(self) -> Float[Tensor, "layer neuron"]:
        """Mean over positions: every token weighs the same, so long rows weigh more."""
        return stack_layers(self.totals, dim=0) / self.n


@dataclass(eq=False)
class Moments(TextSums):
    """Mean and standard deviation of each neuron over all positions of all rows but padding, in float64.

    For `collect(classifier, rows, Moments(), positions="all")`, or `"text"`. A bias acts at all positions alike, so the
    mean over all is the constant that replaces a neuron with least squared error.
    """

    summed = ("totals", "n", "squares")

    squares: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        wide, real = activations.double(), real_positions(activations, batch)
        super().update(layer, wide, batch, counts)
        self.add("squares", layer, einsum(wide.square(), real.double(), "batch pos neuron, batch pos -> neuron"))

    @property
    def sd(self) -> Float[Tensor, "layer neuron"]:
        variance = stack_layers(self.squares, dim=0) / self.n - self.mean.square()
        return variance.clamp_min(0).sqrt()


@dataclass(eq=False)
class TextExamples:
    """Activations at a random sample of real positions, to resample from.

    Args:
        n: Positions to keep, drawn without replacement once all rows were seen; memory is that of all of them.
        seed: Of the draw.
    """

    n: int = 512
    seed: int = 0
    parts: list[list[Tensor]] = field(default_factory=list)
    values: Float[Tensor, "source layer neuron"] = field(default_factory=lambda: torch.empty(0, 0, 0))

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append([])
        self.parts[layer].append(activations[real_positions(activations, batch)].float().cpu())

    def finish(self) -> None:
        joined = torch.stack([torch.cat(part) for part in self.parts], dim=1)
        order = torch.randperm(len(joined), generator=torch.Generator().manual_seed(self.seed))
        self.values, self.parts = joined[order[: self.n]], []
        store.check_finite("activations", self.values, "Check the model's weights and the prompt.")
