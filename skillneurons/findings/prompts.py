"""F3, prompts: do soft prompts reveal skill neurons better than the words of the text do?

Source: Wang et al. 2022. The same neurons, read at five places: the best soft-prompt position (chosen on validation),
the mean over soft-prompt positions, the mask, and the mean and the maximum over the text's words. The first chooses
among positions, the others have nothing to choose; so compare held-out accuracies. Words are read with the prompt in
front of them, which they can attend to. A decoder has no mask, and its words do not see the prompt behind them.

Cost: one pass over each split for each classifier, which all places share, and one more over test for the best neurons'
answers; memory does not grow with the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.statistic import Together
from skillneurons.activations.sums import AboveCounts, LabelSums
from skillneurons.activations.text import At, Pool, Pooled
from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import by_task, check_scored, ends, ends_of, paired
from skillneurons.findings.record import Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.findings.rows_right import Read, accuracy_intervals, rows_right
from skillneurons.neurons.agreement import spearman
from skillneurons.neurons.neuron_set import top_neurons
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.batching import Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.intervals import columns, paired_difference
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json

PLACES: dict[str, tuple[str, Pool | None]] = {
    "soft prompt, best position": ("prompt", None),
    "soft prompt, mean": ("prompt", "mean"),
    "mask": ("mask", None),
    "words, mean": ("text", "mean"),
    "words, maximum": ("text", "max"),
}


@dataclass(frozen=True, eq=False, repr=False)
class PromptComparison(Result):
    """Neurons' predictivity at several places.

    Args:
        places: Where they are read.
        predictivity: On validation, averaged over seeds.
        held_out: On test, at the position and in the direction chosen on validation.
        fraction: Share of neurons in a top set.
        meta: Task, model, seeds, number of test rows.
        best_interval: Ends of the 95 % interval of each place's best neuron's held-out accuracy (`accuracy_intervals`).
        lead: By how much the first place's best neuron is the more accurate on the same rows, and the ends of its 95 %
            interval (`paired_difference`).

    Example:
        See `compare_places`, which makes it.
    """

    places: tuple[str, ...]
    predictivity: Float[Tensor, "place layer neuron"]
    held_out: Float[Tensor, "place layer neuron"]
    fraction: float
    meta: dict[str, Json] = field(default_factory=dict)
    # Absent from results that earlier versions wrote.
    best_interval: Float[Tensor, "place 2"] | None = None
    lead: Float[Tensor, "place 3"] | None = None

    plot = drawn_by("plot_places")

    def to_dataframe(self) -> pd.DataFrame:
        """For each place: the best neuron and the top ones by validation there, with their held-out accuracy.

        `best_held_out_low` and `_high` are the ends of its 95 % interval over test rows; `lead`, `lead_low` and
        `lead_high` say by how much the best neuron of the first place is ahead on the same rows.
        `prompt_neurons_held_out` is the held-out accuracy, at this place, of the neurons that are the top ones on the
        first place; `rank_correlation` compares all predictivities with those of the first place.
        """
        first = top_neurons(self.predictivity[0], self.fraction, per_layer=False).mask
        rows = []
        for i, (place, score, held_out) in enumerate(zip(self.places, self.predictivity, self.held_out, strict=True)):
            best, top = int(score.argmax()), top_neurons(score, self.fraction, per_layer=False).mask
            accuracy = held_out.flatten()[best].item()
            low, high = ends_of(self.best_interval, i, accuracy, self.meta["n_test"])
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
            if self.lead is not None:
                rows[-1] |= columns("lead", self.lead[i].tolist())
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"PromptComparison({self.meta.get('task')}, top {self.fraction})\n{as_text(self.to_dataframe())}"


@checked
def compare_places(
    classifiers: Classifier | Sequence[Classifier],
    task: Task,
    *,
    scores: NeuronScores | None = None,
    fraction: float = 0.01,
) -> PromptComparison:
    """Predictivity of every neuron at the soft prompt, the mask (of encoders) and the words.

    Args:
        classifiers: Of one or several seeds.
        task: Two classes.
        scores: Those at the soft prompt, if they are there already.
        fraction: Share of all neurons in a top set.

    Raises:
        ValueError: `scores` are of other classifiers, rows or positions, or see `find_skill_neurons`.

    Example:
        >>> from skillneurons import findings, load_example
        >>> result = findings.compare_places(*load_example())
        >>> result.held_out.shape  # place, layer, neuron
        torch.Size([5, 4, 768])
        >>> list(result.to_dataframe()["place"])
        ['soft prompt, best position', 'soft prompt, mean', 'mask', 'words, mean',
         'words, maximum']
    """
    classifiers = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
    if not classifiers:
        raise ValueError("`classifiers` is empty; pass at least one, from `tune_prompt` for example.")
    if scores is not None:
        check_scored(scores, task, classifiers)
        if scores.meta["positions"] != "prompt":
            raise ValueError(
                f"`scores` are of {scores.meta['positions']!r} positions, but those at the 'prompt' are needed. Leave "
                "`scores` out to compute them."
            )
    has_mask = classifiers[0].layout.added == "mask_and_prompt"
    places = {place: how for place, how in PLACES.items() if has_mask or place != "mask"}
    known = {} if scores is None else {("prompt", None): scores}
    wanted = [how for how in places.values() if how not in known]
    known |= dict(zip(wanted, place_scores(classifiers, task, wanted), strict=True))
    by_place = [known[how] for how in places.values()]
    test = classifiers[0].encode(task.test)
    reads = [Read.best(known[how], *how) for how in places.values()]
    right = rows_right(classifiers, test, reads)
    lead = [paired_difference(right[0].mean(0), one.mean(0), test.groups) for one in right]
    return PromptComparison(
        places=tuple(places),
        predictivity=torch.stack([one.predictivity for one in by_place]),
        held_out=torch.stack([one.held_out for one in by_place]),
        fraction=fraction,
        meta={key: by_place[0].meta[key] for key in ("task", "model", "seeds")} | {"n_test": len(task.test)},
        best_interval=accuracy_intervals(right, test),
        lead=torch.tensor(lead, dtype=torch.float64),
    )


def place_scores(
    classifiers: Sequence[Classifier], task: Task, places: Sequence[tuple[str, Pool | None]]
) -> list[NeuronScores]:
    """As `find_skill_neurons`, at several places that share each pass.

    Args:
        classifiers: Of one or several seeds, on one model.
        task: Two classes.
        places: Positions by name, and how each row's activations there are pooled: `"mean"`, `"max"`, or None for each
            position by itself. Texts differ in length, so `"text"` needs pooling; padding is left out.

    Returns:
        For each place; where it is pooled, the `prompt` axis has length 1.

    Raises:
        ValueError: The task has more than two classes.
    """
    if task.n_labels != 2:
        raise ValueError(
            f"Predictivity needs two classes, but {task.name!r} has {task.n_labels}: {', '.join(task.labels)}. Score "
            "each of `task.subtasks()`."
        )
    splits = {split: classifiers[0].encode(getattr(task, split)) for split in ("train", "validation", "test")}
    parts: list[list[NeuronScores]] = [[] for _ in places]
    for classifier in classifiers:
        sums = [LabelSums(2) for _ in places]
        _collect(classifier, splits["train"], places, sums)
        baselines = [one.mean for one in sums]
        counts = {}
        for split in ("validation", "test"):
            counts[split] = [AboveCounts(baseline, 2) for baseline in baselines]
            _collect(classifier, splits[split], places, counts[split])
        for i, (positions, pool) in enumerate(places):
            meta = {
                "model": classifier.fingerprint,
                "task": task.name,
                "task_fingerprint": task.fingerprint,
                "seeds": [classifier.prompt.seed],
                "positions": positions if pool is None else f"{positions}, {pool}",
            }
            validation, test = counts["validation"][i], counts["test"][i]
            parts[i].append(
                NeuronScores(
                    above=validation.above[None],
                    n=validation.n,
                    above_test=test.above[None],
                    n_test=test.n,
                    baseline=baselines[i].float()[None],
                    meta=meta,
                )
            )
    return [NeuronScores.merge_seeds(of_place) for of_place in parts]


def _collect(
    classifier: Classifier,
    rows: Encoded,
    places: Sequence[tuple[str, Pool | None]],
    statistics: Sequence[LabelSums | AboveCounts],
) -> None:
    """Fill a statistic for each place in one pass."""
    parts = [
        At(classifier.layout.positions(positions), one if pool is None else Pooled(one, pool))
        for (positions, pool), one in zip(places, statistics, strict=True)
    ]
    collect(classifier, rows, Together(parts), positions="all")


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for one in studies:
        subtask = one.subtasks[0]
        result = compare_places(one.classifiers, subtask, scores=one.scores[0], fraction=settings.fraction)
        yield Measured(result, subtask.name)


def _claims(records: Sequence[Record]) -> Claims:
    for task, places in by_task(records).items():
        of = {one["place"]: one for one in places}
        prompt, words = of["soft prompt, best position"], of["words, mean"]
        lead = paired(words, "lead", *(ends(one, "best_held_out") for one in (prompt, words)))
        yield task, "the best neuron tells more at the prompt than over the words", lead


register(Finding("F3-prompts", _measure, _claims, order=3))
