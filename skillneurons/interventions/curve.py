"""Accuracy and margin against the share of neurons perturbed, skill neurons beside random ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation, evaluation_of
from skillneurons.interventions.gaps import beside_random, gap_if_told, half_width
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import SweepOptions, SweepSettings, sweep
from skillneurons.neurons.scores import NeuronScores, union_of_top
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import ONE_GROUP, columns, mean_interval
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.row_groups import RowGroups
from skillneurons.utilities.types import Json

FRACTIONS = (0.03, 0.1, 0.3)


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise unless all are shares that leave more random neurons to compare with, and there is one."""
    if not fractions or not all(0 < fraction < 0.5 for fraction in fractions):
        raise ValueError(
            f"`fractions` must lie above 0 and below 0.5, so that random sets differ from each other, but are "
            f"{tuple(fractions)}."
        )


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationCurve(Result):
    """Accuracy against the share of neurons perturbed, for skill neurons and for random sets of the same sizes.

    Args:
        fractions: Shares of each layer's neurons.
        skill: Accuracy with the skill neurons perturbed.
        random: The same for each random set; disjoint from the skill neurons, matched layer by layer.
        skill_margin: Mean logit margin of the right label with the skill neurons perturbed.
        random_margin: The same for each random set.
        unperturbed: The classifier as it is.
        meta: The intervention and what it was applied to.
        skill_ends: 95 % intervals of `skill` over rows, which pay for those that belong together.
        skill_margin_ends: The same of `skill_margin`.
        gaps: Of accuracy and of margin, skill less random on the same rows, and the ends of its 95 % interval
            (`paired_gap`); NaN with a single random set. All three are None in curves of earlier versions.

    Example:
        See `perturbation_curve`, which makes it.
    """

    fractions: tuple[float, ...]
    skill: Float[Tensor, " fraction"]
    random: Float[Tensor, "draw fraction"]
    skill_margin: Float[Tensor, " fraction"]
    random_margin: Float[Tensor, "draw fraction"]
    unperturbed: Evaluation
    meta: dict[str, Json] = field(default_factory=dict)
    skill_ends: Float[Tensor, "fraction 2"] | None = None
    skill_margin_ends: Float[Tensor, "fraction 2"] | None = None
    gaps: Float[Tensor, "2 fraction 3"] | None = None

    plot = drawn_by("plot_perturbation")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each fraction: accuracy and margin, skill and random (mean, lowest, highest draw).

        And `accuracy_gap` and `margin_gap` with their intervals, and the `verdict` of `beside_random`.
        """
        table: dict[str, Json] = {"fraction": self.fractions}
        for i, (name, skill, random) in enumerate(
            (("accuracy", self.skill, self.random), ("margin", self.skill_margin, self.random_margin))
        ):
            table[f"skill_{name}"] = skill.numpy()
            table[f"random_{name}"] = random.mean(0).numpy()
            table[f"random_{name}_low"] = random.amin(0).numpy()
            table[f"random_{name}_high"] = random.amax(0).numpy()
            if self.gaps is not None:
                table |= columns(f"{name}_gap", self.gaps[i].numpy().T)
        return pd.DataFrame(table | {"verdict": verdicts([self])[0]})

    @property
    def outside_band(self) -> np.ndarray:
        """For each fraction: is accuracy or margin with skill neurons perturbed below that of every random set?

        Small sets: with r random ones, chance alone puts one of the two below all of them with probability at most
        2/(r+1). Larger ones: more often, since sets disjoint from the skill neurons are more alike than sets drawn from
        all (`gaps.spread`). `verdicts` pays for both.
        """
        return np.logical_or(*self.below_random.values())

    @property
    def below_random(self) -> dict[str, np.ndarray]:
        """For each of accuracy and margin, and each fraction: is it lower than with any random set perturbed?"""
        return {
            "accuracy": (self.skill < self.random.amin(0)).numpy(),
            "margin": (self.skill_margin < self.random_margin.amin(0)).numpy(),
        }

    def in_short(self, said: Sequence[str] | None = None) -> pd.DataFrame:
        """The curve as a table of text that fits a terminal, from no neuron perturbed on.

        Random sets by their lowest and highest.

        Args:
            said: The `verdict` of each fraction, where the curve is one of several; by default its own.
        """
        before = self.unperturbed
        rows: list[tuple[str, ...]] = [("0 %", f"{before.accuracy:.3f}", "", f"{before.margin:.3f}", "", "")]
        table = self.to_dataframe()
        for row, verdict in zip(table.to_dict("records"), table.verdict if said is None else said, strict=True):
            numbers = [
                number
                for name in ("accuracy", "margin")
                for number in (
                    f"{row[f'skill_{name}']:.3f}",
                    f"{row[f'random_{name}_low']:.3f}–{row[f'random_{name}_high']:.3f}",
                )
            ]
            rows.append((f"{100 * row['fraction']:.3g} %", *numbers, verdict))
        return pd.DataFrame(rows, columns=["share", "accuracy", "random", "margin", "random margin", "verdict"])

    def __repr__(self) -> str:
        where = f"{self.meta.get('kind')} at {self.meta.get('positions')} positions, {self.unperturbed.n:,} rows"
        return f"PerturbationCurve({where}, {len(self.random)} random sets)\n{as_text(self.in_short())}"


def verdicts(curves: Sequence[PerturbationCurve]) -> list[list[str]]:
    """For each curve and fraction, which of accuracy and margin lie below or above those of random sets.

    All cells of all curves are one family: of what would be the same without skill, the chance that any is called below
    or above is 5 % at most. See `gaps.beside_random`.

    Returns:
        Such as `"both below"`, `"margin below"`, `"accuracy above"`, `"neither"`; `"untested"` without intervals.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, perturbation_curve
        >>> from skillneurons.interventions.curve import verdicts
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> verdicts([perturbation_curve(classifier, task, scores, fractions=(0.1,))])
        [['neither']]
    """
    cells = torch.cat(
        [
            torch.full((2 * len(one.fractions), 3), torch.nan) if one.gaps is None else one.gaps.flatten(0, 1)
            for one in curves
        ]
    )
    n_draws = min((len(one.random) for one in curves), default=0)
    said = iter(beside_random(cells, n_draws))
    by_curve = []
    for one in curves:
        accuracy, margin = ([next(said) for _ in one.fractions] for _ in range(2))
        by_curve.append([_in_words(*both) for both in zip(accuracy, margin, strict=True)])
    return by_curve


def _in_words(accuracy: str, margin: str) -> str:
    if accuracy == margin:
        return accuracy if accuracy in ("neither", "untested") else f"both {accuracy}"
    named = {"accuracy": accuracy, "margin": margin}.items()
    return ", ".join(f"{name} {said}" for name, said in named if said in ("below", "above")) or "neither"


@checked
def perturbation_curve(
    classifier: Classifier,
    task: Task,
    scores: NeuronScores | Sequence[NeuronScores],
    *,
    kind: Kind = "mean",
    fractions: Sequence[float] = FRACTIONS,
    **options: Unpack[SweepOptions],
) -> PerturbationCurve:
    """Does perturbing skill neurons hurt more than perturbing random ones?

    Source: Wang et al. 2022, section 4.2. Random sets are disjoint from the skill neurons and matched to them layer by
    layer. At the soft prompt's positions the last layer has no say: its MLP there feeds nothing that the mask reads.
    `findings.necessity` gives the same cells with intervals, for several kinds and single layers.

    Costs `1 + len(fractions) * (1 + n_random)` passes over the rows, each from its first perturbed layer on; what lies
    below is computed once for each fraction.

    Args:
        classifier: In eval mode.
        task: Training rows give means or sources; test rows are evaluated.
        scores: Rank the neurons; for several classes, the scores of each subtask (see `union_of_top`).
        kind: See `Perturbation`.
        fractions: Shares of neurons, below one half.
        options: As `SweepSettings` has them: `n_random` (10 random sets for each fraction), `positions`, `sigma`,
            `seed`, `per_layer`, `rows`, `tokens_per_batch`, `resume_in` (which keeps each finished fraction), and
            `progress`, a function of which is called with (what, rows done, rows): each row once for each fraction.

    Raises:
        ValueError: No fraction, no random set, a classifier of other classes, scores of another model, or too few
            neurons left to draw from.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, perturbation_curve
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> curve = perturbation_curve(
        ...     classifier, task, scores, fractions=(0.1, 0.3), n_random=3
        ... )
        >>> curve.skill.shape, curve.random.shape
        (torch.Size([2]), torch.Size([3, 2]))
        >>> curve.to_dataframe().columns[:5].tolist()
        ['fraction', 'skill_accuracy', 'random_accuracy', 'random_accuracy_low', 'random_accuracy_high']
    """
    check_options(options, SweepOptions)
    settings = SweepSettings(**options)
    if not fractions:
        raise ValueError(
            "A curve needs fractions and random sets to compare with, but there are 0 and "
            f"{settings.n_random}. Pass one or more `fractions`, such as {FRACTIONS}."
        )
    check_fractions([fraction for fraction in fractions if fraction] or [0.1])  # 0 is where a curve may begin
    encoded = settings.encoded(classifier, task)
    ranked = [scores] if isinstance(scores, NeuronScores) else scores
    skill = [union_of_top(ranked, fraction, settings.per_layer) for fraction in fractions]
    sets = [[chosen, *chosen.random_sets(settings.n_random, seed=settings.seed)] for chosen in skill]
    perturb = settings.perturbation(kind).of(classifier, task)
    evaluations, margin_ends, gaps = [], [], []
    for i, (fraction, chosen) in enumerate(zip(fractions, sets, strict=True)):
        swept = sweep(
            classifier,
            encoded,
            [(perturb, one) for one in chosen],
            _counted(settings, i, len(sets)),
            plain=not i,
            name=f"{kind}-{fraction}",
        )
        evaluations += [evaluation_of(logits, encoded.labels, encoded.groups) for logits in swept.logits]
        own = slice(int(not i), None)
        margin_ends.append(_ends(swept.margins[own][0], encoded.groups))
        gaps.append([gap_if_told(values[own], chosen[0], encoded.groups) for values in (swept.right, swept.margins)])
    before, *perturbed = evaluations
    accuracy, margin = (
        torch.tensor([getattr(one, name) for one in perturbed], dtype=torch.float64).unflatten(0, (len(sets), -1)).T
        for name in ("accuracy", "margin")
    )
    skill_ends = torch.tensor([one.interval for one in perturbed[:: 1 + settings.n_random]], dtype=torch.float64)
    margin_ends, gaps = (torch.tensor(one, dtype=torch.float64) for one in (margin_ends, gaps))
    meta = {"kind": kind} | {key: getattr(settings, key) for key in ("positions", "per_layer", "n_random", "seed")}
    meta |= {"task": task.name, "classifier_seed": classifier.prompt.seed, "n_rows": len(encoded)}
    meta["seeds"] = list(ranked[0].seeds)
    meta["n_neurons"] = [len(chosen) for chosen in skill]
    if kind == "gaussian":
        meta["sigma"] = settings.sigma
    return PerturbationCurve(
        tuple(fractions),
        accuracy[0],
        accuracy[1:],
        margin[0],
        margin[1:],
        before,
        meta,
        skill_ends,
        margin_ends,
        gaps.transpose(0, 1),
    )


def over_seeds(curves: Sequence[PerturbationCurve], level: float = 0.95) -> pd.DataFrame:
    """How far skill neurons fall below random ones, over the classifiers of several seeds.

    Args:
        curves: One for each seed, alike in all else.
        level: Of the intervals: Student's, over seeds, of the mean gap. Infinite for a single seed.

    Returns:
        One row for each fraction: `accuracy_gap` and `margin_gap` (skill less the mean of random sets; below 0 where
        skill neurons matter more) with `_low` and `_high`, and `n_seeds`.

    Raises:
        ValueError: There is no curve, or they differ in more than their seeds.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, perturbation_curve
        >>> from skillneurons.interventions.curve import over_seeds
        >>> (one, task), (other, _) = load_example(), load_example(seed=1)
        >>> scores = find_skill_neurons([one, other], task)
        >>> curves = [perturbation_curve(each, task, scores, fractions=(0.1,), n_random=2) for each in (one, other)]
        >>> over_seeds(curves).columns[:4].tolist()
        ['fraction', 'accuracy_gap', 'accuracy_gap_low', 'accuracy_gap_high']
    """
    alike = {(one.meta.get("kind"), one.meta.get("positions"), one.meta.get("n_rows"), one.fractions) for one in curves}
    if len(alike) != 1:
        raise ValueError(
            f"Curves of one kind, positions, rows and fractions are needed, one for each seed, but there are {alike}."
        )
    table: dict[str, Json] = {"fraction": curves[0].fractions}
    for name in ("accuracy", "margin"):
        skill, random = {"accuracy": ("skill", "random"), "margin": ("skill_margin", "random_margin")}[name]
        gaps = torch.stack([getattr(one, skill) - getattr(one, random).mean(0) for one in curves])
        half = np.array([half_width(gap, level) for gap in gaps.T])
        middle = gaps.mean(0).numpy()
        table |= columns(f"{name}_gap", (middle, middle - half, middle + half))
    return pd.DataFrame(table | {"n_seeds": len(curves)})


def read_curve(path: Path) -> PerturbationCurve | None:
    """A curve that is there and whole."""
    try:
        return PerturbationCurve.load(path)
    except (FileNotFoundError, store.StoreError):
        return None


def points_left(
    curve: PerturbationCurve | None,
    fractions: Sequence[float],
    n_random: int,
    same: Mapping[str, Json],
    kept_in: Path | None = None,
) -> int:
    """How many perturbations a curve lacks of those that are asked for.

    Args:
        curve: What is there.
        fractions: Asked for.
        n_random: Likewise.
        same: What the curve's `meta` must say, or nothing of it holds.
        kept_in: The folder that its points were kept in (`resume_in`), without which they are computed anew.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, perturbation_curve
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> curve = perturbation_curve(classifier, task, scores, fractions=(0.1,), n_random=2)
        >>> points_left(None, (0.1,), 2, {}), points_left(curve, (0.1,), 2, {"positions": "all"})
        (4, 4)
        >>> points_left(curve, (0.1, 0.3), 3, {"positions": "prompt"})  # one more set, and a share with four
        5
        >>> points_left(curve, (0.1, 0.3), 3, {}, Path("nowhere"))
        9
    """
    whole = 1 + len(fractions) * (1 + n_random)
    if curve is None or any(curve.meta.get(key) != value for key, value in same.items()):
        return whole
    known = dict.fromkeys(curve.fractions, 1 + len(curve.random))
    left = sum(max(0, 1 + n_random - known.get(fraction, 0)) for fraction in fractions)
    left += curve.fractions[0] != fractions[0]  # the classifier as it is, which is kept with the first
    return whole if left and kept_in is not None and not kept_in.is_dir() else left


def _ends(values: Float[Tensor, " batch"], groups: RowGroups | None) -> tuple[float, float]:
    """Interval of a mean over rows; without bounds where rows are too few to tell how they differ."""
    if len(values) < 2 or (groups is not None and groups.n_effective < ONE_GROUP):
        return float("-inf"), float("inf")
    _, low, high = mean_interval(values, groups)
    return low, high


def _counted(settings: SweepSettings, i: int, n: int) -> SweepSettings:
    """The settings for the `i`-th of `n` sweeps over the same rows, which tells how far all of them are."""
    tell = settings.progress
    if not callable(tell):
        return settings
    return replace(
        settings, progress=lambda what, done, total: tell(what.partition("-")[0], i * total + done, n * total)
    )
