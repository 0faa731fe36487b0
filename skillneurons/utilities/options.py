"""Keywords that several functions share are declared once, as a TypedDict; what is not declared is refused."""

from collections.abc import Mapping
from difflib import get_close_matches

from skillneurons.utilities.types import Json


def check_options(options: Mapping[str, Json], declared: type) -> None:
    """Raise `TypeError`, as Python does for a function's own keywords, unless all are declared.

    Example:
        >>> from typing import TypedDict
        >>> class Passes(TypedDict, total=False):
        ...     n_random: int
        >>> check_options({"n_randm": 3}, Passes)
        Traceback (most recent call last):
        TypeError: There is no argument `n_randm`; did you mean `n_random`?
    """
    known = declared.__annotations__
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"further keywords are {', '.join(known)}."
            raise TypeError(f"There is no argument `{name}`; {hint}")
