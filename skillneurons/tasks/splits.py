"""Splits that a data set lacks, made by a seed: classes keep their shares, rows of one group stay together."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from skillneurons.tasks.task import stratified
from skillneurons.utilities.types import Json

Rows = list[dict[str, Json]]


def fill_splits(splits: dict[str, Rows], seed: int) -> tuple[dict[str, Rows], list[str]]:
    """The three splits, and what was done to have them: the last labelled one is reported on, the rest cut from train.

    Example:
        >>> rows = [{"text": str(i), "label": i % 2} for i in range(40)]
        >>> filled, notes = fill_splits({"train": rows}, seed=0)
        >>> [len(filled[split]) for split in ("train", "validation", "test")], notes
        ([32, 4, 4], ['test: 4 rows cut from train (seed 0)', 'validation: 4 rows cut from train (seed 0)'])
    """
    splits, notes = dict(splits), []
    if "train" not in splits:
        return {"train": [], "validation": []} | splits, ["no training rows: a set to evaluate on"]
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("no labelled test split: validation serves as test")
    for split in ("test", "validation"):
        if split not in splits:
            train = splits["train"]
            share = min(0.1, len(splits.get("test", train)) / max(1, len(train)))
            held, by = _held_out(train, share, seed)
            held_ids = {id(row) for row in held}
            splits[split], splits["train"] = held, [row for row in train if id(row) not in held_ids]
            notes.append(f"{split}: {len(held)} rows cut from train (seed {seed}{by})")
    return splits, notes


def _held_out(train: Rows, share: float, seed: int) -> tuple[Rows, str]:
    """A share of each class; where rows belong to groups, whole groups, and how these were told."""
    counts = Counter(row["label"] for row in train)
    wanted = {label: max(1, round(share * n)) for label, n in counts.items()}
    groups, by = _groups(train)
    if groups is None:
        return stratified(train, wanted, seed), ""
    members = defaultdict(list)
    for row, group in zip(train, groups, strict=True):
        members[group].append(row)
    if max(map(len, members.values())) > max(wanted.values()):
        return stratified(train, wanted, seed), f", not by {by}: one chain of shared groups holds too many rows"
    order = list(members)
    left, held = Counter(wanted), []
    for i in np.random.default_rng(seed).permutation(len(order)):
        rows = members[order[i]]
        here = Counter(row["label"] for row in rows)
        if sum(min(n, left[label]) for label, n in here.items()) * 2 >= len(rows):
            held += rows
            left -= here
    if not all(any(row["label"] == label for row in held) for label in counts) or len(held) == len(train):
        return stratified(train, wanted, seed), f", not by {by}: too few groups"
    return held, f", whole groups by {by}"


def _groups(rows: Rows) -> tuple[list[int] | None, str]:
    """For each row, which rows it must stay with: those that share a group, directly or through others."""
    if any("group" in row for row in rows):
        return _connected([_ids(row.get("group"), i) for i, row in enumerate(rows)]), "`group`"
    if rows and "text_a" in rows[0] and len({row["text_a"] for row in rows}) < len(rows):
        return _connected([(row["text_a"],) for row in rows]), "`text_a`"
    return None, ""


def _ids(group: Json, row: int) -> tuple[Hashable, ...]:
    # A row without a group shares nothing.
    ids = tuple(group) if isinstance(group, list | tuple) else () if group is None else (group,)
    return ids or (("row", row),)


def _connected(ids: Sequence[Sequence[Hashable]]) -> list[int]:
    """Numbers of the connected parts of rows that share ids."""
    parent: dict[Hashable, Hashable] = {}

    def root(one: Hashable) -> Hashable:
        parent.setdefault(one, one)
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for own in ids:
        for other in own[1:]:
            parent[root(other)] = root(own[0])
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(own[0]), len(numbers)) for own in ids]
