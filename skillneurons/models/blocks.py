"""The parts of a `HookedEncoder`: embedding, attention, MLP, block and read-out, with TransformerLens's hook points."""

import math
import warnings

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers.activations import ACT2FN

from skillneurons.models.config import N_BUCKETS, EncoderConfig

# Distances from here on share MPNet's last bucket.
FAR = 128


def fused_is_faster(q: Tensor) -> bool:
    """Whether torch's fused attention is the faster one for these queries.

    It is, or a whole pass takes as long, but for one case: forward and backward on a CPU in half precision take it
    three to six times as long as plain matrix products (`tests/benchmarks/bench_attention.py`).
    """
    learns = torch.is_grad_enabled() and q.requires_grad
    return not (learns and q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16))


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is hooked to this module: through its hook point, or by torch's own `register_…_hook`."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class Attention(nn.Module):
    """Multi-head self-attention over all positions, for queries at the first `n_queries` of them.

    `mask` is True where a position may be read, or, with relative positions, a number to add to the scores.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.n_heads, self.scale = cfg.n_heads, cfg.d_head**-0.5
        self.query = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.key = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.value = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.output = nn.Linear(cfg.n_heads * cfg.d_head, cfg.d_model)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = HookPoint(), HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()

    def forward(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        mask: Tensor | None,
        n_queries: int | None,
    ) -> Float[Tensor, "batch query d_model"]:
        split = "batch pos (head d_head) -> batch pos head d_head"
        q = self.hook_q(rearrange(self.query(resid[:, :n_queries]), split, head=self.n_heads))
        k = self.hook_k(rearrange(self.key(resid), split, head=self.n_heads))
        v = self.hook_v(rearrange(self.value(resid), split, head=self.n_heads))
        q, k, v = (rearrange(x, "batch pos head d_head -> batch head pos d_head") for x in (q, k, v))
        if mask is not None and mask.dtype != torch.bool:
            mask = mask[..., :n_queries, :]
        if has_hooks(self.hook_attn_scores) or has_hooks(self.hook_pattern) or not fused_is_faster(q):
            scores = q @ k.mT * self.scale
            if mask is not None:
                hidden = torch.finfo(scores.dtype).min
                scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
            z = self.hook_pattern(self.hook_attn_scores(scores).softmax(dim=-1)) @ v
        else:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        z = self.hook_z(rearrange(z, "batch head pos d_head -> batch pos head d_head"))
        return self.output(rearrange(z, "batch pos head d_head -> batch pos (head d_head)"))

    def _by_head(self, linear: nn.Linear) -> Float[Tensor, "head d_model d_head"]:
        return rearrange(linear.weight, "(head d_head) d_model -> head d_model d_head", head=self.n_heads)

    def _bias_by_head(self, linear: nn.Linear) -> Float[Tensor, "head d_head"]:
        return rearrange(linear.bias, "(head d_head) -> head d_head", head=self.n_heads)

    W_Q = property(lambda self: self._by_head(self.query))
    W_K = property(lambda self: self._by_head(self.key))
    W_V = property(lambda self: self._by_head(self.value))
    b_Q = property(lambda self: self._bias_by_head(self.query))
    b_K = property(lambda self: self._bias_by_head(self.key))
    b_V = property(lambda self: self._bias_by_head(self.value))
    b_O = property(lambda self: self.output.bias)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return rearrange(self.output.weight, "d_model (head d_head) -> head d_head d_model", head=self.n_heads)


class MLP(nn.Module):
    """The feed-forward layer. Its neurons are the last axis of `hook_post`."""

    def __init__(self, cfg: EncoderConfig, d_mlp: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # A layer may be pruned to nothing, of which torch warns.
            warnings.filterwarnings("ignore", message="Initializing zero-element")
            self.input = nn.Linear(cfg.d_model, d_mlp)
            self.output = nn.Linear(d_mlp, cfg.d_model)
        self.activation = ACT2FN[cfg.act_fn]
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.output(self.hook_post(self.activation(self.hook_pre(self.input(resid)))))

    W_in = property(lambda self: self.input.weight.T)
    W_out = property(lambda self: self.output.weight.T)
    b_in = property(lambda self: self.input.bias)
    b_out = property(lambda self: self.output.bias)


class Block(nn.Module):
    """Attention and MLP, each followed by its residual sum and LayerNorm (post-LN).

    `hook_resid_pre` is the block's input. `hook_resid_mid` and `hook_resid_post` are the sums before `ln1` and `ln2`;
    `hook_normalized_resid_mid` and `hook_normalized_resid_post` what comes out of these. So the next block's
    `hook_resid_pre` is this block's `hook_normalized_resid_post`.
    """

    def __init__(self, cfg: EncoderConfig, d_mlp: int) -> None:
        super().__init__()
        self.attn = Attention(cfg)
        self.ln1 = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.mlp = MLP(cfg, d_mlp)
        self.ln2 = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.hook_resid_pre, self.hook_attn_out = HookPoint(), HookPoint()
        self.hook_resid_mid, self.hook_normalized_resid_mid = HookPoint(), HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()
        self.hook_normalized_resid_post = HookPoint()

    def forward(
        self, resid: Float[Tensor, "batch pos d_model"], mask: Tensor | None, n_queries: int | None
    ) -> Float[Tensor, "batch query d_model"]:
        resid = self.hook_resid_pre(resid)
        attn_out = self.hook_attn_out(self.attn(resid, mask, n_queries))
        mid = self.hook_normalized_resid_mid(self.ln1(self.hook_resid_mid(resid[:, :n_queries] + attn_out)))
        mlp_out = self.hook_mlp_out(self.mlp(mid))
        return self.hook_normalized_resid_post(self.ln2(self.hook_resid_post(mid + mlp_out)))


class Embed(nn.Module):
    """Lookup tables of words, positions and segments, and the LayerNorm over their sum."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.position = nn.Embedding(cfg.n_ctx + cfg.position_offset, cfg.d_model)
        self.token_type = nn.Embedding(cfg.d_token_types, cfg.d_model) if cfg.d_token_types else None
        self.ln = nn.LayerNorm(cfg.d_model, eps=cfg.eps)


class RelativeBias(nn.Embedding):
    """A learnt number for each head and each distance between two positions, near ones told apart and far ones not.

    Source: Raffel et al. 2020 (T5), section 2.1, as MPNet has it; one table for all blocks.
    """

    def __init__(self, n_heads: int) -> None:
        super().__init__(N_BUCKETS, n_heads)

    def scores(self, n_pos: int, mask: Tensor | None) -> Float[Tensor, "batch_or_one head query key"]:
        """What is added to the attention scores, with the least number where `mask` hides a position."""
        where = torch.arange(n_pos, device=self.weight.device)
        added = rearrange(self(bucket(where - where[:, None])), "query key head -> 1 head query key")
        return added if mask is None else added.masked_fill(~mask, torch.finfo(added.dtype).min)


def bucket(distance: Int[Tensor, "query key"]) -> Int[Tensor, "query key"]:
    """Number of the bucket of each distance (key's position minus query's): half of them for keys behind the query.

    Half of each side's buckets hold one distance each, the others wider ranges up to `FAR`, in equal steps of the
    logarithm.

    Example:
        >>> bucket(torch.tensor([[-200, -8, -1, 0, 1, 8, 200]])).tolist()
        [[15, 8, 1, 0, 17, 24, 31]]
    """
    one_side, size = N_BUCKETS // 2, distance.abs()
    n_exact = one_side // 2
    steps = torch.log(size.clamp_min(1).float() / n_exact) / math.log(FAR / n_exact) * (one_side - n_exact)
    wide = (n_exact + steps.long()).clamp_max(one_side - 1)
    return torch.where(size < n_exact, size, wide) + one_side * (distance > 0)


class ReadOut(nn.Module):
    """The masked-language-model head: dense, activation, LayerNorm; then the unembedding."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.transform = cfg.read_out == "mlm"
        if self.transform:
            self.dense = nn.Linear(cfg.d_model, cfg.d_model)
            # RoBERTa's head is always GELU; BERT's follows `hidden_act`.
            self.activation = ACT2FN["gelu" if cfg.position_offset else cfg.act_fn]
            self.ln = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
            self.bias = nn.Parameter(torch.zeros(cfg.d_vocab))
            if not cfg.tied_embeddings:
                self.weight = nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_model))

    def forward(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return self.ln(self.activation(self.dense(resid))) if self.transform else resid
