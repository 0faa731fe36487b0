"""A trial: one prompt, tuned on one task with one seed, and the scores of every neuron under it.

Trials are what runs repeat. Each is independent of the others, lies in a folder of its own, and is written part by
part, each part whole or not at all: so trials can run in any order and in many processes, and a trial that was
interrupted is all that is lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.tuning import TuningConfig, tune_prompt
from skillneurons.models._load_model import load_model
from skillneurons.models.bridge import Model
from skillneurons.neurons.scores import NeuronScores, find_skill_neurons
from skillneurons.runs.folder import score_names
from skillneurons.runs.jobs import Job, run_jobs
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.progress import called, told
from skillneurons.utilities.types import Library
from skillneurons.utilities.types import Progress as Progress

Tell: TypeAlias = Callable[[str], None]


@checked
@dataclass(frozen=True, eq=False)
class Trial:
    """What determines a trial, besides the model.

    Args:
        task: Two classes or more; several are scored by their binary subtasks.
        seed: Of the prompt and its tuning.
        folder: Its own.
        n_prompt: Soft vectors.
        tuning: Learning rate, steps and so on.
        run: The run that its files say they belong to (`RunFolder.run`), if any.
        head: Whether the model answers by its own head, and no prompt is tuned.

    Example:
        >>> from pathlib import Path
        >>> from skillneurons import TuningConfig, load_example
        >>> from skillneurons.runs.trials import Trial
        >>> _, task = load_example("news")
        >>> trial = Trial(task, 0, Path("news/seed-0"), n_prompt=16, tuning=TuningConfig())
        >>> trial.name, trial.parts
        ('news, seed 0', ['classifier', 'scores-0', 'scores-1', 'scores-2', 'scores-3'])
    """

    task: Task
    seed: int
    folder: Path
    n_prompt: int
    tuning: TuningConfig
    run: str = ""
    head: bool = False

    @property
    def name(self) -> str:
        return f"{self.task.name}, seed {self.seed}"

    @property
    def parts(self) -> list[str]:
        """Names of its files: the classifier, and the scores of each subtask."""
        return ["classifier", *score_names(len(self.task.subtasks()))]

    def label(self, part: str) -> tuple[str, str]:
        """What a part says that it is."""
        return self.run, f"{self.folder.name}/{part}"

    def written(self) -> list[str]:
        """Which parts are there; whether they are whole shows when they are read."""
        endings = (".json", ".safetensors")
        return [name for name in self.parts if all((self.folder / f"{name}{end}").exists() for end in endings)]


@dataclass(frozen=True, eq=False)
class TrialResult:
    """A trial's prompt, its scores for each subtask (one where the task has two classes), and what was read."""

    classifier: Classifier
    scores: tuple[NeuronScores, ...]
    reused: tuple[str, ...]


@checked
def run_trial(
    trial: Trial,
    model: Model,
    *,
    tell: Tell = lambda line: None,
    progress: Progress | bool = False,
) -> TrialResult:
    """Tune and score, or read what was finished before.

    Args:
        trial: What to do.
        model: In eval mode.
        tell: Called with a line of text before each part that is computed.
        progress: Called with (what is being done, done, total); or True, for bars or lines.
    """
    show = told(progress)

    def tune() -> Classifier:
        if trial.head:
            return own_head(model, trial.task)
        tell(f"{trial.name}: tuning")
        return tune_prompt(
            model,
            trial.task,
            n_prompt=trial.n_prompt,
            seed=trial.seed,
            config=trial.tuning,
            progress=called(show, f"tune prompt, seed {trial.seed}"),
        )

    def score(subtask: Task) -> NeuronScores:
        tell(f"{subtask.name}, seed {trial.seed}: scoring")
        which = "neurons" if subtask.name == trial.task.name else f"neurons of {subtask.name}"

        def passing(what: str, done: int, total: int) -> None:
            split = what.rpartition(", ")[2]
            show(f"score {which}, seed {trial.seed}, {split}", done, total)

        return find_skill_neurons(classifier, subtask, progress=passing)

    def load_scores(subtask: Task, path: Path) -> NeuronScores:
        loaded = NeuronScores.load(path)
        wanted = {"model": classifier.fingerprint, "task_fingerprint": subtask.fingerprint, "seeds": [trial.seed]}
        for key, value in wanted.items():
            if loaded.meta[key] != value:
                raise store.StoreError(f"{path} holds scores with {key} {loaded.meta[key]}, not {value}.")
        return loaded

    prompt_name, *score_names = trial.parts
    reused, scores = [], []
    load_own = partial(load_classifier, model=model, seed=trial.seed)
    classifier = store.read_or_compute(trial.folder / prompt_name, load_own, tune, reused, trial.label(prompt_name))
    for name, subtask in zip(score_names, trial.task.subtasks(), strict=True):
        load, compute = partial(load_scores, subtask), partial(score, subtask)
        scores.append(store.read_or_compute(trial.folder / name, load, compute, reused, trial.label(name)))
    return TrialResult(classifier, tuple(scores), tuple(path.name for path in reused))


def own_head(model: Model, task: Task) -> Classifier:
    """A fine-tuned model with its own head, which must name the task's classes: their order is not guessed.

    Raises:
        TypeError: The model is a bridge.
        ValueError: It has no head for classes, or calls them otherwise.
    """
    classifier = Classifier.from_head(model)
    named = {label.casefold() for label in classifier.labels}
    if missing := [label for label in task.labels if label.casefold() not in named]:
        raise ValueError(
            f"The head of {model.cfg.source!r} needs to name the classes of {task.name!r}, but names "
            f"{', '.join(classifier.labels)}, and {missing[0]!r} is none of them. Name them in its config.json "
            "(`id2label`) as the task does."
        )
    return Classifier.from_head(model, labels=task.labels)


def load_classifier(path: Path, model: Model, seed: int) -> Classifier:
    """The classifier in a trial's folder.

    Raises:
        StoreError: It is damaged, or its prompt was tuned with another seed.
    """
    classifier = store.read(path, lambda path: Classifier.load(path, model))
    if classifier.prompt.seed != seed:
        raise store.StoreError(f"{path} holds a prompt of seed {classifier.prompt.seed}, not {seed}.")
    return classifier


@checked
def run_trials(
    trials: Sequence[Trial],
    model: Model,
    *,
    source: str | Path | None = None,
    jobs: int = 1,
    executor: Library = None,
    device: str | None = None,
    tell: Tell = lambda line: None,
    progress: Progress | bool = False,
) -> list[TrialResult]:
    """All trials, in this process or in many.

    Args:
        trials: Each with a folder of its own.
        model: In eval mode. Other processes load it anew, by `load_model`.
        source: Where they do, if not where it says that it came from.
        jobs: Local processes at a time.
        executor: Of submitit, instead; see `jobs.run_jobs`.
        device: Of the model in other processes: `"cuda"` for all of a machine's GPUs in turn, `"cuda:1"` for that one.
            Default: this model's, which is one of them.
        tell: See `run_trial`; with several processes, called as each ends.
        progress: Likewise.

    Raises:
        ChildProcessError: Some did not finish in their process. The others did, and are not computed again.
        ValueError: There is no such device.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import TuningConfig, load_example
        >>> from skillneurons.runs.trials import Trial, run_trials
        >>> classifier, task = load_example()
        >>> with TemporaryDirectory() as folder:
        ...     trials = [Trial(task, 0, Path(folder), 2, TuningConfig(lr=0.05, steps=10))]
        ...     first, again = (run_trials(trials, classifier.model)[0] for _ in range(2))
        >>> first.reused, again.reused
        ((), ('classifier', 'scores'))
    """
    before = [trial.written() for trial in trials]
    unfinished = [trial for trial, written in zip(trials, before, strict=True) if written != trial.parts]
    if executor is not None or jobs > 1:
        show = told(progress)

        def ended(name: str, done: int, total: int) -> None:
            tell(f"{name}: ended ({done} of {total})")
            show("tune and score", done, total)

        where, name = device or str(model.device), str(source or model.cfg.source)
        known = (name, model.cfg.revision, model.fingerprint(), where, model.dtype)
        calls = [Job(trial.name, _work, (trial, i, *known)) for i, trial in enumerate(unfinished)]
        run_jobs(calls, n_at_once=jobs, executor=executor, progress=ended)
    several = len({trial.task.name for trial in trials}) > 1
    results = [
        run_trial(trial, model, tell=tell, progress=_naming(progress, trial.task.name) if several else progress)
        for trial in trials
    ]
    return [
        replace(result, reused=tuple(name for name in result.reused if name in written))
        for result, written in zip(results, before, strict=True)
    ]


def _naming(progress: Progress | bool, task: str) -> Progress | bool:
    """The same, which hears of which task of several it is told."""
    if not progress:
        return False
    show = told(progress)
    return lambda what, done, total: show(f"{task}: {what}", done, total)


def _work(
    trial: Trial, index: int, source: str, revision: str | None, fingerprint: str, device: str, dtype: torch.dtype
) -> None:
    """A trial in a process of its own, on the given device; on `"cuda"`, the GPU whose turn it is."""
    if device == "cuda":
        device = f"cuda:{index % torch.cuda.device_count()}"
    model = load_model(source, revision=revision, device=device, dtype=dtype)
    if model.fingerprint() != fingerprint:
        raise ValueError(
            f"Other processes load the model from {source!r}, but what lies there has fingerprint "
            f"{model.fingerprint()}, and this one {fingerprint}. Save the model, and load that by `load_model`."
        )
    run_trial(trial, model)
