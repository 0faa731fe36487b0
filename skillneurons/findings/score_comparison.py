"""Which score finds the neurons that matter? Agreement between scores, and the harm of ablating what each ranks first.

Costs `1 + n_fractions * (n_scores + n_random)` passes over the rows, each from its first perturbed layer on, and one
over train where the ablation needs means. Memory: a few numbers for each of these passes and each row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.record import BINARY, Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.interventions.curve import FRACTIONS
from skillneurons.interventions.gaps import resampled_luck, resampled_rows
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import MOST_RANDOM_SETS, SweepOptions, SweepSettings, Swept, sweep
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.other_scores.table import RivalScores, rival_scores
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.row_groups import RowGroups
from skillneurons.utilities.types import Json


@dataclass(frozen=True, eq=False, repr=False)
class ScoreComparison(Result):
    """Scores side by side.

    Args:
        names: Of the scores, in the order of every `score` axis.
        agreement: Spearman correlation of each two scores over all neurons.
        fractions: Shares of neurons perturbed.
        margin: Mean logit margin of the right label with each score's top neurons perturbed.
        random_margin: The same for each random ranking.
        accuracy: Accuracy instead of margin.
        random_accuracy: The same for each random ranking.
        unperturbed: Margin and accuracy of the classifier as it is.
        area: For each score, the area between its margin curve and the mean random one, over the range of fractions:
            the mean extra fall of the margin. Larger: the score finds neurons that matter more.
        area_interval: 95 % interval, `[2, score]`, which pays for the choice of the rows and for the luck of one
            ranking: that of a score which ranks at random excludes 0 one time in twenty, or less often with few rows.
        random_area: The area of each random ranking against the mean of the others: what chance gives.
        accuracy_area: As `area`, in accuracy.
        best_share: Share of bootstrap samples of the rows in which each score has the largest area. Over rows only: of
            scores that all rank at random, one can come first in most samples.
        meta: Intervention and rows.

    Example:
        See `compare_scores`, which makes it.
    """

    names: tuple[str, ...]
    agreement: Float[Tensor, "score score"]
    fractions: tuple[float, ...]
    margin: Float[Tensor, "score fraction"]
    random_margin: Float[Tensor, "draw fraction"]
    accuracy: Float[Tensor, "score fraction"]
    random_accuracy: Float[Tensor, "draw fraction"]
    unperturbed: tuple[float, float]
    area: Float[Tensor, " score"]
    area_interval: Float[Tensor, "2 score"]
    random_area: Float[Tensor, " draw"]
    accuracy_area: Float[Tensor, " score"]
    best_share: Float[Tensor, " score"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_score_effects")

    @property
    def best(self) -> str:
        """The score with the largest area: the one that best predicts the effect of ablation here."""
        return self.names[int(self.area.argmax())]

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each score, the best first.

        `above_random`: is its area above that of every random ranking? Of scores that rank at random, about one in
        R + 1 is, with R random rankings: with 10, one of the twelve scores of `rival_scores` on average.
        """
        columns = {
            "score": self.names,
            "area": self.area.numpy(),
            "low": self.area_interval[0].numpy(),
            "high": self.area_interval[1].numpy(),
            "accuracy_area": self.accuracy_area.numpy(),
            "best_share": self.best_share.numpy(),
            "above_random": (self.area > self.random_area.max()).numpy(),
        }
        return pd.DataFrame(columns).sort_values("area", ascending=False, ignore_index=True)

    def __repr__(self) -> str:
        band = f"{self.random_area.min():.3f} to {self.random_area.max():.3f}"
        return f"ScoreComparison({self.meta.get('kind')}; random rankings {band})\n{as_text(self.to_dataframe())}"


@checked
def compare_scores(
    classifier: Classifier,
    task: Task,
    scores: RivalScores,
    *,
    kind: Kind = "mean",
    fractions: Sequence[float] = FRACTIONS,
    n_bootstrap: int = 1000,
    **options: Unpack[SweepOptions],
) -> ScoreComparison:
    """Do scores agree, and which one best predicts the causal effect of ablation?

    For each score the top neurons are perturbed, a growing share of each layer, and compared with random rankings,
    matched by layer and shared by all scores. Scores come from validation rows; the harm is
    measured on test rows.

    Args:
        classifier: One that the scores were taken from.
        task: Test rows are evaluated; training rows give means.
        scores: From `rival_scores`, or any scores in a `RivalScores`.
        kind: See `Perturbation`.
        fractions: Rising shares of neurons.
        n_bootstrap: Resamples of the rows.
        options: As `SweepSettings` has them: `n_random` (10 random rankings), `positions`, `sigma`, `seed` (also of
            ties and resamples), `per_layer`, `rows`, `tokens_per_batch`, `resume_in` and `progress`. With shares of
            the whole model (`per_layer=False`), scores differ also in how many neurons they pick in the last layer,
            where an ablation at the prompt cannot do anything.

    Raises:
        ValueError: Fractions do not rise, there are too few random rankings, or the scores are of another model or the
            classifier of other classes.

    Example:
        >>> from skillneurons import compare_scores, load_example, rival_scores
        >>> classifier, task = load_example()
        >>> scores = rival_scores(classifier, task, ["predictivity", "auroc"])
        >>> small = {"fractions": (0.1,), "n_random": 2}
        >>> comparison = compare_scores(classifier, task, scores, **small)
        >>> comparison.agreement.shape
        torch.Size([2, 2])
        >>> comparison.to_dataframe().columns[:4].tolist()
        ['score', 'area', 'low', 'high']
    """
    check_options(options, SweepOptions)
    settings = SweepSettings(**options)
    settings.check_intervals()
    check_whole("n_bootstrap", n_bootstrap, low=1, high=MOST_RANDOM_SETS)
    if list(fractions) != sorted(set(fractions)) or not 0 < fractions[0] <= fractions[-1] <= 1:
        raise ValueError(f"`fractions` must rise from above 0 to at most 1, but are {tuple(fractions)}.")
    if scores.meta.get("model") not in (None, classifier.fingerprint):
        raise ValueError(
            f"`scores` are of model {scores.meta['model']}, but the classifier's is {classifier.fingerprint}."
        )
    encoded = settings.encoded(classifier, task)
    perturb = settings.perturbation(kind).of(classifier, task)
    sets = _nested_sets(scores, fractions, settings)
    swept = sweep(classifier, encoded, [(perturb, one) for one in sets], settings)
    meta: dict[str, Json] = {"kind": kind}
    meta |= {key: getattr(settings, key) for key in ("positions", "per_layer", "n_random")}
    meta |= {"n_rows": len(encoded), "task": task.name, "classifier_seed": classifier.prompt.seed}
    meta["seed"] = settings.seed
    meta["n_groups"] = None if encoded.groups is None else encoded.groups.n_groups
    return _compared(swept, scores, tuple(fractions), n_bootstrap, meta, encoded.groups)


def _nested_sets(scores: RivalScores, fractions: Sequence[float], settings: SweepSettings) -> list[NeuronSet]:
    """Each score's neurons for each fraction, then those of random rankings, whose larger sets hold the smaller."""
    per_layer = settings.per_layer
    shape = next(iter(scores.values.values())).shape
    generator = derive_generator(settings.seed, "random rankings")
    rankings = [torch.rand(shape, generator=generator) for _ in range(settings.n_random)]
    chosen = [
        scores.top(name, fraction, per_layer=per_layer, seed=settings.seed)
        for name in scores.names
        for fraction in fractions
    ]
    return chosen + [
        top_neurons(ranking, fraction, per_layer=per_layer) for ranking in rankings for fraction in fractions
    ]


def _compared(
    swept: Swept,
    scores: RivalScores,
    fractions: tuple[float, ...],
    n_bootstrap: int,
    meta: dict[str, Json],
    groups: RowGroups | None,
) -> ScoreComparison:
    """What each score's choice costs beyond random rankings, with intervals over rows and luck."""
    n_random, seed = meta["n_random"], meta["seed"]
    margins, right = swept.margins.double(), swept.right
    n_scores = len(scores.names)

    def split(values: Tensor) -> tuple[Tensor, Tensor]:
        by_ranking = values[1:].unflatten(0, (n_scores + n_random, len(fractions)))
        return by_ranking[:n_scores], by_ranking[n_scores:]

    (margin, random_margin), (accuracy, random_accuracy) = split(margins), split(right)
    weights = trapezoid_weights(fractions)
    by_row = torch.einsum("f,sfr->sr", weights, random_margin.mean(0) - margin)
    resampled = resampled_rows(by_row, n_bootstrap, seed, groups)
    random_by_draw = torch.einsum("f,df->d", weights, random_margin.mean(-1))
    with_luck = resampled + resampled_luck(random_by_draw, n_bootstrap, seed)
    others = (random_by_draw.sum() - random_by_draw) / (n_random - 1)
    return ScoreComparison(
        names=scores.names,
        agreement=agreement(scores),
        fractions=fractions,
        margin=margin.mean(-1),
        random_margin=random_margin.mean(-1),
        accuracy=accuracy.mean(-1),
        random_accuracy=random_accuracy.mean(-1),
        unperturbed=(margins[0].mean().item(), right[0].mean().item()),
        area=by_row.mean(1),
        area_interval=torch.quantile(with_luck, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1),
        random_area=others - random_by_draw,
        accuracy_area=torch.einsum("f,sf->s", weights, (random_accuracy.mean(0) - accuracy).mean(-1)),
        best_share=resampled.argmax(0).bincount(minlength=n_scores).double() / n_bootstrap,
        meta=meta,
    )


def agreement(scores: RivalScores) -> Float[Tensor, "score score"]:
    """Spearman correlation of each two scores over all neurons; NaN with a score that is constant."""
    ranks = rankdata(np.stack([value.flatten().double().numpy() for value in scores.values.values()]), axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norm, out=np.full_like(centred, np.nan), where=norm > 0)
    return torch.from_numpy(np.clip(unit @ unit.T, -1.0, 1.0))


def trapezoid_weights(fractions: Sequence[float]) -> Float[Tensor, " fraction"]:
    """Weights with which differences at the fractions sum to the area over [0, last], divided by its width.

    At fraction 0 nothing is perturbed, so all curves meet there.

    Example:
        >>> trapezoid_weights([0.5, 1.0]).tolist()
        [0.5, 0.25]
    """
    knots = torch.tensor([0.0, *fractions], dtype=torch.float64)
    steps = knots.diff()
    return (steps + torch.cat([steps[1:], torch.zeros(1, dtype=torch.float64)])) / (2 * knots[-1])


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        first = study.classifiers[0]
        scores = rival_scores(first, study.task, n_probe_rows=1000)
        for positions in ("prompt", "all"):
            result = compare_scores(
                first,
                study.task,
                scores,
                fractions=settings.fractions,
                n_random=settings.n_random,
                positions=positions,
                rows=study.sweep_rows(settings),
            )
            yield Measured(result, study.task.name, {"positions": positions})


def _claims(records: Sequence[Record]) -> Claims:
    for one in records:
        if one["score"] == "predictivity":
            claim = f"mean at {one['positions']} positions: neurons by predictivity cost more margin, mean over shares"
            yield one["task"], claim, (one["area"], one["low"], one["high"])


# Not the paper's, and a sixth of the others' time.
register(Finding("rival-scores", _measure, _claims, order=11, needs=BINARY, on_request=True))
