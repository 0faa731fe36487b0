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
from typing import Any, TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens: TypeAlias = Int[Tensor, "batch pos"]
AttentionMask: TypeAlias = Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"]
Residual: TypeAlias = Float[Tensor, "batch pos d_model"]
PerNeuron: TypeAlias = Float[Tensor, "layer neuron"]
PerPrompt: TypeAlias = Float[Tensor, "prompt layer neuron"]

Row: TypeAlias = Mapping[str, Any]
"""One example: `text`, or `text_a` and `text_b`, and an integer `label`."""

Texts: TypeAlias = Sequence[Row | str | tuple[str, str]]
"""What a classifier answers: examples, or texts alone, or pairs of texts."""

Hook: TypeAlias = tuple[str, Callable[..., Tensor | None]]
"""A hook name and a function `(activation, hook) -> activation`, as TransformerLens takes them."""

FwdHooks: TypeAlias = Sequence[Hook]
