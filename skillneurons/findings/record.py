"""What a finding is, and the registry that `reproduce` walks: each finding has its record beside its code.

A finding is a file that measures, a figure that draws what it measured, and one `register(Finding(...))` at the file's
end. Nothing else names it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.tuning import TuningConfig
from skillneurons.interventions.curve import check_fractions
from skillneurons.interventions.perturbation import Kind, check_kinds
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.lazy import FIGURES
from skillneurons.utilities.types import Json, Library, Row

Ends: TypeAlias = tuple[float, float, float]
"""A number with the lower and the upper end of its interval."""
Record: TypeAlias = dict[str, Json]
"""One row of a finding's table."""
Claims: TypeAlias = Iterator[tuple[str, str, Ends] | tuple[str, str, Ends, float]]
"""(task, claim, effect) for each, and the p-value where there is a test beside the interval."""


@checked
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
        width: Half-width of the random sets' interval at which drawing stops, which widens intervals of gaps; by
            default all are drawn.
        sigma: Of Gaussian noise.

    Example:
        >>> from skillneurons.findings.record import ReproduceSettings
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
    width: float | None = None
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

    def smaller(self, settings: ReproduceSettings) -> Task:
        """The task with the test rows of a sweep."""
        return self.task.subset(settings.n_rows, splits=("test",))

    def sweep_rows(self, settings: ReproduceSettings) -> Sequence[Row]:
        """The test rows of a sweep."""
        return self.smaller(settings).test


@dataclass(frozen=True, eq=False)
class Measured:
    """One panel of a finding: a result, and what its table and figure have beyond it.

    Args:
        result: Has `to_dataframe` and `plot`.
        task: First column of the table; None where the result's table names its tasks.
        columns: More columns, at the end.
        figure: Another figure than the result's own, by its name among the plots.
        title: Instead of the figure's.
    """

    result: Library
    task: str | None = None
    columns: Mapping[str, Json] = field(default_factory=dict)
    figure: str | None = None
    title: str | None = None

    def table(self) -> pd.DataFrame:
        """The result's table with its additional columns."""
        table = self.result.to_dataframe().assign(**self.columns)
        if self.task is None:
            return table
        return pd.concat([pd.Series(self.task, index=table.index, name="task"), table], axis=1)

    def draw(self, ax: Library) -> None:
        """The figure, on a panel of a larger one."""
        drawn = FIGURES[self.figure](self.result, ax=ax) if self.figure else self.result.plot(ax=ax)
        if self.title is not None:
            drawn.set_title(self.title, loc="left")


@dataclass(frozen=True)
class Need:
    """What a task must have for a finding.

    Args:
        what: In words, for messages.
        suits: Whether a task has it.
    """

    what: str
    suits: Callable[[Task], bool]


BINARY = Need("a task of two classes", lambda task: task.n_labels == 2)
SEVERAL = Need("a task of three classes or more", lambda task: task.n_labels > 2)


@dataclass(frozen=True)
class Finding:
    """What `reproduce` needs to know of a finding.

    Args:
        name: Of its table and figure.
        compute: The studies whose tasks suit, and settings, in; what was measured out: one panel for each task, or one
            for all, and none where there is too little.
        claims: From the rows of its table, for the summary; by default it makes none.
        order: Place among the findings; by default behind all others.
        needs: What a task must have; tasks that lack it are left out.
        min_tasks: Fewest tasks.
        min_seeds: Fewest seeds.
        reads_weights: Reads or replaces weights, which a bridge does not have.
        on_request: Only where it is named.

    Example:
        >>> from skillneurons.findings.record import Finding, Measured
        >>> from skillneurons.findings import stability
        >>> def measure(studies, settings):
        ...     return [Measured(stability(one.scores[0], settings.fraction), one.task.name) for one in studies]
        >>> Finding("my-stability", measure, min_seeds=2).on_request
        False
    """

    name: str
    compute: Callable[[Sequence[Study], ReproduceSettings], Iterable[Measured]]
    claims: Callable[[Sequence[Record]], Claims] | None = None
    order: int | float = inf
    needs: Need | None = None
    min_tasks: int = 1
    min_seeds: int = 1
    reads_weights: bool = False
    on_request: bool = False

    def suits(self, task: Task) -> bool:
        return self.needs is None or self.needs.suits(task)


_FINDINGS: dict[str, Finding] = {}


def register(finding: Finding) -> Finding:
    """Add a finding to those that `reproduce` and `summary` know.

    Raises:
        ValueError: There is one of that name, or its name is no file's.
    """
    there = _FINDINGS.get(finding.name)
    # A notebook's cell that is run again registers the same function anew.
    if there is not None and _origin(there) != _origin(finding):
        raise ValueError(f"A finding {finding.name!r} is registered already. Choose another name.")
    # Its table and figure are files of this name, beside `summary.csv` and the tasks' folders.
    if not finding.name or finding.name == "summary" or finding.name != Path(finding.name).name:
        raise ValueError(f"A finding's name names its table and figure, but {finding.name!r} cannot. Choose another.")
    _FINDINGS[finding.name] = finding
    return finding


def _origin(finding: Finding) -> tuple[str, str]:
    return finding.compute.__module__, finding.compute.__qualname__


def registered() -> dict[str, Finding]:
    """All findings by name, in their order."""
    return {finding.name: finding for finding in sorted(_FINDINGS.values(), key=lambda finding: finding.order)}
