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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, check_answers
from skillneurons.classifiers.evaluation import Evaluation, check_labels, evaluation_of, label_margin
from skillneurons.findings.common import ScoresOfTask, as_list, check_same_model
from skillneurons.interventions.curve import check_fractions
from skillneurons.interventions.gaps import paired_gap, spread
from skillneurons.interventions.perturbation import Kind, check_kinds, intervention
from skillneurons.interventions.sweep import kept, logits_many
from skillneurons.neurons.neuron_set import NeuronSet, top_like
from skillneurons.neurons.scores import union_of_top
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities.results import Shown, drawn_by
from skillneurons.utilities.types import FwdHooks, Row

Scope: TypeAlias = Literal["all", "single", "cumulative"]
KINDS: tuple[Kind, ...] = ("mean", "resample", "zero", "gaussian")
FIRST_DRAWS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Necessity(Shown):
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
    meta: dict[str, Any] = field(default_factory=dict)

    plot = drawn_by("plot_necessity")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each group, kind, scope and fraction. Where `n_neurons` is 0 there was nothing to perturb."""
        table = []
        axes = (self.groups, self.kinds, self.scopes, self.fractions)
        for g, k, s, f in product(*(range(len(axis)) for axis in axes)):
            row: dict[str, Any] = {"positions": self.meta.get("positions"), "group": self.groups[g]}
            row |= {"kind": self.kinds[k], "scope": self.scopes[s], "fraction": self.fractions[f]}
            for name, own, random, gap in (
                ("accuracy", self.accuracy, self.random_accuracy, self.accuracy_gap),
                ("margin", self.margin, self.random_margin, self.margin_gap),
            ):
                row |= {name: own[g, k, s, f].item(), f"random_{name}": random[k, s, f].item()}
                ends = zip(("gap", "gap_low", "gap_high"), gap[g, k, s, f].tolist(), strict=True)
                row |= {f"{name}_{end}": value for end, value in ends}
            row["n_neurons"] = self.meta["n_neurons"][s][f]
            table.append(row | {"n_draws": int(self.n_draws[k, s, f])})
        return pd.DataFrame(table)

    def _table(self) -> pd.DataFrame:
        columns = ["group", "kind", "scope", "fraction", "accuracy", "random_accuracy", "accuracy_gap"]
        return self.to_dataframe().loc[:, columns].round(3)

    def __repr__(self) -> str:
        where = f"{self.meta.get('positions')} positions; unperturbed {self.unperturbed.accuracy:.3f}"
        return f"Necessity({where})\n{self._table()}"


def necessity(
    classifier: Classifier,
    task: Task,
    scores: ScoresOfTask,
    *,
    kinds: Sequence[Kind] = KINDS,
    fractions: Sequence[float] = (0.03, 0.1, 0.3),
    scope: Scope = "all",
    positions: str = "prompt",
    rivals: Mapping[str, Float[Tensor, "layer neuron"]] | None = None,
    n_random: int = 20,
    width: float | None = None,
    sigma: float = 0.1,
    seed: int = 0,
    per_layer: bool = True,
    rows: Sequence[Row] | Encoded | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    resume_in: str | Path | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Necessity:
    """Does perturbing skill neurons hurt more than perturbing as many random ones, and by how much?

    Args:
        classifier: In eval mode; may have hooks of its own, such as a tuned adapter's.
        task: Training rows give means and sources; test rows are evaluated.
        scores: Rank the neurons; a list for a task of several classes. They may come from other classifiers on the
            model.
        kinds: Interventions, see `perturbation.intervention`.
        fractions: Shares of neurons, below one half.
        scope: Perturb in `"all"` layers at once, in each `"single"` layer, or `"cumulative"`: layers 0 to l, for each
            l.
        positions: `"prompt"`, `"text"`, `"all"` and so on.
        rivals: Other scores to choose neurons by, such as `selectivity.label_word_selectivity`, each perturbed as well:
            as many in each layer as skill neurons, so that the same random sets are their control.
        n_random: Most random sets for each cell; disjoint from the skill neurons and matched layer by layer.
        width: Stop drawing random sets for a cell once the half-width of the 95 % interval of their mean accuracy is at
            most this. Draws come in fours, in the order of the seed. None: draw all. Where no draw changes an answer,
            the width is zero and four are all there are.
        sigma: Of Gaussian noise, in units of the activation.
        seed: Of random sets, noise and resampling.
        per_layer: Take the share of each layer, or of the whole model.
        rows: Evaluate these instead of all test rows.
        tokens_per_batch: Padded positions in one forward pass; interventions share it where rows leave room.
        resume_in: A folder that keeps the logits of each finished sweep: of the chosen neurons, and of every four
            draws. An interrupted call goes on from there. Not for classifiers with hooks of their own.
        on_batch: Called with (rows done, rows), from 0 anew for each sweep.

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
    model, ranked, rivals = classifier.model, as_list(scores), dict(rivals or {})
    check_same_model(ranked, classifier.prompt.model)
    check_answers(classifier, task)
    check_sweep(kinds, fractions, scope, n_random, rivals, tuple(ranked[0].predictivity.shape))
    layer_sets = _layers(scope, model.cfg.n_layers)
    encoded = classifier.encode(task.test if rows is None else rows)
    check_labels(encoded.labels, task.n_labels)
    if len(encoded) < 2:
        raise ValueError(f"Intervals over rows need two rows or more, but there is {len(encoded)}. Pass more `rows`.")

    skill = [union_of_top(ranked, fraction, per_layer) for fraction in fractions]
    groups = {"skill": skill} | {name: [top_like(score, one) for one in skill] for name, score in rivals.items()}
    stop = classifier.layout.positions(positions).stop
    cells = list(product(range(len(kinds)), range(len(layer_sets)), range(len(fractions))))
    for one in skill:
        one.random_like(seed=seed * 10_007)  # Refuses where too few neurons are left, before any pass.
    perturbs = [intervention(kind, classifier, task, positions=positions, sigma=sigma, seed=seed) for kind in kinds]

    def run(
        name: str, wanted: Sequence[tuple[int, int, NeuronSet]], plain: Sequence[FwdHooks] = ()
    ) -> Float[Tensor, "intervention batch label"]:
        sets = [chosen.layers(*layer_sets[s][1]) for _, s, chosen in wanted]
        hooks = [perturbs[k](one) for (k, _, _), one in zip(wanted, sets, strict=True)]

        def compute() -> Tensor:
            return logits_many(
                classifier,
                encoded,
                [*plain, *hooks],
                last_block_to=stop,
                tokens_per_batch=tokens_per_batch,
                on_batch=on_batch,
            )

        settings = {"kinds": [kinds[k] for k, _, _ in wanted], "positions": positions, "sigma": sigma, "seed": seed}
        settings |= {"task": task.fingerprint, "plain": len(plain)}
        return kept(resume_in, name, classifier, encoded, sets, settings, compute)

    def judged(logits: Tensor) -> Float[Tensor, "two intervention batch"]:
        """Right or not, and margin, of each row."""
        right = (logits.argmax(dim=2) == encoded.labels).float()
        return torch.stack([right, torch.stack([label_margin(one, encoded.labels) for one in logits])])

    def random_sets(draws: range, cell: tuple[int, int, int]) -> list[tuple[int, int, NeuronSet]]:
        k, s, f = cell
        return [(k, s, skill[f].random_like(seed=seed * 10_007 + draw)) for draw in draws]

    chosen = [(k, s, sets[f]) for sets in groups.values() for k, s, f in cells]
    plain, *perturbed = run("chosen", chosen, plain=[[]])
    own = judged(torch.stack(perturbed)).unflatten(1, (len(groups), len(cells)))
    random: list[list[Tensor]] = [[] for _ in cells]
    n_done, open_cells = 0, list(range(len(cells)))
    while open_cells and n_done < n_random:
        draws = range(n_done, min(n_random, n_done + FIRST_DRAWS))
        wanted = [one for c in open_cells for one in random_sets(draws, cells[c])]
        drawn = judged(run(f"draws-{draws.start}", wanted)).unflatten(1, (len(open_cells), len(draws)))
        for i, c in enumerate(open_cells):
            random[c].append(drawn[:, i])
        n_done = draws.stop
        if width is not None:
            open_cells = [c for c in open_cells if half_width(torch.cat(random[c], dim=1)[0].mean(dim=1)) > width]
    by_cell = [torch.cat(parts, dim=1) for parts in random]

    shape, spreads = (len(kinds), len(layer_sets), len(fractions)), [spread(one) for one in skill]
    gaps = torch.tensor(
        [
            [
                [paired_gap(own[q, g, c], by_cell[c][q], spreads[cells[c][2]]) for c in range(len(cells))]
                for g in range(len(groups))
            ]
            for q in (0, 1)
        ],
        dtype=torch.float64,
    ).unflatten(2, shape)
    means = own.double().mean(dim=-1).unflatten(2, shape)
    random_means = torch.stack([drawn.double().mean(dim=(1, 2)) for drawn in by_cell], dim=1).unflatten(1, shape)
    return Necessity(
        groups=tuple(groups),
        kinds=tuple(kinds),
        scopes=tuple(name for name, _ in layer_sets),
        fractions=tuple(fractions),
        accuracy=means[0],
        margin=means[1],
        random_accuracy=random_means[0],
        random_margin=random_means[1],
        accuracy_gap=gaps[0],
        margin_gap=gaps[1],
        n_draws=torch.tensor([drawn.shape[1] for drawn in by_cell]).unflatten(0, shape),
        unperturbed=evaluation_of(plain, encoded.labels),
        meta={
            "task": task.name,
            "positions": positions,
            "sigma": sigma,
            "seed": seed,
            "per_layer": per_layer,
            "classifier_seed": classifier.prompt.seed,
            "score_seeds": ranked[0].seeds,
            "n_rows": len(encoded),
            "n_random": n_random,
            "width": width,
            "n_neurons": [[len(one.layers(*layers)) for one in skill] for _, layers in layer_sets],
        },
    )


def half_width(means: Float[Tensor, " draw"], level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean over random draws; infinite for a single draw.

    Example:
        >>> half_width(torch.tensor([0.5, 0.5, 0.5]))
        0.0
    """
    n = len(means)
    if n < 2:
        return float("inf")
    return float(stats.t.ppf((1 + level) / 2, n - 1)) * means.double().std().item() / n**0.5


def _layers(scope: Scope, n_layers: int) -> list[tuple[str, tuple[int, ...]]]:
    """Name and layers of each place to perturb."""
    if scope == "all":
        return [("all layers", tuple(range(n_layers)))]
    if scope == "single":
        return [(f"layer {layer}", (layer,)) for layer in range(n_layers)]
    return [(f"layers 0-{layer}" if layer else "layer 0", tuple(range(layer + 1))) for layer in range(n_layers)]


def check_sweep(
    kinds: Sequence[str],
    fractions: Sequence[float],
    scope: str,
    n_random: int,
    rivals: Mapping[str, Tensor],
    shape: tuple[int, ...],
) -> None:
    """Refuse what would fail or mislead, before any long work."""
    check_kinds(kinds)
    check_fractions(fractions)
    if scope not in get_args(Scope):
        raise ValueError(f"`scope` is one of {get_args(Scope)}, not {scope!r}.")
    if n_random < 2:
        raise ValueError(f"`n_random` is {n_random}; at least two random sets are needed to see how much they differ.")
    for name, score in rivals.items():
        if bool(score.isnan().any()):
            raise ValueError(f"Rival {name!r} holds NaN, which cannot be ranked.")
        if name == "skill" or tuple(score.shape) != shape:
            raise ValueError(
                f"Rival {name!r} needs another name than 'skill' and a score of shape {shape}, but has "
                f"{tuple(score.shape)}."
            )
