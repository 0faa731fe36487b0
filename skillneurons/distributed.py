"""One pass over several processes: each takes its share of the batches, and all end with the sums over all of them.

Every process runs the same script (`accelerate launch`, `torchrun`), on one machine or several, and passes its
`accelerator` to `collect` or `find_skill_neurons`.

What holds, for processes on one kind of device with one number of threads: batches are formed before they are shared
out, so every activation has the bits that it has in one process, and counts, which are integers, are bit-equal to those
of one process. Float64 sums are added in the order of the ranks: bit-equal on all processes and at every repetition
with as many of them. Against another number of processes they differ by the order of additions alone, which is at most
`2 n 2**-53` of the sum of magnitudes, for n batches.
"""

import hashlib
from dataclasses import replace
from functools import reduce
from typing import Any, Protocol, TypeVar, runtime_checkable

from accelerate.utils import gather_object
from torch import Tensor

S = TypeVar("S")

# What a statistic adds up; the rest of it is the same in all processes.
SUMS = ("totals", "squares", "n")


@runtime_checkable
class Ranks(Protocol):
    """The processes of a launch: an `accelerate.Accelerator`, or a `PartialState`."""

    @property
    def process_index(self) -> int: ...

    @property
    def num_processes(self) -> int: ...


def share_of(ranks: Ranks | None) -> slice:
    """Which batches are this process's: every n-th, so that all shares have long and short texts."""
    return slice(None) if ranks is None else slice(ranks.process_index, None, ranks.num_processes)


def check_mergeable(statistic: Any) -> None:
    """Refuse, before the pass, a statistic that keeps rows instead of sums."""
    if not hasattr(statistic, "merge"):
        raise TypeError(
            f"Several processes need a statistic that merges, such as LabelSums or AboveCounts, but "
            f"{type(statistic).__name__} has no `merge`. Collect it in one process: leave `accelerator` out."
        )


def merged(statistic: S, *work: Tensor) -> S:
    """The statistic over the shares of all processes, on each of them.

    Args:
        statistic: Of this process's share.
        work: What all processes must have been given alike: the prompt, the rows.

    Raises:
        ValueError: They were not.
    """
    digest = hashlib.sha256(b"".join(part.detach().cpu().contiguous().numpy().tobytes() for part in work)).hexdigest()
    sums = {name: getattr(statistic, name) for name in SUMS if hasattr(statistic, name)}
    gathered = gather_object([(digest, sums)])
    different = [rank for rank, (other, _) in enumerate(gathered) if other != gathered[0][0]]
    if different:
        raise ValueError(
            f"All processes must be given the same rows and the same prompt, but those of ranks {different} are not "
            "those of rank 0. Tune in one process, save, and load in all."
        )
    # A process without a batch has no totals.
    parts = [replace(statistic, **one) for _, one in gathered if one["totals"]]  # type: ignore[type-var]
    return reduce(lambda first, second: first.merge(second), parts)
