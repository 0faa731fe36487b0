"""One neuron in full: a card of what is known about it.

Cost: two passes over training rows for the means, one over the rows shown, and for each card `n_random + 1` more from
the neuron's layer on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.statistic import Together
from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import check_binary, check_same_model
from skillneurons.findings.words import nearest_words
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import ControlOptions, SweepSettings, sweep
from skillneurons.models.bridge import as_encoder
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.results import Result, drawn_by
from skillneurons.utilities.types import Json, Row


@dataclass(frozen=True, eq=False, repr=False)
class NeuronCard(Result):
    """What is known about one neuron, read at the prompt position where it is most predictive.

    Args:
        layer: Its layer.
        neuron: Its index there.
        position: Prompt position at which it is read, chosen on validation.
        upward: Whether "above the baseline" means the second class there.
        accuracy: `Acc(n, p)` on validation, for each prompt position.
        test_accuracy: The same on test.
        held_out: Accuracy on test at the position and in the direction chosen on validation.
        activations: On the rows shown.
        labels: Class of each.
        texts: Text of each.
        baseline: Mean activation on train.
        words: For the `"input"` and the `"output"` weights, the nearest words with their cosines; empty for a bridge.
        margin_change: What ablating the neuron adds to the right label's logit margin, for each row.
        random_change: The same for other neurons of the layer, ablated one at a time.
        meta: Task, seed, labels, intervention.

    Example:
        See `neuron_card`, which makes it.
    """

    layer: int
    neuron: int
    position: int
    upward: bool
    accuracy: Float[Tensor, " prompt"]
    test_accuracy: Float[Tensor, " prompt"]
    held_out: float
    activations: Float[Tensor, " batch"]
    labels: Int[Tensor, " batch"]
    texts: tuple[str, ...]
    baseline: float
    words: dict[str, tuple[tuple[str, float], ...]]
    margin_change: Float[Tensor, " batch"]
    random_change: Float[Tensor, "draw batch"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_neuron_card")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each example, the highest activation first."""
        names = [self.meta["labels"][label] for label in self.labels.tolist()]
        columns = {"activation": self.activations.numpy(), "label": names, "text": self.texts}
        columns["margin_change"] = self.margin_change.numpy()
        return pd.DataFrame(columns).sort_values("activation", ascending=False, kind="stable", ignore_index=True)

    def _table(self) -> pd.DataFrame:
        table = self.to_dataframe()
        return pd.concat([table.head(4), table.tail(4)], ignore_index=True)

    def __repr__(self) -> str:
        means = self.meta["labels"][int(self.upward)]
        low, high = self.random_change.mean(dim=1).aminmax()
        return (
            f"NeuronCard({self.meta['task']}, layer {self.layer} neuron {self.neuron}; above its baseline at position "
            f"{self.position} means {means!r}, held out {self.held_out:.3f}; ablated, the margin changes by "
            f"{self.margin_change.mean():+.3f}, for other neurons of the layer {low:+.3f} to {high:+.3f})"
        )


@checked
def neuron_card(
    classifier: Classifier,
    task: Task,
    scores: NeuronScores,
    neuron: tuple[int, int] | None = None,
    *,
    rows: Sequence[Row] | None = None,
    kind: Kind = "mean",
    n_words: int = 10,
    **options: Unpack[ControlOptions],
) -> NeuronCard:
    """Everything about one neuron: when it is active, what it knows, what its weights are near, what losing it costs.

    A single neuron's ablation seldom moves much: read it beside that of other neurons of its layer.

    Args:
        classifier: One of those that were scored.
        task: The task that was scored.
        scores: Choose position and direction.
        neuron: `(layer, neuron)`; the one of highest predictivity under this classifier by default.
        rows: Show these instead of all test rows.
        kind: How the neuron is ablated; see `Perturbation`.
        n_words: Nearest words of each side's weights.
        options: As `SweepSettings` has them: `n_random` (20 other neurons of the layer, ablated one at a time),
            `positions` (`"all"` unless given), `seed` (of the other neurons, noise and resampling), `tokens_per_batch`,
            `resume_in` and `progress`.

    Raises:
        ValueError: Classifier, task and scores do not belong together, or there is no such neuron.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, neuron_card
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> card = neuron_card(classifier, task, scores, n_random=2)
        >>> card.accuracy.shape, card.random_change.shape  # [prompt], [draw batch]
        (torch.Size([16]), torch.Size([2, 32]))
        >>> card.to_dataframe().columns.tolist()
        ['activation', 'label', 'text', 'margin_change']
    """
    neurons = None if neuron is None else [neuron]
    return neuron_cards(classifier, task, scores, neurons, rows=rows, kind=kind, n_words=n_words, **options)[0]


def neuron_cards(
    classifier: Classifier,
    task: Task,
    scores: NeuronScores,
    neurons: Sequence[tuple[int, int]] | None = None,
    *,
    rows: Sequence[Row] | None = None,
    kind: Kind = "mean",
    n_words: int = 10,
    **options: Unpack[ControlOptions],
) -> list[NeuronCard]:
    """`neuron_card` of several neurons, in one pass and one sweep for all.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.applications.one_neuron import neuron_cards
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> [(card.layer, card.neuron) for card in neuron_cards(classifier, task, scores, [(3, 1), (0, 5)], n_random=2)]
        [(3, 1), (0, 5)]
    """
    check_options(options, ControlOptions)
    options.setdefault("n_random", 20)
    options.setdefault("positions", "all")
    settings = SweepSettings(**options)
    at = _seed_index(classifier, task, scores)
    n_layers, d_mlp = scores.predictivity.shape
    if neurons is None:
        neurons = [divmod(int(scores.predictivity_by_seed[at].argmax()), d_mlp)]
    order = torch.randperm(d_mlp, generator=torch.Generator().manual_seed(settings.seed))
    # Of each, the neuron itself and then others of its layer.
    ablated = [
        [
            NeuronSet.from_pairs([(layer, one)], n_layers=n_layers, d_mlp=d_mlp, model=scores.meta["model"])
            for one in (index, *order[order != index][: settings.n_random].tolist())
        ]
        for layer, index in neurons
    ]
    rows = task.test if rows is None else rows
    encoded = classifier.encode(rows)
    known = [scores.position_of(*neuron, at) for neuron in neurons]
    seen = [OneNeuron(len(rows), *neuron, position) for neuron, (position, _) in zip(neurons, known, strict=True)]
    collect(classifier, encoded, Together(seen), positions=scores.meta["positions"])
    ablate = settings.perturbation(kind).of(classifier, task)
    margins = sweep(classifier, encoded, [(ablate, one) for sets in ablated for one in sets], settings).margins
    changes = (margins[1:] - margins[0]).unflatten(0, (len(neurons), -1))
    meta = {
        "task": task.name,
        "labels": list(task.labels),
        "classifier_seed": classifier.prompt.seed,
        "kind": kind,
        "positions": settings.positions,
        "seed": settings.seed,
    }
    cards = []
    for (layer, index), (position, upward), one, sets, change in zip(
        neurons, known, seen, ablated, changes, strict=True
    ):
        test_accuracy = scores.test_accuracy[at, :, layer, index]
        here = test_accuracy[position].item()
        cards.append(
            NeuronCard(
                layer=layer,
                neuron=index,
                position=position,
                upward=upward,
                accuracy=scores.accuracy[at, :, layer, index],
                test_accuracy=test_accuracy,
                held_out=here if upward else 1 - here,
                activations=one.values,
                labels=encoded.labels,
                texts=tuple(_text(row) for row in rows),
                baseline=scores.baseline[at, position, layer, index].item(),
                words=_words(classifier, sets[0], n_words),
                margin_change=change[0],
                random_change=change[1:],
                meta=meta,
            )
        )
    return cards


def _words(classifier: Classifier, own: NeuronSet, n_words: int) -> dict[str, tuple[tuple[str, float], ...]]:
    """Nearest to the neuron's weights, of both sides; none for a model without weights of its own."""
    if not classifier.model.has_weights:
        return {}
    encoder = as_encoder(classifier.model, "The words nearest a neuron")
    return {side: nearest_words(encoder, own, side, n_words)[0] for side in ("input", "output")}


def _seed_index(classifier: Classifier, task: Task, scores: NeuronScores) -> int:
    """Which of the scores' seeds is the classifier's; raises where the three do not belong together."""
    check_same_model([scores], classifier.fingerprint)
    check_binary([classifier], task)
    if scores.meta["task_fingerprint"] != task.fingerprint:
        raise ValueError(f"`scores` are of {scores.meta['task']!r}, `task` is {task!r}. Pass the task that was scored.")
    if classifier.prompt.seed not in scores.seeds:
        raise ValueError(
            f"`classifier` has seed {classifier.prompt.seed}, but `scores` are of {scores.seeds}. Pass one that was "
            "scored."
        )
    return scores.seeds.index(classifier.prompt.seed)


def _text(row: Row) -> str:
    return row["text"] if "text" in row else f"{row['text_a']} / {row['text_b']}"
