"""Tables of rows from files as people have them: CSV, TSV, JSON, JSON lines, Parquet, and what `datasets` saved.

What could be read in two ways is refused, with the file and the line: a row with another number of fields than the
header, a quote that is never closed, a line that holds no row. Text stays text: "1", "NaN" and "" are what they are.
"""

import csv
import gzip
import io
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skillneurons.tasks.task import TaskWarning
from skillneurons.utilities.lazy import needed
from skillneurons.utilities.types import Json, Library

DELIMITERS = (",", ";", "\t", "|")
MANY_LINES = 20


@dataclass(frozen=True)
class Table:
    """Rows of one file or split.

    Args:
        name: Of the file, for errors.
        rows: Column name -> value.
        places: Where each row is: "line 7", "row 7".
        class_names: Names of the classes, in their order, where the file has them.
    """

    name: str
    rows: Sequence[dict[str, Json]]
    places: Sequence[str]
    class_names: tuple[str, ...] = ()

    def __add__(self, other: "Table") -> "Table":
        """Shards of one split, one after the other."""
        rows, places = (
            [*self.rows, *other.rows],
            [*self.places, *(f"{place} of {other.name}" for place in other.places)],
        )
        return Table(self.name, rows, places, self.class_names)


def read_table(path: Path) -> Table:
    """The rows of a file.

    Raises:
        ValueError: It cannot be read as what its name says; with the line.
    """
    ending = ending_of(path)
    if not path.is_file():
        raise ValueError(f"{path} needs to be a file, but is something else. Pass a file of rows.")
    try:
        return FORMATS[ending](path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a table: it is cut or no gzip file ({error}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} cannot be read as a table: byte {error.start} is not UTF-8 ({error.reason}). Save it as UTF-8."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read as a table: its JSON is nested too deeply.") from error


def ending_of(path: Path) -> str:
    """A file's format by its name, without `.gz`; "" for a file that is no table."""
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    return ending.lower() if ending.lower() in FORMATS else ""


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself. Fetch it by `git lfs pull`.")
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")


def _read_csv(path: Path) -> Table:
    text = _text(path)
    header = next(iter(text.splitlines()), "")
    delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    return _delimited(path, text, delimiter)


def _read_tsv(path: Path) -> Table:
    text = _text(path)
    try:
        table = _delimited(path, text, "\t", warn=False)
    except ValueError:
        table = None
    # Many a TSV has quotes that are text, at the beginning of a field too.
    if table is not None and not any("\n" in str(value) for row in table.rows for value in row.values()):
        return table
    return _delimited(path, text, "\t", quoted=False)


def _delimited(path: Path, text: str, delimiter: str, *, quoted: bool = True, warn: bool = True) -> Table:
    # A quote within a field is text; a quote that is opened and never closed is an error.
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows, places, begun, spans = [], [], 1, []
    try:
        header = [name.strip() for name in next(lines, [])]
        if len(set(header)) < len(header) or not all(header):
            raise ValueError(f"{path} needs a header that names each column once, but has {header}.")
        begun = lines.line_num + 1
        for fields in lines:
            if fields and len(fields) != len(header):
                raise ValueError(
                    f"{path}, line {begun} has {len(fields)} fields, but {len(header)} columns ({', '.join(header)})."
                    f" A text that has {delimiter!r} in it needs quotes around it."
                )
            if fields:
                rows.append(dict(zip(header, fields, strict=True)))
                places.append(f"line {begun}")
                if any(_swallows(field, delimiter, len(header)) for field in fields if "\n" in field):
                    spans.append((begun, lines.line_num))
            begun = lines.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: line {begun}: {error}.") from error
    if spans and warn:
        first, last = spans[0]
        warnings.warn(
            f"{path}: {len(spans)} texts span lines that look like rows themselves, the first lines {first} to {last}."
            " A quote may be open there; write a quote in a text twice.",
            TaskWarning,
            stacklevel=2,
        )
    return Table(path.name, rows, places)


def _swallows(field: str, delimiter: str, n_fields: int) -> bool:
    """Whether a text holds whole rows, as one does whose quote was never meant to open."""
    inner = field.splitlines()[1:]
    whole = sum(line.count(delimiter) == n_fields - 1 for line in inner)
    return len(inner) >= MANY_LINES or (n_fields > 1 and whole > 0)


def _read_lines(path: Path) -> Table:
    rows, places = [], []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(_as_row(path, json.loads(line), f"line {number}"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} cannot be read as a table: line {number} is not JSON ({error}).") from error
            places.append(f"line {number}")
    return Table(path.name, rows, places)


def _read_json(path: Path) -> Table:
    text = _text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        try:
            return _read_lines(path)  # JSON lines under another ending
        except ValueError:
            raise ValueError(f"{path} cannot be read as a table: {error}.") from error
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if len(lists) == 1 and all(isinstance(row, dict) for row in next(iter(lists.values()))):
            content = next(iter(lists.values()))
        elif lists and len(lists) == len(content) and len({len(value) for value in lists.values()}) == 1:
            content = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    if not isinstance(content, list):
        raise ValueError(f"{path} needs a list of rows, but holds a {type(content).__name__}.")
    places = [f"row {i}" for i in range(len(content))]
    return Table(path.name, [_as_row(path, row, place) for row, place in zip(content, places, strict=True)], places)


def _read_parquet(path: Path) -> Table:
    parquet = needed("pyarrow.parquet", "datasets", f"{path}, a Parquet file,")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (needed("pyarrow", "datasets", str(path)).ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    return Table(path.name, rows, [f"row {i}" for i in range(len(rows))])


def _as_row(path: Path, row: Json, place: str) -> dict[str, Json]:
    if not isinstance(row, dict):
        raise ValueError(f"{path}, {place} needs a row like {{'text': …, 'label': …}}, but is a {type(row).__name__}.")
    return row


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".parquet": _read_parquet,
}
"""What reads a file, by the end of its name; a new format is one entry."""


def read_saved(folder: Path) -> dict[str, Table]:
    """The splits of a folder that `datasets` saved; a single `Dataset` is all train."""
    datasets = needed("datasets", "datasets", f"{folder}, which `datasets` saved,")
    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read as a data set that `datasets` saved: {error}") from error
    return tables_of(data)


def tables_of(data: Library, *, named: bool = True) -> dict[str, Table]:
    """The splits of a `DatasetDict`, or a `Dataset` as train; the classes' names in place of numbers where `named`."""
    splits = data if hasattr(data, "items") else {"train": data}
    tables = {}
    for split, dataset in splits.items():
        rows, names_of = dataset.to_list(), {}
        for column, feature in dataset.features.items():
            if named and (names := getattr(feature, "names", None)):
                names_of[column] = tuple(names)
                # Unlabelled rows have -1, which stays, to be refused or left out.
                for row in rows:
                    number = row[column]
                    row[column] = names[number] if number is not None and 0 <= number < len(names) else number
        names = names_of.get("label") or (next(iter(names_of.values())) if len(names_of) == 1 else ())
        tables[str(split)] = Table(str(split), rows, [f"row {i}" for i in range(len(rows))], names)
    return tables
