"""What several findings need: checks of their input, and what claims are made of."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.record import Claims, Ends, Record
from skillneurons.interventions.gaps import gap_p
from skillneurons.models.bridge import as_encoder
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.intervals import clopper_pearson

ScoresOfTask: TypeAlias = NeuronScores | Sequence[NeuronScores]
"""Scores of a binary task, or of each subtask of a task of several classes."""


def as_list(scores: ScoresOfTask) -> list[NeuronScores]:
    """The scores of each subtask; a binary task is its own only one."""
    return [scores] if isinstance(scores, NeuronScores) else list(scores)


def task_predictivity(scores: ScoresOfTask) -> Float[Tensor, "layer neuron"]:
    """Predictivity of a task; the mean over its subtasks where it has several classes."""
    return torch.stack([one.predictivity.double() for one in as_list(scores)]).mean(dim=0)


def check_same_model(scores: Sequence[NeuronScores], model: str | None = None) -> None:
    """Raise unless all scores are of one model (the one with fingerprint `model`, if given) and one shape."""
    if not scores:
        raise ValueError("`scores` is empty; pass what `find_skill_neurons` returns.")
    for one in scores:
        expected = (model or scores[0].meta["model"], tuple(scores[0].predictivity.shape))
        came = (one.meta["model"], tuple(one.predictivity.shape))
        if came != expected:
            raise ValueError(
                f"Scores must be of one model, {expected[0]} with layers and neurons {expected[1]}, but those of "
                f"{one.meta.get('task')!r} are of {came[0]} with {came[1]}. Score every task on the same model."
            )


def check_scored(scores: NeuronScores, task: Task, classifiers: Sequence[Classifier]) -> None:
    """Raise unless the scores are of these classifiers on the task's rows: so numbers side by side belong together."""
    if not classifiers:
        raise ValueError("`classifiers` is empty; pass those that were scored.")
    check_same_model([scores], classifiers[0].fingerprint)
    seeds = [classifier.prompt.seed for classifier in classifiers]
    if seeds != list(scores.seeds):
        raise ValueError(f"`classifiers` have seeds {seeds}, but `scores` {scores.seeds}. Pass those that were scored.")
    check_same_rows(scores, task)


def check_same_rows(scores: NeuronScores, task: Task) -> None:
    """Raise unless the scores are of the task's rows."""
    if scores.meta["task_fingerprint"] != task.fingerprint:
        raise ValueError(
            f"`scores` are of {scores.meta['task']!r}, but not of these rows of {task.name!r}. Pass the task that was "
            "scored, or score this one."
        )


def check_task(scores: ScoresOfTask, task: Task) -> None:
    """Raise unless the scores are the task's or its subtasks', by name: a smaller cut of the rows is the same task."""
    for one in as_list(scores):
        if one.meta["task"] != task.name and not one.meta["task"].startswith(f"{task.name}:"):
            raise ValueError(
                f"Scores of {task.name!r} or of its subtasks are needed, but came for {one.meta['task']!r}."
            )


def check_binary(classifiers: Sequence[Classifier], task: Task) -> None:
    """Raise unless the task and every classifier have the same two classes, so that accuracies mean the same."""
    for classifier in classifiers:
        if task.n_labels != 2 or tuple(classifier.labels) != tuple(task.labels):
            raise ValueError(
                f"A task of two classes and classifiers tuned on it are needed, but {task.name!r} has the classes "
                f"{tuple(task.labels)} and a classifier answers {tuple(classifier.labels)}. Of several classes, tune "
                "on a binary view (`task.binary(first, second)`, `task.one_vs_rest(label)`) and pass that, or take the "
                "union over subtasks: `several_classes`."
            )


def held_out_interval(accuracy: float, n: int) -> tuple[float, float]:
    """95 % interval of one neuron's held-out accuracy over the choice of the `n` test rows (Clopper-Pearson).

    For a mean over seeds too, where it is conservative: each row then gives a share between 0 and 1, which varies no
    more than a hit or a miss with the same mean. That seeds differ, and that the neuron was chosen, is not in it.

    Example:
        >>> held_out_interval(0.75, 100)
        (0.653..., 0.831...)
    """
    return clopper_pearson(round(accuracy * n), n)


def ends_of(intervals: Float[Tensor, "accuracy 2"] | None, i: int, accuracy: float, n: int) -> tuple[float, float]:
    """Ends of the `i`-th interval; where a result of an earlier version has none, `held_out_interval` of `n` rows."""
    if intervals is None:
        return held_out_interval(accuracy, n)
    low, high = intervals[i].tolist()
    return low, high


def encoder_of(classifier: Classifier) -> HookedEncoder:
    """The classifier's model, where a finding needs to read or replace its weights.

    Raises:
        TypeError: The model is a bridge to another library's.
    """
    return as_encoder(classifier.model, "This finding, which reads or replaces weights,")


# For claims: numbers with intervals, from the rows of a finding's table.


def difference(one: Ends, other: Ends) -> Ends:
    """One number minus another: Newcombe's hybrid interval (1998, method 10).

    Example:
        >>> [round(end, 3) for end in difference((0.8, 0.7, 0.87), (0.6, 0.5, 0.7))]
        [0.2, 0.059, 0.322]
    """
    (p, p_low, p_high), (q, q_low, q_high) = one, other
    return p - q, p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def ends(record: Record, name: str) -> Ends:
    """A column and those of its interval."""
    return record[name], record[f"{name}_low"], record[f"{name}_high"]


def paired(record: Record, name: str, one: Ends, other: Ends) -> Ends:
    """A comparison on the same rows that a table has as a column; in tables of earlier versions, unpaired and wider."""
    return ends(record, name) if name in record else difference(one, other)


def by_task(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The rows of each task, in the table's order."""
    tasks = dict.fromkeys(one["task"] for one in records)
    return {task: [one for one in records if one["task"] == task] for task in tasks}


def mean_of(records: Sequence[Record], name: str) -> float:
    """Mean of a column."""
    return sum(one[name] for one in records) / len(records)


def sweep_claims(records: Sequence[Record], claim: Callable[[Record, float], str]) -> Claims:
    """Of a necessity table: what skill neurons at the largest share cost beyond random ones, under each intervention.

    Args:
        records: Its rows.
        claim: In words, from a row and the share.
    """
    largest = max(one["fraction"] for one in records)
    for one in records:
        if one["group"] == "skill" and one["fraction"] == largest:
            gap, low, high = ends(one, "margin_gap")
            p = gap_p((gap, low, high), int(one["n_draws"]))
            yield one["task"], claim(one, largest), (-gap, -high, -low), p
