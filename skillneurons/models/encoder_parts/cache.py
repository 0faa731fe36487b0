"""EncoderCache: TransformerLens's ActivationCache, also for blocks that normalize their sums (post-LN).

TransformerLens's own adds up what the layers wrote, which in such a block is not what the next one reads. Here every
method answers for the stream that is really read, which is normalized: contributions are carried through the
LayerNorms on their way with the scales these had, so that they add up to it, and to the logits. In pre-LN blocks there
are none on their way, and the stream that is read is the sum of what was written, as in TransformerLens. Computed when
asked; nothing is kept but head results, as in TransformerLens.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities import Slice

from skillneurons.models.encoder_parts.fixed_norms import (
    Place,
    attention_norms,
    bias_row,
    by_layer,
    carried,
    fixed_read_out,
    mlp_norms,
)
from skillneurons.utilities.types import Chosen, Json, Library

Stacked: TypeAlias = Any
"""A tensor, or with `return_labels` a tensor and its labels, as TransformerLens has it."""


class EncoderCache(ActivationCache):
    """Activations of one run of a `HookedEncoder`, with TransformerLens's methods.

    `accumulated_resid` is what each block reads; `decompose_resid`, `stack_head_results`, `stack_neuron_results` and
    `get_full_resid_decomposition` have what each part contributes to it directly, and add up to it. `apply_ln` takes
    the final stream to what `W_U` multiplies, through the read-out; before that nothing is left to normalize, and it
    changes nothing. Methods for state-space models are refused.

    Example:
        >>> from skillneurons import HookedEncoder
        >>> model = HookedEncoder.from_pretrained("bundled")
        >>> logits, cache = model.run_with_cache("a dull film")
        >>> effects, labels = cache.direct_effects([11, 7])
        >>> torch.allclose(effects.sum(0), logits[..., [11, 7]], atol=1e-3)
        True
        >>> labels[0], labels[-1]
        ('L0H0', 'bias')
    """

    model: Library

    def __getitem__(self, key: Json) -> Tensor:
        try:
            return super().__getitem__(key)
        except KeyError as error:
            name = self.model.hook_alias(error.args[0])
            if name in self.cache_dict:
                return self.cache_dict[name]
            raise KeyError(
                f"The cache has no {name!r}. Run the model with `names_filter=None`, or with a filter that keeps it; "
                "`hook_result` and the inputs of heads need `set_use_attn_result(True)` and its like."
            ) from None

    def __contains__(self, key: Json) -> bool:
        return (self.model.hook_alias(key) if isinstance(key, str) else key) in self.cache_dict

    def apply_slice_to_batch_dim(self, batch_slice: Chosen) -> "EncoderCache":
        """The same cache of some of its rows."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return type(self)(sliced.cache_dict, self.model, has_batch_dim=sliced.has_batch_dim)

    # The stream

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Chosen = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Stacked:
        """The stream as each block reads it, `[layer *batch_pos d_model]`: normalized, and in the end the final one.

        So `model.unembed(cache.accumulated_resid()[-1])` are the logits. With `incl_mid` also what each MLP reads.
        `apply_ln` up to the final stream gives what `W_U` multiplies, had the model stopped at each entry.
        """
        place = self._place(layer, mlp_input, pos_slice)
        names = {}
        for block in range(place.layer):
            names[f"{block}_pre"] = f"blocks.{block}.hook_resid_pre"
            if incl_mid:
                names[f"{block}_mid"] = place.mid(block)
        if place.layer == self.model.cfg.n_layers:
            names["final_post"] = place.name
        else:
            names[f"{place.layer}_pre"] = f"blocks.{place.layer}.hook_resid_pre"
            if mlp_input:
                names[f"{place.layer}_mid"] = place.name
        stack = torch.stack([place.stream(name) for name in names.values()])
        if apply_ln and place.layer == self.model.cfg.n_layers:
            stack = self.model.read_out(stack)
        return (stack, list(names)) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Chosen = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Stacked:
        """What embeddings, attention and MLP layers contribute to the stream that `layer` reads; all of it add up.

        With `mode="all"` the last row, `bias`, is what the biases of LayerNorms (and with `apply_ln` the read-out's)
        contribute; with `"attn"` or `"mlp"` there is none.
        """
        if mode not in ("all", "attn", "mlp"):
            raise ValueError(f"`mode` is 'all', 'attn' or 'mlp', not {mode!r}.")
        place = self._place(layer, mlp_input, pos_slice)
        rows = by_layer(place, place.norms())
        embeds = place.embeddings()
        unwanted = {"attn": "mlp_out", "mlp": "attn_out", "all": None}[mode]
        rows = {
            name: row
            for name, row in rows.items()
            if (incl_embeds or name not in embeds)
            and not (unwanted and name.endswith(unwanted))
            and (mode == "all" or name != "bias")
        }
        return self._finish(place, rows, apply_ln, return_labels)

    # Heads and neurons

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Chosen = None,
        apply_ln: bool = False,
    ) -> Stacked:
        """What each head before `layer` contributes to the stream that it reads, `[head *batch_pos d_model]`.

        What a head writes within its block is `cache["result", layer]`, after `compute_head_results`.
        """
        place = self._place(layer, False, pos_slice)
        norms = place.norms()
        by_layer(place, norms)
        rows = self._head_rows(place, norms)
        return self._finish(place, rows, apply_ln, return_labels, incl_remainder)

    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Chosen = None,
        neuron_slice: Chosen = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
        mlp_input: bool = False,
    ) -> Stacked:
        """What each neuron before `layer` contributes to the stream that it reads, `[neuron *batch_pos d_model]`.

        With `project_output_onto`, `[d_model]` or `[d_model, out]`, along these directions only, for the memory of
        the result. What a neuron writes within its block is `get_neuron_results`.
        """
        place = self._place(layer, mlp_input, pos_slice)
        norms = place.norms()
        by_layer(place, norms)
        onto = None if project_output_onto is None else _columns(project_output_onto)
        rows = self._neuron_rows(place, norms, neuron_slice, onto, apply_ln)
        if onto is None:
            return self._finish(place, rows, apply_ln, return_labels, incl_remainder)
        if incl_remainder:
            total = self._features(place) if apply_ln and self._is_final(place) else place.stream()
            rows["remainder"] = total @ onto - sum(rows.values(), torch.zeros(()).to(total))
        empty = place.stream().new_zeros(0, *place.stream().shape[:-1], onto.shape[-1])
        return _stacked(rows, empty, return_labels, project_output_onto)

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Chosen = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Stacked:
        """Heads, neurons (or MLP layers), embeddings and biases: all that adds up to the stream `layer` reads.

        The last row, `bias`, has all biases there are, with `apply_ln` the read-out's too.
        """
        place = self._place(layer, mlp_input, pos_slice)
        norms = place.norms()
        layers = by_layer(place, norms)
        onto = None if project_output_onto is None else _columns(project_output_onto)
        rest = self._head_rows(place, norms)
        neurons = self._neuron_rows(place, norms, None, onto, apply_ln) if expand_neurons else {}
        if not expand_neurons:
            rest |= {name: row for name, row in layers.items() if name.endswith("mlp_out")}
        n_first = len(rest)
        rest |= {name: layers[name] for name in place.embeddings()}
        rest["bias"] = bias_row(place, norms, heads=True, neurons=expand_neurons)
        if onto is None:
            names = [*list(rest)[:n_first], *neurons, *list(rest)[n_first:]]
            return self._finish(place, {name: (rest | neurons)[name] for name in names}, apply_ln, return_labels)
        done = {name: row @ onto for name, row in self._after_ln(place, rest, apply_ln).items()}
        names = [*list(rest)[:n_first], *neurons, *list(rest)[n_first:]]
        return _stacked({name: (done | neurons)[name] for name in names}, None, return_labels, project_output_onto)

    # Logits

    def apply_ln_to_stack(
        self,
        residual_stack: Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Chosen = None,
        batch_slice: Chosen = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """Contributions to the final stream, as what they add to what `W_U` multiplies; linear, without biases.

        At a block (`layer` below `n_layers`) contributions are to the stream it reads, and stay as they are. With
        `recompute_ln` each entry goes through the read-out on its own, as for a logit lens.
        """
        if has_batch_dim:
            residual_stack = _slice(batch_slice).apply(residual_stack, dim=1)
        place = self._place(layer, mlp_input, pos_slice)
        if not self._is_final(place):
            return residual_stack
        if recompute_ln:
            return self.model.read_out(residual_stack)
        stream = place.stream()
        if self.has_batch_dim:
            stream = _slice(batch_slice).apply(stream, dim=0)
        return fixed_read_out(self.model.read_out, stream).carry(residual_stack)

    def logit_bias(
        self, tokens: Json, incorrect_tokens: Json = None, pos_slice: Chosen = None, batch_slice: Chosen = None
    ) -> Tensor:
        """What the read-out's own biases and `b_U` add to the tokens' logits: with `logit_attrs`, all there is.

        That is, `logit_attrs(stack, tokens).sum(0) + logit_bias(tokens)` are the logits where the stack adds up to the
        final stream.
        """
        place = self._place(None, False, pos_slice)
        stream = place.stream()
        if self.has_batch_dim:
            stream = _slice(batch_slice).apply(stream, dim=0)
        alone = fixed_read_out(self.model.read_out, stream).bias
        bias = self._along(alone, tokens)
        return bias if incorrect_tokens is None else bias - self._along(alone, incorrect_tokens)

    def direct_effects(
        self, tokens: int | str | Sequence[int | str], *, expand_neurons: bool = False, pos_slice: Chosen = None
    ) -> tuple[Tensor, list[str]]:
        """What heads, neurons (or MLP layers), embeddings and biases add to the logits of some tokens directly.

        Given the scales of LayerNorms and the slopes of the read-out's activation, they are the logits' parts.

        Returns:
            `[part *batch_pos token]`, and the parts' names; the sum over parts is the logits, with no remainder.
        """
        many = [tokens] if isinstance(tokens, int | str) else list(tokens)
        ids = torch.tensor([self.model.to_single_token(one) if isinstance(one, str) else int(one) for one in many])
        directions = self.model.tokens_to_residual_directions(ids).detach().mT
        rows, labels = self.get_full_resid_decomposition(
            expand_neurons=expand_neurons,
            apply_ln=True,
            pos_slice=pos_slice,
            return_labels=True,
            project_output_onto=directions,
        )
        rows[-1] += self.model.b_U.detach()[ids]
        return rows, labels

    def logit_lens(self, *, positions: Chosen = None, **kwargs: Json) -> Stacked:
        """TransformerLens's logit lens: each entry of `accumulated_resid` through the read-out, at all positions.

        The last entry gives the model's logits. See `transformer_lens.tools.analysis.logit_lens` for its options.
        """
        from transformer_lens.tools.analysis.logit_lens import logit_lens

        model = self.model
        if model.training:
            raise ValueError("`logit_lens` needs the model in eval mode, but it is in train mode. Call `model.eval()`.")
        # What it asks of a model, whose `ln_final` is here the whole read-out.
        reader = SimpleNamespace(
            cfg=SimpleNamespace(n_layers=model.cfg.n_layers, d_model=len(model.W_U), normalization_type="LN"),
            ln_final=model.read_out,
            unembed=model.unembed,
            W_U=model.W_U,
            b_U=model.b_U,
            to_single_token=model.to_single_token,
        )
        return logit_lens(reader, cache=self, positions=positions, **kwargs)

    # What an encoder does not have

    def ssm_layers(self, mixer_type: object = None) -> list[int]:
        """None: an encoder's blocks are attention and MLP."""
        return []

    def compute_ssm_effective_attention(self, *args: object, **kwargs: object) -> Stacked:
        raise NotImplementedError("An encoder has no state-space layers, so there is no effective attention of any.")

    def compute_ssm_state(self, *args: object, **kwargs: object) -> Stacked:
        raise NotImplementedError("An encoder has no state-space layers, so there is no state to compute.")

    # Parts of the above

    def _place(self, layer: int | None, mlp_input: bool, pos_slice: Chosen) -> Place:
        n_layers = self.model.cfg.n_layers
        where = n_layers if layer is None or layer == -1 else layer
        if not 0 <= where <= n_layers or (mlp_input and where == n_layers):
            raise ValueError(
                f"`layer` runs from 0 to {n_layers}, which is the final stream and has no MLP after it, but is {layer}"
                f"{' with `mlp_input`' if mlp_input else ''}."
            )
        return Place(self, where, mlp_input, _slice(pos_slice))

    def _is_final(self, place: Place) -> bool:
        return place.layer == self.model.cfg.n_layers

    def _features(self, place: Place) -> Tensor:
        return self.model.read_out(place.stream())

    def _along(self, features: Tensor, tokens: Json) -> Tensor:
        ids = self.model.to_single_token(tokens) if isinstance(tokens, str) else tokens
        directions, added = self.model.tokens_to_residual_directions(tokens), self.model.b_U[ids]
        if directions.ndim == 2 and features.ndim == 3 and len(directions) == len(features):
            # One token for each row of the batch, at all positions, as `logit_attrs` takes them.
            directions, added = directions[:, None], added[:, None]
        return (features * directions).sum(-1) + added

    def _head_rows(self, place: Place, norms: list[Library]) -> dict[str, Tensor]:
        return {
            f"L{layer}H{head}": row
            for layer in place.attention_layers()
            for head, row in enumerate(carried(attention_norms(norms, layer), place.heads(layer)))
        }

    def _neuron_rows(
        self, place: Place, norms: list[Library], neuron_slice: Chosen, onto: Tensor | None, apply_ln: bool
    ) -> dict[str, Tensor]:
        rows, chosen = {}, Slice.unwrap(neuron_slice)
        if isinstance(chosen.slice, int):
            chosen = Slice([chosen.slice])
        read_out = fixed_read_out(self.model.read_out, place.stream()) if apply_ln and self._is_final(place) else None
        for layer in range(place.layer):
            post = chosen.apply(place.neurons(layer), dim=-1)
            weight = chosen.apply(self.model.blocks[layer].mlp.W_out.detach().to(post), dim=0)
            neurons = chosen.apply(torch.arange(self.model.blocks[layer].mlp.W_out.shape[0]), dim=0).tolist()
            if onto is None:
                written = rearrange(post[..., None] * weight, "... neuron d_model -> neuron ... d_model")
                done = carried(mlp_norms(norms, layer), written)
            else:
                # The directions are pulled back to the neurons, so that no neuron needs a row of the stream.
                pulled = onto if read_out is None else read_out.pull(onto)
                for norm in reversed(mlp_norms(norms, layer)):
                    pulled = norm.pull(pulled)
                done = rearrange(post[..., None] * (weight @ pulled), "... neuron out -> neuron ... out")
            rows |= {f"L{layer}N{neuron}": row for neuron, row in zip(neurons, done, strict=True)}
        return rows

    def _after_ln(self, place: Place, rows: dict[str, Tensor], apply_ln: bool) -> dict[str, Tensor]:
        if not apply_ln or not self._is_final(place):
            return rows
        read_out = fixed_read_out(self.model.read_out, place.stream())
        done = {name: read_out.carry(row) for name, row in rows.items()}
        return done | ({"bias": done["bias"] + read_out.bias} if "bias" in done else {})

    def _finish(
        self, place: Place, rows: dict[str, Tensor], apply_ln: bool, return_labels: bool, incl_remainder: bool = False
    ) -> Stacked:
        rows = self._after_ln(place, rows, apply_ln)
        if incl_remainder:
            total = self._features(place) if apply_ln and self._is_final(place) else place.stream()
            rows = rows | {"remainder": total - sum(rows.values(), torch.zeros(()).to(total))}
        return _stacked(rows, place.stream().new_zeros(0, *place.stream().shape), return_labels)


def _slice(chosen: Chosen) -> Slice:
    return chosen if isinstance(chosen, Slice) else Slice(chosen)


def _columns(directions: Tensor) -> Tensor:
    return directions[:, None] if directions.ndim == 1 else directions


def _stacked(rows: dict[str, Tensor], empty: Tensor | None, labels: bool, onto: Tensor | None = None) -> Stacked:
    stack = torch.stack([*rows.values()]) if rows or empty is None else empty
    if onto is not None and onto.ndim == 1:
        stack = stack[..., 0]
    return (stack, list(rows)) if labels else stack
