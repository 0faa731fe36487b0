"""The explorer of a finished run: every subtask, the run's own set, and a card for each of the best neurons."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from skillneurons.classifiers.classifier import Classifier
from skillneurons.models.bridge import AnyModel
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.plots.explorer import DEFAULTS, Explorer, ExplorerSettings, explorer
from skillneurons.runs._open_run import OpenedRun, open_run
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked


@checked
def explore(
    run: str | Path | OpenedRun,
    *,
    source: str | Path | None = None,
    model: AnyModel | None = None,
    device: str = "cpu",
    settings: ExplorerSettings = DEFAULTS,
) -> Explorer:
    """One page of a run to explore its neurons: shown in a notebook, or written by `.save(path)`.

    Args:
        run: A finished run's folder, or what `open_run` made of it.
        source: The file or folder with the task's rows, where the run's task came from one.
        model: The run's, where `load_model` does not find it.
        device: For the model that is loaded.
        settings: How many cards, texts and rows.

    Raises:
        FileNotFoundError: The folder holds no finished run.
        ValueError: Model or rows found are not the run's.

    Example:
        >>> explore("runs/nothing")
        Traceback (most recent call last):
        FileNotFoundError: runs/nothing needs to hold a finished run, but has no run.json. Run `skillneurons find`.
    """
    opened = run if isinstance(run, OpenedRun) else open_run(run, model=model, device=device)
    task, classifier = opened.task(source), opened.classifiers[0]
    parts = [
        (scores, _of(classifier, subtask, task), subtask)
        for scores, subtask in zip(opened.scores, task.subtasks(), strict=True)
    ]
    chosen = NeuronSet.load(opened.folder / "skill")
    return explorer(parts, name=task.name, chosen=chosen, settings=settings)


def _of(classifier: Classifier, subtask: Task, task: Task) -> Classifier:
    """The classifier with a subtask's two classes as its answers, so that margins are between them.

    "The rest" was no answer that the prompt was tuned for: the largest of the other classes answers in its place.
    """
    labels = list(classifier.labels)
    if labels == list(subtask.labels):
        return classifier
    which = [labels.index(label) if label in labels else -1 for label in subtask.labels]
    if -1 in which:
        counts = Counter(row["label"] for row in task.test)
        rival = max((i for i in range(len(labels)) if i not in which), key=lambda i: counts[i])
        which = [rival if i == -1 else i for i in which]
    return replace(classifier, verbalizer=classifier.verbalizer.of(which), labels=tuple(subtask.labels))
