"""load_task: bundled tasks, the paper's seven, any data set of the hub, and one's own files.

Missing splits are cut from train by a seeded generator, once, and the task's `source` says so.
"""

import difflib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias, TypedDict, Unpack

from skillneurons.tasks.class_words import class_words
from skillneurons.tasks.columns import Columns, Text, class_names, find_columns, rows_of
from skillneurons.tasks.readers import FORMATS, Table, ending_of, read_saved, read_table, tables_of
from skillneurons.tasks.splits import fill_splits
from skillneurons.tasks.task import SPLITS, Task, TaskWarning
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.lazy import needed
from skillneurons.utilities.types import Json

Words: TypeAlias = Sequence[str] | Mapping[str, str]

SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test", "testing"),
    "adversarial": ("adversarial",),
}
# "train-00000-of-00003", as data sets come in several files.
SHARD = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class HubTask:
    """Where one of the paper's tasks is on the hub, and what its columns and classes mean."""

    path: str
    config: str | None
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    splits: tuple[str | None, str | None, str | None]


SENTIMENT = ("negative", "positive")
DBPEDIA = ("company", "school", "artist", "athlete", "politician", "transportation", "building")
DBPEDIA += ("river", "village", "animal", "plant", "album", "film", "book")

# Hub test splits of GLUE carry no labels: validation is then reported on, and a new validation split is cut from train.
HUB_TASKS = {
    "sst2": HubTask("stanfordnlp/sst2", None, ("sentence",), SENTIMENT, SENTIMENT, ("train", None, "validation")),
    "imdb": HubTask("stanfordnlp/imdb", None, ("text",), SENTIMENT, SENTIMENT, ("train", None, "test")),
    "tweet_sentiment": HubTask(
        "cardiffnlp/tweet_eval",
        "sentiment",
        ("text",),
        ("negative", "neutral", "positive"),
        ("negative", "neutral", "positive"),
        SPLITS,
    ),
    "mnli": HubTask(
        "nyu-mll/glue",
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("yes", "maybe", "no"),
        ("train", None, "validation_matched"),
    ),
    "qnli": HubTask(
        "nyu-mll/glue",
        "qnli",
        ("question", "sentence"),
        ("entailment", "not_entailment"),
        ("yes", "no"),
        ("train", None, "validation"),
    ),
    "ag_news": HubTask(
        "fancyzhx/ag_news",
        None,
        ("text",),
        ("World", "Sports", "Business", "Sci/Tech"),
        ("world", "sports", "business", "technology"),
        ("train", None, "test"),
    ),
    "dbpedia14": HubTask("fancyzhx/dbpedia_14", None, ("content",), DBPEDIA, DBPEDIA, ("train", None, "test")),
}


@checked
def bundled_tasks() -> list[str]:
    """Names of the tasks that come with the package.

    Example:
        >>> "movies" in bundled_tasks()
        True
    """
    folder = files("skillneurons") / "bundled" / "tasks"
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


class TaskOptions(TypedDict, total=False):
    """Keywords of `load_task` that say what the rows' columns mean."""

    text: Text | None
    label: str | None
    group: str | None
    label_words: Words | None
    seed: int


@checked
def load_task(
    name: str, *, source: str | Path | None = None, config: str | None = None, **options: Unpack[TaskOptions]
) -> Task:
    """A bundled task, one of the paper's seven, a data set of the hub, or one's own rows in files.

    Args:
        name: A bundled name; `"sst2"`, `"imdb"`, `"tweet_sentiment"`, `"mnli"`, `"qnli"`, `"ag_news"` or
            `"dbpedia14"`; an id on the hub, `"owner/name"`; with `source`, the name of a folder in it, or any name.
        source: A file, or a folder with a file for each split: `{train,validation,test}` as `.csv` (commas, semicolons,
            bars), `.tsv`, `.json`, `.jsonl` or `.parquet`, gzipped or not; or what `datasets` saved to disk. A single
            file is split by the seed, or by its column `split`; one that is called test is a set to evaluate on. A
            `card.json` may name `labels` and `label_words`.
        config: Of a data set on the hub.
        options: `text`: the column of the texts, or the two of a pair; `label` and `group`: those of the class and of
            what rows share (a premise, document or author). Columns with the usual names are found by themselves.
            `label_words`: words for the classes instead of the usual ones: `{"neg": "terrible", "pos": "great"}`, or a
            list in the order of the labels where they have one (numbers, the names of a data set or of a card).
            `seed`: of the splits that are cut from train where validation or test is missing; rows of one group stay
            together.

    Raises:
        ValueError: The task is not known, its files lack what a task needs (with file and line), its classes have
            numbers and no words, or a list of words meets classes in no order of their own.
        FileNotFoundError: No such folder or files.

    Warns:
        TaskWarning: Texts are empty or have several labels, or adversarial rows are in other splits too.

    Example:
        >>> load_task("movies").labels
        ('negative', 'positive')
    """
    check_options(options, TaskOptions)
    if source is not None:
        task = replace(_load_files(name, Path(source), options), origin=str(Path(source).resolve()))
    elif name in bundled_tasks():
        task = _load_files(name, Path(str(files("skillneurons") / "bundled" / "tasks" / name)), options)
    elif name in HUB_TASKS:
        task = _load_hub(name, HUB_TASKS[name], options)
    elif "/" in name:
        task = _load_any_hub(name, config, options)
    else:
        known = [*bundled_tasks(), *HUB_TASKS]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"No task {name!r}.{hint} Known: {', '.join(known)}; or pass `source`, a file or folder of rows, or an "
            "id on the hub, 'owner/name'."
        )
    for doubt in task.doubts:
        warnings.warn(f"{task.name}: {doubt}", TaskWarning, stacklevel=2)
    return task


def _load_hub(name: str, spec: HubTask, options: TaskOptions) -> Task:
    datasets = needed("datasets", "datasets", f"The hub's data set {spec.path!r}")
    data = datasets.load_dataset(spec.path, spec.config)
    splits = {ours: theirs for ours, theirs in zip(SPLITS, spec.splits, strict=True) if theirs is not None}
    tables = tables_of({ours: data[theirs] for ours, theirs in splits.items()}, named=False)
    source = {"hub": spec.path, "config": spec.config, "fingerprint": data["train"]._fingerprint}
    card = {"labels": spec.labels, "label_words": spec.label_words}
    return _task_of(name, tables, {"text": spec.fields, "label": "label", **options}, card, source)


def _load_any_hub(name: str, config: str | None, options: TaskOptions) -> Task:
    datasets = needed("datasets", "datasets", f"The hub's data set {name!r}")
    data = datasets.load_dataset(name, config)
    tables = _by_split(tables_of(data), name)
    return _task_of(name.split("/")[-1], tables, options, {}, {"hub": name, "config": config})


def _load_files(name: str, where: Path, options: TaskOptions) -> Task:
    where = where / name if (where / name).is_dir() else where
    if where.is_dir():
        return _task_of(name, _read_folder(where, name), options, _read_card(where), {"folder": where.name})
    if not where.exists():
        raise FileNotFoundError(
            f"`source` needs a file or a folder with the rows of {name!r}, but {where} does not exist."
        )
    if not ending_of(where):
        raise ValueError(f"`source` is {where}, which is no file of rows. These are {', '.join(FORMATS)}, also as .gz.")
    table = read_table(where)
    split = _split_named(where) or "train"
    tables = _by_column(table) or {split: table}
    return _task_of(name, tables, options, {}, {"file": where.name})


def _read_card(folder: Path) -> dict[str, Json]:
    path = folder / "card.json"
    if not path.exists():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({type(error).__name__}: {error}).") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} needs an object with `labels` and `label_words`, but holds a {type(card).__name__}.")
    labels = card.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{path} needs the names of the classes as `labels`, a list of strings, but has {labels!r}.")
    return card


def _read_folder(folder: Path, name: str) -> dict[str, Table]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _by_split(read_saved(folder), str(folder))
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if ending_of(path) and (split := _split_named(path)):
            found.setdefault(split, []).append(path)
    for split, paths in found.items():
        if len(paths) > 1 and len({SHARD.sub("", _stem(path)) for path in paths if SHARD.search(_stem(path))}) != 1:
            raise ValueError(
                f"{folder} has {' and '.join(path.name for path in paths)}, any of which could be the {split} split of "
                f"{name!r}. Keep one."
            )
    if not found:
        raise FileNotFoundError(
            f"{folder} needs a train.jsonl, train.csv or the like, or a data set saved by `datasets`; it holds "
            f"{sorted(entry.name for entry in folder.iterdir())[:8]}."
        )
    tables = {
        split: sum((read_table(path) for path in paths[1:]), read_table(paths[0])) for split, paths in found.items()
    }
    if list(tables) == ["train"] and (parts := _by_column(tables["train"])):
        return parts
    return tables


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _split_named(path: Path) -> str | None:
    """Which split a file's name stands for."""
    stem = SHARD.sub("", _stem(path)).lower()
    return next((split for split, names in SPLIT_ALIASES.items() if stem in names), None)


def _by_split(tables: Mapping[str, Table], name: str) -> dict[str, Table]:
    ours: dict[str, Table] = {}
    for theirs, table in tables.items():
        split = next((split for split, names in SPLIT_ALIASES.items() if theirs.lower() in names), None)
        if split in ours:
            raise ValueError(
                f"{name} has {ours[split].name!r} and {theirs!r}, both of which could be {split}. Keep one."
            )
        if split is not None:
            ours[split] = table
    if not ours:
        raise ValueError(f"{name} needs splits called train, validation or test, but has {sorted(tables)}.")
    return ours


def _by_column(table: Table) -> dict[str, Table]:
    """The splits that a column `split` tells apart; none where there is no such column."""
    if not table.rows or not all("split" in row for row in table.rows):
        return {}
    parts: dict[str, list[int]] = {}
    for i, row in enumerate(table.rows):
        parts.setdefault(str(row["split"]), []).append(i)
    split_tables = {
        name: replace(table, rows=[table.rows[i] for i in own], places=[table.places[i] for i in own])
        for name, own in parts.items()
    }
    return _by_split(split_tables, table.name)


def _task_of(
    name: str, tables: dict[str, Table], options: TaskOptions, card: Mapping[str, Json], source: dict[str, Json]
) -> Task:
    """The task that tables of rows make, with its missing splits filled in."""
    first = tables.get("train") or next(iter(tables.values()))
    for split, table in tables.items():
        if not table.rows:
            raise ValueError(
                f"The {split} split of {name!r} ({table.name}) has no rows; each needs some of every class."
            )
    asked = {key: options.get(key) for key in ("text", "label", "group")}
    columns = {split: find_columns(table, **asked) for split, table in tables.items()}  # type: ignore[arg-type]
    tables = {split: table for split, table in tables.items() if not _unlabelled(table, columns[split], split)}
    names = list(card.get("labels") or ()) or list(first.class_names)
    labels = names or class_names(tables, columns[next(iter(tables))].label)
    guessed = not names and not all(label.isdigit() for label in labels)
    # A card may name the classes anew, in the data set's order.
    aliases = first.class_names if set(first.class_names) != set(labels) else ()
    splits = {split: rows_of(table, columns[split], labels, aliases) for split, table in tables.items()}
    words = class_words(name, labels, options.get("label_words"), card=card.get("label_words"), guessed=guessed)
    filled, notes = fill_splits(splits, options.get("seed", 0))
    source = source | ({"splits": "; ".join(notes)} if notes else {})
    if given := {key: value for key, value in asked.items() if value is not None and "hub" not in source}:
        source["columns"] = given
    return Task(name=name, labels=tuple(labels), label_words=tuple(words), source=source, origin=None, **filled)


def _unlabelled(table: Table, columns: Columns, split: str) -> bool:
    """Whether a split besides train has no labels at all, as the hub's test splits of GLUE."""
    return split != "train" and all(row.get(columns.label) == -1 for row in table.rows)
