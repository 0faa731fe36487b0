"""Random numbers that depend on what they are drawn for, not on what was drawn before.

A number is a hash of the seed and of the row, position and neuron it is meant for. So hooks that draw keep no state:
used twice they give the same numbers, and rows may be batched in any way. The hash is MurmurHash3's finalizer, chained
over the coordinates, on 64-bit integers that wrap; all devices draw the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.utilities.devices import to_device

_ROWS: ContextVar[Tensor | None] = ContextVar("rows of the pass", default=None)

_STEP = -7046029254386353131  # 2**64 divided by the golden ratio, odd, as a signed integer.
_FACTORS = (-49064778989728563, -4265267296055464877)
_LOW = 0x7FFFFFFF


@contextmanager
def rows_in_pass(index: Int[Tensor, " batch"]) -> Iterator[None]:
    """Say which rows a forward pass is made of, so that what hooks draw for a row does not depend on its batch."""
    token = _ROWS.set(index)
    try:
        yield
    finally:
        _ROWS.reset(token)


def current_rows(n: int) -> Int[Tensor, " batch"]:
    """Numbers of the rows in this forward pass of `n`; from 0 where nobody said.

    Example:
        >>> with rows_in_pass(torch.tensor([5, 3])):
        ...     current_rows(2)
        tensor([5, 3])
        >>> current_rows(2)
        tensor([0, 1])
    """
    rows = _ROWS.get()
    return torch.arange(n) if rows is None or len(rows) != n else rows


def normals(
    seed: int,
    rows: Int[Tensor, " batch"],
    n_pos: int,
    neurons: Int[Tensor, " chosen"],
) -> Float[Tensor, "batch pos chosen"]:
    """Standard normal numbers, one for each row, position and neuron, on the neurons' device.

    Example:
        >>> both = normals(0, torch.tensor([4, 9]), 2, torch.tensor([1, 7]))
        >>> both.shape, both[1:, :, 1:].equal(normals(0, torch.tensor([9]), 2, torch.tensor([7])))
        (torch.Size([2, 2, 2]), True)
    """
    device = neurons.device
    keys = _keys(seed, to_device(rows, device), torch.arange(n_pos, device=device), neurons)
    # 23 bits, centred between multiples of 2**-22, so that 1 itself is never reached.
    odd = (((keys >> 41) & 0x7FFFFF) * 2 - 0x7FFFFF).float()
    return (odd / 0x800000).erfinv_().mul_(2**0.5)


def integers(n: int, seed: int, rows: Int[Tensor, " batch"], n_pos: int | None = None) -> Int[Tensor, "..."]:
    """Numbers below `n`, one for each row, or for each row and position.

    Example:
        >>> integers(10, 0, torch.arange(3)).shape, integers(10, 0, torch.arange(3), 2).shape
        (torch.Size([3]), torch.Size([3, 2]))
    """
    keys = _keys(seed, rows) if n_pos is None else _keys(seed, rows, torch.arange(n_pos, device=rows.device))
    return (keys >> 1 & 0x7FFFFFFFFFFFFFFF) % n


def _keys(seed: int, *coordinates: Int[Tensor, " _"]) -> Tensor:
    """A hash for each combination of coordinates, one axis for each."""
    keys = _mixed(torch.tensor(seed % 2**63, device=coordinates[0].device))
    for coordinate in coordinates:
        keys = _mixed(keys[..., None] + (coordinate + 1) * _STEP)
    return keys


def _mixed(keys: Tensor) -> Tensor:
    for factor in _FACTORS:
        keys = (keys ^ ((keys >> 33) & _LOW)) * factor
    return keys ^ ((keys >> 33) & _LOW)
