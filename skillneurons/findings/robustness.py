"""F10, robustness: are the neurons found on clean text also the most predictive ones on adversarial text?

Source: Ackermann and Ohmer 2024, who find that prompt tuning is not robust and that robustness goes with the stability
of skill neurons. Baseline, position and direction all come from clean rows; the adversarial rows are only reported on.

Cost: one pass over the adversarial rows for each classifier, one for its accuracy, and one for its best neuron's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.sums import AboveCounts
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation, evaluation_of
from skillneurons.findings.common import (
    by_task,
    check_binary,
    check_scored,
    difference,
    ends,
    ends_of,
    held_out_interval,
)
from skillneurons.findings.record import Claims, Finding, Measured, Need, Record, ReproduceSettings, Study, register
from skillneurons.findings.rows_right import Read, accuracy_intervals, rows_right
from skillneurons.neurons._predictivity import accuracy_from_counts, held_out_accuracy, predictivity
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json, Row


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
        consistent: For each classifier, the share of pairs all of whose rows it answers rightly; None where rows have
            no `"pair"`.
        n_pairs: Of an original row and its adversarial versions.
        best_interval: Ends of the 95 % interval of the best neuron's accuracy on clean and on adversarial rows.

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
    meta: dict[str, Json] = field(default_factory=dict)
    consistent: tuple[float, ...] | None = None
    n_pairs: int = 0
    best_interval: Float[Tensor, "2 2"] | None = None  # absent from results that earlier versions wrote

    plot = drawn_by("plot_robustness")

    @property
    def skill(self) -> NeuronSet:
        """The top neurons on clean validation, over the whole model."""
        return top_neurons(self.predictivity, self.fraction, per_layer=False)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for clean test rows and one for adversarial ones.

        `rank_correlation` and `overlap` compare with clean validation; the clean row says how high they are for new
        rows of the same kind, which is the bar. All neurons' chance overlap is `expected_overlap`.
        `majority` is what always giving one answer reaches. `consistent` is the share of pairs answered rightly as a
        whole (mean over classifiers; the interval is that of one), and `consistent_if_independent` what it would be if
        the rows of a pair had nothing to do with each other.
        `best_neuron_low` and `_high` are the ends of its 95 % interval over the rows.
        """
        best, rows = int(self.predictivity.argmax()), []
        for i, (name, own, accuracy, evaluations) in enumerate(
            (
                ("clean", self.test_predictivity, self.held_out, self.clean_accuracy),
                ("adversarial", self.adversarial_predictivity, self.adversarial, self.adversarial_accuracy),
            )
        ):
            shared = overlap_test(self.skill, top_neurons(own, self.fraction, per_layer=False))
            best_accuracy, n = accuracy.flatten()[best].item(), evaluations[0].n
            low, high = ends_of(self.best_interval, i, best_accuracy, n)
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
                    "majority": evaluations[0].majority,
                }
            )
            if self.consistent is not None and name == "adversarial":
                share = sum(self.consistent) / len(self.consistent)
                low, high = held_out_interval(share, self.n_pairs)
                rows[-1] |= {"n_pairs": self.n_pairs, "consistent": share, "consistent_low": low}
                rows[-1] |= {"consistent_high": high, "consistent_if_independent": self.meta["if_independent"]}
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Robustness({self.meta.get('task')}, top {self.fraction})\n{as_text(self.to_dataframe())}"


@checked
def robustness(
    classifiers: Sequence[Classifier],
    task: Task,
    scores: NeuronScores,
    *,
    fraction: float = 0.01,
    adversarial: Sequence[Row] | None = None,
) -> Robustness:
    """Skill neurons of clean rows, scored on the task's adversarial rows.

    Args:
        classifiers: One for each seed of `scores`, in that order.
        task: Two classes, with adversarial rows.
        scores: Of these classifiers on the task's clean rows.
        fraction: Share of all neurons in a top set.
        adversarial: Rows from elsewhere, with the task's labels, instead of the task's own. Rows of one `"pair"`, here
            and among the test rows, are an original and its versions: how often all of them are answered rightly is
            reported too.

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
    rows = task.adversarial if adversarial is None else adversarial
    if not rows:
        raise ValueError(
            f"Task {task.name!r} has no adversarial rows. Pass some as `adversarial`, or give it some: "
            "`dataclasses.replace(task, adversarial=rows)`, or an adversarial.jsonl beside its other files."
        )
    check_scored(scores, task, classifiers)

    encoded, positions = classifiers[0].encode(rows), scores.meta["positions"]
    attacked = []
    for classifier, baseline in zip(classifiers, scores.baseline, strict=True):
        counts = collect(classifier, encoded, AboveCounts(baseline, 2), positions=positions)
        attacked.append(accuracy_from_counts(counts.above, counts.n))
    by_position = torch.stack(attacked)
    clean = classifiers[0].encode(task.test)
    answers = [(one.logits(clean), one.logits(encoded)) for one in classifiers]
    pairs = _pairs([*task.test, *rows])
    right = [
        torch.cat([on.argmax(1) == of.labels for on, of in zip(both, (clean, encoded), strict=True)]).double()
        for both in answers
    ]
    best = [Read.best(scores)]
    intervals = [accuracy_intervals(rows_right(classifiers, of, best), of) for of in (clean, encoded)]
    meta: dict[str, Json] = {"task": task.name, "model": scores.meta["model"]}
    if pairs:
        meta["if_independent"] = sum(_independent(one, pairs, len(clean)) for one in right) / len(right)
    return Robustness(
        seeds=tuple(scores.seeds),
        predictivity=scores.predictivity,
        test_predictivity=predictivity(scores.test_accuracy).mean(dim=0),
        adversarial_predictivity=predictivity(by_position).mean(dim=0),
        held_out=scores.held_out,
        adversarial=held_out_accuracy(scores.accuracy, by_position).mean(dim=0),
        clean_accuracy=tuple(evaluation_of(on, clean.labels, clean.groups) for on, _ in answers),
        adversarial_accuracy=tuple(evaluation_of(on, encoded.labels, encoded.groups) for _, on in answers),
        fraction=fraction,
        meta=meta,
        consistent=tuple(_consistent(one, pairs) for one in right) if pairs else None,
        n_pairs=len(pairs),
        best_interval=torch.cat(intervals),
    )


def _pairs(rows: Sequence[Row]) -> list[list[int]]:
    """Which rows are an original and its versions: those that share a `"pair"`."""
    found: dict[Json, list[int]] = {}
    for i, row in enumerate(rows):
        if (pair := row.get("pair")) is not None and pair == pair:
            found.setdefault(pair, []).append(i)
    return [members for members in found.values() if len(members) > 1]


def _consistent(right: Float[Tensor, " batch"], pairs: Sequence[Sequence[int]]) -> float:
    return sum(bool(right[list(members)].all()) for members in pairs) / len(pairs)


def _independent(right: Float[Tensor, " batch"], pairs: Sequence[Sequence[int]], n_clean: int) -> float:
    """The share of pairs answered rightly, were answers independent with the accuracy of their kind of rows."""
    mine = [i for members in pairs for i in members]
    share = {
        kind: sum(right[i].item() for i in of) / len(of)
        for kind in (False, True)
        if (of := [i for i in mine if (i < n_clean) == kind])
    }
    return sum(math.prod(share[i < n_clean] for i in members) for members in pairs) / len(pairs)


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
