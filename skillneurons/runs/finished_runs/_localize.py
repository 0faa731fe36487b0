"""Are a finished run's neurons the ones, or any of many alike? Its localization, kept and reported with the run."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

from skillneurons.findings.localization import Localization, LocalizationOptions, localization
from skillneurons.models.bridge import AnyModel
from skillneurons.plots import plot_localization, plot_writers, save_figure
from skillneurons.runs._open_run import OpenedRun, open_run
from skillneurons.runs.folder import FORMATS, LOCALIZATION, RunFolder, as_json
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.types import Json, Progress


def localize_run(
    run: str | Path,
    *,
    task: Task | None = None,
    source: str | Path | None = None,
    model: AnyModel | None = None,
    device: str = "cpu",
    progress: Progress | bool = True,
    **options: Unpack[LocalizationOptions],
) -> Localization:
    """The localization of a finished run's skill neurons, written into its folder, with figures and for its report.

    What is there already, of the same prompts, share and options, is read.

    Args:
        run: The run's folder; of a task of two classes.
        task: The run's, where it is at hand; it is loaded again by default.
        source: The file or folder with the task's rows, where they are no longer where the run read them.
        model: The run's, where `load_model` does not find it.
        device: For the model that is loaded.
        progress: As `localization` has it.
        options: As `localization` has them.

    Raises:
        FileNotFoundError: The folder holds no finished run, or the rows are gone.
        ValueError: The task has more than two classes.

    Example:
        >>> localize_run("runs/nothing")
        Traceback (most recent call last):
        FileNotFoundError: runs/nothing needs to hold a finished run, but has no run.json. Run `skillneurons find`.
    """
    opened, folder = open_run(run, model=model, device=device), RunFolder(Path(run))
    numbers = folder.finished("A localization")
    scores, fraction = opened.binary_scores(), opened.settings["settings"]["fraction"]
    found = store.read_or_compute(
        folder.path / LOCALIZATION,
        lambda path: _load(path, opened, options),
        lambda: localization(
            opened.classifiers, task or opened.task(source), scores, fraction=fraction, progress=progress, **options
        ),
        [],
        (folder.run, LOCALIZATION),
    )
    rows = [{key: value for key, value in asdict(row).items() if not _is_nan(value)} for row in found.rows]
    told = as_json({"verdict": found.verdict, "names": list(found.names), "rows": rows})
    if numbers.get(LOCALIZATION) == told:
        return found  # Its figures are there; drawn anew they would be other files than the run noted.
    save_figure(plot_localization(found), folder.figures / LOCALIZATION, formats=FORMATS)
    if found.writers is not None:
        save_figure(plot_writers(found), folder.figures / "writers", formats=FORMATS)
    folder.finish(numbers | {LOCALIZATION: told})
    return found


def _load(path: Path, opened: OpenedRun, options: LocalizationOptions) -> Localization:
    """One that is there, unless the run has grown since, or something else is asked."""
    found, settings = Localization.load(path), opened.settings["settings"]
    asked = found.meta["settings"] | as_json(dict(options))
    before = found.meta["seeds"], found.meta["fraction"], found.meta["settings"]
    if before != (list(settings["seeds"]), settings["fraction"], asked):
        raise FileNotFoundError(path)
    return found


def _is_nan(value: Json) -> bool:
    return isinstance(value, float) and math.isnan(value)
