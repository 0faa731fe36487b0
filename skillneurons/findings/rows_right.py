"""On which rows single neurons are right: what their intervals, and comparisons on the same rows, are made of.

Cost: one pass over the rows for each prompt, for however many neurons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.statistic import Together
from skillneurons.activations.text import At, Pool, Pooled
from skillneurons.classifiers.classifier import Classifier
from skillneurons.neurons._predictivity import best_position
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.batching import Encoded
from skillneurons.utilities.intervals import proportion


@dataclass(frozen=True, eq=False)
class Read:
    """One neuron as a classifier, at the position and in the direction that validation chose.

    Args:
        scores: Of the prompts it is read under.
        neuron: Layer and index.
        positions: Where it is read, by name; by default where it was scored.
        pool: How each row's activations there become one.
    """

    scores: NeuronScores
    neuron: tuple[int, int]
    positions: str | None = None
    pool: Pool | None = None

    @classmethod
    def best(cls, scores: NeuronScores, positions: str | None = None, pool: Pool | None = None) -> "Read":
        """The most predictive neuron on validation."""
        layer, neuron = divmod(int(scores.predictivity.argmax()), scores.predictivity.shape[1])
        return cls(scores, (layer, neuron), positions, pool)


def rows_right(
    classifiers: Sequence[Classifier], rows: Encoded, reads: Sequence[Read]
) -> Float[Tensor, "read seed batch"]:
    """1 where a neuron answers a row rightly under a prompt, else 0.

    Args:
        classifiers: One for each seed of the reads' scores, in that order.
        rows: Labelled with two classes.
        reads: The neurons.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.findings.rows_right import Read, rows_right
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> right = rows_right([classifier], classifier.encode(task.test), [Read.best(scores)])
        >>> right.shape, right.mean().item() == scores.held_out.flatten()[scores.predictivity.argmax()].item()
        (torch.Size([1, 1, 32]), True)
    """
    best = [best_position(read.scores.accuracy) for read in reads]
    right = torch.empty(len(reads), len(classifiers), len(rows), dtype=torch.float64)
    for seed, classifier in enumerate(classifiers):
        kept, parts = [], []
        for read, (position, _) in zip(reads, best, strict=True):
            layer, neuron = read.neuron
            one = OneNeuron(len(rows), layer, neuron, int(position[seed, layer, neuron]))
            where = classifier.layout.positions(read.positions or read.scores.meta["positions"])
            kept.append(one)
            parts.append(At(where, one if read.pool is None else Pooled(one, read.pool)))
        collect(classifier, rows, Together(parts), positions="all")
        for i, (read, (_, upward), one) in enumerate(zip(reads, best, kept, strict=True)):
            layer, neuron = read.neuron
            above = one.values > read.scores.baseline[seed, one.position, layer, neuron]
            right[i, seed] = (above == rows.labels.bool()) == upward[seed, layer, neuron]
    return right


def accuracy_intervals(right: Float[Tensor, "read seed batch"], rows: Encoded) -> Float[Tensor, "read 2"]:
    """95 % intervals of accuracies averaged over prompts, which pay for rows that belong together.

    Exact for one prompt on rows that share nothing. The mean over prompts of one row's answers lies between 0 and 1 and
    varies no more than a hit or a miss of the same mean, so for several they are conservative.
    """
    found = [proportion(one, rows.groups) for one in right.mean(1)]
    return torch.tensor([(one.low, one.high) for one in found], dtype=torch.float64)
