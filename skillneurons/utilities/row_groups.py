"""Rows that belong together: which share a premise, a document, an author or a clause, and how much that costs.

Rows of one group tend to be right or wrong together, so n of them say less than n rows would that have nothing to do
with each other. Where residuals of rows that share no group are uncorrelated, the variance of their sum is the sum of
`e_i e_j` over all pairs of rows that share one. Where each row has one group this is the sum, over groups, of the
squared sum of residuals.

Sources: Liang and Zeger 1986 (cluster-robust variance); Cameron, Gelbach and Miller 2011 (rows of several groups);
Rao and Scott 1992 (effective counts); Korn and Graubard 1998 (exact intervals on them).

Costs, for each column of residuals: one addition for each row and group of it, where no row has two groups; otherwise
one for each pair of rows that share a group.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.utilities.types import Json, Row

Ids: TypeAlias = Sequence[Json]
"""For each row what it shares with others: an id, a list of ids, or None for a row that shares nothing."""


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Which rows belong to which groups; made by `row_groups` or `groups_of`.

    Args:
        member: One entry for each row and group of it, `[batch group]`, in compressed rows.
        n_rows: How many rows.
        n_groups: How many groups; a row that shares nothing is one by itself.
    """

    member: sparse.csr_array
    n_rows: int
    n_groups: int

    @cached_property
    def disjoint(self) -> bool:
        """Whether every row belongs to one group."""
        return bool((np.diff(self.member.indptr) == 1).all())

    @cached_property
    def pairs(self) -> sparse.csr_array:
        """1 for each two rows that share a group, `[batch batch]`; a row shares its own."""
        shared = sparse.csr_array(self.member @ self.member.T)
        shared.data[:] = 1
        return shared

    @cached_property
    def n_effective(self) -> float:
        """Rows there are in effect where rows of a group always agree: the number of groups, if they are even."""
        if self.disjoint:
            return self.n_rows**2 / float((np.asarray(self.member.sum(axis=0)) ** 2).sum())
        return self.n_rows**2 / int(self.pairs.nnz)

    def of(self, which: Bool[Tensor, " batch"]) -> "RowGroups | None":
        """Groups of some of the rows; None where no two of these share anything."""
        part = self.member[which.numpy()]
        sizes = np.asarray(part.sum(axis=0))
        held = np.flatnonzero(sizes)
        part = sparse.csr_array(part[:, held])
        return RowGroups(part, int(which.sum()), len(held)) if (sizes > 1).any() else None

    def sums(self, values: Float[Tensor, " batch *axes"]) -> Float[Tensor, " group *axes"]:
        """Of the values of each group's rows."""
        flat = self.member.T @ values.double().reshape(self.n_rows, -1).numpy()
        return torch.from_numpy(np.asarray(flat)).reshape(self.n_groups, *values.shape[1:])

    def variance(self, residuals: Float[Tensor, " batch *axes"]) -> Float[Tensor, "*axes"]:
        """Of the sum of the residuals: `e_i e_j` over all pairs of rows that share a group. Below 0 by chance only."""
        if self.disjoint:
            return self.sums(residuals).square().sum(0)
        flat = residuals.double().reshape(self.n_rows, -1).numpy()
        return torch.from_numpy((flat * (self.pairs @ flat)).sum(0)).reshape(residuals.shape[1:])


def groups_of(ids: Ids) -> RowGroups | None:
    """Groups of rows from what each row shares with others.

    Groups whose rows all share another one too are left out, since they bring no further pair: of a document and its
    author, the author remains.

    Args:
        ids: For each row an id, a list of ids, or None.

    Returns:
        None where no two rows share anything.

    Example:
        >>> groups_of(["a", "a", ["b", "c"], "c"]).n_groups
        2
        >>> groups_of(["a", None, "b"])
    """
    rows = [list(dict.fromkeys(_as_ids(one))) for one in ids]
    members: dict[Hashable, list[int]] = {}
    for i, own in enumerate(rows):
        for group in own:
            members.setdefault(group, []).append(i)
    shared = {group: found for group, found in members.items() if len(found) > 1}
    if not shared:
        return None
    kept = [found for group, found in shared.items() if not _inside_another(group, found, rows, shared)]
    alone = sorted(set(range(len(rows))) - {i for found in kept for i in found})
    kept += [[i] for i in alone]
    row = np.array([i for found in kept for i in found])
    group = np.repeat(np.arange(len(kept)), [len(found) for found in kept])
    shape = len(rows), len(kept)
    return RowGroups(sparse.csr_array((np.ones(len(row)), (row, group)), shape=shape), *shape)


def row_groups(rows: Iterable[Row]) -> RowGroups | None:
    """Groups of rows by their `"group"`; see `groups_of`.

    Example:
        >>> row_groups([{"text": "a", "label": 0, "group": 3}, {"text": "b", "label": 1, "group": 3}]).n_groups
        1
    """
    return groups_of([row.get("group") for row in rows])


def _as_ids(one: Json) -> list[Hashable]:
    every = list(one) if isinstance(one, list | tuple | set | frozenset) else [one]
    own = [each for each in every if each is not None and each == each]  # NaN is what tables have where nothing is
    if wrong := [each for each in own if not isinstance(each, Hashable)]:
        raise TypeError(
            f"A row's 'group' is an id or a list of ids, but there is {wrong[0]!r}. Use numbers or strings."
        )
    return own


def _inside_another(
    group: Hashable, found: list[int], rows: list[list[Hashable]], shared: dict[Hashable, list[int]]
) -> bool:
    """Whether all rows of the group also share another, of which one of two equal groups is kept."""
    others = set(rows[found[0]]).intersection(*(rows[i] for i in found[1:])) - {group}
    size = {other: len(shared[other]) for other in others}
    first = next(iter(own for own in rows[found[0]] if own == group or (own in size and size[own] == len(found))))
    return any(n > len(found) for n in size.values()) or first != group


def check_rows(groups: RowGroups, n: int) -> None:
    """Raise unless the groups are of `n` rows."""
    if groups.n_rows != n:
        raise ValueError(f"`groups` are of {groups.n_rows} rows, but {n} are judged. Pass the groups of these rows.")


def row_weights(n_rows: int, n: int, seed: int, groups: RowGroups | None = None) -> Float[Tensor, "draw batch"]:
    """How often each row comes in each bootstrap draw, of rows or of whole groups.

    Rows of several groups move with each of them, `1 + sum over its groups of (times drawn - 1)` times, not below 0:
    rows that share a group then vary together as much as they should, and alone somewhat more.
    """
    generator = derive_generator(seed, "bootstrap of rows")
    n_units = n_rows if groups is None else groups.n_groups
    drawn = torch.randint(n_units, (n, n_units), generator=generator)
    times = torch.zeros(n, n_units).scatter_add_(1, drawn, torch.ones(n, n_units))
    if groups is None:
        return times
    moved = torch.from_numpy(groups.member @ (times.double().numpy().T - 1)).T
    return (1 + moved).clamp_min(0).float()
