"""Baseline activation, accuracy and predictivity: tensors in, tensors out. No model is needed here.

Source: Wang et al. 2022, section 3.1, equations 3 to 6.
"""

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from skillneurons.utilities.arguments import checked


@checked
def baseline_activation(
    activations: Float[Tensor, "batch prompt layer neuron"],
) -> Float[Tensor, "prompt layer neuron"]:
    """Mean activation of each neuron at each prompt position over the training examples.

    `a_bsl(n, p) = 1/|D| sum_x a(n, p, x)`. Source: Wang et al. 2022, equation 3.

    Args:
        activations: Of the training split.

    Raises:
        ValueError: There are no examples.

    Example:
        >>> baseline_activation(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)).item()
        2.0
    """
    if not len(activations):
        raise ValueError("`activations` has no examples; the mean of none is not defined.")
    return reduce(activations, "batch prompt layer neuron -> prompt layer neuron", "mean")


@checked
def accuracy(
    activations: Num[Tensor, "batch prompt layer neuron"],
    labels: Int[Tensor, " batch"],
    baseline: Num[Tensor, "prompt layer neuron"],
) -> Float[Tensor, "prompt layer neuron"]:
    """Share of examples on which "above the baseline" agrees with the label.

    `Acc(n, p) = 1/|D| sum_x 1[1[a(n, p, x) > a_bsl(n, p)] = y]`. Source: Wang et al. 2022, equation 4.

    Args:
        activations: Of a labelled split that the baseline was not taken from.
        labels: 0 or 1.
        baseline: See `baseline_activation`.

    Returns:
        In [0, 1]. An activation equal to the baseline counts as not above it.

    Raises:
        ValueError: A label is neither 0 nor 1, there are no examples, or an activation is NaN.

    Example:
        >>> activations = torch.tensor([1.0, 3.0, 5.0]).reshape(3, 1, 1, 1)
        >>> accuracy(activations, torch.tensor([0, 1, 1]), torch.full((1, 1, 1), 2.0)).item()
        1.0
    """
    if not len(activations):
        raise ValueError("`activations` has no examples; an accuracy over none is not defined.")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(
            f"`labels` must be 0 or 1, but hold {sorted(set(labels.tolist()))[:5]}. "
            "Split a task of several classes with `task.subtasks()`."
        )
    if labels.shape != activations.shape[:1] or baseline.shape != activations.shape[1:]:
        raise ValueError(
            f"`activations` {tuple(activations.shape)} need one of `labels` for each example and a `baseline` of their "
            f"positions and neurons, but these are {tuple(labels.shape)} and {tuple(baseline.shape)}."
        )
    if bool(activations.isnan().any()) or bool(baseline.isnan().any()):
        raise ValueError("`activations` or `baseline` hold NaN, which would count as below the baseline.")
    agrees = (activations > baseline) == labels.bool()[:, None, None, None]
    return reduce(agrees.double(), "batch prompt layer neuron -> prompt layer neuron", "mean").to(
        activations.dtype if activations.is_floating_point() else torch.float32
    )


def accuracy_from_counts(
    above: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"]
) -> Float[Tensor, "prompt layer neuron"]:
    """`accuracy` from the number of examples above the baseline in class 0 and class 1.

    Example:
        >>> accuracy_from_counts(torch.tensor([1, 2]).reshape(2, 1, 1, 1), torch.tensor([3, 2])).item()
        0.8
    """
    _check_counts(above, n)
    return (n[0] - above[0] + above[1]) / n.sum().double()


def balanced_accuracy_from_counts(
    above: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"]
) -> Float[Tensor, "prompt layer neuron"]:
    """Mean of the two classes' recalls: 1/2 for a neuron that is always on one side, whatever the classes' shares."""
    _check_counts(above, n)
    return ((n[0] - above[0]) / n[0].double() + above[1] / n[1].double()) / 2


def _check_counts(above: Tensor, n: Tensor) -> None:
    if len(n) != 2 or len(above) != 2 or int(n.min()) <= 0:
        raise ValueError(f"Counts of two classes with examples in both are needed, but the classes hold {n.tolist()}.")


@checked
def predictivity(accuracy: Float[Tensor, "*axes prompt layer neuron"]) -> Float[Tensor, "*axes layer neuron"]:
    """Best accuracy over prompt positions and over the two directions of a neuron.

    `Pred(n) = max_p max(Acc(n, p), 1 - Acc(n, p))`. Source: Wang et al. 2022, equations 5 and 6. Averaged over trials
    by the caller. Chosen as a maximum on the rows it is computed from, so it overstates: see `held_out_accuracy`.

    Args:
        accuracy: In [0, 1]; leading axes, such as `seed`, are kept.

    Returns:
        In [0.5, 1].

    Example:
        >>> predictivity(torch.tensor([0.2, 0.6]).reshape(2, 1, 1)).item()
        0.8...
    """
    return torch.maximum(accuracy, 1 - accuracy).amax(dim=-3)


def best_position(
    accuracy: Float[Tensor, "*axes prompt layer neuron"],
) -> tuple[Int[Tensor, "*axes layer neuron"], Bool[Tensor, "*axes layer neuron"]]:
    """The prompt position at which `predictivity` is reached, and whether "above" means label 1 there.

    The first position wins a tie.

    Example:
        >>> import torch
        >>> from skillneurons.neurons._predictivity import best_position
        >>> position, upward = best_position(torch.tensor([0.2, 0.6]).reshape(2, 1, 1))
        >>> position.item(), upward.item()  # 0.2 upward is 0.8 downward
        (0, False)
    """
    position = torch.maximum(accuracy, 1 - accuracy).argmax(dim=-3)
    at_best = accuracy.gather(-3, position.unsqueeze(-3)).squeeze(-3)
    return position, at_best >= 0.5


def held_out_accuracy(
    chosen_on: Float[Tensor, "*axes prompt layer neuron"], reported_on: Float[Tensor, "*axes prompt layer neuron"]
) -> Float[Tensor, "*axes layer neuron"]:
    """Accuracy on untouched rows, at the position and in the direction chosen on other rows.

    Unlike `predictivity` it is an unbiased estimate, and can fall below 1/2.

    Args:
        chosen_on: Accuracy on the rows that choose (validation).
        reported_on: Accuracy on the rows that are reported (test).

    Example:
        >>> validation = torch.tensor([0.2, 0.6]).reshape(2, 1, 1)
        >>> test = torch.tensor([0.3, 0.9]).reshape(2, 1, 1)
        >>> round(held_out_accuracy(validation, test).item(), 2)
        0.7
    """
    position, upward = best_position(chosen_on)
    at_position = reported_on.gather(-3, position.unsqueeze(-3)).squeeze(-3)
    return torch.where(upward, at_position, 1 - at_position)
