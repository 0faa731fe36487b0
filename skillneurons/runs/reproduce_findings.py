"""A table and a figure's panel for each finding of the paper, from several tasks with their classifiers and scores.

Each function of `FINDINGS` takes all studies and returns its parts, none where no task has what the finding needs.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.tuning import TuningConfig
from skillneurons.findings import (
    SeveralClasses,
    compare_places,
    cross_perturbation,
    existence,
    label_word_selectivity,
    necessity,
    origin,
    robustness,
    serves,
    several_classes,
    stability,
    survives_retuning,
    task_similarity,
    word_selectivity,
)
from skillneurons.findings.common import encoder_of
from skillneurons.findings.score_comparison import compare_scores
from skillneurons.interventions.curve import check_fractions
from skillneurons.interventions.perturbation import Kind, check_kinds
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.other_scores.table import rival_scores
from skillneurons.neurons.scores import NeuronScores
from skillneurons.plots import (
    plot_cross_perturbation,
    plot_existence,
    plot_necessity,
    plot_necessity_by_layer,
    plot_origin,
    plot_places,
    plot_robustness,
    plot_score_effects,
    plot_serves,
    plot_several_classes,
    plot_stability,
    plot_task_similarity,
    plot_word_selectivity,
)
from skillneurons.tasks.task import Task
from skillneurons.utilities.types import Row

Panel = Callable[[Axes], Any]
Part = tuple[pd.DataFrame, Panel]


@dataclass(frozen=True)
class ReproduceSettings:
    """What determines the numbers, besides model, tasks and seeds.

    Args:
        n_prompt: Soft vectors.
        tuning: Learning rate, steps and so on.
        fraction: Share of neurons in a top set.
        fractions: Shares perturbed.
        kinds: Interventions.
        n_rows: Most test rows of a task in a sweep.
        n_random: Most random sets for each cell.
        width: Half-width of the random sets' interval at which drawing stops.
        sigma: Of Gaussian noise.

    Example:
        >>> from skillneurons.runs.reproduce_findings import ReproduceSettings
        >>> ReproduceSettings(n_rows=50, kinds=("mean",)).fractions
        (0.03, 0.1, 0.3)
        >>> ReproduceSettings(fractions=(0.7,))
        Traceback (most recent call last):
        ValueError: `fractions` must lie above 0 and ...
    """

    n_prompt: int = 16
    tuning: TuningConfig = field(default_factory=TuningConfig)
    fraction: float = 0.01
    fractions: tuple[float, ...] = (0.03, 0.1, 0.3)
    kinds: tuple[Kind, ...] = ("mean", "resample", "zero", "gaussian")
    n_rows: int = 250
    n_random: int = 10
    width: float = 0.01
    sigma: float = 0.1

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        check_fractions(self.fractions)


@dataclass(frozen=True, eq=False)
class Study:
    """One task with its classifiers and scores: what the findings start from.

    Args:
        task: Its rows.
        subtasks: Its binary views.
        classifiers: One for each seed.
        scores: One for each subtask.
        folder: Where sweeps keep what is finished.
    """

    task: Task
    subtasks: tuple[Task, ...]
    classifiers: tuple[Classifier, ...]
    scores: tuple[NeuronScores, ...]
    folder: Path

    @property
    def binary(self) -> bool:
        return self.task.n_labels == 2


Compute = Callable[[Sequence[Study], ReproduceSettings], list[Part]]
Need = tuple[str, Callable[[Task], bool]]
"""What a task must have for a finding: in words, and as a check."""


def named(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """The table with the task's name as its first column."""
    return pd.concat([pd.Series(task, index=table.index, name="task"), table], axis=1)


def part(task: str, result: Any, plot: Callable[..., Any], **columns: Any) -> Part:
    """A result's table, named and with more columns, and its panel."""
    return named(result.to_dataframe().assign(**columns), task), lambda ax: plot(result, ax=ax)


def sweep_rows(study: Study, settings: ReproduceSettings) -> Sequence[Row]:
    """The test rows of a sweep."""
    return study.task.subset(settings.n_rows, splits=("test",)).test


# One function for each finding: for each task, or once, a table and a panel


def _existence(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    return [
        part(one.task.name, existence(one.classifiers, one.task, one.scores[0]), plot_existence)
        for one in studies
        if one.binary
    ]


def _stability(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    return [
        part(scores.meta["task"], stability(scores, settings.fraction), plot_stability)
        for one in studies
        for scores in one.scores
    ]


def _places(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for one in studies:
        subtask = one.subtasks[0]
        result = compare_places(one.classifiers, subtask, scores=one.scores[0], fraction=settings.fraction)
        parts.append(part(subtask.name, result, plot_places))
    return parts


def _sweep(study: Study, settings: ReproduceSettings, **options: Any):
    first = study.classifiers[0]
    return necessity(
        first,
        study.task,
        study.scores,
        **{"kinds": settings.kinds, "fractions": settings.fractions} | options,
        n_random=settings.n_random,
        width=settings.width,
        sigma=settings.sigma,
        rows=sweep_rows(study, settings),
        resume_in=study.folder / "sweeps",
    )


def _necessity(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        first, rivals = study.classifiers[0], {}
        if isinstance(first.model, HookedEncoder):
            rivals["label words"] = label_word_selectivity(first.model, first.verbalizer)
        for positions in ("prompt", "all"):
            result = _sweep(study, settings, positions=positions, rivals=rivals)
            parts.append(part(study.task.name, result, plot_necessity))
    return parts


def _layers(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        for scope in ("single", "cumulative"):
            result = _sweep(study, settings, scope=scope, kinds=("mean",), fractions=settings.fractions[-1:])
            parts.append(part(study.task.name, result, plot_necessity_by_layer))
    return parts


def _similarity(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    result = task_similarity({study.task.name: study.scores for study in studies}, settings.fraction)
    return [(result.to_dataframe(), lambda ax: plot_task_similarity(result, ax=ax))]


def _cross(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    result = cross_perturbation(
        {study.task.name: study.classifiers[0] for study in studies},
        {study.task.name: study.task for study in studies},
        {study.task.name: study.scores for study in studies},
        n_rows=settings.n_rows,
    )
    return [(result.to_dataframe(), lambda ax: plot_cross_perturbation(result, ax=ax))]


def _selectivity(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        first, scores = study.classifiers[0], study.scores[0]
        result = word_selectivity(encoder_of(first), scores, first.verbalizer, fraction=settings.fraction)
        shared = {f"label_words_{key}": result.overlap[key] for key in ("overlap", "expected", "p")}
        shared["label_words_rank_correlation"] = result.rank_correlation
        parts.append(part(scores.meta["task"], result, plot_word_selectivity, **shared))
    return parts


def _origin(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        if not study.binary:
            continue
        with warnings.catch_warnings():
            # The random model and shuffled labels are there to fail.
            warnings.filterwarnings("ignore", message="Tuning on")
            result = origin(study.classifiers[:1], study.task, config=settings.tuning, fraction=settings.fraction)
        parts.append(part(study.task.name, result, plot_origin))
    return parts


def _retuning(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    study, parts = studies[0], []
    results = survives_retuning(
        encoder_of(study.classifiers[0]),
        study.task,
        study.scores,
        kinds=settings.kinds,
        fractions=settings.fractions,
        n_random=settings.n_random,
        sigma=settings.sigma,
        config=settings.tuning,
        rows=sweep_rows(study, settings),
    )
    for method, result in results.items():

        def plot(r: Any, *, ax: Axes, m: str = method) -> Axes:
            ax = plot_necessity(r, ax=ax)
            ax.set_title(f"{r.meta['task']}, {m}, all positions, 1 seed", loc="left")
            return ax

        parts.append(part(study.task.name, result, plot, method=method, unperturbed=result.unperturbed.accuracy))
    return parts


def _robustness(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for one in studies:
        if one.binary and one.task.adversarial:
            result = robustness(one.classifiers, one.task, one.scores[0], fraction=settings.fraction)
            parts.append(part(one.task.name, result, plot_robustness))
    return parts


def _rivals(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        if not study.binary:
            continue
        first = study.classifiers[0]
        scores = rival_scores(first, study.task, n_probe_rows=1000)
        for positions in ("prompt", "all"):
            result = compare_scores(
                first,
                study.task,
                scores,
                fractions=settings.fractions,
                n_random=settings.n_random,
                positions=positions,
                rows=sweep_rows(study, settings),
            )
            parts.append(part(study.task.name, result, plot_score_effects, positions=positions))
    return parts


def _union(study: Study, settings: ReproduceSettings) -> SeveralClasses:
    fraction = 2 * settings.fraction
    return several_classes(
        study.classifiers, study.task, fraction=fraction, scores=study.scores, subtasks=study.subtasks
    )


def _several(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    return [part(one.task.name, _union(one, settings), plot_several_classes) for one in studies if not one.binary]


def _serves(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for one in studies:
        if not one.binary:
            small = one.task.subset(settings.n_rows, splits=("test",))
            result = serves(one.classifiers[0], small, _union(one, settings), n_random=settings.n_random)
            parts.append(part(one.task.name, result, plot_serves))
    return parts


FINDINGS: dict[str, Compute] = {
    "F1-existence": _existence,
    "F2-stability": _stability,
    "F3-prompts": _places,
    "F4-necessity": _necessity,
    "F4-layers": _layers,
    "F5-similarity": _similarity,
    "F5-cross": _cross,
    "F6-selectivity": _selectivity,
    "F7-origin": _origin,
    "F7-retuning": _retuning,
    "F10-robustness": _robustness,
    "rival-scores": _rivals,
    "several-classes": _several,
    "several-classes-serve": _serves,
}

_BINARY: Need = ("a task of two classes", lambda task: task.n_labels == 2)
_SEVERAL: Need = ("a task of three classes or more", lambda task: task.n_labels > 2)
NEEDS: dict[str, Need] = {
    "F1-existence": _BINARY,
    "F7-origin": _BINARY,
    "F10-robustness": (
        "a task of two classes with adversarial rows",
        lambda task: task.n_labels == 2 and bool(task.adversarial),
    ),
    "rival-scores": _BINARY,
    "several-classes": _SEVERAL,
    "several-classes-serve": _SEVERAL,
    "steering": _BINARY,
}
