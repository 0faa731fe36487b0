"""All findings for several tasks and seeds, into one folder: a table (CSV) and a figure for each, and a summary.

Resumable: each (task, seed) has its prompt and scores in files of their own, and each finding its table and figure;
what is there and whole is read, not computed again. `reproduction.json` holds the settings that every number depends
on.

Cost: one tuning and one scoring for each task and seed, two tunings more for each binary task (origin), and for the
first task two (other tuning methods) and nine of pruned models; then the sweeps, each on at most `n_rows` test rows.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TypedDict, Unpack

import matplotlib.pyplot as plt
import pandas as pd
import torch

from skillneurons.classifiers.prompts import check_label_words
from skillneurons.classifiers.tuning import check_tune_dtype
from skillneurons.findings.record import Finding, Measured, ReproduceSettings, Study
from skillneurons.models._load_model import load_model, load_tokenizer
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.neurons.scores import NeuronScores
from skillneurons.plots import save_figure
from skillneurons.plots.style import style
from skillneurons.runs._summary import registered, summary
from skillneurons.runs.folder import (
    FORMATS,
    REPRODUCTION,
    RunFolderError,
    as_json,
    claimed,
    name_of_run,
    note_table,
    read_table,
)
from skillneurons.runs.progress import Work, of_trials
from skillneurons.runs.trials import Trial, TrialResult, run_trials
from skillneurons.tasks._load_task import load_task
from skillneurons.tasks.class_words import pairing
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.progress import heard_by, told
from skillneurons.utilities.results import counted
from skillneurons.utilities.types import Library, Progress, Row


class WorkOptions(TypedDict, total=False):
    """Keywords of `reproduce` that say where tasks and models come from, and how the work is shared out."""

    source: str | Path | None
    on_event: Callable[[str], None] | None
    progress: Progress | bool
    jobs: int
    executor: Library
    device: str | None
    dtype: torch.dtype | str


@checked
def reproduce(
    tasks: Sequence[str | Task],
    *,
    model: str | Path | AnyModel,
    seeds: int | Sequence[int],
    out: str | Path,
    settings: ReproduceSettings | None = None,
    findings: Sequence[str] | None = None,
    **options: Unpack[WorkOptions],
) -> dict[str, pd.DataFrame]:
    """Tune and score every task with every seed, then run the findings.

    Args:
        tasks: Names for `load_task`, or tasks.
        model: An encoder, a TransformerBridge, or a name for `load_model`.
        seeds: How many (0, 1, …), or which.
        out: A folder; what is finished there is not computed again.
        settings: Prompt length, tuning, sweeps.
        findings: Their names; by default all that are registered (`findings.record`), save those only on request, and
            of a bridge those that read and replace no weights.
        options: `source`: folder with local data, see `load_task`. `on_event`: called with a line of text at each step.
            `progress`: bars or lines of how far each step is (True); False for neither, or a function that is called
            with (what is being done, done, total).
            `jobs`: trials (task and seed) at a time, in processes that load the model anew (1). `executor`: of
            submitit, for other machines; see `jobs.slurm_executor`. `device`: for a model given by name (the CPU).
            `dtype`: likewise, or its name (float32).

    Returns:
        The table of each finding that had something to measure, as written to `out`.

    Raises:
        ValueError: Too few seeds or tasks for a finding, no task of the classes that a named finding needs, a model
            whose weights it cannot read, or an unknown finding; before anything is computed.
        ChildProcessError: One of several processes was killed or failed; what the others did is kept.
        RunFolderError: `out` belongs to another model, other tasks, seeds or settings.
        StoreError: `reproduction.json` there is damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import TuningConfig, load_example
        >>> from skillneurons.runs._reproduce import reproduce
        >>> from skillneurons.findings.record import ReproduceSettings
        >>> classifier, task = load_example()
        >>> small = ReproduceSettings(n_prompt=2, tuning=TuningConfig(lr=0.05, steps=10))
        >>> what = {"seeds": 1, "findings": ["F1-existence"], "settings": small}
        >>> with TemporaryDirectory() as folder:
        ...     tables = reproduce([task], model=classifier.model, out=folder, **what)
        >>> tables["F1-existence"][["task", "seed", "majority"]]
             task  seed  majority
        0  movies     0       0.5
    """
    check_options(options, WorkOptions)
    settings, tell = settings or ReproduceSettings(), options.get("on_event") or (lambda line: None)
    source, device = options.get("source"), options.get("device")
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    chosen = _choose(findings)
    _check(chosen, tasks, seeds)
    loaded = [task if isinstance(task, Task) else load_task(task, source=source) for task in tasks]
    if findings is not None:
        _check_classes(chosen, loaded)
    if len({task.name for task in loaded}) < len(loaded):
        raise ValueError(f"Tasks need different names, but are {[task.name for task in loaded]}.")
    by_name = isinstance(model, str | Path)
    if by_name:  # before a model is loaded for them
        check_label_words(load_tokenizer(model), loaded)
        ours = load_model(model, device=device, dtype=options.get("dtype", torch.float32))
    else:
        ours = as_classifiable(model)
    check_label_words(ours.tokenizer, loaded)
    if not ours.has_weights:
        chosen = _without_weights(chosen, ours, named=findings is not None)
    check_tune_dtype(ours, settings.tuning)
    folder = Path(out)
    _claim(folder, ours, loaded, seeds, settings)
    run = name_of_run(folder / REPRODUCTION)
    labels = {task.name: run and f"{run} {task.name}" for task in loaded}
    for task in loaded:
        tell(f"{task}: {pairing(task.labels, task.label_words)}")
    jobs, executor = options.get("jobs", 1), options.get("executor")
    trials = [
        Trial(
            task,
            seed,
            folder / task.name / f"seed-{seed}",
            settings.n_prompt,
            settings.tuning,
            labels[task.name],
        )
        for task in loaded
        for seed in seeds
    ]
    for line in _left_to_do(of_trials(ours, trials, jobs), chosen, loaded, folder):
        tell(line)
    where = model if by_name else None
    # One listener for all that is told on the way.
    show = told(options.get("progress", True))
    with heard_by(show):
        how = {"jobs": jobs, "executor": executor, "device": device, "tell": tell, "progress": show}
        results = run_trials(trials, ours, source=where, **how)
        studies = [_study(task, results[i * len(seeds) :][: len(seeds)], folder) for i, task in enumerate(loaded)]
        tables = {}
        for i, finding in enumerate(chosen):
            show("findings", i, len(chosen))
            if (table := _read_or_compute(finding, studies, settings, folder, tell)) is not None:
                tables[finding.name] = table
        show("findings", len(chosen), len(chosen))
    # Of everything that the folder holds, whichever findings were asked for this time.
    everything = {name: done for name in registered() if (done := _finished(folder / f"{name}.csv")) is not None}
    store.write_atomically(folder / "summary.csv", summary(everything).to_csv(index=False).encode())
    return tables


def _left_to_do(work: Work, chosen: Sequence[Finding], tasks: Sequence[Task], folder: Path) -> Iterator[str]:
    """What is not finished, in words: of trials with the time that it takes, of findings which."""
    suited = [finding.name for finding in chosen if any(map(finding.suits, tasks))]
    left = [name for name in suited if not (folder / f"{name}.csv").is_file()]
    if work.parts:
        yield str(work)
    if left:
        names = "" if len(left) == len(suited) else f" ({', '.join(left)})"
        time = "; some perturb and tune anew, whose time comes on top"
        yield f"{counted(len(left), 'finding')} to measure{names}{time}"


def _read_or_compute(
    finding: Finding, studies: Sequence[Study], settings: ReproduceSettings, folder: Path, tell: Callable[[str], None]
) -> pd.DataFrame | None:
    """A finding's table, as it lies in the folder, or else computed and written there."""
    path = folder / f"{finding.name}.csv"
    if (table := _finished(path)) is not None:
        tell(f"{finding.name}: read from {path}")
        return table
    tell(f"{finding.name}: computing")
    if (table := _compute(finding, studies, settings, path)) is None:
        tell(f"{finding.name}: none of these tasks has what it needs")
    return table


def _compute(
    finding: Finding, studies: Sequence[Study], settings: ReproduceSettings, path: Path
) -> pd.DataFrame | None:
    """A finding's table, written beside its figure; None where nothing could be measured."""
    suited = [study for study in studies if finding.suits(study.task)]
    measured = list(finding.compute(suited, settings)) if suited else []
    if not measured:
        return None
    table = pd.concat([one.table() for one in measured], ignore_index=True)
    # The figure first: the table is the sign that both are there.
    _draw(measured, path.with_suffix(""))
    content = table.to_csv(index=False).encode()
    store.write_atomically(path, content)
    note_table(path, content)
    return table


def _finished(path: Path) -> pd.DataFrame | None:
    """A finding's table, where it and its figure are there and whole."""
    content = read_table(path)
    if content is None or not path.with_suffix(".png").is_file():
        return None
    try:
        return pd.read_csv(BytesIO(content))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        return None


def _choose(names: Sequence[str] | None) -> list[Finding]:
    """The findings of these names; by default all that need not be asked for by name."""
    known = registered()
    if names is None:
        return [finding for finding in known.values() if not finding.on_request]
    if not names or set(names) - set(known):
        raise ValueError(f"`findings` are among {', '.join(known)}, not {sorted(set(names) - set(known))}.")
    return [known[name] for name in names]


def _check(chosen: Sequence[Finding], tasks: Sequence[object], seeds: Sequence[int]) -> None:
    if not tasks or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"At least one task and one seed are needed, none twice, but there are {tasks} and {seeds}.")
    for finding in chosen:
        if len(seeds) < finding.min_seeds:
            raise ValueError(
                f"{finding.name} compares seeds, but `seeds` is {seeds}. Pass {_at_least(finding.min_seeds)}, or leave "
                "it out."
            )
        if len(tasks) < finding.min_tasks:
            raise ValueError(
                f"{finding.name} compares tasks, but there is {len(tasks)}. Pass {_at_least(finding.min_tasks)}, or "
                "leave it out."
            )


def _at_least(n: int) -> str:
    return "two or more" if n == 2 else f"{n} or more"


def _check_classes(chosen: Sequence[Finding], tasks: Sequence[Task]) -> None:
    """Refuse a finding that was asked for by name where none of the tasks has what it needs."""
    for finding in chosen:
        if finding.needs is not None and not any(map(finding.suits, tasks)):
            classes = ", ".join(f"{task.name} ({task.n_labels} classes)" for task in tasks)
            raise ValueError(
                f"{finding.name} needs {finding.needs.what}, but the tasks are {classes}. Add one, or leave "
                f"{finding.name} out."
            )


def _without_weights(chosen: Sequence[Finding], model: Model, *, named: bool) -> list[Finding]:
    """The findings that a bridge can have; an error where another was asked for by name."""
    left_out = [finding.name for finding in chosen if finding.reads_weights]
    if named and left_out:
        raise ValueError(
            f"{', '.join(left_out)} read or replace weights, which needs a HookedEncoder, but {model.cfg.source!r} is "
            "a TransformerBridge here. Leave them out."
        )
    return [finding for finding in chosen if not finding.reads_weights]


def _claim(
    folder: Path, model: Model, tasks: Sequence[Task], seeds: Sequence[int], settings: ReproduceSettings
) -> None:
    """Write what the folder's numbers depend on, or compare with what is there."""
    wanted = {
        "model": model.fingerprint(),
        "model_source": str(model.cfg.source),
        "tasks": {task.name: task.fingerprint for task in tasks},
        "adversarial": {task.name: _digest(task.adversarial) for task in tasks},
        "seeds": list(seeds),
        "settings": asdict(settings),
    }
    wanted, path = as_json(wanted), folder / REPRODUCTION
    more = {"versions": store.versions(), "classes": _classes(tasks)}
    found = claimed(path, wanted, {"settings": dict}, "Choose a new folder.", more)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise RunFolderError(
                f"{folder} holds results with {key} {found.get(key)}, but {value} was asked for. Choose another folder."
            )


def _classes(tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """The word that answers for each class, for a reader."""
    return {task.name: dict(zip(task.labels, task.label_words, strict=True)) for task in tasks}


def _digest(rows: Sequence[Row]) -> str:
    """What tells adversarial rows from others: a task's fingerprint is of its three splits."""
    return hashlib.sha256(json.dumps([dict(row) for row in rows], sort_keys=True, default=int).encode()).hexdigest()[
        :16
    ]


def _study(task: Task, results: Sequence[TrialResult], folder: Path) -> Study:
    merged = tuple(NeuronScores.merge_seeds(parts) for parts in zip(*(r.scores for r in results), strict=True))
    classifiers = tuple(result.classifier for result in results)
    return Study(task, tuple(task.subtasks()), classifiers, merged, folder / task.name)


def _draw(panels: Sequence[Measured], stem: Path) -> None:
    """One figure with a panel for each task."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        figure, axes = plt.subplots(
            rows, columns, figsize=(5.2 * columns, 4.0 * rows), squeeze=False, layout="constrained"
        )
        for i, ax in enumerate(axes.flat):
            if i < len(panels):
                panels[i].draw(ax)
            else:
                figure.delaxes(ax)
        save_figure(axes[0, 0], stem, formats=FORMATS)
