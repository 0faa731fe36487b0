"""Every decision of every neuron, one bit each, and permutation of the labels against them.

A pass over 872 rows of RoBERTa-base with 16 prompt positions leaves 64 MB of bits. With decisions and labels coded as
-1 and 1, hits minus misses of all neurons under all permutations is one product of 8-bit matrices, exact in integers;
it is taken in blocks of neurons, so that the product, the maximum over positions and the absolute value that stands for
the free direction all happen inside the processor's cache. Measures are compared as integers too, so that a tie is a
tie. The permuted labels take permutations x rows bytes. See `tests/benchmarks/bench_permutations.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._sign_flips import flipped_margins, group_signs
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.p_values import adjusted, check_alpha
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result, drawn_by
from skillneurons.utilities.row_groups import check_rows
from skillneurons.utilities.types import Json

Measure: TypeAlias = Literal["predictivity", "balanced_accuracy"]
NEURONS_PER_BLOCK, PERMUTATIONS_PER_BLOCK = 128, 512


@dataclass(frozen=True, eq=False, repr=False)
class PermutationTest(Result):
    """How often permuted labels do as well as the true ones.

    Args:
        observed: The measure with the true labels; mean over seeds of the maximum over positions and directions.
        p: For each neuron, the share of labellings, the true one included, under which it does as well.
        p_fwer: The share under which the best of all neurons does as well: family-wise adjusted (single-step maximum).
        null_max: The best neuron's measure under each permutation.
        meta: Measure, number of permutations and rows, seed.

    Example:
        See `permutation_test`, which makes it.
    """

    observed: Float[Tensor, "layer neuron"]
    p: Float[Tensor, "layer neuron"]
    p_fwer: Float[Tensor, "layer neuron"]
    null_max: Float[Tensor, " permutation"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_null")

    def threshold(self, alpha: float = 0.05) -> float:
        """What a neuron must exceed to be better than chance with family-wise error at most `alpha`.

        Raises:
            ValueError: `alpha` is not between 0 and 1, or there are too few permutations for it.
        """
        return self.null_max.sort(descending=True).values[self._n_as_good(alpha) - 1].item()

    def _n_as_good(self, alpha: float) -> int:
        """Of all labellings, how many may do as well as the true one, which is one of them, at a p-value of `alpha`."""
        check_alpha(alpha)
        n = int(np.floor(alpha * (len(self.null_max) + 1) + 1e-9))
        if n < 1:
            needed = int(np.ceil(1 / alpha - 1e-9)) - 1
            raise ValueError(f"`alpha` {alpha} needs at least {needed} permutations, not {len(self.null_max)}.")
        return n

    def significant(self, alpha: float = 0.05, method: Literal["fwer", "fdr", "fdr_any"] = "fwer") -> NeuronSet:
        """The neurons whose measure permuted labels do not explain.

        Args:
            alpha: Error rate.
            method: `"fwer"`: by the maximum over all neurons, which uses how they depend on each other. `"fdr"` and
                `"fdr_any"`: see `statistics.adjusted`; p-values are never below 1 / (permutations + 1).

        Raises:
            ValueError: `alpha` is not between 0 and 1, or there are too few permutations for it.
        """
        self._n_as_good(alpha)
        p = self.p_fwer if method == "fwer" else adjusted(self.p, method)
        return NeuronSet(p <= alpha, self.meta.get("model"), {"alpha": alpha, "method": method, "test": self.meta})

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron."""
        layer, neuron = torch.meshgrid(*(torch.arange(size) for size in self.p.shape), indexing="ij")
        columns = {"layer": layer, "neuron": neuron, "observed": self.observed, "p": self.p, "p_fwer": self.p_fwer}
        return pd.DataFrame({name: tensor.flatten().numpy() for name, tensor in columns.items()})

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe().nlargest(5, "observed").reset_index(drop=True)

    def __repr__(self) -> str:
        return (
            f"PermutationTest({self.meta.get('measure')}, {len(self.null_max)} permutations"
            f"{f' of {groups:,} groups' if (groups := self.meta.get('n_groups')) else ''}: best neuron "
            f"{self.observed.max():.3f}, best under permuted labels {self.null_max.mean():.3f} on average)"
        )


@checked
def permutation_test(
    decisions: Decisions | Sequence[Decisions],
    *,
    n_permutations: int = 1999,
    seed: int = 0,
    measure: Measure = "predictivity",
    model: str | None = None,
    device: str | torch.device = "cpu",
) -> PermutationTest:
    """Test every neuron against permuted labels, with error control over all of them by their maximum.

    For each permutation the measure is computed as it was for the true labels: maximum over directions and positions,
    mean over seeds. Neurons, positions and seeds see the same permutation, so whatever they share stays shared. Where
    rows belong together (`Decisions.groups`), the signs of whole groups are drawn instead of permutations of rows.
    Source: Westfall and Young 1993 (single-step maximum); Phipson and Smyth 2010 for counting the true labelling.

    Args:
        decisions: Of one prompt, or of several on the same rows.
        n_permutations: Besides the true labels.
        seed: Of the permutations.
        measure: `"predictivity"`, or `"balanced_accuracy"`: the better choice where classes are unequal, since there
            the predictivity of a neuron that is always on one side is already high, and sets a bar that few reach.
        model: Fingerprint, for the neuron sets.
        device: Where the products are taken.

    Raises:
        ValueError: Prompts differ in rows or shape, or labels are not two classes.

    Example:
        >>> labels = torch.arange(20) % 2
        >>> above = (torch.arange(20)[:, None, None, None] % torch.tensor([2, 3])) == 1
        >>> permutation_test(Decisions.of(above, labels), n_permutations=99).p_fwer.tolist()
        [[0.01..., 1.0]]
    """
    every = [decisions] if isinstance(decisions, Decisions) else list(decisions)
    labels = shared_labels(every)
    units = len(every) * _units(labels, _check_measure(measure, n_permutations))
    groups, (n_layers, d_mlp) = every[0].groups, every[0].baseline.shape[1:]

    null_max = torch.zeros(n_permutations, dtype=torch.long if groups is None else torch.float64)
    observed, as_good = [], []
    for by_seed in best_margins(every, labels, n_permutations, seed, measure, device):
        best = torch.stack(by_seed).sum(0)  # [permutation neuron]
        as_good.append((best[1:] >= best[0]).sum(0).cpu())
        observed.append(best[0].clone().cpu())  # a view would keep all of `best`
        null_max = torch.maximum(null_max, best[1:].amax(1).cpu())
    value, exceeded = torch.cat(observed), torch.cat(as_good)
    below = torch.searchsorted(null_max.sort().values, value)
    shape, total = (n_layers, d_mlp), n_permutations + 1
    return PermutationTest(
        observed=(0.5 + value.double() / units).reshape(shape),
        p=((1 + exceeded).double() / total).reshape(shape),
        p_fwer=((1 + n_permutations - below).double() / total).reshape(shape),
        null_max=0.5 + null_max.double() / units,
        meta={
            "measure": measure,
            "n_permutations": n_permutations,
            "seed": seed,
            "rows": len(labels),
            "n_seeds": len(every),
            "model": model,
            **({} if groups is None else {"n_groups": groups.n_groups}),
        },
    )


def shuffled_scores(
    decisions: Sequence[Decisions],
    *,
    n_permutations: int = 199,
    seed: int = 0,
    measure: Measure = "predictivity",
    device: str | torch.device = "cpu",
) -> Float[Tensor, "seed permutation layer neuron"]:
    """The measure of every neuron under each prompt, with the true labels first and then under permuted ones.

    All prompts see the same permutations, or signs of whole groups, as in `permutation_test`. Memory: four bytes for
    each prompt, permutation and neuron.

    Args:
        decisions: Of several prompts on the same rows.
        n_permutations: Besides the true labels.
        seed: Of the permutations.
        measure: See `permutation_test`.
        device: Where the products are taken.

    Example:
        >>> from skillneurons import Decisions
        >>> above = (torch.arange(20)[:, None, None, None] % torch.tensor([2, 3])) == 1
        >>> one = Decisions.of(above, torch.arange(20) % 2)
        >>> shuffled_scores([one, one], n_permutations=9).shape
        torch.Size([2, 10, 1, 2])
    """
    every = list(decisions)
    labels = shared_labels(every)
    units = _units(labels, _check_measure(measure, n_permutations))
    blocks = best_margins(every, labels, n_permutations, seed, measure, device)
    parts = zip(*([(0.5 + one.double() / units).float().cpu() for one in by_seed] for by_seed in blocks), strict=True)
    shape = every[0].baseline.shape[1:]
    return torch.stack([torch.cat(of_seed, dim=1).unflatten(1, shape) for of_seed in parts])


def _check_measure(measure: Measure, n_permutations: int) -> Measure:
    if measure not in ("predictivity", "balanced_accuracy"):
        raise ValueError(f"`measure` is 'predictivity' or 'balanced_accuracy', not {measure!r}.")
    if n_permutations < 1:
        raise ValueError(f"`n_permutations` is {n_permutations}; at least 19 are needed to reach p = 0.05.")
    return measure


def _units(labels: Int[Tensor, " batch"], measure: Measure) -> int:
    """What a margin is divided by to be the measure less 1/2.

    Hits - misses is 2 n (accuracy - 1/2). Less its mean, and times n so that it stays an integer, it is
    8 n_0 n_1 (balanced accuracy - 1/2).
    """
    n, n_1 = len(labels), int(labels.sum())
    return 2 * n if measure == "predictivity" else 8 * n_1 * (n - n_1)


def best_margins(
    every: Sequence[Decisions],
    labels: Int[Tensor, " batch"],
    n_permutations: int,
    seed: int,
    measure: Measure,
    device: str | torch.device,
) -> Iterator[list[Tensor]]:
    """Best margins of a block of neurons after the other: of each prompt `[permutation neuron]`, true labels first."""
    centred, groups = measure == "balanced_accuracy", every[0].groups
    if groups is not None:
        check_rows(groups, len(labels))
        signs = group_signs(groups.n_groups, n_permutations, seed)
    else:
        # The true labels come first, so that they are measured by the same arithmetic as the permuted ones.
        signs = (2 * torch.cat([labels[None].to(torch.int8), _permuted(labels, n_permutations, seed)]) - 1).to(device)
    for blocks in unpacked_blocks(every):
        if groups is None:
            yield [_best_margin(one.to(device), signs, centred) for one in blocks]
        else:
            # Rounded, so that a tie is a tie.
            yield [flipped_margins(one, labels, groups, signs, centred).round(decimals=6) for one in blocks]


def unpacked_blocks(every: Sequence[Decisions]) -> Iterator[list[Bool[Tensor, "batch prompt neuron"]]]:
    """Decisions of a block of neurons after the other, of each prompt."""
    n_layers, d_mlp = every[0].baseline.shape[1:]
    for layer in range(n_layers):
        for start in range(0, d_mlp, NEURONS_PER_BLOCK):
            yield [one.unpack(layer, start, min(start + NEURONS_PER_BLOCK, d_mlp)) for one in every]


def shared_labels(every: Sequence[Decisions]) -> Int[Tensor, " batch"]:
    if not every:
        raise ValueError("`decisions` is empty; collect them for at least one prompt.")
    labels, shape, alone = every[0].labels, every[0].baseline.shape, every[0].groups is None
    for one in every[1:]:
        if not torch.equal(one.labels, labels) or one.baseline.shape != shape or (one.groups is None) != alone:
            raise ValueError(
                f"Decisions must be of the same rows and of one shape, but have {len(labels)} and {len(one.labels)} "
                f"rows of shapes {tuple(shape)} and {tuple(one.baseline.shape)}; and all of them know which rows "
                "belong together, or none."
            )
    if set(labels.tolist()) != {0, 1}:
        raise ValueError(
            f"Labels must be 0 and 1, both present, but are {sorted(set(labels.tolist()))[:5]}. Collect "
            "decisions on a binary view: `task.binary(first, second)` or `task.one_vs_rest(label)`."
        )
    return labels


def _permuted(labels: Int[Tensor, " batch"], n_permutations: int, seed: int) -> Int[Tensor, "permutation batch"]:
    generator, short = derive_generator(seed, "permutations"), labels.to(torch.int8)
    permuted = torch.empty(n_permutations, len(labels), dtype=torch.int8)
    # Some at a time, since the random numbers and their order take twelve times the memory of the labels.
    for some in permuted.split(PERMUTATIONS_PER_BLOCK):
        some[:] = short[torch.rand(some.shape, generator=generator).argsort(dim=1)]
    return permuted


def _best_margin(
    above: Bool[Tensor, "batch prompt neuron"], signs: Int[Tensor, "permutation batch"], centred: bool
) -> Int[Tensor, "permutation neuron"]:
    """Largest |hits - misses| over positions, under each labelling; if `centred`, n times that less its mean."""
    n, n_prompt = above.shape[:2]
    coded = (2 * above.view(torch.uint8) - 1).view(torch.int8)
    coded = rearrange(coded, "batch prompt neuron -> batch (prompt neuron)")
    # Nothing here exceeds n^2, and 32 bits are twice as fast.
    dtype = torch.int32 if n**2 < 2**31 else torch.long
    centre = (coded.sum(0) * signs[0].sum()).to(dtype)
    parts = []
    for some in signs.split(PERMUTATIONS_PER_BLOCK):
        margin = _integer_product(some, coded)
        margin = n * margin.to(dtype) - centre if centred else margin
        margin = rearrange(margin, "permutation (prompt neuron) -> permutation prompt neuron", prompt=n_prompt)
        parts.append(torch.maximum(margin.amax(1), -margin.amin(1)).long())
    return torch.cat(parts)


def _integer_product(a: Int[Tensor, "m k"], b: Int[Tensor, "k n"]) -> Int[Tensor, "m n"]:
    """Exact product of matrices of -1 and 1. On a CPU in 8-bit integers, about eight times as fast as in float32."""
    if a.device.type == "cpu" and hasattr(torch, "_int_mm"):
        return torch._int_mm(a, b)
    return (a.float() @ b.float()).int()
