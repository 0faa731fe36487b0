"""One signal or many: do the chosen neurons say one thing together, and does any neuron know more than that?

Cost: two passes over training rows besides the one that redundancy makes, one over validation and two over test.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations.correlations import Correlations
from skillneurons.activations.own_position import Curve, CurveSums, Projections, ResidualCounts
from skillneurons.activations.statistic import Together
from skillneurons.findings.localization_parts.known import NOTHING_LEFT, Known, known
from skillneurons.findings.localization_parts.measured import Claim
from skillneurons.neurons._predictivity import held_out_accuracy

KNOTS = (0.2, 0.4, 0.6, 0.8)
"""Quantiles of the component over training rows."""
NOTHING_OF_ITS_OWN = 1e-6
"""A neuron of whose variance the component leaves no more, as a share, is the component, up to rounding."""


@dataclass(frozen=True, eq=False)
class OneSignal:
    """Whether the chosen neurons carry one signal, and what any neuron knows beyond it.

    Args:
        share: Of the chosen neurons' variance, each counted as one, along their first component.
        by_chance: The same, about, of as many neurons that have nothing in common, on as many rows (Marchenko and
            Pastur 1967).
        signal: What that component knows.
        best: What the neuron knows that knows most once the component is regressed out; validation rows chose it.
        address: Its layer and index.
        left: Held-out accuracy of every neuron once the component is regressed out; 1/2 for those that are it.
    """

    share: float
    by_chance: float
    signal: Known
    best: Known
    address: tuple[int, int]
    left: Float[Tensor, "layer neuron"]


def one_signal_of(claim: Claim, train: Correlations) -> OneSignal:
    """The chosen neurons' first component, what it knows, and what is known beyond it.

    The component is regressed out of every neuron by a line that may bend at `KNOTS`: activation functions bend, so
    that after a straight line a neuron that says nothing but the component would still be left with some of it.

    Args:
        claim: Whose neurons.
        train: Their correlations with all neurons on training rows.
    """
    where, centre = claim.position, train.mean
    direction, share = first_component(claim, train)
    along = claim.collect(claim.train, Projections(len(claim.train), where, centre, direction[None])).values[:, 0]
    curve = Curve(direction, along.quantile(torch.tensor(KNOTS, dtype=along.dtype)))
    sums = claim.collect(claim.train, CurveSums(where, centre, curve))
    is_it = (sums.left < NOTHING_OF_ITS_OWN) | ~claim.neurons.exists

    on = {}
    for split, rows in (("validation", claim.validation), ("test", claim.test)):
        signal = Projections(len(rows), where, centre, direction[None])
        counts = ResidualCounts(where, centre, curve, sums.coefficients, 2)
        claim.collect(rows, Together([signal, counts]))
        on[split] = signal.values[:, 0] > 0, claim.accuracy_of(counts.above, counts.n)
    (signal_before, scored), (signal_after, reported) = on["validation"], on["test"]
    upward = known(signal_before, claim.validation.labels, claim.scores.measure).accuracy >= 0.5

    rank = torch.maximum(scored, 1 - scored)[0].masked_fill(is_it, -torch.inf)
    best = divmod(int(rank.argmax()), rank.shape[1])
    weights = torch.zeros(2, *where.shape, dtype=torch.float64)
    weights[(0, *best)], weights[1] = 1.0, direction
    values = claim.collect(claim.test, Projections(len(claim.test), where, centre, weights)).values
    beyond = values[:, 0] > curve.terms(values[:, 1]) @ sums.coefficients[:, best[0], best[1]]
    n_chosen = max(int((direction != 0).sum()), 1)
    return OneSignal(
        share=share,
        by_chance=min(1.0, (1 + (n_chosen / len(claim.train)) ** 0.5) ** 2 / n_chosen),
        signal=claim.known(signal_after == upward),
        best=claim.known(beyond == bool(scored[(0, *best)] >= 0.5)) if not bool(is_it.all()) else NOTHING_LEFT,
        address=best,
        left=torch.where(is_it, 0.5, held_out_accuracy(scored, reported)),
    )


def first_component(claim: Claim, train: Correlations) -> tuple[Float[Tensor, "layer neuron"], float]:
    """Weights of the chosen neurons in their first component, each neuron counted as one; and its share of variance."""
    chosen = claim.neurons.mask
    spread = train.variance[chosen].sqrt()
    over = torch.where(spread > 0, 1 / spread.clamp_min(1e-300), 0.0)
    sizes, vectors = torch.linalg.eigh(train.covariance[:, chosen] * over * over[:, None])
    direction = torch.zeros(chosen.shape, dtype=torch.float64)
    direction[chosen] = vectors[:, -1] * over
    return direction, (sizes[-1] / sizes.sum().clamp_min(1e-300)).item()
