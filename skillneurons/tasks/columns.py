"""From a table's columns to a task's rows: which columns hold texts, labels and groups, and which classes there are."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from skillneurons.tasks.readers import Table
from skillneurons.utilities.checks import check_one_label
from skillneurons.utilities.types import Json

PAIRS = (
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
)
TEXTS = ("text", "sentence", "review", "content", "tweet", "comment", "document", "body", "message", "utterance")
LABELS = ("label", "labels", "class", "category", "target", "sentiment", "gold_label", "y")

NUMBER = re.compile(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", re.IGNORECASE)

Text: TypeAlias = str | Sequence[str]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what.

    Args:
        text: One, or the two of a pair.
        label: Of the classes.
        group: Of what a row shares with others; None where no column says.
    """

    text: tuple[str, ...]
    label: str
    group: str | None = None


def find_columns(table: Table, text: Text | None = None, label: str | None = None, group: str | None = None) -> Columns:
    """The columns that were asked for, or those with the usual names.

    Raises:
        ValueError: A column is not there, several could be meant, or none has a usual name.

    Example:
        >>> rows = [{"premise": "a", "hypothesis": "b", "gold_label": "neutral"}]
        >>> find_columns(Table("train.csv", rows, ["line 2"]))
        Columns(text=('premise', 'hypothesis'), label='gold_label', group=None)
    """
    names = list(dict.fromkeys(name for row in table.rows[:100] for name in row))
    asked = (text,) if isinstance(text, str) else tuple(text or ())
    if len(asked) > 2:
        raise ValueError(f"`text` is one column, or two for pairs, not {asked}.")
    for argument, wanted in (("text", asked), ("label", (label,)), ("group", (group,))):
        for name in wanted:
            if name is not None and name not in names:
                raise ValueError(
                    f"`{argument}` is {name!r}, but {table.name} has no such column. It has {sorted(names)}."
                )
    labels = _usual(LABELS, names)
    also = "" if label or labels else ", and which the class: `label=` (`--label-column`)"
    texts = asked or _texts(table, names, also)
    if label is None:
        found = [name for name in labels if name not in texts]
        if not found:
            raise ValueError(
                f"A row needs 'label', but {table.name} has {sorted(names)}. Say which column holds the class: "
                "`label=` (`--label-column`)."
            )
        label = found[0]
    return Columns(texts, label, group or ("group" if "group" in names and "group" not in texts else None))


def _usual(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the usual names that are there, as the table spells them: as it is, or else in capitals somewhere."""
    spelt = {one: [name for name in names if name.casefold() == one] for one in wanted}
    return [one if one in there else there[0] for one, there in spelt.items() if one in there or len(there) == 1]


def _texts(table: Table, names: Sequence[str], also: str = "") -> tuple[str, ...]:
    if pairs := [found for pair in PAIRS if len(found := _usual(pair, names)) == 2]:
        return tuple(pairs[0])
    found = _usual(TEXTS, names)
    if len(found) == 1 or (found and found[0].casefold() == "text"):
        return (found[0],)
    what = f": one of {found} may be meant" if found else ""
    raise ValueError(
        f"A row needs 'text', but {table.name} has {sorted(names)}{what}. Say which column holds the text, or the two "
        f"of a pair: `text=` (`--text-column`){also}."
    )


def class_names(tables: Mapping[str, Table], label: str) -> list[str]:
    """Names of the classes where neither a card nor the data set gives them; numbers in their order, as digits.

    Raises:
        ValueError: Labels are missing, several, of several kinds, or spelt in several ways; numbers have gaps.
    """
    seen: dict[Json, str] = {}
    for table in tables.values():
        for row, place in zip(table.rows, table.places, strict=True):
            seen.setdefault(label_of(row, label, f"{table.name}, {place}"), f"{table.name}, {place}")
    numbers = [value for value in seen if isinstance(value, int) or value.isdigit()]
    if len(numbers) == len(seen):
        of_train = sorted({int(value) for value in numbers})
        if of_train != list(range(len(of_train))):
            raise ValueError(
                f"Labels that are numbers run from 0 without gaps, but train has {of_train} in column {label!r}. "
                "Number them anew, or write names."
            )
        return [str(i) for i in of_train]
    if any(isinstance(value, int) for value in seen):
        first = next(value for value in numbers if isinstance(value, int))
        name = next(value for value in seen if not isinstance(value, int))
        raise ValueError(
            f"Labels must all be integers or all be names, but are {sorted(map(repr, seen))[:6]}: {name!r} in "
            f"{seen[name]}, {first!r} in {seen[first]}."
        )
    if all(NUMBER.fullmatch(name) for name in seen):
        for name, place in seen.items():
            check_one_label(float(name), f"{place}: the row, in column {label!r},")
    spelt: dict[str, str] = {}
    for name, place in seen.items():
        other = spelt.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"Column {label!r} spells one class in two ways: {other!r} ({seen[other]}) and {name!r} ({place}). "
                "Write it in one, or name the classes in a card.json."
            )
    return sorted(seen)


def label_of(row: Mapping[str, Json], column: str, place: str) -> int | str:
    """A row's class as its table has it: a name without blanks around it, or a number."""
    value = row.get(column)
    check_one_label(value, f"{place}: the row, in column {column!r},")
    if hasattr(value, "item"):
        value = value.item()  # type: ignore[union-attr]
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip():
        name = value.strip()
        # "1.0" is what a table of numbers with a gap somewhere writes for 1.
        return name.removesuffix(".0") if name.removesuffix(".0").isdigit() else name
    if isinstance(value, int):
        return value
    came = "is missing" if column not in row else "is empty" if value is None or value == "" or _is_nan(value) else None
    raise ValueError(f"{place}: the label in column {column!r} {came or f'is {value!r}, neither a name nor a number'}.")


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def rows_of(
    table: Table, columns: Columns, labels: Sequence[str], aliases: Sequence[str] = ()
) -> list[dict[str, Json]]:
    """A task's rows: texts, an integer label, the group, and every other column as it is.

    Args:
        table: Of one split.
        columns: Which of its columns mean what.
        labels: Names of the classes.
        aliases: Other names of them, in the same order.

    Raises:
        ValueError: A row lacks a text or a label, or has a label that is none of `labels`; with its place.
    """
    index: dict[Json, int] = {i: i for i in range(len(labels))} | {str(i): i for i in range(len(labels))}
    index |= {name: i for names in (aliases, labels) for i, name in enumerate(names)}
    folded = {label.casefold(): i for i, label in enumerate(labels)}
    fields = ("text",) if len(columns.text) == 1 else ("text_a", "text_b")
    used = {*columns.text, columns.label, columns.group}
    rows = []
    for row, place in zip(table.rows, table.places, strict=True):
        where = f"{table.name}, {place}"
        texts = {}
        for field, column in zip(fields, columns.text, strict=True):
            value = row.get(column)
            if not isinstance(value, str):
                came = "nothing" if value is None or _is_nan(value) else f"{value!r} ({type(value).__name__})"
                raise ValueError(f"{where}: the text in column {column!r} needs to be a string, but is {came}.")
            texts[field] = value
        own = row.get(columns.label)
        if own == -1:
            label: Json = -1  # Unlabelled: refused by the task, or its split is left out.
        else:
            own = label_of(row, columns.label, where)
            label = index.get(own, folded.get(str(own).casefold()))
            if label is None:
                raise ValueError(
                    f"{where}: label {own!r} in column {columns.label!r} is none of the classes {', '.join(labels)}."
                )
        extra = {name: value for name, value in row.items() if name not in used and name not in ("label", *fields)}
        group = {"group": row[columns.group]} if columns.group and row.get(columns.group) is not None else {}
        rows.append({**texts, "label": label, **group, **{k: v for k, v in extra.items() if k != "group"}})
    return rows
