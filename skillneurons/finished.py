"""A run's folder opened again: its model, task, prompts and scores, checked to be the ones the run had."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillneurons.classifier import Classifier
from skillneurons.encoder import HookedEncoder
from skillneurons.loading import load_task
from skillneurons.scores import NeuronScores
from skillneurons.tasks import Task


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """What a run was made of and what it found; `scores` has one entry for each binary subtask.

    Args:
        folder: The run's.
        settings: As `settings.json` holds them: `model`, `task`, `settings`.
        model: The model, loaded again.
        classifiers: One for each seed.
        scores: Merged over seeds.
    """

    folder: Path
    settings: dict[str, Any]
    model: HookedEncoder
    classifiers: tuple[Classifier, ...]
    scores: tuple[NeuronScores, ...]

    def classifier(self, seed: int) -> Classifier:
        """The classifier whose prompt was tuned with `seed`.

        Raises:
            ValueError: The run has no such seed.
        """
        for classifier in self.classifiers:
            if classifier.prompt.seed == seed:
                return classifier
        seeds = [classifier.prompt.seed for classifier in self.classifiers]
        raise ValueError(f"`seed` is {seed}, but the run in {self.folder} has {seeds}. Choose one of these.")

    def binary_scores(self) -> NeuronScores:
        """The scores of a task of two classes.

        Raises:
            ValueError: The task has more classes.
        """
        if len(self.scores) != 1:
            raise ValueError(
                f"A ranking of neurons needs a task of two classes, but that of {self.folder} has "
                f"{len(self.settings['task']['labels'])}. Run `skillneurons find` on two of them."
            )
        (scores,) = self.scores
        return scores

    def task(self, source: str | Path | None = None) -> Task:
        """The task's rows, loaded again.

        Args:
            source: Folder with the task's files, where the run's task came from one.

        Raises:
            ValueError: The rows are not those of the run.
            FileNotFoundError: No such folder.
        """
        wanted = self.settings["task"]
        task = load_task(wanted["name"], source=source, label_words=wanted["label_words"])
        most = max(wanted["rows"].values())
        # A run on a part of the rows took the same part that `subset` takes.
        for candidate in (task, task.subset(most)):
            if candidate.fingerprint == wanted["fingerprint"]:
                return candidate
        raise ValueError(
            f"The run in {self.folder} had {wanted['name']!r} with fingerprint {wanted['fingerprint']}, but the rows "
            f"found have {task.fingerprint}. Pass the folder that the run read as `source`."
        )


def open_run(folder: str | Path, *, device: str = "cpu") -> OpenedRun:
    """Open a folder that `find` wrote.

    Args:
        folder: A finished run's.
        device: For the model.

    Raises:
        FileNotFoundError: The folder holds no finished run.
        ValueError: The model found is not the run's, or a file is damaged (`StoreError`).

    Example:
        >>> open_run("runs/nothing")
        Traceback (most recent call last):
        FileNotFoundError: runs/nothing needs to hold a finished run, but has no run.json. Run `skillneurons find`.
    """
    folder = Path(folder)
    if not (folder / "run.json").exists():
        raise FileNotFoundError(f"{folder} needs to hold a finished run, but has no run.json. Run `skillneurons find`.")
    settings = json.loads((folder / "settings.json").read_text())
    wanted = settings["model"]
    model = HookedEncoder.from_pretrained(wanted["source"], revision=wanted["revision"], device=device)
    if model.fingerprint() != wanted["fingerprint"]:
        raise ValueError(
            f"The run in {folder} had {wanted['source']!r} with fingerprint {wanted['fingerprint']}, but the model "
            f"found there now has {model.fingerprint()}. Put the run's model back, or run `skillneurons find` again."
        )
    seeds = settings["settings"]["seeds"]
    merged = [folder / "scores"]
    if not merged[0].with_suffix(".json").exists():
        merged = sorted((path.with_suffix("") for path in folder.glob("scores-*.json")), key=_number)
    return OpenedRun(
        folder,
        settings,
        model,
        tuple(Classifier.load(folder / f"seed-{seed}" / "classifier", model) for seed in seeds),
        tuple(NeuronScores.load(path) for path in merged),
    )


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
