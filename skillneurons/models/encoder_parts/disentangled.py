"""Disentangled attention: scores of words with words, and of words with distances, each from projections of its own.

Source: He et al. 2021 (DeBERTa), section 3.1, as DeBERTa-v2 and v3 have it. One table of distances serves all blocks.
Costs `[batch head pos row]` numbers for each kind of score, with a row for each distance that is told apart.
"""

from collections.abc import Callable

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from skillneurons.models.config import EncoderConfig


class Distances(nn.Module):
    """The table: a vector for each distance that is told apart, normalized where the configuration says so."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.rows = nn.Embedding(2 * cfg.n_distances, cfg.d_model)
        self.ln = nn.LayerNorm(cfg.d_model, eps=cfg.eps) if cfg.distance_norm else None

    def forward(self) -> Float[Tensor, "row d_model"]:
        return self.rows.weight if self.ln is None else self.ln(self.rows.weight)


class Disentangled(nn.Module):
    """What one block adds to its attention scores: `"c2p"`, queries with distances, and `"p2c"`, distances with keys.

    Distances go through projections of their own, or with `shared_projections` through those of words.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        wide, own = cfg.n_heads * cfg.d_head, not cfg.shared_projections
        self.key = nn.Linear(cfg.d_model, wide) if own and "c2p" in cfg.disentangled else None
        self.query = nn.Linear(cfg.d_model, wide) if own and "p2c" in cfg.disentangled else None
        # The encoder's, which puts it here: a tuple is no submodule.
        self.distances: tuple[Callable[[], Tensor], ...] = ()

    def scores(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
        mask: Tensor | None,
        words: tuple[nn.Module, nn.Module],
    ) -> Float[Tensor, "batch head query key"]:
        """What is added to the scores, with the least number where `mask` hides a position.

        Args:
            q: Queries, at leading positions.
            k: Keys, at all.
            mask: True where a position may be read.
            words: Projections of words to queries and to keys.
        """
        (distances,), n_queries, n_keys = self.distances, q.shape[1], k.shape[1]
        table, shape = distances(), (len(q), q.shape[2], n_queries, n_keys)
        row = self._rows(n_queries, n_keys, q.device)
        added = torch.zeros((), device=q.device, dtype=q.dtype)
        if "c2p" in self.cfg.disentangled:
            every = einsum(q, self._heads(self.key or words[1], table), "b query h d, row h d -> b h query row")
            added = added + every.gather(-1, row.expand(shape))
        if "p2c" in self.cfg.disentangled:
            every = einsum(k, self._heads(self.query or words[0], table), "b key h d, row h d -> b h row key")
            added = added + every.gather(-2, row.expand(shape))
        added = added * disentangled_scale(self.cfg)
        return added if mask is None else added.masked_fill(~mask, torch.finfo(added.dtype).min)

    def _heads(self, linear: nn.Module, table: Float[Tensor, "row d_model"]) -> Float[Tensor, "row head d_head"]:
        return rearrange(linear(table), "row (head d_head) -> row head d_head", head=self.cfg.n_heads)

    def _rows(self, n_queries: int, n_keys: int, device: torch.device) -> Int[Tensor, "query key"]:
        where = torch.arange(n_keys, device=device)
        distance = log_bucket(where[:n_queries, None] - where, self.cfg.distance_buckets, self.cfg.furthest)
        return (distance + self.cfg.n_distances).clamp(0, 2 * self.cfg.n_distances - 1)


def disentangled_scale(cfg: EncoderConfig) -> float:
    """What all kinds of scores are multiplied with, so that their sum varies as one kind's."""
    return (cfg.d_head * (1 + len(cfg.disentangled))) ** -0.5


def log_bucket(distance: Int[Tensor, "query key"], n_buckets: int, furthest: int) -> Int[Tensor, "query key"]:
    """The distance (query's position minus key's), far ones in buckets that are even steps of the logarithm.

    Half of the buckets hold one distance each, on either side; without buckets all do. Distances beyond `furthest` go
    on in the same steps: the table's last row takes them.

    Example:
        >>> log_bucket(torch.tensor([[-100, -5, -1, 0, 1, 4, 5, 9]]), 8, 40).tolist()
        [[-9, -5, -1, 0, 1, 4, 5, 6]]
    """
    if n_buckets < 1:
        return distance
    middle = n_buckets // 2
    size = distance.abs().clamp_min(1)
    steps = torch.log(size / middle) / torch.log(torch.tensor((furthest - 1) / middle)) * (middle - 1)
    far = (steps.ceil() + middle).long() * distance.sign()
    return torch.where(distance.abs() <= middle, distance, far)
