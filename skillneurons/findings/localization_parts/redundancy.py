"""Redundancy: do neurons that were not chosen say the same as the chosen ones, and as well?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations.correlations import Correlations
from skillneurons.neurons.neuron_set import NeuronSet

SAME = 0.7
"""|r| above which two neurons are said to say the same: a convention of a 2026 study of hallucination neurons."""
POINT = 0.01
"""Accuracies that differ by no more are called equal."""


@dataclass(frozen=True, eq=False)
class Redundancy:
    """Doubles of the chosen neurons outside the set.

    Args:
        address: Layer and neuron of each chosen one.
        largest: Largest |r| with a neuron outside, over test rows: a maximum, which luck lifts.
        partner: Layer and neuron of the double: the neuron outside that correlates most over training rows.
        with_partner: |r| with it over test rows, which have no say in which it is.
        within: The same within classes: how far the two agree beyond that both tell the classes apart.
        crowd: Number of neurons outside with |r| above `SAME`, over test rows.
        held_out: Accuracy of each chosen neuron on test.
        n_outside: Number of neurons outside.
        n_alike: Of these, with a held-out accuracy of the first-ranked chosen neuron's less a point, or more.
        n_alike_median: The same for the median chosen neuron.
        first: Held-out accuracy of the chosen neuron that ranks highest.
    """

    address: Int[Tensor, "chosen 2"]
    largest: Float[Tensor, " chosen"]
    partner: Int[Tensor, "chosen 2"]
    with_partner: Float[Tensor, " chosen"]
    within: Float[Tensor, " chosen"]
    crowd: Int[Tensor, " chosen"]
    held_out: Float[Tensor, " chosen"]
    n_outside: int
    n_alike: int
    n_alike_median: int
    first: float

    @property
    def share_same(self) -> float:
        """Share of the chosen neurons with a double: |r| above `SAME`."""
        return (self.with_partner > SAME).double().mean().item()


def redundancy_of(
    train: Correlations,
    test: Correlations,
    neurons: NeuronSet,
    held_out: Float[Tensor, "layer neuron"],
    first: tuple[int, int],
) -> Redundancy:
    """The redundancy of chosen neurons, from their correlations with all neurons on two splits.

    Args:
        train: Which neuron outside is each one's double.
        test: How alike the two are.
        neurons: The chosen ones.
        held_out: Accuracy of every neuron on test.
        first: The chosen neuron that ranks highest.
    """
    outside = neurons.exists & ~neurons.mask
    width = outside.shape[1]
    partner = train.correlation.abs().masked_fill_(~outside, -1.0).flatten(1).argmax(1)
    there = test.correlation.abs().masked_fill_(~outside, -1.0).flatten(1)
    within = test.within.abs().flatten(1).gather(1, partner[:, None])[:, 0]
    own = held_out[neurons.mask]

    def as_good_as(accuracy: float) -> int:
        return int((held_out[outside] >= accuracy - POINT - 1e-9).sum())

    return Redundancy(
        address=neurons.mask.nonzero(),
        largest=there.amax(1),
        partner=torch.stack([partner // width, partner % width], dim=1),
        with_partner=there.gather(1, partner[:, None])[:, 0],
        within=within,
        crowd=(there > SAME).sum(1),
        held_out=own,
        n_outside=int(outside.sum()),
        n_alike=as_good_as(held_out[first].item()),
        n_alike_median=as_good_as(own.median().item()),
        first=held_out[first].item(),
    )
