"""A run's folder opened again: its model, task, prompts and scores, checked to be the ones the run had."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skillneurons.classifiers.classifier import Classifier
from skillneurons.models._load_model import load_model
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.neurons.controls import claims
from skillneurons.neurons.luck import searched
from skillneurons.neurons.scores import NeuronScores
from skillneurons.runs._verdict import SHOWN, best_of_all
from skillneurons.runs.folder import RunFolder, read_settings
from skillneurons.runs.trials import load_classifier
from skillneurons.tasks._load_task import HUB_TASKS, load_task
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.devices import DTYPES
from skillneurons.utilities.results import Shown, as_text
from skillneurons.utilities.types import Json


@checked
@dataclass(frozen=True, eq=False)
class OpenedRun(Shown):
    """What a run was made of and what it found; `scores` has one entry for each binary subtask.

    Args:
        folder: The run's.
        settings: As `settings.json` holds them: `model`, `task`, `settings`.
        model: The model, loaded again or passed.
        classifiers: One for each seed.
        scores: Merged over seeds.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import TuningConfig, load_example
        >>> from skillneurons.runs._open_run import open_run
        >>> from skillneurons.runs._find import FindSettings, find
        >>> classifier, task = load_example()
        >>> tuning = TuningConfig(lr=0.05, steps=10)
        >>> small = FindSettings((0,), 2, tuning, kinds=("mean",), n_random=2)
        >>> with TemporaryDirectory() as folder:
        ...     result = find(classifier.model, task, folder, small)
        ...     run = open_run(folder)
        >>> run.classifier(seed=0).prompt, run.task()
        (SoftPrompt(2 vectors of 192, tuned, seed 0), Task('movies', negative / positive, 32 / 32 / 32 rows))
        >>> len(run.to_dataframe())
        10
    """

    folder: Path
    settings: dict[str, Json]
    model: Model
    classifiers: tuple[Classifier, ...]
    scores: tuple[NeuronScores, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """The ten best neurons of each subtask, with all that it takes to judge them; see `claims`."""
        return best_of_all([claims(one, 10) for one in self.scores], [one.meta["task"] for one in self.scores])

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe().loc[:, list(SHOWN)]

    def __repr__(self) -> str:
        seeds = [classifier.prompt.seed for classifier in self.classifiers]
        title = f"OpenedRun({self.settings['task']['name']} on {self.model.cfg.source}, seeds {seeds}; {self.folder})"
        return "\n".join([title, *(str(searched(one)) for one in self.scores), as_text(self._table())])

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
            source: The file or folder with the task's rows, where the run's task came from one; by default the one
                that the run read, if it is still there.

        Raises:
            ValueError: The rows are not those of the run.
            FileNotFoundError: No such folder.
        """
        wanted = self.settings["task"]
        words = dict(zip(wanted["labels"], wanted["label_words"], strict=True))
        origin = wanted.get("source", {})
        name = wanted["name"] if wanted["name"] in HUB_TASKS else origin.get("hub", wanted["name"])
        task = load_task(
            name,
            source=source or RunFolder(self.folder).origin(),
            config=origin.get("config"),
            label_words=words,
            **origin.get("columns", {}),
        )
        if "words" in origin:
            task = task.shortened(origin["words"])
        most = max(wanted["rows"].values())
        # A run on a part of the rows took the same part that `subset` takes.
        for candidate in (task, task.subset(most)):
            if candidate.fingerprint == wanted["fingerprint"]:
                return candidate
        raise ValueError(
            f"The run in {self.folder} had {wanted['name']!r} with fingerprint {wanted['fingerprint']}, but the rows "
            f"found have {task.fingerprint}. Pass the folder that the run read as `source`."
        )


@checked
def open_run(folder: str | Path, *, model: AnyModel | None = None, device: str = "cpu") -> OpenedRun:
    """Open a folder that `find` wrote.

    Args:
        folder: A finished run's.
        model: The run's, where `load_model` does not find it.
        device: For the model that is loaded.

    Raises:
        FileNotFoundError: The folder holds no finished run.
        ValueError: The model found is not the run's, or a file is damaged or of another seed (`StoreError`).

    Example:
        >>> open_run("runs/nothing")
        Traceback (most recent call last):
        FileNotFoundError: runs/nothing needs to hold a finished run, but has no run.json. Run `skillneurons find`.
    """
    folder = Path(folder)
    if not (folder / "run.json").exists():
        raise FileNotFoundError(f"{folder} needs to hold a finished run, but has no run.json. Run `skillneurons find`.")
    run = RunFolder(folder)
    settings, wanted, seeds = store.read(run.settings_file, _read_settings)
    run.finished("An opened run")
    if model is None:
        model = load_model(wanted["source"], revision=wanted["revision"], device=device, dtype=wanted["dtype"])
    ours = as_classifiable(model)
    if ours.fingerprint() != wanted["fingerprint"]:
        raise ValueError(
            f"The run in {folder} had {wanted['source']!r} with fingerprint {wanted['fingerprint']}, but the model "
            f"found now, {ours.cfg.source!r}, has {ours.fingerprint()}. Put the run's model back, pass it as "
            "`model`, or run `skillneurons find` again."
        )
    classifiers = tuple(
        run.read(f"seed-{seed}/classifier", lambda path, seed=seed: load_classifier(path, ours, seed)) for seed in seeds
    )
    scores = tuple(run.read(name, lambda path: _scores(path, seeds)) for name in run.merged_scores())
    return OpenedRun(folder, settings, ours, classifiers, scores)


def _read_settings(path: Path) -> tuple[dict[str, Json], dict[str, Json], list[int]]:
    """A run's settings; of these, what names its model, and the seeds."""
    settings = read_settings(path)
    wanted = {key: settings["model"][key] for key in ("source", "revision", "fingerprint", "dtype")}
    return settings, wanted | {"dtype": DTYPES[wanted["dtype"].removeprefix("torch.")]}, settings["settings"]["seeds"]


def _scores(path: Path, seeds: list[int]) -> NeuronScores:
    scores = store.read(path, NeuronScores.load)
    if scores.meta["seeds"] != seeds:
        raise store.StoreError(f"{path} holds scores of seeds {scores.meta['seeds']}, not {seeds}.")
    return scores
