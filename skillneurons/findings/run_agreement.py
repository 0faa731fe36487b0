"""How far rankings of all neurons agree: rank correlation and shared top sets, beside chance and other rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import task_predictivity
from skillneurons.findings.stability import validation_decisions
from skillneurons.neurons.agreement import correlation_interval, overlap_test, rank_correlations, share_interval
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.redrawn import redrawn
from skillneurons.neurons.scores import NeuronScores, union_of_top
from skillneurons.tasks.task import Task
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json


@dataclass(frozen=True, eq=False, repr=False)
class RunComparison(Result):
    """How far every two runs agree; scope 0 is all neurons, the others are the layers.

    Args:
        runs: Names of the runs.
        tasks: Of each.
        predictivity: Of each run; the mean over subtasks where its task has several classes.
        chosen: Each run's top set.
        correlation: Rank correlation of two runs' predictivities.
        correlation_ends: Its interval over rows.
        correlation_null: The same with labels shuffled.
        overlap: Share of the smaller top set that the other one has too.
        overlap_ends: Its interval over rows.
        overlap_null: The same with labels shuffled.
        overlap_expected: Of random sets of these sizes.
        meta: `fraction`, `per_layer`, `n_draws`, `seed`, `model`.

    Example:
        See `compare_runs`, which makes it.
    """

    runs: tuple[str, ...]
    tasks: tuple[str, ...]
    predictivity: Float[Tensor, "run layer neuron"]
    chosen: Bool[Tensor, "run layer neuron"]
    correlation: Float[Tensor, "pair scope"]
    correlation_ends: Float[Tensor, "pair scope 2"]
    correlation_null: Float[Tensor, "pair scope draw"]
    overlap: Float[Tensor, "pair scope"]
    overlap_ends: Float[Tensor, "pair scope 2"]
    overlap_null: Float[Tensor, "pair scope draw"]
    overlap_expected: Float[Tensor, "pair scope"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_run_comparison")

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The runs of each pair."""
        return list(combinations(range(len(self.runs)), 2))

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each pair and scope: what they share, its interval, and what it is with shuffled labels.

        `…_null_95` is what the shuffles stay at or below in 95 of 100 cases, and `…_p` the share of labellings, the
        true one included, under which runs agree as well.
        """
        rows = []
        for i, (one, other) in enumerate(self.pairs):
            for scope in range(self.correlation.shape[1]):
                layer = scope - 1 if scope else "all"
                row: dict[str, Json] = {"run": self.runs[one], "other_run": self.runs[other], "layer": layer}
                for name in ("correlation", "overlap"):
                    value, null = getattr(self, name)[i, scope], getattr(self, f"{name}_null")[i, scope]
                    row[name] = value.item()
                    row[f"{name}_low"], row[f"{name}_high"] = getattr(self, f"{name}_ends")[i, scope].tolist()
                    row[f"{name}_null"], row[f"{name}_null_95"] = null.mean().item(), null.quantile(0.95).item()
                    row[f"{name}_p"] = (1 + int((null >= value).sum())) / (1 + len(null))
                rows.append(row | {"overlap_expected": self.overlap_expected[i, scope].item()})
        return pd.DataFrame(rows)

    def _table(self) -> pd.DataFrame:
        table = self.to_dataframe()
        whole = table.loc[table["layer"] == "all", list(table.columns.drop("layer"))]
        return whole.reset_index(drop=True)

    def in_short(self) -> pd.DataFrame:
        """The table as text that fits a terminal: values with intervals, and what shuffled labels stay below."""
        table = self.to_dataframe()
        columns: dict[str, Json] = {"runs": table["run"] + " / " + table["other_run"], "layer": table["layer"]}
        for name in ("correlation", "overlap"):
            ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            columns[name] = [f"{value:.3f} ({low:.3f}–{high:.3f})" for value, low, high in ends]
            columns["shuffled" if name == "correlation" else "shuffled "] = table[f"{name}_null_95"].map(
                "{:.3f}".format
            )
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return f"RunComparison({', '.join(self.runs)}, top {self.meta['fraction']})\n{as_text(self.in_short())}"


@dataclass(frozen=True, eq=False)
class Ranked:
    """A run's ranking of all neurons and its top set: as found, with labels shuffled, with rows resampled."""

    value: Float[Tensor, "layer neuron"]
    chosen: NeuronSet
    shuffled: tuple[Float[Tensor, "draw layer neuron"], Bool[Tensor, "draw layer neuron"]]
    resampled: tuple[Float[Tensor, "draw layer neuron"], Bool[Tensor, "draw layer neuron"]]


def ranked(
    classifiers: Sequence[Classifier],
    task: Task,
    scores: Sequence[NeuronScores],
    fraction: float,
    *,
    n_draws: int = 199,
    seed: int = 0,
) -> Ranked:
    """A ranking of all neurons with its top set, and both again with labels shuffled and with rows resampled.

    Args:
        classifiers: One for each seed of the scores, in that order.
        task: What was scored.
        scores: Of each binary subtask.
        fraction: Share of each layer's neurons in the top set.
        n_draws: Shuffles, and resamples.
        seed: Of the draws.
    """
    parts = []
    for of_subtask, subtask in zip(scores, task.subtasks(), strict=True):
        decisions = validation_decisions(classifiers, subtask, of_subtask)
        balanced = of_subtask.measure == "balanced_accuracy"
        parts.append(redrawn(decisions, n_draws=n_draws, seed=seed, balanced=balanced))
    both = []
    for kind in ("shuffled", "resampled"):
        values = [getattr(part, kind) for part in parts]
        chosen = [torch.stack([_top(one, fraction / len(parts)) for one in value]) for value in values]
        both.append((torch.stack(values).mean(0), torch.stack(chosen).any(0)))
    return Ranked(task_predictivity(scores), union_of_top(scores, fraction), *both)


def compared(
    names: Sequence[str], tasks: Sequence[str], found: Sequence[Ranked], meta: Mapping[str, Json]
) -> RunComparison:
    """Every two of several rankings of one model's neurons.

    Args:
        names: Of the rankings.
        tasks: Likewise.
        found: Two or more.
        meta: Settings; `fraction` at least.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.findings.run_agreement import compared, ranked
        >>> examples = {name: load_example(name) for name in ("movies", "restaurants")}
        >>> found = [
        ...     ranked([classifier], task, [find_skill_neurons(classifier, task)], 0.05, n_draws=9)
        ...     for classifier, task in examples.values()
        ... ]
        >>> result = compared(list(examples), list(examples), found, {"fraction": 0.05})
        >>> result.to_dataframe()["layer"].tolist()
        ['all', 0, 1, 2, 3]
    """
    pairs = [_agreement(one, other) for one, other in combinations(found, 2)]
    return RunComparison(
        tuple(names),
        tuple(tasks),
        torch.stack([one.value for one in found]),
        torch.stack([one.chosen.mask for one in found]),
        **{key: torch.stack([pair[key] for pair in pairs]) for key in pairs[0]},
        meta=dict(meta),
    )


def _top(value: Float[Tensor, "layer neuron"], fraction: float) -> Bool[Tensor, "layer neuron"]:
    return top_neurons(value, fraction).mask


def _agreement(one: Ranked, other: Ranked) -> dict[str, Tensor]:
    """Of two runs, the fields of `RunComparison` for all neurons and for each layer."""
    columns: dict[str, list[Json]] = {}
    n_layers = len(one.value)
    for which in (slice(None), *(slice(layer, layer + 1) for layer in range(n_layers))):
        pairs = zip((one.shuffled, one.resampled), (other.shuffled, other.resampled), strict=True)
        (rho_null, share_null), (rho_again, share_again) = (
            (
                rank_correlations(a[0][:, which].flatten(1), b[0][:, which].flatten(1)),
                _overlaps(a[1][:, which].flatten(1), b[1][:, which].flatten(1)),
            )
            for a, b in pairs
        )
        rho = rank_correlations(one.value[which].reshape(1, -1), other.value[which].reshape(1, -1)).item()
        sets = [NeuronSet(each.chosen.mask[which]) for each in (one, other)]
        test = overlap_test(*sets)
        for key, value in {
            "correlation": rho,
            "correlation_ends": correlation_interval(rho, rho_again),
            "correlation_null": rho_null,
            "overlap": test["overlap"],
            "overlap_ends": share_interval(test["overlap"], share_again),
            "overlap_null": share_null,
            "overlap_expected": test["expected"],
        }.items():
            columns.setdefault(key, []).append(torch.as_tensor(value, dtype=torch.float64))
    return {key: torch.stack(values) for key, values in columns.items()}


def _overlaps(a: Bool[Tensor, "draw item"], b: Bool[Tensor, "draw item"]) -> Float[Tensor, " draw"]:
    """Share of the smaller set that the other one has too, in each draw."""
    return (a & b).sum(1).double() / torch.minimum(a.sum(1), b.sum(1))
