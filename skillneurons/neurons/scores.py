"""NeuronScores: how well every neuron tells the classes apart, on rows that choose and on rows that report."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.distributed import Ranks
from skillneurons.activations.statistic import check_even_layers
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import place_and_pool
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import are_unequal
from skillneurons.neurons._predictivity import (
    accuracy_from_counts,
    balanced_accuracy_from_counts,
    best_position,
    held_out_accuracy,
    predictivity,
)
from skillneurons.neurons.design_effects import counted
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.p_values import (
    Correction,
    OverSeeds,
    adjusted,
    check_alpha,
    held_out_hits,
    held_out_intervals,
    held_out_p_values,
    neuron_p_values,
)
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Encoded
from skillneurons.tasks.task import SPLITS, Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.intervals import in_words
from skillneurons.utilities.progress import SHOW_AFTER, called, told
from skillneurons.utilities.results import Result, drawn_by
from skillneurons.utilities.types import Json, Progress

TENSORS = ("above", "n", "above_test", "n_test", "baseline")
EFFECTS = "design_effects"  # not in files of scores without groups, nor in those of earlier versions
MOST_SEEN = 0.01  # share of test rows that may be in other splits too before it is worth a warning
Measure: TypeAlias = Literal["predictivity", "balanced_accuracy"]


@checked
@dataclass(frozen=True, eq=False, repr=False)
class NeuronScores(Result):
    """Counts of decisions for every neuron, and what follows from them.

    Args:
        above: Examples of each class above the baseline, on validation: `[seed label prompt layer neuron]`.
        n: Validation examples of each class.
        above_test: The same on test.
        n_test: Test examples of each class.
        baseline: Mean activation on train, `[seed prompt layer neuron]`.
        meta: Provenance: model, task, seeds, positions, versions.
        design_effects: Where rows belong together, how many times more varies than for as many independent rows: each
            neuron's association with the labels on validation, that on test, and its accuracy on test.

    Example:
        See `find_skill_neurons`, which makes it.
    """

    above: Int[Tensor, "seed label prompt layer neuron"]
    n: Int[Tensor, " label"]
    above_test: Int[Tensor, "seed label prompt layer neuron"]
    n_test: Int[Tensor, " label"]
    baseline: Float[Tensor, "seed prompt layer neuron"]
    meta: dict[str, Json] = field(default_factory=dict)
    design_effects: Float[Tensor, "seed 3 layer neuron"] | None = None

    plot = drawn_by("plot_predictivity_by_layer")
    explore = drawn_by("explore_scores")

    @property
    def seeds(self) -> list[int]:
        return self.meta["seeds"]

    @property
    def accuracy(self) -> Float[Tensor, "seed prompt layer neuron"]:
        """`Acc(n, p)` on validation, for each seed. Source: Wang et al. 2022, equation 4."""
        return torch.stack([accuracy_from_counts(above, self.n) for above in self.above])

    @property
    def test_accuracy(self) -> Float[Tensor, "seed prompt layer neuron"]:
        """`Acc(n, p)` on test, for each seed."""
        return torch.stack([accuracy_from_counts(above, self.n_test) for above in self.above_test])

    @property
    def predictivity(self) -> Float[Tensor, "layer neuron"]:
        """`Pred(n)` on validation, averaged over seeds. Source: Wang et al. 2022, equation 6."""
        return predictivity(self.accuracy).mean(dim=0)

    @property
    def predictivity_by_seed(self) -> Float[Tensor, "seed layer neuron"]:
        return predictivity(self.accuracy)

    @property
    def balanced_predictivity(self) -> Float[Tensor, "layer neuron"]:
        """As `predictivity`, of balanced accuracy: 1/2 for a neuron that is always on one side."""
        return self._balanced_by_seed.mean(dim=0)

    @property
    def _balanced_by_seed(self) -> Float[Tensor, "seed layer neuron"]:
        balanced = torch.stack([balanced_accuracy_from_counts(above, self.n) for above in self.above])
        return predictivity(balanced)

    @property
    def measure(self) -> Measure:
        """What ranks the neurons: `"predictivity"`, or `"balanced_accuracy"`; see `find_skill_neurons`."""
        return self.meta.get("measure", "predictivity")

    @property
    def ranking(self) -> Float[Tensor, "layer neuron"]:
        """The validation score that `top`, `best` and `claims` rank by: that of `measure`."""
        return self.predictivity if self.measure == "predictivity" else self.balanced_predictivity

    @property
    def ranking_by_seed(self) -> Float[Tensor, "seed layer neuron"]:
        """`ranking` under each prompt by itself."""
        return self.predictivity_by_seed if self.measure == "predictivity" else self._balanced_by_seed

    @property
    def held_out(self) -> Float[Tensor, "layer neuron"]:
        """Accuracy on test, at the position and in the direction chosen on validation, averaged over seeds."""
        return held_out_accuracy(self.accuracy, self.test_accuracy).mean(dim=0)

    @property
    def held_out_balanced(self) -> Float[Tensor, "layer neuron"]:
        """Balanced accuracy on test, at the position and in the direction that is best by it on validation.

        Both classes weigh the same: a constant neuron scores 1/2. Averaged over seeds.
        """
        chosen, reported = (
            torch.stack([balanced_accuracy_from_counts(above, n) for above in counts])
            for counts, n in ((self.above, self.n), (self.above_test, self.n_test))
        )
        return held_out_accuracy(chosen, reported).mean(dim=0)

    @property
    def majority(self) -> float:
        """Share of the larger class on test: what a constant neuron scores at best."""
        return self.n_test.max().item() / self.n_test.sum().item()

    def top(self, fraction: float, per_layer: bool = True, *, score: Tensor | None = None) -> NeuronSet:
        """The most predictive neurons, by `ranking` unless another `[layer neuron]` score is given.

        Args:
            fraction: Share of the neurons.
            per_layer: Of each layer, as the authors do, or of the whole model.
            score: Rank by this instead.
        """
        chosen = top_neurons(
            self.ranking if score is None else score, fraction, per_layer=per_layer, model=self.meta["model"]
        )
        provenance = {key: value for key, value in self.meta.items() if key != "model"}
        return NeuronSet(chosen.mask, chosen.model, chosen.meta | provenance)

    def p_values(
        self, *, rows: Literal["validation", "test"] = "validation", over_seeds: OverSeeds = "normal"
    ) -> Float[Tensor, "layer neuron"]:
        """p-value of each neuron, not adjusted for the number of neurons: exact where rows share nothing.

        Where they carry a `"group"`, each neuron pays by its design effect; see `statistics.grouped_p_values`.

        Args:
            rows: `"validation"`: the best position and direction are paid for, and test rows stay untouched.
                `"test"`: one tail at the position and in the direction chosen on validation; not touched by the
                prompt's early stopping, which saw the validation labels.
            over_seeds: See `statistics.combine_seeds`.
        """
        if rows == "validation":
            return neuron_p_values(self.above, self.n, over_seeds=over_seeds, design_effect=self._effects(0))
        if rows == "test":
            return held_out_p_values(
                self.above,
                self.n,
                self.above_test,
                self.n_test,
                over_seeds=over_seeds,
                design_effect=self._effects(1),
            )
        raise ValueError(f"`rows` is 'validation' or 'test', not {rows!r}.")

    def _effects(self, which: int) -> Float[Tensor, "seed layer neuron"] | None:
        return None if self.design_effects is None else self.design_effects[:, which]

    def groups(self, rows: Literal["validation", "test"] = "test") -> int | None:
        """How many groups of rows that belong together there are; None where rows share nothing."""
        return self.meta.get("groups", {}).get(rows, {}).get("n_groups")

    def significant(
        self,
        alpha: float = 0.05,
        method: Correction = "fwer",
        *,
        rows: Literal["validation", "test"] = "validation",
        over_seeds: OverSeeds = "normal",
    ) -> NeuronSet:
        """The neurons that tell the classes apart better than chance allows among so many.

        Exact and slightly conservative. `decisions.permutation_test` also uses how neurons depend on each other.

        Args:
            alpha: Error rate over all neurons.
            method: `"fwer"`: the chance that even one of them is a false claim. `"fdr"`: the expected share of
                false claims among them. `"fdr_any"`: that, however neurons depend on each other.
            rows: See `p_values`.
            over_seeds: See `statistics.combine_seeds`.

        Returns:
            Possibly empty.

        Raises:
            ValueError: `alpha` is not between 0 and 1, or an option is none of those listed.
        """
        check_alpha(alpha)
        mask = adjusted(self.p_values(rows=rows, over_seeds=over_seeds), method) <= alpha
        choice = {"alpha": alpha, "method": method, "rows": rows, "over_seeds": over_seeds}
        if (n_groups := self.groups(rows)) is not None:
            choice["n_groups"] = n_groups
        provenance = {key: value for key, value in self.meta.items() if key not in ("model", "rows")}
        return NeuronSet(mask, self.meta["model"], provenance | choice)

    def held_out_interval(
        self, level: float = 0.95
    ) -> tuple[Float[Tensor, "layer neuron"], Float[Tensor, "layer neuron"]]:
        """Exact interval of each neuron's `held_out` accuracy; see `statistics.held_out_intervals`.

        Where test rows carry a `"group"`, that of as many independent rows as these are worth.
        """
        hits = held_out_hits(self.above, self.n, self.above_test, self.n_test)
        n_effective = self.meta.get("groups", {}).get("test", {}).get("n_effective")
        return held_out_intervals(
            hits, int(self.n_test.sum()), level, design_effect=self._effects(2), n_effective=n_effective
        )

    def best(self, n: int = 10) -> pd.DataFrame:
        """The `n` neurons that rank highest, with their held-out accuracy; see `ranking`."""
        check_whole("n", n, 1)
        return self.ranked(self.to_dataframe()).head(n).reset_index(drop=True)

    def ranked(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of all neurons, the highest in `ranking` first; the first neuron wins a tie."""
        return table.iloc[self.ranking.flatten().argsort(descending=True, stable=True).numpy()]

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron: layer, neuron, predictivity, held-out accuracy (plain and balanced)."""
        n_layers, d_mlp = self.predictivity.shape
        layer, neuron = torch.meshgrid(torch.arange(n_layers), torch.arange(d_mlp), indexing="ij")
        columns = {
            "layer": layer,
            "neuron": neuron,
            "predictivity": self.predictivity,
            "held_out": self.held_out,
            "held_out_balanced": self.held_out_balanced,
        }
        return pd.DataFrame({name: tensor.flatten().numpy() for name, tensor in columns.items()})

    def _table(self) -> pd.DataFrame:
        return self.best(5)

    def position_of(self, layer: int, neuron: int, seed_index: int = 0) -> tuple[int, bool]:
        """Prompt position at which a neuron is most predictive, and whether "above" means label 1 there."""
        position, upward = best_position(self.accuracy[seed_index])
        return int(position[layer, neuron]), bool(upward[layer, neuron])

    def __repr__(self) -> str:
        layer, neuron = divmod(int(self.ranking.argmax()), self.ranking.shape[1])
        how = "" if self.measure == "predictivity" else f" ranked by balanced accuracy (majority {self.majority:.2f})"
        return (
            f"NeuronScores({self.meta.get('task')}, seeds {self.seeds}, {self.predictivity.numel():,} neurons{how}; "
            f"best: layer {layer} neuron {neuron}, validation {self.predictivity[layer, neuron]:.3f}, "
            f"held out {self.held_out[layer, neuron]:.3f}{self._groups_in_words(layer, neuron)})"
        )

    def _groups_in_words(self, layer: int, neuron: int) -> str:
        effects = self._effects(2)
        return "" if effects is None else in_words(self.groups(), effects[:, layer, neuron].mean().item())

    def save(self, path: str | Path) -> Path:
        """Write `path.safetensors` and `path.json`."""
        return store.save(path, "NeuronScores", self._tensors(), self.meta)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: getattr(self, name) for name in TENSORS}
        return tensors if self.design_effects is None else tensors | {EFFECTS: self.design_effects}

    @classmethod
    def load(cls, path: str | Path) -> "NeuronScores":
        """Read what `save` wrote, in this version or an earlier one."""
        tensors, meta = store.load(path, "NeuronScores")
        return cls(**{name: tensors[name] for name in TENSORS}, meta=meta, design_effects=tensors.get(EFFECTS))

    @classmethod
    def merge_seeds(cls, parts: Sequence["NeuronScores"]) -> "NeuronScores":
        """Scores of several seeds on one task as one."""
        first = parts[0]
        for part in parts[1:]:
            for key in ("model", "task_fingerprint", "positions"):
                if part.meta[key] != first.meta[key]:
                    raise ValueError(
                        f"Scores to merge must agree on {key}, but have {first.meta[key]!r} and {part.meta[key]!r}."
                    )
        effects = [part.design_effects for part in parts if part.design_effects is not None]
        if len(effects) not in (0, len(parts)):
            raise ValueError(
                f"Of {len(parts)} scores to merge, {len(effects)} know which rows belong together. Score all of them "
                "on rows with a 'group', or none."
            )
        seeds = [seed for part in parts for seed in part.seeds]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"Scores to merge must be of different seeds, but have {seeds}.")
        joined = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in ("above", "above_test", "baseline")
        }
        joined = joined | {EFFECTS: torch.cat(effects)} if effects else joined
        return cls(n=first.n, n_test=first.n_test, meta=first.meta | {"seeds": seeds}, **joined)


def union_of_top(scores: Sequence[NeuronScores], fraction: float, per_layer: bool = True) -> NeuronSet:
    """Skill neurons of a task of several classes: the union of its subtasks' top neurons, each with an equal share.

    Source: Wang et al. 2022, section 3.2. The union is smaller than `fraction` where subtasks share neurons.

    Args:
        scores: Of each subtask, on one model.
        fraction: Share of all neurons, divided among the subtasks.
        per_layer: See `NeuronScores.top`.
    """
    if not scores:
        raise ValueError("`scores` is empty; pass the scores of each subtask.")
    if not 0 <= fraction <= 1:
        raise ValueError(f"`fraction` is a share of the neurons, from 0 to 1, not {fraction}.")
    union = scores[0].top(fraction / len(scores), per_layer)
    for other in scores[1:]:
        union = union | other.top(fraction / len(scores), per_layer)
    meta = {"fraction": fraction, "per_layer": per_layer, "tasks": [one.meta["task"] for one in scores]}
    return NeuronSet(union.mask, union.model, meta | {"seeds": scores[0].seeds})


@checked
def find_skill_neurons(
    classifiers: Classifier | Sequence[Classifier],
    task: Task,
    *,
    positions: str = "prompt",
    progress: Progress | bool = True,
    accelerator: Ranks | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    measure: Measure | None = None,
) -> NeuronScores:
    """Score every neuron on a binary task, for one or several prompts.

    The baseline is taken on train; position, direction and ranking are chosen on validation; test is only reported on.
    Source: Wang et al. 2022, section 3.1. Unlike the authors' code, no row serves for two of the three.

    Costs one pass over each split for each classifier; memory does not grow with the number of rows. Where rows carry a
    `"group"`, one more over validation, and one bit for each neuron and row of validation, two of test.

    Args:
        classifiers: Usually tuned with different seeds.
        task: Two classes. For more, score its `subtasks()`.
        positions: `"prompt"`; `"mask"` or `"mask_and_prompt"` (the authors' count) include the mask; `"text, mean"` and
            `"text, max"` are of each row's words together, with the prompt in front of them.
        progress: Bars or lines where it takes longer than a few seconds, in one process; False for neither, or a
            function that is called with (seed and split, rows done, rows).
        accelerator: Of `accelerate`: split each pass over its processes; see `collect`.
        tokens_per_batch: Padded positions in one forward pass.
        measure: What ranks the neurons on validation. By default `"predictivity"`; but `"balanced_accuracy"` where more
            than 60 % of the validation rows are of one class: neurons that nearly always answer it would come first.

    Raises:
        ValueError: `measure` is none of these, the task has more than two classes, no classifier was passed, they have
            different models or prompt lengths, or the layers of a pruned model differ in width.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> scores = find_skill_neurons(*load_example())
        >>> scores.predictivity.shape, len(scores.top(0.01, per_layer=False))
        (torch.Size([4, 768]), 31)
        >>> scores.best(3).columns.tolist()
        ['layer', 'neuron', 'predictivity', 'held_out', 'held_out_balanced']
    """
    classifiers = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
    if not classifiers:
        raise ValueError("`classifiers` is empty; pass at least one, from `tune_prompt` for example.")
    if task.n_labels != 2:
        raise ValueError(
            f"Predictivity needs two classes, but {task.name!r} has {task.n_labels}: {', '.join(task.labels)}. "
            "Score each of `task.subtasks()`."
        )
    place, pool = place_and_pool(positions)
    if classifiers[0].layout.varies(place) and pool is None:
        raise ValueError(
            f"Scores need the same positions in every row, and texts differ in length, but `positions` is "
            f"{positions!r}. Use 'prompt', 'mask' or 'mask_and_prompt'; for words, '{positions}, mean' or "
            f"'{positions}, max'."
        )
    if any(torch.equal(one.prompt.vectors, other.prompt.vectors) for one, other in combinations(classifiers, 2)):
        raise ValueError("A classifier is there twice, and would count as two seeds. Pass each once.")
    lengths = {len(c.prompt) for c in classifiers}
    models = {c.fingerprint for c in classifiers}
    if len(lengths) > 1 or len(models) > 1:
        raise ValueError(f"Classifiers must share model and prompt length, but have {models} and lengths {lengths}.")
    check_even_layers(classifiers[0].model)

    if (n_seen := task.n_seen) > MOST_SEEN * len(task.test):
        warnings.warn(
            f"{n_seen} of {len(task.test)} test rows of {task.name!r} are in train or validation too, so `held_out` "
            "is no held-out accuracy. Take them out of one of the splits.",
            stacklevel=2,
        )

    splits = {split: classifiers[0].encode(getattr(task, split)) for split in SPLITS}
    tell = told(progress if accelerator is None or callable(progress) else False, SHOW_AFTER)
    own = {"positions": positions, "accelerator": accelerator, "tokens_per_batch": tokens_per_batch}
    parts = [_score_one(classifier, task, splits, own, tell) for classifier in classifiers]
    return ranked_by(NeuronScores.merge_seeds(parts), measure)


def ranked_by(scores: NeuronScores, measure: Measure | None) -> NeuronScores:
    """The scores, ranked by a measure; by default by balanced accuracy where more than 60 % of rows are of one class.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> scores = find_skill_neurons(*load_example())
        >>> scores.measure, ranked_by(scores, "balanced_accuracy").measure
        ('predictivity', 'balanced_accuracy')
    """
    chosen = measure or ("balanced_accuracy" if are_unequal(scores.n) else "predictivity")
    meta = {name: value for name, value in scores.meta.items() if name != "measure"}
    # Where classes are alike, scores are those of earlier versions in all they hold.
    return replace(scores, meta=meta if chosen == "predictivity" else meta | {"measure": chosen})


def _score_one(
    classifier: Classifier,
    task: Task,
    splits: dict[str, Encoded],
    options: dict[str, Json],
    tell: Progress,
) -> NeuronScores:
    def passing(split: str) -> dict[str, Json]:
        what = f"score {task.name}, seed {classifier.prompt.seed}, {split}"
        return options | {"progress": called(tell, what)}

    baseline = collect(classifier, splits["train"], LabelSums(2), **passing("train")).mean
    counts, effects = counted(classifier, splits, baseline, passing)
    meta = {
        "model": classifier.fingerprint,
        "model_source": classifier.model.cfg.source,
        "model_revision": classifier.model.cfg.revision,
        "task": task.name,
        "task_fingerprint": task.fingerprint,
        "task_source": task.source,
        "labels": list(task.labels),
        "seeds": [classifier.prompt.seed],
        "prompt": classifier.prompt.origin,
        "positions": options["positions"],
        "rows": {split: len(encoded) for split, encoded in splits.items()},
        "truncated": {split: encoded.n_truncated for split, encoded in splits.items()},
    }
    return NeuronScores(
        above=counts["validation"].above[None],
        n=counts["validation"].n,
        above_test=counts["test"].above[None],
        n_test=counts["test"].n,
        baseline=baseline.float()[None],
        meta=meta if effects is None else meta | {"groups": _described(splits)},
        design_effects=None if effects is None else effects[None],
    )


def _described(splits: dict[str, Encoded]) -> dict[str, dict[str, Json]]:
    """How many groups each split has, and how many in effect."""
    with_groups = {split: encoded.groups for split, encoded in splits.items() if split != "train" and encoded.groups}
    return {
        split: {"n_groups": groups.n_groups, "n_effective": groups.n_effective} for split, groups in with_groups.items()
    }
