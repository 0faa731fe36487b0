"""A finished run's skill neurons perturbed again: as the run did, or in other ways, for every prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import pandas as pd

from skillneurons.interventions.curve import PerturbationCurve, check_fractions, over_seeds, perturbation_curve
from skillneurons.interventions.perturbation import Kind, check_kinds
from skillneurons.models.bridge import AnyModel
from skillneurons.plots import plot_perturbations, save_figure
from skillneurons.runs._open_run import open_run
from skillneurons.runs.folder import FORMATS, RunFolder
from skillneurons.runs.progress import told
from skillneurons.runs.trials import Progress
from skillneurons.utilities.options import check_options
from skillneurons.utilities.types import Json


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
    run: str | Path,
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
        run: The run's folder.
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
    check_options(options, PerturbRunOptions)
    tell = told(progress)
    opened = open_run(run, model=model, device=device)
    settings: dict[str, Json] = _with_tuples(opened.settings["settings"])
    settings |= {key: value for key, value in options.items() if value is not None}
    check_kinds(settings["kinds"])
    check_fractions(settings["fractions"])
    classifiers = [opened.classifier(seed) for seed in settings["seeds"]]
    folder = Path(run) / "perturb" if out is None else Path(out)
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
                resume_in=RunFolder(Path(run)).points if out is None else folder / "points",
                on_batch=lambda done, total, what=what: tell(what, done, total),
            )
            name = f"{kind}-{settings['positions']}-seed-{classifier.prompt.seed}"
            curve.save(folder / f"curve-{name}")
            of_kind.append(curve)
        curves[kind] = tuple(of_kind)
    for of_seed in zip(*curves.values(), strict=True):
        name = f"{'-'.join(curves)}-{settings['positions']}-seed-{of_seed[0].meta['classifier_seed']}"
        save_figure(plot_perturbations(of_seed), folder / name, formats=FORMATS)
    tables = {kind: over_seeds(of_kind) for kind, of_kind in curves.items()}
    joined = pd.concat([table.assign(kind=kind) for kind, table in tables.items()], ignore_index=True)
    joined.to_csv(folder / "over-seeds.csv", index=False)
    return PerturbedRun(curves, tables, folder)


def _with_tuples(settings: Mapping[str, Json]) -> dict[str, Json]:
    """A run's settings with tuples for JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
