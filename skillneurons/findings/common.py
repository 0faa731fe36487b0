"""What several findings need: rank correlation, overlap against chance, paired gaps, and checks of their input."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from skillneurons.bridge import as_encoder
from skillneurons.classifier import Classifier
from skillneurons.encoder import HookedEncoder
from skillneurons.evaluation import clopper_pearson
from skillneurons.neurons import NeuronSet
from skillneurons.scores import NeuronScores
from skillneurons.tasks import Task

ScoresOfTask: TypeAlias = NeuronScores | Sequence[NeuronScores]
"""Scores of a binary task, or of each subtask of a task of several classes."""


def as_list(scores: ScoresOfTask) -> list[NeuronScores]:
    """The scores of each subtask; a binary task is its own only one."""
    return [scores] if isinstance(scores, NeuronScores) else list(scores)


def task_predictivity(scores: ScoresOfTask) -> Float[Tensor, "layer neuron"]:
    """Predictivity of a task; the mean over its subtasks where it has several classes."""
    return torch.stack([one.predictivity.double() for one in as_list(scores)]).mean(dim=0)


def check_same_model(scores: Sequence[NeuronScores], model: str | None = None) -> None:
    """Raise unless all scores are of one model (the one with fingerprint `model`, if given) and one shape."""
    if not scores:
        raise ValueError("`scores` is empty; pass what `find_skill_neurons` returns.")
    for one in scores:
        expected = (model or scores[0].meta["model"], tuple(scores[0].predictivity.shape))
        came = (one.meta["model"], tuple(one.predictivity.shape))
        if came != expected:
            raise ValueError(
                f"Scores must be of one model, {expected[0]} with layers and neurons {expected[1]}, but those of "
                f"{one.meta.get('task')!r} are of {came[0]} with {came[1]}. Score every task on the same model."
            )


def check_scored(scores: NeuronScores, task: Task, classifiers: Sequence[Classifier]) -> None:
    """Raise unless the scores are of these classifiers on the task's rows: so numbers side by side belong together."""
    if not classifiers:
        raise ValueError("`classifiers` is empty; pass those that were scored.")
    check_same_model([scores], classifiers[0].prompt.model)
    seeds = [classifier.prompt.seed for classifier in classifiers]
    if seeds != list(scores.seeds):
        raise ValueError(f"`classifiers` have seeds {seeds}, but `scores` {scores.seeds}. Pass those that were scored.")
    check_same_rows(scores, task)


def check_same_rows(scores: NeuronScores, task: Task) -> None:
    """Raise unless the scores are of the task's rows."""
    if scores.meta["task_fingerprint"] != task.fingerprint:
        raise ValueError(
            f"`scores` are of {scores.meta['task']!r}, but not of these rows of {task.name!r}. Pass the task that was "
            "scored, or score this one."
        )


def check_task(scores: ScoresOfTask, task: Task) -> None:
    """Raise unless the scores are the task's or its subtasks', by name: a smaller cut of the rows is the same task."""
    for one in as_list(scores):
        if one.meta["task"] != task.name and not one.meta["task"].startswith(f"{task.name}:"):
            raise ValueError(
                f"Scores of {task.name!r} or of its subtasks are needed, but came for {one.meta['task']!r}."
            )


def check_binary(classifiers: Sequence[Classifier], task: Task) -> None:
    """Raise unless the task and every classifier have the same two classes, so that accuracies mean the same."""
    for classifier in classifiers:
        if task.n_labels != 2 or tuple(classifier.labels) != tuple(task.labels):
            raise ValueError(
                f"A task of two classes and classifiers tuned on it are needed, but {task.name!r} has the classes "
                f"{tuple(task.labels)} and a classifier answers {tuple(classifier.labels)}. Of several classes, tune "
                "on a binary view (`task.binary(first, second)`, `task.one_vs_rest(label)`) and pass that, or take the "
                "union over subtasks: `several_classes`."
            )


def held_out_interval(accuracy: float, n: int) -> tuple[float, float]:
    """95 % interval of one neuron's held-out accuracy over the choice of the `n` test rows (Clopper-Pearson).

    For a mean over seeds too, where it is conservative: each row then gives a share between 0 and 1, which varies no
    more than a hit or a miss with the same mean. That seeds differ, and that the neuron was chosen, is not in it.

    Example:
        >>> held_out_interval(0.75, 100)
        (0.653..., 0.831...)
    """
    return clopper_pearson(round(accuracy * n), n)


def encoder_of(classifier: Classifier) -> HookedEncoder:
    """The classifier's model, where a finding needs to read or replace its weights.

    Raises:
        TypeError: The model is a bridge to another library's.
    """
    return as_encoder(classifier.model, "This finding, which reads or replaces weights,")


def spearman(a: Float[Tensor, " item"], b: Float[Tensor, " item"]) -> float:
    """Rank correlation (scipy); NaN where one side is constant.

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0]))
        1.0
    """
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return float("nan")
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)  # type: ignore[attr-defined]


def overlap_test(a: NeuronSet, b: NeuronSet) -> dict[str, Any]:
    """Neurons that two sets share, against chance.

    Under the null, each set is a random choice with the same number of neurons in each layer, independent of the other:
    the shared number is then a sum of one hypergeometric count for each layer, whose distribution is computed exactly.

    Returns:
        `n_shared`, `overlap` (share of the smaller set), `expected` (the overlap of random sets), and `p`, the chance
        that random sets share as many or more.

    Example:
        >>> one = NeuronSet.from_pairs([(0, 0), (0, 1)], n_layers=1, d_mlp=4)
        >>> overlap_test(one, one)["p"]
        0.166...
    """
    n_shared, smaller = len(a & b), min(len(a), len(b))
    if not smaller:
        raise ValueError(f"Both sets need neurons, but they have {len(a)} and {len(b)}. Choose a larger `fraction`.")
    distribution = np.ones(1)
    for width, k, m in zip(a.d_mlps, a.per_layer.tolist(), b.per_layer.tolist(), strict=True):
        distribution = np.convolve(distribution, stats.hypergeom.pmf(np.arange(min(k, m) + 1), width, k, m))
    expected = float((np.arange(len(distribution)) * distribution).sum())
    return {
        "n_shared": n_shared,
        "overlap": n_shared / smaller,
        "expected": expected / smaller,
        "p": float(min(1.0, distribution[n_shared:].sum())),
    }


def spread(chosen: NeuronSet, exclude: NeuronSet | None = None) -> float:
    """How many times more a random set varies, around the mean of draws disjoint from it, than those draws vary.

    Draws from what a set leaves share a smaller pool, and are more alike than sets drawn from all neurons: with effects
    that add up over neurons, k of a layer chosen and m free to draw from, the variances have the ratio
    `(m + k) / (m - k)`: 1.04 for 2 % of a layer, 2.5 for 30 %.

    Args:
        chosen: The set that the draws are disjoint from.
        exclude: Further neurons that are not drawn.

    Raises:
        ValueError: As many neurons are free as are drawn, so that all draws are the same.

    Example:
        >>> spread(NeuronSet.from_pairs([(0, 0), (0, 1)], n_layers=1, d_mlp=10))
        1.66...
    """
    taken = chosen if exclude is None else chosen | exclude
    k, m = chosen.per_layer.double(), chosen.exists.sum(dim=1).double() - taken.per_layer
    ours, draws = (k * (m + k) / m).nansum().item(), (k * (m - k) / m).nansum().item()
    if draws <= 0:
        raise ValueError("Random sets need more free neurons than they take. Perturb less than half of a layer.")
    return ours / draws


def paired_gap(
    one: Float[Tensor, " batch"], many: Float[Tensor, "draw batch"], spread: float = 1.0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of `one` minus mean of `many`, with an interval that pays for rows and for the luck of one random set.

    The interval excludes 0 where the chosen neurons do what a random set in their place would seldom do: with more
    rows it does not shrink below what random sets differ by. `d_i = one_i - mean_r many_ri` has the variance
    `Var_i(d_i) / n + Var_r(mean_i many_ri) (spread + 1 / R)`, and the interval is Student's t with Welch and
    Satterthwaite's degrees of freedom. It is a normal approximation: with accuracies, expect it to be rough where fewer
    than about ten rows change; where none does, it has no width and says nothing about changes rarer than three in n
    rows.

    Args:
        one: Value of each row under the intervention that is studied: right or not, or a margin.
        many: The same for each random draw.
        spread: Of the chosen set, see `spread`; 1 for draws from all neurons.
        level: Of the interval.

    Returns:
        Gap, lower end, upper end.

    Raises:
        ValueError: There are fewer than two rows or draws.

    Example:
        >>> paired_gap(torch.tensor([0.0, 1.0, 0.0]), torch.ones(5, 3))[0]
        -0.66...
    """
    wide = many.double()
    n, n_draws = len(one), len(wide)
    if min(n, n_draws) < 2:
        raise ValueError(f"An interval needs two rows and two draws or more, but there are {n} and {n_draws}.")
    difference = one.double() - wide.mean(dim=0)
    rows = difference.var().item() / n
    draws = wide.mean(dim=1).var().item() * (spread + 1 / n_draws)
    gap, total = difference.mean().item(), rows + draws
    if not total:
        return gap, gap, gap
    freedom = total**2 / (rows**2 / (n - 1) + draws**2 / (n_draws - 1))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * total**0.5
    return gap, gap - half, gap + half
