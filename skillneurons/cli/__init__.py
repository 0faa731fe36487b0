"""The command line."""

from typing import TYPE_CHECKING

from skillneurons.cli.errors import notice_interrupts, reported_errors
from skillneurons.utilities.lazy import deferred_imports, lazy_getattr

if TYPE_CHECKING:
    from skillneurons.cli.commands import app as app

__getattr__ = lazy_getattr(globals(), deferred_imports(__file__), ("commands", "terminal"))


def main() -> None:
    """What `skillneurons` in a terminal calls."""
    notice_interrupts()
    with reported_errors():
        from skillneurons.cli.commands import app

        app()
