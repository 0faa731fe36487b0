"""Head: what a fine-tuned sequence classifier answers by, as Hugging Face's class computes it, without its dropout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.activations import ACT2FN

from skillneurons.models.architectures import ARCHITECTURES
from skillneurons.models.config import EncoderConfig
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import REGRESSION, SEVERAL_LABELS
from skillneurons.utilities.fingerprints import fingerprint_of
from skillneurons.utilities.types import Json, Library


@checked
@dataclass(frozen=True, eq=False)
class Head:
    """Logits of classes from the stream at the first token: `W act_fn(W_dense x + b_dense) + b`.

    Args:
        words: Names of the classes.
        dense_weight: Of the layer in front: BERT's pooler, RoBERTa's `classifier.dense`, DistilBERT's `pre_classifier`.
        dense_bias: Its bias.
        weight: A row for each class.
        bias: Likewise.
        act_fn: Between the two layers.

    Raises:
        ValueError: There is one class only, the weights do not fit each other or the names, or one is not finite.

    Example:
        >>> import torch
        >>> from skillneurons import Head
        >>> head = Head(("no", "yes"), torch.eye(3), torch.zeros(3), torch.ones(2, 3), torch.zeros(2), "relu")
        >>> head(torch.ones(1, 3))
        tensor([[3., 3.]])
    """

    words: tuple[str, ...]
    dense_weight: Float[Tensor, "d_hidden d_model"]
    dense_bias: Float[Tensor, " d_hidden"]
    weight: Float[Tensor, "label d_hidden"]
    bias: Float[Tensor, " label"]
    act_fn: str

    def __post_init__(self) -> None:
        n, n_hidden = len(self.words), len(self.dense_weight)
        shapes = [tuple(getattr(self, name).shape) for name in self.tensor_names()]
        if shapes != [(n_hidden, self.d_model), (n_hidden,), (n, n_hidden), (n,)]:
            raise ValueError(
                f"A head for {n} classes {self.words} needs weights [hidden, d_model], [hidden], [{n}, hidden] and "
                f"[{n}], but has {', '.join(map(str, shapes))}."
            )
        if n < 2:
            raise ValueError(f"The head gives one number, {self.words}. {REGRESSION}")
        if len(set(self.words)) < n:
            raise ValueError(f"`words` needs to differ from class to class, but is {self.words}. Pass other `labels`.")
        if bad := [name for name in self.tensor_names() if not bool(getattr(self, name).isfinite().all())]:
            raise ValueError(f"The head has weights that are NaN or infinite: {', '.join(bad)}. Load it again.")

    def __call__(self, resid: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch label"]:
        weights = (getattr(self, name).to(resid) for name in self.tensor_names())
        dense_weight, dense_bias, weight, bias = weights
        return F.linear(ACT2FN[self.act_fn](F.linear(resid, dense_weight, dense_bias)), weight, bias)

    @staticmethod
    def tensor_names() -> tuple[str, ...]:
        """Of the fields that hold weights."""
        return tuple(one.name for one in fields(Head) if one.name not in ("words", "act_fn"))

    @property
    def d_model(self) -> int:
        """Width of the stream that it reads."""
        return self.dense_weight.shape[1]

    @property
    def asks(self) -> dict[str, Library]:
        """What a model is asked for, so that this head answers."""
        return {"read_by": self}

    @property
    def identity(self) -> str:
        """A digest of its weights and of what they are used in, not of the classes' names."""
        return fingerprint_of(((name, getattr(self, name)) for name in self.tensor_names()), {"act_fn": self.act_fn})

    def of(self, which: Sequence[int]) -> "Head":
        """The head of some of its classes, in this order."""
        chosen = list(which)
        return replace(
            self, words=tuple(self.words[i] for i in chosen), weight=self.weight[chosen], bias=self.bias[chosen]
        )

    def to(self, device: torch.device) -> "Head":
        """The head on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.tensor_names()})


def class_head_of(cfg: EncoderConfig, unused_weights: Mapping[str, Tensor]) -> Head | None:
    """The head among the weights that an encoder has no use for; None where its checkpoint has none for classes.

    Args:
        cfg: The encoder's.
        unused_weights: Likewise.

    Raises:
        ValueError: It was trained to give a number, or several labels at once; or it does not fit its configuration.
    """
    known = ARCHITECTURES.get(cfg.hf_class)
    names = known.classes if known is not None else None
    if names is None:
        return None
    parts = [
        unused_weights.get(f"{name}.{kind}") for name in (names.dense, names.output) for kind in ("weight", "bias")
    ]
    if not all(isinstance(part, Tensor) for part in parts):
        return None
    dense_weight, dense_bias, weight, bias = (part.detach() for part in parts if part is not None)
    problem = cfg.hf_config.get("problem_type")
    if problem == "regression" or len(weight) == 1:
        raise ValueError(f"{_whose(cfg)} gives {len(weight)} number{'s' * (len(weight) > 1)}. {REGRESSION}")
    if problem == "multi_label_classification":
        raise ValueError(f"{_whose(cfg)} gives several labels at once. {SEVERAL_LABELS}")
    act_fn = cfg.hf_config.get("pooler_hidden_act") or names.act_fn  # which only DeBERTa has
    return Head(_class_names(cfg.hf_config, len(weight)), dense_weight, dense_bias, weight, bias, act_fn)


def _whose(cfg: EncoderConfig) -> str:
    return f"The head of {cfg.source!r} ({cfg.hf_class})"


def _class_names(hf_config: Mapping[str, Json], n: int) -> tuple[str, ...]:
    """By the configuration, where it names as many as there are."""
    named = {int(key): str(name) for key, name in (hf_config.get("id2label") or {}).items()}
    return tuple(named.get(i, f"LABEL_{i}") for i in range(n))
