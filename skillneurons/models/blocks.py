"""The parts of a `HookedEncoder`: embedding, attention, MLP, block and read-out, with TransformerLens's hook points."""

import math
import warnings

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers.activations import ACT2FN

from skillneurons.models.config import N_BUCKETS, EncoderConfig
from skillneurons.models.encoder_parts.disentangled import Disentangled, disentangled_scale
from skillneurons.models.encoder_parts.rotary import Rotary
from skillneurons.utilities.devices import to_device

# Distances from here on share MPNet's last bucket.
FAR = 128
# ESM was trained on rows of which this share was left out.
DROPPED_IN_TRAINING = 0.15 * 0.8


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


def asked_of(hook: HookPoint, x: Tensor, *, in_graph: bool = False) -> Tensor | None:
    """What the hooks on a point make of `x`; None where they only look, so that the faster way may be taken.

    Args:
        hook: The point.
        x: What passes it. A hook may write into it.
        in_graph: Whether to count it as a change that gradients are computed: they are to pass the point.
    """
    if not has_hooks(hook):
        return None
    # Tensors made in inference mode have no version, so that only their values tell.
    kept = x.clone() if x.is_inference() else x._version
    seen = hook(x)
    untouched = seen is x and (torch.equal(kept, x) if isinstance(kept, Tensor) else x._version == kept)
    learns = in_graph and torch.is_grad_enabled() and x.requires_grad
    return None if untouched and not learns and not (hook._backward_hooks or hook._backward_pre_hooks) else seen


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm with TransformerLens's two points: the scale, and what it gives before weights and biases.

    Where nobody changes these, the numbers are torch's to the bit, and where nobody looks, so is the time.
    """

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__(d_model, eps=eps)
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, input: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        if not has_hooks(self.hook_scale) and not has_hooks(self.hook_normalized):
            return super().forward(input)
        centred = input - input.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        asked = asked_of(self.hook_scale, scale)
        normalized = centred / (scale if asked is None else asked)
        changed = asked_of(self.hook_normalized, normalized)
        if asked is None and changed is None:
            return super().forward(input)
        return (normalized if changed is None else changed) * self.weight + self.bias


class Attention(nn.Module):
    """Multi-head self-attention over all positions, for queries at the first `n_queries` of them.

    `mask` is True where a position may be read, or, with relative positions, a number to add to the scores. Each head's
    own inputs (`hook_q_input`, …) and results (`hook_result`) are there where the configuration asks for them. Where
    positions turn queries and keys, `hook_rot_q` and `hook_rot_k` are these afterwards.
    """

    def __init__(self, cfg: EncoderConfig, layer: int = 0) -> None:
        super().__init__()
        self.rotary = Rotary(cfg.rotary_bases[layer], cfg.windows[layer]) if cfg.rotary_bases else None
        if self.rotary is not None:
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.disentangled = Disentangled(cfg) if cfg.disentangled else None
        self.cfg, self.n_heads, self.scale = cfg, cfg.n_heads, disentangled_scale(cfg)
        self.query = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.key = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.value = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.output = nn.Linear(cfg.n_heads * cfg.d_head, cfg.d_model)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = HookPoint(), HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.hook_result = HookPoint()

    def forward(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        mask: Tensor | None = None,
        n_queries: int | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        q = self.hook_q(self._project(self.query, resid[:, :n_queries], self.hook_q_input))
        k = self.hook_k(self._project(self.key, resid, self.hook_k_input))
        v = self.hook_v(self._project(self.value, resid, self.hook_v_input))
        if self.rotary is not None:
            q, k = self.hook_rot_q(self.rotary.turn(q)), self.hook_rot_k(self.rotary.turn(k))
            mask = self.rotary.within(mask, q.shape[1], k.shape[1], k.device)
        if self.disentangled is not None:
            mask = self.disentangled.scores(q, k, mask, (self.query, self.key))
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
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale if self.disentangled else None)
        z = self.hook_z(rearrange(z, "batch head pos d_head -> batch pos head d_head"))
        if self.cfg.use_attn_result and has_hooks(self.hook_result):
            result = einsum(z, self.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
            changed = asked_of(self.hook_result, result, in_graph=True)
            if changed is not None:
                return changed.sum(2) + self.b_O
        return self.output(rearrange(z, "batch pos head d_head -> batch pos (head d_head)"))

    def _project(
        self, linear: nn.Linear, resid: Float[Tensor, "batch pos d_model"], hook: HookPoint
    ) -> Float[Tensor, "batch pos head d_head"]:
        if self.cfg.use_split_qkv_input and has_hooks(hook):
            copies = repeat(resid, "batch pos d_model -> batch pos head d_model", head=self.n_heads).clone()
            changed = asked_of(hook, copies, in_graph=True)
            if changed is not None:
                weight = self._by_head(linear)
                made = einsum(changed, weight, "batch pos head d_model, head d_model d_head -> batch pos head d_head")
                return made + self._bias_by_head(linear)
        return rearrange(linear(resid), "batch pos (head d_head) -> batch pos head d_head", head=self.n_heads)

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
    `hook_resid_pre` is this block's `hook_normalized_resid_post`. `hook_mlp_in`, where it is asked for, is the
    MLP's own copy of what it reads, which is normalized.
    """

    # Where TransformerLens's tools look before they take what a head writes for what a later one reads: here it
    # passes two LayerNorms, so that edges between heads are not the sums they compute, and they say so.
    submodules = {"attn": None, "ln1": None}  # noqa: RUF012
    hook_aliases = {"hook_attn_out": "ln1.hook_normalized"}  # noqa: RUF012

    def __init__(self, cfg: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.attn = Attention(cfg, layer)
        self.ln1 = LayerNorm(cfg.d_model, eps=cfg.eps)
        self.mlp = MLP(cfg, cfg.d_mlps[layer])
        self.ln2 = LayerNorm(cfg.d_model, eps=cfg.eps)
        self.hook_resid_pre, self.hook_attn_out = HookPoint(), HookPoint()
        self.hook_resid_mid, self.hook_normalized_resid_mid = HookPoint(), HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()
        self.hook_normalized_resid_post, self.hook_mlp_in = HookPoint(), HookPoint()

    def forward(
        self, resid: Float[Tensor, "batch pos d_model"], mask: Tensor | None = None, n_queries: int | None = None
    ) -> Float[Tensor, "batch query d_model"]:
        resid = self.hook_resid_pre(resid)
        attn_out = self.hook_attn_out(self.attn(resid, mask, n_queries))
        mid = self.hook_normalized_resid_mid(self.ln1(self.hook_resid_mid(resid[:, :n_queries] + attn_out)))
        mlp_in = self.hook_mlp_in(mid.clone()) if self.cfg.use_hook_mlp_in and has_hooks(self.hook_mlp_in) else mid
        mlp_out = self.hook_mlp_out(self.mlp(mlp_in))
        return self.hook_normalized_resid_post(self.ln2(self.hook_resid_post(mid + mlp_out)))


class Lookup(nn.Embedding):
    """A lookup table whose weights TransformerLens's names for them find too.

    Args:
        n_rows: Of the table.
        width: Of a row.
        start: First row that a name gives: RoBERTa's table of positions begins with rows that stand for none.
    """

    def __init__(self, n_rows: int, width: int, start: int = 0) -> None:
        super().__init__(n_rows, width)
        self.start = start

    @property
    def rows(self) -> Float[Tensor, "row width"]:
        return self.weight[self.start :] if self.start else self.weight

    W_E = W_pos = W_token_type = rows


class Embed(nn.Module):
    """Lookup tables of words, positions and segments, the LayerNorm over their sum, and what widens narrow ones."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.word = Lookup(cfg.d_vocab, cfg.d_embed)
        n_rows = cfg.n_ctx + cfg.position_offset
        self.position = Lookup(n_rows, cfg.d_embed, cfg.position_offset) if cfg.absolute_positions else None
        self.token_type = Lookup(cfg.d_token_types, cfg.d_embed) if cfg.d_token_types else None
        self.ln = LayerNorm(cfg.d_embed, eps=cfg.eps) if cfg.embed_norm else None
        self.project = nn.Linear(cfg.d_embed, cfg.d_model) if cfg.d_embed != cfg.d_model else None
        # The points of what is added up belong to the encoder, by TransformerLens's names: a tuple is no submodule.
        self.points = (HookPoint(), HookPoint(), HookPoint(), HookPoint())

    # TransformerLens's names of the tables.
    embed = property(lambda self: self.word)
    pos_embed = property(lambda self: self.position)
    token_type_embed = property(lambda self: self.token_type)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], token_type_ids: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        hook_word, hook_position, hook_token_type, hook_scale = self.points
        if self.cfg.position_offset:
            real = tokens.ne(self.cfg.pad_token_id)
            # RoBERTa numbers real tokens only; padding uses the padding row, which is never attended to.
            positions = real.cumsum(1) * real + self.cfg.pad_token_id
        else:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        embed = hook_word(self._word(tokens))
        if self.cfg.dropped_token is not None:
            embed = (embed * hook_scale(self._scale(tokens, embed))).to(embed.dtype)
        types = torch.zeros_like(tokens) if token_type_ids is None else to_device(token_type_ids, tokens.device)
        for table, ids, hook in ((self.token_type, types, hook_token_type), (self.position, positions, hook_position)):
            if table is not None:
                embed = embed + hook(table(ids))
            elif has_hooks(hook):
                embed = embed + hook(torch.zeros_like(embed))
        normalized = embed if self.ln is None else self.ln(embed)
        return normalized if self.project is None else self.project(normalized)

    def _word(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_embed"]:
        words = self.word(tokens)
        if self.cfg.dropped_token is None:
            return words
        return words.masked_fill(rearrange(tokens == self.cfg.dropped_token, "batch pos -> batch pos 1"), 0)

    def _scale(
        self, tokens: Int[Tensor, "batch pos"], embed: Float[Tensor, "batch pos d_embed"]
    ) -> Float[Tensor, "batch pos 1"]:
        """What makes up for the masks that are left out: not for those in whose places a hook has put vectors."""
        dropped = (tokens == self.cfg.dropped_token) & (embed == 0).all(-1)
        kept = 1 - dropped.sum(1) / tokens.ne(self.cfg.pad_token_id).sum(1)
        wide = torch.promote_types(kept.dtype, embed.dtype)
        scale = (1 - DROPPED_IN_TRAINING) / kept.clamp_min(1e-6).to(wide)
        return repeat(scale, "batch -> batch pos 1", pos=tokens.shape[1])


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
    """The masked-language-model head: dense, activation, LayerNorm; then the unembedding.

    Where blocks leave the stream as it is, the LayerNorm behind the last of them, `ln_final`, comes first.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.transform = cfg.read_out == "mlm"
        self.ln_final = LayerNorm(cfg.d_model, eps=cfg.eps) if cfg.pre_norm else None
        if self.transform:
            self.dense = nn.Linear(cfg.d_model, cfg.d_embed)
            # RoBERTa's head is always GELU, as ELECTRA's is; BERT's follows `hidden_act`.
            self.activation = ACT2FN[cfg.head_act_fn or ("gelu" if cfg.position_offset else cfg.act_fn)]
            self.ln = LayerNorm(cfg.d_embed, eps=cfg.eps)
            self.bias = nn.Parameter(torch.zeros(cfg.d_vocab))
            if not cfg.tied_embeddings:
                self.weight = nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_embed))

    def reset_parameters(self) -> None:
        """As `nn.Embedding` and `nn.Linear` do, which is how tools start a model anew."""
        if self.transform:
            nn.init.zeros_(self.bias)
            if hasattr(self, "weight"):
                nn.init.normal_(self.weight)

    def final(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What any head reads: the stream behind the last block's LayerNorms."""
        return resid if self.ln_final is None else self.ln_final(resid)

    def forward(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"]:
        final = self.final(resid)
        return self.ln(self.activation(self.dense(final))) if self.transform else final
