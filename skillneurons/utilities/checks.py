"""Checks of arguments that many functions have: numbers within bounds, with an error that says which and what came."""

import math
import numbers
from collections.abc import Mapping, Sequence, Sized


def check_whole(name: str, value: object, low: int = 0, high: int | None = None) -> None:
    """Raise unless the value is a whole number from `low` to `high`.

    Example:
        >>> check_whole("n_draws", 10**12, low=1, high=100_000)
        Traceback (most recent call last):
        ValueError: `n_draws` is a whole number from 1 to 100,000, not 1000000000000.
    """
    most = "" if high is None else f" to {high:,}"
    wanted = f"a whole number from {low:,}{most}" if most or low else "a whole number from 0 on"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` is {wanted}, not {value!r} ({type(value).__name__}).")
    if int(value) < low or (high is not None and int(value) > high):
        raise ValueError(f"`{name}` is {wanted}, not {value}.")


def check_share(name: str, value: object, *, ends: bool = True) -> None:
    """Raise unless the value is a number from 0 to 1, its ends included or not.

    Example:
        >>> check_share("level", -0.1, ends=False)
        Traceback (most recent call last):
        ValueError: `level` lies between 0 and 1, not -0.1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` is a number between 0 and 1, not {value!r} ({type(value).__name__}).")
    number = float(value)
    if not (0 <= number <= 1 if ends else 0 < number < 1):
        raise ValueError(f"`{name}` lies between 0 and 1, not {value}.")


def check_positive(name: str, value: object) -> None:
    """Raise unless the value is a finite number above 0.

    Example:
        >>> check_positive("lr", float("nan"))
        Traceback (most recent call last):
        ValueError: `lr` must be positive, not nan.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` is a number above 0, not {value!r} ({type(value).__name__}).")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"`{name}` must be positive, not {value}.")


# What this is not for, in the words of docs/not_for.md.
SEVERAL_LABELS = (
    "One row has several labels, but the paper's method, a word at the mask, gives each row one. Pass a task for each "
    "label: yes or no."
)
REGRESSION = (
    "Labels are numbers with fractions, and skill neurons tell classes apart: regression is not what this is for. Cut "
    "the numbers into classes."
)
NO_MPS = "Sums here are in float64, which Apple's GPUs do not have. Pass 'cpu' or 'cuda'."


def check_one_label(value: object, where: str) -> None:
    """Raise where a row's label is several labels, or a number with a fraction.

    Example:
        >>> check_one_label(0.5, "train, row 3")
        Traceback (most recent call last):
        ValueError: train, row 3 has label 0.5. Labels are numbers with fractions, and skill neurons tell ...
    """
    if getattr(value, "ndim", 0) or isinstance(value, list | tuple | set | dict):
        raise ValueError(f"{where} has labels {value!r}. {SEVERAL_LABELS}")
    if hasattr(value, "item"):
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        raise ValueError(f"{where} has label {value!r}. {REGRESSION}")


def check_spread(name: str, value: object) -> None:
    """Raise unless the value is a finite number from 0 on.

    Example:
        >>> check_spread("sigma", -0.1)
        Traceback (most recent call last):
        ValueError: `sigma` is a finite number from 0 on, not -0.1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` is a finite number from 0 on, not {value!r} ({type(value).__name__}).")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"`{name}` is a finite number from 0 on, not {value}.")


def check_some(name: str, value: Sized) -> None:
    """Raise where there is none.

    Example:
        >>> check_some("fractions", [])
        Traceback (most recent call last):
        ValueError: `fractions` needs one or more, but is empty.
    """
    if not len(value):
        raise ValueError(f"`{name}` needs one or more, but is empty.")


def check_seeds(name: str, value: int | Sequence[int]) -> None:
    """Raise unless the value is a number of seeds, or seeds that differ.

    Example:
        >>> check_seeds("seeds", (0, 0))
        Traceback (most recent call last):
        ValueError: `seeds` needs seeds that differ, but is (0, 0).
    """
    if isinstance(value, int):
        check_whole(name, value, 1, 100_000)
        return
    check_some(name, value)
    for seed in value:
        check_whole(name, seed)
    if len(set(value)) < len(value):
        raise ValueError(f"`{name}` needs seeds that differ, but is {value}.")


def check_finite(name: str, value: float) -> None:
    """Raise unless the number is finite.

    Example:
        >>> check_finite("strength", float("inf"))
        Traceback (most recent call last):
        ValueError: `strength` is a finite number, not inf.
    """
    if not math.isfinite(value):
        raise ValueError(f"`{name}` is a finite number, not {value}.")


def check_not_empty(name: str, value: object) -> None:
    """Raise where there is a list or a table, and nothing in it.

    Example:
        >>> check_not_empty("positions", [])
        Traceback (most recent call last):
        ValueError: `positions` needs one or more, but is empty.
    """
    if isinstance(value, Sequence | Mapping):
        check_some(name, value)
