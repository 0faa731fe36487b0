"""F2, stability: do different prompts single out the same neurons, more than under shuffled labels?

Source: Wang et al. 2022. Two prompts of one model see the same rows through the same neurons, so their top sets agree
more than independent random sets do even where labels mean nothing: chance is the same pair of prompts under shuffled
labels, which needs each prompt's `Decisions`. From scores alone it is independent random sets (hypergeometric), which
are exceeded too often.

Cost of the shuffled labels: that of `permutation_test`, and one sort of all neurons for each prompt and shuffle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import Decisions
from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import by_task, check_scored
from skillneurons.findings.record import Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.neurons._permutation_test import shuffled_scores
from skillneurons.neurons.agreement import overlap_test, rank_correlations, spearman
from skillneurons.neurons.neuron_set import top_neurons
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json

RANDOM = "random sets"
COLUMNS = ("correlation", "expected_correlation", "overlap", "expected_overlap", "random_overlap", "p")


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Result):
    """Agreement between seeds.

    Args:
        seeds: Their names.
        correlation: Spearman correlation of predictivities over all neurons.
        layer_correlation: The same within each layer.
        overlap: Share of two seeds' top sets that is shared.
        expected_overlap: Share that chance has in common: the mean over shuffled labels or, without decisions, over
            independent random sets of these sizes.
        p: How often chance shares as many.
        meta: Task, fraction, `chance` ("shuffled labels" or "random sets").
        random_overlap: Share that independent random sets have in common.
        expected_correlation: Mean correlation under shuffled labels; NaN without decisions.

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
    random_overlap: Float[Tensor, "seed other_seed"] | None = None
    expected_correlation: Float[Tensor, "seed other_seed"] | None = None

    plot = drawn_by("plot_stability")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each pair of seeds."""
        rows = []
        for i, j in _pairs(len(self.seeds)):
            row = {"seed": self.seeds[i], "other_seed": self.seeds[j]}
            for name in COLUMNS:
                if (values := getattr(self, name)) is not None:
                    row[name] = values[i, j].item()
            rows.append(row | {"chance": self.meta.get("chance", RANDOM)})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        chance = self.meta.get("chance", RANDOM)
        title = f"Stability({self.meta.get('task')}, top {self.meta.get('fraction')}, by chance: {chance})"
        return f"{title}\n{as_text(self.to_dataframe())}"


@checked
def stability(
    scores: NeuronScores,
    fraction: float = 0.01,
    *,
    per_layer: bool = True,
    decisions: Sequence[Decisions] | None = None,
    n_shuffles: int = 199,
    seed: int = 0,
) -> Stability:
    """Rank correlation and overlap of top neurons between every two seeds, by the scores' own measure.

    Args:
        scores: Of two seeds or more.
        fraction: Share of neurons in a top set.
        per_layer: Of each layer, or of the whole model.
        decisions: On the validation rows, one for each seed in order; see `validation_decisions`. With them chance is
            the same prompts under shuffled labels (the signs of whole groups, where rows belong together), and without
            them independent random sets, whose `p` is too small: at .05, one pair in seven passes without any signal.
        n_shuffles: Of the labels.
        seed: Of the shuffles.

    Raises:
        ValueError: There are fewer than two seeds, all neurons score the same under one, or the decisions are not those
            that were scored.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> (first, task), (second, _) = load_example(seed=0), load_example(seed=1)
        >>> scores = find_skill_neurons([first, second], task)
        >>> decisions = findings.validation_decisions([first, second], task, scores)
        >>> result = findings.stability(scores, 0.05, decisions=decisions)
        >>> list(result.to_dataframe())
        ['seed', 'other_seed', 'correlation', 'expected_correlation', 'overlap', 'expected_overlap',
         'random_overlap', 'p', 'chance']
        >>> bool(result.random_overlap[0, 1] < result.expected_overlap[0, 1])
        True
    """
    by_seed, n = scores.ranking_by_seed.double(), len(scores.seeds)
    if n < 2:
        raise ValueError(f"Stability compares seeds, but `scores` has {n}. Score classifiers of two seeds or more.")
    if constant := [name for name, one in zip(scores.seeds, by_seed, strict=True) if len(one.unique()) == 1]:
        raise ValueError(
            f"Ranks need predictivities that differ between neurons, but under seed {constant[0]} all are the same. "
            "Leave this seed out, or score more rows."
        )
    shuffled = None if decisions is None else _shuffled(scores, decisions, n_shuffles, seed)
    sets = [top_neurons(one, fraction, per_layer=per_layer) for one in by_seed]
    tables = {name: torch.eye(n).double() for name in COLUMNS}
    tables["p"] = torch.full((n, n), float("nan")).double()
    by_layer = torch.eye(n).double().repeat(by_seed.shape[1], 1, 1)
    for i, j in _pairs(n):
        test = overlap_test(sets[i], sets[j])
        pair = {name: test[name] for name in ("overlap", "p")} | {"random_overlap": test["expected"]}
        pair |= {"expected_overlap": test["expected"], "expected_correlation": float("nan")}
        pair["correlation"] = spearman(by_seed[i].flatten(), by_seed[j].flatten())
        if shuffled is not None:
            pair |= _by_chance(shuffled[i], shuffled[j], fraction, per_layer)
        for a, b in ((i, j), (j, i)):
            for name, value in pair.items():
                tables[name][a, b] = value
            for layer in range(by_seed.shape[1]):
                by_layer[layer, a, b] = spearman(by_seed[i, layer], by_seed[j, layer])
    meta = {"task": scores.meta.get("task"), "fraction": fraction, "per_layer": per_layer}
    meta["chance"] = RANDOM if decisions is None else "shuffled labels"
    if decisions is not None:
        meta |= {"n_shuffles": n_shuffles, "seed": seed}
    return Stability(seeds=tuple(scores.seeds), layer_correlation=by_layer, meta=meta, **tables)


def validation_decisions(classifiers: Sequence[Classifier], task: Task, scores: NeuronScores) -> list[Decisions]:
    """Every decision on the validation rows of the classifiers that were scored: what shuffled labels are set against.

    One pass over validation for each; memory: rows x positions x neurons / 8 bytes for each.

    Args:
        classifiers: Those of `scores`, in that order.
        task: That was scored.
        scores: With the baselines.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> [one.n for one in findings.validation_decisions([classifier], task, scores)]
        [32]
    """
    check_scored(scores, task, classifiers)
    encoded = classifiers[0].encode(task.validation)
    return [
        collect(one, encoded, Decisions(baseline, len(encoded)), positions=scores.meta["positions"])
        for one, baseline in zip(classifiers, scores.baseline, strict=True)
    ]


def _shuffled(
    scores: NeuronScores, decisions: Sequence[Decisions], n_shuffles: int, seed: int
) -> Float[Tensor, "seed permutation layer neuron"]:
    """Of each prompt, the scores with the true labels first, which must be those of `scores`."""
    check_whole("n_shuffles", n_shuffles, low=19)
    result = shuffled_scores(decisions, n_permutations=n_shuffles, seed=seed, measure=scores.measure)
    true = scores.ranking_by_seed.float()
    if result[:, 0].shape != true.shape or not torch.allclose(result[:, 0], true, atol=1e-6):
        raise ValueError(
            f"`decisions` need to be of the {len(scores.seeds)} prompts and the validation rows that were scored, but "
            f"the {len(decisions)} that came give other scores. Take them from `validation_decisions`."
        )
    return result


def _by_chance(
    one: Float[Tensor, "permutation layer neuron"],
    other: Float[Tensor, "permutation layer neuron"],
    fraction: float,
    per_layer: bool,
) -> dict[str, float]:
    """What two prompts' scores share under the true labels, which come first, against the other labellings."""
    top = [top_neurons(torch.cat(list(each)) if per_layer else each.flatten(1), fraction).mask for each in (one, other)]
    shared = (top[0] & top[1]).sum(1).unflatten(0, (len(one), -1)).sum(1)
    size = top[0].sum().item() / len(one)
    correlations = rank_correlations(one[1:].flatten(1), other[1:].flatten(1))
    return {
        "expected_overlap": shared[1:].double().mean().item() / size,
        "expected_correlation": correlations.nanmean().item(),
        "p": (shared >= shared[0]).double().mean().item(),
    }


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    measured = []
    for study in studies:
        for task, scores in zip(study.subtasks, study.scores, strict=True):
            decisions = validation_decisions(study.classifiers, task, scores)
            measured.append(Measured(stability(scores, settings.fraction, decisions=decisions), scores.meta["task"]))
    return measured


def _claims(records: Sequence[Record]) -> Claims:
    for task, pairs in by_task(records).items():
        extra = [one["overlap"] - one["expected_overlap"] for one in pairs]
        # No interval over rows: the range over pairs of seeds.
        interval = sum(extra) / len(extra), min(extra), max(extra)
        claim = "seeds share more top neurons than under shuffled labels (range of pairs, largest p)"
        yield task, claim, interval, max(one["p"] for one in pairs)


register(Finding("F2-stability", _measure, _claims, order=2, min_seeds=2))
