"""What is known of the classes: an accuracy on untouched rows with its interval, beside what knowing nothing gives."""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from skillneurons.neurons.scores import Measure
from skillneurons.utilities.intervals import mean_interval, proportion
from skillneurons.utilities.row_groups import RowGroups


@dataclass(frozen=True)
class Known:
    """An accuracy on rows that had no say in what is judged.

    Args:
        accuracy: By the measure that ranks.
        low, high: Its 95 % interval, which pays for rows that belong together.
        nothing: What always saying the same would give.
    """

    accuracy: float
    low: float
    high: float
    nothing: float

    @property
    def tells(self) -> bool:
        """Whether the classes are told apart: better than always saying the same, beyond the luck of these rows."""
        return self.low > self.nothing


NOTHING_LEFT = Known(0.5, 0.5, 0.5, 0.5)
"""Where no neuron is left that could say anything."""


def known(
    says: Bool[Tensor, " batch"],
    labels: Int[Tensor, " batch"],
    measure: Measure = "predictivity",
    groups: RowGroups | None = None,
) -> Known:
    """How well something that says yes or no tells two classes apart.

    Args:
        says: For each row, whether it says class 1.
        labels: 0 or 1.
        measure: Share of rows, or the mean of the classes' shares.
        groups: Rows that belong together.

    Example:
        >>> labels = torch.tensor([0, 1] * 20)
        >>> found = known(labels == 1, labels)
        >>> found.accuracy, found.nothing, found.tells
        (1.0, 0.5, True)
        >>> known(torch.ones(40).bool(), labels, "balanced_accuracy").tells
        False
    """
    hits = says == labels.bool()
    share = hits.double().mean().item()
    exact = proportion(hits, groups)
    if measure == "predictivity":
        ones = labels.double().mean().item()
        return Known(share, exact.low, exact.high, max(ones, 1 - ones))
    of_class = torch.stack([hits[labels == label].double().mean() for label in (0, 1)])
    sizes = labels.bincount(minlength=2).double()
    # Each class counts one half, whatever its size; what rows differ by within their class is what varies.
    around = of_class.mean() + (hits.double() - of_class[labels]) * (len(labels) / 2 / sizes)[labels]
    mean, low, high = mean_interval(around, groups)
    # Where all rows of a class are hits nothing shows how they vary: not narrower than the plain share's interval.
    low, high = min(low, mean - (share - exact.low)), max(high, mean + (exact.high - share))
    return Known(mean, max(low, 0.0), min(high, 1.0), 0.5) if low > -inf else Known(mean, 0.0, 1.0, 0.5)
