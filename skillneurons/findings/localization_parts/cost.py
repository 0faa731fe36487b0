"""What a localization costs: rows of forward passes, counted before any is made."""

from collections.abc import Callable, Sequence

from skillneurons.utilities.progress import told
from skillneurons.utilities.types import Progress

SETS = 5
"""Random sets that what is left is compared with."""
GRADIENTS = 3 * 64
"""Rows that gradients take as long as, where rankings are asked."""


def rows_passed(
    questions: Sequence[str],
    *,
    sizes: tuple[int, int, int],
    n_prompts: int,
    n_layers: int,
    n_shares: int,
    n_random: int,
    n_random_layers: int,
) -> int:
    """At most how many rows pass through the model, whole or from some layer on.

    Args:
        questions: Those that are asked besides redundancy and stability.
        sizes: Rows of training, validation and test.
        n_prompts: That were scored.
        n_layers: Of the model.
        n_shares: Of neurons that go, one after the other.
        n_random: Sets of each kind in the causal test.
        n_random_layers: Sets for each layer, where it is asked who writes.

    Example:
        >>> how = {"n_prompts": 1, "n_layers": 4, "n_shares": 7, "n_random": 10, "n_random_layers": 3}
        >>> rows_passed((), sizes=(100, 50, 50), **how), rows_passed(("causal",), sizes=(100, 50, 50), **how)
        (250, 1850)
    """
    train, validation, test = sizes
    whole = train + validation + test
    each = {
        "rankings": n_prompts * (train + GRADIENTS),
        "remaining": (2 + n_shares) * whole + (4 + SETS) * test,
        "signal": 2 * train + validation + 2 * test,
        # Of each layer the chosen, random sets and a crowd, then layers together.
        "writers": ((n_layers - 1) * (3 + n_random_layers) + 2) * whole,
        "causal": (2 + 3 * n_random) * test,
    }
    return train + 2 * test + n_prompts * validation + sum(each[question] for question in questions)


def counting(progress: Progress | bool, total: int) -> Callable[[int], None]:
    """A function that is told after each pass how many rows passed, and tells `progress` of all."""
    tell, done = told(progress), 0

    def passed(n: int) -> None:
        nonlocal done
        done = min(done + n, total)
        tell("localization", done, total)

    return passed
