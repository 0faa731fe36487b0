"""A run's folder: the only file that knows what lies in it, under which names, and what must hold of it.

`settings.json` says which run it is, and is written first; each part says which part of that run it is; `run.json` has
the numbers and is written last. What earlier versions wrote opens as it is.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from skillneurons.classifiers.tuning import with_added_settings
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result
from skillneurons.utilities.types import Json

T = TypeVar("T")
NAME = "run"
"""In a claimed folder's file: the digest of what it was first claimed for, which stays when the run grows."""

GROUPS = {"model": dict, "task": dict, "settings": dict}
FORMATS = ("png", "svg")
"""Of a run's figures."""

LOCALIZATION = "localization"
"""Its entry in `run.json`, and its files."""

FIGURE = re.compile(r"[\w-]+\.(svg|png)")


class RunFolderError(ValueError):
    """The folder belongs to a run with other settings."""


@dataclass(frozen=True)
class RunFolder:
    """Names, claim, reading and checking of a folder that `find` writes.

    Args:
        path: Where it is.

    Example:
        >>> from skillneurons.runs.folder import RunFolder
        >>> RunFolder(Path("runs/movies")).seed(0).as_posix()
        'runs/movies/seed-0'
    """

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.json"

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def points(self) -> Path:
        """Where an unfinished sweep keeps what is done."""
        return self.path / "points"

    @property
    def origin_file(self) -> Path:
        """Where the task's rows lay on this machine; not part of what is shared."""
        return self.path / "origin.json"

    @staticmethod
    def stays(name: str) -> bool:
        """Whether a run wrote this for itself on this machine: no part of what is shared, and nothing to tell of."""
        return name in ("origin.json", "config.toml") or name.startswith("points/")

    def note_origin(self, origin: str | None) -> None:
        """Note the file or folder that the task's rows were read from."""
        if origin is not None:
            store.write_json(self.origin_file, {"source": origin})

    def origin(self) -> str | None:
        """The file or folder that the task's rows were read from, if that was noted.

        Raises:
            FileNotFoundError: It is gone.
        """
        if not self.origin_file.exists():
            return None
        source = store.read_json(self.origin_file, {"source": str}, "Remove it, and say where the rows are.")["source"]
        if not Path(source).exists():
            raise FileNotFoundError(
                f"The run in {self.path} read its task's rows from {source}, which is gone. Say where they are now: "
                "`source`, or `--source`."
            )
        return source

    def seed(self, seed: int) -> Path:
        return self.path / f"seed-{seed}"

    @property
    def run(self) -> str:
        """What its parts call it; empty where it is of an earlier version."""
        return name_of_run(self.settings_file)

    def claim(self, wanted: Mapping[str, Mapping[str, Json]], may_grow: Sequence[str] = ()) -> dict[str, Json]:
        """Note in the folder which run it is, or check that it is the same one.

        Args:
            wanted: `model`, `task` and `settings`.
            may_grow: Settings that may differ; see `grow`.

        Returns:
            What was found there.

        Raises:
            RunFolderError: It is another one, or holds something else.
        """
        if not self.settings_file.exists() and _holds_files(self.path, self.settings_file.name):
            raise RunFolderError(f"{self.path} holds files that are not a run's. Choose an empty or a new folder.")
        found = claimed(self.settings_file, wanted, GROUPS, "Choose a new folder for a new run.")
        different = {
            f"{group}.{key}: {found[group].get(key)!r} there, {value!r} asked for": key
            for group, values in wanted.items()
            for key, value in values.items()
            if found[group].get(key) != value and not (group == "settings" and key in may_grow)
        }
        if different:
            same = ", ".join(f"`{key}`" for key in dict.fromkeys(different.values()))
            raise RunFolderError(
                f"{self.path} holds another run ({'; '.join(list(different)[:3])}), whose numbers would change. Choose "
                f"another folder (`--out`), or the same {same}; {', '.join(may_grow) or 'nothing'} may grow."
            )
        return found

    def grow(self, wanted: Mapping[str, Mapping[str, Json]]) -> None:
        """Note that the run now is what was wanted, under the name that its parts have for it."""
        store.write_sealed(self.settings_file, dict(wanted) | {NAME: self.run} if self.run else dict(wanted))

    def settings(self) -> dict[str, Json]:
        """Which run the folder holds: `model`, `task` and `settings`.

        Raises:
            FileNotFoundError: There is no such file.
            StoreError: It is damaged.
        """
        return read_settings(self.settings_file)

    def merged_scores(self) -> list[str]:
        """Names of the scores of all seeds; one for each binary subtask."""
        found = [path.stem for path in self.path.glob("scores-*.json") if path.stem[len("scores-") :].isdigit()]
        if found and not (self.path / "scores.json").exists():
            return sorted(found, key=lambda name: int(name.rpartition("-")[2]))
        return score_names(1)

    def write(self, name: str, result: Result) -> None:
        """Save a part, which says that it is that of this run."""
        with store.labelled(self.run, name):
            result.save(self.path / name)

    def read(self, name: str, load: Callable[[Path], T]) -> T:
        """A part, which must not be another one or another run's."""
        with store.labelled(self.run, name):
            return store.read(self.path / name, load)

    def finish(self, numbers: Mapping[str, Json]) -> None:
        """Write `run.json`, with the digests of the figures that are there."""
        figures = {path.name: _digest(path) for path in self.drawn()}
        store.write_sealed(self.run_file, dict(numbers) | {"figures": figures})

    def drawn(self) -> list[Path]:
        """The figures: files of its own, no links to other places."""
        if not self.figures.is_dir() or self.figures.is_symlink():
            return []
        return sorted(path for path in self.figures.iterdir() if path.is_file() and not path.is_symlink())

    def finished(self, needed_by: str) -> dict[str, Json]:
        """What `run.json` holds, once it and the figures are found to be what was written.

        Args:
            needed_by: Who asks, for messages.

        Raises:
            FileNotFoundError: The run is not finished.
            StoreError: It is damaged.
        """
        if not self.run_file.exists():
            raise FileNotFoundError(
                f"{needed_by} needs a finished run, but {self.run_file} does not exist. Run `skillneurons find --out "
                f"{self.path}` to its end."
            )
        run = store.read_sealed(self.run_file, {}, "Run `skillneurons find` again.")
        digests = run.pop("figures", {})
        for path in self.drawn():
            if path.name in digests and digests[path.name] != _digest(path):
                raise store.StoreError(f"{path} is not the figure that the run drew. Run `skillneurons find` again.")
        return run


def score_names(n: int) -> list[str]:
    """Names of the scores of `n` binary subtasks.

    Example:
        >>> score_names(1), score_names(3)
        (['scores'], ['scores-0', 'scores-1', 'scores-2'])
    """
    return ["scores"] if n == 1 else [f"scores-{i}" for i in range(n)]


def curve_name(kind: str, seed: int | None = None) -> str:
    """Name of a perturbation curve: of the run's first prompt, or of another one's seed.

    Example:
        >>> curve_name("mean"), curve_name("mean", 1)
        ('curve-mean', 'curve-mean-seed-1')
    """
    return f"curve-{kind}" if seed is None else f"curve-{kind}-seed-{seed}"


@checked
def read_settings(path: Path) -> dict[str, Json]:
    """What a run's `settings.json` holds; see `RunFolder.settings`."""
    found = store.read_sealed(path, GROUPS, "Choose a new folder for a new run.")
    found.pop(NAME, None)
    return found


def name_of_run(path: Path) -> str:
    """What the parts of a claimed folder call their run; empty where an earlier version claimed it."""
    return store.read_sealed(path, {}, "Choose a new folder for a new run.").get(NAME, "")


def claimed(
    path: Path,
    wanted: Mapping[str, Json],
    needed: Mapping[str, Json],
    remedy: str,
    more: Mapping[str, Json] | None = None,
) -> Json:
    """What a folder was claimed for by an earlier run, or else by this one.

    Args:
        path: The file that says so.
        wanted: What this run would write there, as JSON has it.
        needed: See `store.parse_json`.
        remedy: Likewise.
        more: Written there too, but not compared.
    """
    if not path.exists():
        store.write_sealed(path, dict(wanted) | dict(more or {}) | {NAME: store.json_digest(wanted)})
    found = store.read_sealed(path, needed, remedy)
    return found | {"settings": with_added_settings(found["settings"])}


REPRODUCTION, TABLES = "reproduction.json", "tables.json"


def note_table(path: Path, content: bytes) -> None:
    """Note a table's digest beside it, in one file for all tables of the folder."""
    store.write_sealed(path.with_name(TABLES), _noted(path) | {path.name: hashlib.sha256(content).hexdigest()})


def read_table(path: Path) -> bytes | None:
    """A table that is what was noted; None where it is missing, cut or changed.

    Earlier versions noted none: in a folder that one of them began, those without a note are taken as they are.
    """
    if not path.is_file():
        return None
    content, noted = path.read_bytes(), _noted(path)
    earlier = not name_of_run(path.with_name(REPRODUCTION))
    if noted.get(path.name, ... if earlier else "") not in (..., hashlib.sha256(content).hexdigest()):
        warnings.warn(f"{path} is not the table that was written. It is computed anew.", stacklevel=2)
        return None
    return content


def _noted(path: Path) -> dict[str, str]:
    file = path.with_name(TABLES)
    if not file.exists():
        return {}
    return store.read_sealed(file, {}, "Remove it, and run the same again: the tables are computed anew.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _holds_files(folder: Path, own: str) -> bool:
    """Whether something lies there besides what a killed process had begun to write."""
    return folder.exists() and any(store.name_of_partial(path.name) != own for path in folder.iterdir())


def as_json(content: Mapping[str, Json]) -> dict[str, Json]:
    """As JSON gives it back."""
    return json.loads(json.dumps(content))
