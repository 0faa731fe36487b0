"""What a classifier answers by: label words, or the head of a fine-tuned model. What both have in common is here.

Each has `words` (one for each class), `asks` (what the model's pass is asked for), `identity` (what tells its answers
from others') and `of` (some of its classes).
"""

from typing import TypeAlias

from torch import Tensor

from skillneurons.classifiers.prompts import SoftPrompt
from skillneurons.classifiers.verbalizer import Verbalizer
from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.class_head import Head
from skillneurons.utilities.types import Json

ReadOut: TypeAlias = Verbalizer | Head


def label_words(read_out: ReadOut, what: str) -> Verbalizer:
    """A classifier's label words, for what looks at the words themselves.

    Args:
        read_out: `classifier.verbalizer`.
        what: What needs them: the error's first words.

    Raises:
        TypeError: It is a head.
    """
    if isinstance(read_out, Head):
        raise TypeError(
            f"{what} needs label words, but this classifier answers by its own head, {read_out.words}. Leave this out, "
            "or tune a prompt on a masked language model: `tune_prompt`."
        )
    return read_out


def of_labels(head: Head, labels: tuple[str, ...]) -> Head:
    """The head with its classes in the order of these labels, where they are its names."""
    names = [word.casefold() for word in head.words]
    known = [label.casefold() in names for label in labels]
    if labels and all(known):
        return head.of([names.index(label.casefold()) for label in labels])
    if labels and (any(known) or len(labels) != len(names)):
        raise ValueError(
            f"`labels` are names of the head's classes, {head.words}, or others for all of them in this order, but "
            f"are {labels}."
        )
    return head


def check_reads(head: Head, model: HookedEncoder, prompt: SoftPrompt) -> None:
    """Raise unless the head reads a stream of this width, at a first token that is no mask."""
    if head.d_model != model.cfg.d_model:
        raise ValueError(
            f"The head reads a stream of {head.d_model} features, but {model.cfg.source!r} has {model.cfg.d_model}. "
            "Pass the model that it was trained on."
        )
    if not prompt.in_front:
        raise ValueError(
            "A head reads the text's first token, but this prompt puts a mask there. Pass no prompt "
            "(`Classifier.from_head(model)`), or one that stands in front of all else (`in_front`)."
        )


def as_saved(read_out: ReadOut) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """Tensors and description of label words or a head, as a classifier's file holds them."""
    if isinstance(read_out, Head):
        tensors = {f"head.{name}": getattr(read_out, name) for name in Head.tensor_names()}
        return tensors, {"head": {"words": read_out.words, "act_fn": read_out.act_fn}}
    return {}, {"verbalizer": {"words": read_out.words, "token_ids": read_out.token_ids}}


def read_out_of(tensors: dict[str, Tensor], meta: dict[str, Json]) -> ReadOut:
    """The label words or the head that a classifier's file holds."""
    if "head" in meta:
        weights = {name: tensors[f"head.{name}"] for name in Head.tensor_names()}
        return Head(words=tuple(meta["head"]["words"]), act_fn=meta["head"]["act_fn"], **weights)
    return Verbalizer(tuple(meta["verbalizer"]["words"]), tuple(meta["verbalizer"]["token_ids"]))
