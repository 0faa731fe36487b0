"""What is told while something works: one callback, `progress`, with what is being done, how much, and of how much.

True shows it: bars in a terminal or notebook, plain lines with times where output is a file. False is silent. Callbacks
had a name for each function, and several forms; old names work for a release, with a warning that says the new one.
"""

import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TypeVar, overload

from tqdm.auto import tqdm

from skillneurons.utilities.types import Json, Library, Progress

T = TypeVar("T", bound=Callable[..., Library])

_HEARD: ContextVar[Progress | bool | None] = ContextVar("who hears what would be shown", default=None)

EVERY = 20.0
"""Seconds between two lines about one thing."""

SHOW_AFTER = 5.0
"""Seconds after which a call shows that it works; commands and tuning show it at once."""


def told(progress: Progress | bool, after: float = 0.0) -> Callable[..., None]:
    """The callback that `progress` stands for: itself; bars or lines for True; nothing for False.

    Args:
        progress: As functions take it.
        after: Seconds before bars or lines appear.

    Example:
        >>> told(False)("tune", 1, 2)
    """
    if progress is True and (heard := _HEARD.get()) is not None:
        progress = (lambda what, done, total, **notes: heard(what, done, total)) if callable(heard) else heard
    if callable(progress):
        return progress
    if not progress:
        return lambda what, done, total, **notes: None
    # A notebook's output is no terminal either, but shows bars.
    return bars(after) if sys.stderr.isatty() or "ipykernel" in sys.modules else lines(after=after)


@contextmanager
def heard_by(progress: Progress | bool) -> Iterator[None]:
    """Within, whatever would show what it does tells `progress` instead: of a call that is made of many others.

    Example:
        >>> with heard_by(print):
        ...     told(True)("tune", 1, 2)
        tune 1 2
    """
    token = _HEARD.set(progress)
    try:
        yield
    finally:
        _HEARD.reset(token)


@overload
def called(progress: Progress, what: str) -> Progress: ...
@overload
def called(progress: Progress | bool, what: str) -> Progress | bool: ...
def called(progress: Progress | bool, what: str) -> Progress | bool:
    """The same for a part, whose own name for what it does is replaced where somebody listens.

    Example:
        >>> called(print, "score movies")("collect", 1, 2)
        score movies 1 2
    """
    if not callable(progress):
        return progress
    return lambda _, done, total: progress(what, done, total)


def bars(after: float = 0.0) -> Callable[..., None]:
    """A bar for each thing being done, by tqdm; behind it, whatever else is told by keyword."""
    shown: dict[str, Json] = {}

    def update(what: str, done: int, total: int, **notes: str) -> None:
        if what not in shown:
            shown[what] = tqdm(total=total, desc=what, delay=after)
        shown[what].total = total
        if notes:
            shown[what].set_postfix(notes, refresh=False)
        shown[what].update(done - shown[what].n)
        if done >= total:
            shown[what].close()

    return update


def lines(
    write: Callable[[str], object] | None = None,
    every: float = EVERY,
    clock: Callable[[], float] = time.monotonic,
    after: float = 0.0,
) -> Callable[..., None]:
    """A line with the time when a thing begins, every so often while it lasts, and when it ends.

    Args:
        write: Takes a line; to standard error by default.
        every: Seconds between two lines about one thing.
        clock: Seconds.
        after: Seconds before the first line.

    Example:
        >>> say = lines(print, clock=iter([0.0, 1.0, 2.0, 65.0]).__next__)
        >>> for done in (1, 2, 3):
        ...     say("tune", done, 3)
        0:01  tune: 1 of 3
        1:05  tune: 3 of 3
    """
    start, last = clock(), dict[str, float]()

    def update(what: str, done: int, total: int, **notes: str) -> None:
        now = clock()
        if now - start < after or (what in last and done < total and now - last[what] < every):
            return
        last[what] = now
        minutes, seconds = divmod(int(now - start), 60)
        more = "".join(f", {name} {value}" for name, value in notes.items())
        (write or _to_standard_error)(f"{minutes}:{seconds:02d}  {what}: {done:,} of {total:,}{more}")

    return update


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _counts(old: Callable[[int, int], object]) -> Progress:
    """Took (done, total)."""

    def tell(what: str, done: int, total: int) -> None:
        old(done, total)

    return tell


def _rows(old: Callable[[int], object]) -> Progress:
    """Took the number of rows since it was called before."""
    before = 0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal before
        old(done - before)
        before = done

    return tell


def _names(old: Callable[[str], object]) -> Progress:
    """Took the name of a part that is done: what stands behind the last comma."""
    told: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        if done == total and what not in told:
            told.add(what)
            old(what.rpartition(", ")[2])

    return tell


def _same(old: Progress) -> Progress:
    return old


NEW = "progress"
OLD: Mapping[str, Callable[[Json], Progress]] = {
    **dict.fromkeys(("on_step", "on_batch", "on_set", "on_pair", "on_run"), _counts),
    **dict.fromkeys(("on_pass", "on_task", "on_condition"), _names),
    "on_rows": _rows,
    "on_done": _same,
}
"""What each old name took, as what the new one takes."""


def with_new_names(arguments: dict[str, Json], known: Collection[str], function: str) -> dict[str, Json]:
    """Keywords of a function with the names that they have now.

    Args:
        arguments: As they were passed.
        known: Names that the function has.
        function: Its name, for the warning.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     new = with_new_names({"seed": 0, "on_step": print}, ("seed", "progress"), "tune_prompt")
        >>> new["progress"]("tune movies", 3, 40)
        3 40
    """
    found = dict(arguments)
    for name in [name for name in arguments if name in OLD and name not in known]:
        warnings.warn(
            f"`{name}` of `{function}` is now `{NEW}`, called with (what is being done, done, total). The old name "
            "goes in the next release.",
            DeprecationWarning,
            stacklevel=3,
        )
        old = found.pop(name)
        if old is not None:
            found[NEW] = OLD[name](old)
    return found


def takes_old_names(target: T) -> T:
    """For a function, or a class of settings, that is not `checked`: which sees to old names itself."""
    if isinstance(target, type):
        target.__init__ = _takes_old_names(target.__init__, target.__name__)
        return target  # type: ignore[return-value]
    return _takes_old_names(target, target.__name__)


def _takes_old_names(function: Library, name: str) -> Library:
    @wraps(function)
    def call(*args: Library, **kwargs: Library) -> Library:
        return function(*args, **with_new_names(kwargs, (), name))

    return call
