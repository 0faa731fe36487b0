"""Correlations: how alike chosen neurons and all others are in what they say, from sums over one pass.

Memory: 8 bytes for each chosen neuron and each neuron (218 MB for 740 of 36,864), and one batch's activations at one
position of each neuron; not neurons squared, and no more for more rows. Time is one matrix product for each batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations.statistic import Summed, stack_layers
from skillneurons.tasks.batching import Batch


@dataclass(eq=False)
class AtOwnPosition:
    """One batch's activations at each neuron's own position, kept until all layers have come.

    Args:
        position: Of each neuron, into the positions that are collected.
        centre: Subtracted, so that sums of squares do not drown in means; any number near each neuron's mean.
    """

    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    layers: list[Tensor] = field(default_factory=list, repr=False)

    def complete(self, layer: int, activations: Float[Tensor, "batch prompt neuron"]) -> list[Tensor] | None:
        """All layers' `[batch neuron]` in float64, once the last has come."""
        if activations.shape[2] != self.position.shape[1] or int(self.position.max()) >= activations.shape[1]:
            raise ValueError(
                f"`position` is of {self.position.shape[1]} neurons, up to position {int(self.position.max())}, but "
                f"the activations have {activations.shape[2]} at {activations.shape[1]} positions. Take it from scores "
                "of the same prompt and positions."
            )
        if layer == 0:
            self.layers = []
        where = self.position[layer].to(activations.device).expand(len(activations), 1, -1)
        own = activations.gather(1, where)[:, 0].double()
        self.layers.append(own - self.centre[layer].to(own))
        if layer < len(self.position) - 1:
            return None
        whole, self.layers = self.layers, []
        return whole


class OfWholeRows:
    """A statistic that sees all layers of a batch at once, each neuron at its own position: `see` in place of `update`.

    A class of one's own is a dataclass with these three fields.
    """

    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    seen: list[AtOwnPosition]

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if not self.seen:
            self.seen.append(AtOwnPosition(self.position, self.centre))
        if (whole := self.seen[0].complete(layer, activations)) is not None:
            self.see(whole, batch, counts)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        """One batch's activations less `centre`, of each layer."""
        raise NotImplementedError


@dataclass(eq=False)
class Correlations(OfWholeRows, Summed):
    """Correlation of each chosen neuron's activations with every neuron's, each at its own position.

    Over all rows, and within classes: what two neurons share beyond that both tell the classes apart.

    Args:
        chosen: The neurons to correlate with all others.
        position: Of each neuron, into the positions that are collected.
        centre: A number near each neuron's mean, such as its baseline activation there.
        n_labels: Number of classes.

    Example:
        >>> import torch
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.correlations import Correlations
        >>> classifier, task = load_example()
        >>> chosen = torch.zeros(4, 768, dtype=torch.bool)
        >>> chosen[2, [3, 5, 7]] = True
        >>> first = torch.zeros(4, 768, dtype=torch.long)
        >>> result = collect(classifier, task.train, Correlations(chosen, first, torch.zeros(4, 768)))
        >>> result.correlation.shape, round(result.correlation[1, 2, 5].item(), 9)
        (torch.Size([3, 4, 768]), 1.0)
    """

    summed = ("products", "sums", "squares", "n")

    chosen: Bool[Tensor, "layer neuron"]
    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    n_labels: int = 2
    products: list[Tensor] = field(default_factory=list, repr=False)
    sums: list[Tensor] = field(default_factory=list, repr=False)
    squares: list[Tensor] = field(default_factory=list, repr=False)
    n: Int[Tensor, " label"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    seen: list[AtOwnPosition] = field(default_factory=list, repr=False)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        own = self.of_chosen(whole)
        for i, part in enumerate(whole):
            self.add("products", i, own.T @ part)
            self.add("sums", i, torch.stack([some.sum(0) for some in part.split(list(counts))]))
            self.add("squares", i, part.square().sum(0))
        self.n = torch.tensor(counts) if not len(self.n) else self.n + torch.tensor(counts)

    def of_chosen(self, whole: Sequence[Float[Tensor, "batch neuron"]]) -> Float[Tensor, "batch chosen"]:
        """The chosen neurons' columns, in the order of address."""
        columns = [part[:, chosen.to(part.device)] for part, chosen in zip(whole, self.chosen, strict=True)]
        return torch.cat(columns, dim=1)

    @property
    def mean(self) -> Float[Tensor, "layer neuron"]:
        """Of each neuron, at its position."""
        return stack_layers([total.sum(0) for total in self.sums], dim=0) / self.n.sum() + self.centre

    @property
    def covariance(self) -> Float[Tensor, "chosen layer neuron"]:
        """Of each chosen neuron with every neuron, over the n rows (not n - 1)."""
        return self._covariance(self._means(False), self.n.sum().double()[None])

    @property
    def variance(self) -> Float[Tensor, "layer neuron"]:
        """Of each neuron, over the n rows (not n - 1)."""
        return self._variance(self._means(False), self.n.sum().double()[None])

    @property
    def correlation(self) -> Float[Tensor, "chosen layer neuron"]:
        """Pearson's r over all rows; 0 where one of the two is constant."""
        return self._correlation(self._means(False), self.n.sum().double()[None])

    @property
    def within(self) -> Float[Tensor, "chosen layer neuron"]:
        """Pearson's r of what is left when each class's mean is subtracted; 0 where that is constant."""
        return self._correlation(self._means(True), self.n.double())

    def _means(self, by_class: bool) -> Float[Tensor, "part layer neuron"]:
        sums = stack_layers(self.sums, dim=1)
        if by_class:
            return sums / self.n.clamp_min(1)[:, None, None]
        return sums.sum(0, keepdim=True) / self.n.sum()

    def _variance(self, means: Tensor, n: Tensor) -> Float[Tensor, "layer neuron"]:
        raw, total = stack_layers(self.squares, dim=0), n.sum()
        variance = (raw - torch.einsum("p,pln->ln", n, means.square())) / total
        # Where all rows agree, rounding of the sums of squares is all that is left.
        return torch.where(variance > 1e-12 * (raw / total + self.centre.double().square() + 1e-12), variance, 0.0)

    def _covariance(self, means: Tensor, n: Tensor) -> Float[Tensor, "chosen layer neuron"]:
        own = means[:, self.chosen]  # [part chosen], in the order of address
        result = stack_layers(self.products, dim=1)
        for size, mine, all_of_them in zip(n, own, means, strict=True):
            result -= size * mine[:, None, None] * all_of_them
        return result.div_(n.sum())

    def _correlation(self, means: Tensor, n: Tensor) -> Float[Tensor, "chosen layer neuron"]:
        result, spread = self._covariance(means, n), self._variance(means, n).sqrt()
        over = torch.where(spread > 0, 1 / spread.clamp_min(1e-300), 0.0)
        return result.mul_(over).mul_(over[self.chosen][:, None, None]).clamp_(-1.0, 1.0)
