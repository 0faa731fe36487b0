"""The explorer: one HTML page of all neurons of a task, as a map, a table, and a card for each of the best.

Cost: a pass for the map's effects, one sweep for all cards, and what `text_heat` costs on the texts that each shows.
"""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.applications.one_neuron import NeuronCard, neuron_cards
from skillneurons.applications.text_heat import TextHeat, text_heat
from skillneurons.classifiers.classifier import Classifier
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.other_scores.attribution import gradient_attribution
from skillneurons.neurons.p_values import adjusted
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.batching import Batch
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import as_page
from skillneurons.utilities.types import Json, Library, Row

CROWD = 8  # neurons shown that go with a card's
LONGEST = 600  # characters of a text on a card
HEIGHT = 760  # pixels in a notebook


@checked
@dataclass(frozen=True)
class ExplorerSettings:
    """What the explorer shows.

    Args:
        n_cards: Neurons of each subtask that get a card, the most predictive first.
        n_texts: Texts at each end of a card.
        n_rows: Most test rows that cards look at, drawn by seed 0.
        n_random: Other neurons of the layer ablated beside each.
        fraction: Share of neurons in the set that the map marks, where no set is given.

    Example:
        >>> from skillneurons.plots.explorer import ExplorerSettings
        >>> ExplorerSettings(n_cards=3).n_texts
        4
    """

    n_cards: int = 6
    n_texts: int = 4
    n_rows: int = 200
    n_random: int = 10
    fraction: float = 0.02

    def __post_init__(self) -> None:
        if min(self.n_cards, self.n_texts, self.n_random) < 1 or self.n_rows < 8:
            raise ValueError(f"The explorer needs a card, a text, a random neuron and 8 rows or more, but has {self}.")


DEFAULTS = ExplorerSettings()


@dataclass(frozen=True, repr=False)
class Explorer:
    """A page that explores neurons. Jupyter shows it in a frame of its own; `save` writes it to a file.

    Example:
        See `explore_scores`, which makes it.
    """

    page: str
    title: str = field(default="")

    def save(self, path: str | Path) -> Path:
        """Write the page, which needs nothing else."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_atomically(path, self.page.encode())
        return path

    def _repr_html_(self) -> str:
        # A frame, so that the page's styles and those of the notebook stay apart; no server, and exports keep it.
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{html.escape(self.page)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{HEIGHT}px;border:1px solid #8888"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Explorer({self.title}, {len(self.page) / 1e6:.1f} MB; .save(path) writes the page)"


@checked
def explore_scores(
    scores: NeuronScores, classifier: Classifier, task: Task, settings: ExplorerSettings = DEFAULTS
) -> Explorer:
    """Explore the neurons of a binary task; also `scores.explore(classifier, task)`.

    Args:
        scores: Of the classifier on the task.
        classifier: One of those that were scored.
        task: The task that was scored.
        settings: How many cards, texts and rows.

    Raises:
        ValueError: The three do not belong together.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.plots.explorer import ExplorerSettings, explore_scores
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> explore_scores(scores, classifier, task, ExplorerSettings(n_cards=1, n_random=2))
        Explorer(movies on bundled..., ... MB; .save(path) writes the page)
    """
    return explorer([(scores, classifier, task)], settings=settings)


def explorer(
    parts: Sequence[tuple[NeuronScores, Classifier, Task]],
    *,
    name: str | None = None,
    chosen: NeuronSet | None = None,
    settings: ExplorerSettings = DEFAULTS,
) -> Explorer:
    """One page for several binary subtasks.

    Args:
        parts: Scores, classifier and task of each.
        name: Of the whole task.
        chosen: The set that the map marks; each subtask's own top neurons by default.
        settings: How many cards, texts and rows.
    """
    classifier = parts[0][1]
    title = f"{name or parts[0][2].name} on {classifier.model.cfg.source}"
    subtasks = [_subtask(*part, chosen, settings) for part in parts]
    content = json.dumps({"title": title, "subtasks": subtasks}, allow_nan=False, separators=(",", ":"))
    # No text of a task can end the script element that holds it, or begin another.
    for mark in "<>&\u2028\u2029":
        content = content.replace(mark, f"\\u{ord(mark):04x}")
    page = (files("skillneurons.plots") / "explorer_page.html").read_text(encoding="utf-8")
    before, _, after = page.partition("@DATA@")
    before = as_page(f"skillneurons explorer: {title}", before.replace("@TITLE@", html.escape(title)))
    return Explorer(before + content + after, title)


def _subtask(
    scores: NeuronScores, classifier: Classifier, task: Task, chosen: NeuronSet | None, settings: ExplorerSettings
) -> dict[str, Json]:
    rows = task.subset(min(settings.n_rows, len(task.test)), splits=("test",)).test
    d_mlp = scores.predictivity.shape[1]
    best = [divmod(i, d_mlp) for i in scores.predictivity.flatten().argsort(descending=True, stable=True).tolist()]
    best = best[: settings.n_cards]
    cards = neuron_cards(classifier, task, scores, best, rows=rows, n_random=settings.n_random)
    at = scores.seeds.index(cards[0].meta["classifier_seed"])  # of the scores: the cards have checked it
    own = scores.top(settings.fraction) if chosen is None else chosen
    # First-order estimate of what mean ablation at the prompt's positions adds to the margin.
    effect = -gradient_attribution(classifier, rows, baseline=scores.baseline[at]).sum(dim=0)
    low, high = scores.held_out_interval()
    columns = {
        "predictivity": scores.predictivity,
        "held_out": scores.held_out,
        "low": low,
        "high": high,
        "p": adjusted(scores.p_values()),
        "effect": effect,
    }
    crowds = _crowds(classifier, rows, cards, scores.meta["positions"])
    return {
        "name": task.name,
        "labels": list(task.labels),
        "words": list(classifier.verbalizer.words),
        "seeds": scores.seeds,
        "n_layers": len(scores.predictivity),
        "d_mlp": d_mlp,
        "majority": scores.majority,
        "n_test": int(scores.n_test.sum()),
        "columns": {name: _numbers(values) for name, values in columns.items()},
        "chosen": own.mask.flatten().nonzero().flatten().tolist(),
        "cards": [
            _card(card, scores, classifier, crowd, settings.n_texts) for card, crowd in zip(cards, crowds, strict=True)
        ],
    }


def _card(
    card: NeuronCard, scores: NeuronScores, classifier: Classifier, crowd: list[tuple[int, int, float]], n_texts: int
) -> dict[str, Json]:
    table = card.to_dataframe()
    ends = [table.head(n_texts), table.tail(n_texts).iloc[::-1]]
    return {
        "layer": card.layer,
        "neuron": card.neuron,
        "position": card.position,
        "upward": card.upward,
        "seed": card.meta["classifier_seed"],
        "held_out": _rounded(card.held_out),
        "baseline": _rounded(card.baseline),
        "activations": _numbers(card.activations),
        "labels": card.labels.tolist(),
        "accuracy": [_numbers(one) for one in scores.accuracy[:, :, card.layer, card.neuron]],
        "words": {side: [[word, _rounded(cosine)] for word, cosine in words] for side, words in card.words.items()},
        "ablated": _rounded(card.margin_change.mean().item()),
        "random": _numbers(card.random_change.mean(dim=1)),
        "kind": card.meta["kind"],
        "crowd": [[layer, neuron, _rounded(r)] for layer, neuron, r in crowd],
        "texts": [_texts(end, card, classifier) for end in ends],
    }


def _texts(end: Library, card: NeuronCard, classifier: Classifier) -> list[dict[str, Json]]:
    """Texts of one end of a card, word by word where the tokenizer tells which words there are."""
    texts = [text[:LONGEST] for text in end["text"]]
    heat: TextHeat | None
    try:
        heat = text_heat(classifier, texts, (card.layer, card.neuron))
    except ValueError:  # too long for the model, or a tokenizer without offsets: the text alone
        heat = None
    return [
        {
            "label": row.label,
            "activation": _rounded(row.activation),
            "words": [texts[i]] if heat is None else list(heat.words[i]),
            "values": [] if heat is None else _numbers(heat.values[i]),
        }
        for i, row in enumerate(end.itertuples())
    ]


@dataclass(eq=False)
class _AtPositions:
    """Activations of all neurons at a few positions: `[batch position neuron]` for each layer."""

    keeps_rows = True
    fixed_positions = True

    n: int
    positions: list[int]
    parts: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append(torch.empty(self.n, len(self.positions), activations.shape[-1]))
        self.parts[layer][batch.index] = activations[:, self.positions].float().cpu()

    def finish(self) -> None:
        """What is not finite was refused when the neurons were scored."""


def _crowds(
    classifier: Classifier, rows: Sequence[Row], cards: Sequence[NeuronCard], positions: str
) -> list[list[tuple[int, int, float]]]:
    """For each card, the neurons whose activations go most with its own at its position: layer, neuron, correlation."""
    wanted = sorted({card.position for card in cards})
    seen = collect(classifier, rows, _AtPositions(len(rows), wanted), positions=positions)
    crowds = []
    for card in cards:
        here = torch.stack([part[:, wanted.index(card.position)] for part in seen.parts], dim=1)
        centred = here - here.mean(dim=0)
        length = centred.norm(dim=0).clamp_min(1e-12)
        own = centred[:, card.layer, card.neuron]
        r = torch.einsum("bln,b->ln", centred, own) / length / length[card.layer, card.neuron]
        strength = r.abs()
        strength[card.layer, card.neuron] = -1
        order = strength.flatten().topk(CROWD).indices.tolist()
        crowds.append([(*divmod(i, r.shape[1]), r.flatten()[i].item()) for i in order])
    return crowds


def _numbers(values: Tensor) -> list[float | None]:
    return [_rounded(value) for value in values.flatten().tolist()]


def _rounded(value: float) -> float | None:
    """Four significant digits: a page is read, and files hold the rest. None where JSON has no such number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
