"""F5, specificity: does each task have neurons of its own?

Source: Wang et al. 2022 (similarity of tasks by their neurons' predictivities). `task_similarity` needs
scores only; `cross_perturbation` runs each task's classifier under every task's perturbation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, check_answers
from skillneurons.findings.common import (
    ScoresOfTask,
    as_list,
    check_same_model,
    check_task,
    difference,
    ends,
    task_predictivity,
)
from skillneurons.findings.record import Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.interventions.curve import check_fractions
from skillneurons.interventions.gaps import gap_p, paired_gap, spread
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import PerturbOptions, SweepSettings, sweep
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import union_of_top
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import columns
from skillneurons.utilities.progress import called
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json


@dataclass(frozen=True, eq=False, repr=False)
class TaskSimilarity(Result):
    """How alike tasks are in the neurons that serve them.

    Args:
        tasks: Names.
        correlation: Spearman correlation of predictivities over all neurons.
        layer_correlation: The same within each layer.
        overlap: Share of two tasks' top sets that is shared.
        expected_overlap: Share that random sets of these sizes have in common.
        p: Chance that random sets share as many.
        merges: SciPy linkage matrix of average-linkage clustering with distance 1 - correlation.
        meta: Settings.

    Example:
        See `task_similarity`, which makes it.
    """

    tasks: tuple[str, ...]
    correlation: Float[Tensor, "task other_task"]
    layer_correlation: Float[Tensor, "layer task other_task"]
    overlap: Float[Tensor, "task other_task"]
    expected_overlap: Float[Tensor, "task other_task"]
    p: Float[Tensor, "task other_task"]
    merges: Float[np.ndarray, "merge 4"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_task_similarity")

    @property
    def order(self) -> list[int]:
        """Tasks in the order of the clustering's leaves, neighbours alike."""
        return leaves_list(self.merges).tolist()

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each pair of tasks."""
        rows = []
        for i in range(len(self.tasks)):
            for j in range(i + 1, len(self.tasks)):
                row: dict[str, Json] = {"task": self.tasks[i], "other_task": self.tasks[j]}
                for name in ("correlation", "overlap", "expected_overlap", "p"):
                    row[name] = getattr(self, name)[i, j].item()
                rows.append(row)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"TaskSimilarity\n{as_text(self.to_dataframe())}"


@checked
def task_similarity(
    scores: Mapping[str, ScoresOfTask], fraction: float = 0.02, *, per_layer: bool = True
) -> TaskSimilarity:
    """Rank correlation of predictivities and overlap of top neurons between every two tasks.

    Args:
        scores: For each task; a list of its subtasks' scores where it has several classes.
        fraction: Share of neurons in a top set.
        per_layer: Of each layer, or of the whole model.

    Raises:
        ValueError: Fewer than two tasks, scores of different models or positions, or a task whose neurons all score
            the same.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, task_similarity
        >>> names = ("movies", "restaurants", "replies")
        >>> scores = {name: find_skill_neurons(*load_example(name)) for name in names}
        >>> result = task_similarity(scores)
        >>> [result.tasks[i] for i in result.order]  # neighbours are alike
        ['replies', 'movies', 'restaurants']
        >>> list(result.to_dataframe())
        ['task', 'other_task', 'correlation', 'overlap', 'expected_overlap', 'p']
    """
    tasks = tuple(scores)
    if len(tasks) < 2:
        raise ValueError(f"Specificity compares tasks, but `scores` has {len(tasks)}. Pass scores of two or more.")
    flat = [one for task in tasks for one in as_list(scores[task])]
    check_same_model(flat)
    if len(positions := {one.meta["positions"] for one in flat}) > 1:
        raise ValueError(f"Scores of different positions, {sorted(positions)}, do not compare. Score all at the same.")
    values = [task_predictivity(scores[task]) for task in tasks]
    if constant := [task for task, value in zip(tasks, values, strict=True) if len(value.unique()) == 1]:
        raise ValueError(
            f"A rank correlation needs predictivities that differ between neurons, but those of {constant[0]!r} are "
            "all the same. Leave this task out."
        )
    sets = [union_of_top(as_list(scores[task]), fraction, per_layer) for task in tasks]
    n, n_layers = len(tasks), len(values[0])
    correlation, overlap, expected = (torch.eye(n).double() for _ in range(3))
    p = torch.full((n, n), float("nan")).double()
    by_layer = torch.eye(n).double().repeat(n_layers, 1, 1)
    for i in range(n):
        for j in range(i + 1, n):
            test = overlap_test(sets[i], sets[j])
            for a, b in ((i, j), (j, i)):
                correlation[a, b] = spearman(values[i].flatten(), values[j].flatten())
                overlap[a, b], expected[a, b], p[a, b] = test["overlap"], test["expected"], test["p"]
                for layer in range(n_layers):
                    by_layer[layer, a, b] = spearman(values[i][layer], values[j][layer])
    distance = np.clip(1 - correlation.numpy(), 0, None)
    merges = linkage(squareform(distance, checks=False), method="average")
    meta = {"fraction": fraction, "per_layer": per_layer, "seeds": max(len(one.seeds) for one in flat)}
    return TaskSimilarity(tasks, correlation, by_layer, overlap, expected, p, merges, meta)


@dataclass(frozen=True, eq=False, repr=False)
class CrossPerturbation(Result):
    """What each task loses when each task's neurons are perturbed.

    Args:
        tasks: Names; the first axis is the task whose neurons are perturbed, the second the task that is measured.
        accuracy: With the neurons perturbed.
        unperturbed: Accuracy of each task.
        accuracy_gap: Accuracy minus that under random sets of the same size: gap, and ends of its 95 % interval.
        margin_gap: The same for the right label's logit margin, in standard deviations of the unperturbed margin.
        meta: Settings.

    Example:
        See `cross_perturbation`, which makes it.
    """

    tasks: tuple[str, ...]
    accuracy: Float[Tensor, "perturbed measured"]
    unperturbed: Float[Tensor, " measured"]
    accuracy_gap: Float[Tensor, "perturbed measured 3"]
    margin_gap: Float[Tensor, "perturbed measured 3"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_cross_perturbation")

    @property
    def own_minus_other(self) -> Float[Tensor, " measured"]:
        """Each task's margin gap under its own neurons minus its mean under the others': negative if specific."""
        gap = self.margin_gap[..., 0]
        own = gap.diagonal()
        return own - (gap.sum(dim=0) - own) / (len(self.tasks) - 1)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each pair of perturbed and measured task."""
        rows = []
        for i, perturbed in enumerate(self.tasks):
            for j, measured in enumerate(self.tasks):
                row: dict[str, Json] = {"perturbed": perturbed, "measured": measured}
                row |= {"unperturbed": self.unperturbed[j].item(), "accuracy": self.accuracy[i, j].item()}
                for name, gap in (("accuracy", self.accuracy_gap), ("margin", self.margin_gap)):
                    row |= columns(f"{name}_gap", gap[i, j].tolist())
                rows.append(row | {"n_random": self.meta["n_random"]})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        how = f"top {self.meta['fraction']} perturbed by {self.meta['kind']}, {self.meta['n_random']} random sets"
        return f"CrossPerturbation({how})\n{as_text(self.to_dataframe())}"


@checked
def cross_perturbation(
    classifiers: Mapping[str, Classifier],
    tasks: Mapping[str, Task],
    scores: Mapping[str, ScoresOfTask],
    *,
    fraction: float = 0.1,
    kind: Kind = "mean",
    n_rows: int | None = None,
    **options: Unpack[PerturbOptions],
) -> CrossPerturbation:
    """Perturb task A's skill neurons and measure task B, for all A and B.

    Random sets are disjoint from every task's skill neurons where enough neurons are left, and in any case from A's.
    Costs, for each task, `1 + tasks x (1 + n_random)` passes over its test rows.

    Args:
        classifiers: For each task, on one model.
        tasks: Their rows.
        scores: Their neurons; a list of subtasks' scores where a task has several classes.
        fraction: Share of neurons perturbed.
        kind: See `Perturbation`.
        n_rows: Most test rows of a task to measure on.
        options: As `SweepSettings` has them: `n_random` (10 sets for each task's neurons), `positions`, `sigma`,
            `seed`, `per_layer`, `tokens_per_batch`, `resume_in` and `progress`, a function
            of which is called from 0 anew for each task that is measured.

    Raises:
        ValueError: Fewer than two tasks, names that differ between arguments, scores of different models or of another
            task, a classifier of other classes than its task, a fraction that is not between 0 and one half, or fewer
            than two random sets.

    Example:
        >>> from skillneurons import cross_perturbation, find_skill_neurons, load_example
        >>> pairs = {name: load_example(name) for name in ("movies", "restaurants")}
        >>> scores = {name: find_skill_neurons(*pair) for name, pair in pairs.items()}
        >>> classifiers = {name: classifier for name, (classifier, _) in pairs.items()}
        >>> tasks = {name: task for name, (_, task) in pairs.items()}
        >>> result = cross_perturbation(classifiers, tasks, scores, n_random=2)
        >>> result.margin_gap.shape  # perturbed task, measured task; gap, low, high
        torch.Size([2, 2, 3])
        >>> list(result.to_dataframe()["measured"])
        ['movies', 'restaurants', 'movies', 'restaurants']
    """
    check_options(options, PerturbOptions)
    names = tuple(tasks)
    if len(names) < 2 or set(names) != set(classifiers) or set(names) != set(scores):
        raise ValueError(
            f"The same two tasks or more are needed everywhere, but `tasks` are {names}, `classifiers` "
            f"{tuple(classifiers)}, `scores` {tuple(scores)}."
        )
    settings = SweepSettings(**options)
    settings.check_intervals()
    check_fractions((fraction,))
    flat = [one for name in names for one in as_list(scores[name])]
    for name in names:
        check_same_model(flat, classifiers[name].fingerprint)
        check_answers(classifiers[name], tasks[name])
        check_task(scores[name], tasks[name])
    skill = [union_of_top(as_list(scores[name]), fraction, settings.per_layer) for name in names]
    exclude = _spare(skill)
    random = [one.random_sets(settings.n_random, seed=settings.seed, exclude=exclude) for one in skill]
    sets = [*skill, *(draw for draws in random for draw in draws)]
    spreads = [spread(one, exclude) for one in skill]

    n = len(names)
    accuracy, unperturbed = torch.zeros(n, n).double(), torch.zeros(n).double()
    accuracy_gap, margin_gap = torch.zeros(n, n, 3).double(), torch.zeros(n, n, 3).double()
    for j, name in enumerate(names):
        classifier, task = classifiers[name], tasks[name]
        measured = task if n_rows is None else task.subset(n_rows, splits=("test",))
        perturb = settings.perturbation(kind).of(classifier, task)
        rows = settings.encoded(classifier, measured)
        telling = replace(settings, progress=called(settings.progress, f"cross-perturbation, {name}"))
        swept = sweep(classifier, rows, [(perturb, one) for one in sets], telling, name=f"{name}-measured")
        right, margins = swept.right, swept.margins
        margins = margins / margins[0].std().clamp_min(torch.finfo(margins.dtype).tiny)
        unperturbed[j], accuracy[:, j] = right[0].mean(), right[1 : n + 1].mean(dim=1)
        for gaps, values in ((accuracy_gap, right), (margin_gap, margins)):
            drawn = values[n + 1 :].unflatten(0, (n, settings.n_random))
            for i in range(n):
                gaps[i, j] = torch.tensor(paired_gap(values[1 + i], drawn[i], spreads[i], groups=rows.groups))
    meta = {"fraction": fraction, "kind": kind}
    meta |= {key: getattr(settings, key) for key in ("positions", "n_random", "seed")} | {"n_rows": n_rows}
    return CrossPerturbation(names, accuracy, unperturbed, accuracy_gap, margin_gap, meta)


def _spare(skill: Sequence[NeuronSet]) -> NeuronSet | None:
    """All tasks' neurons, for random sets to leave out, where enough others are left; None where not."""
    everything = reduce(or_, skill)
    most = torch.stack([one.per_layer for one in skill]).amax(0)
    return everything if bool((everything.per_layer + most < everything.mask.shape[1]).all()) else None


def _measure_similarity(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [Measured(task_similarity({one.task.name: one.scores for one in studies}, settings.fraction))]


def _measure_cross(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    result = cross_perturbation(
        {one.task.name: one.classifiers[0] for one in studies},
        {one.task.name: one.task for one in studies},
        {one.task.name: one.scores for one in studies},
        n_rows=settings.n_rows,
    )
    return [Measured(result)]


def _claims(records: Sequence[Record]) -> Claims:
    for measured in dict.fromkeys(one["measured"] for one in records):
        gaps = [one for one in records if one["measured"] == measured]
        own = next(ends(one, "margin_gap") for one in gaps if one["perturbed"] == measured)
        others = [ends(one, "margin_gap") for one in gaps if one["perturbed"] != measured]
        gap, low, high = (sum(parts) / len(others) for parts in zip(*others, strict=True))
        claim = "its own neurons cost it more margin than other tasks' (mean)"
        interval = difference((gap, low, high), own)
        yield measured, claim, interval, gap_p(interval, int(gaps[0].get("n_random", 10)))


register(Finding("F5-similarity", _measure_similarity, order=5, min_tasks=2))
register(Finding("F5-cross", _measure_cross, _claims, order=5.5, min_tasks=2))
