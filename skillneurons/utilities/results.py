"""What results share: in Jupyter a line with a small table, `.plot()`, and files that hold their fields.

The HTML stands alone: no script, no style sheet, nothing is loaded, and text is escaped. Tables are cut to a few rows.
"""

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MethodType, UnionType
from typing import TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skillneurons.utilities import store
from skillneurons.utilities.lazy import FIGURES
from skillneurons.utilities.types import Json, Library

ROWS_SHOWN = 8
ROWS_PRINTED, WIDTH_PRINTED = 24, 100


class Shown:
    """A result that Jupyter shows as the first line of its `repr` and a table.

    The table is that of `to_dataframe()`, unless a class says otherwise by `_table`.
    """

    def to_dataframe(self) -> pd.DataFrame:
        """The result as a table."""
        raise NotImplementedError

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe()

    def _title(self) -> str:
        return repr(self).partition("\n")[0]

    def _repr_html_(self) -> str:
        return as_html(self._title(), self._table())


R = TypeVar("R", bound="Result")


class Result(Shown):
    """What a function found: a frozen dataclass that shows itself, and that a file holds field by field.

    Tensors go into the safetensors file and everything else into the JSON, under the names of the fields; what a field
    is declared as says how it is read. `meta` comes back as JSON has it, with lists for tuples.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import Evaluation
        >>> found = Evaluation(0.75, 0.75, (0.6, 0.86), 0.5, 1.5, 0.5, 40)
        >>> with TemporaryDirectory() as folder:
        ...     Evaluation.load(found.save(f"{folder}/found")) == found
        True
    """

    def save(self, path: str | Path) -> Path:
        """Write `path.safetensors` and `path.json`."""
        tensors: dict[str, Tensor] = {}
        return store.save(path, type(self).__name__, tensors, _fields(self, "", tensors))

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read what `save` wrote.

        Raises:
            StoreError: The files are damaged, or hold something else.
        """
        tensors, content = store.load(path, cls.__name__)
        if "meta" not in content and "settings" in content:  # as some were written until 0.1
            content["meta"] = content.pop("settings")
        return store.read(Path(path), lambda _: _made(cls, content, "", tensors))


def _fields(result: Library, path: str, tensors: dict[str, Tensor]) -> dict[str, Json]:
    """A dataclass as JSON, its tensors set aside under their paths."""
    values = {one.name: _plain(getattr(result, one.name), f"{path}{one.name}", tensors) for one in fields(result)}
    return {name: value for name, value in values.items() if f"{path}{name}" not in tensors}


def _plain(value: object, path: str, tensors: dict[str, Tensor]) -> Json:
    if isinstance(value, Tensor | np.ndarray):
        tensors[path] = torch.as_tensor(value)
        return None
    if is_dataclass(value):
        return _fields(value, f"{path}.", tensors)
    if isinstance(value, Mapping):
        return {str(key): _plain(one, f"{path}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one, f"{path}.{i}", tensors) for i, one in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no such number
    return value


def _made(kind: Library, value: Json, path: str, tensors: Mapping[str, Tensor]) -> Json:
    """What `_plain` made JSON of, by the type that it is declared to have."""
    if path in tensors:
        return tensors[path].numpy() if getattr(kind, "array_type", None) is np.ndarray else tensors[path]
    if isinstance(value, dict) and list(value) == ["float"]:
        return float(value["float"])
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        part = next(one for one in parts if one is not type(None))
        return None if value is None else _made(part, value, path, tensors)
    if origin is tuple:
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_made(part, one, f"{path}.{i}", tensors) for i, (part, one) in pairs)
    if isinstance(value, dict):
        if is_dataclass(kind):
            return _made_dataclass(kind, value, f"{path}." if path else "", tensors)
        part = parts[1] if origin is dict else Json
        return {key: _made(part, one, f"{path}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, list):
        return [_made(Json, one, f"{path}.{i}", tensors) for i, one in enumerate(value)]
    return value


def _made_dataclass(kind: Library, value: Mapping[str, Json], prefix: str, tensors: Mapping[str, Tensor]) -> Json:
    hints = {one.name: get_type_hints(kind)[one.name] for one in fields(kind)}
    if unknown := sorted(set(value) - set(hints)):
        raise TypeError(f"{kind.__name__} has no field {', '.join(unknown)}")
    return kind(
        **{
            name: _made(hint, value.get(name), f"{prefix}{name}", tensors)
            for name, hint in hints.items()
            if name in value or f"{prefix}{name}" in tensors
        }
    )


class drawn_by:
    """`.plot()` of a result: the named figure, with the result as its first argument.

    Looked up when it is asked for: figures know results, results do not know figures.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, result: object, owner: type | None = None) -> Callable[..., Library]:
        plot = FIGURES[self.name]
        return plot if result is None else MethodType(plot, result)


def as_text(table: pd.DataFrame) -> str:
    """A table with all of its columns, in blocks where they are too wide, and its first rows.

    Example:
        >>> print(as_text(pd.DataFrame({"accuracy": [0.75, 0.8]})))
         accuracy
            0.750
            0.800
    """
    shown = table.head(ROWS_PRINTED)
    text = shown.to_string(
        index=not isinstance(table.index, pd.RangeIndex),
        line_width=WIDTH_PRINTED,
        max_colwidth=60,
        na_rep="–",
        float_format=as_short,
    )
    return text if len(shown) == len(table) else f"{text}\n{len(shown)} of {len(table):,} rows; all: .to_dataframe()"


def as_short(value: float | np.floating) -> str:
    """A number as tables print it: three decimals, and more only where there would be nothing but zeros.

    Example:
        >>> as_short(0.12345), as_short(2.5e-7), as_short(0.0)
        ('0.123', '2.5e-07', '0.000')
    """
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 or not math.isfinite(value) else f"{value:.2g}"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
</style>
"""


def as_page(title: str, rest: str) -> str:
    """A page of its own, which loads nothing from anywhere: its head, then `rest`, from a style element on.

    Example:
        >>> "<title>movies &amp; more</title>" in as_page("movies & more", "</head><body></body></html>")
        True
    """
    return PAGE.replace("@TITLE@", html.escape(title)) + rest


def as_html(title: str, table: pd.DataFrame) -> str:
    """A line of text over the first rows of a table.

    Example:
        >>> as_html("<two> rows", pd.DataFrame({"accuracy": [0.75, 0.8]}))
        '<div style="overflow-x: auto"><p>&lt;two&gt; rows</p><table ...0.75...0.8...</table></div>'
    """
    shown = table.head(ROWS_SHOWN)
    with pd.option_context("display.max_colwidth", 60):
        cells = shown.to_html(
            index=not isinstance(table.index, pd.RangeIndex),
            border=0,
            na_rep="–",
            float_format=lambda value: f"{value:.3g}",
            escape=True,
        )
    rest = f"<p>{len(shown)} of {len(table):,} rows; all: <code>.to_dataframe()</code></p>"
    end = rest if len(shown) < len(table) else ""
    return f'<div style="overflow-x: auto"><p>{html.escape(title)}</p>{cells}{end}</div>'


def counted(n: int, noun: str) -> str:
    """A number of things in words, for a reader.

    Example:
        >>> counted(1, "prompt"), counted(3072, "neuron")
        ('1 prompt', '3,072 neurons')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
