"""Rankings and generality: do other ways to rank, other tasks and other prompts arrive at the same neurons?"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.neurons.agreement import overlap_test
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.other_scores.probes import DidNotConverge
from skillneurons.neurons.other_scores.table import SCORES, rival_scores
from skillneurons.tasks.task import Task

RANKINGS = ("l1_probe", "l2_probe", "gradient_attribution")


@dataclass(frozen=True)
class Agreement:
    """How far another choice arrives at the same neurons.

    Args:
        with_what: The other choice.
        overlap: Share of the smaller set that the other has too.
        expected: Of random sets with as many neurons in each layer.
        jaccard: Shared neurons over all that either has.
        expected_jaccard: Of random sets with as many neurons in each layer.
        p: Chance that such sets share as many or more (hypergeometric).
        null: Jaccard index with sets that shuffled labels choose, mean; NaN where there are none.
        null_high: Largest of these.
    """

    with_what: str
    overlap: float
    expected: float
    jaccard: float
    expected_jaccard: float
    p: float
    null: float = float("nan")
    null_high: float = float("nan")


def agreement(name: str, neurons: NeuronSet, other: NeuronSet, shuffled: Sequence[NeuronSet] = ()) -> Agreement:
    """How far two choices agree, against chance and against choices by labels without meaning.

    Example:
        >>> one = NeuronSet.from_pairs([(0, 0), (0, 1)], n_layers=1, d_mlp=100)
        >>> found = agreement("another", one, NeuronSet.from_pairs([(0, 1), (0, 2)], n_layers=1, d_mlp=100))
        >>> found.overlap, round(found.jaccard, 3), round(found.expected, 3)
        (0.5, 0.333, 0.02)
    """
    test = overlap_test(neurons, other)
    both, smaller = len(neurons) + len(other), min(len(neurons), len(other))
    by_chance = test["expected"] * smaller
    null = torch.tensor([_jaccard(neurons, one) for one in shuffled] or [float("nan")])
    return Agreement(
        with_what=name,
        overlap=test["overlap"],
        expected=test["expected"],
        jaccard=_jaccard(neurons, other),
        expected_jaccard=by_chance / (both - by_chance),
        p=test["p"],
        null=null.mean().item(),
        null_high=null.max().item(),
    )


def _jaccard(one: NeuronSet, other: NeuronSet) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def agreement_of_rankings(
    classifiers: Sequence[Classifier],
    task: Task,
    neurons: NeuronSet,
    names: Sequence[str] = RANKINGS,
    *,
    n_probe_rows: int = 1000,
    seed: int = 0,
) -> list[Agreement]:
    """Overlap of the chosen neurons with those that other scores rank first, in each layer as many.

    Args:
        classifiers: Whose neurons these are.
        task: Two classes.
        neurons: The chosen ones.
        names: Of the table of scores.
        n_probe_rows: Training rows that probes are fitted on, at most.
        seed: Of these rows, and of the order of ties: sparse probes leave most neurons at zero.

    Returns:
        One for each score; none for probes that did not converge.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Score .* is left out")
            scores = rival_scores(list(classifiers), task, names, n_probe_rows=n_probe_rows, seed=seed)
    except DidNotConverge:
        return []
    return [
        agreement(SCORES[name].what, neurons, top_by(value, neurons, seed)) for name, value in scores.values.items()
    ]


def top_by(score: Float[Tensor, "layer neuron"], like: NeuronSet, seed: int = 0) -> NeuronSet:
    """The highest in each layer, as many as in `like`; ties in random order.

    Example:
        >>> like = NeuronSet.from_pairs([(0, 0)], n_layers=1, d_mlp=3)
        >>> list(top_by(torch.tensor([[0.1, 0.3, 0.2]]), like))
        [(0, 1)]
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.rand(score.shape, generator=generator).argsort(dim=1)
    order = (
        score.double()
        .masked_fill(~like.exists, -torch.inf)
        .gather(1, shuffled)
        .argsort(dim=1, descending=True, stable=True)
    )
    first = torch.arange(score.shape[1]) < like.per_layer[:, None]
    return like._like(torch.zeros_like(like.mask).scatter(1, shuffled.gather(1, order), first))


def generality(
    neurons: NeuronSet,
    others: Mapping[str, NeuronSet],
    shuffled: Mapping[str, Sequence[NeuronSet]] | None = None,
) -> list[Agreement]:
    """Agreement with choices made elsewhere: another task, another prompt, another model of the same sizes.

    Args:
        neurons: The chosen ones.
        others: Choices by name.
        shuffled: For some of them, what the same choice makes of labels without meaning.
    """
    given = shuffled or {}
    return [agreement(name, neurons, other, given.get(name, ())) for name, other in others.items()]
