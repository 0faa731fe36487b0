"""A second kind of block: each sublayer reads the normalized stream and adds to the stream itself (pre-LN).

ESM's and ModernBERT's. Hook names are those of the other kind, less `hook_normalized_resid_mid` and `…_post`: what is
read is no stream here. What is written stays as it is, so that the stream is the sum of all that was written to it.
"""

import warnings

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers.activations import ACT2FN

from skillneurons.models.blocks import MLP, Attention, LayerNorm, has_hooks
from skillneurons.models.config import EncoderConfig


class GatedMLP(nn.Module):
    """A feed-forward layer whose neuron is `act(gate) * input`: `hook_pre`, `hook_pre_linear` and `hook_post`.

    `W_gate` reads what is activated and `W_in` what it is multiplied with, as TransformerLens names them.
    """

    def __init__(self, cfg: EncoderConfig, d_mlp: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # A layer may be pruned to nothing, of which torch warns.
            warnings.filterwarnings("ignore", message="Initializing zero-element")
            self.gate, self.input = nn.Linear(cfg.d_model, d_mlp), nn.Linear(cfg.d_model, d_mlp)
            self.output = nn.Linear(d_mlp, cfg.d_model)
        self.activation = ACT2FN[cfg.act_fn]
        self.hook_pre, self.hook_pre_linear, self.hook_post = HookPoint(), HookPoint(), HookPoint()

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        activated = self.activation(self.hook_pre(self.gate(resid)))
        return self.output(self.hook_post(activated * self.hook_pre_linear(self.input(resid))))

    W_gate = property(lambda self: self.gate.weight.T)
    W_in = property(lambda self: self.input.weight.T)
    W_out = property(lambda self: self.output.weight.T)
    b_gate = property(lambda self: self.gate.bias)
    b_in = property(lambda self: self.input.bias)
    b_out = property(lambda self: self.output.bias)


class PreNormBlock(nn.Module):
    """`mid = pre + attn(ln1(pre))`, then `post = mid + mlp(ln2(mid))`, with `hook_resid_pre`, `…_mid` and `…_post`.

    The next block's `hook_resid_pre` is this block's `hook_resid_post`. `hook_mlp_in`, where it is asked for, is the
    MLP's own copy of the stream, before `ln2`; heads' inputs are copies of what `ln1` gives.
    """

    def __init__(self, cfg: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.cfg = cfg
        # ModernBERT's first block reads the embeddings, which are normalized already.
        self.ln1 = LayerNorm(cfg.d_model, eps=cfg.eps) if layer or cfg.first_norm else nn.Identity()
        self.attn = Attention(cfg, layer)
        self.ln2 = LayerNorm(cfg.d_model, eps=cfg.eps)
        self.mlp = (GatedMLP if cfg.gated_mlp else MLP)(cfg, cfg.d_mlps[layer])
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_mid = HookPoint(), HookPoint(), HookPoint()
        self.hook_mlp_in, self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()

    def forward(
        self, resid: Float[Tensor, "batch pos d_model"], mask: Tensor | None = None, n_queries: int | None = None
    ) -> Float[Tensor, "batch query d_model"]:
        resid = self.hook_resid_pre(resid)
        attn_out = self.hook_attn_out(self.attn(self.ln1(resid), mask, n_queries))
        mid = self.hook_resid_mid(resid[:, :n_queries] + attn_out)
        mlp_in = self.hook_mlp_in(mid.clone()) if self.cfg.use_hook_mlp_in and has_hooks(self.hook_mlp_in) else mid
        return self.hook_resid_post(mid + self.hook_mlp_out(self.mlp(self.ln2(mlp_in))))
