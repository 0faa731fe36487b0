"""Stability: would other rows, or another prompt, have chosen the same neurons?

Rows are drawn anew, whole groups of them where they belong together, and the choice is made again on each draw: from
one pass's decisions, a bit for each neuron, position and row, so that a hundred draws cost a product of matrices. The
same is done with labels that mean nothing. Neurons that say the same are chosen together then too, so that what
agreement of chance choices amounts to is measured, not assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._sign_flips import group_signs
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import Measure
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.row_groups import RowGroups, row_weights

NEURONS_PER_BLOCK = 512
DRAWS_PER_SHUFFLE = 10


@dataclass(frozen=True, eq=False)
class Resampling:
    """Agreement of choices, as mean pairwise Jaccard index: shared neurons over all that either has.

    Args:
        bootstrap: Between choices on bootstrap draws of the rows, all prompts together.
        bootstrap_null: The same under labels without meaning, for each shuffle.
        seeds: Between choices under each prompt alone; NaN for one prompt.
        seeds_null: The same under shuffled labels.
        kept: How often each chosen neuron is chosen again on bootstrap draws.
        n_bootstrap: Draws.
    """

    bootstrap: float
    bootstrap_null: Float[Tensor, " shuffle"]
    seeds: float
    seeds_null: Float[Tensor, " shuffle"]
    kept: Float[Tensor, " chosen"]
    n_bootstrap: int


def resample_choice(
    decisions: Sequence[Decisions],
    neurons: NeuronSet,
    *,
    measure: Measure = "predictivity",
    per_layer: bool = True,
    n_bootstrap: int = 50,
    n_shuffles: int = 10,
    seed: int = 0,
) -> Resampling:
    """Choose as many neurons again on bootstrap draws, under each prompt, and under shuffled labels.

    Args:
        decisions: On the rows that choose, for each prompt.
        neurons: What was chosen; gives the numbers, and what `kept` is of.
        measure: What ranks.
        per_layer: As many in each layer, or as many in all.
        n_bootstrap: Draws of rows.
        n_shuffles: Of the labels; each is drawn from as well.
        seed: Of draws and shuffles.

    Raises:
        ValueError: There are fewer than two draws, or no shuffle.

    Example:
        >>> labels = torch.arange(40) % 2
        >>> above = torch.rand(40, 1, 1, 30, generator=torch.Generator().manual_seed(0)) > 0.5
        >>> above[:, 0, 0, 3] = labels.bool()
        >>> chosen = NeuronSet.from_pairs([(0, 3)], n_layers=1, d_mlp=30)
        >>> found = resample_choice([Decisions.of(above, labels)], chosen)
        >>> found.bootstrap, bool(found.bootstrap_null.mean() < 0.9)
        (1.0, True)
    """
    check_whole("n_bootstrap", n_bootstrap, low=2)
    check_whole("n_shuffles", n_shuffles, low=1)
    labels, groups = decisions[0].labels, decisions[0].groups
    shuffled = shuffled_labels(labels, n_shuffles, seed, groups)
    n_again = DRAWS_PER_SHUFFLE
    draws = row_weights(len(labels), n_bootstrap, seed, groups)
    again = row_weights(len(labels), n_again, seed + 1, groups)
    # The rows as they are, drawn anew, shuffled, and shuffled and drawn anew; each by the same arithmetic.
    once = torch.ones(1, len(labels))
    weights = [
        weighted_labels(labels[None], once, measure),
        weighted_labels(labels[None], draws, measure),
        weighted_labels(shuffled, once.expand(n_shuffles, -1), measure),
        weighted_labels(shuffled.repeat_interleave(n_again, 0), again.repeat(n_shuffles, 1), measure),
    ]
    values = torch.stack([predictivity_under(one, torch.cat(weights)) for one in decisions])
    by_seed = [chosen_by(one, neurons, per_layer) for one in values]
    together = chosen_by(values.mean(0), neurons, per_layer)
    sizes = [len(one) for one in weights]
    _, bootstrap, _, null = together.split(sizes)
    as_is, _, null_as_is, _ = torch.stack(by_seed, 1).split(sizes)
    return Resampling(
        bootstrap=mean_jaccard(bootstrap),
        bootstrap_null=torch.tensor([mean_jaccard(one) for one in null.split(n_again)]),
        seeds=mean_jaccard(as_is[0]),
        seeds_null=torch.tensor([mean_jaccard(one) for one in null_as_is]),
        kept=bootstrap.double().mean(0)[neurons.mask],
        n_bootstrap=n_bootstrap,
    )


def shuffled_labels(
    labels: Int[Tensor, " batch"], n: int, seed: int, groups: RowGroups | None = None
) -> Int[Tensor, "shuffle batch"]:
    """Labels without meaning: permuted, or turned for whole groups where rows belong together (`_sign_flips`).

    A row of several groups turns with the largest of them.
    """
    if groups is None:
        generator = derive_generator(seed, "shuffled labels")
        return labels[torch.rand(n, len(labels), generator=generator).argsort(1)]
    size, member = np.asarray(groups.member.sum(0)), groups.member
    own = [member.indices[start:stop] for start, stop in pairwise(member.indptr)]
    largest = torch.tensor([int(some[size[some].argmax()]) for some in own])
    return torch.where(group_signs(groups.n_groups, n, seed)[:, largest] > 0, labels, 1 - labels)


def weighted_labels(
    labels: Int[Tensor, "some batch"], weights: Float[Tensor, "draw batch"], measure: Measure
) -> Float[Tensor, "draw batch"]:
    """What decisions of -1 and 1 are multiplied with to give hits less misses: a share of all, or the classes' mean."""
    signs = (2 * labels - 1) * weights
    if measure == "predictivity":
        return signs / weights.sum(1, keepdim=True).clamp_min(1)
    of_class = torch.stack([torch.where(labels == label, weights, 0.0).sum(1) for label in (0, 1)])
    return (
        torch.where(labels == 1, signs / of_class[1, :, None].clamp_min(1), signs / of_class[0, :, None].clamp_min(1))
        / 2
    )


def predictivity_under(
    decisions: Decisions, weights: Float[Tensor, "draw batch"]
) -> Float[Tensor, "draw layer neuron"]:
    """Every neuron's predictivity on each draw, at the position that is best there."""
    n_layers, d_mlp = decisions.baseline.shape[1:]
    result = torch.empty(len(weights), n_layers, d_mlp)
    for layer in range(n_layers):
        for start in range(0, d_mlp, NEURONS_PER_BLOCK):
            stop = min(start + NEURONS_PER_BLOCK, d_mlp)
            above = decisions.unpack(layer, start, stop)
            signs = 2 * rearrange(above, "batch prompt neuron -> batch (prompt neuron)").float() - 1
            margins = rearrange(weights @ signs, "draw (prompt neuron) -> draw prompt neuron", neuron=stop - start)
            result[:, layer, start:stop] = 0.5 + margins.abs().amax(1) / 2
    # Rounding must not break ties that rows make.
    return (result * 1e5).round() / 1e5


def chosen_by(
    values: Float[Tensor, "draw layer neuron"], like: NeuronSet, per_layer: bool
) -> Bool[Tensor, "draw layer neuron"]:
    """The best on each draw: as many in each layer as in `like`, or as many in all. Ties go to the lower address."""
    ranked = values.masked_fill(~like.exists, -torch.inf)
    shape, counts = ranked.shape, like.per_layer
    if not per_layer:
        ranked, counts = ranked.flatten(1)[:, None], counts.sum()[None]
    order = ranked.argsort(dim=2, descending=True, stable=True)
    first = (torch.arange(ranked.shape[2]) < counts[:, None]).expand(ranked.shape)
    return torch.zeros(ranked.shape, dtype=torch.bool).scatter(2, order, first).reshape(shape)


def mean_jaccard(sets: Bool[Tensor, "set layer neuron"]) -> float:
    """Mean over pairs of the shared neurons over those that either has; NaN for one set.

    Example:
        >>> mean_jaccard(torch.tensor([[[True, True, False]], [[True, False, True]]]))
        0.333...
    """
    if len(sets) < 2:
        return float("nan")
    flat = sets.flatten(1).float()
    shared, sizes = (flat @ flat.T).double(), flat.sum(1).double()
    index = shared / (sizes[:, None] + sizes - shared)
    upper = torch.ones_like(index).triu(1).bool()
    return index[upper].mean().item()
