"""F6, words: are skill neurons merely neurons that stand for certain words?

Source: Wang et al. 2022 (cosine of a neuron's weights with word embeddings). Weights only; no text is run.
A neuron's input weights say which residual directions excite it, its output weights which it writes; both are compared
with the word embeddings. Between them lie LayerNorms and other layers, so a high cosine is a hint, not a proof.

To test the rival explanation causally, pass `label_word_selectivity` as a rival to `necessity`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations.statistic import stack_layers
from skillneurons.classifiers.prompts import Verbalizer
from skillneurons.classifiers.read_out import label_words
from skillneurons.findings.common import check_same_model, encoder_of
from skillneurons.findings.record import Finding, Measured, ReproduceSettings, Study, register
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.scores import NeuronScores
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.devices import to_device
from skillneurons.utilities.results import Result, drawn_by
from skillneurons.utilities.types import Json

Side = Literal["input", "output"]


@dataclass(frozen=True, eq=False, repr=False)
class WordSelectivity(Result):
    """Nearest words of skill neurons, and how far they coincide with label-word-selective ones.

    Args:
        neurons: Layer and index of each skill neuron, in the order of the set.
        tokens: Ids of the tokens nearest to a neuron's weights, on the input and the output side.
        cosine: Their cosines.
        words: Text of the tokens.
        n_with_label_word: Skill neurons that have a label word among their nearest words, on either side.
        overlap: Overlap of the skill set with an equally large set of label-word-selective neurons, against chance.
        rank_correlation: Spearman correlation of predictivity with label-word selectivity, over all neurons.
        meta: Settings.

    Example:
        See `word_selectivity`, which makes it.
    """

    neurons: Int[Tensor, "chosen 2"]
    tokens: Int[Tensor, "2 chosen nearest"]
    cosine: Float[Tensor, "2 chosen nearest"]
    words: tuple[tuple[tuple[str, ...], ...], ...]
    n_with_label_word: int
    overlap: dict[str, Json]
    rank_correlation: float
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_word_selectivity")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron: its nearest words on both sides, and the cosine of the nearest."""
        columns: dict[str, Json] = {"layer": self.neurons[:, 0].numpy(), "neuron": self.neurons[:, 1].numpy()}
        for i, side in enumerate(("input", "output")):
            columns[f"{side}_words"] = [" ".join(words) for words in self.words[i]]
            columns[f"{side}_cosine"] = self.cosine[i, :, 0].numpy()
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return (
            f"WordSelectivity({len(self.neurons)} skill neurons; {self.n_with_label_word} with a label word nearby; "
            f"overlap with label-word-selective ones {self.overlap['overlap']:.3f}, by chance "
            f"{self.overlap['expected']:.3f}, p {self.overlap['p']:.3g}; rank correlation {self.rank_correlation:.3f})"
        )


@checked
def word_selectivity(
    model: HookedEncoder, scores: NeuronScores, verbalizer: Verbalizer, *, fraction: float = 0.01, n_nearest: int = 5
) -> WordSelectivity:
    """The words nearest to the most predictive neurons, and their overlap with label-word-selective neurons.

    Args:
        model: The scores' model.
        scores: Rank the neurons.
        verbalizer: The label words.
        fraction: Share of all neurons in each set, over the whole model.
        n_nearest: Words to list.

    Raises:
        ValueError: The scores are of another model.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> classifier, task = load_example()
        >>> model, words = classifier.model, classifier.verbalizer
        >>> scores = find_skill_neurons(classifier, task)
        >>> result = findings.word_selectivity(model, scores, words, n_nearest=3)
        >>> len(result.neurons), result.n_with_label_word  # none has one nearby
        (31, 0)
        >>> list(result.to_dataframe())
        ['layer', 'neuron', 'input_words', 'input_cosine', 'output_words',
         'output_cosine']
    """
    check_same_model([scores], model.fingerprint())
    skill = scores.top(fraction, per_layer=False)
    tokens, cosine = zip(*(nearest_tokens(model, skill, side, n_nearest) for side in ("input", "output")), strict=True)
    both = torch.stack(tokens)
    label_words = torch.tensor(verbalizer.token_ids)
    hit = torch.isin(both, label_words).any(dim=2).any(dim=0)
    rival = label_word_selectivity(model, verbalizer)
    rivals = top_neurons(rival, fraction, per_layer=False, model=skill.model)
    return WordSelectivity(
        neurons=skill.mask.nonzero(),
        tokens=both,
        cosine=torch.stack(cosine),
        words=tuple(tuple(tuple(_text(model, token) for token in row) for row in side) for side in both.tolist()),
        n_with_label_word=int(hit.sum()),
        overlap=overlap_test(skill, rivals),
        rank_correlation=spearman(scores.predictivity.flatten().double(), rival.flatten().double()),
        meta={
            "task": scores.meta.get("task"),
            "seeds": scores.seeds,
            "fraction": fraction,
            "label_words": list(verbalizer.words),
        },
    )


@checked
@torch.no_grad()
def nearest_tokens(
    model: HookedEncoder, neurons: NeuronSet, side: Side, n_nearest: int = 5
) -> tuple[Int[Tensor, "chosen nearest"], Float[Tensor, "chosen nearest"]]:
    """Tokens whose embeddings have the largest absolute cosine with each neuron's weights, and these cosines.

    Args:
        model: Gives weights and embeddings.
        neurons: Which; rows come in the order of the set.
        side: `"input"`: columns of `W_in`; `"output"`: rows of `W_out`.
        n_nearest: How many.

    Returns:
        Ids and signed cosines, the largest in size first.

    Example:
        >>> from skillneurons import HookedEncoder, NeuronSet, findings
        >>> model = HookedEncoder.from_pretrained("bundled")
        >>> neurons = NeuronSet.from_pairs([(0, 6), (2, 740)], n_layers=4, d_mlp=768)
        >>> tokens, cosine = findings.nearest_tokens(model, neurons, "input", 2)
        >>> [model.to_string(row) for row in tokens]
        [' have has', ' was were']
        >>> cosine.shape  # neuron, nearest
        torch.Size([2, 2])
    """
    check_whole("n_nearest", n_nearest, 1, model.cfg.d_vocab)
    words = F.normalize(model.word_directions(), dim=1)
    weights = torch.cat([_weights(model, layer, side)[neurons.indices(layer)] for layer in range(model.cfg.n_layers)])
    cosine = F.normalize(weights, dim=1) @ words.T
    nearest = cosine.abs().topk(n_nearest, dim=1).indices
    return nearest.cpu(), cosine.gather(1, nearest).float().cpu()


def nearest_words(
    model: HookedEncoder, neurons: NeuronSet, side: Side, n_nearest: int = 5
) -> list[tuple[tuple[str, float], ...]]:
    """For each neuron, the words that `nearest_tokens` finds, with their cosines."""
    tokens, cosine = nearest_tokens(model, neurons, side, n_nearest)
    return [
        tuple((_text(model, token), value) for token, value in zip(*row, strict=True))
        for row in zip(tokens.tolist(), cosine.tolist(), strict=True)
    ]


@checked
@torch.no_grad()
def label_word_selectivity(
    model: HookedEncoder, verbalizer: Verbalizer, side: Side = "output"
) -> Float[Tensor, "layer neuron"]:
    """How strongly each neuron's weights point to a label word: the largest absolute cosine with their embeddings.

    Source: Wang et al. 2022, whose word-selective neurons have the label words' embeddings nearest.

    Args:
        model: Gives weights and embeddings.
        verbalizer: The label words.
        side: Input or output weights.

    Returns:
        In [0, 1].

    Example:
        >>> from skillneurons import findings, load_example
        >>> classifier, _ = load_example()
        >>> classifier.verbalizer.words
        ('terrible', 'great')
        >>> score = findings.label_word_selectivity(classifier.model, classifier.verbalizer)
        >>> score.shape, bool(score.max() < 0.5)  # layer, neuron; none is near to 1
        (torch.Size([4, 768]), True)
    """
    ids = to_device(torch.tensor(verbalizer.token_ids), model.device)
    words = F.normalize(model.word_directions(ids), dim=1)
    layers = [
        (F.normalize(_weights(model, layer, side), dim=1) @ words.T).abs().amax(dim=1)
        for layer in range(model.cfg.n_layers)
    ]
    return stack_layers(layers, dim=0).float().cpu()


def _weights(model: HookedEncoder, layer: int, side: Side) -> Float[Tensor, "neuron d_model"]:
    mlp = model.blocks[layer].mlp
    if side == "input":
        return mlp.W_in.T  # type: ignore[union-attr]
    if side == "output":
        return mlp.W_out  # type: ignore[union-attr]
    raise ValueError(f"`side` is 'input' or 'output', not {side!r}.")


def _text(model: HookedEncoder, token: int) -> str:
    return str(model.to_string(torch.tensor([token]))).strip() or repr(model.to_string(torch.tensor([token])))


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        first, scores = study.classifiers[0], study.scores[0]
        result = word_selectivity(
            encoder_of(first), scores, label_words(first.verbalizer, "F6"), fraction=settings.fraction
        )
        shared = {f"label_words_{key}": result.overlap[key] for key in ("overlap", "expected", "p")}
        shared["label_words_rank_correlation"] = result.rank_correlation
        yield Measured(result, scores.meta["task"], shared)


register(Finding("F6-selectivity", _measure, order=6, reads_weights=True))
