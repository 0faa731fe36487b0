"""Rankings of all neurons as they might have come out: with other rows, and with labels that mean nothing.

From decisions, one bit for each neuron and row, so that neurons keep what they share. Costs two products of matrices of
draws x rows and rows x neurons, for each prompt position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._permutation_test import Measure, best_margins, shared_labels, unpacked_blocks
from skillneurons.utilities.checks import check_whole


@dataclass(frozen=True, eq=False)
class Redrawn:
    """A number for each neuron that ranks them as predictivity does (or balanced accuracy), in each draw.

    Args:
        shuffled: Under permuted labels; where rows belong together, under signs of whole groups. The same draws for all
            that is made of as many rows with one seed.
        resampled: On rows drawn anew, or groups of them: each counts as often as a Poisson number with mean 1 says.
            Rows of several groups count as those together say, which errs towards more spread.
    """

    shuffled: Float[Tensor, "draw layer neuron"]
    resampled: Float[Tensor, "draw layer neuron"]


def redrawn(
    decisions: Decisions | Sequence[Decisions], *, n_draws: int = 199, seed: int = 0, balanced: bool = False
) -> Redrawn:
    """Redraw labels and rows, and score every neuron each time: best position and direction, mean over prompts.

    Args:
        decisions: Of one prompt, or of several on the same rows.
        n_draws: Of each kind.
        seed: Of the draws.
        balanced: Rank as balanced accuracy does.

    Raises:
        ValueError: Prompts differ in rows or shape, or labels are not two classes.

    Example:
        >>> labels = torch.arange(20) % 2
        >>> above = (torch.arange(20)[:, None, None, None] % torch.tensor([2, 3])) == 1
        >>> redrawn(Decisions.of(above, labels), n_draws=9).shuffled.shape
        torch.Size([9, 1, 2])
    """
    check_whole("n_draws", n_draws, low=1)
    every = [decisions] if isinstance(decisions, Decisions) else list(decisions)
    labels = shared_labels(every)
    signs, weights = 2 * labels.to(torch.int8) - 1, _weights(every[0], n_draws, seed)
    measure: Measure = "balanced_accuracy" if balanced else "predictivity"
    shuffled = [
        torch.stack(by_prompt).double().mean(0)[1:]
        for by_prompt in best_margins(every, labels, n_draws, seed, measure, "cpu")
    ]
    resampled = [
        torch.stack([_weighted(one, signs, weights, balanced) for one in block]).mean(0)
        for block in unpacked_blocks(every)
    ]
    shape = n_draws, *every[0].baseline.shape[1:]
    return Redrawn(torch.cat(shuffled, 1).reshape(shape), torch.cat(resampled, 1).double().reshape(shape))


def _weights(decisions: Decisions, n_draws: int, seed: int) -> Float[Tensor, "draw batch"]:
    generator, groups = derive_generator(seed, "weights of rows"), decisions.groups
    n = decisions.n if groups is None else groups.n_groups
    counts = torch.poisson(torch.ones(n_draws, n), generator=generator)
    if groups is None:
        return counts
    added = groups.member @ (counts - 1).double().numpy().T
    return 1 + torch.from_numpy(added.T).float()


def _weighted(
    above: Bool[Tensor, "batch prompt neuron"], signs: Tensor, weights: Float[Tensor, "draw batch"], balanced: bool
) -> Float[Tensor, "draw neuron"]:
    """Largest |hits - misses| over positions, where rows count as `weights` say."""
    coded = 2 * rearrange(above, "batch prompt neuron -> batch (prompt neuron)").float() - 1
    signed = weights * signs
    margins = signed @ coded
    if balanced:
        margins = margins - (weights @ coded) * (signed.sum(1) / weights.sum(1))[:, None]
    split = rearrange(margins, "draw (prompt neuron) -> draw prompt neuron", prompt=above.shape[1])
    return split.abs().amax(1)
