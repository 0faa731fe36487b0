"""How results show themselves: in Jupyter a line with a small table, `.plot()`, and what tab completion offers.

The HTML stands alone: no script, no style sheet, nothing is loaded, and text is escaped. Tables are cut to a few rows.
"""

import html
from collections.abc import Callable
from types import MethodType
from typing import Any

import pandas as pd

from skillneurons.utilities.lazy import FIGURES

ROWS_SHOWN = 8


class Shown:
    """A result that Jupyter shows as the first line of its `repr` and a table.

    The table is that of `to_dataframe()`, unless a class says otherwise by `_table`.
    """

    def to_dataframe(self) -> pd.DataFrame:
        """The result as a table."""
        raise NotImplementedError

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe()

    def _repr_html_(self) -> str:
        return as_html(repr(self).partition("\n")[0], self._table())


class drawn_by:
    """`.plot()` of a result: the named figure, with the result as its first argument.

    Looked up when it is asked for: figures know results, results do not know figures.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, result: Any, owner: type | None = None) -> Callable[..., Any]:
        plot = FIGURES[self.name]
        return plot if result is None else MethodType(plot, result)


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
