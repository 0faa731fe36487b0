"""F2, stability: do different prompts single out the same neurons? Scores only; no model is run.

Source: Wang et al. 2022. Agreement of the top sets is set against chance (hypergeometric,
`common.overlap_test`). Neurons are not independent of each other, so rank correlations come without p-values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.findings.common import by_task
from skillneurons.findings.record import Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.neurons.neuron_set import top_neurons
from skillneurons.neurons.scores import NeuronScores
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Result):
    """Agreement between seeds.

    Args:
        seeds: Their names.
        correlation: Spearman correlation of predictivities over all neurons.
        layer_correlation: The same within each layer.
        overlap: Share of two seeds' top sets that is shared.
        expected_overlap: Share that random sets of these sizes have in common.
        p: Chance that random sets share as many.
        meta: Task and fraction.

    Example:
        See `stability`, which makes it.
    """

    seeds: tuple[int, ...]
    correlation: Float[Tensor, "seed other_seed"]
    layer_correlation: Float[Tensor, "layer seed other_seed"]
    overlap: Float[Tensor, "seed other_seed"]
    expected_overlap: Float[Tensor, "seed other_seed"]
    p: Float[Tensor, "seed other_seed"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_stability")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each pair of seeds."""
        rows = []
        for i, j in _pairs(len(self.seeds)):
            row = {"seed": self.seeds[i], "other_seed": self.seeds[j]}
            for name in ("correlation", "overlap", "expected_overlap", "p"):
                row[name] = getattr(self, name)[i, j].item()
            rows.append(row)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Stability({self.meta.get('task')}, top {self.meta.get('fraction')})\n{as_text(self.to_dataframe())}"


@checked
def stability(scores: NeuronScores, fraction: float = 0.01, *, per_layer: bool = True) -> Stability:
    """Rank correlation and overlap of top neurons between every two seeds.

    Args:
        scores: Of two seeds or more.
        fraction: Share of neurons in a top set.
        per_layer: Of each layer, or of the whole model.

    Raises:
        ValueError: There are fewer than two seeds, or all neurons score the same under one.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> (first, task), (second, _) = load_example(seed=0), load_example(seed=1)
        >>> result = findings.stability(find_skill_neurons([first, second], task))
        >>> list(result.to_dataframe())
        ['seed', 'other_seed', 'correlation', 'overlap', 'expected_overlap', 'p']
        >>> bool(result.correlation[0, 1] > 0)
        True
    """
    by_seed, n = scores.predictivity_by_seed.double(), len(scores.seeds)
    if n < 2:
        raise ValueError(f"Stability compares seeds, but `scores` has {n}. Score classifiers of two seeds or more.")
    if constant := [seed for seed, one in zip(scores.seeds, by_seed, strict=True) if len(one.unique()) == 1]:
        raise ValueError(
            f"Ranks need predictivities that differ between neurons, but under seed {constant[0]} all are the same. "
            "Leave this seed out, or score more rows."
        )
    sets = [top_neurons(one, fraction, per_layer=per_layer) for one in by_seed]
    correlation, overlap, expected = torch.eye(n).double(), torch.eye(n).double(), torch.eye(n).double()
    p = torch.full((n, n), float("nan")).double()
    by_layer = torch.eye(n).double().repeat(by_seed.shape[1], 1, 1)
    for i, j in _pairs(n):
        test = overlap_test(sets[i], sets[j])
        for a, b in ((i, j), (j, i)):
            correlation[a, b] = spearman(by_seed[i].flatten(), by_seed[j].flatten())
            overlap[a, b], expected[a, b], p[a, b] = test["overlap"], test["expected"], test["p"]
            for layer in range(by_seed.shape[1]):
                by_layer[layer, a, b] = spearman(by_seed[i, layer], by_seed[j, layer])
    meta = {"task": scores.meta.get("task"), "fraction": fraction, "per_layer": per_layer}
    return Stability(tuple(scores.seeds), correlation, by_layer, overlap, expected, p, meta)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [
        Measured(stability(scores, settings.fraction), scores.meta["task"]) for one in studies for scores in one.scores
    ]


def _claims(records: Sequence[Record]) -> Claims:
    for task, pairs in by_task(records).items():
        extra = [one["overlap"] - one["expected_overlap"] for one in pairs]
        # No interval over rows: the range over pairs of seeds.
        interval = sum(extra) / len(extra), min(extra), max(extra)
        claim = "seeds share more top neurons than by chance (range of pairs, largest p)"
        yield task, claim, interval, max(one["p"] for one in pairs)


register(Finding("F2-stability", _measure, _claims, order=2, min_seeds=2))
