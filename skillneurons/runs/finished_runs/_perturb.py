"""A finished run's skill neurons perturbed again: as the run did, or in other ways, for every prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import pandas as pd

from skillneurons.interventions.curve import (
    PerturbationCurve,
    check_fractions,
    over_seeds,
    perturbation_curve,
    points_left,
    read_curve,
)
from skillneurons.interventions.perturbation import Kind, check_kinds
from skillneurons.models.bridge import AnyModel
from skillneurons.plots import plot_perturbations, save_figure
from skillneurons.runs._open_run import OpenedRun, open_run
from skillneurons.runs.folder import FORMATS, RunFolder, curve_name
from skillneurons.runs.progress import Work, of_sweeps
from skillneurons.utilities.arguments import check_options
from skillneurons.utilities.progress import called, told
from skillneurons.utilities.types import Json, Progress


class PerturbRunOptions(TypedDict, total=False):
    """What `perturb_run` does as the run did unless it is said; see `FindSettings`."""

    kinds: tuple[Kind, ...] | None
    positions: str | None
    fractions: tuple[float, ...] | None
    n_random: int | None
    sigma: float | None
    n_perturb_rows: int | None
    seeds: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class PerturbedRun:
    """Curves of a run's prompts.

    Args:
        curves: For each kind, one for each seed.
        over_seeds: For each kind, gaps between skill and random neurons with intervals over seeds; see `over_seeds`.
        folder: Where they are.
    """

    curves: dict[str, tuple[PerturbationCurve, ...]]
    over_seeds: dict[str, pd.DataFrame]
    folder: Path


def perturb_run(
    run: str | Path | OpenedRun,
    out: str | Path | None = None,
    *,
    source: str | Path | None = None,
    model: AnyModel | None = None,
    device: str = "cpu",
    progress: Progress | bool = True,
    **options: Unpack[PerturbRunOptions],
) -> PerturbedRun:
    """Perturb a finished run's skill neurons, for each of its prompts, and write curves, figures and tables.

    What the run computed already is not computed again.

    Args:
        run: The run's folder, or what `open_run` made of it.
        out: For curves and figures; `perturb` in the run's folder by default.
        source: The file or folder with the task's rows, where they are no longer where the run read them.
        model: The run's, where `load_model` does not find it.
        device: For the model that is loaded.
        progress: Bars or lines, as of `find`; or called with (what is being done, rows done, rows).
        options: `kinds`, `positions`, `fractions`, `n_random`, `sigma`, `n_perturb_rows`, `seeds`: as the run has
            them where they are None or left out.

    Raises:
        FileNotFoundError: The folder holds no finished run, or the rows are gone.
        ValueError: A kind, fraction or seed that cannot be.

    Example:
        >>> perturb_run("runs/nothing")
        Traceback (most recent call last):
        FileNotFoundError: runs/nothing needs to hold a finished run, but has no run.json. Run `skillneurons find`.
    """
    tell = told(progress)
    opened = run if isinstance(run, OpenedRun) else open_run(run, model=model, device=device)
    settings, folder, points = _asked(opened, out, options)
    classifiers = [opened.classifier(seed) for seed in settings["seeds"]]
    task = opened.task(source)
    rows = task.subset(settings["n_perturb_rows"], splits=("test",)).test
    curves: dict[str, tuple[PerturbationCurve, ...]] = {}
    for kind in settings["kinds"]:
        of_kind = []
        for classifier in classifiers:
            what = f"perturb ({kind}, seed {classifier.prompt.seed})"
            curve = perturbation_curve(
                classifier,
                task,
                opened.scores,
                kind=kind,
                fractions=settings["fractions"],
                n_random=settings["n_random"],
                positions=settings["positions"],
                sigma=settings["sigma"],
                rows=rows,
                resume_in=points,
                progress=called(tell, what),
            )
            curve.save(_curve_file(folder, kind, settings, classifier.prompt.seed))
            of_kind.append(curve)
        curves[kind] = tuple(of_kind)
    for of_seed in zip(*curves.values(), strict=True):
        name = f"{'-'.join(curves)}-{settings['positions']}-seed-{of_seed[0].meta['classifier_seed']}"
        save_figure(plot_perturbations(of_seed), folder / name, formats=FORMATS)
    tables = {kind: over_seeds(of_kind) for kind, of_kind in curves.items()}
    joined = pd.concat([table.assign(kind=kind) for kind, table in tables.items()], ignore_index=True)
    joined.to_csv(folder / "over-seeds.csv", index=False)
    return PerturbedRun(curves, tables, folder)


def perturbing(
    run: OpenedRun,
    out: str | Path | None = None,
    *,
    source: str | Path | None = None,
    **options: Unpack[PerturbRunOptions],
) -> Work:
    """What `perturb_run` would have to do that is not finished, and about how long it takes."""
    settings, folder, points = _asked(run, out, options)
    task, left = run.task(source), 0
    rows = task.subset(settings["n_perturb_rows"], splits=("test",)).test
    same = {"positions": settings["positions"], "n_rows": len(rows), "seeds": list(run.scores[0].seeds)}
    for kind in settings["kinds"]:
        alike = same | ({"sigma": settings["sigma"]} if kind == "gaussian" else {})
        for seed in settings["seeds"]:
            first = seed == run.classifiers[0].prompt.seed
            of_run = [run.folder / curve_name(kind, None if first else seed)] if out is None else []
            left += min(
                points_left(
                    read_curve(path),
                    settings["fractions"],
                    settings["n_random"],
                    alike | {"classifier_seed": seed},
                    points,
                )
                for path in [*of_run, _curve_file(folder, kind, settings, seed)]
            )
    return of_sweeps(run.classifiers[0], task, left, len(rows))


def _asked(run: OpenedRun, out: str | Path | None, options: PerturbRunOptions) -> tuple[dict[str, Json], Path, Path]:
    """The settings that are asked for, the folder of curves, and the one where points are kept."""
    check_options(options, PerturbRunOptions)
    settings: dict[str, Json] = _with_tuples(run.settings["settings"])
    settings |= {key: value for key, value in options.items() if value is not None}
    check_kinds(settings["kinds"])
    check_fractions(settings["fractions"])
    if out is None:
        return settings, run.folder / "perturb", RunFolder(run.folder).points
    return settings, Path(out), Path(out) / "points"


def _curve_file(folder: Path, kind: str, settings: Mapping[str, Json], seed: int | None) -> Path:
    return folder / f"curve-{kind}-{settings['positions']}-seed-{seed}"


def _with_tuples(settings: Mapping[str, Json]) -> dict[str, Json]:
    """A run's settings with tuples for JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
