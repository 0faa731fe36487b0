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
from collections.abc import Mapping
from functools import reduce
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from skillneurons.activations.statistic import Summed, settings_of
from skillneurons.utilities.lazy import needed
from skillneurons.utilities.types import Json, Library

S = TypeVar("S", bound=Summed)


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


def check_mergeable(statistic: Library) -> None:
    """Refuse, before the pass, a statistic that keeps rows instead of sums."""
    if not isinstance(statistic, Summed):
        raise TypeError(
            f"Several processes need a statistic that merges, such as LabelSums or AboveCounts, but "
            f"{type(statistic).__name__} has no `merge`: it declares no sums. Collect it in one process: leave "
            "`accelerator` out."
        )


def merged(statistic: S, n_rows: int, work: Mapping[str, Json]) -> S:
    """The statistic over the shares of all processes, on each of them.

    Args:
        statistic: Of this process's share.
        n_rows: Of all shares.
        work: What all processes must have been given alike, besides the statistic's settings: tensors, tuples of them,
            or what `repr` tells from all else.

    Raises:
        ValueError: They were not; or rows were counted twice, or not at all.
    """
    work = {**work, "statistic": type(statistic), **settings_of(statistic)}
    digests = {name: _digest(value) for name, value in work.items()}
    sums = {name: getattr(statistic, name) for name in statistic.summed}
    gather_object = needed("accelerate.utils", "distributed", "One pass over several processes").gather_object
    gathered = gather_object([(digests, sums)])
    first, _ = gathered[0]
    different = [{name for name in first if other.get(name) != first[name]} for other, _ in gathered]
    if names := set().union(*different):
        ranks = [rank for rank, found in enumerate(different) if found]
        raise ValueError(
            f"All processes must be given the same {' and '.join(sorted(names))}, but those of ranks {ranks} are not "
            "those of rank 0. Pass the same arguments in all; a prompt is tuned in one, saved, and loaded in all."
        )
    # A process without a batch has no totals.
    settings = settings_of(statistic)
    parts = [type(statistic)(**settings, **one) for _, one in gathered if _has_begun(one)]
    result = reduce(lambda one, other: one.merge(other), parts)
    # Of a statistic that counts rows, by class; some count positions, as one number.
    n = getattr(result, "n", None)
    counted = n.sum().item() if isinstance(n, Tensor) else n_rows
    if counted != n_rows:
        raise ValueError(
            f"{n_rows} rows were shared out, but {counted} were counted. Pass a statistic that has counted nothing yet."
        )
    return result


def _has_begun(sums: dict[str, Json]) -> bool:
    return any(len(value) > 0 for value in sums.values() if isinstance(value, list))


def _digest(value: object) -> str:
    digest = hashlib.sha256()
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            # As bytes, since NumPy has no bfloat16.
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
