"""The main job as a run in a folder: tune, score, perturb, draw. Resumable part by part.

A run's folder holds one subfolder for each seed (prompt and scores), the merged scores and neuron set, perturbation
curves, figures, and `run.json` with settings, numbers and provenance. A part is whole and valid, or computed anew;
of an interrupted curve, the fractions that were finished stay.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from skillneurons import store
from skillneurons.activations import OneNeuron, collect
from skillneurons.classifier import Classifier
from skillneurons.encoder import HookedEncoder
from skillneurons.evaluation import (
    Evaluation,
    Kind,
    PerturbationCurve,
    check_fractions,
    check_kinds,
    evaluate,
    perturbation_curve,
)
from skillneurons.neurons import NeuronSet
from skillneurons.plots import plot_activation_histogram, plot_perturbation, plot_predictivity_by_layer, save_figure
from skillneurons.scores import NeuronScores, union_of_top
from skillneurons.tasks import Task
from skillneurons.trials import Progress, Trial, run_trials
from skillneurons.tuning import TuningConfig


@dataclass(frozen=True)
class FindSettings:
    """What determines a run's numbers.

    Args:
        seeds: One prompt is tuned for each.
        n_prompt: Soft vectors.
        tuning: Learning rate, steps and so on.
        fraction: Share of neurons in the saved set.
        fractions: Shares perturbed.
        kinds: Interventions, the first of which the printed table shows.
        positions: Where neurons are perturbed.
        n_random: Random sets for each fraction.
        sigma: Of Gaussian noise.
        n_perturb_rows: Test rows (drawn by seed 0) on which perturbations are evaluated.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    n_prompt: int = 16
    tuning: TuningConfig = field(default_factory=TuningConfig)
    fraction: float = 0.02
    fractions: tuple[float, ...] = (0.1, 0.3)
    kinds: tuple[Kind, ...] = ("mean", "zero", "gaussian")
    positions: str = "all"
    n_random: int = 10
    sigma: float = 0.1
    n_perturb_rows: int = 150

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` needs at least one seed and none twice, but is {self.seeds}.")
        check_kinds(self.kinds)
        check_fractions(self.fractions)


DEFAULTS = FindSettings()


@dataclass(frozen=True, eq=False)
class FindResult:
    """Everything a run found. `scores` has one entry for each subtask (one where the task has two classes)."""

    task: Task
    settings: FindSettings
    classifiers: tuple[Classifier, ...]
    evaluations: tuple[Evaluation, ...]
    scores: tuple[NeuronScores, ...]
    skill: NeuronSet
    curves: dict[str, PerturbationCurve]
    reused: tuple[str, ...]
    folder: Path


class RunFolderError(ValueError):
    """The folder belongs to a run with other settings."""


def find(
    model: HookedEncoder,
    task: Task,
    out: str | Path,
    settings: FindSettings = DEFAULTS,
    *,
    progress: Progress = lambda what, done, total: None,
    jobs: int = 1,
    executor: Any = None,
) -> FindResult:
    """Tune prompts, find the task's skill neurons, test them causally, and write it all to `out`.

    Args:
        model: In eval mode.
        task: Two classes or more; several are scored by their binary subtasks.
        out: A folder. What an earlier run with the same arguments finished there is read, not computed again.
        settings: Seeds, prompt length and so on.
        progress: Called with (what is being done, steps done, steps).
        jobs: Seeds that are tuned and scored at a time, in processes that load the model anew.
        executor: Of submitit, for other machines; see `jobs.slurm_executor`.

    Raises:
        ChildProcessError: One of several processes was killed or failed; what the others did is kept.
        RunFolderError: `out` holds a run of another model, task or settings.
    """
    folder = Path(out)
    _claim(folder, model, task, settings)
    trials = [Trial(task, seed, folder / f"seed-{seed}", settings.n_prompt, settings.tuning) for seed in settings.seeds]
    results = run_trials(trials, model, jobs=jobs, executor=executor, progress=progress)
    reused = [trial.folder / name for trial, result in zip(trials, results, strict=True) for name in result.reused]
    classifiers = [result.classifier for result in results]
    evaluations = [evaluate(classifier, task.test) for classifier in classifiers]
    by_subtask = zip(*(result.scores for result in results), strict=True)
    scores = tuple(NeuronScores.merge_seeds(parts) for parts in by_subtask)
    for i, merged in enumerate(scores):
        merged.save(folder / ("scores" if len(scores) == 1 else f"scores-{i}"))
    skill = union_of_top(scores, settings.fraction)
    skill.save(folder / "skill")

    rows = task.subset(settings.n_perturb_rows, splits=("test",)).test
    curves = {
        kind: store.read_or_compute(
            folder / f"curve-{kind}",
            PerturbationCurve.load,
            lambda kind=kind: perturbation_curve(
                classifiers[0],
                task,
                scores,
                kind=kind,
                fractions=settings.fractions,
                n_random=settings.n_random,
                positions=settings.positions,
                sigma=settings.sigma,
                rows=rows,
                resume_in=folder / "points",
                on_batch=lambda done, total: progress(f"perturb ({kind})", done, total),
            ),
            reused,
        )
        for kind in settings.kinds
    }
    shutil.rmtree(folder / "points", ignore_errors=True)
    names = tuple(path.relative_to(folder).as_posix() for path in reused)
    result = FindResult(task, settings, tuple(classifiers), tuple(evaluations), scores, skill, curves, names, folder)
    _draw(result)
    store.write_json(folder / "run.json", _identity(model, task, settings) | _numbers(result))
    return result


def _identity(model: HookedEncoder, task: Task, settings: FindSettings) -> dict[str, Any]:
    """What two runs must share to be the same run, as JSON would give it back."""
    identity = {
        "model": {
            "source": model.cfg.source,
            "revision": model.cfg.revision,
            "fingerprint": model.fingerprint(),
            "dtype": str(model.dtype),
        },
        "task": {
            "name": task.name,
            "fingerprint": task.fingerprint,
            "labels": task.labels,
            "label_words": task.label_words,
            "source": task.source,
            "rows": {split: len(getattr(task, split)) for split in ("train", "validation", "test")},
        },
        "settings": asdict(settings),
    }
    return json.loads(json.dumps(identity))


def _claim(folder: Path, model: HookedEncoder, task: Task, settings: FindSettings) -> None:
    """Note in the folder which run it is, or check that it is the same one."""
    wanted, path = _identity(model, task, settings), folder / "settings.json"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise RunFolderError(f"{folder} holds files that are not a run's. Choose an empty or a new folder.")
        store.write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is damaged ({error}). Choose a new folder.") from error
    different = [
        f"{group}.{key}: {found.get(group, {}).get(key)!r} there, {value!r} asked for"
        for group, values in wanted.items()
        for key, value in values.items()
        if found.get(group, {}).get(key) != value
    ]
    if different:
        raise RunFolderError(
            f"{folder} holds another run ({'; '.join(different[:3])}). Choose another folder, or the same arguments."
        )


def _draw(result: FindResult) -> None:
    figures = result.folder / "figures"
    figures.mkdir(exist_ok=True)
    for i, (scores, subtask) in enumerate(zip(result.scores, result.task.subtasks(), strict=True)):
        suffix = "" if len(result.scores) == 1 else f"-{i}"
        classifier = result.classifiers[0]
        layer, neuron = (int(scores.best(1)[key].iloc[0]) for key in ("layer", "neuron"))
        position, _ = scores.position_of(layer, neuron)
        encoded = classifier.encode(subtask.test)
        single = collect(classifier, encoded, OneNeuron(len(encoded), layer, neuron, position))
        seed = classifier.prompt.seed
        axes = plot_activation_histogram(
            single.values,
            encoded.labels,
            float(scores.baseline[0, position, layer, neuron]),
            subtask.labels,
            title=f"{subtask.name}, test: layer {layer}, neuron {neuron}, prompt position {position}, seed {seed}",
        )
        save_figure(axes, figures / f"top-neuron{suffix}")
        save_figure(plot_predictivity_by_layer(scores), figures / f"predictivity{suffix}")
    for kind, curve in result.curves.items():
        for quantity in ("accuracy", "margin"):
            save_figure(plot_perturbation(curve, quantity=quantity), figures / f"perturbation-{kind}-{quantity}")


def _numbers(result: FindResult) -> dict[str, Any]:
    encoded_rows = result.scores[0].meta
    return {
        "versions": store.versions(),
        "threads": torch.get_num_threads(),
        "prompts": {str(c.prompt.seed): asdict(e) for c, e in zip(result.classifiers, result.evaluations, strict=True)},
        "top_neurons": {s.meta["task"]: s.best(10).to_dict("records") for s in result.scores},
        "majority": {s.meta["task"]: s.majority for s in result.scores},
        "truncated_rows": encoded_rows["truncated"],
        "skill_neurons": {"n": len(result.skill), "per_layer": result.skill.per_layer.tolist()},
        "perturbation": {
            kind: {
                "unperturbed": asdict(curve.unperturbed),
                "rows": curve.to_dataframe().to_dict("records"),
                "below_all_random_sets": curve.outside_band.tolist(),
            }
            for kind, curve in result.curves.items()
        },
    }
