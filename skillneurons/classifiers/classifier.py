"""Classifier: a frozen model, and a soft prompt and label words or its own head. The thing whose neurons are studied.

`label_logits` is the one place that runs the model on examples; tuning, probing and evaluation all go through it.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.classifiers.answers import Answers
from skillneurons.classifiers.prompts import Layout, SoftPrompt, no_prompt, splice
from skillneurons.classifiers.read_out import ReadOut, as_saved, check_reads, of_labels, read_out_of
from skillneurons.models._load_model import as_own_encoder
from skillneurons.models.bridge import AnyModel, Model, as_classifiable, as_encoder
from skillneurons.models.encoder_parts.class_head import Head, class_head_of
from skillneurons.models.encoder_parts.input_checks import check_ids
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Batch, Encoded, as_rows, bucketed, by_length, collate, encode
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.draws import rows_in_pass
from skillneurons.utilities.results import Shown
from skillneurons.utilities.types import FwdHooks, Library, Texts, Tokenizer

TEXTS = ("text", "text_a", "text_b")


@checked
@dataclass(frozen=True, eq=False)
class Classifier(Shown):
    """A model that answers a task through a soft prompt.

    Args:
        model: Never changed by anything in this package. A TransformerBridge may be passed; see `bridge`.
        prompt: Vectors in front of the text, or behind it for a decoder.
        verbalizer: The label words; or, where a fine-tuned model answers by a head of its own, this `Head`.
        labels: Names of the classes, in the order of the verbalizer.
        history: One record for each evaluation during tuning: step, loss, accuracy.
        extra_hooks: Forward hooks that belong to the classifier, such as a tuned adapter's.

    Raises:
        ValueError: The prompt was made for another model, labels and label words differ in number, or a head does not
            read this model's first token.

    Example:
        >>> from skillneurons import Classifier, HookedEncoder, Verbalizer
        >>> from skillneurons import load_example, written_prompt
        >>> model = HookedEncoder.from_pretrained("bundled")
        >>> words = Verbalizer.from_words(model.tokenizer, ["terrible", "great"])
        >>> rows = [{"text": "A clever film."}, {"text": "Dull and far too long."}]
        >>> Classifier(model, written_prompt(model, "It was"), words).logits(rows).shape
        torch.Size([2, 2])
        >>> tuned, _ = load_example()
        >>> tuned.predict(["A clever film.", "Dull and far too long."])
        tensor([1, 0])
    """

    EXPLAINED: ClassVar[tuple[str, ...]] = ("rows",)

    if TYPE_CHECKING:
        model: Model  # what is made of any
    else:
        model: AnyModel
    prompt: SoftPrompt
    verbalizer: ReadOut
    labels: Sequence[str] = ()
    history: tuple[dict[str, int | float], ...] = ()
    extra_hooks: FwdHooks = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_classifiable(self.model))
        object.__setattr__(self, "labels", tuple(self.labels) or self.verbalizer.words)
        if len(self.labels) != len(self.verbalizer.words):
            raise ValueError(f"`labels` {self.labels} and label words {self.verbalizer.words} differ in number.")
        if self.prompt.vectors.device != self.model.device:
            vectors = self.prompt.vectors.to(self.model.device)
            object.__setattr__(self, "prompt", replace(self.prompt, vectors=vectors))
        if isinstance(self.verbalizer, Head):
            check_reads(self.verbalizer, as_encoder(self.model, "A head of its own"), self.prompt)
            object.__setattr__(self, "verbalizer", self.verbalizer.to(self.model.device))
        elif not len(self.prompt):
            raise ValueError(
                "Label words are read at a mask or at a prompt's vector, but `prompt` has none. Pass a prompt, or a "
                "model's own `Head`: `Classifier.from_head(model)`."
            )
        if self.prompt.in_front and self.model.reads_after_text:
            raise ValueError(
                f"The prompt stands in front of all else (`in_front`), where a decoder ({self.model.cfg.source}) reads "
                "nothing of the text. Pass a prompt that stands behind it, or an encoder."
            )
        expected = self.model.fingerprint()
        if self.prompt.model != expected:
            raise ValueError(
                f"The prompt was made for a model with fingerprint {self.prompt.model}, but this one "
                f"({self.model.cfg.source}) has {expected}. Load the prompt's model or tune a new prompt."
            )

    @classmethod
    def from_head(
        cls, model: Library, tokenizer: Tokenizer | None = None, *, labels: Sequence[str] = ()
    ) -> "Classifier":
        """A fine-tuned model as it is: no prompt, and its own head in place of label words.

        The head reads the text's first token, `<s>`. What is measured at a prompt's positions elsewhere is measured
        there: `positions` are `"prompt"` or `"first"` (that token), `"text"` (what follows) and `"all"`.

        Args:
            model: A sequence classifier of Hugging Face (`RobertaForSequenceClassification` and its like), its name or
                folder, or the `HookedEncoder` made of it.
            tokenizer: The model's, where it comes without one.
            labels: The classes to answer with, in this order, where that is not the configuration's (`id2label`). Where
                all are names of it (in small or capital letters), these classes are taken, else all in their order.

        Raises:
            TypeError: The model is no encoder.
            ValueError: It has no head for classes, or one for numbers or for several labels at once; or `labels` are
                neither names of its classes nor as many.

        Example:
            >>> from transformers import RobertaConfig, RobertaForSequenceClassification
            >>> from skillneurons import HookedEncoder
            >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 12}
            >>> config = RobertaConfig(vocab_size=4000, max_position_embeddings=40, **sizes)
            >>> fine_tuned = RobertaForSequenceClassification(config).eval()
            >>> tokenizer = HookedEncoder.from_pretrained("bundled").tokenizer
            >>> classifier = Classifier.from_head(fine_tuned, tokenizer, labels=["negative", "positive"])
            >>> classifier.logits(["A clever film.", "Dull and far too long."]).shape
            torch.Size([2, 2])
            >>> classifier.layout.positions("first")
            slice(0, 1, None)
        """
        encoder = as_own_encoder(model, tokenizer)
        head = class_head_of(encoder.cfg, encoder.unused_weights)
        if head is None:
            other = "one of another form" if encoder.cfg.hf_class.endswith("ForSequenceClassification") else "none"
            raise ValueError(
                f"A head for classes is needed, but {encoder.cfg.source!r}, a {encoder.cfg.hf_class}, has {other}. "
                "Pass a sequence classifier, such as RobertaForSequenceClassification; or tune a prompt: `tune_prompt`."
            )
        head = of_labels(head, tuple(labels))
        return cls(encoder, no_prompt(encoder), head, tuple(labels))

    @property
    def fingerprint(self) -> str:
        """Of the model whose neurons these are, as it was when the classifier was made: what scores and sets carry."""
        return self.prompt.model

    @property
    def layout(self) -> Layout:
        return Layout(len(self.prompt), self.model.reads_after_text, self.prompt.in_front)

    @property
    def fwd_hooks(self) -> FwdHooks:
        """The hooks that make the model this classifier."""
        prompt = [splice(self.prompt.vectors, self.layout.start)] if len(self.prompt) else []
        return [*prompt, *self.extra_hooks]

    def encode(self, rows: Texts | Encoded) -> Encoded:
        """Tokenized rows; already tokenized ones are returned as they are.

        Warns where texts are cut to fit.

        Raises:
            ValueError: There are no rows, a token is not one of the model's, or rows that were tokenized for a shorter
                prompt are too long beside this one.
        """
        room = self.model.cfg.n_ctx - self.layout.n_added
        if isinstance(rows, Encoded):
            if bool((rows.lengths > room).any()):
                raise ValueError(
                    f"`rows` were encoded with up to {int(rows.lengths.max())} tokens, but beside this prompt of "
                    f"{len(self.prompt)} vectors {room} fit. Encode them with this classifier."
                )
            return rows
        encoded = encode(self.model.tokenizer, rows, room)
        if encoded.n_truncated:
            warnings.warn(
                f"{encoded.n_truncated} of {len(encoded)} texts have more than the {room} tokens that fit beside this "
                "prompt; their ends are cut. `Task.shortened(n_words)` cuts them alike for all models.",
                stacklevel=2,
            )
        check_ids(encoded.tokens, self.model.cfg.d_vocab)
        return encoded

    def batches(
        self,
        rows: Texts | Encoded,
        *,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        share: slice = slice(None),
    ) -> Iterator[Batch]:
        """Batches of similar length, ordered by label within, on the model's device; with a `share`, some of them."""
        encoded = self.encode(rows)
        for index in bucketed(encoded, self.layout.n_added, tokens_per_batch)[share]:
            yield from self.collate(encoded, index)

    def collate(self, encoded: Encoded, index: Int[Tensor, " batch"]) -> list[Batch]:
        """The rows `index` as one padded batch; with the prompt behind the text, as one batch for each length."""
        prefix, pad, device = self.layout.prefix(self.model.tokenizer), self.model.cfg.pad_token_id, self.model.device
        if not self.layout.after_text:
            return [collate(encoded, index, prefix, pad, device)]
        suffix = self.layout.suffix()
        return [collate(encoded, part, prefix, pad, device, suffix=suffix) for part in by_length(encoded, index)]

    @torch.no_grad()
    def logits(
        self,
        rows: Texts | Encoded,
        fwd_hooks: FwdHooks = (),
        *,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> Float[Tensor, "batch label"]:
        """Logits where the label is read, by label words or a head, in the order of the rows, on the CPU in float32.

        Args:
            rows: Examples, texts, pairs of texts, or what `encode` made of them.
            fwd_hooks: Interventions, run after the classifier's own hooks.
            tokens_per_batch: Padded positions in one forward pass; bounds the memory.

        Raises:
            ValueError: The model is in train mode.
            FloatingPointError: A logit is NaN or infinite.
        """
        require_eval(self.model)
        check_hooks(fwd_hooks, self.fingerprint)
        encoded = self.encode(rows)
        result, parts = torch.empty(len(encoded), len(self.labels)), []
        with self.model.hooks(fwd_hooks=[*self.fwd_hooks, *fwd_hooks]):
            for batch in self.batches(encoded, tokens_per_batch=tokens_per_batch):
                parts.append((batch.index, label_logits(self, batch).float()))
        # Fetched at the end, so that the host never waits for a GPU in between.
        for index, logits in parts:
            result[index] = logits.cpu()
        store.check_finite("logits", result, "Check the model's weights, the prompt and any hooks.")
        return result

    def predict(self, rows: Texts | Encoded, fwd_hooks: FwdHooks = ()) -> Int[Tensor, " batch"]:
        """Index of the label with the highest logit, for each row; `answers` has their names."""
        return self.logits(rows, fwd_hooks).argmax(dim=-1)

    def probabilities(self, rows: Texts | Encoded, fwd_hooks: FwdHooks = ()) -> Float[Tensor, "batch label"]:
        """What each label has of the probability that all labels have together, for each row."""
        return self.logits(rows, fwd_hooks).softmax(dim=-1)

    def answers(self, rows: Texts | Encoded, fwd_hooks: FwdHooks = ()) -> Answers:
        """The names of the labels with the highest logits, and each label's probability, for each row.

        Args:
            rows: Examples, texts, pairs of texts, or what `encode` made of them (and which has no texts).
            fwd_hooks: Interventions.

        Example:
            >>> from skillneurons import load_example
            >>> classifier, _ = load_example()
            >>> classifier.answers(["A clever film.", "Dull and far too long."])
                              text   answer  p(negative)  p(positive)
                    A clever film. positive        0.154        0.846
            Dull and far too long. negative        0.854        0.146
        """
        made = [] if isinstance(rows, Encoded) else as_rows(rows)
        texts = tuple(" / ".join(row[key] for key in TEXTS if key in row) for row in made)
        return Answers(self.probabilities(rows, fwd_hooks), tuple(self.labels), texts)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each class, with its label word and the token that this is; or its name in the model's head."""
        if isinstance(self.verbalizer, Head):
            return pd.DataFrame({"class": self.labels, "head": self.verbalizer.words})
        words, tokens = self.verbalizer.words, self.verbalizer.token_ids
        return pd.DataFrame({"class": self.labels, "word": words, "token": tokens})

    def __repr__(self) -> str:
        words = ", ".join(f"{label} → {word}" for label, word in zip(self.labels, self.verbalizer.words, strict=True))
        by_head = isinstance(self.verbalizer, Head)
        what = "its own head" if by_head and not len(self.prompt) else str(self.prompt)
        lines = [f"Classifier({self.model.cfg.source}, {what})", f"  {', '.join(self.labels) if by_head else words}"]
        if checked := [one["validation_accuracy"] for one in self.history if "validation_accuracy" in one]:
            lines.append(f"  tuned for {self.history[-1]['step']} steps, at best {max(checked):.3f} on validation")
        if self.extra_hooks:
            lines.append(f"  with hooks of its own: {', '.join(str(name) for name, _ in self.extra_hooks[:4])}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write prompt, label words or head, and history; the model is named, not copied.

        Raises:
            ValueError: The classifier has hooks besides its prompt, which a file cannot hold.
        """
        if self.extra_hooks:
            raise ValueError("Only a classifier made of a prompt can be saved; this one has hooks of its own.")
        meta = {
            "model": self.fingerprint,
            "model_source": self.model.cfg.source,
            "model_revision": self.model.cfg.revision,
            "prompt": self.prompt.described(),
            "labels": self.labels,
            "history": list(self.history),
        }
        tensors, described = as_saved(self.verbalizer)
        return store.save(path, "Classifier", {"prompt": self.prompt.vectors} | tensors, meta | described)

    @classmethod
    def load(cls, path: str | Path, model: AnyModel) -> "Classifier":
        """Read what `save` wrote, onto the model it was made with."""
        tensors, meta = store.load(path, "Classifier")
        return cls(
            model=as_classifiable(model),
            prompt=SoftPrompt(tensors["prompt"], meta["model"], **meta["prompt"]),
            verbalizer=read_out_of(tensors, meta),
            labels=tuple(meta["labels"]),
            history=tuple(meta["history"]),
        )

    def with_prompt(self, prompt: SoftPrompt) -> "Classifier":
        """The same model and label words behind another prompt."""
        return replace(self, prompt=prompt, history=())


def check_answers(classifier: Classifier, task: Task) -> None:
    """Raise unless the classifier's classes are the task's, in one order, so that an integer label means the same.

    A class is the same by its name or by its label word.
    """
    pairs = zip(classifier.labels, task.labels, classifier.verbalizer.words, task.label_words, strict=False)
    same = [label == other or word == other_word for label, other, word, other_word in pairs]
    if len(classifier.labels) != task.n_labels or not all(same):
        raise ValueError(
            f"A classifier of the task's classes is needed, but {task.name!r} has {tuple(task.labels)} and the "
            f"classifier answers {tuple(classifier.labels)}. Tune one on this task, pass the task that it was tuned "
            "on, or take its answers over by `transferred(classifier, task)`."
        )


def check_hooks(fwd_hooks: FwdHooks, model: str) -> None:
    """Raise where a hook was made for neurons of another model than the one with this fingerprint."""
    for _, function in fwd_hooks:
        meant = getattr(getattr(function, "neurons", None), "model", None)
        if meant not in (None, model):
            raise ValueError(
                f"`fwd_hooks` change neurons of model {meant}, but this classifier's is {model}. Choose neurons by "
                "scores of this model."
            )


def require_eval(model: AnyModel | torch.nn.Module) -> None:
    """Raise where a model is in train mode: dropout would make every number random."""
    if model.training:
        raise ValueError("The model is in train mode, and dropout would change its activations. Call `model.eval()`.")


def label_logits(
    classifier: Classifier,
    batch: Batch,
    *,
    resid: Tensor | None = None,
    start_at_layer: int | None = None,
    last_block_to: int | None = None,
) -> Float[Tensor, "batch label"]:
    """Logits of the labels where the label is read, for one batch; hooks must be in place already.

    With `resid` and `start_at_layer` the pass begins at that block instead of at the tokens.
    """
    with rows_in_pass(batch.index):
        return classifier.model(
            batch.tokens if resid is None else resid,
            batch.mask,
            token_type_ids=segments(classifier, batch) if resid is None else None,
            logits_at=classifier.layout.label_position,
            start_at_layer=start_at_layer,
            last_block_to=last_block_to,
            check_input=False,  # `collate` made it
            **classifier.verbalizer.asks,
        )


def segments(classifier: Classifier, batch: Batch) -> Tensor | None:
    """Segment ids of a batch; None for a model that does not tell segments apart."""
    return batch.token_types if classifier.model.cfg.d_token_types > 1 else None
