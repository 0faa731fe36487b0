"""The main job as a run in a folder: tune, score, perturb, draw. Resumable part by part.

A run's folder holds one subfolder for each seed (prompt and scores), the merged scores and neuron set, perturbation
curves, figures, and `run.json` with settings, numbers and provenance. A part is whole and valid, or computed anew;
of an interrupted curve, the fractions that were finished stay.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import OneNeuron
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation, evaluate
from skillneurons.classifiers.prompts import Layout, Verbalizer
from skillneurons.classifiers.tuning import TuningConfig, check_tune_dtype
from skillneurons.interventions.curve import (
    PerturbationCurve,
    check_fractions,
    over_seeds,
    perturbation_curve,
    verdicts,
)
from skillneurons.interventions.perturbation import Kind, check_kinds
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.neurons.controls import claims
from skillneurons.neurons.luck import Search, searched
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import Measure, NeuronScores, ranked_by, union_of_top
from skillneurons.plots import plot_activation_histogram, plot_perturbations, plot_predictivity_by_layer, save_figure
from skillneurons.runs._verdict import SHOWN, best_of_all, tuning_warnings, verdict
from skillneurons.runs.folder import FORMATS, LOCALIZATION, RunFolder, as_json, curve_name, score_names
from skillneurons.runs.folder import RunFolderError as RunFolderError
from skillneurons.runs.trials import Trial, own_head, run_trials
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.progress import called, told
from skillneurons.utilities.results import Shown, as_text, counted
from skillneurons.utilities.types import Json, Library, Progress


@checked
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
        sweep_seeds: Perturb every prompt's classifier, instead of the first one's.
        head: Take a fine-tuned model with its own head, instead of tuning prompts: one classifier, of seed 0.
        measure: What ranks the neurons; see `find_skill_neurons`.

    Example:
        >>> from skillneurons.runs._find import FindSettings
        >>> FindSettings(seeds=(0,), kinds=("mean",)).fractions
        (0.1, 0.3)
        >>> FindSettings(seeds=(0, 0))
        Traceback (most recent call last):
        ValueError: `seeds` needs seeds that differ, but is (0, 0).
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
    sweep_seeds: bool = False
    head: bool = False
    measure: Measure | None = None

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        check_fractions(self.fractions)
        # Refused here, since a run comes to them after all tuning.
        (Layout(0, in_front=True) if self.head else Layout(self.n_prompt)).positions(self.positions)
        if self.head and self.seeds != (0,):
            raise ValueError(
                f"A model's own head is one classifier, of seed 0, but `seeds` is {self.seeds}. Pass (0,)."
            )
        if self.sigma <= 0 or self.n_random < 1:
            raise ValueError(f"`sigma` and `n_random` must be positive, but are {self.sigma} and {self.n_random}.")


DEFAULTS = FindSettings()
GROWING = ("seeds", "kinds", "fractions", "fraction", "n_random", "n_perturb_rows", "sweep_seeds")
"""Settings with which a finished run is extended; what they leave as it was is not computed again."""


@dataclass(frozen=True, eq=False)
class FindResult(Shown):
    """Everything a run found. `scores` has one entry for each subtask (one where the task has two classes).

    `curves` are of the first prompt, and `seed_curves` of all that were perturbed.

    Example:
        See `find`, which makes it.
    """

    task: Task
    settings: FindSettings
    classifiers: tuple[Classifier, ...]
    evaluations: tuple[Evaluation, ...]
    scores: tuple[NeuronScores, ...]
    skill: NeuronSet
    curves: dict[str, PerturbationCurve]
    reused: tuple[str, ...]
    folder: Path
    seed_curves: dict[str, tuple[PerturbationCurve, ...]] = field(default_factory=dict)

    @cached_property
    def searches(self) -> tuple[Search, ...]:
        """What was found of each subtask, against luck."""
        return tuple(searched(scores) for scores in self.scores)

    @cached_property
    def best(self) -> tuple[pd.DataFrame, ...]:
        """The ten best neurons of each subtask, with all that it takes to judge them; see `claims`."""
        return tuple(claims(scores, 10) for scores in self.scores)

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """What was found, in sentences; first whether anything."""
        seeds = [classifier.prompt.seed for classifier in self.classifiers]
        first = next(iter(self.curves.values())).unperturbed
        return verdict(self.searches, list(zip(seeds, self.evaluations, strict=True)), first)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Of tuning, also where it was done in an earlier run."""
        return tuple(tuning_warnings(self.classifiers, self.task))

    def to_dataframe(self) -> pd.DataFrame:
        """The ten best neurons of each subtask; see `best`."""
        return best_of_all(self.best, [one.task for one in self.searches])

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe().loc[:, list(SHOWN)]

    def __repr__(self) -> str:
        prompts = pd.concat([one.to_dataframe() for one in self.evaluations], ignore_index=True)
        prompts.insert(0, "seed", [one.prompt.seed for one in self.classifiers])
        return "\n".join(
            [
                f"FindResult({self.task.name}, {counted(len(self.classifiers), 'prompt')}, {self.skill}; "
                f"{self.folder})",
                *self.verdict,
                *(f"Warning: {line}" for line in self.warnings),
                as_text(prompts.loc[:, ["seed", "accuracy", "low", "high", "majority", "margin", "n"]]),
                as_text(self._table()),
                *map(repr, self.curves.values()),
            ]
        )


@checked
def find(
    model: AnyModel,
    task: Task,
    out: str | Path,
    settings: FindSettings = DEFAULTS,
    *,
    progress: Progress | bool = True,
    jobs: int = 1,
    executor: Library = None,
    device: str | None = None,
) -> FindResult:
    """Tune prompts, find the task's skill neurons, test them causally, and write it all to `out`.

    Args:
        model: In eval mode.
        task: Two classes or more; several are scored by their binary subtasks.
        out: A folder. What an earlier run finished there is read, not computed again, and a finished run is extended:
            by seeds, kinds, fractions, random sets, rows of the sweep, every prompt's sweep, another `fraction`.
        settings: Seeds, prompt length and so on.
        progress: Bars in a terminal or notebook, plain lines with times where output goes to a file; False for neither,
            or a function that is called with (what is being done, steps done, steps).
        jobs: Seeds that are tuned and scored at a time, in processes that load the model anew.
        executor: Of submitit, for other machines; see `jobs.slurm_executor`.
        device: Of the model in other processes; see `trials.run_trials`.

    Raises:
        ChildProcessError: One of several processes was killed or failed; what the others did is kept.
        RunFolderError: `out` holds a run of another model or task, one whose numbers other settings would change, or
            a finished one with more seeds, kinds and so on than are asked for.
        ValueError: A label word is not one token of the model.
        StoreError: `settings.json` there is damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import TuningConfig, load_example
        >>> from skillneurons.runs._find import FindSettings, find
        >>> classifier, task = load_example()
        >>> tuning = TuningConfig(lr=0.05, steps=10)
        >>> small = FindSettings((0,), 2, tuning, kinds=("mean",), n_random=2)
        >>> with TemporaryDirectory() as folder:
        ...     result = find(classifier.model, task, folder, small)
        ...     print(sorted(path.stem for path in result.folder.glob("*.json")))
        ['curve-mean', 'run', 'scores', 'settings', 'skill']
        >>> result.skill
        NeuronSet(60 of 3,072 neurons; per layer [15, 15, 15, 15])
    """
    run, model, progress = RunFolder(Path(out)), as_classifiable(model), told(progress)
    folder = run.path
    # Before the folder is claimed for these settings: label words that are no tokens would leave it to nobody.
    if settings.head:
        own_head(model, task)
    else:
        Verbalizer.from_words(model.tokenizer, task.label_words, task.labels)
    check_tune_dtype(model, settings.tuning)
    identity = _identity(model, task, settings)
    before = run.claim(identity, GROWING)["settings"]
    _check_grows(run, before, identity["settings"])
    run.note_origin(task.origin)
    own = settings.n_prompt, settings.tuning, run.run, settings.head
    trials = [Trial(task, seed, run.seed(seed), *own) for seed in settings.seeds]
    results = run_trials(trials, model, jobs=jobs, executor=executor, device=device, progress=progress)
    reused = [trial.folder / name for trial, result in zip(trials, results, strict=True) for name in result.reused]
    classifiers = [result.classifier for result in results]
    evaluations = [evaluate(classifier, task.test) for classifier in classifiers]
    by_subtask = zip(*(result.scores for result in results), strict=True)
    scores = tuple(ranked_by(NeuronScores.merge_seeds(parts), settings.measure) for parts in by_subtask)
    skill = union_of_top(scores, settings.fraction)
    swept = _Sweeps(run, settings, task, scores, before["seeds"], progress)
    seed_curves = {
        kind: tuple(
            swept.curve(classifier, kind, reused)
            for classifier in (classifiers if settings.sweep_seeds else classifiers[:1])
        )
        for kind in settings.kinds
    }
    # Only now: until here a finished run that grows is whole as it was.
    for name, merged in zip(score_names(len(scores)), scores, strict=True):
        run.write(name, merged)
    run.write("skill", skill)
    run.grow(identity)
    names = tuple(path.relative_to(folder).as_posix() for path in reused)
    found = tuple(classifiers), tuple(evaluations), scores, skill
    curves = {kind: first for kind, (first, *_) in seed_curves.items()}
    result = FindResult(task, settings, *found, curves, names, folder, seed_curves)
    _draw(result)
    told_of = {"verdict": result.verdict, "warnings": result.warnings}
    run.finish(told_of | identity | _numbers(result) | _localized(run, before, identity["settings"]))
    return result


def _localized(run: RunFolder, before: dict[str, Json], now: dict[str, Json]) -> dict[str, Json]:
    """What a finished run's localization told, where it is of the same prompts and share still."""
    try:
        there = store.read_sealed(run.run_file, {}, "Run `skillneurons find` again.")
    except (FileNotFoundError, store.StoreError):
        return {}  # not finished before, or damaged, which this run mends
    holds = all(before[key] == now[key] for key in ("seeds", "fraction"))
    return {LOCALIZATION: there[LOCALIZATION]} if holds and LOCALIZATION in there else {}


def _check_grows(run: RunFolder, before: dict[str, Json], wanted: dict[str, Json]) -> None:
    """Raise where a finished run has something that is not asked for: it would be lost."""
    if not run.run_file.exists():
        return
    lost = [key for key in ("seeds", "kinds", "fractions") if set(before[key]) - set(wanted[key])]
    lost += [key for key in ("n_random", "n_perturb_rows", "sweep_seeds") if before.get(key, False) > wanted[key]]
    if lost:
        different = "; ".join(f"{key}: {before[key]!r} there, {wanted[key]!r} asked for" for key in lost)
        raise RunFolderError(
            f"{run.path} holds a finished run with more than is asked for ({different}). Ask for as much or more, "
            "which extends it, or choose another folder (`--out`)."
        )


@dataclass(frozen=True, eq=False)
class _Sweeps:
    """What a run's perturbation curves share."""

    run: RunFolder
    settings: FindSettings
    task: Task
    scores: tuple[NeuronScores, ...]
    seeds_before: list[int]
    progress: Progress

    def curve(self, classifier: Classifier, kind: Kind, reused: list[Path]) -> PerturbationCurve:
        """Of one prompt's classifier: read, extended from the points that are there, or computed."""
        seed, settings = classifier.prompt.seed, self.settings
        name = curve_name(kind, None if seed == settings.seeds[0] else seed)
        rows = self.task.subset(settings.n_perturb_rows, splits=("test",)).test
        described = f"perturb ({kind})" if not settings.sweep_seeds else f"perturb ({kind}, seed {seed})"
        return store.read_or_compute(
            self.run.path / name,
            lambda path: self._load(path, seed, len(rows)),
            lambda: perturbation_curve(
                classifier,
                self.task,
                self.scores,
                kind=kind,
                fractions=settings.fractions,
                n_random=settings.n_random,
                positions=settings.positions,
                sigma=settings.sigma,
                rows=rows,
                resume_in=self.run.points,
                progress=called(self.progress, described),
            ),
            reused,
            (self.run.run, name),
        )

    def _load(self, path: Path, seed: int | None, n_rows: int) -> PerturbationCurve:
        """A curve that is there, unless the run has grown since, in what it depends on."""
        curve = PerturbationCurve.load(path)
        wanted = self.settings.fractions, self.settings.n_random, n_rows, seed, list(self.settings.seeds)
        # Earlier versions did not note the seeds whose scores rank the neurons: those of the run as it was.
        seeds = list(curve.meta.get("seeds", self.seeds_before))
        found = curve.fractions, len(curve.random), curve.meta["n_rows"], curve.meta["classifier_seed"], seeds
        if found != wanted:
            raise FileNotFoundError(path)
        return curve


def _identity(model: Model, task: Task, settings: FindSettings) -> dict[str, Json]:
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
        "settings": _described(settings, model, task),
    }
    return as_json(identity)


def _described(settings: FindSettings, model: Model, task: Task) -> dict[str, Json]:
    """Settings as a run's file holds them: of a head, which one it is; of prompts, what earlier versions wrote.

    These knew no `measure` either.
    """
    left_out = {"head"} if settings.measure else {"head", "measure"}
    described = {name: value for name, value in asdict(settings).items() if name not in left_out}
    if not settings.head:
        return described
    return described | {"n_prompt": 0, "head": str(own_head(model, task).verbalizer.identity)}


def _draw(result: FindResult) -> None:
    figures = RunFolder(result.folder).figures
    figures.mkdir(exist_ok=True)
    for i, (scores, subtask) in enumerate(zip(result.scores, result.task.subtasks(), strict=True)):
        suffix = "" if len(result.scores) == 1 else f"-{i}"
        classifier = result.classifiers[0]
        layer, neuron = (int(scores.best(1)[key].iloc[0]) for key in ("layer", "neuron"))
        position, _ = scores.position_of(layer, neuron)
        encoded = classifier.encode(subtask.test)
        single = collect(classifier, encoded, OneNeuron(len(encoded), layer, neuron, position))
        where = (
            f"prompt position {position}, seed {classifier.prompt.seed}" if len(classifier.prompt) else "first token"
        )
        axes = plot_activation_histogram(
            single.values,
            encoded.labels,
            float(scores.baseline[0, position, layer, neuron]),
            subtask.labels,
            title=f"{subtask.name}: neuron {neuron} of layer {layer}, {where}",
        )
        save_figure(axes, figures / f"top-neuron{suffix}", formats=FORMATS)
        save_figure(plot_predictivity_by_layer(scores), figures / f"predictivity{suffix}", formats=FORMATS)
    for earlier in figures.glob("perturbation-*"):  # of an earlier version, which drew each by itself
        earlier.unlink()
    by_seed = list(zip(*result.seed_curves.values(), strict=True))
    for i, curves in enumerate(by_seed):
        suffix = f"-seed-{curves[0].meta['classifier_seed']}" if i else ""
        save_figure(plot_perturbations(curves), figures / f"perturbation{suffix}", formats=FORMATS)


def _numbers(result: FindResult) -> dict[str, Json]:
    encoded_rows = result.scores[0].meta
    return {
        "versions": store.versions(),
        "classes": dict(zip(result.task.labels, result.task.label_words, strict=True)),
        "threads": torch.get_num_threads(),
        "prompts": {str(c.prompt.seed): asdict(e) for c, e in zip(result.classifiers, result.evaluations, strict=True)},
        "top_neurons": {
            one.task: best.to_dict("records") for one, best in zip(result.searches, result.best, strict=True)
        },
        "search": {one.task: asdict(one) | {"nothing": one.nothing} for one in result.searches},
        "majority": {s.meta["task"]: s.majority for s in result.scores},
        "truncated_rows": encoded_rows["truncated"],
        "skill_neurons": {"n": len(result.skill), "per_layer": result.skill.per_layer.tolist()},
        "perturbation": {
            kind: {
                "unperturbed": asdict(curve.unperturbed),
                "rows": [
                    # JSON has no word for what is not a number: gaps to a single random set.
                    {name: None if value != value else value for name, value in row.items()}
                    for row in curve.to_dataframe().assign(verdict=said).to_dict("records")
                ],
                "below_all_random_sets": curve.outside_band.tolist(),
            }
            for (kind, curve), said in zip(result.curves.items(), verdicts(list(result.curves.values())), strict=True)
        },
        "perturbation_over_seeds": {
            kind: over_seeds(curves).to_dict("records")
            for kind, curves in result.seed_curves.items()
            if len(curves) > 1
        },
    }
