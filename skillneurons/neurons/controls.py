"""Controls beside a claim: what it amounts to on untouched rows, on labels without meaning, and for random neurons.

Counts only, apart from `control_task`, whose scores cost as much as any task's.
"""

from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.neurons.luck import chosen_intervals, luck_of
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.p_values import Correction, OverSeeds, adjusted
from skillneurons.neurons.scores import NeuronScores
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.results import Result
from skillneurons.utilities.types import Json

MOST_DRAWS = 1_000_000


@checked
def claims(
    scores: NeuronScores,
    n: int = 10,
    *,
    level: float = 0.95,
    method: Correction = "fwer",
    rows: Literal["validation", "test"] = "validation",
    over_seeds: OverSeeds = "normal",
) -> pd.DataFrame:
    """The best neurons with everything a reader needs to judge them.

    Args:
        scores: Of one or several prompts.
        n: How many; the highest in `scores.ranking`, on validation, so that test rows have no say in the choice.
        level: At which all `n` intervals hold together (each is computed at `1 - (1 - level) / n`).
        method: Adjustment of the p-values; see `statistics.adjusted`.
        rows: Which rows the p-values come from; see `NeuronScores.p_values`.
        over_seeds: See `statistics.combine_seeds`.

    Returns:
        One row for each neuron: `predictivity` (validation, where it was chosen) with its interval
        `predictivity_low` to `predictivity_high`, which pays for the choice among all, and `luck`, what the best of as
        many neurons reaches by luck in half of all cases; `held_out` (test) with its interval `low` to `high`;
        `optimism` (predictivity less held out: what choosing and scoring on the same rows adds),
        `held_out_balanced`, `majority` (what always answering the larger class scores on test), `p` and `p_adjusted`.
        Where rows carry a `"group"`, also `n_groups` of the test rows and the `design_effect` of `held_out`.

    Example:
        >>> from skillneurons import claims, find_skill_neurons, load_example
        >>> scores = find_skill_neurons(*load_example())
        >>> claims(scores, 2)[["optimism", "p_adjusted"]].shape
        (2, 2)
    """
    check_whole("n", n, low=1)
    table = scores.to_dataframe()
    low, high = scores.held_out_interval(1 - (1 - level) / max(1, min(n, len(table))))
    p = scores.p_values(rows=rows, over_seeds=over_seeds)
    chosen_low, chosen_high = chosen_intervals(scores, level)
    columns = {
        "predictivity_low": chosen_low,
        "predictivity_high": chosen_high,
        "low": low,
        "high": high,
        "p": p,
        "p_adjusted": adjusted(p, method),
    }
    table = table.assign(
        optimism=table.predictivity - table.held_out,
        majority=scores.majority,
        luck=luck_of(scores, 0.5),
        **{name: tensor.flatten().numpy() for name, tensor in columns.items()},
    )
    order = [
        "layer",
        "neuron",
        "predictivity",
        "predictivity_low",
        "predictivity_high",
        "luck",
        "held_out",
        "low",
        "high",
        "optimism",
        "held_out_balanced",
        "majority",
    ]
    order += ["p", "p_adjusted"]
    if scores.design_effects is not None:
        effects = scores.design_effects[:, 2].mean(0).flatten().numpy()
        table, order = (
            table.assign(n_groups=scores.groups(), design_effect=effects),
            [*order, "n_groups", "design_effect"],
        )
    return scores.ranked(table).head(n).reset_index(drop=True).reindex(columns=order)


@dataclass(frozen=True, eq=False, repr=False)
class Selectivity(Result):
    """Each neuron on a task and on its control task.

    Args:
        predictivity: On the task's validation rows.
        control: On the same rows with the control task's labels.
        held_out: On the task's test rows.
        majority: What always answering the larger class scores on test.
        meta: Names of the two tasks.
    """

    predictivity: Float[Tensor, "layer neuron"]
    control: Float[Tensor, "layer neuron"]
    held_out: Float[Tensor, "layer neuron"]
    majority: float
    meta: dict[str, Json] = field(default_factory=dict)

    @property
    def selectivity(self) -> Float[Tensor, "layer neuron"]:
        """Predictivity on the task less that on its control.

        For a neuron that knows nothing, the gain from choosing position and direction cancels. One that knows the label
        gains less by that on the task than on the control, and so comes out a little too low.
        """
        return self.predictivity - self.control

    @property
    def above_majority(self) -> Float[Tensor, "layer neuron"]:
        """Held-out accuracy less the majority floor: below 0, a constant answer does better."""
        return self.held_out - self.majority

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron."""
        layer, neuron = torch.meshgrid(*(torch.arange(size) for size in self.control.shape), indexing="ij")
        columns = {"layer": layer, "neuron": neuron, "predictivity": self.predictivity, "control": self.control}
        columns |= {"selectivity": self.selectivity, "held_out": self.held_out, "above_majority": self.above_majority}
        return pd.DataFrame({name: tensor.flatten().numpy() for name, tensor in columns.items()})

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe().nlargest(5, "predictivity").reset_index(drop=True)

    def __repr__(self) -> str:
        best = self.selectivity.max().item()
        return f"Selectivity({self.meta.get('task')} less {self.meta.get('control')}: at most {best:.3f})"


@checked
def selectivity(scores: NeuronScores, control: NeuronScores) -> Selectivity:
    """Compare scores on a task with scores on `control_task(task)`, from the same prompts.

    Raises:
        ValueError: The scores are of different models, or the second is not of the first one's control task; or they
            differ in prompts, positions or numbers of rows, which move predictivity too.

    Example:
        >>> from skillneurons import control_task, find_skill_neurons
        >>> from skillneurons import load_example, selectivity
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> result = selectivity(scores, find_skill_neurons(classifier, control_task(task)))
        >>> result.selectivity.shape
        torch.Size([4, 768])
        >>> result.to_dataframe().columns[2:].tolist()
        ['predictivity', 'control', 'selectivity', 'held_out', 'above_majority']
    """
    task, other = scores.meta["task"], control.meta["task"]
    if scores.meta["model"] != control.meta["model"] or other != f"{task}:control":
        raise ValueError(
            f"`control` needs scores of '{task}:control' on the same model, but is of {other!r} "
            f"(models {scores.meta['model']} and {control.meta['model']}). Score `control_task(task)`."
        )
    # More positions or fewer rows raise predictivity by themselves.
    for what, (one, two) in {
        "prompts of the same seeds": (scores.seeds, control.seeds),
        "the same `positions`": (scores.meta["positions"], control.meta["positions"]),
        "as many positions": (scores.above.shape[2], control.above.shape[2]),
        "as many rows": (scores.meta["rows"], control.meta["rows"]),
    }.items():
        if one != two:
            raise ValueError(
                f"`scores` and `control` need {what}, but have {one} and {two}. Score both with the same prompts."
            )
    meta = {"task": task, "control": other, "seeds": scores.seeds}
    return Selectivity(scores.predictivity, control.predictivity, scores.held_out, scores.majority, meta)


@dataclass(frozen=True, eq=False)
class RandomComparison:
    """A set's mean score beside that of random sets.

    Args:
        chosen: Mean score of the set.
        random: Mean score of each random set.
        p: Share of sets, the chosen one included, that score as high.
        meta: How random sets were matched.
    """

    chosen: float
    random: Float[Tensor, " draw"]
    p: float
    meta: dict[str, Json] = field(default_factory=dict)

    def __repr__(self) -> str:
        low, high = self.random.min().item(), self.random.max().item()
        band = f"{len(self.random)} random sets {low:.3f} to {high:.3f}"
        return f"RandomComparison({self.chosen:.3f}; {band}, p {self.p:.3g})"


@checked
def against_random(
    score: Float[Tensor, "layer neuron"],
    chosen: NeuronSet,
    *,
    n_draws: int = 200,
    seed: int = 0,
    match: Literal["layer", "none"] | Float[Tensor, "layer neuron"] = "layer",
) -> RandomComparison:
    """Is a set's mean score above that of random sets?

    These are drawn from all neurons: the set, were it a random one, would be one draw among others, so that `p` is at
    most 0.05 with probability 0.05.

    Args:
        score: Not the score that the set was chosen by on the same rows; `NeuronScores.held_out` usually.
        chosen: The set.
        n_draws: Random sets.
        seed: Of the draws.
        match: What random sets share with it; see `NeuronSet.random_like`.

    Example:
        >>> score = torch.tensor([[0.9, 0.5, 0.6, 0.5]])
        >>> against_random(score, NeuronSet(score > 0.8), n_draws=9).p
        0.2
    """
    if score.shape != chosen.mask.shape:
        raise ValueError(
            f"`score` needs one number for each neuron of `chosen`, {tuple(chosen.mask.shape)}, but is "
            f"{tuple(score.shape)}. Both belong to one model."
        )
    check_whole("n_draws", n_draws, high=MOST_DRAWS)
    if not len(chosen) or n_draws < 1:
        raise ValueError(
            f"A comparison needs neurons and draws, but `chosen` has {len(chosen)}, `n_draws` is {n_draws}."
        )
    if bool(score[chosen.exists].isnan().any()):
        raise ValueError("`score` holds NaN, which can be neither above nor below. Give such neurons a score.")
    value = score[chosen.mask].double().mean()
    sets = chosen.random_sets(n_draws, seed=seed, match=match, disjoint=False)
    random = torch.stack([score[one.mask].double().mean() for one in sets])
    p = (1 + int((random >= value - 1e-12).sum())) / (n_draws + 1)
    how = match if isinstance(match, str) else "values"
    return RandomComparison(value.item(), random, p, {"match": how, "seed": seed, "n_neurons": len(chosen)})
