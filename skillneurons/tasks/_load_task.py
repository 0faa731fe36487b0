"""load_task: bundled tasks, the paper's seven from the hub, and tasks in folders.

Missing splits are cut from train by a seeded generator, once, and the task's `source` says so.
"""

import difflib
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from skillneurons.tasks.class_words import class_words
from skillneurons.tasks.task import SPLITS, Task, stratified
from skillneurons.utilities.types import Row

Words: TypeAlias = Sequence[str] | Mapping[str, str]

SPLIT_ALIASES = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test",),
    "adversarial": ("adversarial",),
}


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


def bundled_tasks() -> list[str]:
    """Names of the tasks that come with the package.

    Example:
        >>> "movies" in bundled_tasks()
        True
    """
    folder = files("skillneurons") / "bundled" / "tasks"
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def load_task(
    name: str,
    *,
    source: str | Path | None = None,
    label_words: Words | None = None,
    seed: int = 0,
) -> Task:
    """A bundled task, one of the paper's seven from the hub, or a task in a folder.

    Args:
        name: A bundled name; `"sst2"`, `"imdb"`, `"tweet_sentiment"`, `"mnli"`, `"qnli"`, `"ag_news"` or
            `"dbpedia14"`; with `source`, the name of a folder in it, or any name for the folder itself.
        source: Folder with `{train,validation,test}` as `.jsonl`, `.jsonl.gz`, `.csv`, or a dataset that
            `datasets` saved to disk. A `card.json` there may name `labels` and `label_words`.
        label_words: Words for the classes instead of the usual ones: `{"neg": "terrible", "pos": "great"}`, or a list
            in the order of the labels where they have one (numbers, the names of a data set or of a card).
        seed: Of the split that is cut from train where validation or test is missing.

    Raises:
        ValueError: The task is not known, its files lack what a task needs, its classes have numbers and no words, or
            a list of words meets classes in no order of their own.
        FileNotFoundError: No such folder or files.

    Example:
        >>> load_task("movies").labels
        ('negative', 'positive')
    """
    if source is not None:
        folder = Path(source)
        folder = folder / name if (folder / name).is_dir() else folder
        return _load_folder(name, folder, label_words, seed)
    if name in bundled_tasks():
        return _load_folder(name, Path(str(files("skillneurons") / "bundled" / "tasks" / name)), label_words, seed)
    if name in HUB_TASKS:
        return _load_hub(name, HUB_TASKS[name], label_words, seed)
    known = [*bundled_tasks(), *HUB_TASKS]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"No task {name!r}.{hint} Known: {', '.join(known)}; or pass `source`, a folder with its files.")


def _load_hub(name: str, spec: HubTask, label_words: Words | None, seed: int) -> Task:
    import datasets

    data: Any = datasets.load_dataset(spec.path, spec.config)
    splits = {
        ours: [_row(row, spec.fields, row["label"]) for row in data[theirs]]
        for ours, theirs in zip(SPLITS, spec.splits, strict=True)
        if theirs is not None
    }
    source = {"hub": spec.path, "config": spec.config, "fingerprint": data["train"]._fingerprint}
    words = class_words(name, spec.labels, label_words, card=spec.label_words)
    return _task_of_splits(name, splits, spec.labels, words, seed, source)


def _load_folder(name: str, folder: Path, label_words: Words | None, seed: int) -> Task:
    if not folder.is_dir():
        raise FileNotFoundError(f"`source` needs a folder with the files of {name!r}, but {folder} does not exist.")
    card_path = folder / "card.json"
    card = json.loads(card_path.read_text()) if card_path.exists() else {}
    tables, names = _read_tables(folder)
    if "train" not in tables:
        raise FileNotFoundError(
            f"{folder} needs a train.jsonl, train.jsonl.gz or train.csv, or a dataset saved by `datasets`; "
            f"it holds {sorted(entry.name for entry in folder.iterdir())[:8]}."
        )
    ordered = card.get("labels") or names
    labels = ordered or _label_names(tables)
    guessed = not ordered and not all(label.isdigit() for label in labels)
    index = {label: i for i, label in enumerate(labels)}
    splits = {}
    for split, rows in tables.items():
        fields = ("text_a", "text_b") if rows and "text_a" in rows[0] else ("text",)
        splits[split] = [_row(row, fields, index.get(row.get("label", ""), row.get("label"))) for row in rows]
    words = class_words(name, labels, label_words, card=card.get("label_words"), guessed=guessed)
    return _task_of_splits(name, splits, labels, words, seed, {"folder": folder.name})


def _read_tables(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The rows of each split, and the classes' names in their own order where the data set has one."""
    ordered: list[str] = []
    if (folder / "dataset_dict.json").exists():
        import datasets

        data: Any = datasets.load_from_disk(str(folder))
        tables = {}
        for split, table in data.items():
            names = getattr(table.features.get("label"), "names", None)
            ordered = ordered or list(names or ())
            rows = table.to_list()
            # Unlabelled rows have -1, which stays, to be refused.
            named = dict(enumerate(names or ()))
            tables[split] = [row | {"label": named.get(row["label"], row["label"])} for row in rows] if names else rows
    else:
        tables = {path.name.split(".")[0]: _read_file(path) for path in sorted(folder.iterdir()) if _is_table(path)}
    aliases = {alias: split for split, names in SPLIT_ALIASES.items() for alias in names}
    return {aliases[name]: rows for name, rows in tables.items() if name in aliases}, ordered


def _is_table(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz", ".csv", ".csv.gz"))


def _read_file(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    try:
        if ".jsonl" in path.name:
            opened = gzip.open if path.suffix == ".gz" else open
            with opened(path, "rt", encoding="utf-8") as lines:
                return [json.loads(line) for line in lines if line.strip()]
        table = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(("text", "text_a", "text_b"), str))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    return table.to_dict("records")


def _label_names(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Class names where no card gives them: strings as they are, in alphabetical order; numbers as digits."""
    values = {row.get("label") for row in tables["train"]}
    names = sorted(value for value in values if isinstance(value, str))
    if len(names) == len(values):
        return names
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) == len(values):
        if sorted(numbers) != list(range(len(numbers))):
            raise ValueError(
                f"Labels that are numbers run from 0 without gaps, but train has {sorted(numbers)}. Number them anew, "
                "or write names."
            )
        return [str(i) for i in numbers]
    raise ValueError(f"Labels must all be integers or all be names, but are {sorted(map(repr, values))[:6]}.")


def _row(row: Row, fields: Iterable[str], label: Any) -> dict[str, Any]:
    missing = [name for name in fields if name not in row]
    if missing:
        raise ValueError(f"A row needs {missing[0]!r}, but has {sorted(row)}.")
    texts = [row[name] for name in fields]
    content = {"text": texts[0]} if len(texts) == 1 else {"text_a": texts[0], "text_b": texts[1]}
    extra = {"attack": row["attack"]} if "attack" in row else {}
    return content | {"label": label} | extra


def _task_of_splits(
    name: str,
    splits: dict[str, list[dict[str, Any]]],
    labels: Sequence[str],
    label_words: Sequence[str],
    seed: int,
    source: dict[str, Any],
) -> Task:
    """Fill in missing splits: the last labelled one is reported on, validation is cut from train."""
    notes = []
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("no labelled test split: validation serves as test")
    for split in ("test", "validation"):
        if split not in splits:
            train = splits["train"]
            share = min(0.1, len(splits.get("test", train)) / len(train))
            counts = Counter(row["label"] for row in train)
            held = stratified(train, {k: max(1, round(share * n)) for k, n in counts.items()}, seed)
            held_ids = {id(row) for row in held}
            splits[split], splits["train"] = held, [row for row in train if id(row) not in held_ids]
            notes.append(f"{split}: {len(held)} rows cut from train (seed {seed})")
    return Task(
        name=name,
        labels=tuple(labels),
        label_words=tuple(label_words),
        source=source | ({"splits": "; ".join(notes)} if notes else {}),
        **splits,
    )
