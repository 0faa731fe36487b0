"""An encoder's weights under TransformerLens's names and in its shapes. Views where torch can give them: no memory."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from skillneurons.models.encoder_parts.hooks import EncoderHooks
from skillneurons.models.encoder_parts.next_sentence import Pooler
from skillneurons.utilities.types import Library


class EncoderWeights(EncoderHooks):
    """The part of a `HookedEncoder` that shows its weights."""

    blocks: Library
    embed: Library
    read_out: Library
    unused_weights: dict[str, Tensor]

    def _stack(self, get: Callable[[Library], Tensor]) -> Tensor:
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
    W_E = property(lambda self: self.embed.word.weight, doc="[d_vocab d_model], or d_embed where that is another width")
    W_U = property(lambda self: self._unembedding()[0].T, doc="[d_model d_vocab], likewise: of what `read_out` gives")

    W_gate = property(lambda self: self._stack(lambda block: block.mlp.W_gate), doc="[layer d_model d_mlp], if gated")
    b_gate = property(lambda self: self._stack(lambda block: block.mlp.b_gate), doc="[layer d_mlp], likewise")
    W_E_pos = property(lambda self: torch.cat([self.W_E, self.W_pos]), doc="[d_vocab+n_ctx d_model]")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="[layer head d_model d_model]")
    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="[layer head d_model d_model]")
    config = property(lambda self: self.cfg, doc="`cfg`, for tools that ask for Hugging Face's name of it.")

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_embed"]:
        """Rows of the position table, none where positions are not added to the embeddings."""
        if self.embed.position is None:
            return self.W_E[:0]
        return self.embed.position.W_pos

    @property
    def mlm_head(self) -> Library:
        """`read_out`, under TransformerLens's name."""
        return self.read_out

    @property
    def pooler(self) -> Pooler:
        """BERT's pooler, with a copy of its weights, where the checkpoint has one."""
        return Pooler(self._head("pooler.dense"))

    @property
    def nsp_head(self) -> nn.Linear:
        """BERT's head that tells whether two sentences follow, on what `pooler` gives; likewise."""
        return self._head("seq_relationship")

    def _head(self, name: str) -> nn.Linear:
        found = {key.rsplit(".", 1)[-1]: value for key, value in self.unused_weights.items() if f"{name}." in f".{key}"}
        if not {"weight", "bias"} <= set(found):
            raise AttributeError(f"The checkpoint of this encoder has no {name!r}.")
        d_out, d_in = found["weight"].shape
        linear = nn.Linear(d_in, d_out)
        linear.load_state_dict({part: found[part] for part in ("weight", "bias")})
        return linear.to(self.device, self.dtype).requires_grad_(False)

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        bias = self._unembedding()[1]
        return torch.zeros(self.cfg.d_vocab, device=self.device, dtype=self.dtype) if bias is None else bias

    def word_directions(self, tokens: Int[Tensor, " token"] | None = None) -> Float[Tensor, "token d_model"]:
        """Where the embeddings of all words, or of these, point in the stream.

        Rows of `W_E`, through the projection behind them where they are narrower than the stream.
        """
        words = self.W_E if tokens is None else self.W_E[tokens]
        return words if self.embed.project is None else words @ self.embed.project.weight.T

    def _unembedding(self, tokens: Int[Tensor, " token"] | None = None) -> tuple[Tensor, Tensor | None]:
        """What a read-out's features are multiplied with, and what is added, for all tokens or these."""
        if not self.read_out.transform:
            return self.word_directions(tokens), None
        weight, bias = self.W_E if self.cfg.tied_embeddings else self.read_out.weight, self.read_out.bias
        return (weight, bias) if tokens is None else (weight[tokens], bias[tokens])

    @property
    def device(self) -> torch.device:
        return self.embed.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.word.weight.dtype

    def all_head_labels(self) -> list[str]:
        """`L{layer}H{head}` of every head, in the order of `stack_head_results`."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    def tl_parameters(self) -> dict[str, Tensor]:
        """Views of all weights by TransformerLens's names and in its shapes; LayerNorms by torch's.

        (An MLP here reads what `ln1` gives: `ln2.w`, which TransformerLens folds into an MLP's input, would mislead.)
        """
        named: dict[str, Tensor] = {
            "embed.W_E": self.W_E,
            "unembed.W_U": self.W_U,
            "unembed.b_U": self.b_U,
        }
        if self.embed.position is not None:
            named["pos_embed.W_pos"] = self.W_pos
        if self.embed.token_type is not None:
            named["token_type_embed.W_token_type"] = self.embed.token_type.weight
        for layer, block in enumerate(self.blocks):
            for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
                named[f"blocks.{layer}.attn.{name}"] = getattr(block.attn, name)
            for name in ("W_in", "W_out", "b_in", "b_out", *(("W_gate", "b_gate") if self.cfg.gated_mlp else ())):
                named[f"blocks.{layer}.mlp.{name}"] = getattr(block.mlp, name)
        rest = ("ln.", "ln_final.", "ln1.", "ln2.", "embed.project.", "read_out.dense", "relative_bias.")
        rest += ("distances.", "disentangled.")
        named |= {name: value for name, value in self.named_parameters() if any(part in name for part in rest)}
        return named
