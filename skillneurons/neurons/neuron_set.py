"""NeuronSet: a choice of neurons, as a mask over layers and neurons, with set algebra and matched random sets.

Where the neurons come from does not matter: scores of this package, or a list of addresses from a paper. Tensors only.
Layers may have different widths (after pruning): the mask is then as wide as the widest layer, and `d_mlps` says how
many neurons of each layer exist.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, Unpack

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.neurons.matching import Nearness, Value
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_some, check_whole
from skillneurons.utilities.results import Result
from skillneurons.utilities.types import Json

N_NEAREST = 10
Match: TypeAlias = Literal["layer", "none"] | Float[Tensor, "layer neuron"] | Nearness
"""What random sets share with the set that they are drawn for; see `NeuronSet.random_like`."""


class Drawing(TypedDict, total=False):
    """Keywords of how random sets are drawn; see `NeuronSet.random_like`."""

    match: Match
    exclude: "NeuronSet | None"
    disjoint: bool


@checked
@dataclass(frozen=True, eq=False, repr=False)
class NeuronSet(Result):
    """A set of neurons.

    A neuron is one index of `blocks.{layer}.mlp.hook_post`, what the MLP's output matrix is multiplied with. In a gated
    MLP (a `TransformerBridge` of Llama, Gemma, …) that is the product of the activated gate and the linear branch:
    index i of `down_proj`'s input, as of the rows of `gate_proj` and `up_proj`.

    Args:
        mask: True where a neuron belongs to the set.
        model: Fingerprint of the model, if known; sets of different models do not mix.
        meta: Provenance: how the set was chosen.
        d_mlps: Number of neurons in each layer, where they differ (`model.cfg.d_mlps` of a pruned model).
        score: What ranks the neurons, larger for better; only its values at the set's own neurons count. Sets made of
            others (`|`, `~`, random sets) have none.

    Example:
        >>> skill = NeuronSet.from_pairs([(0, 2), (1, 0)], n_layers=2, d_mlp=3)
        >>> len(skill), (0, 2) in skill, len(~skill), len(skill & ~skill)
        (2, True, 4, 0)
    """

    mask: Bool[Tensor, "layer neuron"]
    model: str | None = None
    meta: dict[str, Json] = field(default_factory=dict)
    d_mlps: tuple[int, ...] = ()
    score: Float[Tensor, "layer neuron"] | None = None

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != torch.bool:
            raise ValueError(
                f"`mask` needs booleans of shape [layer, neuron], but is {self.mask.dtype} {tuple(self.mask.shape)}."
            )
        object.__setattr__(self, "mask", self.mask.detach().cpu())
        n_layers, widest = self.mask.shape
        widths = tuple(self.d_mlps) or (widest,) * n_layers
        if len(widths) != n_layers or max(widths, default=widest) > widest:
            raise ValueError(
                f"`d_mlps` needs a width of at most {widest} for each of the {n_layers} layers of `mask`, but is "
                f"{widths}. Pass `model.cfg.d_mlps`."
            )
        object.__setattr__(self, "d_mlps", widths)
        if bool((self.mask & ~self.exists).any()):
            layer, neuron = (self.mask & ~self.exists).nonzero()[0].tolist()
            raise ValueError(f"`mask` holds neuron ({layer}, {neuron}), but layer {layer} has {widths[layer]} neurons.")
        if self.score is not None:
            object.__setattr__(self, "score", self._checked_score(self.score))

    def _checked_score(self, score: Tensor) -> Tensor:
        if score.shape != self.mask.shape:
            raise ValueError(
                f"`score` needs one number for each neuron, {tuple(self.mask.shape)}, but is {tuple(score.shape)}. "
                "Give neurons outside the set any number."
            )
        if n_nan := int(score.detach().cpu()[self.mask].isnan().sum()):
            raise ValueError(
                f"`score` is NaN for {n_nan} of the set's neurons, which cannot be ranked. Leave them out."
            )
        return score.detach().cpu()

    @classmethod
    def from_pairs(
        cls,
        pairs: Sequence[tuple[int, int]],
        *,
        n_layers: int,
        d_mlp: int | Sequence[int],
        model: str | None = None,
        score: Sequence[float] | None = None,
    ) -> "NeuronSet":
        """The set of the given `(layer, neuron)` addresses, from wherever they come.

        Args:
            pairs: Addresses; the order does not matter.
            n_layers: Of the model.
            d_mlp: Neurons in a layer: one width, or one for each layer.
            model: Fingerprint of the model, `model.fingerprint()`, so that other models refuse the set.
            score: What ranks them, larger for better: one number for each pair.

        Raises:
            ValueError: There is no such neuron, or not one score for each pair; or one pair has two scores.

        Example:
            >>> NeuronSet.from_pairs([(1, 4), (0, 2)], n_layers=2, d_mlp=5, score=[0.7, 0.9]).ranked()
            [(0, 2), (1, 4)]
        """
        check_whole("n_layers", n_layers, 1, 10_000)
        widths = (d_mlp,) * n_layers if isinstance(d_mlp, int) else tuple(d_mlp)
        check_some("d_mlp", widths)
        for width in widths:
            check_whole("d_mlp", width, 1, 10_000_000)
        mask = torch.zeros(n_layers, max(widths), dtype=torch.bool)
        for layer, neuron in pairs:
            if not (0 <= layer < n_layers and 0 <= neuron < widths[layer]):
                raise ValueError(f"There is no neuron ({layer}, {neuron}) among {n_layers} layers of {d_mlp}.")
            mask[layer, neuron] = True
        if score is None:
            return cls(mask, model, d_mlps=widths)
        if len(score) != len(pairs) or int(mask.sum()) != len(pairs):
            raise ValueError(
                f"`score` needs one number for each pair, and each pair once, but there are {len(score)} numbers for "
                f"{len(pairs)} pairs of {int(mask.sum())} neurons. Pass them in the order of `pairs`."
            )
        values = torch.zeros(mask.shape, dtype=torch.float64)
        for (layer, neuron), value in zip(pairs, score, strict=True):
            values[layer, neuron] = value
        return cls(mask, model, d_mlps=widths, score=values)

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __contains__(self, address: tuple[int, int]) -> bool:
        return bool(self.mask[address])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((int(layer), int(neuron)) for layer, neuron in self.mask.nonzero())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronSet) and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash(self.mask.numpy().tobytes())

    def __or__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, torch.logical_or)

    def __and__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, torch.logical_and)

    def __sub__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, torch.gt)

    def __invert__(self) -> "NeuronSet":
        return self._like(~self.mask & self.exists)

    def _like(self, mask: Bool[Tensor, "layer neuron"]) -> "NeuronSet":
        """Other neurons of the same model: nothing that was said of this set holds of them."""
        return replace(self, mask=mask, meta={}, score=None)

    def ranked(self) -> list[tuple[int, int]]:
        """The addresses, the highest `score` first; ties, and sets without one, in the order of address.

        Example:
            >>> score = torch.tensor([[0.1, 0.5], [0.9, 0.2]])
            >>> NeuronSet(torch.tensor([[True, True], [True, False]]), score=score).ranked()
            [(1, 0), (0, 1), (0, 0)]
        """
        score = self.score
        return list(self) if score is None else sorted(self, key=lambda one: -score[one].item())

    def _combined(self, other: "NeuronSet", combine: Callable[[Tensor, Tensor], Tensor]) -> "NeuronSet":
        self._check_same_model(other)
        return NeuronSet(combine(self.mask, other.mask), self.model or other.model, d_mlps=self.d_mlps)

    def _check_same_model(self, other: "NeuronSet") -> None:
        differ = self.mask.shape != other.mask.shape or self.d_mlps != other.d_mlps
        if differ or (self.model and other.model and self.model != other.model):
            raise ValueError(
                f"The sets are of different models: {tuple(self.mask.shape)} neurons of {self.model}, and "
                f"{tuple(other.mask.shape)} of {other.model}. Compare sets of one model."
            )

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron of the set: its layer and index."""
        return pd.DataFrame(list(self), columns=["layer", "neuron"])

    def _table(self) -> pd.DataFrame:
        first = [", ".join(map(str, self.indices(layer)[:6].tolist())) for layer in range(len(self.mask))]
        more = [", …" if n > 6 else "" for n in self.per_layer.tolist()]
        columns = {"layer": range(len(self.mask)), "neurons": self.per_layer.tolist(), "of": self.d_mlps}
        return pd.DataFrame(columns | {"indices": [a + b for a, b in zip(first, more, strict=True)]})

    def __repr__(self) -> str:
        return f"NeuronSet({len(self)} of {sum(self.d_mlps):,} neurons; per layer {self.per_layer.tolist()})"

    @property
    def exists(self) -> Bool[Tensor, "layer neuron"]:
        """Which places of the mask are neurons: all, unless the layers have different widths."""
        return torch.arange(self.mask.shape[1]) < torch.tensor(self.d_mlps)[:, None]

    @property
    def per_layer(self) -> Int[Tensor, " layer"]:
        """Number of chosen neurons in each layer."""
        return self.mask.sum(dim=1)

    def indices(self, layer: int) -> Int[Tensor, " chosen"]:
        """The chosen neurons of one layer."""
        return self.mask[layer].nonzero().flatten()

    def layers(self, *layers: int) -> "NeuronSet":
        """The part of the set that lies in the given layers."""
        mask = torch.zeros_like(self.mask)
        mask[list(layers)] = self.mask[list(layers)]
        return replace(self, mask=mask)

    def overlap(self, other: "NeuronSet") -> float:
        """Share of the smaller set that is also in the other, in [0, 1]; NaN where one is empty.

        Two random sets overlap by the larger set's share of all neurons, on average.
        """
        self._check_same_model(other)
        smaller = min(len(self), len(other))
        return len(self & other) / smaller if smaller else float("nan")

    def random_like(
        self,
        *,
        seed: int,
        match: Match = "layer",
        exclude: "NeuronSet | None" = None,
        disjoint: bool = True,
    ) -> "NeuronSet":
        """A random set of the same size, disjoint from this one.

        Args:
            seed: Of the draw.
            match: `"layer"`: as many neurons in each layer as here. `"none"`: the same number overall. A tensor
                `[layer neuron]`, for example mean activations: for each chosen neuron one of its ten nearest
                free neighbours in that value, in its own layer. `Activity`: its nearest in mean and spread of
                activation. `Crowd`: those whose activations correlate with its own; see `neurons.matching`. The
                nearest are few, so that such sets share neurons.
            exclude: Further neurons not to draw.
            disjoint: False: draw from all neurons. Then this set, were it a random one, would be one draw among others,
                as a p-value needs; sets that are disjoint from it vary less (`interventions.gaps.paired_gap`).

        Raises:
            ValueError: There are not enough neurons left.
        """
        generator = torch.Generator().manual_seed(seed)
        free = self.exists & ~self.mask if disjoint else self.exists
        if exclude is not None:
            self._check_same_model(exclude)
            free = free & ~exclude.mask
        mask = torch.zeros_like(self.mask)
        nearness = Value(match) if isinstance(match, Tensor) else match
        if isinstance(nearness, Nearness):
            for layer, neuron in self:
                distance = torch.where(free[layer] & ~mask[layer], nearness.distance(layer, neuron), torch.inf)
                nearest = distance.topk(min(N_NEAREST, len(distance)), largest=False)
                candidates = nearest.indices[nearest.values.isfinite()]
                self._check_enough(len(candidates), 1, f"layer {layer}")
                mask[layer, candidates[torch.randint(len(candidates), (1,), generator=generator)]] = True
            return self._like(mask)
        if match not in ("layer", "none"):
            raise ValueError(
                f"`match` is 'layer', 'none', a tensor [layer, neuron], `Activity` or `Crowd`, not {match!r}."
            )
        # A random order of all neurons, the free ones first; `none` treats the model as one long layer.
        shape = free.shape if match == "layer" else (1, free.numel())
        wanted = self.mask.reshape(shape).sum(dim=1)
        order = torch.rand(shape, generator=generator).masked_fill(~free.reshape(shape), 2.0).argsort(dim=1)
        chosen = torch.zeros(shape, dtype=torch.bool)
        for row, n in enumerate(wanted.tolist()):
            self._check_enough(int(free.reshape(shape)[row].sum()), n, f"layer {row}" if match == "layer" else "all")
            chosen[row, order[row, :n]] = True
        return self._like(chosen.reshape(free.shape))

    def random_sets(self, n: int, *, seed: int, start: int = 0, **how: Unpack[Drawing]) -> "list[NeuronSet]":
        """Random sets of the same size: those that all comparisons with random sets draw, in the order of the draw.

        Args:
            n: How many.
            seed: Of all of them; sets of another seed are others.
            start: The first one's number: sets 0 to 3 and 4 to 7 are sets 0 to 7.
            how: As in `random_like`.

        Raises:
            ValueError: There are not enough neurons left.

        Example:
            >>> skill = NeuronSet.from_pairs([(0, 2), (1, 0)], n_layers=2, d_mlp=30)
            >>> first, *others = skill.random_sets(3, seed=0)
            >>> others == skill.random_sets(2, seed=0, start=1)
            True
        """
        check_whole("n", n, 0, 100_000)
        return [self.random_like(seed=seed * 10_007 + draw, **how) for draw in range(start, start + n)]

    @staticmethod
    def _check_enough(free: int, wanted: int, where: str) -> None:
        if free < wanted:
            raise ValueError(
                f"A disjoint random set needs {wanted} neurons in {where}, but only {free} are left. "
                "Choose fewer than half of a layer, or match='none'."
            )

    def save(self, path: str | Path) -> Path:
        """Write `path.safetensors` and `path.json`."""
        meta = {"model": self.model, "choice": self.meta, "d_mlps": self.d_mlps}
        tensors = {"mask": self.mask} if self.score is None else {"mask": self.mask, "score": self.score}
        return store.save(path, "NeuronSet", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronSet":
        """Read what `save` wrote."""
        tensors, meta = store.load(path, "NeuronSet")
        return cls(tensors["mask"], meta["model"], meta["choice"], tuple(meta.get("d_mlps", ())), tensors.get("score"))


def top_like(score: Float[Tensor, "layer neuron"], like: NeuronSet) -> NeuronSet:
    """The neurons with the highest score, in each layer as many as another set has there.

    So that two ways to choose differ in nothing but the choice, and share their random sets.

    Args:
        score: Any score.
        like: Gives the numbers.

    Returns:
        Ties go to the lower index.

    Example:
        >>> list(top_like(torch.tensor([[0.1, 0.5], [0.8, 0.7]]), NeuronSet(torch.tensor([[True, False]] * 2))))
        [(0, 1), (1, 0)]
    """
    order = score.masked_fill(~like.exists, -torch.inf).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(score.shape[1]) < like.per_layer[:, None]
    mask = torch.zeros_like(like.mask).scatter(1, order, first)
    return replace(like, mask=mask, meta={}, score=None)


@checked
def top_neurons(
    score: Float[Tensor, "layer neuron"], fraction: float, *, per_layer: bool = True, model: str | None = None
) -> NeuronSet:
    """The neurons with the highest score.

    Args:
        score: Any score; NaN is an error.
        fraction: Share of the neurons, in [0, 1]; rounded to a number of neurons, at least 1 where it is above 0.
        per_layer: The share of each layer (as the authors' code does), or of all neurons.
        model: Fingerprint of the model.

    Returns:
        Ties go to the lower layer and index.

    Example:
        >>> list(top_neurons(torch.tensor([[0.9, 0.5], [0.8, 0.7]]), 0.5, per_layer=False))
        [(0, 0), (1, 0)]
    """
    if bool(score.isnan().any()):
        raise ValueError("`score` holds NaN, which cannot be ranked.")
    rows = score if per_layer else score.reshape(1, -1)
    n = max(1, round(fraction * rows.shape[1])) if fraction else 0
    order = rows.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter(1, order[:, :n], True)
    return NeuronSet(mask.reshape(score.shape), model, {"fraction": fraction, "per_layer": per_layer})
