"""What luck alone would give a search: how good the best of so many neurons looks where none of them knows anything.

Counts only. Costs two hypergeometric tails (scipy) for each distinct number of rows above a baseline, a dozen times:
well below a second.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import hypergeom
from torch import Tensor

from skillneurons.neurons.p_values import adjusted, check_alpha, held_out_intervals
from skillneurons.neurons.scores import NeuronScores


def best_by_luck(
    above: Int[Tensor, "seed label prompt layer neuron"],
    n: Int[Tensor, " label"],
    level: float = 0.95,
    *,
    design_effect: Float[Tensor, "seed layer neuron"] | None = None,
) -> float:
    """The predictivity that the best of all neurons stays at or below with probability `level`, if labels mean nothing.

    With N rows, n_1 of class 1, and K of them above a neuron's baseline at one position, the number of these in class 1
    is hypergeometric when labels are permuted. That gives the chance that this neuron reaches a score there, by either
    direction; the chance that none does is taken as the product over positions and neurons. They share much, and then
    the best of them is lower: so the number errs upwards. Prompts are taken to agree, which lowers nothing.

    Args:
        above: Counts on the rows that choose; `NeuronScores.above`.
        n: Examples of each class.
        level: 0.5 for what to expect, 0.95 for what seldom happens by luck.
        design_effect: Of rows that belong together: how many times more a neuron's count varies than over as many
            independent rows.

    Returns:
        A share of the rows; the mean over seeds.

    Example:
        >>> above = torch.full((1, 2, 16, 12, 3072), 218)  # RoBERTa-base on 872 rows, half of them above
        >>> [round(best_by_luck(above, torch.tensor([436, 436]), level), 3) for level in (0.5, 0.95)]
        [0.583, 0.589]
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` is a probability between 0 and 1, such as 0.95, not {level}.")
    effects = [None] * len(above) if design_effect is None else list(design_effect)
    return sum(_one_prompt(one, n, level, effect) for one, effect in zip(above, effects, strict=True)) / len(above)


def luck_of(scores: NeuronScores, level: float = 0.95) -> float:
    """`best_by_luck` of scores on their validation rows; where these belong together, that is paid for.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> scores = find_skill_neurons(*load_example())
        >>> 0.5 < luck_of(scores, 0.5) <= luck_of(scores, 0.95) <= 1
        True
    """
    return best_by_luck(scores.above, scores.n, level, design_effect=_effects(scores))


def _effects(scores: NeuronScores) -> Tensor | None:
    """Design effects of the association with the labels on validation."""
    return None if scores.design_effects is None else scores.design_effects[:, 0]


def _one_prompt(above: Tensor, n: Tensor, level: float, effect: Tensor | None) -> float:
    total = int(n.sum())
    drawn, cells = np.unique(above.sum(0).numpy(), return_inverse=True)
    n_cells = np.bincount(cells.ravel())
    low, high = total // 2, total
    while low < high:  # the smallest number of rows that is not exceeded with probability `level`
        hits = (low + high) // 2
        lower, upper = _ends(hits + 1, drawn, n)
        exact = _tails_of(lower, upper, drawn, n)
        if effect is None:
            log_none = (n_cells * np.log1p(-np.minimum(exact, 1 - 1e-15))).sum()
        else:
            spread = np.sqrt(np.broadcast_to(effect.double().numpy(), above.shape[1:]))
            normal = _normal_tails(lower, upper, drawn, n, cells.reshape(above.shape[1:]), spread)
            reached = np.maximum(normal, exact[cells.reshape(above.shape[1:])])
            log_none = np.log1p(-np.minimum(reached, 1 - 1e-15)).sum()
        low, high = (low, hits) if log_none >= np.log(level) else (hits + 1, high)
    return low / total


def _ends(hits: int, drawn: np.ndarray, n: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """At most and at least how many of those above must be in class 1 for `hits` right rows, by either direction."""
    n_0, total = int(n[0]), int(n.sum())
    return np.floor((total - hits - n_0 + drawn) / 2), np.ceil((hits - n_0 + drawn) / 2)


def _tails_of(lower: np.ndarray, upper: np.ndarray, drawn: np.ndarray, n: Tensor) -> np.ndarray:
    shape = int(n.sum()), drawn, int(n[1])
    return np.clip(hypergeom.cdf(lower, *shape) + hypergeom.sf(upper - 1, *shape), 0, 1)


def _normal_tails(
    lower: np.ndarray, upper: np.ndarray, drawn: np.ndarray, n: Tensor, cells: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """As `_tails_of`, for each position and neuron by itself, of counts that vary `spread` times as much."""
    n_0, n_1 = (float(count) for count in n)
    total = n_0 + n_1
    sd = np.sqrt(n_0 * n_1 * drawn * (total - drawn) / (total**2 * (total - 1)))
    below, beyond = ((end - drawn * n_1 / total) / np.maximum(sd, 1e-12) for end in (lower, upper))
    z = [torch.from_numpy(end[cells] / spread) for end in (below, -beyond)]
    return torch.special.ndtr(torch.stack(z)).sum(0).numpy()


def chosen_intervals(
    scores: NeuronScores, level: float = 0.95
) -> tuple[Float[Tensor, "layer neuron"], Float[Tensor, "layer neuron"]]:
    """Intervals of predictivity on the rows that chose the neurons, which pay for the choice.

    All positions and neurons at once (Bonferroni over Clopper-Pearson intervals), so that they hold for the best of
    them too. On few rows they say how little a perfect score says. Rows that belong together count as many as they are
    worth, by the design effect of each neuron's association with the labels.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> scores = find_skill_neurons(*load_example())
        >>> low, high = chosen_intervals(scores)
        >>> bool((low <= scores.predictivity).all() and (scores.predictivity <= high).all())
        True
    """
    rows, n_cells = int(scores.n.sum()), scores.above[0, 0].numel()
    hits = (scores.predictivity_by_seed * rows).round().long()
    n_effective = scores.meta.get("groups", {}).get("validation", {}).get("n_effective")
    each, effects = 1 - (1 - level) / n_cells, _effects(scores)
    return held_out_intervals(hits, rows, each, design_effect=effects, n_effective=n_effective)


@dataclass(frozen=True)
class Search:
    """What a search over all neurons of one binary task found, and what luck would have given.

    Args:
        task: Its name.
        n_neurons: Searched.
        alpha: The chance of a single false claim, over all neurons.
        n_significant: Neurons that tell the classes apart on the rows that chose them (validation).
        n_on_test: Neurons that do on test rows, at the position and in the direction chosen on validation.
        best: Highest predictivity on validation.
        luck: What the best of as many neurons reaches there by luck in half of all cases.
        luck_95: What it stays at or below in 95 of 100 cases.
        majority: Share of the larger class on test.
        rows: Of validation and of test.
        groups: Of these, where rows belong together.
        measure: What ranks the neurons.

    Example:
        See `searched`, which makes it.
    """

    task: str
    n_neurons: int
    alpha: float
    n_significant: int
    n_on_test: int
    best: float
    luck: float
    luck_95: float
    majority: float
    rows: tuple[int, int]
    groups: tuple[int | None, int | None] = (None, None)
    measure: str = "predictivity"

    @property
    def nothing(self) -> bool:
        """Whether no neuron tells the classes apart better than luck."""
        return not self.n_significant

    def __str__(self) -> str:
        level = f"{100 * self.alpha:g} % over all neurons"
        rows, test = (
            f"{n:,} {what} rows" + ("" if groups is None else f" in {groups:,} groups")
            for what, n, groups in zip(("validation", "test"), self.rows, self.groups, strict=True)
        )
        best = (
            f"The best reaches {self.best:.3f} on validation; by luck the best of as many reaches {self.luck:.3f}, and "
            f"at most {self.luck_95:.3f} in 95 of 100 cases."
        )
        if self.measure != "predictivity":
            best += f" Neurons are ranked by balanced accuracy; the larger class has {self.majority:.3f} of test rows."
        if self.nothing:
            return (
                f"Nothing found on {self.task}: none of {self.n_neurons:,} neurons tells the classes apart better than "
                f"luck on {rows} ({level}); on {test} {self.n_on_test:,} do. {best}"
            )
        confirmed = "none of them confirmed" if not self.n_on_test else f"{self.n_on_test:,}"
        return (
            f"{self.task}: {self.n_significant:,} of {self.n_neurons:,} neurons tell the classes apart on {rows} "
            f"({level}), {confirmed} on {test}. {best}"
        )


def searched(scores: NeuronScores, *, alpha: float = 0.05) -> Search:
    """How many neurons tell the classes apart, of how many, and what luck would give.

    Args:
        scores: Of a binary task, for one or several prompts.
        alpha: Error rate over all neurons.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> found = searched(find_skill_neurons(*load_example()))
        >>> found.n_neurons, found.rows, found.best > found.luck_95
        (3072, (32, 32), False)
    """
    check_alpha(alpha)
    significant = {rows: int((adjusted(scores.p_values(rows=rows)) <= alpha).sum()) for rows in ("validation", "test")}
    return Search(
        task=scores.meta["task"],
        n_neurons=scores.predictivity.numel(),
        alpha=alpha,
        n_significant=significant["validation"],
        n_on_test=significant["test"],
        best=scores.predictivity.max().item(),
        luck=luck_of(scores, 0.5),
        luck_95=luck_of(scores, 0.95),
        majority=scores.majority,
        rows=(int(scores.n.sum()), int(scores.n_test.sum())),
        groups=(scores.groups("validation"), scores.groups("test")),
        measure=scores.measure,
    )
