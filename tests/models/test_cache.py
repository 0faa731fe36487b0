"""EncoderCache: what adds up does so, and every method of TransformerLens's cache is right or refused.

In float64, where only the order of sums differs.
"""

import inspect

import pytest
import torch
from helpers import Tolerance
from test_encoder import batch_of
from torch import nn
from transformer_lens import ActivationCache

from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.cache import EncoderCache

CLOSE: Tolerance = {"rtol": 1e-8, "atol": 1e-8}
WORDS = [7, 11, 31]


@pytest.fixture
def run(hf_model, encoder):
    """Encoder, logits and cache of a padded batch."""
    tokens, mask = batch_of(hf_model)
    return encoder, *encoder.run_with_cache(tokens, mask)


def slow_effect(encoder, cache, start, x):
    """What `x`, added after norm number `start`, becomes in the final stream: by derivatives of frozen norms."""
    norms, before = [encoder.embed.ln], [cache["hook_embed"] + cache["hook_pos_embed"]]
    if "hook_embed_scale" in cache:
        before = [cache["hook_embed"] * cache["hook_embed_scale"] + cache["hook_pos_embed"]]
    if "hook_token_type_embed" in cache:
        before[0] = before[0] + cache["hook_token_type_embed"]
    for layer, block in enumerate(encoder.blocks):
        # The norms of a pre-LN block are not on the stream's way.
        norms += [None, None] if encoder.cfg.pre_norm else [block.ln1, block.ln2]
        before += [cache["resid_mid", layer], cache["resid_post", layer]]
    for norm, inside in list(zip(norms, before, strict=True))[start:]:
        if norm is None:
            continue
        spread = (inside.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt()
        x = (x - x.mean(-1, keepdim=True)) / spread * norm.weight
        if norm is encoder.embed.ln and encoder.embed.project is not None:
            x = x @ encoder.embed.project.weight.T
    return x


# Sums


def test_each_blocks_sums_hold(run):
    encoder, _, cache = run
    for layer, block in enumerate(encoder.blocks):
        torch.testing.assert_close(
            cache["resid_pre", layer] + cache["attn_out", layer], cache["resid_mid", layer], **CLOSE
        )
        mid = cache["resid_mid", layer] if encoder.cfg.pre_norm else block.ln1(cache["resid_mid", layer])
        torch.testing.assert_close(mid + cache["mlp_out", layer], cache["resid_post", layer], **CLOSE)
        if encoder.cfg.pre_norm:
            following = encoder.blocks[layer + 1 :][:1]
            assert all(torch.equal(cache["resid_pre", layer + 1], cache["resid_post", layer]) for _ in following)
        else:
            torch.testing.assert_close(cache[f"blocks.{layer}.hook_normalized_resid_mid"], mid, **CLOSE)
    cache.compute_head_results()
    for layer, block in enumerate(encoder.blocks):
        heads = cache["result", layer].sum(-2) + block.attn.b_O
        torch.testing.assert_close(heads, cache["attn_out", layer], **CLOSE)
        neurons = cache.get_neuron_results(layer).sum(-2) + block.mlp.b_out
        torch.testing.assert_close(neurons, cache["mlp_out", layer], **CLOSE)


def test_the_accumulated_stream_is_what_is_read_and_unembeds_to_the_logits(run):
    encoder, logits, cache = run
    n_layers = encoder.cfg.n_layers
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == [name for i in range(n_layers) for name in (f"{i}_pre", f"{i}_mid")] + ["final_post"]
    torch.testing.assert_close(encoder.unembed(stack[-1]), logits, **CLOSE)
    for layer, block in enumerate(encoder.blocks):
        first, second = stack[2 * layer : 2 * layer + 2]
        if encoder.cfg.pre_norm:
            first, second = block.ln1(first), block.ln2(second)
        q = torch.einsum("bpd,hde->bphe", first, encoder.W_Q[layer]) + encoder.b_Q[layer]
        torch.testing.assert_close(q, cache["q", layer], **CLOSE)
        pre = second @ encoder.W_in[layer] + encoder.b_in[layer]
        torch.testing.assert_close(pre, cache["pre_linear" if encoder.cfg.gated_mlp else "pre", layer], **CLOSE)
    features = cache.accumulated_resid(apply_ln=True)
    torch.testing.assert_close(features[-1] @ encoder.W_U + encoder.b_U, logits, **CLOSE)
    some, labels = cache.accumulated_resid(layer=1, mlp_input=True, pos_slice=2, return_labels=True)
    assert labels == ["0_pre", "1_pre", "1_mid"] and some.shape == (3, 3, 16)
    torch.testing.assert_close(some[2], stack[3][:, 2], **CLOSE)


@pytest.mark.parametrize("mlp_input", [False, True])
def test_all_decompositions_add_up_to_the_stream_at_every_place(run, mlp_input):
    encoder, _, cache = run
    for layer in range(encoder.cfg.n_layers + (not mlp_input)):
        stream = cache.accumulated_resid(layer, mlp_input=mlp_input)[-1]
        layers, labels = cache.decompose_resid(layer, mlp_input=mlp_input, return_labels=True)
        torch.testing.assert_close(layers.sum(0), stream, **CLOSE)
        assert labels[:2] == ["embed", "pos_embed"] and labels[-1] == "bias"
        for expand in (False, True):
            parts = cache.get_full_resid_decomposition(layer, mlp_input=mlp_input, expand_neurons=expand)
            torch.testing.assert_close(parts.sum(0), stream, **CLOSE)
        neurons = cache.stack_neuron_results(layer, mlp_input=mlp_input, incl_remainder=True)
        torch.testing.assert_close(neurons.sum(0), stream, **CLOSE)
        if not mlp_input:
            torch.testing.assert_close(cache.stack_head_results(layer, incl_remainder=True).sum(0), stream, **CLOSE)


def test_contributions_are_those_of_a_loop_over_frozen_norms(run):
    encoder, _, cache = run
    heads, names = cache.stack_head_results(return_labels=True)
    assert names == [f"L{i}H{h}" for i in range(encoder.cfg.n_layers) for h in range(2)] == encoder.all_head_labels()
    neurons, labels = cache.stack_neuron_results(-1, neuron_slice=[3, 5], return_labels=True)
    assert labels == [f"L{i}N{n}" for i in range(encoder.cfg.n_layers) for n in (3, 5)]
    for layer in range(encoder.cfg.n_layers):
        one = slow_effect(encoder, cache, 1 + 2 * layer, cache["result", layer][:, :, 1])
        torch.testing.assert_close(heads[2 * layer + 1], one, **CLOSE)
        one = cache["post", layer][..., 5, None] * encoder.W_out[layer, 5]
        torch.testing.assert_close(neurons[2 * layer + 1], slow_effect(encoder, cache, 2 + 2 * layer, one), **CLOSE)
    layers, names = cache.decompose_resid(return_labels=True)
    embed = slow_effect(encoder, cache, 0, cache["hook_embed"] * cache.cache_dict.get("hook_embed_scale", 1))
    torch.testing.assert_close(layers[names.index("embed")], embed, **CLOSE)


def test_attributions_and_biases_add_up_to_the_logits(run):
    _, logits, cache = run
    for stack in (cache.decompose_resid(), cache.get_full_resid_decomposition()):
        for word in WORDS:
            total = cache.logit_attrs(stack, word).sum(0) + cache.logit_bias(word)
            torch.testing.assert_close(total, logits[..., word], **CLOSE)
        difference = cache.logit_attrs(stack, 7, 11).sum(0) + cache.logit_bias(7, 11)
        torch.testing.assert_close(difference, logits[..., 7] - logits[..., 11], **CLOSE)
        per_row = torch.tensor(WORDS)  # one for each row of the batch
        total = cache.logit_attrs(stack, per_row).sum(0) + cache.logit_bias(per_row)
        torch.testing.assert_close(total, torch.stack([logits[i, :, word] for i, word in enumerate(WORDS)]), **CLOSE)
    some = cache.decompose_resid(pos_slice=1)
    attrs = cache.logit_attrs(some, 7, pos_slice=1, batch_slice=[0, 2]).sum(0)
    torch.testing.assert_close(
        attrs + cache.logit_bias(7, pos_slice=1, batch_slice=[0, 2]), logits[[0, 2], 1, 7], **CLOSE
    )
    for expand in (False, True):
        effects, labels = cache.direct_effects(WORDS, expand_neurons=expand)
        assert len(effects) == len(labels) == len(set(labels))
        torch.testing.assert_close(effects.sum(0), logits[..., WORDS], **CLOSE)


def test_with_the_read_out_applied_w_u_gives_the_logits(run):
    encoder, logits, cache = run
    for stack in (
        cache.decompose_resid(apply_ln=True),
        cache.get_full_resid_decomposition(apply_ln=True),
        cache.stack_head_results(apply_ln=True, incl_remainder=True),
        cache.stack_neuron_results(-1, apply_ln=True, incl_remainder=True),
    ):
        torch.testing.assert_close(stack.sum(0) @ encoder.W_U + encoder.b_U, logits, **CLOSE)


@pytest.mark.parametrize("apply_ln", [False, True])
def test_projected_neurons_are_the_projections_of_neurons(run, apply_ln):
    encoder, _, cache = run
    for layer in (encoder.cfg.n_layers, 1):
        # Of what `W_U` multiplies, which a head may make narrower than the stream.
        width = len(encoder.W_U) if apply_ln and layer != 1 else 16
        onto = torch.randn(width, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        options = {"apply_ln": apply_ln, "pos_slice": [0, 2], "return_labels": True}
        full, labels = cache.get_full_resid_decomposition(layer, **options)
        projected, same = cache.get_full_resid_decomposition(layer, project_output_onto=onto, **options)
        torch.testing.assert_close(projected, full @ onto, **CLOSE)
        assert labels == same
        options |= {"incl_remainder": True, "neuron_slice": 4}
        full, labels = cache.stack_neuron_results(layer, **options)
        projected, same = cache.stack_neuron_results(layer, project_output_onto=onto[:, 0], **options)
        torch.testing.assert_close(projected, full @ onto[:, 0], **CLOSE)
        assert labels == same and labels[-1] == "remainder"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_hold_in_other_precisions(build_hf, dtype):
    encoder = HookedEncoder.from_hf(build_hf("roberta-3-layers")).to(dtype)
    tokens, mask = batch_of(build_hf("roberta-3-layers"))
    logits, cache = encoder.run_with_cache(tokens, mask)
    effects, _ = cache.direct_effects(WORDS)
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    far = (effects.sum(0) - logits[..., WORDS]).detach().abs().max()
    assert float(far) < tolerance * float(logits.detach().abs().max())


def test_a_logit_lens_ends_at_the_logits(run):
    encoder, logits, cache = run
    lens = cache.logit_lens(targets=WORDS)
    torch.testing.assert_close(lens.values[-1], logits[..., WORDS], **CLOSE)
    assert lens.labels[0] == "0_pre" and lens.values.shape == (encoder.cfg.n_layers + 1, 3, 7, 3)
    rank = (logits > logits[..., 11, None]).sum(-1)
    assert torch.equal(lens.rank_trajectory(11)[-1], rank)
    first = encoder.unembed(cache["resid_pre", 0])[:, 1]
    torch.testing.assert_close(cache.logit_lens(positions=1, top_k=2).values[0], first.topk(2).values, **CLOSE)
    encoder.train()
    with pytest.raises(ValueError, match=r"Call `model.eval\(\)`"):
        cache.logit_lens()


# Every method of TransformerLens's class


def test_no_method_of_transformer_lens_is_left_out():
    ours = {name for name, value in vars(EncoderCache).items() if inspect.isfunction(value)}
    same = {"remove_batch_dim", "to", "toggle_autodiff", "keys", "values", "items", "stack_activation"}
    same |= {"compute_head_results", "get_neuron_results", "logit_attrs"}
    theirs = {name for name, value in vars(ActivationCache).items() if inspect.isfunction(value) and name[0] != "_"}
    assert theirs == theirs & (ours | same)


def test_methods_that_keep_or_move_a_cache_give_our_class(run):
    _, logits, cache = run
    for part in (slice(0, 2), [1, 2], [2]):
        some = cache.apply_slice_to_batch_dim(part)
        assert type(some) is EncoderCache
        effects, _ = some.direct_effects(WORDS)
        torch.testing.assert_close(effects.sum(0), logits[part][..., WORDS], **CLOSE)
    one = cache.apply_slice_to_batch_dim(1)
    assert not one.has_batch_dim
    torch.testing.assert_close(one.direct_effects(WORDS)[0].sum(0), logits[1][:, WORDS], **CLOSE)
    total = one.logit_attrs(one.decompose_resid(), 7, has_batch_dim=False).sum(0) + one.logit_bias(7)
    torch.testing.assert_close(total, logits[1, :, 7], **CLOSE)
    single = cache.apply_slice_to_batch_dim([0]).remove_batch_dim()
    torch.testing.assert_close(single.direct_effects(WORDS)[0].sum(0), logits[0][:, WORDS], **CLOSE)
    with pytest.raises(AssertionError, match="batch size 3"):
        cache.remove_batch_dim()
    assert type(cache.to("cpu")) is EncoderCache and len(cache) == len(list(cache)) == len(cache.keys())
    assert next(iter(cache.values())) is next(iter(cache.items()))[1]
    assert cache.stack_activation("post", 1).shape == (1, 3, 7, 29)


def test_what_an_encoder_has_not_is_refused(run):
    encoder, _, cache = run
    assert cache.ssm_layers() == []
    for method in (cache.compute_ssm_effective_attention, cache.compute_ssm_state):
        with pytest.raises(NotImplementedError, match="no state-space layers"):
            method()
    n_layers = encoder.cfg.n_layers
    for method in (cache.accumulated_resid, cache.decompose_resid, cache.stack_neuron_results):
        for options in ({"layer": n_layers + 1}, {"layer": -2}, {"layer": n_layers, "mlp_input": True}):
            with pytest.raises(ValueError, match=rf"runs from 0 to {n_layers}.* but is {options['layer']}"):
                method(**options)
    with pytest.raises(ValueError, match="not 'heads'"):
        cache.decompose_resid(mode="heads")
    for key in ("resid_pots", ("post", 9), "blocks.0.nothing"):
        with pytest.raises(KeyError, match="The cache has no"):
            cache[key]


def test_a_cache_of_less_says_what_it_lacks(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    lacks = "attn_out" if encoder.cfg.pre_norm else "resid_mid"  # whose norm is on the stream's way
    _, cache = encoder.run_with_cache(tokens, mask, names_filter=lambda name: lacks not in name)
    for method in (cache.decompose_resid, cache.stack_head_results, cache.get_full_resid_decomposition):
        with pytest.raises(KeyError, match=rf"The cache has no 'blocks.0.hook_{lacks}'"):
            method()


def test_modes_and_embeddings_choose_rows(run):
    encoder, _, cache = run
    all_rows, names = cache.decompose_resid(return_labels=True)
    for mode, end in (("attn", "attn_out"), ("mlp", "mlp_out")):
        rows, labels = cache.decompose_resid(mode=mode, incl_embeds=False, return_labels=True)
        assert labels == [f"{layer}_{end}" for layer in range(encoder.cfg.n_layers)]
        assert torch.equal(rows, all_rows[[names.index(label) for label in labels]])
    assert cache.decompose_resid(0, mode="mlp", incl_embeds=False).shape == (0, 3, 7, 16)
    assert cache.stack_head_results(0).shape == (0, 3, 7, 16)


# Interventions


@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_normalized_resid_mid", "hook_resid_post"])
def test_a_changed_stream_is_refused_since_nothing_adds_up_to_it(hf_model, encoder, place):
    tokens, mask = batch_of(hf_model)
    place = place.replace("normalized_", "") if encoder.cfg.pre_norm else place
    with encoder.hooks(fwd_hooks=[(f"blocks.1.{place}", lambda x, hook: x + torch.arange(16))]):
        _, cache = encoder.run_with_cache(tokens, mask)
    for method in (cache.decompose_resid, cache.stack_head_results, cache.get_full_resid_decomposition):
        with pytest.raises(ValueError, match="A hook changed the stream"):
            method()


@pytest.mark.parametrize("place", ["hook_embed", "blocks.1.mlp.hook_post", "blocks.0.attn.hook_z", "blocks.0.hook_q"])
def test_changed_parts_are_taken_apart_as_they_were(hf_model, encoder, place):
    tokens, mask = batch_of(hf_model)
    place = place.replace("0.hook_q", "0.attn.hook_q")
    with encoder.hooks(fwd_hooks=[(place, lambda x, hook: x * 0)]):
        logits, cache = encoder.run_with_cache(tokens, mask)
    effects, labels = cache.direct_effects(WORDS, expand_neurons=True)
    torch.testing.assert_close(effects.sum(0), logits[..., WORDS], **CLOSE)
    if place == "blocks.1.mlp.hook_post":
        assert not effects[labels.index("L1N3")].any()


def test_a_changed_output_is_one_of_layers_but_not_of_heads(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    with encoder.hooks(fwd_hooks=[("blocks.0.hook_attn_out", lambda x, hook: x + torch.arange(16))]):
        logits, cache = encoder.run_with_cache(tokens, mask)
    total = cache.logit_attrs(cache.decompose_resid(), 7).sum(0) + cache.logit_bias(7)
    torch.testing.assert_close(total, logits[..., 7], **CLOSE)
    with pytest.raises(ValueError, match="the heads of layer 0"):
        cache.direct_effects(7)


def test_weights_that_changed_since_the_run_are_seen(run):
    encoder, _, cache = run
    with torch.no_grad():
        (encoder.blocks[0].attn.output if encoder.cfg.pre_norm else encoder.blocks[0].ln2).bias += torch.arange(16)
    with pytest.raises(ValueError, match="weights are not those of the run"):
        cache.get_full_resid_decomposition()


def test_a_last_block_of_fewer_positions_is_read_at_these(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    logits, cache = encoder.run_with_cache(tokens, mask, last_block_to=2)
    effects, _ = cache.direct_effects(WORDS, expand_neurons=True)
    torch.testing.assert_close(effects.sum(0), logits[..., WORDS], **CLOSE)
    effects, _ = cache.direct_effects(WORDS, pos_slice=-1)
    torch.testing.assert_close(effects.sum(0), logits[:, -1, WORDS], **CLOSE)
    assert cache.accumulated_resid().shape[2] == 2


def test_an_activation_that_is_zero_leaves_nothing_out(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("bert", torch.float64, hidden_act="relu"))
    with torch.no_grad():
        encoder.read_out.dense.weight[:4] = 0
        encoder.read_out.dense.bias[:4] = 0
    encoder.read_out.activation = nn.Softplus()  # which is not 0 at 0
    tokens, mask = batch_of(build_hf("bert"))
    logits, cache = encoder.run_with_cache(tokens, mask)
    torch.testing.assert_close(cache.direct_effects(WORDS)[0].sum(0), logits[..., WORDS], **CLOSE)
