"""One neuron in full: a card of what is known about it, and its activation word by word.

Cost of a card: a pass over the training rows for the means, one over the rows shown, and `n_random + 2` more from the
neuron's layer on. Of a strip: one pass over its texts.
"""

import html
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.text import real_positions
from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import check_binary, check_same_model
from skillneurons.findings.words import nearest_words
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import ControlOptions, SweepSettings, sweep
from skillneurons.models.bridge import as_encoder
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.batching import Batch
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.results import Result, drawn_by
from skillneurons.utilities.types import Json, Row, Tokenizer

# The strongest colour of a strip: black text on it can be read, and it darkens towards here also in grey.
HEAT = (213, 94, 0)


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
    check_options(options, ControlOptions)
    options.setdefault("n_random", 20)
    options.setdefault("positions", "all")
    settings = SweepSettings(**options)
    at = _seed_index(classifier, task, scores)
    n_layers, d_mlp = scores.predictivity.shape
    if neuron is None:
        neuron = divmod(int(scores.predictivity_by_seed[at].argmax()), d_mlp)
    layer, index = neuron
    own = NeuronSet.from_pairs([neuron], n_layers=n_layers, d_mlp=d_mlp, model=scores.meta["model"])
    position, upward = scores.position_of(layer, index, at)
    rows = task.test if rows is None else rows
    encoded = classifier.encode(rows)
    one = collect(classifier, encoded, OneNeuron(len(rows), layer, index, position), positions=scores.meta["positions"])

    order = torch.randperm(d_mlp, generator=torch.Generator().manual_seed(settings.seed))
    others = [
        NeuronSet.from_pairs([(layer, other)], n_layers=n_layers, d_mlp=d_mlp, model=own.model)
        for other in order[order != index][: settings.n_random].tolist()
    ]
    ablate = settings.perturbation(kind).of(classifier, task)
    margins = sweep(classifier, encoded, [(ablate, chosen) for chosen in (own, *others)], settings).margins
    words = {}
    if classifier.model.has_weights:
        words = {
            side: nearest_words(as_encoder(classifier.model, "The words nearest a neuron"), own, side, n_words)[0]
            for side in ("input", "output")
        }
    test_accuracy = scores.test_accuracy[at, :, layer, index]
    here = test_accuracy[position].item()
    return NeuronCard(
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
        words=words,
        margin_change=margins[1] - margins[0],
        random_change=margins[2:] - margins[0],
        meta={
            "task": task.name,
            "labels": list(task.labels),
            "classifier_seed": classifier.prompt.seed,
            "kind": kind,
            "positions": settings.positions,
            "seed": settings.seed,
        },
    )


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


@dataclass(frozen=True, eq=False, repr=False)
class TextHeat(Result):
    """A neuron's activation over the words of texts; Jupyter shows the texts coloured by it.

    Args:
        layer: The neuron's layer.
        neuron: Its index there.
        words: Of each text, each with what stands before it: joined, they are the text.
        values: Activation at each word, the mean over its tokens.
        labels: Name of each text's class, where it has one.
        meta: Model and prompt.

    Example:
        See `text_heat`, which makes it.
    """

    layer: int
    neuron: int
    words: tuple[tuple[str, ...], ...]
    values: tuple[Tensor, ...]
    labels: tuple[str, ...] = ()
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_text_heat")

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest activation: white and the strongest colour."""
        everything = torch.cat(list(self.values))
        return everything.min().item(), everything.max().item()

    def shades(self, text: int) -> Float[Tensor, " word"]:
        """Strength of the colour of each word of a text, from 0 to 1."""
        low, high = self.limits
        return (self.values[text] - low) / max(high - low, 1e-12)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each word."""
        return pd.DataFrame(
            [
                {"text": i, "word": word.strip(), "activation": value}
                for i, (words, values) in enumerate(zip(self.words, self.values, strict=True))
                for word, value in zip(words, values.tolist(), strict=True)
            ]
        )

    def _repr_html_(self) -> str:
        lines = []
        for i, words in enumerate(self.words):
            spans = []
            for word, value, shade in zip(words, self.values[i].tolist(), self.shades(i).tolist(), strict=True):
                space, body = word[: len(word) - len(word.lstrip())], word.lstrip()
                colour = ",".join(str(round(255 + (strong - 255) * shade)) for strong in HEAT)
                spans.append(
                    f'{html.escape(space)}<span style="background:rgb({colour})" title="{value:.3g}">'
                    f"{html.escape(body)}</span>"
                )
            label = f"<b>{html.escape(self.labels[i])}</b>: " if self.labels else ""
            lines.append(f"<p>{label}{''.join(spans)}</p>")
        return f'<div style="background:#fff;color:#000;padding:0.5em">{"".join(lines)}<p>{self._legend()}</p></div>'

    def _legend(self) -> str:
        low, high = self.limits
        return f"layer {self.layer}, neuron {self.neuron}: activation from {low:.3g} (white) to {high:.3g} (orange)"

    def __repr__(self) -> str:
        return f"TextHeat({len(self.words)} texts; {self._legend()})"


@dataclass(eq=False)
class WordActivations:
    """One neuron's activations at the text's positions: a tensor for each row, without padding."""

    layer: int
    neuron: int
    values: dict[int, Tensor] = field(default_factory=dict)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == self.layer:
            real = real_positions(activations, batch)
            for i, row in enumerate(batch.index.tolist()):
                self.values[row] = activations[i, real[i], self.neuron].float().cpu()

    def finish(self) -> None:
        for values in self.values.values():
            store.check_finite("activations", values, "Check the model's weights and the prompt.")


@checked
def text_heat(classifier: Classifier, texts: Sequence[str | Row], neuron: tuple[int, int]) -> TextHeat:
    """A neuron's activation at every word of some texts, with the classifier's prompt in place.

    Skill neurons are found at the soft prompt's positions. What the same neuron does at the words is another matter,
    and may be little.

    Args:
        classifier: In eval mode.
        texts: Strings, or rows, whose label is then shown.
        neuron: `(layer, neuron)`.

    Raises:
        ValueError: There is no such neuron, a text is too long for the model, or the tokenizer does not tell which part
            of a text a token is.

    Example:
        >>> from skillneurons import load_example, text_heat
        >>> classifier, _ = load_example()
        >>> heat = text_heat(classifier, ["A fine film."], (0, 5))
        >>> heat.words
        (('A', ' fine', ' film', '.'),)
        >>> heat.to_dataframe().columns.tolist()
        ['text', 'word', 'activation']
    """
    if not len(texts):
        raise ValueError("`texts` needs at least one text or row, but is empty.")
    layer, index = neuron
    cfg = classifier.model.cfg
    NeuronSet.from_pairs([neuron], n_layers=cfg.n_layers, d_mlp=cfg.d_mlps)  # raises where there is none
    rows = [{"text": text} if isinstance(text, str) else dict(text) for text in texts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is cut is an error here
        encoded = classifier.encode([row | {"label": 0} for row in rows])
    if encoded.n_truncated:
        raise ValueError(
            f"{encoded.n_truncated} of `texts` have more than the {encoded.max_length} tokens that the model and the "
            "prompt leave. Shorten them."
        )
    # Where nothing stands beside the text, `"text"` leaves out its first token, which is in the prompt's place.
    whole = "text" if classifier.layout.n_added else "all"
    seen = collect(classifier, encoded, WordActivations(layer, index), positions=whole)
    parts = [_by_word(classifier.model.tokenizer, row, seen.values[i]) for i, row in enumerate(rows)]
    labelled = all("label" in row for row in rows)
    return TextHeat(
        layer=layer,
        neuron=index,
        words=tuple(words for words, _ in parts),
        values=tuple(values for _, values in parts),
        labels=tuple(classifier.labels[int(row["label"])] for row in rows) if labelled else (),
        meta={"model": classifier.fingerprint, "classifier_seed": classifier.prompt.seed},
    )


def _by_word(
    tokenizer: Tokenizer, row: Mapping[str, Json], values: Float[Tensor, " token"]
) -> tuple[tuple[str, ...], Float[Tensor, " word"]]:
    """The text's words, each with what stands before it, and the mean over each one's tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("This tokenizer does not say where its tokens stand in the text. Load its fast version.")
    texts = [row[name] for name in ("text", "text_a", "text_b") if name in row]
    encoding = tokenizer(*texts, return_offsets_mapping=True, verbose=False)
    places = list(zip(encoding.sequence_ids(), encoding.word_ids(), strict=True))
    if len(places) != len(values):
        raise ValueError(
            f"The text has {len(places)} tokens, but this layer {len(values)} positions there: it does not read "
            "the text. Take a layer of the encoder."
        )
    ends: dict[tuple[int, int], int] = {}
    tokens: dict[tuple[int, int], list[int]] = {}
    for token, ((text, word), (_, end)) in enumerate(zip(places, encoding["offset_mapping"], strict=True)):
        if text is not None and word is not None:
            tokens.setdefault((text, word), []).append(token)
            ends[text, word] = end
    words, before = [], (0, 0)
    for place, end in ends.items():
        sequence = place[0]
        start = before[1] if before[0] == sequence else 0
        words.append((" / " if sequence != before[0] else "") + texts[sequence][start:end])
        before = (sequence, end)
    return tuple(words), torch.stack([values[each].mean() for each in tokens.values()])
