"""Task: labelled examples in three fixed splits, with a name and a label word for each class.

Rows are plain mappings: `{"text": …, "label": 0}`, or `text_a` and `text_b` for pairs. Views of a task (two of its
classes, one class against the rest, balanced, smaller) are tasks again. Held in memory: tens of megabytes for the
largest of the paper's seven.
"""

import difflib
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skillneurons.types import Row

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"validation": ("validation", "dev", "valid", "val"), "train": ("train",), "test": ("test",)}


class Rows(tuple[Row, ...]):
    """The examples of one split: a tuple of rows that knows its labels."""

    @cached_property
    def labels(self) -> np.ndarray:
        return np.array([row["label"] for row in self], dtype=np.int64)

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows, first: {self[0]})" if self else "Rows(0 rows)"


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task.

    Args:
        name: Short name.
        train: Rows for tuning and for baseline activations.
        validation: Rows on which neurons, positions and stopping are chosen.
        test: Rows that are only reported on.
        label_words: For each class, in the order of its integer label, the word the model answers with.
        labels: Names of the classes in the same order; the label words by default.
        adversarial: Rows built to mislead, where the task has them.
        source: Where the rows came from and how they were split, for provenance.

    Raises:
        ValueError: A split is empty, has a single class, a label out of range, or rows without the needed fields.

    Example:
        >>> rows = [{"text": "dull", "label": 0}, {"text": "moving", "label": 1}]
        >>> task = Task("mine", rows, rows, rows, ["terrible", "great"])
        >>> task.n_labels, task.labels, len(task.train)
        (2, ('terrible', 'great'), 2)
    """

    name: str
    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]
    label_words: Sequence[str]
    labels: Sequence[str] = ()
    adversarial: Sequence[Row] = ()
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = tuple(self.label_words)
        labels = tuple(self.labels) or words
        if len(words) < 2 or len(set(words)) != len(words) or len(labels) != len(words):
            raise ValueError(f"`label_words` needs one distinct word for each of the classes {labels}, but is {words}.")
        object.__setattr__(self, "label_words", words)
        object.__setattr__(self, "labels", labels)
        for split in (*SPLITS, "adversarial"):
            rows = Rows(getattr(self, split))
            if split in SPLITS or rows:
                _check_rows(f"{self.name}/{split}", rows, labels)
            object.__setattr__(self, split, rows)

    @property
    def n_labels(self) -> int:
        return len(self.labels)

    @property
    def is_pair(self) -> bool:
        return "text_a" in self.train[0]

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of all rows and label words."""
        content = [self.label_words, self.labels, *([dict(row) for row in getattr(self, split)] for split in SPLITS)]
        # NumPy's integers are valid labels, and are written as plain ones.
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=int).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        sizes = " / ".join(f"{len(getattr(self, split)):,}" for split in SPLITS)
        return f"Task({self.name!r}, {' / '.join(self.labels)}, {sizes} rows)"

    def _label_index(self, label: str) -> int:
        if label not in self.labels:
            raise ValueError(f"Task {self.name!r} has no label {label!r}. Its labels: {', '.join(self.labels)}.")
        return self.labels.index(label)

    def _relabelled(self, name: str, new_label: dict[int, int], labels: Sequence[str], words: Sequence[str]) -> "Task":
        def convert(rows: Sequence[Row]) -> list[Row]:
            return [dict(row) | {"label": new_label[row["label"]]} for row in rows if row["label"] in new_label]

        splits = {split: convert(getattr(self, split)) for split in (*SPLITS, "adversarial")}
        return replace(self, name=name, labels=tuple(labels), label_words=tuple(words), **splits)

    def binary(self, first: str, second: str) -> "Task":
        """Only the rows of two classes, labelled 0 and 1 in this order."""
        indices = self._label_index(first), self._label_index(second)
        if indices == (0, 1) and self.n_labels == 2:
            return self
        words = [self.label_words[i] for i in indices]
        return self._relabelled(
            f"{self.name}:{first}-vs-{second}", dict(zip(indices, (0, 1), strict=True)), (first, second), words
        )

    def one_vs_rest(self, label: str) -> "Task":
        """All rows; 1 for the class `label`, 0 for all others (label word "other")."""
        index = self._label_index(label)
        new_label = {i: int(i == index) for i in range(self.n_labels)}
        return self._relabelled(
            f"{self.name}:{label}-vs-rest", new_label, ("rest", label), ("other", self.label_words[index])
        )

    def subtasks(self, kind: Literal["auto", "pairs", "one_vs_rest"] = "auto") -> list["Task"]:
        """The binary tasks into which a task of several classes splits (Wang et al. 2022, section 3.2).

        `"auto"`: with a class named "neutral", the other classes in pairs and neutral against the rest; without one,
        each class against the rest. A binary task is its own only subtask.
        """
        if self.n_labels == 2:
            return [self]
        if kind == "auto" and "neutral" in self.labels:
            others = [label for label in self.labels if label != "neutral"]
            return [self.binary(a, b) for a, b in combinations(others, 2)] + [self.one_vs_rest("neutral")]
        if kind == "pairs":
            return [self.binary(a, b) for a, b in combinations(self.labels, 2)]
        if kind in ("auto", "one_vs_rest"):
            return [self.one_vs_rest(label) for label in self.labels]
        raise ValueError(f"`kind` is 'auto', 'pairs' or 'one_vs_rest', not {kind!r}.")

    def balanced(self, seed: int = 0) -> "Task":
        """Every split cut to the same number of rows of each class, drawn by `seed`."""

        def cut(rows: Rows) -> list[Row]:
            smallest = min(Counter(rows.labels.tolist()).values())
            return _stratified(rows, dict.fromkeys(range(self.n_labels), smallest), seed)

        splits = {split: cut(getattr(self, split)) for split in (*SPLITS, "adversarial") if getattr(self, split)}
        return replace(self, **splits)

    def subset(self, n: int, seed: int = 0, *, splits: Sequence[str] = SPLITS) -> "Task":
        """At most `n` rows of each of `splits`, drawn by `seed` with the classes' shares kept."""
        if n < self.n_labels:
            raise ValueError(f"`n` must be at least one row for each of the {self.n_labels} classes, not {n}.")

        def cut(rows: Rows) -> Sequence[Row]:
            if len(rows) <= n:
                return rows
            counts = Counter(rows.labels.tolist())
            wanted = {label: max(1, round(n * count / len(rows))) for label, count in counts.items()}
            while sum(wanted.values()) > max(n, len(wanted)):
                wanted[max(wanted, key=lambda label: wanted[label])] -= 1
            return _stratified(rows, wanted, seed)

        unknown = set(splits) - set(SPLITS)
        if unknown:
            raise ValueError(f"`splits` are among {SPLITS}, not {sorted(unknown)}.")
        return replace(self, **{split: cut(getattr(self, split)) for split in splits})


def _check_rows(where: str, rows: Rows, labels: Sequence[str]) -> None:
    if not rows:
        raise ValueError(f"{where} has no rows; each split needs examples of every class.")
    fields = ("text_a", "text_b") if "text_a" in rows[0] else ("text",)
    for i, row in enumerate(rows):
        for name in fields:
            if not isinstance(row.get(name), str):
                raise ValueError(f"{where}, row {i} needs a string in {name!r}, but has fields {sorted(row)}.")
        label = row.get("label")
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < len(labels):
            raise ValueError(
                f"{where}, row {i} has label {label!r}; labels are integers from 0 to {len(labels) - 1}, "
                f"for {', '.join(labels)}."
            )
    present = set(rows.labels.tolist())
    if len(present) < 2:
        only = labels[present.pop()]
        raise ValueError(f"{where} has rows of one class only ({only!r}); nothing can be told apart there.")


def _stratified(rows: Sequence[Row], n_by_label: dict[int, int], seed: int) -> list[Row]:
    """`n_by_label` rows of each class, drawn without replacement, in their old order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    left, chosen = dict(n_by_label), []
    for i in order:
        label = rows[i]["label"]
        if left.get(label, 0) > 0:
            left[label] -= 1
            chosen.append(i)
    return [rows[i] for i in sorted(chosen)]


# Loading


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

# Label words for local copies whose class names are not words.
LABEL_WORDS = {name: task.label_words for name, task in HUB_TASKS.items()}
LABEL_WORDS |= {
    "sst2_sentences": SENTIMENT,
    "mnli_resplit": LABEL_WORDS["mnli"],
    "snli": LABEL_WORDS["mnli"],
    "qnli_resplit": LABEL_WORDS["qnli"],
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
    label_words: Sequence[str] | None = None,
    seed: int = 0,
) -> Task:
    """A bundled task, one of the paper's seven from the hub, or a task in a folder.

    Args:
        name: A bundled name; `"sst2"`, `"imdb"`, `"tweet_sentiment"`, `"mnli"`, `"qnli"`, `"ag_news"` or
            `"dbpedia14"`; with `source`, the name of a folder in it, or any name for the folder itself.
        source: Folder with `{train,validation,test}` as `.jsonl`, `.jsonl.gz`, `.csv`, or a dataset that
            `datasets` saved to disk. A `card.json` there may name `labels` and `label_words`.
        label_words: Words for the classes, in the order of the integer labels, instead of the usual ones.
        seed: Of the split that is cut from train where validation or test is missing.

    Raises:
        ValueError: The task is not known, or its files lack what a task needs.
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


def _load_hub(name: str, spec: HubTask, label_words: Sequence[str] | None, seed: int) -> Task:
    import datasets

    data = datasets.load_dataset(spec.path, spec.config)
    splits = {
        ours: [_row(row, spec.fields, row["label"]) for row in data[theirs]]
        for ours, theirs in zip(SPLITS, spec.splits, strict=True)
        if theirs is not None
    }
    source = {"hub": spec.path, "config": spec.config, "fingerprint": data["train"]._fingerprint}
    return _task_of_splits(name, splits, spec.labels, label_words or spec.label_words, seed, source)


def _load_folder(name: str, folder: Path, label_words: Sequence[str] | None, seed: int) -> Task:
    if not folder.is_dir():
        raise FileNotFoundError(f"`source` needs a folder with the files of {name!r}, but {folder} does not exist.")
    card_path = folder / "card.json"
    card = json.loads(card_path.read_text()) if card_path.exists() else {}
    tables = _read_tables(folder)
    if "train" not in tables:
        raise FileNotFoundError(
            f"{folder} needs a train.jsonl, train.jsonl.gz or train.csv, or a dataset saved by `datasets`; "
            f"it holds {sorted(entry.name for entry in folder.iterdir())[:8]}."
        )
    labels = card.get("labels") or _label_names(tables)
    words = label_words or card.get("label_words") or LABEL_WORDS.get(card.get("name", name)) or labels
    index = {label: i for i, label in enumerate(labels)}
    splits = {}
    for split, rows in tables.items():
        fields = ("text_a", "text_b") if rows and "text_a" in rows[0] else ("text",)
        splits[split] = [_row(row, fields, index.get(row.get("label"), row.get("label"))) for row in rows]
    return _task_of_splits(name, splits, labels, words, seed, {"folder": folder.name})


def _read_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    if (folder / "dataset_dict.json").exists():
        import datasets

        data = datasets.load_from_disk(str(folder))
        tables = {}
        for split, table in data.items():
            names = getattr(table.features.get("label"), "names", None)
            rows = table.to_list()
            # Unlabelled rows have -1, which stays, to be refused.
            named = dict(enumerate(names or ()))
            tables[split] = [row | {"label": named.get(row["label"], row["label"])} for row in rows] if names else rows
    else:
        tables = {path.name.split(".")[0]: _read_file(path) for path in sorted(folder.iterdir()) if _is_table(path)}
    aliases = {alias: split for split, names in SPLIT_ALIASES.items() for alias in names} | {
        "adversarial": "adversarial"
    }
    return {aliases[name]: rows for name, rows in tables.items() if name in aliases}


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
    if all(isinstance(value, str) for value in values):
        return sorted(values)
    if all(isinstance(value, int) for value in values):
        return [str(i) for i in range(max(values) + 1)]
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
            held = _stratified(train, {k: max(1, round(share * n)) for k, n in counts.items()}, seed)
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
