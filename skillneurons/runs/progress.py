"""What long commands say beforehand: what is left to do, and about how long it takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from skillneurons.activations.decisions import Decisions
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.findings.localization import LocalizationSettings, expected_rows
from skillneurons.interventions.curve import points_left, read_curve
from skillneurons.interventions.perturbation import Perturbation
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.neurons.redrawn import redrawn
from skillneurons.neurons.scores import NeuronScores
from skillneurons.runs.folder import LOCALIZATION, RunFolder, curve_name
from skillneurons.runs.trials import Trial, own_head
from skillneurons.tasks.task import Task
from skillneurons.utilities.progress import bars as bars
from skillneurons.utilities.progress import lines as lines
from skillneurons.utilities.progress import told as told
from skillneurons.utilities.results import counted
from skillneurons.utilities.types import Library

TUNING_PASSES = 3.0
"""Forward passes that a tuning step takes as long as: there and back."""
SAMPLED = 256
"""Neurons on which redraws are timed."""


def cost(
    model: AnyModel, task: Task, settings: Library, out: str | Path, jobs: int = 1, *, localization: bool = False
) -> str:
    """What is left of a run of `find`, in words: passes as they are known, times a few rows that are measured here.

    Args:
        model: In eval mode.
        task: What it would be run on.
        settings: `FindSettings`.
        out: The run's folder: what is finished there is not counted.
        jobs: Seeds at a time.
        localization: Whether it is asked for besides.

    Returns:
        Empty where nothing is left to do.

    Example:
        >>> from skillneurons import load_example
        >>> from skillneurons.runs import FindSettings
        >>> classifier, task = load_example()
        >>> cost(classifier.model, task, FindSettings(seeds=(0,)), "runs/a new one")
        '1 prompt of at most 250 steps, 3 passes to score, 69 perturbations of 32 rows: at most about ...'
    """
    model, run = as_classifiable(model), RunFolder(Path(out))
    own = settings.n_prompt, settings.tuning, "", settings.head
    work = of_trials(model, [Trial(task, seed, run.seed(seed), *own) for seed in settings.seeds], jobs)
    rows = task.subset(settings.n_perturb_rows, splits=("test",)).test
    left = 0
    for kind in settings.kinds:
        for i, seed in enumerate(settings.seeds if settings.sweep_seeds else settings.seeds[:1]):
            there = read_curve(run.path / curve_name(kind, seed if i else None))
            same = {"n_rows": len(rows), "classifier_seed": seed, "seeds": list(settings.seeds)}
            left += points_left(there, settings.fractions, settings.n_random, same, run.points)
    untuned = _untuned(model, task, settings)
    work += of_sweeps(untuned, task, left, len(rows))
    if localization and not run.path.joinpath(f"{LOCALIZATION}.json").is_file():
        n_rows = expected_rows(LocalizationSettings(), task, n_prompts=len(settings.seeds), n_layers=model.cfg.n_layers)
        work += Work((f"1 localization of {n_rows:,} rows",), n_rows * seconds_a_row(untuned, task))
    return f"{work}"


@dataclass(frozen=True)
class Work:
    """What is left of a long command: of what how much, and in which time at most; as text, in words.

    Example:
        >>> Work(("2 passes",), 100.0) + Work()
        Work(parts=('2 passes',), seconds=100.0)
        >>> str(Work(("2 passes", "1 perturbation"), 100.0)), str(Work())
        ('2 passes, 1 perturbation: at most about 2 min', '')
    """

    parts: tuple[str, ...] = ()
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.parts + other.parts, self.seconds + other.seconds)

    def __str__(self) -> str:
        return f"{', '.join(self.parts)}: at most about {in_time(self.seconds)}" if self.parts else ""


def of_trials(model: Model, trials: Sequence[Trial], jobs: int = 1) -> Work:
    """What is not written of trials, of which `jobs` are done at a time."""
    left = [(trial, [part for part in trial.parts if part not in trial.written()]) for trial in trials]
    left = [(trial, lacking) for trial, lacking in left if lacking]
    tuned = [trial for trial, lacking in left if "classifier" in lacking and not trial.head]
    n_passes = 3 * sum(part != "classifier" for _, lacking in left for part in lacking)
    each = {trial.task: seconds_a_row(_untuned(model, trial.task, trial), trial.task) for trial, _ in left}
    seconds = sum(each[trial.task] * _rows_left(trial, lacking) for trial, lacking in left)
    steps = max((trial.tuning.steps for trial in tuned), default=0)
    parts = [f"{counted(len(tuned), 'prompt')} of at most {counted(steps, 'step')}"] if tuned else []
    parts += ["The model as it is"] if any(trial.head and "classifier" in lacking for trial, lacking in left) else []
    parts += [f"{n_passes:,} passes to score"] if n_passes else []
    return Work(tuple(parts), seconds / max(1, min(jobs, len(left))))


def of_sweeps(classifier: Classifier, task: Task, n: int, n_rows: int) -> Work:
    """Perturbations of rows that are left."""
    if not n:
        return Work()
    seconds = n * n_rows * seconds_a_row(classifier, task)
    return Work((f"{counted(n, 'perturbation')} of {counted(n_rows, 'row')}",), seconds)


def of_pages(classifier: Classifier, task: Task, n_parts: int, settings: Library) -> Work:
    """An explorer of `n_parts` subtasks: each card ablates its neuron and others, and gradients take passes too."""
    n_rows = min(settings.n_rows, len(task.test))
    n_passes = n_parts * (settings.n_cards * (settings.n_random + 2) + 6)
    means = 2 * n_parts * min(Perturbation.n_mean, len(task.train))  # of prompt and words
    seconds = (n_passes * n_rows + means) * seconds_a_row(classifier, task)
    return Work((counted(n_parts * settings.n_cards, "card"), f"{n_passes:,} passes over {n_rows:,} rows"), seconds)


def of_comparison(
    scores: Sequence[NeuronScores], classifier: Classifier, task: Task, n_runs: int, n_draws: int
) -> Work:
    """`n_runs` compared that are like this one: a pass for each prompt and subtask, then redraws of labels and rows."""
    n_passes = len(scores) * len(scores[0].seeds)
    n_rows = max(len(subtask.validation) for subtask in task.subtasks())
    # What redraws take is measured on some neurons.
    above = torch.rand(n_rows, scores[0].above.shape[2], 1, SAMPLED, generator=torch.Generator()) < 0.5
    sample = Decisions.of(above, torch.arange(n_rows) % 2)
    began = time.perf_counter()
    redrawn(sample, n_draws=n_draws)
    draws = (time.perf_counter() - began) * scores[0].predictivity.numel() / SAMPLED
    seconds = n_runs * n_passes * (n_rows * seconds_a_row(classifier, task) + draws)
    passes = "1 pass" if n_passes == 1 else f"{n_passes:,} passes"
    what = f"for each {passes} over {counted(n_rows, 'row')} and {2 * n_draws:,} redraws"
    return Work((counted(n_runs, "run"), what), seconds)


def _rows_left(trial: Trial, lacking: Sequence[str]) -> float:
    """Rows of forward passes that a trial's missing parts take as long as."""
    task, tuning = trial.task, trial.tuning
    tuned = tuning.steps * tuning.batch_size * TUNING_PASSES + tuning.steps // tuning.eval_every * len(task.validation)
    scored = len(task.train) + len(task.validation) + len(task.test)
    return float(sum(scored if part != "classifier" else 0 if trial.head else tuned for part in lacking))


def _untuned(model: Model, task: Task, settings: Library) -> Classifier:
    """Whose passes take as long as a tuned prompt's, or the model's own head."""
    if settings.head:
        return own_head(model, task)
    words = Verbalizer.from_words(model.tokenizer, task.label_words, task.labels)
    return Classifier(model, random_prompt(model, settings.n_prompt), words, task.labels)


def seconds_a_row(classifier: Classifier, task: Task) -> float:
    """What a row of a forward pass takes, measured on a few test rows."""
    rows = list(task.test[:64])
    classifier.logits(rows[:8])
    began = time.perf_counter()
    classifier.logits(rows)
    return (time.perf_counter() - began) / len(rows)


def in_time(seconds: float) -> str:
    """Seconds or minutes, as a reader needs them.

    Example:
        >>> in_time(0.2), in_time(75.4), in_time(1000.0)
        ('1 s', '75 s', '17 min')
    """
    return f"{max(1, round(seconds / 60))} min" if seconds > 90 else f"{max(1, round(seconds))} s"
