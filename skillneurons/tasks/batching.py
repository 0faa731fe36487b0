"""Tokenization, once for each task and model, and batches of texts of similar length.

Token ids are kept flat, 5 bytes each with their segment: SST-2's 67,349 rows take 5 MB.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Int
from torch import Tensor

from skillneurons.utilities.devices import to_device
from skillneurons.utilities.row_groups import RowGroups, row_groups
from skillneurons.utilities.types import Row, Texts, Tokenizer

TOKENS_PER_BATCH = 2048
ROWS_PER_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokenized rows.

    Args:
        tokens: All rows' token ids, one after the other.
        token_types: Their segments.
        offsets: Where each row starts; one more entry at the end.
        labels: Integer label of each row; -1 where a row has none.
        n_truncated: How many rows were cut to fit.
        max_length: The length they were cut to.
        groups: Which rows belong together, by their `"group"`; None where none do.
    """

    tokens: Int[Tensor, " token"]
    token_types: Int[Tensor, " token"]
    offsets: Int[Tensor, " boundary"]
    labels: Int[Tensor, " batch"]
    n_truncated: int
    max_length: int
    groups: RowGroups | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        return self.offsets.diff()


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded rows behind a common prefix, on a device. `mask` is None where nothing is padded."""

    tokens: Int[Tensor, "batch pos"]
    token_types: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    labels: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, positions: slice) -> "Batch":
        """The same rows at some positions only."""
        mask = None if self.mask is None else self.mask[:, positions]
        return Batch(self.tokens[:, positions], self.token_types[:, positions], mask, self.labels, self.index)


def encode(tokenizer: Tokenizer, rows: Texts, max_length: int) -> Encoded:
    """Tokenize rows with the tokenizer's special tokens; pairs by its pair encoding.

    Args:
        tokenizer: A Hugging Face tokenizer.
        rows: `text`, or `text_a` and `text_b`; `label` and `group` may be absent. Or texts; see `as_rows`.
        max_length: Longer texts are cut to this many tokens, special tokens included.
    """
    rows = as_rows(rows)
    if not rows:
        raise ValueError("`rows` is empty; pass at least one example.")
    if max_length < 8:
        raise ValueError(f"Only {max_length} positions are left for the text. Use fewer prompt vectors.")
    tokens, types, lengths, n_truncated = [], [], [], 0
    # In chunks, so that the tokenizer's Python lists never hold all rows at once.
    for start in range(0, len(rows), ROWS_PER_CHUNK):
        chunk = rows[start : start + ROWS_PER_CHUNK]
        encoded = _tokenize(tokenizer, chunk)
        long = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
        n_truncated += len(long)
        if long:
            cut = _tokenize(tokenizer, [chunk[i] for i in long], max_length)
            for key, values in cut.items():
                for i, value in zip(long, values, strict=True):
                    encoded[key][i] = value
        lengths += [len(ids) for ids in encoded["input_ids"]]
        tokens.append(torch.tensor(list(chain.from_iterable(encoded["input_ids"])), dtype=torch.int32))
        types.append(torch.tensor(list(chain.from_iterable(encoded["token_type_ids"])), dtype=torch.int8))
    return Encoded(
        tokens=torch.cat(tokens),
        token_types=torch.cat(types),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(lengths).cumsum(0)]),
        labels=torch.tensor([row.get("label", -1) for row in rows]),
        n_truncated=n_truncated,
        max_length=max_length,
        groups=row_groups(rows),
    )


def as_rows(rows: Texts) -> Sequence[Row]:
    """Rows without labels from texts, or from pairs of texts; rows are returned as they are.

    Raises:
        TypeError: One is none of these, or all are one text.
        ValueError: Some are texts and others pairs.

    Example:
        >>> as_rows(["a great film", {"text": "dull", "label": 0}])
        [{'text': 'a great film'}, {'text': 'dull', 'label': 0}]
    """
    if isinstance(rows, str):
        raise TypeError(f"`rows` are several texts or examples, but it is one text, {rows!r}. Pass [{rows!r}].")
    if all(isinstance(row, Mapping) for row in rows):
        return rows  # type: ignore[return-value]
    made = [_as_row(row) for row in rows]
    if len({"text_a" in row for row in made}) > 1:
        raise ValueError("`rows` are texts, or all pairs of texts, but both are there. Pass them in two calls.")
    return made


def _as_row(row: object) -> Row:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, tuple | list) and len(row) == 2 and all(isinstance(one, str) for one in row):
        return {"text_a": row[0], "text_b": row[1]}
    raise TypeError(
        "`rows` are texts, pairs of texts, or examples like {'text': …}, or with 'text_a' and 'text_b', but there is "
        f"{row!r}."
    )


def _tokenize(tokenizer: Tokenizer, rows: Sequence[Row], max_length: int | None = None) -> dict[str, list[list[int]]]:
    pair = "text_a" in rows[0]
    texts = [[row[key] for row in rows] for key in (("text_a", "text_b") if pair else ("text",))]
    cut = {} if max_length is None else {"truncation": "longest_first" if pair else True, "max_length": max_length}
    # `verbose=False`: the number of cut rows is counted and reported instead of the tokenizer's own warning.
    # `split_special_tokens`: a "<mask>" that someone wrote is text, not the place where the label is read.
    encoded = tokenizer(
        *texts,
        return_token_type_ids=True,
        return_attention_mask=False,
        split_special_tokens=True,
        verbose=False,
        **cut,
    )
    return {key: list(encoded[key]) for key in ("input_ids", "token_type_ids")}


def collate(
    encoded: Encoded,
    index: Int[Tensor, " batch"],
    prefix: Int[Tensor, " prefix"],
    pad_token_id: int,
    device: torch.device | None = None,
    *,
    suffix: Int[Tensor, " suffix"] | None = None,
) -> Batch:
    """The rows `index`, each behind `prefix`, padded on the right; or, all of one length, each before `suffix`."""
    starts, lengths = encoded.offsets[index], encoded.lengths[index]
    column = torch.arange(int(lengths.max()))
    real = column < lengths[:, None]
    where = (starts[:, None] + column).clamp_max(len(encoded.tokens) - 1)
    text = torch.where(real, encoded.tokens[where].long(), pad_token_id)
    types = torch.where(real, encoded.token_types[where].long(), 0)
    head = prefix.expand(len(index), -1)
    tokens = torch.cat([head, text], dim=1)
    token_types = torch.cat([torch.zeros_like(head), types], dim=1)
    if suffix is not None:
        if not bool(real.all()):
            raise ValueError(
                f"Rows before a suffix need one length, but have {int(lengths.min())} to {int(lengths.max())} tokens. "
                "Split them: `by_length`."
            )
        tail = suffix.expand(len(index), -1)
        tokens, token_types = torch.cat([tokens, tail], dim=1), torch.cat([token_types, torch.zeros_like(tail)], dim=1)
    mask = None if bool(real.all()) else torch.cat([torch.ones_like(head), real.long()], dim=1)
    tokens, token_types, labels = (to_device(part, device) for part in (tokens, token_types, encoded.labels[index]))
    return Batch(tokens, token_types, None if mask is None else to_device(mask, device), labels, index)


def by_length(encoded: Encoded, index: Int[Tensor, " batch"]) -> list[Tensor]:
    """The row indices in parts of one length each, in their order."""
    lengths = encoded.lengths[index]
    return [index[lengths == length] for length in lengths.unique()]


def bucketed(encoded: Encoded, n_prefix: int, tokens_per_batch: int = TOKENS_PER_BATCH) -> list[Tensor]:
    """Row indices of batches for evaluation: sorted by length, at most `tokens_per_batch` padded positions each.

    Within a batch, rows are ordered by label, so that statistics of one class are sums over a slice.
    """
    order = torch.argsort(encoded.lengths, stable=True)
    lengths = encoded.lengths[order] + n_prefix
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or (end + 1 - start) * int(lengths[end]) > tokens_per_batch
        if full:
            rows = order[start:end]
            batches.append(rows[torch.argsort(encoded.labels[rows], stable=True)])
            start = end
    return batches


def shuffled(encoded: Encoded, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of training batches without end: shuffled anew each epoch, similar lengths together.

    Rows are shuffled, cut into pools of 16 batches, and sorted by length within a pool; batches of a pool then come in
    random order. This pads little and keeps the batches random.
    """
    pool = 16 * batch_size
    while True:
        order = torch.randperm(len(encoded), generator=generator)
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[torch.argsort(encoded.lengths[rows], stable=True)]
            parts = rows.split(batch_size)
            for i in torch.randperm(len(parts), generator=generator):
                yield parts[i]
