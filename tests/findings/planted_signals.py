"""Activations of neurons whose part in a skill is known, without a model: many of them are made in a second."""

from dataclasses import dataclass

import torch

from skillneurons import AboveCounts, LabelSums, NeuronSet, collect_cached
from skillneurons.activations.correlations import Correlations
from skillneurons.findings.localization_parts.redundancy import redundancy_of
from skillneurons.neurons import held_out_accuracy, predictivity
from skillneurons.neurons._predictivity import accuracy_from_counts, best_position

L, M, P = 2, 60, 2
KINDS = ("unique", "copies", "noisy crowd", "no signal")


@dataclass(frozen=True)
class Split:
    activations: torch.Tensor  # [batch prompt layer neuron]
    labels: torch.Tensor

    def into(self, statistic):
        cache = {f"blocks.{layer}.mlp.hook_post": self.activations[:, :, layer] for layer in range(L)}
        return collect_cached([(cache, self.labels)], statistic, positions=slice(0, P))


def planted_splits(kind, seed, n=120):
    """Train, validation and test. Neuron (1, 7) knows the label (90 to 95 %), in layer 1; who else does, `kind` says.

    - `unique`: nobody.
    - `copies`: ten others, to the last digit.
    - `noisy crowd`: twenty others, each with noise of its own.
    - `no signal`: not even that neuron.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for _ in range(3):
        labels = torch.randint(2, (n,), generator=generator)
        values = torch.randn(n, P, L, M, generator=generator)
        signal = 1.5 * (2 * labels - 1)
        if kind != "no signal":
            values[:, :, 1, 7] = signal[:, None] + values[:, :1, 1, 7]
        if kind == "copies":
            values[:, :, 1, 8:18] = values[:, :, 1, 7:8]
        if kind == "noisy crowd":
            values[:, :, 1, 8:28] += signal[:, None, None]
            values[:, :, 1, 8:28] += 0.7 * values[:, :, 1, 7:8]
        splits.append(Split(values, labels))
    return splits


def scored(splits):
    """Accuracies on validation and test, baseline, and each neuron's position."""
    train, validation, test = splits
    baseline = train.into(LabelSums(2)).mean
    counts = [split.into(AboveCounts(baseline, 2)) for split in (validation, test)]
    accuracy, test_accuracy = (accuracy_from_counts(one.above, one.n) for one in counts)
    return accuracy, held_out_accuracy(accuracy, test_accuracy), baseline


def redundancy_in(splits):
    """Of the one neuron that ranks first."""
    accuracy, held_out, baseline = scored(splits)
    score = predictivity(accuracy)
    first = divmod(int(score.argmax()), M)
    neurons = NeuronSet.from_pairs([first], n_layers=L, d_mlp=M)
    position = best_position(accuracy)[0]
    centre = baseline.gather(0, position[None])[0]
    train, test = (splits[i].into(Correlations(neurons.mask, position, centre)) for i in (0, 2))
    return redundancy_of(train, test, neurons, held_out, first)
