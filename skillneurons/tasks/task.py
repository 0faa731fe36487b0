"""Task: labelled examples in three fixed splits, with a name and a label word for each class.

Rows are plain mappings: `{"text": …, "label": 0}`, or `text_a` and `text_b` for pairs. Views of a task (two of its
classes, one class against the rest, balanced, smaller) are tasks again. Held in memory: tens of megabytes for the
largest of the paper's seven.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import ClassVar, Literal, TypeVar

import numpy as np
import pandas as pd

from skillneurons.tasks.class_words import class_words
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_one_label, check_whole
from skillneurons.utilities.results import Shown
from skillneurons.utilities.types import Json, Row

T = TypeVar("T", bound=Row)

SPLITS = ("train", "validation", "test")
CONTRADICTING = 0.02
READ = ("text", "text_a", "text_b", "label", "attack")
"""Columns that a fingerprint is of."""


class TaskWarning(UserWarning):
    """Rows of a task look as if they were not what was meant; the message says which and how many.

    Example:
        >>> import warnings
        >>> rows = [{"text": "a film that I liked", "label": 1}, {"text": "a film that I left", "label": 0}]
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     _ = Task("mine", rows, rows, rows, ["bad", "good"]).shortened(3)
        >>> str(seen[0].message).split(", ")[1]
        '6 of 6 rows have a text that is there with another label too. Keep more words.'
    """


class Rows(tuple[Row, ...]):
    """The examples of one split: a tuple of rows that knows its labels."""

    @cached_property
    def labels(self) -> np.ndarray:
        return np.array([row["label"] for row in self], dtype=np.int64)

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows, first: {self[0]})" if self else "Rows(0 rows)"


@checked
@dataclass(frozen=True, eq=False)
class Task(Shown):
    """A classification task.

    Args:
        name: Short name.
        train: Rows for tuning and for baseline activations. Each row has `text`, or `text_a` and `text_b`, an integer
            `label`, and may have a `group`: an id, or a list of ids, of what it shares with other rows (a premise, a
            document, an author). Other columns are kept as they are.
        validation: Rows on which neurons, positions and stopping are chosen. Train and validation may both be empty:
            a set to evaluate on.
        test: Rows that are only reported on.
        label_words: For each class, in the order of its integer label, the word the model answers with. A mapping
            from the names of the classes is put into that order.
        labels: Names of the classes in the same order; the label words by default.
        adversarial: Rows built to mislead, where the task has them.
        source: Where the rows came from and how they were split, for provenance.
        origin: The file or folder that they were read from on this machine; in no result.

    Raises:
        ValueError: A split is empty, has a single class, a label out of range, or rows without the needed fields; or
            words and classes do not pair up.

    Example:
        >>> rows = [{"text": "dull", "label": 0}, {"text": "moving", "label": 1}]
        >>> task = Task("mine", rows, rows, rows, ["terrible", "great"])
        >>> task.n_labels, task.labels, len(task.train)
        (2, ('terrible', 'great'), 2)
    """

    EXPLAINED: ClassVar[tuple[str, ...]] = ("train", "validation", "test", "adversarial", "labels", "label_words")

    name: str
    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]
    label_words: Sequence[str]
    labels: Sequence[str] = ()
    adversarial: Sequence[Row] = ()
    source: dict[str, Json] = field(default_factory=dict)
    origin: str | None = None

    def __post_init__(self) -> None:
        words, labels = _words_and_labels(self.name, self.label_words, self.labels)
        object.__setattr__(self, "label_words", words)
        object.__setattr__(self, "labels", labels)
        to_evaluate_on = not self.train and not self.validation
        for split in (*SPLITS, "adversarial"):
            rows = Rows(getattr(self, split))
            if rows or split == "test" or (split != "adversarial" and not to_evaluate_on):
                _check_rows(f"{self.name}/{split}", rows, labels)
            object.__setattr__(self, split, rows)
        filled = [split for split in (*SPLITS, "adversarial") if getattr(self, split)]
        pairs = [split for split in filled if "text_a" in getattr(self, split)[0]]
        if pairs and pairs != filled:
            raise ValueError(
                f"All splits of {self.name!r} need `text`, or all `text_a` and `text_b`, but pairs are in {pairs} "
                "only. Make the rows alike."
            )

    @property
    def n_labels(self) -> int:
        return len(self.labels)

    @property
    def is_pair(self) -> bool:
        return "text_a" in self.test[0]

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the three splits' texts and labels, and of the label words.

        Not of adversarial rows, nor of other columns: scores of neurons do not depend on them.
        """
        splits = ([{key: row[key] for key in READ if key in row} for row in getattr(self, split)] for split in SPLITS)
        content = [self.label_words, self.labels, *splits]
        # NumPy's integers are valid labels, and are written as plain ones.
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=int).encode()).hexdigest()[:16]

    @property
    def n_seen(self) -> int:
        """How many test rows have a text that is among those of train or validation too."""

        seen = {_texts(row) for row in (*self.train, *self.validation)}
        return sum(_texts(row) in seen for row in self.test)

    @property
    def n_contradicting(self) -> int:
        """How many rows of the three splits have a text that another row has with another label."""
        labels: dict[tuple[Json, ...], set[int]] = {}
        rows = [row for split in SPLITS for row in getattr(self, split)]
        for row in rows:
            labels.setdefault(_texts(row), set()).add(row["label"])
        return sum(len(labels[_texts(row)]) > 1 for row in rows)

    @property
    def doubts(self) -> list[str]:
        """What looks wrong about the rows, in sentences with counts; empty where nothing does."""
        rows = [row for split in SPLITS for row in getattr(self, split)]
        found = []
        if n := sum(not all(text.strip() for text in _texts(row) if text is not None) for row in rows):
            found.append(f"{n:,} of {len(rows):,} rows have an empty text.")
        # A few are in every large set; many are a mistake.
        if (n := self.n_contradicting) > CONTRADICTING * len(rows):
            found.append(f"{n:,} of {len(rows):,} rows have a text that is there with another label too.")
        seen = {_texts(row) for row in rows}
        if n := sum(_texts(row) in seen for row in self.adversarial):
            found.append(f"{n:,} of {len(self.adversarial):,} adversarial rows are in other splits too.")
        return found

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each example of the three splits: its split, its text or texts, and the name of its label."""
        splits = [pd.DataFrame(getattr(self, split)).assign(split=split) for split in SPLITS]
        return pd.concat(splits, ignore_index=True).assign(
            label=lambda table: table.label.map(dict(enumerate(self.labels)))
        )

    def _table(self) -> pd.DataFrame:
        table = pd.DataFrame({"label": self.labels, "label word": self.label_words})
        for split in SPLITS:
            table[f"{split} rows"] = np.bincount(getattr(self, split).labels, minlength=self.n_labels)
        rows = self.train or self.test
        first = [next((row for row in rows if row["label"] == i), {}) for i in range(self.n_labels)]
        texts = ("text_a", "text_b") if self.is_pair else ("text",)
        return table.assign(example=[" / ".join(row.get(name, "") for name in texts) for row in first])

    def __repr__(self) -> str:
        sizes = " / ".join(f"{len(getattr(self, split)):,}" for split in SPLITS)
        made = f"; {self.source['splits']}" if self.source.get("splits") else ""
        return f"Task({self.name!r}, {' / '.join(self.labels)}, {sizes} rows{made})"

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
        word = self.label_words[index]
        rest = ("rest" if label != "rest" else "others", "other" if word.strip() != "other" else "rest")
        return self._relabelled(f"{self.name}:{label}-vs-rest", new_label, (rest[0], label), (rest[1], word))

    def subtasks(self, kind: Literal["auto", "pairs", "one_vs_rest"] = "auto", *, balance: bool = True) -> list["Task"]:
        """The binary tasks into which a task of several classes splits (Wang et al. 2022, section 3.2).

        Args:
            kind: `"auto"`: with a class named "neutral", the other classes in pairs and neutral against the rest;
                without one, each class against the rest. A binary task is its own only subtask.
            balance: Cut every split to as many rows of each class. Against the rest, predictivity ranks neurons that
                always answer "rest" first otherwise.

        Raises:
            ValueError: An unknown `kind`.

        Example:
            >>> from skillneurons import load_task
            >>> business = load_task("news").subtasks()[1]
            >>> business.labels, np.bincount(business.test.labels).tolist()
            (('rest', 'business'), [300, 300])
        """
        if self.n_labels == 2:
            return [self]
        if kind == "auto" and "neutral" in self.labels:
            others = [label for label in self.labels if label != "neutral"]
            views = [self.binary(a, b) for a, b in combinations(others, 2)] + [self.one_vs_rest("neutral")]
        elif kind == "pairs":
            views = [self.binary(a, b) for a, b in combinations(self.labels, 2)]
        elif kind in ("auto", "one_vs_rest"):
            views = [self.one_vs_rest(label) for label in self.labels]
        else:
            raise ValueError(f"`kind` is 'auto', 'pairs' or 'one_vs_rest', not {kind!r}.")
        return [view.balanced() for view in views] if balance else views

    def balanced(self, seed: int = 0) -> "Task":
        """Every split cut to the same number of rows of each class, drawn by `seed`."""

        def cut(rows: Rows) -> list[Row]:
            smallest = min(Counter(rows.labels.tolist()).values())
            return stratified(rows, dict.fromkeys(range(self.n_labels), smallest), seed)

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
            return stratified(rows, wanted, seed)

        unknown = set(splits) - set(SPLITS)
        if unknown:
            raise ValueError(f"`splits` are among {SPLITS}, not {sorted(unknown)}.")
        return replace(self, **{split: cut(getattr(self, split)) for split in splits})

    def shortened(self, n_words: int) -> "Task":
        """Each text cut after its first `n_words` words (parts between blanks): what long texts cost grows with them.

        Raises:
            ValueError: `n_words` is not positive.

        Warns:
            TaskWarning: Texts that were told apart by what is cut now have several labels.
        """
        check_whole("n_words", n_words, low=1)

        def short(row: Row) -> Row:
            texts = {name: row[name] for name in ("text", "text_a", "text_b") if name in row}
            return {**row} | {name: " ".join(text.split()[:n_words]) for name, text in texts.items()}

        splits = (*SPLITS, "adversarial")
        rows = {split: [short(row) for row in getattr(self, split)] for split in splits}
        # Cut twice, a text has the fewer words; who opens a run cuts its rows anew.
        fewest = min(n_words, self.source.get("words", n_words))
        shorter = replace(self, **rows, source=self.source | {"words": fewest})
        if (n := shorter.n_contradicting) > self.n_contradicting:
            rows = sum(len(getattr(self, split)) for split in SPLITS)
            warnings.warn(
                f"{self.name}: cut to {n_words} words, {n:,} of {rows:,} rows have a text that is there with another "
                "label too. Keep more words.",
                TaskWarning,
                stacklevel=2,
            )
        return shorter


def _texts(row: Row) -> tuple[Json, ...]:
    return tuple(row.get(name) for name in ("text", "text_a", "text_b"))


def _words_and_labels(
    name: str, label_words: Sequence[str] | Mapping[str, str], labels: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for argument, value in (("label_words", label_words), ("labels", labels)):
        if isinstance(value, str):
            raise ValueError(f"`{argument}` needs one string for each class of {name!r}, but is one, {value!r}.")
    if isinstance(label_words, Mapping):
        classes = tuple(labels) or tuple(label_words)
        words = class_words(name, classes, label_words)
    else:
        words = tuple(label_words)
        classes = tuple(labels) or words
    for argument, values in (("label_words", words), ("labels", classes)):
        bad = [value for value in values if not isinstance(value, str) or not value.strip()]
        if bad:
            raise ValueError(f"`{argument}` of {name!r} needs strings that are not empty, but has {bad[0]!r}.")
    spelt = [word.strip() for word in words]
    if len(words) < 2 or len(set(spelt)) != len(words) or len(classes) != len(words):
        raise ValueError(f"`label_words` needs one distinct word for each of the classes {classes}, but is {words}.")
    if len(set(classes)) != len(classes):
        twice = next(label for label in classes if classes.count(label) > 1)
        raise ValueError(f"`labels` of {name!r} needs a name for each class, but {twice!r} is there twice: {classes}.")
    return words, classes


def _check_rows(where: str, rows: Rows, labels: Sequence[str]) -> None:
    if not rows:
        raise ValueError(f"{where} has no rows; each split needs examples of every class.")
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"{where} needs rows like {{'text': …, 'label': 0}}, but its first is {rows[0]!r}. Of a DataFrame, pass "
            "`table.to_dict('records')`."
        )
    fields = ("text_a", "text_b") if "text_a" in rows[0] else ("text",)
    for i, row in enumerate(rows):
        for name in fields:
            if not isinstance(row.get(name), str):
                came = f"{row[name]!r} there" if name in row else f"fields {sorted(map(str, row))}"
                raise ValueError(
                    f"{where}, row {i} needs a string in {name!r}, but has {came}. Rows have 'text', or 'text_a' and "
                    "'text_b' for pairs."
                )
        label = row.get("label")
        check_one_label(label, f"{where}, row {i}")
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < len(labels):
            raise ValueError(
                f"{where}, row {i} has label {label!r}; labels are integers from 0 to {len(labels) - 1}, "
                f"for {', '.join(labels)}."
            )
    present = set(rows.labels.tolist())
    if len(present) < 2:
        only = labels[present.pop()]
        raise ValueError(f"{where} has rows of one class only ({only!r}); nothing can be told apart there.")


def stratified(rows: Sequence[T], n_by_label: dict[int, int], seed: int) -> list[T]:
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
