"""Decisions: on which side of its baseline each neuron is on each row, in bits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from skillneurons.activations.statistic import Summed, add_sum, check_activations, widened
from skillneurons.activations.sums import _count as count_true
from skillneurons.tasks.batching import Batch
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.row_groups import Ids, RowGroups, groups_of


@checked
@dataclass(eq=False)
class Decisions:
    """Whether each neuron is above its baseline, for each row and position: one bit. Filled by `collect`.

    Memory: rows x positions x neurons / 8 bytes.

    Args:
        baseline: Threshold of each position and neuron.
        n: Number of rows.
        labels: Class of each row, in the order of the rows.
        packed: For each layer `[batch prompt byte]`: eight neurons to a byte, the first in the highest bit.
        groups: Which rows belong together; `collect` takes them from the rows' `"group"`.

    Example:
        >>> from skillneurons import Decisions, LabelSums, collect, load_example
        >>> classifier, task = load_example()
        >>> baseline = collect(classifier, task.train, LabelSums(2)).mean
        >>> decisions = collect(classifier, task.validation, Decisions(baseline, 32))
        >>> decisions.n_bytes  # 32 * 16 * 4 * 768 / 8
        196608
    """

    keeps_rows: ClassVar[bool] = True

    baseline: Float[Tensor, "prompt layer neuron"]
    n: int
    labels: Int[Tensor, " batch"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    packed: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list, repr=False)
    groups: RowGroups | None = None

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        threshold = self.baseline[:, layer]
        if threshold.shape != activations.shape[1:]:
            raise ValueError(
                f"`baseline` has {tuple(threshold.shape)} positions and neurons in layer {layer}, but the activations "
                f"have {tuple(activations.shape[1:])}. Take it from the same prompt and positions."
            )
        wide = widened(activations)
        add_sum(self.sums, layer, wide)
        _keep(self.packed, layer, wide > threshold.to(wide), batch, self.n)
        if layer == 0:
            if not len(self.labels):
                self.labels = torch.full((self.n,), -1)
            self.labels[batch.index] = batch.labels.cpu()

    def finish(self) -> None:
        if len(self.labels) != self.n or int(self.labels.min()) < 0:
            raise ValueError(
                f"`n` is {self.n}, but that is not the number of labelled rows of the pass. Pass len(rows)."
            )
        check_activations(self.sums)

    @classmethod
    def of(
        cls,
        above: Bool[Tensor, "batch prompt layer neuron"],
        labels: Int[Tensor, " batch"],
        groups: RowGroups | Ids | None = None,
    ) -> "Decisions":
        """Decisions that are already known, packed; `groups` may be what each row shares, see `groups_of`."""
        if len(above) != len(labels):
            raise ValueError(f"`above` has {len(above)} rows and `labels` {len(labels)}. Pass one label for each row.")
        packed = [_packed(above[:, :, layer]) for layer in range(above.shape[2])]
        together = groups if groups is None or isinstance(groups, RowGroups) else groups_of(groups)
        return cls(torch.zeros(above.shape[1:]), len(above), labels, packed, groups=together)

    @property
    def n_bytes(self) -> int:
        return sum(part.nbytes for part in self.packed)

    def unpack(self, layer: int, start: int = 0, stop: int | None = None) -> Bool[Tensor, "batch prompt neuron"]:
        """The decisions of neurons `start` to `stop` of a layer; `start` must be a multiple of 8."""
        d_mlp = self.baseline.shape[2]
        stop = d_mlp if stop is None else stop
        if start % 8 or not 0 <= start < stop <= d_mlp:
            raise ValueError(
                f"`start` is a multiple of 8 below `stop`, at most {d_mlp}, but they are {start} and {stop}."
            )
        return _unpacked(self.packed[layer], start, stop)

    @property
    def above(self) -> Int[Tensor, "label prompt layer neuron"]:
        """Counts for two classes, as `AboveCounts` gives them."""
        layers = [self.unpack(layer) for layer in range(len(self.packed))]
        by_label = [[count_true(part[self.labels == label]) for part in layers] for label in (0, 1)]
        return torch.stack([torch.stack(of_label, dim=1) for of_label in by_label]).long()


@dataclass(eq=False)
class ChosenDecisions(Summed):
    """Whether each neuron is above its baseline, at one position or a few of its own: one bit. Filled by `collect`.

    Memory: rows x choices x neurons / 8 bytes; a sixteenth of that of `Decisions` for one choice of 16 positions.

    Args:
        baseline: Threshold of each position and neuron.
        position: Of each neuron, in one choice or several.
        n_rows: Number of rows.
        totals: For each layer `[batch choice byte]`, as in `Decisions`; rows of another process are 0.

    Example:
        >>> import torch
        >>> from skillneurons import LabelSums, collect, load_example
        >>> from skillneurons.activations.decisions import ChosenDecisions
        >>> classifier, task = load_example()
        >>> baseline = collect(classifier, task.train, LabelSums(2)).mean
        >>> first = torch.zeros(1, 4, 768, dtype=torch.long)
        >>> decisions = collect(classifier, task.validation, ChosenDecisions(baseline, first, 32))
        >>> decisions.unpack(0, 0).shape
        torch.Size([32, 768])
    """

    summed = ("totals",)

    baseline: Float[Tensor, "prompt layer neuron"]
    position: Int[Tensor, "choice layer neuron"]
    n_rows: int
    totals: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list, repr=False)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        wide = widened(activations)
        add_sum(self.sums, layer, wide)
        position = self.position[:, layer].to(wide.device)
        threshold = self.baseline[:, layer].to(wide).gather(0, position)
        above = wide.gather(1, position.expand(len(wide), *position.shape)) > threshold
        _keep(self.totals, layer, above, batch, self.n_rows)

    def finish(self) -> None:
        super().finish()
        check_activations(self.sums)

    def unpack(self, layer: int, choice: int, start: int = 0, stop: int | None = None) -> Bool[Tensor, "batch neuron"]:
        """The decisions of neurons `start` to `stop` of a layer at their position; `start` must be a multiple of 8."""
        stop = self.position.shape[2] if stop is None else stop
        return _unpacked(self.totals[layer][:, choice], start, stop)


def _keep(kept: list[Tensor], layer: int, above: Bool[Tensor, "batch some neuron"], batch: Batch, n: int) -> None:
    """Put a batch's decisions of a layer where its rows are among all `n`."""
    packed = _packed(above)
    if layer == len(kept):
        kept.append(torch.zeros(n, *packed.shape[1:], dtype=torch.uint8))
    kept[layer][batch.index] = packed


def _packed(above: Bool[Tensor, "*some neuron"]) -> UInt8[Tensor, "*some byte"]:
    return torch.from_numpy(np.packbits(above.cpu().numpy(), axis=-1))


def _unpacked(packed: UInt8[Tensor, "*some byte"], start: int, stop: int) -> Bool[Tensor, "*some part"]:
    part = packed[..., start // 8 : -(-stop // 8)].numpy()
    return torch.from_numpy(np.unpackbits(part, axis=-1, count=stop - start).view(np.bool_))
