"""F10, robustness: are the neurons found on clean text also the most predictive ones on adversarial text?

Source: Ackermann and Ohmer 2024, who find that prompt tuning is not robust and that robustness goes with the stability
of skill neurons. Baseline, position and direction all come from clean rows; the adversarial rows are only reported on.

Cost: one pass over the adversarial rows for each classifier, and one for its accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.sums import AboveCounts
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation, evaluate
from skillneurons.findings.common import by_task, check_binary, check_scored, difference, ends, held_out_interval
from skillneurons.findings.record import Claims, Finding, Measured, Need, Record, ReproduceSettings, Study, register
from skillneurons.neurons._predictivity import accuracy_from_counts, held_out_accuracy, predictivity
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.results import Result, drawn_by


@dataclass(frozen=True, eq=False, repr=False)
class Robustness(Result):
    """Skill neurons on clean and on adversarial rows.

    Args:
        seeds: Of the classifiers.
        predictivity: On clean validation, averaged over seeds.
        test_predictivity: Predictivity computed on clean test rows.
        adversarial_predictivity: Predictivity computed on adversarial rows.
        held_out: Accuracy on clean test rows, at the position and in the direction chosen on clean validation.
        adversarial: The same on adversarial rows.
        clean_accuracy: Of each classifier on test.
        adversarial_accuracy: Of each classifier on the adversarial rows.
        fraction: Share of neurons in a top set.
        meta: Task, number of rows.

    Example:
        See `robustness`, which makes it.
    """

    seeds: tuple[int, ...]
    predictivity: Float[Tensor, "layer neuron"]
    test_predictivity: Float[Tensor, "layer neuron"]
    adversarial_predictivity: Float[Tensor, "layer neuron"]
    held_out: Float[Tensor, "layer neuron"]
    adversarial: Float[Tensor, "layer neuron"]
    clean_accuracy: tuple[Evaluation, ...]
    adversarial_accuracy: tuple[Evaluation, ...]
    fraction: float
    meta: dict[str, Any] = field(default_factory=dict)

    plot = drawn_by("plot_robustness")

    @property
    def skill(self) -> NeuronSet:
        """The top neurons on clean validation, over the whole model."""
        return top_neurons(self.predictivity, self.fraction, per_layer=False)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for clean test rows and one for adversarial ones.

        `rank_correlation` and `overlap` compare with clean validation; the clean row says how high they are for new
        rows of the same kind, which is the bar. All neurons' chance overlap is `expected_overlap`.
        `best_neuron_low` and `_high` are the ends of `held_out_interval`, a 95 % interval over the rows.
        """
        best, rows = int(self.predictivity.argmax()), []
        for name, own, accuracy, evaluations in (
            ("clean", self.test_predictivity, self.held_out, self.clean_accuracy),
            ("adversarial", self.adversarial_predictivity, self.adversarial, self.adversarial_accuracy),
        ):
            shared = overlap_test(self.skill, top_neurons(own, self.fraction, per_layer=False))
            best_accuracy, n = accuracy.flatten()[best].item(), evaluations[0].n
            low, high = held_out_interval(best_accuracy, n)
            rows.append(
                {
                    "rows": name,
                    "n": n,
                    "classifier_accuracy": sum(one.accuracy for one in evaluations) / len(evaluations),
                    "best_neuron": best_accuracy,
                    "best_neuron_low": low,
                    "best_neuron_high": high,
                    "skill_neurons": accuracy[self.skill.mask].mean().item(),
                    "rank_correlation": spearman(self.predictivity.flatten(), own.flatten()),
                    "overlap": shared["overlap"],
                    "expected_overlap": shared["expected"],
                    "overlap_p": shared["p"],
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Robustness({self.meta.get('task')}, top {self.fraction})\n{self.to_dataframe().round(3)}"


def robustness(
    classifiers: Sequence[Classifier], task: Task, scores: NeuronScores, *, fraction: float = 0.01
) -> Robustness:
    """Skill neurons of clean rows, scored on the task's adversarial rows.

    Args:
        classifiers: One for each seed of `scores`, in that order.
        task: Two classes, with adversarial rows.
        scores: Of these classifiers on the task's clean rows.
        fraction: Share of all neurons in a top set.

    Raises:
        ValueError: The task has no adversarial rows, or classifiers and scores do not belong together.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> classifier, task = load_example()  # with all its adversarial rows
        >>> scores = find_skill_neurons(classifier, task)
        >>> result = findings.robustness([classifier], task, scores)
        >>> result.to_dataframe()[["rows", "n"]]
                  rows    n
        0        clean   32
        1  adversarial  400
        >>> result.adversarial_accuracy[0].accuracy < result.clean_accuracy[0].accuracy
        True
    """
    classifiers = list(classifiers)
    check_binary(classifiers, task)
    if not task.adversarial:
        raise ValueError(
            f"Task {task.name!r} has no adversarial rows. Give it some: `dataclasses.replace(task, adversarial=rows)`, "
            "or an adversarial.jsonl beside its other files."
        )
    check_scored(scores, task, classifiers)

    encoded, positions = classifiers[0].encode(task.adversarial), scores.meta["positions"]
    attacked = []
    for classifier, baseline in zip(classifiers, scores.baseline, strict=True):
        counts = collect(classifier, encoded, AboveCounts(baseline, 2), positions=positions)
        attacked.append(accuracy_from_counts(counts.above, counts.n))
    adversarial = torch.stack(attacked)
    return Robustness(
        seeds=tuple(scores.seeds),
        predictivity=scores.predictivity,
        test_predictivity=predictivity(scores.test_accuracy).mean(dim=0),
        adversarial_predictivity=predictivity(adversarial).mean(dim=0),
        held_out=scores.held_out,
        adversarial=held_out_accuracy(scores.accuracy, adversarial).mean(dim=0),
        clean_accuracy=tuple(evaluate(one, task.test) for one in classifiers),
        adversarial_accuracy=tuple(evaluate(one, encoded) for one in classifiers),
        fraction=fraction,
        meta={"task": task.name, "model": scores.meta["model"]},
    )


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [
        Measured(robustness(one.classifiers, one.task, one.scores[0], fraction=settings.fraction), one.task.name)
        for one in studies
    ]


def _claims(records: Sequence[Record]) -> Claims:
    for task, rows in by_task(records).items():
        best = {one["rows"]: ends(one, "best_neuron") for one in rows}
        yield task, "the best neuron loses on adversarial rows", difference(best["clean"], best["adversarial"])


_ADVERSARIAL = Need(
    "a task of two classes with adversarial rows", lambda task: task.n_labels == 2 and bool(task.adversarial)
)
register(Finding("F10-robustness", _measure, _claims, order=10, needs=_ADVERSARIAL))
