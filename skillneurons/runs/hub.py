"""Share a run's folder through the Hugging Face hub: exactly the files that `runs.find` writes, as a data set's.

`run.json` names the model, the task and where both were read from, also where that is a folder of one's own; texts are
not part of a run.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from huggingface_hub import CommitOperationAdd, HfApi

from skillneurons.findings.localization import Localization
from skillneurons.interventions.curve import PerturbationCurve
from skillneurons.interventions.perturbation import PERTURBATIONS
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import NeuronScores
from skillneurons.runs.folder import FIGURE, RunFolder, RunFolderError, curve_name, score_names
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result

REPO_TYPE = "dataset"


@dataclass(frozen=True, repr=False)
class RunFiles(Result):
    """What of a run's folder is shared, and what stays.

    Args:
        repo_id: Where it goes.
        sizes: Bytes of each file, by its name in the folder and in the repository.
        left_out: Other files in the folder.
        url: Of the commit; None after a dry run.

    Example:
        See `push_run`, which makes it.
    """

    repo_id: str
    sizes: dict[str, int]
    left_out: tuple[str, ...] = ()
    url: str | None = None

    @property
    def n_bytes(self) -> int:
        return sum(self.sizes.values())

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each file: its name and bytes."""
        return pd.DataFrame({"file": list(self.sizes), "bytes": list(self.sizes.values())})

    def __repr__(self) -> str:
        n_files, n_left = len(self.sizes), len(self.left_out)
        return f"RunFiles({self.repo_id}, {n_files} files of {self.n_bytes:,} bytes, {n_left} left out)"


@checked
def push_run(
    folder: str | Path, repo_id: str, *, dry_run: bool = False, private: bool = True, api: HfApi | None = None
) -> RunFiles:
    """Upload a finished run, in one commit, to a data set repository, which is made if it does not exist.

    Every file is read first, as it will be by whoever downloads it. Nothing else in the folder goes along, and no link
    is followed out of it.

    Args:
        folder: That `runs.find` finished.
        repo_id: `"user/name"`.
        dry_run: Only say what would go; nothing is sent or made.
        private: Of a repository that is made; an existing one stays as it is.
        api: With a token or an endpoint of one's own. Default: the token of `hf auth login`.

    Raises:
        FileNotFoundError: The run is not finished.
        StoreError: One of its files is damaged or another run's.
        ValueError: A file lies outside the folder, behind a link.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import TuningConfig, load_example, push_run
        >>> from skillneurons.runs._find import FindSettings, find
        >>> classifier, task = load_example()
        >>> tuning = TuningConfig(lr=0.05, steps=10)
        >>> small = FindSettings((0,), 2, tuning, kinds=("mean",), n_random=2)
        >>> with TemporaryDirectory() as folder:
        ...     result = find(classifier.model, task, folder, small)
        ...     files = push_run(folder, "me/movies", dry_run=True)
        >>> files.to_dataframe().file[:3].tolist()
        ['settings.json', 'run.json', 'skill.json']
    """
    folder = Path(folder)
    names = run_files(folder)
    for name in names:
        if (folder / name).resolve() != folder.resolve() / name:
            raise ValueError(
                f"A shared run's files need to lie in its folder, but {name} is a link to {(folder / name).resolve()}. "
                "Put a copy in its place."
            )
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sizes = {name: (folder / name).stat().st_size for name in names}
    left_out = tuple(name for name in there if name not in sizes and not RunFolder.stays(name))
    if dry_run:
        return RunFiles(repo_id, sizes, left_out)
    api = api or HfApi()
    api.create_repo(repo_id, repo_type=REPO_TYPE, private=private, exist_ok=True)
    files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
    commit = api.create_commit(repo_id, files, repo_type=REPO_TYPE, commit_message="Upload a run of skillneurons")
    return RunFiles(repo_id, sizes, left_out, commit.commit_url)


@checked
def pull_run(repo_id: str, folder: str | Path, *, revision: str | None = None, api: HfApi | None = None) -> Path:
    """Download a run that `push_run` uploaded; the folder appears once every file has been read.

    Args:
        repo_id: `"user/name"`.
        folder: New or empty.
        revision: Branch, tag or commit.
        api: See `push_run`.

    Returns:
        The folder, for `skillneurons report`, `compare`, `prune`, or to load its parts.

    Raises:
        RunFolderError: `folder` holds files.
        StoreError: The repository holds no finished run, or a damaged one.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import pull_run
        >>> with TemporaryDirectory() as folder:
        ...     n_characters = (Path(folder) / "notes.txt").write_text("mine")
        ...     pull_run("me/movies", folder)
        Traceback (most recent call last):
        skillneurons.runs.folder.RunFolderError: A downloaded run needs a folder of its own, but ...
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise RunFolderError(f"A downloaded run needs a folder of its own, but {folder} holds files. Choose a new one.")
    wanted = ["*.json", "*.safetensors", "figures/*.svg", "figures/*.png", "report.html"]
    source = (api or HfApi()).snapshot_download(repo_id, repo_type=REPO_TYPE, revision=revision, allow_patterns=wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as partial:
        try:
            for name in run_files(Path(source)):
                target = Path(partial) / "run" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # The hub's cache holds links; this copies what they lead to.
                shutil.copyfile(Path(source) / name, target)
        except (FileNotFoundError, store.StoreError) as error:
            raise store.StoreError(f"{repo_id} needs to hold a finished run of skillneurons: {error}") from error
        if folder.exists():
            folder.rmdir()
        os.replace(Path(partial) / "run", folder)
    return folder


def run_files(folder: str | Path) -> list[str]:
    """Names of a finished run's files, after reading each result with the class it belongs to.

    Raises:
        FileNotFoundError: One of them is missing.
        StoreError: One is damaged, or `run.json` is another run's than `settings.json`.
    """
    folder, part_of = Path(folder), RunFolder(Path(folder))
    run, settings = part_of.finished("A shared run"), part_of.settings()
    different = [key for key, value in settings.items() if run.get(key) != value]
    try:
        seeds, kinds = run["settings"]["seeds"], run["settings"]["kinds"]
        also_swept = [None, *(seeds[1:] if run["settings"].get("sweep_seeds") else [])]
        n_scores = len(run["top_neurons"])
    except (KeyError, TypeError) as error:
        raise store.StoreError(f"{folder / 'run.json'} is damaged or of another release ({error!r}).") from error
    # These become paths, and may have come from a stranger.
    if different or any(type(seed) is not int for seed in seeds) or set(kinds) - set(PERTURBATIONS):
        raise store.StoreError(
            f"{folder / 'run.json'} needs the run that settings.json names, with seeds and interventions of this "
            f"release, but has another {' and '.join(different) or f'one: {seeds}, {kinds}'}. Run `skillneurons find` "
            "again."
        )
    scores = score_names(n_scores)
    parts: dict[str, Callable[[Path], object]] = {"skill": NeuronSet.load}
    parts |= {f"seed-{seed}/classifier": lambda path: store.load(path, "Classifier") for seed in seeds}
    parts |= {f"seed-{seed}/{name}": NeuronScores.load for seed in seeds for name in scores}
    parts |= dict.fromkeys(scores, NeuronScores.load)
    parts |= {curve_name(kind, seed): PerturbationCurve.load for kind in kinds for seed in also_swept}
    parts |= {"localization": Localization.load} if "localization" in run else {}
    for name, load in parts.items():
        part_of.read(name, load)
    # Links too: whoever shares is told of them.
    figures = [path.name for path in part_of.figures.glob("*") if FIGURE.fullmatch(path.name) and path.is_file()]
    return [
        *("settings.json", "run.json"),
        *(f"{name}{ending}" for name in parts for ending in (".json", ".safetensors")),
        *(f"figures/{name}" for name in sorted(figures)),
        *(name for name in ("report.html",) if (folder / name).is_file()),
    ]
