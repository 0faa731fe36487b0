"""The explorer of a finished run: every subtask, the run's own set, and a card for each of the best neurons."""

from dataclasses import replace
from pathlib import Path

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Verbalizer
from skillneurons.models.bridge import AnyModel
from skillneurons.models.encoder_parts.class_head import Head
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
        (scores, _of(classifier, subtask), subtask)
        for scores, subtask in zip(opened.scores, task.subtasks(), strict=True)
    ]
    chosen = NeuronSet.load(opened.folder / "skill")
    return explorer(parts, name=task.name, chosen=chosen, settings=settings)


def _of(classifier: Classifier, subtask: Task) -> Classifier:
    """The classifier with a subtask's words as its answers, so that margins are between its two classes."""
    if tuple(classifier.labels) == tuple(subtask.labels):
        return classifier
    if isinstance(classifier.verbalizer, Head):
        which = [classifier.labels.index(label) for label in subtask.labels]
        return replace(classifier, verbalizer=classifier.verbalizer.of(which), labels=tuple(subtask.labels))
    verbalizer = Verbalizer.from_words(classifier.model.tokenizer, subtask.label_words, subtask.labels)
    return replace(classifier, verbalizer=verbalizer, labels=tuple(subtask.labels))
