"""Do answers follow when skill neurons are shifted towards a label? Flip rates, against matched random neurons.

Costs what `perturbation_curve` costs: for each batch the layers below the first steered one once, and those above once
for each strength and set of neurons.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Unpack

import pandas as pd
import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.statistic import stack_layers
from skillneurons.activations.sums import LabelSums
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.findings.common import ends, ends_of, paired
from skillneurons.findings.record import (
    BINARY,
    Claims,
    Ends,
    Finding,
    Measured,
    Record,
    ReproduceSettings,
    Study,
    register,
)
from skillneurons.interventions.gaps import gap_if_told, gap_p
from skillneurons.interventions.hooks import steer
from skillneurons.interventions.perturbation import Intervention
from skillneurons.interventions.sweep import ControlOptions, SweepSettings, sweep
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.batching import Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import columns, proportion
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.row_groups import RowGroups
from skillneurons.utilities.types import Json, Row

STRENGTHS = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)


@checked
def label_direction(
    classifier: Classifier, rows: Sequence[Row] | Encoded, label: int, *, positions: str = "prompt"
) -> Float[Tensor, "prompt layer neuron"]:
    """Mean activation on the rows of one class minus that on all others: one unit of what `steer` adds.

    `d(n, p) = mean_{y = label} a(n, p, x) - mean_{y != label} a(n, p, x)`

    Args:
        classifier: In eval mode.
        rows: Training rows.
        label: Index of the class to steer to.
        positions: Where activations are taken.

    Raises:
        ValueError: There is no such class, the rows lack it, or have no other.

    Example:
        >>> from skillneurons import label_direction, load_example
        >>> classifier, task = load_example()
        >>> positive = label_direction(classifier, task.train, label=1)
        >>> positive.shape
        torch.Size([16, 4, 768])
        >>> positive.allclose(-label_direction(classifier, task.train, label=0))
        True
    """
    if not 0 <= label < len(classifier.labels):
        raise ValueError(f"`label` is an index of {', '.join(classifier.labels)}, from 0, not {label}.")
    sums = collect(classifier, rows, LabelSums(len(classifier.labels)), positions=positions)
    n, rest = int(sums.n[label]), int(sums.n.sum() - sums.n[label])
    if not n or not rest:
        raise ValueError(
            f"`rows` need examples of class {label} and of others, but the classes hold {sums.n.tolist()}."
        )
    differences = [total[label] / n - (total.sum(0) - total[label]) / rest for total in sums.totals]
    return stack_layers(differences, dim=1)


def flip_rate(
    before: Int[Tensor, " batch"], after: Int[Tensor, " batch"], label: int, *, towards: bool = True
) -> float:
    """Share of the answers that turn to `label`, of those that were not; or that leave it, of those that were.

    Returns:
        In [0, 1]; NaN where no answer could flip.

    Example:
        >>> flip_rate(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 1, 0]), 1)
        0.5
    """
    able = _able(before, label, towards)
    return ((after == label) == towards)[able].double().mean().item()


def _able(before: Int[Tensor, " batch"], label: int, towards: bool) -> Bool[Tensor, " batch"]:
    """Answers that can flip."""
    return (before != label) if towards else (before == label)


@dataclass(frozen=True, eq=False, repr=False)
class SteeringCurve(Result):
    """Flip rates against steering strength, for skill neurons and for random sets.

    Args:
        strengths: In units of the classes' mean difference; negative ones steer away from the label.
        skill: Flip rate with skill neurons steered: to the label at positive strengths, away from it at negative.
        random: The same for each random set.
        skill_shift: Mean rise of the label's logit over the best other's.
        random_shift: The same for each random set.
        n_other: Rows answered otherwise before: those that can flip to the label.
        n_label: Rows answered with the label before: those that can flip away.
        label: Name of the label.
        meta: Provenance and settings.
        interval: Ends of the exact 95 % interval of `skill` over rows.
        gap: By how much skill neurons flip more answers than random ones, of the same rows, and the ends of its 95 %
            interval (`paired_gap`), which pays for the luck of a random set; NaN where too few could flip.

    Example:
        See `steering_curve`, which makes it.
    """

    strengths: tuple[float, ...]
    skill: Float[Tensor, " strength"]
    random: Float[Tensor, "draw strength"]
    skill_shift: Float[Tensor, " strength"]
    random_shift: Float[Tensor, "draw strength"]
    n_other: int
    n_label: int
    label: str
    meta: dict[str, Json] = field(default_factory=dict)
    # Absent from curves that earlier versions wrote.
    interval: Float[Tensor, "strength 2"] | None = None
    gap: Float[Tensor, "strength 3"] | None = None

    plot = drawn_by("plot_steering")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each strength: flip rates with exact 95 % intervals over rows, and shifts.

        `flips_gap` and its interval: skill neurons less random ones, paired by row.
        `p_flips` is the share of sets, the skill neurons included, that flip as many answers: 1 / (sets + 1) at best.
        """
        records = []
        for i, strength in enumerate(self.strengths):
            n = self.n_label if strength < 0 else self.n_other
            flips = self.skill[i].item()
            low, high = ends_of(self.interval, i, flips, n) if n else (float("nan"), float("nan"))
            record = {"strength": strength, "n_rows": n, "skill_flips": flips, "low": low, "high": high}
            record |= _summary("random_flips", self.random[:, i])
            record["skill_shift"] = self.skill_shift[i].item()
            record |= _summary("random_shift", self.random_shift[:, i])
            record |= {"p_flips": _p_value(self.skill[i], self.random[:, i]), "n_random": len(self.random)}
            if self.gap is not None:
                record |= columns("flips_gap", self.gap[i].tolist())
            records.append(record)
        return pd.DataFrame(records)

    def __repr__(self) -> str:
        title = f"SteeringCurve(to {self.label!r}, {self.meta.get('task')}, {len(self.random)} random sets)"
        return f"{title}\n{as_text(self.to_dataframe())}"


def _p_value(chosen: Tensor, random: Tensor) -> float:
    """NaN where no answer could flip."""
    if bool(chosen.isnan()):
        return float("nan")
    return (1 + int((random >= chosen).sum())) / (len(random) + 1)


def _summary(name: str, values: Tensor) -> dict[str, float]:
    return {name: values.mean().item(), f"{name}_low": values.amin().item(), f"{name}_high": values.amax().item()}


class SteerOptions(ControlOptions, total=False):
    """Keywords of `steering_curve`; see `SweepSettings`."""

    rows: Sequence[Row] | Encoded | None


@checked
def steering_curve(
    classifier: Classifier,
    task: Task,
    neurons: NeuronSet,
    label: str,
    *,
    strengths: Sequence[float] = STRENGTHS,
    match: Literal["shift", "own"] = "shift",
    **options: Unpack[SteerOptions],
) -> SteeringCurve:
    """Shift neurons along the classes' mean difference on train, and count the answers on test that follow.

    Skill neurons differ between the classes by definition, so random neurons moved by their own difference move less.
    The fair control, and the default, moves as many random neurons of each layer along their own difference but as far
    as the skill neurons move together. At the prompt's positions the last layer has no say, as the answer is read at
    the mask.

    Args:
        classifier: In eval mode.
        task: Train gives the direction, test is answered.
        neurons: Skill neurons, chosen without the test rows; at most half of a layer.
        label: Name of the class to steer to.
        strengths: Factors of the mean difference.
        match: `"shift"`: random sets move as far in each layer (Euclidean, over positions and neurons); `"own"`: by
            their own difference as it is.
        options: As `SweepSettings` has them: `n_random` (10 random sets, disjoint from `neurons`, as many in each
            layer), `positions` (where to steer), `seed` (of the random sets), `rows`, `tokens_per_batch`, `resume_in`
            and `progress`.

    Raises:
        ValueError: The classifier has no such label, or other classes than the task; `neurons` is empty, another
            model's or more than half of a layer, or `n_random` is not positive.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, steering_curve
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> curve = steering_curve(
        ...     classifier, task, skill, "positive", strengths=(-4.0, 4.0), n_random=2
        ... )
        >>> (curve.skill_shift > 0).tolist()
        [False, True]
        >>> curve.to_dataframe().columns[:6].tolist()
        ['strength', 'n_rows', 'skill_flips', 'low', 'high', 'random_flips']
    """
    check_options(options, SteerOptions)
    settings = SweepSettings(**options)
    if label not in classifier.labels:
        raise ValueError(f"`label` is one of {', '.join(map(repr, classifier.labels))}, not {label!r}.")
    if not len(neurons):
        raise ValueError(
            f"Steering compares neurons with random ones, but got 0 and {settings.n_random} random sets. Choose "
            "neurons, such as `scores.top(0.1)`."
        )
    encoded = settings.encoded(classifier, task)
    target = classifier.labels.index(label)
    sets = [neurons, *neurons.random_sets(settings.n_random, seed=settings.seed)]
    direction = label_direction(classifier, task.train, target, positions=settings.positions)
    points = []
    for chosen in sets:
        ratio = shift_ratio(direction, neurons, chosen) if match == "shift" else torch.ones(len(neurons.mask))
        shift = _Shift(direction * ratio[:, None], {"label": label, "match": match, "task": task.fingerprint})
        points += [(shift.by(strength, classifier, settings.positions), chosen) for strength in strengths]
    swept = sweep(classifier, encoded, points, settings)
    wanted = torch.full((len(encoded),), target)
    margins = torch.stack([label_margin(one, wanted).double() for one in swept.logits])
    shifts = (margins[1:] - margins[0]).mean(dim=1).unflatten(0, (len(sets), len(strengths)))
    before, after = (one.argmax(dim=-1) for one in (swept.logits[0], torch.stack(list(swept.logits[1:]))))
    turned = (after == target).unflatten(0, shifts.shape)
    flips, interval, gap = zip(
        *(
            _flips(turned[:, i], before, target, strength >= 0, neurons, encoded.groups)
            for i, strength in enumerate(strengths)
        ),
        strict=True,
    )
    rates = torch.stack(flips, dim=1)
    meta = {
        "task": task.name,
        "model": classifier.fingerprint,
        "classifier_seed": classifier.prompt.seed,
        "n_neurons": len(neurons),
        "match": match,
        "positions": settings.positions,
        "seed": settings.seed,
    }
    n_label = int((before == target).sum())
    return SteeringCurve(
        tuple(strengths),
        rates[0],
        rates[1:],
        shifts[0],
        shifts[1:],
        len(encoded) - n_label,
        n_label,
        label,
        meta,
        torch.tensor(interval, dtype=torch.float64),
        torch.tensor(gap, dtype=torch.float64),
    )


def _flips(
    turned: Bool[Tensor, "set batch"],
    before: Int[Tensor, " batch"],
    target: int,
    towards: bool,
    neurons: NeuronSet,
    groups: RowGroups | None,
) -> tuple[Float[Tensor, " set"], tuple[float, float], Ends]:
    """Flip rates of each set, the first one's interval, and how far it is ahead of the others."""
    able = _able(before, target, towards)
    flipped = (turned == towards)[:, able].double()
    interval, shared = (math.nan, math.nan), None if groups is None else groups.of(able)
    if flipped.shape[1]:
        found = proportion(flipped[0], shared)
        interval = found.low, found.high
    return flipped.mean(dim=1), interval, gap_if_told(flipped, neurons, shared)


@dataclass(frozen=True, eq=False)
class _Shift:
    """A direction to steer along, and what it was made of."""

    direction: Float[Tensor, "prompt layer neuron"]
    made_of: dict[str, Json]

    def by(self, strength: float, classifier: Classifier, positions: str) -> Intervention:
        """Steering along it; at strength 0 nothing is done."""
        where = classifier.layout.positions(positions)
        return Intervention(
            lambda neurons: steer(neurons, self.direction, strength=strength, positions=where) if strength else [],
            model=classifier.fingerprint,
            stop=where.stop,
            identity=self.made_of | {"kind": "steer", "strength": strength, "positions": positions},
        )


def shift_ratio(
    direction: Float[Tensor, "prompt layer neuron"], neurons: NeuronSet, others: NeuronSet
) -> Float[Tensor, " layer"]:
    """For each layer, how much further `neurons` move along `direction` than `others`; 0 where these do not move."""

    def length(chosen: NeuronSet) -> Tensor:
        return reduce((direction * chosen.mask).square(), "prompt layer neuron -> layer", "sum").sqrt()

    own = length(others)
    return torch.where(own > 0, length(neurons) / own, 0.0)


_STEERED, _STRENGTHS = 0.1, (-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0)


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        first = study.classifiers[0]
        result = steering_curve(
            first,
            study.task,
            study.scores[0].top(_STEERED),
            study.task.labels[1],
            strengths=_STRENGTHS,
            n_random=settings.n_random,
            # Where the label is read too: a prompt behind the text ends there.
            positions=first.layout.added,
            rows=study.sweep_rows(settings),
        )
        yield Measured(result, study.task.name)


def _claims(records: Sequence[Record]) -> Claims:
    for one in records:
        if one["strength"] > 0:
            claim = f"steered by {one['strength']:g}, skill neurons flip more answers than random ones"
            gap = paired(one, "flips_gap", (one["skill_flips"], one["low"], one["high"]), ends(one, "random_flips"))
            yield one["task"], claim, gap, gap_p(gap, int(one.get("n_random", 10)))


register(Finding("steering", _measure, _claims, order=13, needs=BINARY))
