"""An encoder's weights under TransformerLens's names and in its shapes. Views where torch can give them: no memory."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.models.encoder_parts.hooks import EncoderHooks


class EncoderWeights(EncoderHooks):
    """The part of a `HookedEncoder` that shows its weights."""

    blocks: Any
    embed: Any
    read_out: Any

    def _stack(self, get: Callable[[Any], Tensor]) -> Tensor:
        tensors = [get(block) for block in self.blocks]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(
                f"The layers of this pruned encoder have different widths {self.cfg.d_mlps}, so they do not stack. "
                "Use `model.blocks[layer].mlp`."
            )
        return torch.stack(tensors)

    W_in = property(lambda self: self._stack(lambda block: block.mlp.W_in), doc="[layer d_model d_mlp]")
    W_out = property(lambda self: self._stack(lambda block: block.mlp.W_out), doc="[layer d_mlp d_model]")
    b_in = property(lambda self: self._stack(lambda block: block.mlp.b_in), doc="[layer d_mlp]")
    b_out = property(lambda self: self._stack(lambda block: block.mlp.b_out), doc="[layer d_model]")
    W_Q = property(lambda self: self._stack(lambda block: block.attn.W_Q), doc="[layer head d_model d_head]")
    W_K = property(lambda self: self._stack(lambda block: block.attn.W_K), doc="[layer head d_model d_head]")
    W_V = property(lambda self: self._stack(lambda block: block.attn.W_V), doc="[layer head d_model d_head]")
    W_O = property(lambda self: self._stack(lambda block: block.attn.W_O), doc="[layer head d_head d_model]")
    b_Q = property(lambda self: self._stack(lambda block: block.attn.b_Q), doc="[layer head d_head]")
    b_K = property(lambda self: self._stack(lambda block: block.attn.b_K), doc="[layer head d_head]")
    b_V = property(lambda self: self._stack(lambda block: block.attn.b_V), doc="[layer head d_head]")
    b_O = property(lambda self: self._stack(lambda block: block.attn.b_O), doc="[layer d_model]")
    W_E = property(lambda self: self.embed.word.weight, doc="[d_vocab d_model]")
    W_pos = property(lambda self: self.embed.position.weight[self.cfg.position_offset :], doc="[n_ctx d_model]")
    W_U = property(lambda self: self._unembedding[0].T, doc="[d_model d_vocab]")

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        bias = self._unembedding[1]
        return torch.zeros(self.cfg.d_vocab, device=self.device, dtype=self.dtype) if bias is None else bias

    @property
    def _unembedding(self) -> tuple[Tensor, Tensor | None]:
        weight = self.embed.word.weight if self.cfg.tied_embeddings else self.read_out.weight
        return weight, self.read_out.bias if self.read_out.transform else None

    @property
    def device(self) -> torch.device:
        return self.embed.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.word.weight.dtype

    def all_head_labels(self) -> list[str]:
        """`L{layer}H{head}` of every head, in the order of `stack_head_results`."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]
