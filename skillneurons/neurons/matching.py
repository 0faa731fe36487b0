"""What a random set shares with the set that it is drawn for, beyond layers: activity, or what the neurons say.

A comparison with random neurons shows that chosen ones matter more than most. Whether they matter more than neurons of
the same size and spread of activation, or than neurons that say the same, are harder questions: `Activity` and `Crowd`
draw the sets to ask them with, as `match` of `NeuronSet.random_like` and `random_sets`. Tensors only.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Nearness(Protocol):
    """How far the neurons of a layer are from one of it; infinite where they must not take its place."""

    def distance(self, layer: int, neuron: int) -> Float[Tensor, " neuron"]: ...


@dataclass(frozen=True, eq=False)
class Value:
    """Near in one value of each neuron.

    Example:
        >>> Value(torch.tensor([[1.0, 4.0, 3.0]])).distance(0, 0)
        tensor([0., 3., 2.])
    """

    value: Float[Tensor, "layer neuron"]

    def distance(self, layer: int, neuron: int) -> Float[Tensor, " neuron"]:
        return (self.value[layer] - self.value[layer, neuron]).abs()


@dataclass(frozen=True, eq=False)
class Activity:
    """Near in mean and standard deviation of activation, each in units of its spread over the layer's neurons.

    Interventions move neurons in proportion to how large they are and how much they vary, so that neurons alike in both
    are moved as far as the chosen ones.

    Args:
        mean: Of each neuron's activations over rows (and positions).
        spread: Their standard deviation.

    Example:
        >>> mean, spread = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 3.0, 1.0]])
        >>> Activity(mean, spread).distance(0, 0).argsort().tolist()[0]
        0
    """

    mean: Float[Tensor, "layer neuron"]
    spread: Float[Tensor, "layer neuron"]

    def distance(self, layer: int, neuron: int) -> Float[Tensor, " neuron"]:
        parts = [self._scaled(one[layer].double()) for one in (self.mean, self.spread)]
        return torch.stack([(one - one[neuron]).square() for one in parts]).sum(0).sqrt()

    @staticmethod
    def _scaled(values: Float[Tensor, " neuron"]) -> Float[Tensor, " neuron"]:
        scale = values.std()
        return values / scale if scale > 0 else values


@dataclass(frozen=True, eq=False)
class Crowd:
    """Near in what they say: the neurons whose activations correlate most with a chosen one's, in its own layer.

    Args:
        chosen: The neurons that correlations are known for.
        correlation: Of the activations of each of them, in the order of address, with those of every neuron. The sign
            does not matter: a neuron that says the opposite says the same.

    Example:
        >>> chosen = torch.tensor([[False, True, False]])
        >>> Crowd(chosen, torch.tensor([[[-0.9, 1.0, 0.2]]])).distance(0, 1).argsort()
        tensor([1, 0, 2])
    """

    chosen: Bool[Tensor, "layer neuron"]
    correlation: Float[Tensor, "chosen layer neuron"]

    def __post_init__(self) -> None:
        expected = (int(self.chosen.sum()), *self.chosen.shape)
        if tuple(self.correlation.shape) != expected:
            raise ValueError(
                f"`correlation` needs the shape {expected}, one row for each chosen neuron, but has "
                f"{tuple(self.correlation.shape)}. Pass those of the same set."
            )

    @cached_property
    def _row(self) -> Int[Tensor, "layer neuron"]:
        return (self.chosen.flatten().cumsum(0) - 1).reshape(self.chosen.shape)

    def distance(self, layer: int, neuron: int) -> Float[Tensor, " neuron"]:
        if not self.chosen[layer, neuron]:
            raise ValueError(
                f"Correlations of neuron ({layer}, {neuron}) are not known. Draw sets for the neurons that `Crowd` was "
                "made for, or for some of them."
            )
        return 1 - self.correlation[self._row[layer, neuron], layer].abs()
