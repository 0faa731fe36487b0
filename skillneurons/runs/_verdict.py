"""What a run found, in sentences: first whether anything, against what luck would give."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation
from skillneurons.classifiers.tuning import collapsed
from skillneurons.neurons.luck import Search
from skillneurons.tasks.task import Task

SHOWN = ("subtask", "layer", "neuron", "predictivity", "luck", "held_out", "low", "high", "p_adjusted")
"""Columns of `best_of_all` that a reader needs first."""


def verdict(
    searches: Sequence[Search], evaluations: Sequence[tuple[int | None, Evaluation]], perturbed: Evaluation | None
) -> tuple[str, ...]:
    """The sentences that stand above a run's tables.

    Args:
        searches: Of each binary subtask; those that found nothing come first.
        evaluations: Of each prompt on test rows, with its seed.
        perturbed: Of the prompt whose neurons are perturbed, on the rows of the perturbation.

    Example:
        >>> from skillneurons import evaluate, find_skill_neurons, load_example
        >>> from skillneurons.neurons.luck import searched
        >>> classifier, task = load_example()
        >>> found = searched(find_skill_neurons(classifier, task))
        >>> lines = verdict([found], [(0, evaluate(classifier, task.test))], None)
        >>> lines[0][:24]
        'Nothing found on movies:'
    """
    lines = [str(one) for one in sorted(searches, key=lambda one: not one.nothing)]
    for seed, one in evaluations:
        if stands_at_majority(one):
            lines.append(f"The prompt of seed {seed} answers no better than always giving one answer: {_beside(one)}.")
    if perturbed is not None and stands_at_majority(perturbed):
        lines.append(
            "Perturbing says nothing about accuracy here, which is no better than always giving one answer before "
            f"anything is perturbed: {_beside(perturbed)}. Look at margins, or tune a better prompt."
        )
    return tuple(lines)


def tuning_warnings(classifiers: Sequence[Classifier], task: Task) -> Iterator[str]:
    """What tuning had to warn of, also where it was done before, or in another process."""
    labels = torch.tensor([row["label"] for row in task.validation])
    for one in classifiers:
        if (message := collapsed(one.history, labels, task.name, one.prompt.seed)) is not None:
            yield message


def best_of_all(best: Sequence[pd.DataFrame], subtasks: Sequence[str]) -> pd.DataFrame:
    """One table of the subtasks' best neurons, each with the name of its subtask in front."""
    tables = [table.assign(subtask=name) for table, name in zip(best, subtasks, strict=True)]
    joined = pd.concat(tables, ignore_index=True)
    return joined.loc[:, ["subtask", *joined.columns.drop("subtask")]]


def stands_at_majority(evaluation: Evaluation) -> bool:
    """Whether accuracy is not told apart from that of always giving the most frequent answer."""
    return evaluation.interval[0] <= evaluation.majority


def _beside(one: Evaluation) -> str:
    low, high = one.interval
    return (
        f"accuracy {one.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}), majority {one.majority:.3f}, on "
        f"{one.n:,} rows"
    )
