"""How a command ends when something goes wrong: in one message, whatever it is and whenever it happens.

Only the standard library is imported here, so that an interrupt while everything else is imported is caught too.
"""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError)
"""What one can do something about; anything else is a bug, and its traceback goes to a file."""

INTERRUPTED = 130
"""The status after an interrupt, as shells have it."""

_interrupts: list[int] = []


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print whatever is raised inside as one message, and leave with status 1, or 130 after an interrupt."""
    try:
        yield
    except BrokenPipeError:  # whoever read the output has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED and _interrupts:  # stopped by the parser itself, before or after a command
            _say_interrupted()
        raise
    except (Exception, KeyboardInterrupt) as error:
        if _is_usage(error):
            raise
        # Imports of compiled modules answer an interrupt with errors of their own.
        if isinstance(error, KeyboardInterrupt) or _interrupts:
            _say_interrupted()
            sys.exit(INTERRUPTED)
        if isinstance(error, USER_ERRORS):
            _say("red", "Error:", str(error) or type(error).__name__)
            sys.exit(1)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _say("red", "Error:", f"{what[:500]} (unexpected: please report it, with the traceback in {_saved(error)}).")
        sys.exit(1)


def notice_interrupts() -> None:
    """Remember that there was one, whatever the code that it stopped makes of it."""

    def remember(number: int, frame: FrameType | None) -> None:
        _interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, remember)


def _say_interrupted() -> None:
    """Once, however many of us it passes."""
    _interrupts.clear()
    _say("yellow", "Interrupted.", "What is finished is kept; run the same command to go on.")


def _is_usage(error: BaseException) -> bool:
    """Whether it is one of the parser's own, which it shows itself (it carries a status)."""
    return hasattr(error, "exit_code")


def _say(color: str, head: str, text: str) -> None:
    codes = {"red": 31, "yellow": 33}
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        head = f"\x1b[{codes[color]}m{head}\x1b[0m"
    print(head, text, file=sys.stderr)


def _saved(error: BaseException) -> str:
    """The file that a traceback was written to."""
    with tempfile.NamedTemporaryFile("w", prefix="skillneurons-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return file.name
