"""Whose neurons are judged, and where each is read: what every question about a localization starts from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect_each
from skillneurons.activations.correlations import Correlations
from skillneurons.activations.statistic import S, check_even_layers
from skillneurons.activations.sums import AboveCounts, LabelSums
from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.localization_parts.known import Known, known
from skillneurons.interventions.perturbation import Intervention
from skillneurons.interventions.sweep import SweepSettings, Swept, sweep
from skillneurons.neurons._predictivity import (
    accuracy_from_counts,
    balanced_accuracy_from_counts,
    best_position,
    held_out_accuracy,
)
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.batching import Encoded
from skillneurons.tasks.task import SPLITS, Task
from skillneurons.utilities.progress import told
from skillneurons.utilities.types import FwdHooks, Progress


def _nobody(n: int) -> None:
    """Listens."""


def counting(progress: Progress | bool, total: int) -> Callable[[int], None]:
    """A function that is told after each pass how many rows passed, and tells `progress` of all."""
    tell, done = told(progress), 0

    def passed(n: int) -> None:
        nonlocal done
        done = min(done + n, total)
        tell("localization", done, total)

    return passed


@dataclass(frozen=True, eq=False)
class Claim:
    """Neurons that are said to be the place of a skill, of one classifier on one task, with its tokenized rows.

    Args:
        classifier: In eval mode.
        task: Two classes.
        neurons: The chosen ones.
        scores: Of this classifier on the task: each neuron's position, direction and held-out accuracy.
        train, validation, test: Rows, tokenized once.
        positions: Where neurons are read, by name.
        passed: Is told after each pass how many rows it was of.
    """

    classifier: Classifier
    task: Task
    neurons: NeuronSet
    scores: NeuronScores
    train: Encoded
    validation: Encoded
    test: Encoded
    positions: str
    passed: Callable[[int], None] = _nobody

    @property
    def position(self) -> Int[Tensor, "layer neuron"]:
        """Where each neuron is most predictive on validation."""
        return best_position(self._accuracy(self.scores.above, self.scores.n)[0])[0]

    @property
    def baseline(self) -> Float[Tensor, "layer neuron"]:
        """Each neuron's mean on train, at its position."""
        return self.scores.baseline[0].gather(0, self.position[None])[0].double()

    @property
    def held_out(self) -> Float[Tensor, "layer neuron"]:
        """Accuracy on test by the measure that ranks: 1/2 says nothing."""
        return held_out_accuracy(
            self._accuracy(self.scores.above, self.scores.n), self._accuracy(self.scores.above_test, self.scores.n_test)
        )[0]

    def accuracy_of(self, above: Tensor, n: Tensor) -> Float[Tensor, "prompt layer neuron"]:
        """From counts, by the measure that ranks."""
        return self._accuracy(above[None], n)[0]

    def known(self, says: Bool[Tensor, " batch"]) -> Known:
        """How well something that says yes or no on each test row tells the classes apart."""
        return known(says, self.test.labels, self.scores.measure, self.test.groups)

    def _accuracy(self, above: Tensor, n: Tensor) -> Float[Tensor, "seed prompt layer neuron"]:
        by = accuracy_from_counts if self.scores.measure == "predictivity" else balanced_accuracy_from_counts
        return torch.stack([by(one, n) for one in above])

    @property
    def first(self) -> tuple[int, int]:
        """The chosen neuron that ranks highest, by the set's own score where it has one."""
        rank = self.scores.ranking if self.neurons.score is None else self.neurons.score
        best = int(rank.double().masked_fill(~self.neurons.mask, -torch.inf).argmax())
        return divmod(best, rank.shape[1])

    def collect(self, rows: Encoded, statistic: S, hooks: FwdHooks = ()) -> S:
        """A pass over rows, with interventions."""
        return self.collect_each(rows, [(hooks, statistic)])[0]

    def collect_each(self, rows: Encoded, runs: Sequence[tuple[FwdHooks, S]]) -> list[S]:
        """A pass over rows under each of several interventions."""
        found = collect_each(self.classifier, rows, runs, positions=self.positions)
        self.passed(len(rows) * len(runs))
        return found

    def sweep(self, points: Sequence[tuple[Intervention, NeuronSet]], settings: SweepSettings, name: str) -> Swept:
        """The classifier's answers on test rows as it is, and under each of many interventions."""
        swept = sweep(self.classifier, self.test, points, replace(settings, progress=False), name=name)
        self.passed(len(self.test) * (1 + len(points)))
        return swept

    def correlations(self, rows: Encoded) -> Correlations:
        """Of the chosen neurons with all others, each at its position."""
        return self.collect(rows, Correlations(self.neurons.mask, self.position, self.baseline))

    def scored_under(self, hooks: FwdHooks) -> "Rescored":
        """Every neuron scored again under an intervention: baseline, choice and report, each on its split."""
        baseline = self.collect(self.train, LabelSums(2), hooks).mean
        counts = [self.collect(rows, AboveCounts(baseline, 2), hooks).above for rows in (self.validation, self.test)]
        chosen, reported = (
            self._accuracy(above[None], n) for above, n in zip(counts, (self.scores.n, self.scores.n_test), strict=True)
        )
        return Rescored(torch.maximum(chosen, 1 - chosen)[0].amax(0), held_out_accuracy(chosen, reported)[0])


@dataclass(frozen=True, eq=False)
class Rescored:
    """Every neuron's best score on validation, and what that position and direction give on test."""

    chosen: Float[Tensor, "layer neuron"]
    held_out: Float[Tensor, "layer neuron"]


def claim_of(
    classifier: Classifier, task: Task, neurons: NeuronSet, scores: NeuronScores, *, n_rows: int, seed: int = 0
) -> Claim:
    """The claim, with at most `n_rows` training rows; validation and test are those that were scored.

    Args:
        classifier: One of those scored.
        task: The one that was scored.
        neurons: Of the same model.
        scores: Of one seed.
        n_rows: Most training rows.
        seed: Of their choice.

    Raises:
        ValueError: There are no neurons, or all are chosen; or the neurons are another model's.
    """
    check_even_layers(classifier.model)
    model = classifier.fingerprint
    if neurons.model not in (None, model) or neurons.mask.shape != scores.predictivity.shape:
        raise ValueError(
            f"`neurons` need to be of the scored model, {model} with {tuple(scores.predictivity.shape)} layers and "
            f"neurons, but are of {neurons.model} with {tuple(neurons.mask.shape)}. Choose them in this model."
        )
    if not 0 < len(neurons) < neurons.mask.numel():
        raise ValueError(
            f"A claim of localization is about some of the neurons, but {len(neurons)} of {neurons.mask.numel():,} "
            "are chosen. Choose fewer, and at least one."
        )
    smaller = task.subset(max(n_rows, 2), seed, splits=("train",))
    train, validation, test = (classifier.encode(getattr(smaller, split)) for split in SPLITS)
    positions = scores.meta.get("positions", "prompt")
    return Claim(classifier, task, neurons, scores, train, validation, test, positions)


def of_seed(scores: NeuronScores, index: int) -> NeuronScores:
    """The scores under one of the prompts."""
    part = slice(index, index + 1)
    effects = None if scores.design_effects is None else scores.design_effects[part]
    return replace(
        scores,
        above=scores.above[part],
        above_test=scores.above_test[part],
        baseline=scores.baseline[part],
        design_effects=effects,
        meta=scores.meta | {"seeds": [scores.seeds[index]]},
    )
