"""One look for all figures: small, quiet, colour-blind safe, readable in grey, text kept as text in SVG and PDF."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import Json

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's palette, ordered so that neighbours also differ in lightness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#444444")
PATTERNS = ("", "//", "..")
SKILL, RANDOM, REFERENCE = "#D55E00", "#7F7F7F", "#000000"
LABEL_COLOURS = COLOURS
SEQUENTIAL, DIVERGING = "cividis", "PuOr"

RC: dict[str, Json] = {
    "figure.figsize": (4.6, 3.2),
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


@checked
@contextmanager
def style() -> Iterator[None]:
    """Matplotlib settings of this package's figures, for the block only.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from skillneurons.plots import style
        >>> with style():
        ...     figure, ax = plt.subplots()
        >>> ax.spines["top"].get_visible()
        False
    """
    interactive = matplotlib.is_interactive()
    try:
        with plt.rc_context(cast(Json, RC)):
            try:
                yield
            finally:
                # The first figure loads the backend, and in Jupyter that switches interactive mode on. It must stay on:
                # without it no later figure is shown.
                interactive = matplotlib.is_interactive()
    finally:
        matplotlib.interactive(interactive)


def styled(plot: Callable[P, R]) -> Callable[P, R]:
    """Run a plotting function with this package's settings, whatever the user's are outside."""

    @wraps(plot)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return plot(*args, **kwargs)

    return wrapped


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    """The given axes, or those of a new figure."""
    return plt.subplots(layout="constrained", figsize=figsize)[1] if ax is None else ax


def legend_below(ax: Axes) -> None:
    """A legend under the axes, where it hides no data."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
