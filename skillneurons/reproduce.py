"""All findings for several tasks and seeds, into one folder: a table (CSV) and a figure for each finding.

Resumable: each (task, seed) has its prompt and scores in files of their own, and each finding its table and figure;
what is there and whole is read, not computed again. `reproduction.json` holds the settings that every number depends
on.

Cost: one tuning and one scoring for each task and seed, two tunings more for each binary task (origin) and two for the
first task (other tuning methods); then the sweeps, each on at most `n_rows` test rows.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from skillneurons import store
from skillneurons.classifier import Classifier
from skillneurons.encoder import HookedEncoder
from skillneurons.evaluation import Kind
from skillneurons.findings import (
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
from skillneurons.loading import load_task
from skillneurons.plots import (
    plot_cross_perturbation,
    plot_existence,
    plot_necessity,
    plot_necessity_by_layer,
    plot_origin,
    plot_places,
    plot_robustness,
    plot_several_classes,
    plot_stability,
    plot_task_similarity,
    plot_word_selectivity,
    save_figure,
)
from skillneurons.plots.style import style
from skillneurons.runs import RunFolderError
from skillneurons.scores import NeuronScores, find_skill_neurons
from skillneurons.tasks import Task
from skillneurons.tuning import TuningConfig, tune_prompt

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
    """

    n_prompt: int = 16
    tuning: TuningConfig = field(default_factory=TuningConfig)
    fraction: float = 0.01
    fractions: tuple[float, ...] = (0.03, 0.1, 0.3)
    kinds: tuple[Kind, ...] = ("mean", "resample", "zero", "gaussian")
    n_rows: int = 500
    n_random: int = 12
    width: float = 0.01
    sigma: float = 0.1


@dataclass(frozen=True, eq=False)
class Study:
    """One task with its classifiers and scores: what the findings start from. `scores` has one for each subtask."""

    task: Task
    subtasks: tuple[Task, ...]
    classifiers: tuple[Classifier, ...]
    scores: tuple[NeuronScores, ...]

    @property
    def binary(self) -> bool:
        return self.task.n_labels == 2


Compute = Callable[[Sequence[Study], ReproduceSettings], list[Part]]


def reproduce(
    tasks: Sequence[str | Task],
    *,
    model: str | Path | HookedEncoder,
    seeds: int | Sequence[int],
    out: str | Path,
    source: str | Path | None = None,
    settings: ReproduceSettings | None = None,
    findings: Sequence[str] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Tune and score every task with every seed, then run the findings.

    Args:
        tasks: Names for `load_task`, or tasks.
        model: An encoder, or a name for `HookedEncoder.from_pretrained`.
        seeds: How many (0, 1, …), or which.
        out: A folder; what is finished there is not computed again.
        source: Folder with local data, see `load_task`.
        settings: Prompt length, tuning, sweeps.
        findings: Which of `FINDINGS`; all by default.
        on_event: Called with a line of text at each step.

    Returns:
        The table of each finding that had something to measure, as written to `out`.

    Raises:
        ValueError: Too few seeds or tasks for a finding, or an unknown finding; before anything is computed.
        RunFolderError: `out` belongs to another model, other tasks, seeds or settings.
    """
    settings, tell = settings or ReproduceSettings(), on_event or (lambda line: None)
    chosen = tuple(FINDINGS) if findings is None else tuple(findings)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    _check(chosen, tasks, seeds)
    loaded = [task if isinstance(task, Task) else load_task(task, source=source) for task in tasks]
    if len({task.name for task in loaded}) < len(loaded):
        raise ValueError(f"Tasks need different names, but are {[task.name for task in loaded]}.")
    encoder = model if isinstance(model, HookedEncoder) else HookedEncoder.from_pretrained(model)
    folder = Path(out)
    _claim(folder, encoder, loaded, seeds, settings)

    studies = [_study(encoder, task, seeds, folder / task.name, settings, tell) for task in loaded]
    tables = {}
    for name in chosen:
        path = folder / f"{name}.csv"
        if path.exists() and path.with_suffix(".png").exists():
            tell(f"{name}: read from {path}")
            tables[name] = pd.read_csv(path)
            continue
        tell(f"{name}: computing")
        parts = FINDINGS[name](studies, settings)
        if not parts:
            tell(f"{name}: none of these tasks has what it needs")
            continue
        tables[name] = pd.concat([table for table, _ in parts], ignore_index=True)
        # The figure first: the table is the sign that both are there.
        _draw([panel for _, panel in parts], folder / name)
        store.write_atomically(path, tables[name].to_csv(index=False).encode())
    return tables


def _check(chosen: Sequence[str], tasks: Sequence[Any], seeds: Sequence[int]) -> None:
    unknown = set(chosen) - set(FINDINGS)
    if unknown or not chosen:
        raise ValueError(f"`findings` are among {', '.join(FINDINGS)}, not {sorted(unknown)}.")
    if not tasks or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"At least one task and one seed are needed, none twice, but there are {tasks} and {seeds}.")
    if "F2-stability" in chosen and len(seeds) < 2:
        raise ValueError(f"F2-stability compares seeds, but `seeds` is {seeds}. Pass two or more, or leave it out.")
    needs_tasks = [name for name in chosen if name.startswith("F5")]
    if needs_tasks and len(tasks) < 2:
        raise ValueError(
            f"{needs_tasks[0]} compares tasks, but there is {len(tasks)}. Pass two or more, or leave it out."
        )


def _claim(
    folder: Path, model: HookedEncoder, tasks: Sequence[Task], seeds: Sequence[int], settings: ReproduceSettings
) -> None:
    """Write what the folder's numbers depend on, or compare with what is there."""
    wanted = {
        "model": model.fingerprint(),
        "model_source": str(model.cfg.source),
        "tasks": {task.name: task.fingerprint for task in tasks},
        "seeds": list(seeds),
        "settings": asdict(settings),
    }
    wanted = json.loads(json.dumps(wanted))
    path = folder / "reproduction.json"
    if not path.exists():
        store.write_json(path, wanted | {"versions": store.versions()})
        return
    found = json.loads(path.read_text())
    for key, value in wanted.items():
        if found.get(key) != value:
            raise RunFolderError(
                f"{folder} holds results with {key} {found.get(key)}, but {value} was asked for. Choose another folder."
            )


def _study(
    model: HookedEncoder,
    task: Task,
    seeds: Sequence[int],
    folder: Path,
    settings: ReproduceSettings,
    tell: Callable[[str], None],
) -> Study:
    subtasks = task.subtasks()
    classifiers, by_subtask = [], [[] for _ in subtasks]
    for seed in seeds:
        path = folder / f"seed-{seed}"
        classifier = _load(path / "classifier", lambda p: Classifier.load(p, model))
        if classifier is None:
            tell(f"{task.name}, seed {seed}: tuning")
            classifier = tune_prompt(
                model, task, n_prompt=settings.n_prompt, seed=seed, config=settings.tuning, progress=False
            )
            classifier.save(path / "classifier")
        classifiers.append(classifier)
        for i, subtask in enumerate(subtasks):
            scores = _load(path / f"scores-{i}", NeuronScores.load)
            if scores is None:
                tell(f"{subtask.name}, seed {seed}: scoring")
                scores = find_skill_neurons(classifier, subtask)
                scores.save(path / f"scores-{i}")
            by_subtask[i].append(scores)
    merged = tuple(NeuronScores.merge_seeds(parts) for parts in by_subtask)
    return Study(task, tuple(subtasks), tuple(classifiers), merged)


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    """What the file holds; None where it is missing or damaged."""
    try:
        return load(path)
    except FileNotFoundError:
        return None
    except store.StoreError as error:
        warnings.warn(f"{error} It is computed anew.", stacklevel=2)
        return None


def _draw(panels: Sequence[Panel], stem: Path) -> None:
    """One figure with a panel for each task."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        figure, axes = plt.subplots(
            rows, columns, figsize=(5.2 * columns, 4.0 * rows), squeeze=False, layout="constrained"
        )
        for i, ax in enumerate(axes.flat):
            if i < len(panels):
                panels[i](ax)
            else:
                figure.delaxes(ax)
        save_figure(axes[0, 0], stem)


def _named(table: pd.DataFrame, task: str) -> pd.DataFrame:
    return pd.concat([pd.Series(task, index=table.index, name="task"), table], axis=1)


# One function for each finding: for each task, or once, a table and a panel


def _existence(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        if study.binary:
            result = existence(study.classifiers, study.task, study.scores[0])
            parts.append(
                (_named(result.to_dataframe(), study.task.name), lambda ax, r=result: plot_existence(r, ax=ax))
            )
    return parts


def _stability(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        for scores in study.scores:
            result = stability(scores, settings.fraction)
            table = _named(result.to_dataframe(), scores.meta["task"])
            parts.append((table, lambda ax, r=result: plot_stability(r, ax=ax)))
    return parts


def _places(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        result = compare_places(
            study.classifiers, study.subtasks[0], scores=study.scores[0], fraction=settings.fraction
        )
        table = _named(result.to_dataframe(), study.subtasks[0].name)
        parts.append((table, lambda ax, r=result: plot_places(r, ax=ax)))
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
        rows=study.task.subset(settings.n_rows, splits=("test",)).test,
    )


def _necessity(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        first = study.classifiers[0]
        rivals = {"label words": label_word_selectivity(encoder_of(first), first.verbalizer)}
        for positions in ("prompt", "all"):
            result = _sweep(study, settings, positions=positions, rivals=rivals)
            table = _named(result.to_dataframe(), study.task.name)
            parts.append((table, lambda ax, r=result: plot_necessity(r, ax=ax)))
    return parts


def _layers(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        for scope in ("single", "cumulative"):
            result = _sweep(study, settings, scope=scope, kinds=("mean",), fractions=settings.fractions[-1:])
            table = _named(result.to_dataframe(), study.task.name)
            parts.append((table, lambda ax, r=result: plot_necessity_by_layer(r, ax=ax)))
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
        first = study.classifiers[0]
        result = word_selectivity(encoder_of(first), study.scores[0], first.verbalizer, fraction=settings.fraction)
        table = _named(result.to_dataframe(), study.scores[0].meta["task"])
        parts.append((table, lambda ax, r=result: plot_word_selectivity(r, ax=ax)))
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
        parts.append((_named(result.to_dataframe(), study.task.name), lambda ax, r=result: plot_origin(r, ax=ax)))
    return parts


def _retuning(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    study, parts = studies[0], []
    results = survives_retuning(
        encoder_of(study.classifiers[0]),
        study.task,
        study.scores,
        fractions=settings.fractions,
        n_random=settings.n_random,
        rows=study.task.subset(settings.n_rows, splits=("test",)).test,
    )
    for method, result in results.items():
        table = result.to_dataframe().assign(method=method, unperturbed=result.unperturbed.accuracy)

        def panel(ax: Axes, r: Any = result, m: str = method) -> None:
            plot_necessity(r, ax=ax).set_title(f"{r.meta['task']}, {m}, all positions, 1 seed", loc="left")

        parts.append((_named(table, study.task.name), panel))
    return parts


def _robustness(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        if study.binary and study.task.adversarial:
            result = robustness(study.classifiers, study.task, study.scores[0], fraction=settings.fraction)
            table = _named(result.to_dataframe(), study.task.name)
            parts.append((table, lambda ax, r=result: plot_robustness(r, ax=ax)))
    return parts


def _several(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        if study.binary:
            continue
        found = several_classes(
            study.classifiers, study.task, fraction=2 * settings.fraction, scores=study.scores, subtasks=study.subtasks
        )
        small = study.task.subset(settings.n_rows, splits=("test",))
        table = serves(study.classifiers[0], small, found).to_dataframe()
        parts.append((_named(table, study.task.name), lambda ax, r=found: plot_several_classes(r, ax=ax)))
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
    "several-classes": _several,
}
