"""Statistics of each neuron at its own position: rows that are kept, weighted sums of all neurons, and residuals.

Memory: that of one batch, and of what is kept: `OwnRows` 4 bytes for each row and neuron, so for a sample of rows;
`Projections` a few numbers for each row; the others a few for each neuron.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations.correlations import AtOwnPosition, OfWholeRows
from skillneurons.activations.statistic import Summed, stack_layers
from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store


@dataclass(eq=False)
class OwnRows(OfWholeRows):
    """Activations at each neuron's own position, less `centre`, in the order of the rows.

    Args:
        n: Number of rows.
        position: Of each neuron, into the positions that are collected.
        centre: A number near each neuron's mean.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.own_position import OwnRows
        >>> classifier, task = load_example()
        >>> first, nothing = torch.zeros(4, 768, dtype=torch.long), torch.zeros(4, 768)
        >>> [part.shape for part in collect(classifier, task.test, OwnRows(32, first, nothing)).parts][:1]
        [torch.Size([32, 768])]
    """

    keeps_rows: ClassVar[bool] = True
    fixed_positions: ClassVar[bool] = True

    n: int
    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    parts: list[Tensor] = field(default_factory=list, repr=False)
    seen: list[AtOwnPosition] = field(default_factory=list, repr=False)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        if not self.parts:
            self.parts = [torch.empty(self.n, part.shape[1]) for part in whole]
        for mine, part in zip(self.parts, whole, strict=True):
            mine[batch.index] = part.float().cpu()

    def finish(self) -> None:
        for layer, part in enumerate(self.parts):
            store.check_finite(f"activations of layer {layer}", part, "Check the model's weights and the prompt.")


@dataclass(eq=False)
class Projections(OfWholeRows):
    """Sums over all neurons of weight times activation less `centre`, for each row: what a probe says, or a direction.

    Args:
        n: Number of rows.
        position: Of each neuron, into the positions that are collected.
        centre: Subtracted from each neuron's activation.
        weights: One for each sum and neuron.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.own_position import Projections
        >>> classifier, task = load_example()
        >>> first, nothing = torch.zeros(4, 768, dtype=torch.long), torch.zeros(4, 768)
        >>> collect(classifier, task.test, Projections(32, first, nothing, torch.ones(5, 4, 768))).values.shape
        torch.Size([32, 5])
    """

    keeps_rows: ClassVar[bool] = True
    fixed_positions: ClassVar[bool] = True

    n: int
    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    weights: Float[Tensor, "sum layer neuron"]
    values: Float[Tensor, "batch sum"] = field(default_factory=lambda: torch.empty(0, 0))
    seen: list[AtOwnPosition] = field(default_factory=list, repr=False)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        if not len(self.values):
            self.values = torch.empty(self.n, len(self.weights), dtype=torch.float64)
        self.values[batch.index] = projected(whole, self.weights).cpu()

    def finish(self) -> None:
        store.check_finite("projections", self.values, "Check the model's weights and the prompt.")


@dataclass(frozen=True, eq=False)
class Curve:
    """What a direction lets expect of each neuron: a line that may bend at knots, by least squares.

    Args:
        direction: The weight of each neuron in the direction.
        knots: Where, along the direction, lines may bend.
    """

    direction: Float[Tensor, "layer neuron"]
    knots: Float[Tensor, " knot"]

    def terms(self, signal: Float[Tensor, " batch"]) -> Float[Tensor, "batch term"]:
        """One, the signal, and by how much it exceeds each knot.

        Example:
            >>> Curve(torch.zeros(1, 1), torch.tensor([2.0])).terms(torch.tensor([1.0, 5.0]))
            tensor([[1., 1., 0.],
                    [1., 5., 3.]])
        """
        over = (signal[:, None] - self.knots.to(signal)).clamp_min(0.0)
        return torch.cat([torch.ones_like(signal)[:, None], signal[:, None], over], dim=1)

    def of(self, whole: Sequence[Float[Tensor, "batch neuron"]]) -> Float[Tensor, "batch term"]:
        """The terms of one batch's activations."""
        return self.terms(projected(whole, self.direction[None])[:, 0])


@dataclass(eq=False)
class CurveSums(OfWholeRows, Summed):
    """What least squares of every neuron on a curve's terms needs.

    Args:
        position: Of each neuron, into the positions that are collected.
        centre: Subtracted from each neuron's activation.
        curve: The direction and its knots.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.own_position import Curve, CurveSums
        >>> classifier, task = load_example()
        >>> first, nothing = torch.zeros(4, 768, dtype=torch.long), torch.zeros(4, 768)
        >>> sums = CurveSums(first, nothing, Curve(torch.ones(4, 768), torch.tensor([0.0])))
        >>> collect(classifier, task.train, sums).coefficients.shape
        torch.Size([3, 4, 768])
    """

    summed = ("products", "squares", "gram")

    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    curve: Curve
    products: list[Tensor] = field(default_factory=list, repr=False)
    squares: list[Tensor] = field(default_factory=list, repr=False)
    gram: list[Tensor] = field(default_factory=list, repr=False)
    seen: list[AtOwnPosition] = field(default_factory=list, repr=False)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        terms = self.curve.of(whole)
        for i, part in enumerate(whole):
            self.add("products", i, terms.T @ part)
            self.add("squares", i, part.square().sum(0))
        self.add("gram", 0, terms.T @ terms)

    @property
    def coefficients(self) -> Float[Tensor, "term layer neuron"]:
        """Of each neuron on the terms; of the shortest, where terms say the same."""
        products = stack_layers(self.products, dim=1)
        inverse = torch.linalg.pinv(self.gram[0], rtol=1e-10, hermitian=True)
        return torch.einsum("st,tln->sln", inverse, products)

    @property
    def left(self) -> Float[Tensor, "layer neuron"]:
        """Share of each neuron's sum of squares that the terms leave; 0 for a neuron that is always at `centre`."""
        squares = stack_layers(self.squares, dim=0)
        said = (self.coefficients * stack_layers(self.products, dim=1)).sum(0)
        return torch.where(squares > 0, 1 - said / squares.clamp_min(1e-300), 0.0)


@dataclass(eq=False)
class ResidualCounts(OfWholeRows, Summed):
    """For each class, on how many rows a neuron is above what a direction lets expect of it.

    Args:
        position: Of each neuron, into the positions that are collected.
        centre: Subtracted from each neuron's activation.
        curve: The direction and its knots.
        coefficients: Of each neuron on the curve's terms, from other rows.
        n_labels: Number of classes.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.own_position import Curve, ResidualCounts
        >>> classifier, task = load_example()
        >>> first, nothing = torch.zeros(4, 768, dtype=torch.long), torch.zeros(4, 768)
        >>> curve = Curve(nothing, torch.tensor([0.0]))
        >>> counts = ResidualCounts(first, nothing, curve, torch.zeros(3, 4, 768), 2)
        >>> collect(classifier, task.test, counts).above.shape
        torch.Size([2, 1, 4, 768])
    """

    summed = ("totals", "n")

    position: Int[Tensor, "layer neuron"]
    centre: Float[Tensor, "layer neuron"]
    curve: Curve
    coefficients: Float[Tensor, "term layer neuron"]
    n_labels: int
    totals: list[Tensor] = field(default_factory=list, repr=False)
    n: Int[Tensor, " label"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    seen: list[AtOwnPosition] = field(default_factory=list, repr=False)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        terms = self.curve.of(whole)
        for i, part in enumerate(whole):
            above = part > terms @ self.coefficients[:, i].to(terms)
            self.add("totals", i, torch.stack([some.sum(0) for some in above.split(list(counts))]))
        self.n = torch.tensor(counts) if not len(self.n) else self.n + torch.tensor(counts)

    @property
    def above(self) -> Int[Tensor, "label 1 layer neuron"]:
        return stack_layers(self.totals, dim=1)[:, None].long()


@dataclass(eq=False)
class SharesRight(OfWholeRows):
    """For each row and layer, the share of chosen neurons that tell the row's class; NaN in layers without any.

    Args:
        n: Number of rows.
        position: Of each neuron, into the positions that are collected.
        baseline: Each neuron's threshold there.
        upward: Whether above means class 1.
        chosen: Whose share, for each of several choices.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations.own_position import SharesRight
        >>> classifier, task = load_example()
        >>> first, every = torch.zeros(4, 768, dtype=torch.long), torch.ones(2, 4, 768, dtype=torch.bool)
        >>> shares = SharesRight(32, first, torch.zeros(4, 768), every[0], every)
        >>> collect(classifier, task.test, shares).values.shape
        torch.Size([2, 32, 4])
    """

    keeps_rows: ClassVar[bool] = True
    fixed_positions: ClassVar[bool] = True

    n: int
    position: Int[Tensor, "layer neuron"]
    baseline: Float[Tensor, "layer neuron"]
    upward: Bool[Tensor, "layer neuron"]
    chosen: Bool[Tensor, "choice layer neuron"]
    values: Float[Tensor, "choice batch layer"] = field(default_factory=lambda: torch.empty(0, 0, 0))
    seen: list[AtOwnPosition] = field(default_factory=list, repr=False)

    centre: Float[Tensor, "layer neuron"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Nothing is subtracted: the comparison is that of the activation itself, to the bit.
        self.centre = torch.zeros_like(self.baseline)

    def see(self, whole: Sequence[Float[Tensor, "batch neuron"]], batch: Batch, counts: Sequence[int]) -> None:
        if not self.values.numel():
            self.values = torch.empty(len(self.chosen), self.n, len(self.position), dtype=torch.float64)
        is_one = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).bool()[:, None]
        for i, part in enumerate(whole):
            above = part > self.baseline[i].to(part)
            right = ((above == self.upward[i].to(above.device)).cpu() == is_one).double()
            weights = self.chosen[:, i].double()
            self.values[:, batch.index, i] = (right @ weights.T).T / weights.sum(1)[:, None]

    def finish(self) -> None:
        """Nothing is summed; activations that are not finite show where they are counted."""


def projected(
    whole: Sequence[Float[Tensor, "batch neuron"]], weights: Float[Tensor, "sum layer neuron"]
) -> Float[Tensor, "batch sum"]:
    """Of all layers' activations, on each vector of weights."""
    parts = [part @ weights[:, layer].to(part).T for layer, part in enumerate(whole)]
    return torch.stack(parts).sum(0)
