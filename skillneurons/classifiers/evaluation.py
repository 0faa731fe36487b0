"""Accuracy and margin of a classifier on labelled rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Encoded
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.intervals import in_words, proportion
from skillneurons.utilities.results import Result
from skillneurons.utilities.row_groups import RowGroups
from skillneurons.utilities.types import FwdHooks, Row

MOST_UNEQUAL = 0.6  # share of the most frequent class above which accuracy says little


def are_unequal(counts: Int[Tensor, " label"]) -> bool:
    """Whether classes are so unequal that balanced accuracy says more than accuracy: one has over 60 % of the rows.

    Example:
        >>> are_unequal(torch.tensor([61, 39])), are_unequal(torch.tensor([60, 40]))
        (True, False)
    """
    return counts.max().item() > MOST_UNEQUAL * counts.sum().item()


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """How well a classifier does on some rows.

    Args:
        accuracy: Share of rows answered rightly.
        balanced_accuracy: Mean of the classes' recalls; 1/n_labels for a constant answer.
        interval: Exact 95 % interval of the accuracy; where rows have a `"group"`, of as many independent rows as they
            are worth.
        majority: Share of the most frequent class: the accuracy of always answering it.
        margin: Mean, over rows, of the right label's logit minus the best other label's.
        margin_sd: Standard deviation of that over rows.
        n: Number of rows.
        n_groups: Of rows that belong together; None where rows share nothing.
        design_effect: How many times the accuracy's variance is that of as many independent rows; None with `n_groups`.

    Example:
        See `evaluate`, which makes it.
    """

    accuracy: float
    balanced_accuracy: float
    interval: tuple[float, float]
    majority: float
    margin: float
    margin_sd: float
    n: int
    n_groups: int | None = None
    design_effect: float | None = None

    def to_dataframe(self) -> pd.DataFrame:
        """One row: every number, the interval's ends as `low` and `high`; those of groups where there are groups."""
        columns = {name: value for name, value in asdict(self).items() if value is not None}
        columns["low"], columns["high"] = columns.pop("interval")
        return pd.DataFrame([columns])

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation(accuracy {self.accuracy:.3f}, 95 % interval {low:.3f} to {high:.3f}"
            f"{in_words(self.n_groups, self.design_effect)}; majority "
            f"{self.majority:.3f}; margin {self.margin:.3f}; {self.n:,} rows)"
        )


@checked
def evaluate(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    fwd_hooks: FwdHooks = (),
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Evaluation:
    """Accuracy of the classifier on labelled rows, with interventions in place if any are given.

    Raises:
        ValueError: A row has no label, or the model is in train mode.

    Example:
        >>> from skillneurons import evaluate, load_example
        >>> classifier, task = load_example()
        >>> evaluate(classifier, task.test).n
        32
    """
    encoded = classifier.encode(rows)
    logits = classifier.logits(encoded, fwd_hooks, tokens_per_batch=tokens_per_batch)
    return evaluation_of(logits, encoded.labels, encoded.groups)


def evaluation_of(
    logits: Float[Tensor, "batch label"], labels: Int[Tensor, " batch"], groups: RowGroups | None = None
) -> Evaluation:
    """The evaluation that logits and true labels amount to; `groups` says which rows belong together."""
    check_labels(labels, logits.shape[1])
    right = logits.argmax(dim=1) == labels
    counts = labels.bincount(minlength=logits.shape[1])
    hits = labels[right].bincount(minlength=logits.shape[1])
    present = counts > 0
    margins = label_margin(logits, labels)
    found = proportion(right, groups)
    return Evaluation(
        accuracy=right.double().mean().item(),
        balanced_accuracy=(hits[present].double() / counts[present]).mean().item(),
        interval=(found.low, found.high),
        majority=counts.max().item() / len(labels),
        margin=margins.mean().item(),
        margin_sd=margins.std().item() if len(labels) > 1 else 0.0,
        n=len(labels),
        n_groups=found.n_groups,
        design_effect=found.design_effect,
    )


def check_labels(labels: Int[Tensor, " batch"], n_labels: int) -> None:
    """Raise unless every row has one of the labels; an unlabelled row has -1."""
    if int(labels.min()) < 0 or int(labels.max()) >= n_labels:
        raise ValueError(
            f"Labels from 0 to {n_labels - 1} are needed on every row, but they run from {int(labels.min())} to "
            f"{int(labels.max())}. Give each row an integer 'label'."
        )


def label_margin(logits: Float[Tensor, "batch label"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Logit of the right label minus the best of the others.

    Example:
        >>> label_margin(torch.tensor([[2.0, 0.5]]), torch.tensor([0])).item()
        1.5
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return right - others.amax(dim=1)
