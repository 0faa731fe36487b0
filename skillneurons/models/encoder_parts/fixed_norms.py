"""What adds up to an encoder's stream: contributions carried through LayerNorms whose scales are held fixed.

A post-LN block normalizes the sum of everything before it, so nothing written to the stream is still there as it was.
But a LayerNorm whose scale is given is linear: it takes the mean away, divides by the scale, multiplies by its weights,
and adds its biases. Carried through every one on its way, each contribution ends as its direct effect, and these and
the biases add up to the stream without a remainder. (A pre-LN block leaves what was written as it is: there is
nothing on its way but the last LayerNorm, which is a part of the read-out.) Memory: one row of the stream for each
contribution.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities import Slice

from skillneurons.utilities.types import Library

Rows = Float[Tensor, "row *batch_pos d_model"]


@dataclass(frozen=True)
class FixedNorm:
    """A LayerNorm with the scale it had at each position: linear in what comes in, plus its biases.

    The embedding's may be narrower than the stream: `widen`, `[d_model d_embed]`, is then the projection behind it,
    whose biases are in `bias`.
    """

    scale: Float[Tensor, "*batch_pos 1"]
    weight: Float[Tensor, " d_norm"]
    bias: Float[Tensor, " d_model"]
    widen: Float[Tensor, "d_model d_norm"] | None = None

    def carry(self, rows: Float[Tensor, "*row_batch_pos d_norm"]) -> Float[Tensor, "*row_batch_pos d_model"]:
        done = (rows - rows.mean(-1, keepdim=True)) / self.scale * self.weight
        return done if self.widen is None else done @ self.widen.mT

    def pull(self, directions: Float[Tensor, "*batch_pos d_model out"]) -> Float[Tensor, "*batch_pos_ d_model out"]:
        """Directions before the norm that meet a row as the given ones do after it."""
        inside = directions if self.widen is None else self.widen.mT @ directions
        scaled = self.weight[:, None] * inside / self.scale[..., None]
        return scaled - scaled.mean(-2, keepdim=True)


@dataclass(frozen=True)
class Unchanged:
    """In the place of a LayerNorm where there is none."""

    bias: float = 0.0

    def carry(self, rows: Tensor) -> Tensor:
        return rows

    def pull(self, directions: Tensor) -> Tensor:
        return directions


Norms: TypeAlias = list[FixedNorm | Unchanged]


@dataclass(frozen=True)
class FixedReadOut:
    """The read-out before the unembedding, scales of LayerNorms and the activation's slope `act(x) / x` held fixed."""

    final: FixedNorm | Unchanged
    dense: Float[Tensor, "d_feature d_model"] | None
    slope: Tensor
    norm: FixedNorm | None
    bias: Tensor

    def carry(self, rows: Tensor) -> Tensor:
        done = self.final.carry(rows)
        return done if self.dense is None or self.norm is None else self.norm.carry(done @ self.dense.mT * self.slope)

    def pull(self, directions: Tensor) -> Tensor:
        if self.dense is None or self.norm is None:
            return self.final.pull(directions)
        return self.final.pull(self.dense.mT @ (self.norm.pull(directions) * self.slope[..., None]))


def fixed_norm(norm: Library, before: Tensor, scale: Tensor | None = None) -> FixedNorm:
    """`norm` as it is on `before`, the sum that enters it.

    Example:
        >>> norm, x = torch.nn.LayerNorm(5), torch.randn(3, 5)
        >>> fixed = fixed_norm(norm, x)
        >>> torch.allclose(fixed.carry(x) + fixed.bias, norm(x), atol=1e-6)
        True
    """
    now = (before.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt()
    return FixedNorm(now if scale is None else scale, norm.weight.detach().to(before), norm.bias.detach().to(before))


def fixed_read_out(read_out: Library, stream: Float[Tensor, "*batch_pos d_model"]) -> FixedReadOut:
    """The read-out as it is on the final stream; what no slope accounts for, an activation of 0, is in its bias."""
    final = Unchanged() if read_out.ln_final is None else fixed_norm(read_out.ln_final, stream)
    inside = final.carry(stream)
    if not read_out.transform:
        return FixedReadOut(final, None, torch.ones_like(stream), None, torch.zeros_like(stream) + final.bias)
    dense, offset = read_out.dense.weight.detach().to(stream), read_out.dense.bias.detach().to(stream)
    before = (inside + final.bias) @ dense.mT + offset
    after = read_out.activation(before)
    slope = torch.where(before.abs() > torch.finfo(before.dtype).tiny, after / before, 0)
    norm = fixed_norm(read_out.ln, after)
    return FixedReadOut(final, dense, slope, norm, norm.carry(after - slope * (inside @ dense.mT)) + norm.bias)


@dataclass(frozen=True)
class Place:
    """A cache at some positions, read up to where one block's attention (or its MLP) reads the stream.

    Args:
        cache: What `run_with_cache` gave.
        layer: The block; as many as there are for the final stream.
        mlp_input: Whether the block's own attention is included.
        pos_slice: Of the positions that the place has.
    """

    cache: Library
    layer: int
    mlp_input: bool
    pos_slice: Slice

    @property
    def name(self) -> str:
        """Hook name of the stream that is read here; a post-LN block has normalized it."""
        n_layers = self.cache.model.cfg.n_layers
        if self.mlp_input:
            return self.mid(self.layer)
        last = f"blocks.{n_layers - 1}.hook_{self._normalized}resid_post"
        return f"blocks.{self.layer}.hook_resid_pre" if self.layer < n_layers else last

    def mid(self, layer: int) -> str:
        """Hook name of the stream that a block's MLP reads."""
        return f"blocks.{layer}.hook_{self._normalized}resid_mid"

    @property
    def _normalized(self) -> str:
        return "" if self.cache.model.cfg.pre_norm else "normalized_"

    def at(self, activation: Tensor, dim: int = -2) -> Tensor:
        """The activation at the place's positions; a last block may have been computed for its first ones only."""
        n_pos = self.cache[self.name].shape[-2]
        return self.pos_slice.apply(activation.narrow(dim, 0, min(n_pos, activation.shape[dim])), dim=dim)

    def stream(self, name: str | None = None) -> Tensor:
        return self.at(self.cache[self.name if name is None else name])

    def embeddings(self) -> dict[str, Tensor]:
        names = ("embed", "pos_embed", "token_type_embed")
        rows = {name: self.stream(f"hook_{name}") for name in names if f"hook_{name}" in self.cache}
        if "hook_embed_scale" in self.cache:
            rows["embed"] = rows["embed"] * self.stream("hook_embed_scale")
        return rows

    def norms(self) -> Norms:
        """Every LayerNorm on the way, the embedding's first."""
        model = self.cache.model
        if model.cfg.pre_norm:
            return [self._embedding_norm(), *[Unchanged()] * (2 * self.layer + self.mlp_input)]
        found = []
        for layer in range(self.layer + self.mlp_input):
            block, name = model.blocks[layer], f"blocks.{layer}"
            found.append((f"{name}.ln1", block.ln1, self.stream(f"{name}.hook_resid_mid")))
            if layer < self.layer:
                found.append((f"{name}.ln2", block.ln2, self.stream(f"{name}.hook_resid_post")))
        return [self._embedding_norm()] + [fixed_norm(norm, before, self.scale(name)) for name, norm, before in found]

    def _embedding_norm(self) -> FixedNorm | Unchanged:
        embed = self.cache.model.embed
        if embed.ln is None:
            return Unchanged()
        norm = fixed_norm(embed.ln, torch.stack([*self.embeddings().values()]).sum(0), self.scale("embed.ln"))
        if embed.project is None:
            return norm
        widen = embed.project.weight.detach().to(norm.bias)
        return replace(norm, bias=norm.bias @ widen.mT + embed.project.bias.detach().to(norm.bias), widen=widen)

    def scale(self, norm: str) -> Tensor | None:
        """The scale that a norm had, where the cache has it."""
        name = f"{norm}.hook_scale"
        return self.at(self.cache[name]) if name in self.cache else None

    def attention_layers(self) -> range:
        return range(self.layer + self.mlp_input)

    def heads(self, layer: int) -> Rows:
        """What each head writes, before anything is done to it."""
        self.cache._ensure_head_results()
        results = self.at(self.cache[f"blocks.{layer}.attn.hook_result"], dim=-3)
        rows = rearrange(results, "... head d_model -> head ... d_model")
        written = self.stream(f"blocks.{layer}.hook_attn_out")
        check_sum(rows.sum(0) + self.cache.model.blocks[layer].attn.b_O, written, f"the heads of layer {layer}")
        return rows

    def neurons(self, layer: int) -> Float[Tensor, "*batch_pos neuron"]:
        """The neurons' activations, whose sum over `W_out` is what the layer writes."""
        post, mlp = self.stream(f"blocks.{layer}.mlp.hook_post"), self.cache.model.blocks[layer].mlp
        written = self.stream(f"blocks.{layer}.hook_mlp_out")
        check_sum(post @ mlp.W_out + mlp.b_out, written, f"the neurons of layer {layer}")
        return post


def carried(norms: Norms, rows: Float[Tensor, "row *batch_pos d_in"]) -> Rows:
    """The rows after all of the norms."""
    for norm in norms:
        rows = norm.carry(rows)
    return rows


def attention_norms(norms: Norms, layer: int) -> Norms:
    """Of a place's norms, those that what a layer's attention writes goes through."""
    return norms[1 + 2 * layer :]


def mlp_norms(norms: Norms, layer: int) -> Norms:
    """Of a place's norms, those that what a layer's MLP writes goes through."""
    return norms[2 + 2 * layer :]


def bias_row(place: Place, norms: Norms, heads: bool, neurons: bool) -> Float[Tensor, "*batch_pos d_model"]:
    """What the LayerNorms' biases add up to, with the heads' and the neurons' where those are told apart."""
    row = torch.zeros_like(place.stream()) + norms[0].bias
    for i, norm in enumerate(norms[1:]):
        layer, is_mlp = divmod(i, 2)
        if heads and not is_mlp:
            row = row + place.cache.model.blocks[layer].attn.b_O.detach().to(row)
        if neurons and is_mlp:
            row = row + place.cache.model.blocks[layer].mlp.b_out.detach().to(row)
        row = norm.carry(row) + norm.bias
    return row


def by_layer(place: Place, norms: Norms) -> dict[str, Float[Tensor, "*batch_pos d_model"]]:
    """Label -> direct effect on the stream, of embeddings, attention and MLP layers, and biases; they add up.

    Raises:
        ValueError: They do not, since a hook or other weights changed the stream itself.
    """
    rows = {name: carried(norms, row) for name, row in place.embeddings().items()}
    for layer in place.attention_layers():
        written = place.stream(f"blocks.{layer}.hook_attn_out")
        rows[f"{layer}_attn_out"] = carried(attention_norms(norms, layer), written)
        if layer < place.layer:
            written = place.stream(f"blocks.{layer}.hook_mlp_out")
            rows[f"{layer}_mlp_out"] = carried(mlp_norms(norms, layer), written)
    rows["bias"] = bias_row(place, norms, heads=False, neurons=False)
    check_sum(torch.stack([*rows.values()]).sum(0), place.stream(), f"what is written before {place.name!r}")
    return rows


def check_sum(total: Tensor, stream: Tensor, what: str) -> None:
    """Nothing where the parts add up to the activation that was cached.

    Raises:
        ValueError: They do not.
    """
    far, size = (float(x.detach().abs().max()) if x.numel() else 0.0 for x in (total - stream, stream))
    if not far <= (1e-4 if stream.dtype in (torch.float32, torch.float64) else 0.2) * (1 + size):
        raise ValueError(
            f"The parts need to add up, but {what} and the biases are {far:.3g} away from the activation in the cache, "
            f"whose size is {size:.3g}. A hook changed the stream, or the weights are not those of the run any more: "
            "make the cache without it (changes of embeddings, attention and MLP outputs can be taken apart)."
        )
