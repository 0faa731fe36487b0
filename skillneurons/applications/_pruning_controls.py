"""What a pruned classifier's accuracy is worth: beside random sets as large, and beside keeping no neuron at all.

Many classifiers lose little when all neurons of some layers are held at their means; then that chosen neurons keep the
accuracy says nothing about them. Costs one pass over the rows for each random set, and three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.applications.pruning import prune
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation, evaluation_of
from skillneurons.neurons.neuron_set import NeuronSet, top_like
from skillneurons.tasks.batching import Encoded
from skillneurons.utilities.intervals import mean_interval
from skillneurons.utilities.results import Result
from skillneurons.utilities.types import Row


@dataclass(frozen=True, repr=False)
class PruningControls(Result):
    """A pruned classifier beside the whole one, random sets as large, and nothing kept.

    Args:
        before: The classifier as it was.
        pruned: With the chosen neurons kept.
        random: With as many random neurons of each pruned layer kept, for each draw.
        nothing: With no neuron of these layers kept.
        lost: Accuracy lost with nothing kept, and its 95 % interval over the same rows.
        n_kept: Chosen neurons in the pruned layers.

    Example:
        See `pruning_controls`, which makes it.
    """

    before: Evaluation
    pruned: Evaluation
    random: tuple[Evaluation, ...]
    nothing: Evaluation
    lost: tuple[float, float, float]
    n_kept: int

    @property
    def needs_none(self) -> bool:
        """Whether accuracy with no neuron kept is not told apart from that before."""
        return self.lost[1] <= 0

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each of: before, chosen, random (a row for each draw), nothing."""
        named = [("before", self.before), ("chosen", self.pruned), *(("random", one) for one in self.random)]
        return pd.DataFrame(
            [
                {"kept": name, "accuracy": one.accuracy, "low": one.interval[0], "high": one.interval[1]}
                | {"balanced_accuracy": one.balanced_accuracy, "margin": one.margin}
                for name, one in [*named, ("nothing", self.nothing)]
            ]
        )

    def __str__(self) -> str:
        accuracy, margin = self._beside("accuracy"), self._beside("margin")
        text = f"Accuracy on {self.before.n:,} test rows: {accuracy}.\nMargins: {margin}."
        return f"{text}\n{needs_none(self.lost)}" if self.needs_none else text

    def _beside(self, name: str) -> str:
        before, after, nothing, *drawn = (
            getattr(one, name) for one in (self.before, self.pruned, self.nothing, *self.random)
        )
        random = f"{min(drawn):.3f} to {max(drawn):.3f} with {len(drawn)} random sets of as many, " if drawn else ""
        return f"{before:.3f} before, {after:.3f} after, {random}{nothing:.3f} with no neuron kept"

    def __repr__(self) -> str:
        return f"PruningControls({self.n_kept} neurons kept)\n{self}"


def needs_none(lost: tuple[float, float, float]) -> str:
    """What to say of a classifier that loses nothing, or nothing that could be told, with no neuron kept."""
    mean, low, high = lost
    return (
        f"It needs none of these layers' neurons, as far as these rows tell: without any, accuracy falls by {mean:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f}). What is kept shows nothing; look at margins, or prune more layers."
    )


def pruning_controls(
    classifier: Classifier,
    keep: NeuronSet,
    baseline: Float[Tensor, "layer neuron"] | Float[Tensor, "prompt layer neuron"],
    rows: Sequence[Row] | Encoded,
    *,
    layers: Sequence[int] | None = None,
    n_random: int = 10,
    seed: int = 0,
) -> PruningControls:
    """Prune to the chosen neurons, to random ones, and to none.

    Args:
        classifier: As it is.
        keep: See `prune`, as for `baseline` and `layers`.
        baseline: Means that removed neurons are held at.
        rows: Labelled test rows.
        layers: The layers to prune.
        n_random: Random sets, drawn from all neurons, of as many in each pruned layer.
        seed: Of these.

    Raises:
        ValueError: What `prune` refuses, or a negative `n_random`.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.applications import pruning_controls
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> compared = pruning_controls(classifier, scores.top(0.02), scores.baseline[0], task.test, n_random=2)
        >>> compared.to_dataframe().kept.tolist()
        ['before', 'chosen', 'random', 'random', 'nothing']
        >>> compared.n_kept, compared.nothing.n
        (60, 32)
    """
    if n_random < 0:
        raise ValueError(f"`n_random` is a number of random sets, not {n_random}.")
    encoded = classifier.encode(rows)
    generator = torch.Generator().manual_seed(seed)
    drawn = [top_like(torch.rand(keep.mask.shape, generator=generator), keep) for _ in range(n_random)]
    chosen = list(range(len(keep.mask))) if layers is None else list(layers)

    def logits_with(kept: NeuronSet) -> Tensor:
        return prune(classifier, kept, baseline, layers=chosen).logits(encoded)

    def judged(logits: Tensor) -> Evaluation:
        return evaluation_of(logits, encoded.labels, encoded.groups)

    before, nothing = classifier.logits(encoded), logits_with(keep - keep)
    return PruningControls(
        before=judged(before),
        pruned=judged(logits_with(keep)),
        random=tuple(judged(logits_with(one)) for one in drawn),
        nothing=judged(nothing),
        lost=accuracy_lost(before, nothing, encoded),
        n_kept=int(keep.mask[chosen].sum()),
    )


def accuracy_lost(
    before: Float[Tensor, "batch label"], after: Float[Tensor, "batch label"], rows: Encoded
) -> tuple[float, float, float]:
    """By how much accuracy fell, and its 95 % interval over the same rows."""
    was, remains = ((logits.argmax(dim=1) == rows.labels).double() for logits in (before, after))
    return mean_interval(was - remains, rows.groups)
