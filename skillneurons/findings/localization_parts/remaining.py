"""What is left: how well all other neurons tell the classes apart once the chosen ones say nothing any more.

Chosen neurons are held at their mean wherever they are read, and everything above is computed from that. Judged on
untouched rows are the best remaining neuron, and a linear probe on all that remain; then the same with more and more
of the best neurons gone. Last, the classifier's own answers where only the chosen neurons are left to speak.

Cost: three passes for each share. Memory: 4 bytes for each training row and neuron, for the probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.own_position import OwnRows, Projections
from skillneurons.activations.statistic import Together
from skillneurons.activations.sums import AboveCounts, LabelSums
from skillneurons.findings.localization_parts.known import NOTHING_LEFT, Known, known
from skillneurons.findings.localization_parts.measured import Claim
from skillneurons.interventions.perturbation import Intervention
from skillneurons.interventions.sweep import SweepSettings
from skillneurons.neurons._predictivity import best_position
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons

SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
N_RANDOM = 5
"""Sets that what the chosen tell alone is compared with."""
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Of the probe, in units of the mean squared length of a row; validation rows choose."""


@dataclass(frozen=True)
class Left:
    """What is left with some neurons at their mean.

    Args:
        share: Of all neurons that are gone.
        best: What the best remaining neuron knows; validation rows chose it.
        address: Its layer and index; None where none remains.
        probe: What a linear probe on all that remain knows.
    """

    share: float
    best: Known
    address: tuple[int, int] | None
    probe: Known


@dataclass(frozen=True)
class Remaining:
    """What is left without the chosen neurons, without more than these, and with them alone.

    Args:
        before: With no neuron gone.
        without: With the chosen ones gone.
        more: With more and more of the best neurons gone besides; ends at the first share at which nothing is left.
        plain: The classifier's accuracy as it is.
        lost: With the chosen neurons at their mean.
        only: With all others at theirs.
        only_random: The same for as many random neurons, mean over sets.
        none: With all neurons at their mean: what other paths than these neurons know.
    """

    before: Left
    without: Left
    more: tuple[Left, ...]
    plain: Known
    lost: Known
    only: Known
    only_random: float
    none: Known

    @property
    def smallest(self) -> float | None:
        """The smallest share after which neither a neuron nor a probe tells the classes apart; None: not that far."""
        steps = sorted((self.without, *self.more), key=lambda one: one.share)
        return next((one.share for one in steps if not (one.best.tells or one.probe.tells)), None)


def left_under(claim: Claim, gone: NeuronSet, ablate: Intervention) -> Left:
    """What all other neurons know where some are held at their mean.

    Args:
        claim: Whose neurons.
        gone: Those that are held.
        ablate: How.
    """
    hooks, stay = ablate(gone) if len(gone) else [], claim.neurons.exists & ~gone.mask
    share = len(gone) / int(claim.neurons.exists.sum())
    if not bool(stay.any()):
        return Left(share, NOTHING_LEFT, None, NOTHING_LEFT)
    where, centre = claim.position, claim.baseline
    sums, rows = LabelSums(2), OwnRows(len(claim.train), where, centre)
    claim.collect(claim.train, Together([sums, rows]), hooks)
    weights, offset = ridge(rows.parts, stay, claim.train.labels)

    n = len(claim.validation)
    counts, says = AboveCounts(sums.mean, 2), Projections(n, where, centre, weights)
    claim.collect(claim.validation, Together([counts, says]), hooks)
    labels = claim.validation.labels
    scored = claim.accuracy_of(counts.above, counts.n)
    rank = torch.maximum(scored, 1 - scored).amax(0).masked_fill(~stay, -torch.inf)
    best = divmod(int(rank.argmax()), rank.shape[1])
    position, upward = (one[best] for one in best_position(scored))
    guesses = says.values > offset
    right = [known(guess, labels, claim.scores.measure).accuracy for guess in guesses.T]
    chosen = max(range(len(right)), key=lambda i: (right[i], i))  # of equals the strongest penalty

    n = len(claim.test)
    neuron, probe = OneNeuron(n, *best, int(position)), Projections(n, where, centre, weights[chosen][None])
    claim.collect(claim.test, Together([neuron, probe]), hooks)
    says_one = (neuron.values > sums.mean[position, best[0], best[1]]) == upward
    return Left(share, claim.known(says_one), best, claim.known(probe.values[:, 0] > offset[chosen]))


def ridge(
    parts: Sequence[Float[Tensor, "batch neuron"]], stay: Bool[Tensor, "layer neuron"], labels: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "penalty layer neuron"], Float[Tensor, " penalty"]]:
    """Linear probes by least squares, one for each of `PENALTIES`, on standardized neurons.

    Solved among rows, of which there are fewer than neurons: `w = X' (X X' + penalty)^-1 y`.

    Args:
        parts: Each layer's activations.
        stay: The neurons that the probe may use.
        labels: 0 or 1.

    Returns:
        Weights of activations as they are, and the value above which a probe says class 1.

    Example:
        >>> labels = torch.tensor([0, 1] * 10)
        >>> rows = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
        >>> rows[:, 7] += 5.0 * labels
        >>> weights, offset = ridge([rows], torch.ones(1, 50).bool(), labels)
        >>> ((rows @ weights[1, 0].float() > offset[1].float()) == labels.bool()).all().item()
        True
    """
    # Each class counts one half: where one is rare, a probe must not be good by never saying it.
    signs = torch.where(labels == 1, 0.5, -0.5).double()
    sizes = labels.bincount(minlength=2).double()
    means, scales, gram = [], [], torch.zeros(len(labels), len(labels), dtype=torch.float64)
    for part, used in zip(parts, stay, strict=True):
        wide = part.double()
        mean, spread = wide.mean(0), wide.std(0)
        live = used & (spread > 1e-6 * (mean.abs() + 1e-6))
        means.append(mean)
        scales.append(torch.where(live, 1 / spread.clamp_min(1e-300), 0.0))
        scaled = (wide - mean) * scales[-1]
        gram += scaled @ scaled.T
    unit = gram.diagonal().mean().clamp_min(1e-12)
    alpha = torch.stack(
        [torch.linalg.solve(gram + penalty * unit * torch.eye(len(gram)).double(), signs) for penalty in PENALTIES]
    )
    weights = torch.stack(
        [
            (alpha @ ((part.double() - mean) * scale)) * scale
            for part, mean, scale in zip(parts, means, scales, strict=True)
        ],
        dim=1,
    )
    # Half way between the classes' mean answers.
    answers = sum(part.double() @ weights[:, layer].T for layer, part in enumerate(parts))
    assert isinstance(answers, Tensor)
    offset = torch.stack([answers[labels == label].sum(0) / sizes[label] for label in (0, 1)]).mean(0)
    return weights, offset


def remaining_of(
    claim: Claim,
    ablate: Intervention,
    *,
    shares: Sequence[float] = SHARES,
    per_layer: bool = True,
    n_random: int = N_RANDOM,
    seed: int = 0,
) -> Remaining:
    """What is left without the chosen neurons, without more than these, and with them alone.

    Args:
        claim: Whose neurons.
        ablate: Holds neurons at their mean, where they are read.
        shares: Of all neurons, the highest ranking first, that are gone besides.
        per_layer: Of each layer, or of the whole model.
        n_random: Sets, to compare what is left by the chosen neurons alone.
        seed: Of these.
    """
    neurons, none = claim.neurons, replace(claim.neurons, mask=torch.zeros_like(claim.neurons.mask), score=None)
    before, without = left_under(claim, none, ablate), left_under(claim, neurons, ablate)
    more: list[Left] = []
    tells = without.best.tells or without.probe.tells
    rank = claim.scores.ranking.masked_fill(~neurons.exists, 0.0)
    for share in sorted(shares) if tells else ():
        gone = neurons | replace(neurons, mask=top_neurons(rank, share, per_layer=per_layer).mask & neurons.exists)
        if len(gone) > max(len(neurons), *(round(one.share * int(neurons.exists.sum())) for one in more), 0):
            more.append(left_under(claim, gone, ablate))
            if not (more[-1].best.tells or more[-1].probe.tells):
                break
    sets = neurons.random_sets(n_random, seed=seed, disjoint=False)
    held = [neurons, ~neurons, *(~one for one in sets), neurons | ~neurons]
    points = [(ablate, one) for one in held]
    swept = claim.sweep(points, SweepSettings(), "remaining")
    says = swept.logits.argmax(2) == 1
    plain, lost, only, *random, nothing = (claim.known(one) for one in says)
    return Remaining(
        before=before,
        without=without,
        more=tuple(more),
        plain=plain,
        lost=lost,
        only=only,
        only_random=sum(one.accuracy for one in random) / len(random),
        none=nothing,
    )
