"""What runs tell while they work: bars in a terminal or notebook, plain lines with times where output is a file."""

import sys
import time
from collections.abc import Callable, Sequence

from tqdm.auto import tqdm

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.classifiers.tuning import TuningConfig
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.runs.trials import Progress, own_head
from skillneurons.tasks.task import Task
from skillneurons.utilities.results import counted
from skillneurons.utilities.types import Json, Library

EVERY = 20.0
"""Seconds between two lines about one thing."""

TUNING_PASSES = 3.0
"""Forward passes that a tuning step takes as long as: there and back."""


def told(progress: Progress | bool) -> Progress:
    """The callback that `progress` stands for: itself; bars or lines for True; nothing for False.

    Example:
        >>> told(False)("tune", 1, 2)
    """
    if callable(progress):
        return progress
    if not progress:
        return lambda what, done, total: None
    # A notebook's output is no terminal either, but shows bars.
    return bars() if sys.stderr.isatty() or "ipykernel" in sys.modules else lines()


def bars() -> Progress:
    """A bar for each thing being done, by tqdm."""
    shown: dict[str, Json] = {}

    def update(what: str, done: int, total: int) -> None:
        if what not in shown:
            shown[what] = tqdm(total=total, desc=what)
        shown[what].total = total
        shown[what].update(done - shown[what].n)
        if done >= total:
            shown[what].close()

    return update


def lines(
    write: Callable[[str], object] | None = None, every: float = EVERY, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """A line with the time when a thing begins, every so often while it lasts, and when it ends.

    Args:
        write: Takes a line; to standard error by default.
        every: Seconds between two lines about one thing.
        clock: Seconds.

    Example:
        >>> say = lines(print, clock=iter([0.0, 1.0, 2.0, 65.0]).__next__)
        >>> for done in (1, 2, 3):
        ...     say("tune", done, 3)
        0:01  tune: 1 of 3
        1:05  tune: 3 of 3
    """
    start, last = clock(), dict[str, float]()

    def update(what: str, done: int, total: int) -> None:
        now = clock()
        if what in last and done < total and now - last[what] < every:
            return
        last[what] = now
        minutes, seconds = divmod(int(now - start), 60)
        (write or _to_standard_error)(f"{minutes}:{seconds:02d}  {what}: {done:,} of {total:,}")

    return update


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cost(model: AnyModel, task: Task, settings: Library, jobs: int = 1) -> str:
    """What a run of `find` will take, in words: passes as they are known, times a few rows that are measured here.

    Args:
        model: In eval mode.
        task: What it would be run on.
        settings: `FindSettings`.
        jobs: Seeds at a time.

    Example:
        >>> from skillneurons import load_example
        >>> from skillneurons.runs import FindSettings
        >>> classifier, task = load_example()
        >>> cost(classifier.model, task, FindSettings(seeds=(0,)))
        '1 prompt of at most 250 steps, 1 x 3 passes to score, 69 perturbations of 32 rows: at most about ...'
    """
    model = as_classifiable(model)
    each = seconds_a_row(own_head(model, task) if settings.head else _untuned(model, task, settings.n_prompt), task)
    n_seeds, n_subtasks = len(settings.seeds), len(task.subtasks())
    tuning, n_sweep = settings.tuning, min(settings.n_perturb_rows, len(task.test))
    tuned, scored = _rows_of_a_trial(task, tuning)
    tuned = 0 if settings.head else tuned
    swept = (n_seeds if settings.sweep_seeds else 1) * len(settings.kinds)
    swept *= 1 + len(settings.fractions) * (1 + settings.n_random)
    seconds = each * (n_seeds * (tuned + scored) / max(1, min(jobs, n_seeds)) + swept * n_sweep)
    prompts = f"{counted(n_seeds, 'prompt')} of at most {counted(tuning.steps, 'step')}"
    return (
        f"{'The model as it is' if settings.head else prompts}, {n_seeds} x {3 * n_subtasks} "
        f"passes to score, {swept} perturbations of {n_sweep} rows: at most about {in_time(seconds)}"
    )


def trials_cost(model: Model, tasks: Sequence[Task], n_seeds: int, settings: Library, jobs: int = 1) -> str:
    """What the trials of `reproduce` will take, in words; sweeps of the findings come on top.

    Args:
        model: In eval mode.
        tasks: What prompts are tuned on.
        n_seeds: Prompts for each.
        settings: `ReproduceSettings`.
        jobs: Trials at a time.
    """
    seconds = 0.0
    for task in tasks:
        each = seconds_a_row(_untuned(model, task, settings.n_prompt), task)
        seconds += n_seeds * each * sum(_rows_of_a_trial(task, settings.tuning))
    n_trials, n_passes = n_seeds * len(tasks), n_seeds * 3 * sum(len(task.subtasks()) for task in tasks)
    return (
        f"{counted(n_trials, 'prompt')} of at most {counted(settings.tuning.steps, 'step')} and {n_passes} passes to "
        f"score: at most about {in_time(seconds / max(1, min(jobs, n_trials)))}; what the findings perturb comes on top"
    )


def _rows_of_a_trial(task: Task, tuning: TuningConfig) -> tuple[float, float]:
    """Rows of forward passes that tuning takes as long as, and that scoring takes."""
    tuned = tuning.steps * tuning.batch_size * TUNING_PASSES
    tuned += tuning.steps // tuning.eval_every * len(task.validation)
    return tuned, float(len(task.subtasks()) * (len(task.train) + len(task.validation) + len(task.test)))


def _untuned(model: Model, task: Task, n_prompt: int) -> Classifier:
    """Whose passes take as long as a tuned prompt's."""
    words = Verbalizer.from_words(model.tokenizer, task.label_words, task.labels)
    return Classifier(model, random_prompt(model, n_prompt), words, task.labels)


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
