"""F1, existence: does a single neuron come close to what the tuned prompt, or a probe of all neurons, achieves?

Source: Wang et al. 2022, section 3 and figure 1. Neuron, position and direction are chosen on validation and reported
on test; the permutation null shows how good the best neuron looks on validation when there is nothing to find.

Cost for each classifier: two passes over test, for its accuracy and the neurons'; for the probe, one over at most
`n_probe_rows` training rows and one over the test rows, whose position means it holds in memory; for the first, one
over validation for the null, with one bit for each row, position and neuron.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.decisions import Decisions
from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.statistic import Together, widened
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import evaluate
from skillneurons.findings.common import by_task, check_binary, check_scored, ends_of, mean_of
from skillneurons.findings.record import BINARY, Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.findings.rows_right import Read, accuracy_intervals, rows_right
from skillneurons.neurons._permutation_test import permutation_test
from skillneurons.neurons._predictivity import accuracy_from_counts, best_position, held_out_accuracy, predictivity
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.batching import Batch, Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json

PROBE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, eq=False, repr=False)
class Existence(Result):
    """The best neuron beside prompt tuning and a probe, and the null of nothing to find.

    Args:
        seeds: Of the classifiers.
        top: Layer, neuron and position of the neuron with the highest predictivity on validation, for each seed.
        top_validation: Its predictivity there, which overstates.
        top_held_out: Its accuracy on test, at the position and in the direction chosen on validation.
        prompt_accuracy: Of the classifier on test.
        probe_accuracy: Of a linear probe on all neurons (each averaged over prompt positions) on test; NaN without one.
        predictivity: Of every neuron on validation, first seed: what the shuffled ones compare with.
        null_max: Highest predictivity of any neuron under shuffled validation labels, first seed.
        null: Predictivities under one shuffle, first seed.
        activations: Of the first seed's top neuron on test.
        labels: Class of each test row.
        baseline: Of that neuron.
        meta: Task, rows, settings.
        held_out_interval: Ends of the 95 % interval of `top_held_out` for each seed (`accuracy_intervals`).

    Example:
        See `existence`, which makes it.
    """

    seeds: tuple[int, ...]
    top: Int[Tensor, "seed 3"]
    top_validation: Float[Tensor, " seed"]
    top_held_out: Float[Tensor, " seed"]
    prompt_accuracy: Float[Tensor, " seed"]
    probe_accuracy: Float[Tensor, " seed"]
    predictivity: Float[Tensor, "layer neuron"]
    null_max: Float[Tensor, " permutation"]
    null: Float[Tensor, "layer neuron"]
    activations: Float[Tensor, " batch"]
    labels: Int[Tensor, " batch"]
    baseline: float
    meta: dict[str, Json] = field(default_factory=dict)
    held_out_interval: Float[Tensor, "seed 2"] | None = None  # absent from results that earlier versions wrote

    plot = drawn_by("plot_existence")

    @property
    def bar(self) -> float:
        """What the best neuron exceeds by chance once in twenty times or less; of fewer than 19 shuffles, the highest.

        An order statistic that counts the true labels as one of the shuffles: a quantile between the shuffles' maxima
        is exceeded more often, 8.6 % of the time with 20 of them.
        """
        rank = max(1, int(0.05 * (len(self.null_max) + 1) + 1e-9))
        return self.null_max.sort(descending=True).values[rank - 1].item()

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each seed, with exact 95 % intervals of the top neuron's held-out accuracy over rows."""
        n = self.meta["n_test"]
        ends = [ends_of(self.held_out_interval, i, one, n) for i, one in enumerate(self.top_held_out.tolist())]
        columns: dict[str, Json] = {"seed": self.seeds}
        columns |= {name: self.top[:, i].numpy() for i, name in enumerate(("layer", "neuron", "position"))}
        columns |= {"validation": self.top_validation.numpy(), "held_out": self.top_held_out.numpy()}
        columns |= {"held_out_low": [low for low, _ in ends], "held_out_high": [high for _, high in ends]}
        columns |= {"prompt_accuracy": self.prompt_accuracy.numpy(), "probe_accuracy": self.probe_accuracy.numpy()}
        columns |= {"majority": self.meta["majority"], "null_max_95": self.bar}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return f"Existence({self.meta.get('task')})\n{as_text(self.to_dataframe())}"


@dataclass(eq=False)
class ShuffledCounts:
    """For each of several shuffles of the labels, the number of examples of class 1 above the baseline.

    One matrix product for each layer and batch. Memory: `permutation x prompt x layer x neuron` counts.

    Args:
        baseline: Threshold of each position and neuron.
        labels: Shuffled labels, 0 or 1, in the order of the rows.
    """

    baseline: Float[Tensor, "prompt layer neuron"]
    labels: Int[Tensor, "permutation batch"]
    totals: list[Tensor] = field(default_factory=list)
    above: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.totals):
            self.totals.append(torch.zeros(len(self.labels), *activations.shape[1:], device=activations.device))
            self.above.append(torch.zeros(activations.shape[1:], device=activations.device))
        above = (widened(activations) > self.baseline[:, layer].to(activations.device)).float()
        chosen = self.labels[:, batch.index].to(above)
        self.totals[layer] += torch.einsum("mb,bpn->mpn", chosen, above)
        self.above[layer] += above.sum(dim=0)

    def finish(self) -> None:
        self.totals = [total.cpu() for total in self.totals]
        self.above = [above.cpu() for above in self.above]

    @property
    def accuracy(self) -> Float[Tensor, "permutation prompt layer neuron"]:
        """`Acc(n, p)` under each shuffle. Counts are below 2^24, so float32 holds them exactly."""
        ones = torch.stack(self.totals, dim=2).long()
        zeros = torch.stack(self.above, dim=1).long() - ones
        n = torch.stack([(self.labels[0] == label).sum() for label in (0, 1)])
        return torch.stack([accuracy_from_counts(torch.stack(pair), n) for pair in zip(zeros, ones, strict=True)])


@checked
def existence(
    classifiers: Sequence[Classifier],
    task: Task,
    scores: NeuronScores,
    *,
    n_permutations: int = 199,
    probe: bool = True,
    n_probe_rows: int = 1000,
    seed: int = 0,
) -> Existence:
    """How close one neuron comes to prompt tuning and to a probe of all neurons.

    Args:
        classifiers: One for each seed of `scores`, in that order.
        task: Two classes.
        scores: Of these classifiers on this task.
        n_permutations: Shuffles of the validation labels, or of the signs of whole groups where rows belong together;
            see `permutation_test`. The best neurons of the shuffles set the bar that the best neuron must clear.
        probe: Fit scikit-learn's logistic regression on all neurons; its strength is chosen on validation.
        n_probe_rows: Most rows of a split that the probe sees in training and choosing.
        seed: Of shuffles and of the probe's rows.

    Raises:
        ValueError: Classifiers and scores do not belong together, or the task has more than two classes.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> result = findings.existence([classifier], task, scores, n_permutations=2)
        >>> list(result.to_dataframe())
        ['seed', 'layer', 'neuron', 'position', 'validation', 'held_out', 'held_out_low',
         'held_out_high', 'prompt_accuracy', 'probe_accuracy', 'majority', 'null_max_95']
        >>> bool(result.top_validation > result.top_held_out)  # validation overstates
        True
    """
    classifiers = list(classifiers)
    check_binary(classifiers, task)
    check_scored(scores, task, classifiers)
    encoded = {split: classifiers[0].encode(getattr(task, split)) for split in ("validation", "test")}

    by_seed = scores.predictivity_by_seed
    held_out = held_out_accuracy(scores.accuracy, scores.test_accuracy)
    position, _ = best_position(scores.accuracy)
    top = []
    for i in range(len(classifiers)):
        layer, neuron = divmod(int(by_seed[i].argmax()), by_seed.shape[2])
        top.append((layer, neuron, int(position[i, layer, neuron])))
    address = torch.tensor(top)
    at_top = (torch.arange(len(classifiers)), address[:, 0], address[:, 1])

    baseline = scores.baseline[0]
    validation = encoded["validation"]
    shuffled = ShuffledCounts(baseline, shuffled_labels(validation.labels, 1, seed))
    decisions = Decisions(baseline, len(validation), groups=validation.groups)
    collect(classifiers[0], validation, Together([shuffled, decisions]), positions=scores.meta["positions"])
    layer, neuron, place = top[0]
    one = OneNeuron(len(encoded["test"]), layer, neuron, place)
    collect(classifiers[0], encoded["test"], one, positions=scores.meta["positions"])
    reads = [Read(scores, (layer, neuron)) for layer, neuron, _ in top]
    right = rows_right(classifiers, encoded["test"], reads).diagonal(dim1=0, dim2=1).T
    rows = probe_rows(task, n_probe_rows, seed) if probe else None
    return Existence(
        seeds=tuple(scores.seeds),
        top=address,
        top_validation=by_seed[at_top],
        top_held_out=held_out[at_top],
        prompt_accuracy=torch.tensor([evaluate(one, encoded["test"]).accuracy for one in classifiers]),
        probe_accuracy=torch.tensor(
            [float("nan") if rows is None else probe_accuracy(one, rows, encoded["test"]) for one in classifiers]
        ),
        predictivity=by_seed[0],
        null_max=permutation_test(decisions, n_permutations=n_permutations, seed=seed).null_max,
        null=predictivity(shuffled.accuracy)[0],
        activations=one.values,
        labels=encoded["test"].labels,
        baseline=float(baseline[place, layer, neuron]),
        meta={
            "task": task.name,
            "labels": list(task.labels),
            "n_validation": len(encoded["validation"]),
            "n_test": len(encoded["test"]),
            "majority": scores.majority,
            "n_permutations": n_permutations,
            "seed": seed,
        },
        held_out_interval=accuracy_intervals(right[:, None], encoded["test"]),
    )


def shuffled_labels(labels: Int[Tensor, " batch"], n: int, seed: int) -> Int[Tensor, "permutation batch"]:
    """`n` shuffles of the labels.

    Example:
        >>> shuffled_labels(torch.tensor([0, 1, 1]), 2, seed=0).sum(1).tolist()
        [2, 2]
    """
    if n < 1:
        raise ValueError(f"`n_permutations` must be at least 1, not {n}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(n)])


def probe_rows(task: Task, n: int, seed: int) -> Task:
    """The task with at most `n` rows to train the probe on and to choose its strength on."""
    return task.subset(n, seed, splits=("train", "validation"))


def probe_accuracy(classifier: Classifier, task: Task, test: Encoded) -> float:
    """Test accuracy of L2-regularised logistic regression on all neurons, each averaged over the prompt's positions."""
    # Imported here, so that importing the package does not load scikit-learn.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = {}, {}
    for split, rows in (("train", task.train), ("validation", task.validation), ("test", test)):
        encoded = classifier.encode(rows)
        values = collect(classifier, encoded, MeanExamples(len(encoded))).values
        features[split] = rearrange(values, "batch layer neuron -> batch (layer neuron)").numpy()
        labels[split] = encoded.labels.numpy()
    best, best_accuracy = None, -1.0
    for strength in PROBE_STRENGTHS:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, tol=1e-3))
        probe.fit(features["train"], labels["train"])
        accuracy = probe.score(features["validation"], labels["validation"])
        if accuracy > best_accuracy:
            best, best_accuracy = probe, accuracy
    assert best is not None
    return float(np.mean(best.predict(features["test"]) == labels["test"]))


@dataclass(eq=False)
class MeanExamples:
    """Each row's activations, averaged over the collected positions: `[batch layer neuron]`."""

    n: int
    parts: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append(torch.empty(self.n, activations.shape[-1]))
        self.parts[layer][batch.index] = activations.float().mean(dim=1).cpu()

    def finish(self) -> None:
        pass

    @property
    def values(self) -> Float[Tensor, "batch layer neuron"]:
        return torch.stack(self.parts, dim=1)


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [Measured(existence(one.classifiers, one.task, one.scores[0]), one.task.name) for one in studies]


def _claims(records: Sequence[Record]) -> Claims:
    for task, seeds in by_task(records).items():
        majority = seeds[0]["majority"]
        low, high = min(one["held_out_low"] for one in seeds), max(one["held_out_high"] for one in seeds)
        interval = mean_of(seeds, "held_out") - majority, low - majority, high - majority
        yield task, "the best neuron beats always giving one answer (all seeds)", interval


register(Finding("F1-existence", _measure, _claims, order=1, needs=BINARY))
