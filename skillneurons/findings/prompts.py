"""F3, prompts: do soft prompts reveal skill neurons better than the words of the text do?

Source: Wang et al. 2022. The same neurons, read at five places: the best soft-prompt position (chosen on validation),
the mean over soft-prompt positions, the mask, and the mean and the maximum over the text's words. The first chooses
among positions, the others have nothing to choose; so compare held-out accuracies. Words are read with the prompt in
front of them, which they can attend to.

Cost: one pass over each split for each place and classifier; memory does not grow with the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations import AboveCounts, LabelSums, collect
from skillneurons.classifier import Classifier
from skillneurons.display import Shown, drawn_by
from skillneurons.findings.common import check_same_model, held_out_interval, spearman
from skillneurons.neurons import top_neurons
from skillneurons.pooling import Pool, Pooled
from skillneurons.scores import NeuronScores, find_skill_neurons
from skillneurons.tasks import Task

PLACES: dict[str, tuple[str, Pool | None]] = {
    "soft prompt, best position": ("prompt", None),
    "soft prompt, mean": ("prompt", "mean"),
    "mask": ("mask", None),
    "words, mean": ("text", "mean"),
    "words, maximum": ("text", "max"),
}


@dataclass(frozen=True, eq=False, repr=False)
class PromptComparison(Shown):
    """Neurons' predictivity at several places.

    Args:
        places: Where they are read.
        predictivity: On validation, averaged over seeds.
        held_out: On test, at the position and in the direction chosen on validation.
        fraction: Share of neurons in a top set.
        meta: Task, model, seeds, number of test rows.
    """

    places: tuple[str, ...]
    predictivity: Float[Tensor, "place layer neuron"]
    held_out: Float[Tensor, "place layer neuron"]
    fraction: float
    meta: dict[str, Any] = field(default_factory=dict)

    plot = drawn_by("plot_places")

    def to_dataframe(self) -> pd.DataFrame:
        """For each place: the best neuron and the top ones by validation there, with their held-out accuracy.

        `best_held_out_low` and `_high` are the ends of `held_out_interval`, a 95 % interval over test rows.
        `prompt_neurons_held_out` is the held-out accuracy, at this place, of the neurons that are the top ones on the
        first place; `rank_correlation` compares all predictivities with those of the first place.
        """
        first = top_neurons(self.predictivity[0], self.fraction, per_layer=False).mask
        rows = []
        for place, score, held_out in zip(self.places, self.predictivity, self.held_out, strict=True):
            best, top = int(score.argmax()), top_neurons(score, self.fraction, per_layer=False).mask
            accuracy = held_out.flatten()[best].item()
            low, high = held_out_interval(accuracy, self.meta["n_test"])
            rows.append(
                {
                    "place": place,
                    "best_validation": score.max().item(),
                    "best_held_out": accuracy,
                    "best_held_out_low": low,
                    "best_held_out_high": high,
                    "top_held_out": held_out[top].mean().item(),
                    "prompt_neurons_held_out": held_out[first].mean().item(),
                    "rank_correlation": spearman(score.flatten(), self.predictivity[0].flatten()),
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"PromptComparison({self.meta.get('task')}, top {self.fraction})\n{self.to_dataframe().round(3)}"


def compare_places(
    classifiers: Classifier | Sequence[Classifier],
    task: Task,
    *,
    scores: NeuronScores | None = None,
    fraction: float = 0.01,
) -> PromptComparison:
    """Predictivity of every neuron at the soft prompt, the mask and the words.

    Args:
        classifiers: Of one or several seeds.
        task: Two classes.
        scores: Those at the soft prompt, if they are there already.
        fraction: Share of all neurons in a top set.

    Raises:
        ValueError: `scores` are of another model or task, or see `find_skill_neurons`.
    """
    classifiers = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
    if not classifiers:
        raise ValueError("`classifiers` is empty; pass at least one, from `tune_prompt` for example.")
    if scores is not None:
        check_same_model([scores], classifiers[0].prompt.model)
        if scores.meta["task_fingerprint"] != task.fingerprint or scores.meta["positions"] != "prompt":
            raise ValueError(
                f"`scores` are of task {scores.meta['task']!r} at {scores.meta['positions']!r}, but those of "
                f"{task.name!r} at 'prompt' are needed. Leave `scores` out to compute them."
            )
    by_place = []
    for positions, pool in PLACES.values():
        if positions == "prompt" and pool is None and scores is not None:
            by_place.append(scores)
        elif pool is None:
            by_place.append(find_skill_neurons(classifiers, task, positions=positions))
        else:
            by_place.append(pooled_scores(classifiers, task, positions=positions, pool=pool))
    return PromptComparison(
        places=tuple(PLACES),
        predictivity=torch.stack([one.predictivity for one in by_place]),
        held_out=torch.stack([one.held_out for one in by_place]),
        fraction=fraction,
        meta={key: by_place[0].meta[key] for key in ("task", "model", "seeds")} | {"n_test": len(task.test)},
    )


def pooled_scores(
    classifiers: Sequence[Classifier], task: Task, *, positions: str = "text", pool: Pool = "mean"
) -> NeuronScores:
    """As `find_skill_neurons`, with each neuron's activation pooled over positions, so that there is one to read.

    Args:
        classifiers: Of one or several seeds, on one model.
        task: Two classes.
        positions: `"text"` (padding left out) or `"prompt"`.
        pool: `"mean"` or `"max"`.

    Returns:
        Scores whose `prompt` axis has length 1.

    Raises:
        ValueError: The task has more than two classes.
    """
    if task.n_labels != 2:
        raise ValueError(f"Predictivity needs two classes, but {task.name!r} has {task.n_labels}. Score its subtasks.")
    splits = {split: classifiers[0].encode(getattr(task, split)) for split in ("train", "validation", "test")}
    parts = []
    for classifier in classifiers:
        sums = collect(classifier, splits["train"], Pooled(LabelSums(2), pool), positions=positions)
        baseline = sums.inner.mean
        counts = {
            split: collect(classifier, splits[split], Pooled(AboveCounts(baseline, 2), pool), positions=positions).inner
            for split in ("validation", "test")
        }
        meta = {
            "model": classifier.prompt.model,
            "task": task.name,
            "task_fingerprint": task.fingerprint,
            "seeds": [classifier.prompt.seed],
            "positions": f"{positions}, {pool}",
        }
        parts.append(
            NeuronScores(
                above=counts["validation"].above[None],
                n=counts["validation"].n,
                above_test=counts["test"].above[None],
                n_test=counts["test"].n,
                baseline=baseline.float()[None],
                meta=meta,
            )
        )
    return NeuronScores.merge_seeds(parts)
