"""Permutation of labels where rows belong together: the signs of whole groups instead.

A neuron's hits less misses are a constant and a sum over rows of `(s_i - mean s) (c_i - mean c)`, with labels and
decisions as -1 and 1. Where decisions have nothing to do with labels, a group's part of that sum is as likely above 0
as below, whatever its rows share. So the null draws turn the signs of whole groups, the same for all neurons, positions
and prompts. Labels cannot be permuted among groups where a row has two, or where a group has rows of both classes.

Costs a product of matrices of draws x groups and groups x neurons in float64, 128 neurons at a time: on one core some
ten times as long for each row, here each group, as 8-bit integers take.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.utilities.row_groups import RowGroups

DRAWS_PER_BLOCK = 512


def group_signs(n_groups: int, n_draws: int, seed: int) -> Int[Tensor, "{n_draws} {n_groups}"]:
    """-1 or 1 for each draw and group."""
    generator = derive_generator(seed, "signs of groups")
    return (2 * torch.randint(2, (n_draws, n_groups), generator=generator, dtype=torch.int8) - 1).to(torch.int8)


def flipped_margins(
    above: Bool[Tensor, "batch prompt neuron"],
    labels: Int[Tensor, " batch"],
    groups: RowGroups,
    signs: Int[Tensor, "draw group"],
    centred: bool,
) -> Float[Tensor, "draw+1 neuron"]:
    """Largest |hits - misses| over positions: with the true labels first, then under each draw of signs.

    Draws vary as `RowGroups.variance` says: where rows have several groups, the sums of groups count each row several
    times, so they are shrunk to it, neuron by neuron.

    Args:
        above: Decisions.
        labels: 0 or 1.
        groups: Which rows belong together.
        signs: From `group_signs`.
        centred: n times hits less misses, less its mean: a multiple of balanced accuracy less 1/2.
    """
    n, n_prompt = len(above), above.shape[1]
    s, c = 2 * labels.double() - 1, 2 * rearrange(above, "batch prompt neuron -> batch (prompt neuron)").double() - 1
    mean = n * s.mean() * c.mean(0)
    s, c = s - s.mean(), c - c.mean(0)
    residuals = s[:, None] * c
    sums = groups.sums(residuals)
    alone = s.square().sum() * c.square().sum(0) / (n - 1)
    variance, of_draws = torch.maximum(groups.variance(residuals), alone), sums.square().sum(0)
    sums = sums * torch.where(of_draws > 0, variance / of_draws.clamp_min(1e-12), 0.0).sqrt()
    parts = [residuals.sum(0)[None], *(some.double() @ sums for some in signs.split(DRAWS_PER_BLOCK))]
    margins = n * torch.cat(parts) if centred else torch.cat(parts) + mean
    return rearrange(margins, "draw (prompt neuron) -> draw prompt neuron", prompt=n_prompt).abs().amax(1)
