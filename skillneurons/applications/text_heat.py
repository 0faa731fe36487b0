"""A neuron's activation word by word, as a strip of coloured text.

Cost: one pass over the texts.
"""

import html
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.text import real_positions
from skillneurons.classifiers.classifier import Classifier
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.batching import Batch
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Result, drawn_by
from skillneurons.utilities.types import Json, Row, Tokenizer

# The strongest colour of a strip: black text on it can be read, and it darkens towards here also in grey.
HEAT = (213, 94, 0)


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
