"""What tests of several folders need, with types that a checker can follow."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from numpy.typing import ArrayLike
from scipy import stats


class Tolerance(TypedDict):
    """How far numbers may lie apart: `assert_close(one, other, **tolerance)`."""

    rtol: float
    atol: float


def unchecked(value: object) -> Any:
    """`value`, of which a type checker shall know nothing.

    Wrong arguments, whose error messages are what is tested, and results of libraries without types.
    """
    return value


def module_at(path: Path) -> ModuleType:
    """The script at `path`, which is in no package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_group(pattern: str, text: str, flags: int = 0) -> str:
    """What the first group of `pattern` matches in `text`, where it must be."""
    found = re.search(pattern, text, flags)
    assert found, f"no {pattern} in {text[:200]}"
    return found[1]


def scipys_spearman(x: ArrayLike, y: ArrayLike) -> float:
    """SciPy's rank correlation, whose result has no type there."""
    return unchecked(stats.spearmanr(x, y)).statistic


def legend_of(ax: Any) -> list[str]:
    """The texts of a figure's legend, which must be there."""
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]
