"""What predicts whether a prompt transfers: similarity of prompts, and of the neurons they activate.

Su et al. 2022, "On Transferability of Prompt Tuning for Natural Language Processing", propose the indicators; Wang et
al. 2022 restrict the overlap of activated neurons to skill neurons. Costs one pass over one short input for each
prompt; the statistics take tensors only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import factorial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from skillneurons.activations.statistic import stack_layers
from skillneurons.applications.transfer import TransferMatrix, transfer_of, transferred
from skillneurons.classifiers.classifier import Classifier, label_logits
from skillneurons.findings.record import Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import union_of_top
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import AtHook, Hook, Json


def prompt_cosine(first: Float[Tensor, "prompt d_model"], second: Float[Tensor, "other d_model"]) -> float:
    """Mean cosine of all pairs of vectors, one from each prompt. Source: Su et al. 2022, section 6.1."""
    return (F.normalize(first.double(), dim=1) @ F.normalize(second.double(), dim=1).T).mean().item()


def prompt_euclidean(first: Float[Tensor, "prompt d_model"], second: Float[Tensor, "other d_model"]) -> float:
    """`1 / (1 + mean distance of all pairs of vectors)`, in (0, 1]. Source: Su et al. 2022, section 6.1."""
    return 1 / (1 + torch.cdist(first.double(), second.double()).mean().item())


@torch.no_grad()
def activated_neurons(classifier: Classifier, *, positions: str = "mask") -> Bool[Tensor, "prompt layer neuron"]:
    """Which neurons are above 0 where the model sees the prompt and no text.

    Source: Su et al. 2022, section 6.1, who look at the mask, where the answer is read.
    """
    (batch,) = classifier.batches([{"text": "", "label": 0}])
    where = classifier.layout.positions(positions)
    states: list[Tensor] = []

    def observe(layer: int) -> Hook:
        def look(activations: Tensor, hook: AtHook = None) -> None:
            states.append((activations[0, where] > 0).cpu())

        return f"blocks.{layer}.mlp.hook_post", look

    hooks = [*classifier.fwd_hooks, *map(observe, range(classifier.model.cfg.n_layers))]
    with classifier.model.hooks(fwd_hooks=hooks):
        label_logits(classifier, batch, last_block_to=where.stop)
    return stack_layers(states, dim=1)


def activation_overlap(
    first: Bool[Tensor, "prompt layer neuron"],
    second: Bool[Tensor, "prompt layer neuron"],
    within: NeuronSet | None = None,
) -> float:
    """`|A and B| / sqrt(|A| |B|)` of the neurons that two prompts activate, in [0, 1]; NaN where one activates none.

    The cosine of the two states as vectors of zeros and ones, as in Su et al. 2022's code.

    Args:
        first: From `activated_neurons`.
        second: Of the other prompt.
        within: Look at these neurons only, skill neurons for example.

    Example:
        >>> one, two = torch.tensor([[[1, 1, 0, 0]]]).bool(), torch.tensor([[[0, 1, 1, 1]]]).bool()
        >>> round(activation_overlap(one, one), 3), round(activation_overlap(one, two), 3)
        (1.0, 0.408)
    """
    if within is not None:
        first, second = first & within.mask, second & within.mask
    size = (first.sum().item() * second.sum().item()) ** 0.5
    return (first & second).sum().item() / size if size else float("nan")


@checked
def transfer_indicators(
    classifiers: Mapping[str, Sequence[Classifier]], skill: Mapping[str, NeuronSet | Sequence[NeuronSet]]
) -> dict[str, Float[Tensor, "source target seed"]]:
    """Every indicator for every pair of tasks, prompts of the same place in the lists compared with each other.

    `"activated skill neurons"` is the overlap of activated neurons within the union of both tasks' skill neurons;
    `"shared skill neurons"` how many skill neurons the two tasks share, whatever is activated.

    Args:
        classifiers: By task, the same number of seeds for each.
        skill: Skill neurons of each task; one set for each seed, or one for all.

    Raises:
        ValueError: Neurons are missing, or classifiers or sets differ in number or model.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, transfer_indicators
        >>> examples = {name: load_example(name) for name in ("movies", "restaurants")}
        >>> classifiers = {name: [classifier] for name, (classifier, _) in examples.items()}
        >>> scores = {name: find_skill_neurons(*pair) for name, pair in examples.items()}
        >>> skill = {name: one.top(0.1) for name, one in scores.items()}
        >>> indicators = transfer_indicators(classifiers, skill)
        >>> list(indicators)
        ['cosine', 'Euclidean', 'activated neurons', 'activated skill neurons', 'shared skill neurons']
        >>> indicators["cosine"].shape
        torch.Size([2, 2, 1])
    """
    names = list(classifiers)
    if missing := [name for name in names if name not in skill]:
        raise ValueError(f"`skill` has no neurons of {missing[0]!r}; it has {sorted(skill)}.")
    n_seeds = {len(group) for group in classifiers.values()}
    if len(n_seeds) != 1:
        raise ValueError(f"Each task needs as many classifiers, but their numbers are {sorted(n_seeds)}.")
    (n,) = n_seeds
    if len(prints := {c.fingerprint for group in classifiers.values() for c in group}) > 1:
        raise ValueError(f"Prompts of one model are compared, but the classifiers have {sorted(prints)}.")
    for name in names:
        if not isinstance(skill[name], NeuronSet) and len(skill[name]) != n:
            raise ValueError(
                f"`skill` needs one set, or one for each of {n} seeds, but has {len(skill[name])} of {name!r}."
            )
    active = {name: [activated_neurons(classifier) for classifier in classifiers[name]] for name in names}
    kinds = ("cosine", "Euclidean", "activated neurons", "activated skill neurons", "shared skill neurons")
    values = {kind: torch.empty(len(names), len(names), n, dtype=torch.float64) for kind in kinds}
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            for k in range(n):
                one, two = (classifiers[name][k].prompt.vectors.cpu() for name in (source, target))
                own, other = (_of_seed(skill[name], k) for name in (source, target))
                pair = active[source][k], active[target][k]
                values["cosine"][i, j, k] = prompt_cosine(one, two)
                values["Euclidean"][i, j, k] = prompt_euclidean(one, two)
                values["activated neurons"][i, j, k] = activation_overlap(*pair)
                values["activated skill neurons"][i, j, k] = activation_overlap(*pair, own | other)
                values["shared skill neurons"][i, j, k] = own.overlap(other)
    return values


def _of_seed(sets: NeuronSet | Sequence[NeuronSet], seed_index: int) -> NeuronSet:
    return sets if isinstance(sets, NeuronSet) else sets[seed_index]


# Do they predict transfer?


@dataclass(frozen=True, eq=False, repr=False)
class IndicatorTest(Result):
    """Rank correlation of each indicator with transfer, over ordered pairs of different tasks.

    Args:
        tasks: Names.
        indicators: Names.
        correlation: Spearman's, of means over seeds.
        interval: 95 % percentile interval of a bootstrap over tasks and seeds: `[indicator 2]`.
        p_value: Two-sided, from permuting tasks.
        values: Means over seeds: `[indicator source target]`.
        transfer: Mean over seeds; NaN where a pair does not transfer.
        meta: Numbers of pairs, seeds and draws.

    Example:
        See `indicator_test`, which makes it.
    """

    tasks: tuple[str, ...]
    indicators: tuple[str, ...]
    correlation: Float[Tensor, " indicator"]
    interval: Float[Tensor, "indicator 2"]
    p_value: Float[Tensor, " indicator"]
    values: Float[Tensor, "indicator source target"]
    transfer: Float[Tensor, "source target"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_indicators")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each indicator."""
        columns = {"indicator": self.indicators, "correlation": self.correlation.numpy()}
        columns |= {"low": self.interval[:, 0].numpy(), "high": self.interval[:, 1].numpy()}
        return pd.DataFrame(columns | {"p_value": self.p_value.numpy(), "n_pairs": self.meta["n_pairs"]})

    def __repr__(self) -> str:
        return f"IndicatorTest({len(self.tasks)} tasks, {self.meta['n_seeds']} seeds)\n{as_text(self.to_dataframe())}"


@checked
def indicator_test(
    transfer: TransferMatrix,
    indicators: Mapping[str, Float[Tensor, "source target seed"]],
    *,
    relative: bool = True,
    n_bootstrap: int = 2000,
    n_permutations: int = 5000,
    seed: int = 0,
) -> IndicatorTest:
    """Spearman correlation of each indicator with transfer, with a bootstrap interval and a permutation test.

    Pairs of tasks are not independent: each task is in many. So tasks and seeds are drawn as wholes for the interval
    (pairs of a task with its own copy are left out), and whole tasks are permuted in the indicator for the p-value
    (Mantel's test; all orders where `n_permutations` allows). With five tasks the interval is wide, and should be.

    Args:
        transfer: Pairs that it holds NaN for are left out.
        indicators: From `transfer_indicators`, or your own; tasks in the order of `transfer`.
        relative: Correlate with accuracy relative to the target's own prompt, or with plain accuracy.
        n_bootstrap: Draws for the interval.
        n_permutations: Draws for the p-value, at most.
        seed: Of both.

    Raises:
        ValueError: An indicator has another shape or is not finite for some pair of different tasks (permutations may
            need any), or fewer than three pairs transfer.

    Example:
        >>> from skillneurons import indicator_test, load_example, transfer_matrix
        >>> names = ("movies", "restaurants", "products")
        >>> examples = [load_example(name) for name in names]
        >>> classifiers = {task.name: [classifier] for classifier, task in examples}
        >>> matrix = transfer_matrix(classifiers, [task for _, task in examples])
        >>> at_home = matrix.accuracy.diagonal(dim1=0, dim2=1).T[:, None].expand(3, 3, 1)
        >>> test = indicator_test(matrix, {"source at home": at_home}, n_bootstrap=100)
        >>> test.to_dataframe()[["indicator", "n_pairs"]]
                indicator  n_pairs
        0  source at home        4
    """
    measured = (transfer.relative if relative else transfer.accuracy).numpy()
    values = np.stack([indicator.numpy() for indicator in indicators.values()])
    if values.shape[1:] != measured.shape:
        raise ValueError(f"Indicators need the shape {measured.shape} of `transfer`, but have {values.shape[1:]}.")
    n_tasks, n_seeds = measured.shape[1:]
    pairs = ~np.isnan(measured).any(axis=2) & ~np.eye(n_tasks, dtype=bool)
    if pairs.sum() < 3:
        raise ValueError(f"A correlation needs three pairs of tasks that transfer, but there are {pairs.sum()}.")
    others = ~np.eye(n_tasks, dtype=bool)
    if bad := [name for name, own in zip(indicators, values, strict=True) if not np.isfinite(own[others]).all()]:
        raise ValueError(f"Indicator {bad[0]!r} is NaN for some pair of tasks. Choose larger sets of neurons.")

    rng = np.random.default_rng(seed)
    mean, target = values.mean(axis=3), measured.mean(axis=2)
    observed = rank_correlation(mean[:, pairs], target[pairs])
    interval, n_used = _bootstrap(values, measured, pairs, n_bootstrap, rng)
    null, exact = _permuted(mean, target, pairs, n_permutations, rng)
    # Sums of ranks are compared with a margin for rounding; drawn orders count the observed one as one more.
    extreme = (np.abs(null) >= np.abs(observed) - 1e-9).sum(axis=0)
    p_value = extreme / len(null) if exact else (extreme + 1) / (len(null) + 1)
    meta = {
        "n_pairs": int(pairs.sum()),
        "n_seeds": n_seeds,
        "n_bootstrap": n_used,
        "n_permutations": len(null),
        "exact": exact,
        "relative": relative,
        "seed": seed,
    }
    return IndicatorTest(
        transfer.tasks,
        tuple(indicators),
        torch.tensor(observed),
        torch.tensor(interval),
        torch.tensor(np.where(np.isnan(observed), np.nan, p_value)),
        torch.tensor(mean),
        torch.tensor(target),
        meta,
    )


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of `x` with `y`; NaN where one of them is constant."""
    x, y = rankdata(x, axis=-1), rankdata(y)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean()
    size = np.sqrt((x**2).sum(axis=-1) * (y**2).sum())
    return np.divide(x @ y, size, out=np.full(size.shape, np.nan), where=size > 0)


def _bootstrap(
    values: np.ndarray, measured: np.ndarray, pairs: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Percentile interval, and the number of draws that held three pairs and were not constant."""
    n_tasks, n_seeds = measured.shape[1:]
    draws = []
    for _ in range(n):
        tasks, seeds = rng.integers(n_tasks, size=n_tasks), rng.integers(n_seeds, size=n_seeds)
        at = np.ix_(tasks, tasks)
        # The diagonal of `pairs` is False, so a task is never paired with a copy of itself.
        kept = pairs[at]
        if kept.sum() >= 3:
            x = values[:, tasks][:, :, tasks][..., seeds].mean(axis=3)[:, kept]
            draws.append(rank_correlation(x, measured[at][..., seeds].mean(axis=2)[kept]))
    table = np.array(draws).reshape(-1, len(values))
    used = ~np.isnan(table).all(axis=1)
    columns = [column[~np.isnan(column)] for column in table.T]
    low_high = [np.percentile(column, [2.5, 97.5]) if len(column) else (np.nan, np.nan) for column in columns]
    return np.array(low_high), int(used.sum())


def _permuted(
    mean: np.ndarray, target: np.ndarray, pairs: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """The correlations under orders of the tasks in the indicators: all orders, or `n` drawn ones."""
    n_tasks = len(target)
    exact = factorial(n_tasks) <= n
    orders = permutations(range(n_tasks)) if exact else (rng.permutation(n_tasks) for _ in range(n))
    null = [rank_correlation(mean[:, order][:, :, order][:, pairs], target[pairs]) for order in map(list, orders)]
    return np.array(null), exact


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    pairs = [(a, b) for a, b in permutations(studies, 2) if transferred(a.classifiers[0], b.task) is not None]
    if len(pairs) < 3:  # too few for a correlation
        return []
    skill = {one.task.name: union_of_top(one.scores, settings.fraction) for one in studies}
    indicators = transfer_indicators({one.task.name: one.classifiers for one in studies}, skill)
    return [Measured(indicator_test(transfer_of(studies, settings), indicators))]


def _claims(records: Sequence[Record]) -> Claims:
    for one in records:
        # With few tasks the bootstrap's interval is far too narrow; the permutation test knows how few there are.
        claim = f"{one['indicator']} goes with transfer ({one['n_pairs']} pairs, permutation p {one['p_value']:.2g})"
        yield "all", claim, (one["correlation"], one["low"], one["high"]), one["p_value"]


register(Finding("F9-indicators", _measure, _claims, order=9.5, min_tasks=2))
