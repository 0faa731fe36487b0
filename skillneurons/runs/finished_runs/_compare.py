"""Do runs rely on the same neurons? Rankings and top sets of runs of one model, against chance and other rows."""

from collections.abc import Sequence
from pathlib import Path

from skillneurons.findings.run_agreement import RunComparison, compared, ranked
from skillneurons.models.bridge import AnyModel
from skillneurons.runs._open_run import OpenedRun, open_run
from skillneurons.runs.folder import RunFolder
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.progress import told
from skillneurons.utilities.types import Progress


@checked
def compare_runs(
    runs: Sequence[str | Path | OpenedRun],
    *,
    fraction: float = 0.02,
    n_draws: int = 199,
    seed: int = 0,
    source: str | Path | None = None,
    model: AnyModel | None = None,
    device: str = "cpu",
    progress: Progress | bool = True,
) -> RunComparison:
    """Do two or more runs of one model rely on the same neurons?

    Rank correlation of predictivities and overlap of top sets, of all neurons and in each layer. Intervals are over the
    validation rows, on which neurons were chosen. The null keeps each neuron's activations and shuffles the labels: by
    the same draws where runs have the same rows, since then the same neurons are lucky in both.

    Costs a pass over each run's validation rows for each of its prompts (and subtasks).

    Args:
        runs: Folders of finished runs, or what `open_run` made of them.
        fraction: Share of each layer's neurons in a top set.
        n_draws: Shuffles, and resamples.
        seed: Of the draws.
        source: The file or folder with the tasks' rows, where they came from one.
        model: The runs', where `load_model` does not find it.
        device: For the model that is loaded.
        progress: Bars or lines, as of `find`; or called with (what is being done, runs done, runs).

    Raises:
        ValueError: There are fewer than two runs, or they are of different models or a top set is empty.
        FileNotFoundError: A folder holds no finished run.

    Example:
        >>> compare_runs(["runs/nothing"])
        Traceback (most recent call last):
        ValueError: `runs` needs at least two folders to compare, but is ['runs/nothing'].
    """
    check_whole("n_draws", n_draws, low=2)
    folders = [run.folder if isinstance(run, OpenedRun) else Path(run) for run in runs]
    check_comparable(folders)
    names, tell = _names(folders), told(progress)
    found, tasks, fingerprint = [], [], ""
    for i, run in enumerate(runs):
        tell("compare", i, len(runs))
        opened = run if isinstance(run, OpenedRun) else open_run(run, model=model, device=device)
        model = opened.model
        fingerprint = fingerprint or opened.model.fingerprint()
        task = opened.task(source)
        tasks.append(task.name)
        found.append(ranked(opened.classifiers, task, opened.scores, fraction, n_draws=n_draws, seed=seed))
    tell("compare", len(runs), len(runs))
    meta = {"fraction": fraction, "per_layer": True, "n_draws": n_draws, "seed": seed, "model": found[0].chosen.model}
    return compared(names, tasks, found, meta)


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Of the folders, as short as they are told apart by."""
    short = [folder.resolve().name for folder in folders]
    return tuple(short) if len(set(short)) == len(short) else tuple(str(folder) for folder in folders)


def check_comparable(folders: Sequence[Path]) -> None:
    """Raise where runs are fewer than two, not finished or of different models, before a model is loaded."""
    if len(folders) < 2:
        raise ValueError(f"`runs` needs at least two folders to compare, but is {[str(one) for one in folders]}.")
    found = []
    for folder in folders:
        RunFolder(folder).finished("A comparison")
        found.append(RunFolder(folder).settings()["model"])
    for folder, one in zip(folders, found, strict=True):
        if one["fingerprint"] != found[0]["fingerprint"]:
            raise ValueError(
                f"Runs of one model are compared, but {folders[0]} is of {found[0]['source']} "
                f"({found[0]['fingerprint']}) and {folder} of {one['source']} ({one['fingerprint']})."
            )
