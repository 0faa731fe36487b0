"""Tensor aliases, and the one table of axis names.

| axis | meaning |
|---|---|
| `task seed` | repetitions |
| `batch` | examples |
| `pos` | position in the full input |
| `prompt` | position inside the soft prompt |
| `layer neuron` | a neuron's address: `blocks.{layer}.mlp.hook_post`, index `neuron` of `d_mlp` |
| `d_model d_vocab label` | features, vocabulary, classes |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens: TypeAlias = Int[Tensor, "batch pos"]
AttentionMask: TypeAlias = Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"]
Residual: TypeAlias = Float[Tensor, "batch pos d_model"]
PerNeuron: TypeAlias = Float[Tensor, "layer neuron"]
PerPrompt: TypeAlias = Float[Tensor, "prompt layer neuron"]

Json: TypeAlias = Any
"""What JSON or a table's cell holds: told apart where it is read (`store.parse_json`), by nothing that a type says."""

Library: TypeAlias = Any
"""An object of a library, or one taken for its attributes, whose type does not declare what is read of it."""

Chosen: TypeAlias = Any
"""Places along an axis, as TransformerLens takes them: a number, a slice, a list, a tensor, a `Slice` or None."""

Tokenizer: TypeAlias = Any
"""A Hugging Face tokenizer. Its own types allow lists and words wherever a single id or text comes back."""

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

    AtHook: TypeAlias = HookPoint | None
else:
    AtHook: TypeAlias = Any  # not imported by what has nothing to do with models

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""

Row: TypeAlias = Mapping[str, Json]
"""One example: `text`, or `text_a` and `text_b`, and an integer `label`."""

Texts: TypeAlias = Sequence[Row | str | tuple[str, str]]
"""What a classifier answers: examples, or texts alone, or pairs of texts."""

Hook: TypeAlias = tuple[str, Callable[..., Tensor | None]]
"""A hook name and a function `(activation, hook) -> activation`, as TransformerLens takes them."""

HookName: TypeAlias = str | Callable[[str], bool]
"""A hook's name, or which names are meant."""

FwdHooks: TypeAlias = Sequence[Hook]
