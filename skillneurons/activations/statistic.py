"""What a pass over examples fills: the protocol of statistics, and what they share."""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store
from skillneurons.utilities.row_groups import RowGroups
from skillneurons.utilities.types import Json, Library


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
Own = TypeVar("Own", bound="Summed")


class Summed:
    """A statistic that is sums over rows. It declares them; adding up, moving, checking and merging follow.

    A class of one's own is a dataclass with an `update` that adds, and works across batches, shards and processes.

    Attributes:
        summed: Names of the fields that are added up: lists with a tensor for each layer, tensors, or numbers. All
            other fields that have to be given say what is counted, and are the same in every part.
        fixed_positions: Whether every row must have the same positions; pooled statistics do without.

    Example:
        >>> from dataclasses import dataclass, field
        >>> from skillneurons import collect, load_example
        >>> @dataclass(eq=False)
        ... class Active(Summed):
        ...     summed = ("totals", "n")
        ...     above: float
        ...     totals: list[Tensor] = field(default_factory=list)
        ...     n: int = 0
        ...     def update(self, layer, activations, batch, counts):
        ...         self.add("totals", layer, (activations > self.above).sum(dim=0))
        ...         self.n += len(activations) if layer == 0 else 0
        >>> classifier, task = load_example()
        >>> parts = [collect(classifier, rows, Active(0.0)) for rows in (task.test[:7], task.test[7:])]
        >>> whole = parts[0].merge(parts[1])
        >>> whole.n, whole.totals[3].shape
        (32, torch.Size([16, 768]))
    """

    summed: ClassVar[tuple[str, ...]] = ("totals", "n")
    fixed_positions: ClassVar[bool] = True

    def add(self, name: str, layer: int, values: Tensor) -> None:
        """Add to a layer's total, which begins at zero where `values` lie, in float64 or the integers they are in."""
        totals: list[Tensor] = getattr(self, name)
        if layer == len(totals):
            wide = torch.float64 if values.is_floating_point() else values.dtype
            totals.append(torch.zeros(values.shape, dtype=wide, device=values.device))
        totals[layer] += values

    def finish(self) -> None:
        """Move what is summed to the host and check that it is finite."""
        for name in self.summed:
            value = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, [total.cpu() for total in value])
                check_activations([total for total in getattr(self, name) if total.is_floating_point()])
            elif isinstance(value, Tensor):
                setattr(self, name, value.cpu())

    def merge(self: Own, other: Own) -> Own:
        """The sums over both passes' rows; exact where they are integers, in any order."""
        return type(self)(
            **settings_of(self), **{name: _added(getattr(self, name), getattr(other, name)) for name in self.summed}
        )


def settings_of(statistic: Summed) -> dict[str, Json]:
    """Fields that say what a statistic counts: neither its sums nor what it keeps while it runs."""
    return {
        one.name: getattr(statistic, one.name)
        for one in fields(statistic)  # type: ignore[arg-type]
        if one.default_factory is MISSING and one.name not in statistic.summed
    }


def _added(one: Library, other: Library) -> Library:
    return [a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other


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


def check_even_layers(model: Library) -> None:
    """Raise where layers have different numbers of neurons, before a pass whose result would have a `layer` axis."""
    widths = getattr(model.cfg, "d_mlps", ())
    if len(set(widths)) > 1:
        raise ValueError(
            f"The layers of this pruned model have different numbers of neurons, {list(widths)}, but scores need as "
            "many in each. Score the model before pruning: neuron i of a layer is `keep.indices(layer)[i]` there."
        )


def check_n_labels(statistic: Library, labels: Int[Tensor, " batch"]) -> int:
    """How many labels a statistic counts; any that there are, if it does not say. Raises where a row has another."""
    # A pooled statistic counts what the one inside does.
    n_labels = getattr(getattr(statistic, "inner", statistic), "n_labels", int(labels.max()) + 1)
    if not 0 <= int(labels.min()) <= int(labels.max()) < n_labels:
        raise ValueError(
            f"`labels` need to be 0 to {n_labels - 1}, but run from {int(labels.min())} to {int(labels.max())}. Give "
            "each row an integer 'label', and the statistic as many labels as the task has."
        )
    return n_labels


def check_n_rows(statistic: Library, n_rows: int) -> None:
    """Raise where a statistic that keeps rows was made for another number of them: it would hold what nobody wrote."""
    for one in _parts(statistic):
        if getattr(one, "keeps_rows", False) and one.n != n_rows:
            raise ValueError(
                f"{type(one).__name__} was made for {one.n} rows, but {n_rows} come. Make it with `n={n_rows}`."
            )


def give_groups(statistic: Library, groups: RowGroups | None) -> None:
    """Tell a statistic which rows belong together, and what it is made of, wherever it asks and was not told."""
    for one in _parts(statistic):
        if hasattr(one, "groups") and one.groups is None:
            one.groups = groups


def _parts(statistic: Library) -> Iterator[Library]:
    """A statistic and, however deep, those it fills: its `parts`, and what is `inner` to it."""
    yield statistic
    for one in (*getattr(statistic, "parts", ()), getattr(statistic, "inner", None)):
        if one is not None and not isinstance(one, Tensor):
            yield from _parts(one)
