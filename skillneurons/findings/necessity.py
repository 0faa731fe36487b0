"""F4, necessity: what is lost when skill neurons are perturbed, against matched random neurons and rival choices.

Source: Wang et al. 2022, section 4.2. The intervention decides the verdict, so several are run side by side:

- *mean* and *resample* keep a neuron's typical size and remove what it says about the input;
- *zero* moves a neuron away from where it usually is, by as much for a random neuron as for a skill neuron: it measures
  the damage of an unusual input to the layers above as well;
- *Gaussian noise* leaves the neuron's message in place and adds to it: with a sigma well below the neuron's own spread
  it does nothing, and above it, it is damage again.

At the soft prompt's positions the last layer's MLP feeds nothing that the mask reads, so perturbing it there has no
effect at all. In the layers below, the mask reads the prompt's positions through attention only.

Cost: `1 + kinds x scopes x fractions x (1 + rivals + draws)` passes over the rows, each from its first perturbed layer
on; what lies below is computed once for each batch and call. Fewer draws are made where `width` is reached early.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, TypeAlias, Unpack, cast, get_args

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import Evaluation, evaluation_of
from skillneurons.classifiers.read_out import label_words
from skillneurons.findings.common import ScoresOfTask, as_list, check_same_model, sweep_claims
from skillneurons.findings.record import Claims, Ends, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.findings.words import label_word_selectivity
from skillneurons.interventions.curve import check_fractions
from skillneurons.interventions.gaps import half_width, paired_gap, spread
from skillneurons.interventions.perturbation import Intervention, Kind, check_kinds
from skillneurons.interventions.sweep import SweepOptions, SweepSettings, Swept, sweep
from skillneurons.models.bridge import as_encoder
from skillneurons.neurons.neuron_set import NeuronSet, top_like
from skillneurons.neurons.scores import union_of_top
from skillneurons.tasks.batching import Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import columns, mean_variance
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json

Scope: TypeAlias = Literal["all", "single", "cumulative"]
KINDS: tuple[Kind, ...] = ("mean", "resample", "zero", "gaussian")
FIRST_DRAWS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Necessity(Result):
    """Accuracy and logit margin with chosen neurons perturbed, and the gap to matched random sets.

    Args:
        groups: `"skill"`, and the names of rival choices.
        kinds: Interventions.
        scopes: Layers perturbed: `"all layers"`, `"layer 2"`, `"layers 0-2"`.
        fractions: Shares of each layer's neurons.
        accuracy: With the group's neurons perturbed.
        margin: Mean logit margin of the right label, in the same case.
        random_accuracy: Mean over random sets.
        random_margin: Mean over random sets.
        accuracy_gap: Group minus random: gap, lower and upper end of its 95 % interval (`paired_gap`).
        margin_gap: The same for the margin.
        n_draws: Random sets that were drawn.
        unperturbed: The classifier as it is.
        meta: The settings.

    Example:
        See `necessity`, which makes it.
    """

    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    scopes: tuple[str, ...]
    fractions: tuple[float, ...]
    accuracy: Float[Tensor, "group kind scope fraction"]
    margin: Float[Tensor, "group kind scope fraction"]
    random_accuracy: Float[Tensor, "kind scope fraction"]
    random_margin: Float[Tensor, "kind scope fraction"]
    accuracy_gap: Float[Tensor, "group kind scope fraction 3"]
    margin_gap: Float[Tensor, "group kind scope fraction 3"]
    n_draws: Int[Tensor, "kind scope fraction"]
    unperturbed: Evaluation
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_necessity")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each group, kind, scope and fraction. Where `n_neurons` is 0 there was nothing to perturb."""
        table = []
        axes = (self.groups, self.kinds, self.scopes, self.fractions)
        for g, k, s, f in product(*(range(len(axis)) for axis in axes)):
            row: dict[str, Json] = {"positions": self.meta.get("positions"), "group": self.groups[g]}
            row |= {"kind": self.kinds[k], "scope": self.scopes[s], "fraction": self.fractions[f]}
            for name, own, random, gap in (
                ("accuracy", self.accuracy, self.random_accuracy, self.accuracy_gap),
                ("margin", self.margin, self.random_margin, self.margin_gap),
            ):
                row |= {name: own[g, k, s, f].item(), f"random_{name}": random[k, s, f].item()}
                row |= columns(f"{name}_gap", gap[g, k, s, f].tolist())
            row["n_neurons"] = self.meta["n_neurons"][s][f]
            table.append(row | {"n_draws": int(self.n_draws[k, s, f])})
        return pd.DataFrame(table)

    def _table(self) -> pd.DataFrame:
        numbers = [column for name in ("accuracy", "margin") for column in (name, f"random_{name}", f"{name}_gap")]
        return self.to_dataframe().loc[:, ["group", "kind", "scope", "fraction", *numbers]].round(3)

    def __repr__(self) -> str:
        where = f"{self.meta.get('positions')} positions; unperturbed {self.unperturbed.accuracy:.3f}"
        return f"Necessity({where})\n{as_text(self._table())}"


class NecessityOptions(SweepOptions, total=False):
    """Keywords of `necessity`: those of all sweeps, and when to stop drawing random sets."""

    width: float | None


@checked
def necessity(
    classifier: Classifier,
    task: Task,
    scores: ScoresOfTask,
    *,
    kinds: Sequence[Kind] = KINDS,
    fractions: Sequence[float] = (0.03, 0.1, 0.3),
    scope: Scope = "all",
    rivals: Mapping[str, Float[Tensor, "layer neuron"]] | None = None,
    **options: Unpack[NecessityOptions],
) -> Necessity:
    """Does perturbing skill neurons hurt more than perturbing as many random ones, and by how much?

    Args:
        classifier: In eval mode; may have hooks of its own, such as a tuned adapter's.
        task: Training rows give means and sources; test rows are evaluated.
        scores: Rank the neurons; a list for a task of several classes. They may come from other classifiers on the
            model.
        kinds: Interventions, see `Perturbation`.
        fractions: Shares of neurons, below one half.
        scope: Perturb in `"all"` layers at once, in each `"single"` layer, or `"cumulative"`: layers 0 to l, for each
            l.
        rivals: Other scores to choose neurons by, such as `label_word_selectivity`, each perturbed as well:
            as many in each layer as skill neurons, so that the same random sets are their control.
        options: As `SweepSettings` has them: `n_random` (at most 20 sets for each cell, disjoint from the skill neurons
            and matched layer by layer), `positions`, `sigma`, `seed`, `per_layer`, `rows`, `tokens_per_batch`,
            `resume_in` (which keeps the logits of the chosen neurons, and of every four draws), and `progress`, a
            function of which is told of each sweep anew. And `width`: stop drawing random sets for a cell once
            the half-width of the 95 % interval of their mean accuracy is at most this (None: draw all). Draws come in
            fours, in the order of the seed. Where no draw changes an answer, the width is zero and four are all there
            are. Intervals of gaps then hold at whichever four drawing stops: each is one of `n_random / 4` that do so
            together (Bonferroni), since stopping where random sets happen to agree excludes 0 more often.

    Raises:
        ValueError: Scores of another model, a classifier of other classes, rows without labels, a fraction above one
            half, too few neurons left to draw from, fewer than two random sets or rows, or an unknown kind or scope.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, necessity
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> settings = {"kinds": ["mean"], "fractions": (0.1, 0.3), "n_random": 2}
        >>> result = necessity(classifier, task, scores, **settings)
        >>> result.to_dataframe()[["group", "kind", "fraction", "n_neurons", "n_draws"]]
           group  kind  fraction  n_neurons  n_draws
        0  skill  mean       0.1        308        2
        1  skill  mean       0.3        920        2
        >>> result.accuracy_gap.shape  # group, kind, scope, fraction; gap, low, high
        torch.Size([1, 1, 1, 2, 3])
    """
    check_options(options, NecessityOptions)
    options.setdefault("n_random", 20)
    width = options.pop("width", None)
    settings = SweepSettings(**cast(SweepOptions, options))
    ranked, rivals = as_list(scores), dict(rivals or {})
    check_same_model(ranked, classifier.fingerprint)
    check_sweep(kinds, fractions, scope, settings.n_random)
    check_rivals(rivals, tuple(ranked[0].predictivity.shape))
    encoded = settings.encoded(classifier, task)
    if len(encoded) < 2:
        raise ValueError(f"Intervals over rows need two rows or more, but there is {len(encoded)}. Pass more `rows`.")
    rows = encoded.groups
    mean_variance(torch.zeros(len(encoded)), rows)  # Refuses rows that are all of one group, before any pass.
    skill = [union_of_top(ranked, fraction, settings.per_layer) for fraction in fractions]
    for one in skill:
        one.random_sets(1, seed=settings.seed)  # Refuses where too few neurons are left, before any pass.
    groups = {"skill": skill} | {name: [top_like(score, one) for one in skill] for name, score in rivals.items()}
    layers = _layers(scope, classifier.model.cfg.n_layers)
    shape = (len(kinds), len(layers), len(fractions))
    perturbs = [settings.perturbation(kind).of(classifier, task) for kind in kinds]
    cells = [_Cell(perturbs[k], layers[s][1], f) for k, s, f in product(*map(range, shape))]

    chosen = [cell.point(sets) for sets in groups.values() for cell in cells]
    swept = sweep(classifier, encoded, chosen, settings, name="chosen")
    own = _judged(swept[1:]).unflatten(1, (len(groups), len(cells)))
    random = _draw(classifier, encoded, cells, skill, settings, width)
    spreads = [spread(one) for one in skill]
    stops = 1 if width is None else math.ceil(settings.n_random / FIRST_DRAWS)

    def gap(one: Float[Tensor, " batch"], drawn: Float[Tensor, "draw batch"], cell: _Cell) -> Ends:
        return paired_gap(one, drawn, spreads[cell.fraction], level=1 - 0.05 / stops, groups=rows)

    gaps = torch.tensor(
        [[[gap(one[c], random[c][q], cell) for c, cell in enumerate(cells)] for one in own[q]] for q in (0, 1)],
        dtype=torch.float64,
    ).unflatten(2, shape)
    means = own.mean(dim=-1).unflatten(2, shape)
    random_means = torch.stack([drawn.mean(dim=(1, 2)) for drawn in random], dim=1).unflatten(1, shape)
    meta = {"task": task.name} | {key: getattr(settings, key) for key in ("positions", "sigma", "seed", "per_layer")}
    meta |= {"classifier_seed": classifier.prompt.seed, "score_seeds": ranked[0].seeds, "n_rows": len(encoded)}
    meta |= {"n_random": settings.n_random, "width": width, "n_groups": None if rows is None else rows.n_groups}
    meta["n_neurons"] = [[len(one.layers(*which)) for one in skill] for _, which in layers]
    return Necessity(
        groups=tuple(groups),
        kinds=tuple(kinds),
        scopes=tuple(name for name, _ in layers),
        fractions=tuple(fractions),
        accuracy=means[0],
        margin=means[1],
        random_accuracy=random_means[0],
        random_margin=random_means[1],
        accuracy_gap=gaps[0],
        margin_gap=gaps[1],
        n_draws=torch.tensor([drawn.shape[1] for drawn in random]).unflatten(0, shape),
        unperturbed=evaluation_of(swept.logits[0], encoded.labels, rows),
        meta=meta,
    )


@dataclass(frozen=True, eq=False)
class _Cell:
    """One kind of perturbation in some layers, on sets of one size."""

    perturb: Intervention
    layers: tuple[int, ...]
    fraction: int

    def point(self, sets: Sequence[NeuronSet]) -> tuple[Intervention, NeuronSet]:
        """The perturbation of this cell's part of a set, of those for each fraction."""
        return self.perturb, sets[self.fraction].layers(*self.layers)


def _judged(swept: Swept) -> Float[Tensor, "two intervention batch"]:
    """Right or not, and margin, of each row."""
    return torch.stack([swept.right, swept.margins.double()])


def _draw(
    classifier: Classifier,
    rows: Encoded,
    cells: Sequence[_Cell],
    skill: Sequence[NeuronSet],
    settings: SweepSettings,
    width: float | None,
) -> list[Float[Tensor, "two draw batch"]]:
    """Random sets in each cell, as `_judged`, a few at a time until all are drawn or their mean is known well."""
    parts: list[list[Tensor]] = [[] for _ in cells]
    done, open_cells = 0, list(range(len(cells)))
    while open_cells and done < settings.n_random:
        n = min(FIRST_DRAWS, settings.n_random - done)
        # For each draw, the sets of every fraction.
        draws = list(zip(*(one.random_sets(n, seed=settings.seed, start=done) for one in skill), strict=True))
        points = [cells[c].point(sets) for c in open_cells for sets in draws]
        swept = sweep(classifier, rows, points, settings, plain=False, name=f"draws-{done}")
        for c, drawn in zip(open_cells, _judged(swept).unflatten(1, (-1, n)).unbind(1), strict=True):
            parts[c].append(drawn)
        done += n
        if width is not None:
            open_cells = [c for c in open_cells if half_width(torch.cat(parts[c], dim=1)[0].mean(dim=1)) > width]
    return [torch.cat(drawn, dim=1) for drawn in parts]


def _layers(scope: Scope, n_layers: int) -> list[tuple[str, tuple[int, ...]]]:
    """Name and layers of each place to perturb."""
    if scope == "all":
        return [("all layers", tuple(range(n_layers)))]
    if scope == "single":
        return [(f"layer {layer}", (layer,)) for layer in range(n_layers)]
    return [(f"layers 0-{layer}" if layer else "layer 0", tuple(range(layer + 1))) for layer in range(n_layers)]


def check_sweep(kinds: Sequence[str], fractions: Sequence[float], scope: str, n_random: int) -> None:
    """Refuse what would fail or mislead, before any long work."""
    check_kinds(kinds)
    check_fractions(fractions)
    SweepSettings(n_random=n_random).check_intervals()
    if scope not in get_args(Scope):
        raise ValueError(f"`scope` is one of {get_args(Scope)}, not {scope!r}.")


def check_rivals(rivals: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    """Raise unless each rival choice is a score of as many neurons, under a name of its own."""
    for name, score in rivals.items():
        if bool(score.isnan().any()):
            raise ValueError(f"Rival {name!r} holds NaN, which cannot be ranked.")
        if name == "skill" or tuple(score.shape) != shape:
            raise ValueError(
                f"Rival {name!r} needs another name than 'skill' and a score of shape {shape}, but has "
                f"{tuple(score.shape)}."
            )


def _options(study: Study, settings: ReproduceSettings, positions: str = "prompt") -> NecessityOptions:
    return {
        "positions": positions,
        "n_random": settings.n_random,
        "width": settings.width,
        "sigma": settings.sigma,
        "rows": study.sweep_rows(settings),
        "resume_in": study.folder / "sweeps",
    }


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        first, rivals = study.classifiers[0], {}
        if first.model.has_weights:
            rivals["label words"] = label_word_selectivity(
                as_encoder(first.model, "F4"), label_words(first.verbalizer, "F4")
            )
        for positions in ("prompt", "all"):
            result = necessity(
                first,
                study.task,
                study.scores,
                kinds=settings.kinds,
                fractions=settings.fractions,
                rivals=rivals,
                **_options(study, settings, positions),
            )
            yield Measured(result, study.task.name)


def _measure_layers(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        for scope in ("single", "cumulative"):
            result = necessity(
                study.classifiers[0],
                study.task,
                study.scores,
                kinds=("mean",),
                fractions=settings.fractions[-1:],
                scope=scope,
                **_options(study, settings),
            )
            yield Measured(result, study.task.name, figure="plot_necessity_by_layer")


def _claims(records: Sequence[Record]) -> Claims:
    yield from sweep_claims(
        records,
        lambda one, share: (
            f"{one['kind']} at {one['positions']} positions, top {share:.0%}: skill neurons cost more margin"
        ),
    )


register(Finding("F4-necessity", _measure, _claims, order=4))
register(Finding("F4-layers", _measure_layers, order=4.5))
