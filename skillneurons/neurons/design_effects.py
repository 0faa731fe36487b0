"""How much rows that belong together cost each neuron: the design effects of its association and of its accuracy.

A neuron's decisions at one position of its own are needed row by row, one bit each: a pass over validation beyond that
which counts, memory of rows x neurons / 8 bytes (32 MB for 872 rows of roberta-base and both choices on test; nothing
without groups), and a sum over each neuron's rows for each group.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import ChosenDecisions
from skillneurons.activations.statistic import Together
from skillneurons.activations.sums import AboveCounts
from skillneurons.classifiers.classifier import Classifier
from skillneurons.neurons._predictivity import accuracy_from_counts, best_position
from skillneurons.neurons.p_values import strongest_position
from skillneurons.tasks.batching import Encoded
from skillneurons.utilities.intervals import proportion_effects
from skillneurons.utilities.row_groups import RowGroups, check_rows
from skillneurons.utilities.types import Json

VALUES_PER_BLOCK = 2**22


def association_effects(
    above: Bool[Tensor, "batch neuron"], labels: Int[Tensor, " batch"], groups: RowGroups
) -> Float[Tensor, " neuron"]:
    """How many times the covariance of decisions and labels varies as it would for rows that share nothing.

    `e_i = (y_i - mean y) (d_i - mean d)`, whose sum has the variance of `RowGroups.variance` where decisions have
    nothing to do with labels, and `sum (y_i - mean y)^2 sum (d_i - mean d)^2 / (N - 1)` under permutations of rows.

    Returns:
        At least 1; 1 for a neuron that is always on one side.

    Example:
        >>> import torch
        >>> from skillneurons.neurons.design_effects import association_effects
        >>> from skillneurons.utilities.row_groups import groups_of
        >>> labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
        >>> above = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0]).bool()[:, None]
        >>> association_effects(above, labels, groups_of([0, 0, 1, 1, 2, 2, 3, 3])).item()
        1.75
    """
    check_rows(groups, len(labels))
    d, y = above.double(), labels.double()
    d, y = d - d.mean(0), y - y.mean()
    alone = y.square().sum() * d.square().sum(0) / (len(y) - 1)
    together = groups.variance(y[:, None] * d)
    return torch.where(alone > 0, together / alone.clamp_min(1e-12), 1.0).clamp_min(1.0)


def counted(
    classifier: Classifier,
    splits: dict[str, Encoded],
    baseline: Float[Tensor, "prompt layer neuron"],
    passing: Callable[[str], dict[str, Json]],
) -> tuple[dict[str, AboveCounts], Float[Tensor, "3 layer neuron"] | None]:
    """Counts on validation and test, and the design effects that go with them where rows belong together.

    Returns:
        The counts; and the effects of the association on validation, of that on test at the same position, and of the
        accuracy on test, at the position that is best by accuracy.
    """
    validation, test = splits["validation"], splits["test"]
    on_validation, on_test = passing("validation"), passing("test")
    first = collect(classifier, validation, AboveCounts(baseline, 2), **on_validation)
    second = AboveCounts(baseline, 2)
    if validation.groups is None and test.groups is None:
        second = collect(classifier, test, second, **on_test)
        return {"validation": first, "test": second}, None
    by_association, _ = strongest_position(first.above, first.n)
    by_accuracy, upward = best_position(accuracy_from_counts(first.above, first.n))
    effects = torch.ones(3, *upward.shape, dtype=torch.float64)
    if validation.groups is not None:
        chosen = ChosenDecisions(baseline, by_association[None], len(validation))
        effects[0] = _associations(collect(classifier, validation, chosen, **on_validation), validation)
    chosen = ChosenDecisions(baseline, torch.stack([by_association, by_accuracy]), len(test))
    if test.groups is None or on_test.get("accelerator") is not None:
        second = collect(classifier, test, second, **on_test)
    if test.groups is not None:
        if on_test.get("accelerator") is None:
            collect(classifier, test, Together([second, chosen]), **on_test)
        else:
            chosen = collect(classifier, test, chosen, **on_test)
        effects[1], effects[2] = _associations(chosen, test), _accuracies(chosen, test, upward)
    return {"validation": first, "test": second}, effects


def _associations(chosen: ChosenDecisions, encoded: Encoded) -> Float[Tensor, "layer neuron"]:
    groups = encoded.groups
    assert groups is not None
    return _by_block(chosen, 0, lambda layer, some, above: association_effects(above, encoded.labels, groups))


def _accuracies(
    chosen: ChosenDecisions, encoded: Encoded, upward: Bool[Tensor, "layer neuron"]
) -> Float[Tensor, "layer neuron"]:
    groups, right = encoded.groups, encoded.labels.bool()[:, None]
    assert groups is not None

    def effects(layer: int, some: slice, above: Tensor) -> Tensor:
        # Answers of a neuron that is above for class 1 are its decisions.
        return proportion_effects((above == right) == upward[layer, some], groups)

    return _by_block(chosen, 1, effects)


def _by_block(
    chosen: ChosenDecisions, choice: int, compute: Callable[[int, slice, Tensor], Tensor]
) -> Float[Tensor, "layer neuron"]:
    """For so many neurons at a time that their rows take little memory."""
    _, n_layers, d_mlp = chosen.position.shape
    step = max(8, VALUES_PER_BLOCK // chosen.n_rows // 8 * 8)
    layers = []
    for layer in range(n_layers):
        parts = [slice(start, min(start + step, d_mlp)) for start in range(0, d_mlp, step)]
        layers.append(
            torch.cat([compute(layer, one, chosen.unpack(layer, choice, one.start, one.stop)) for one in parts])
        )
    return torch.stack(layers)
