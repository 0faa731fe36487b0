"""HookedEncoder against Hugging Face's forward pass, and against itself where it does less work.

Parity is in float64, where only the order of sums differs: `CLOSE` is a thousand times rounding.
"""

import pytest
import torch
from einops import einsum, rearrange
from helpers import Tolerance
from transformer_lens.model_protocol import TransformerLensModel
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from skillneurons.classifiers.prompts import splice
from skillneurons.models.blocks import bucket
from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.disentangled import log_bucket

CLOSE: Tolerance = {"rtol": 1e-10, "atol": 1e-10}
# Hugging Face turns ModernBERT's queries and keys, and scales DeBERTa's, in float32 whatever the model's precision.
TURNED: Tolerance = {"rtol": 2e-6, "atol": 2e-6}
LENGTHS = (7, 3, 5)


def batch_of(model, lengths=LENGTHS, seed=0):
    """Right-padded random tokens and their mask."""
    generator, pad = torch.Generator().manual_seed(seed), model.config.pad_token_id
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    tokens = torch.randint(5, model.config.vocab_size, mask.shape, generator=generator)
    return torch.where(mask.bool(), tokens, pad), mask


def hf_run(model, **inputs):
    """Logits, intermediate outputs and attention patterns; a headless model is read out by its word embeddings."""
    seen = []
    base, kind = model.base_model, model.config.model_type
    if kind == "distilbert":
        after = [layer.ffn.lin2 for layer in base.transformer.layer]
    elif kind == "modernbert":
        after = [layer.mlp.Wo for layer in base.layers]
    else:
        after = [layer.output.dense for layer in base.encoder.layer]
    handles = [module.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for module in after]
    try:
        # ELECTRA's discriminator has a head, but no language model's.
        without = type(model).__name__ == "ElectraForPreTraining"
        out = (base if without else model)(**inputs, output_attentions=kind != "modernbert")
    finally:
        for handle in handles:
            handle.remove()
    logits = out.get("logits", out.get("prediction_logits"))
    if logits is None:
        # In the words' own space, which the stream may be wider than.
        narrow = getattr(model.base_model, "embeddings_project", None)
        final = out.last_hidden_state if narrow is None else out.last_hidden_state @ narrow.weight
        logits = final @ model.get_input_embeddings().weight.T
    return logits, seen, out.get("attentions")


def close_to(model) -> Tolerance:
    """How close to Hugging Face's numbers ours need to be."""
    return TURNED if model.config.model_type in ("modernbert", "deberta-v2") else CLOSE


def reads(encoder, cache, layer):
    """What a block's attention reads, and what its MLP does."""
    block = encoder.blocks[layer]
    if encoder.cfg.pre_norm:
        return block.ln1(cache["resid_pre", layer]), block.ln2(cache["resid_mid", layer])
    return cache["resid_pre", layer], cache[f"blocks.{layer}.hook_normalized_resid_mid"]


def final_stream(encoder, cache):
    kind = "resid_post" if encoder.cfg.pre_norm else "normalized_resid_post"
    return cache[f"blocks.{encoder.cfg.n_layers - 1}.hook_{kind}"]


def positions_of(model, mask):
    """Hugging Face's position ids, which it does not work out from embeddings as it does from tokens."""
    if model.config.model_type in ("bert", "distilbert", "electra", "ernie", "modernbert", "deberta-v2"):
        return torch.arange(mask.shape[1]).expand_as(mask)
    return mask.cumsum(1) * mask + model.config.pad_token_id


def spliced_inputs(model, vectors, seed=0):
    """The layout `[MASK] p_1 … p_P text`, as tokens for us and as embeddings for Hugging Face."""
    text, text_mask = batch_of(model, seed=seed)
    head = torch.full((len(text), 1 + len(vectors)), 4)
    tokens = torch.cat([head, text], dim=1)
    mask = torch.cat([torch.ones_like(head), text_mask], dim=1)
    embeds = model.get_input_embeddings()(tokens)
    embeds = torch.cat([embeds[:, :1], vectors.expand(len(text), -1, -1), embeds[:, 1 + len(vectors) :]], dim=1)
    if model.config.model_type == "esm":
        return tokens, mask, {"inputs_embeds": embedded_by_esm(model, embeds, mask), "attention_mask": mask}
    return tokens, mask, {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions_of(model, mask)}


def embedded_by_esm(model, words, mask):
    """What enters ESM's first block, a mask token being the first of `words`: it takes `inputs_embeds` to be that."""
    embeddings = model.base_model.embeddings
    if model.config.token_dropout:
        words = torch.cat([0 * words[:, :1], words[:, 1:]], dim=1)
        words = words * (1 - 0.15 * 0.8) / (1 - 1 / mask.sum(1).float())[:, None, None]
    summed = words + embeddings.position_embeddings(positions_of(model, mask))
    return summed if embeddings.layer_norm is None else embeddings.layer_norm(summed)


# Parity with Hugging Face


def test_padded_batches_give_hugging_faces_logits_neurons_and_patterns(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    real = mask.bool()
    expected, neurons, patterns = hf_run(hf_model, input_ids=tokens, attention_mask=mask)
    logits, cache = encoder.run_with_cache(tokens, mask)
    torch.testing.assert_close(logits[real], expected[real], **close_to(hf_model))
    assert len(neurons) == len(patterns or neurons) == encoder.cfg.n_layers
    for layer, neuron in enumerate(neurons):
        torch.testing.assert_close(cache["post", layer][real], neuron[real], **close_to(hf_model))
    for layer, pattern in enumerate(patterns or ()):
        both = (cache["pattern", layer], pattern)
        ours, theirs = (rearrange(one, "batch head query key -> batch query head key") for one in both)
        torch.testing.assert_close(ours[real], theirs[real], **close_to(hf_model))


def test_unpadded_batches_need_no_mask(hf_model, encoder):
    tokens, _ = batch_of(hf_model, (5, 5, 5))
    expected, _, _ = hf_run(hf_model, input_ids=tokens)
    torch.testing.assert_close(encoder(tokens), expected, **close_to(hf_model))
    assert torch.equal(encoder(tokens, torch.ones_like(tokens).bool()), encoder(tokens, torch.ones_like(tokens)))


def test_padding_changes_nothing_for_the_tokens_before_it(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    alone = [encoder(row[:n][None])[0] for row, n in zip(tokens, LENGTHS, strict=True)]
    together = encoder(tokens, mask)
    for i, n in enumerate(LENGTHS):
        torch.testing.assert_close(together[i, :n], alone[i], **CLOSE)
    assert not torch.allclose(encoder(tokens, torch.ones_like(mask))[1, :3], alone[1])


def test_the_longest_input_reaches_the_last_row_of_the_position_table(hf_model, encoder):
    tokens, _ = batch_of(hf_model, (encoder.cfg.n_ctx,))
    expected, _, _ = hf_run(hf_model, input_ids=tokens)
    torch.testing.assert_close(encoder(tokens), expected, **close_to(hf_model))
    if encoder.cfg.absolute_positions:
        assert torch.equal(encoder.W_pos[-1], hf_model.base_model.embeddings.position_embeddings.weight[-1])


def test_distances_are_sorted_into_hugging_faces_buckets(build_hf):
    where = torch.arange(600)
    distance = where - where[:, None]
    theirs = build_hf("mpnet").mpnet.encoder.relative_position_bucket(distance)
    assert torch.equal(bucket(distance), theirs) and len(theirs.unique()) == 31  # 0 has one side


@pytest.mark.parametrize(("n_buckets", "furthest"), [(256, 512), (4, 41), (32, 40), (-1, 20)])
def test_distances_are_sorted_into_debertas_buckets(n_buckets, furthest):
    where = torch.arange(600)
    theirs = build_relative_position(where[:, None], where[:, None], n_buckets, furthest)[0]
    assert torch.equal(log_bucket(where[:, None] - where, n_buckets, furthest), theirs)


def test_disentangled_scores_are_those_of_a_loop(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("deberta-own", torch.float64))
    tokens, mask = batch_of(build_hf("deberta-own"))
    _, cache = encoder.run_with_cache(tokens, mask)
    assert encoder.distances is not None
    rows, attn = encoder.distances().detach(), encoder.blocks[1].attn
    key, query = (linear(rows).unflatten(-1, (2, 8)) for linear in (attn.disentangled.key, attn.disentangled.query))
    q, k = cache["q", 1][0], cache["k", 1][0]
    for i, j, head in ((0, 6, 0), (6, 0, 1), (3, 2, 1), (4, 4, 0)):
        row = min(max(i - j + 5, 0), 9)  # ten rows; the texts reach beyond them
        score = q[i, head] @ k[j, head] + q[i, head] @ key[row, head] + k[j, head] @ query[row, head]
        torch.testing.assert_close(cache["attn_scores", 1][0, head, i, j], score / 24**0.5, **CLOSE)


def test_relative_positions_reach_the_attention_scores(build_hf):
    model = build_hf("mpnet", torch.float64, num_attention_heads=4, max_position_embeddings=310)
    encoder = HookedEncoder.from_hf(model)
    tokens, mask = batch_of(model, (300, 211, 3))  # beyond the distance where buckets end
    expected, neurons, _ = hf_run(model, input_ids=tokens, attention_mask=mask)
    logits, cache = encoder.run_with_cache(tokens, mask)
    real = mask.bool()
    torch.testing.assert_close(logits[real], expected[real], **CLOSE)
    torch.testing.assert_close(cache["post", 1][real], neurons[1][real], **CLOSE)
    bias = model.mpnet.encoder.compute_position_bias(torch.zeros(1, 300, 1))
    for layer in range(2):
        scores = einsum(cache["q", layer], cache["k", layer], "b query h d, b key h d -> b h query key") / 2
        torch.testing.assert_close((scores + bias)[0], cache["attn_scores", layer][0], **CLOSE)
    short = encoder(tokens, mask, logits_at=1, last_block_to=4)
    torch.testing.assert_close(short, expected[:, 1], **CLOSE)


def test_a_model_without_segments_takes_none_but_lets_a_hook_add_some(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("mpnet", torch.float64))
    tokens = torch.tensor([[0, 7, 11, 2]])
    assert torch.equal(encoder(tokens, token_type_ids=torch.zeros_like(tokens)), encoder(tokens))
    with pytest.raises(ValueError, match=r"must lie in 0 to 0, since the model has 0 segments, but run from 0 to 1"):
        encoder(tokens, token_type_ids=(tokens == 2).long())
    with encoder.hooks(fwd_hooks=[("hook_token_type_embed", lambda zeros, hook: zeros + torch.arange(16))]):
        shifted = encoder(tokens)
    assert not torch.allclose(shifted, encoder(tokens))


def test_segments_are_those_of_hugging_face(build_hf):
    model = build_hf("bert", torch.float64)
    encoder = HookedEncoder.from_hf(model)
    tokens, mask = batch_of(model)
    types = (torch.arange(7) > 2).long().expand_as(tokens) * mask
    expected, _, _ = hf_run(model, input_ids=tokens, attention_mask=mask, token_type_ids=types)
    logits = encoder(tokens, mask, token_type_ids=types)
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], **CLOSE)
    assert not torch.allclose(logits[0], encoder(tokens, mask)[0])


def test_soft_prompts_give_hugging_faces_values_and_gradients(hf_model, encoder):
    shape, seed = (3, encoder.cfg.d_embed), torch.Generator()
    ours, theirs = (torch.randn(shape, dtype=torch.float64, generator=seed.manual_seed(3)) for _ in "ab")
    ours.requires_grad_()
    theirs.requires_grad_()
    tokens, mask, inputs = spliced_inputs(hf_model, theirs)
    expected, neurons, _ = hf_run(hf_model, **inputs)
    seen = {}

    def keep(activation, hook):
        seen[hook.layer()] = activation

    keepers = [(f"blocks.{layer}.mlp.hook_post", keep) for layer in range(encoder.cfg.n_layers)]
    with encoder.hooks(fwd_hooks=[splice(ours), *keepers]):
        logits = encoder(tokens, mask)
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], **close_to(hf_model))
    for layer, neuron in enumerate(neurons):
        torch.testing.assert_close(seen[layer][mask.bool()], neuron[mask.bool()], **close_to(hf_model))
    labels = torch.tensor([0, 1, 0])
    for values in (logits, expected):
        torch.nn.functional.cross_entropy(values[:, 0, [7, 11]], labels).backward()
    assert theirs.grad is not None and float(theirs.grad.norm()) > 1e-4
    torch.testing.assert_close(ours.grad, theirs.grad, **close_to(hf_model))


def test_gradients_agree_in_float32_where_only_the_label_words_are_read(build_hf):
    model = build_hf("roberta")
    encoder = HookedEncoder.from_hf(model)
    ours, theirs = (torch.randn(3, 16, generator=torch.Generator().manual_seed(3)).requires_grad_() for _ in "ab")
    tokens, mask, inputs = spliced_inputs(model, theirs)
    hf_run(model, **inputs)[0][:, 0, [7, 11]].softmax(-1)[:, 0].sum().backward()
    with encoder.hooks(fwd_hooks=[splice(ours)]):
        encoder(tokens, mask, logits_at=0, logits_for=[7, 11]).softmax(-1)[:, 0].sum().backward()
    # Float32 rounding over two layers; a wrong term would be of order one.
    assert ours.grad is not None and theirs.grad is not None
    assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 1e-4


# Less work, the same numbers


def test_asking_for_less_gives_the_same_numbers(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    full = encoder(tokens, mask)
    where, words = torch.tensor([6, 2, 3]), [11, 7, 23]
    torch.testing.assert_close(encoder(tokens, mask, logits_at=2), full[:, 2], **CLOSE)
    torch.testing.assert_close(encoder(tokens, mask, logits_at=where), full[torch.arange(3), where], **CLOSE)
    torch.testing.assert_close(encoder(tokens, mask, logits_for=words), full[..., words], **CLOSE)
    torch.testing.assert_close(encoder(tokens, mask, logits_for=torch.tensor(words)), full[..., words], **CLOSE)
    torch.testing.assert_close(encoder(tokens, mask, last_block_to=3), full[:, :3], **CLOSE)
    some = encoder(tokens, mask, logits_at=1, logits_for=words, last_block_to=5)
    torch.testing.assert_close(some, full[:, 1, words], **CLOSE)


def test_a_pass_cut_in_two_at_any_layer_is_the_plain_pass(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    full = encoder(tokens, mask)
    for layer in range(encoder.cfg.n_layers):
        resid = encoder(tokens, mask, stop_at_layer=layer)
        assert torch.equal(encoder(resid, mask, start_at_layer=layer), full)
        assert torch.equal(resid, encoder(tokens, mask, stop_at_layer=layer - encoder.cfg.n_layers))
    assert torch.equal(encoder.unembed(encoder(tokens, mask, stop_at_layer=encoder.cfg.n_layers)), full)


def test_hooks_in_the_last_block_see_every_position_unless_told_otherwise(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    name = f"blocks.{encoder.cfg.n_layers - 1}.mlp.hook_post"
    _, cache = encoder.run_with_cache(tokens, mask, logits_at=0, names_filter=name)
    assert cache[name].shape == (3, 7, 29)
    _, short = encoder.run_with_cache(tokens, mask, logits_at=0, last_block_to=2, names_filter=name)
    torch.testing.assert_close(short[name], cache[name][:, :2], **CLOSE)


def test_an_intervention_on_the_last_block_works_with_logits_at(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    hook = (f"blocks.{encoder.cfg.n_layers - 1}.attn.hook_z", lambda z, hook: z * 2)
    with encoder.hooks(fwd_hooks=[hook]):
        torch.testing.assert_close(encoder(tokens, mask, logits_at=1), encoder(tokens, mask)[:, 1], **CLOSE)


def test_fused_attention_equals_attention_with_hooks_on_its_pattern(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    fused = encoder(tokens, mask)
    for point in ("hook_pattern", "hook_attn_scores"):
        hooks = [(f"blocks.{layer}.attn.{point}", lambda x, hook: x) for layer in range(encoder.cfg.n_layers)]
        with encoder.hooks(fwd_hooks=hooks):
            torch.testing.assert_close(encoder(tokens, mask)[mask.bool()], fused[mask.bool()], **CLOSE)


# Hooks


def test_hooks_leave_no_trace_also_after_an_exception(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    before = encoder(tokens, mask)
    with encoder.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda x, hook: x + 1)]):
        assert not torch.equal(encoder(tokens, mask), before)
    assert torch.equal(encoder(tokens, mask), before)

    def fail(activation, hook):
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"), encoder.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", fail)]):
        encoder(tokens, mask)
    assert not any(point.has_hooks() for point in encoder.hook_dict.values())
    assert encoder.context_level == 0 and torch.equal(encoder(tokens, mask), before)


def test_a_users_own_hook_survives_ours(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    calls = []
    encoder.add_hook("blocks.0.mlp.hook_post", lambda x, hook: calls.append(hook.name))
    with encoder.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda x, hook: x * 0)]):
        encoder(tokens, mask)
    encoder.run_with_cache(tokens, mask)
    encoder(tokens, mask)
    assert calls == ["blocks.0.mlp.hook_post"] * 3


def test_an_unknown_hook_name_lists_the_nearest_and_adds_nothing(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    good = ("blocks.0.mlp.hook_post", lambda x, hook: x)
    with pytest.raises(ValueError, match=r"'blocks.0.mlp.hook_pots'.*blocks.0.mlp.hook_post"):
        encoder.run_with_hooks(tokens, mask, fwd_hooks=[good, ("blocks.0.mlp.hook_pots", good[1])])
    assert not any(point.has_hooks() for point in encoder.hook_dict.values())
    for names in ("blocks.9.mlp.hook_post", ["hook_embed", "blocks.9.mlp.hook_post"]):
        with pytest.raises(ValueError, match=r"'blocks.9.mlp.hook_post'.*blocks.[01].mlp.hook_post"):
            encoder.run_with_cache(tokens, mask, names_filter=names)


def test_transformer_lens_utilities_work_on_the_cache(hf_model, encoder):
    n_layers, d_embed, (tokens, mask) = encoder.cfg.n_layers, encoder.cfg.d_embed, batch_of(hf_model)
    assert isinstance(encoder, TransformerLensModel)
    _, cache = encoder.run_with_cache(tokens, mask)
    resid, labels = cache.accumulated_resid(return_labels=True)
    assert labels == [*(f"{layer}_pre" for layer in range(n_layers)), "final_post"]
    assert torch.equal(resid[1], cache["resid_pre", 1])
    parts, labels = cache.decompose_resid(return_labels=True)
    assert len(parts) == len(labels) and labels[-2:] == [f"{n_layers - 1}_mlp_out", "bias"]
    neurons = cache.stack_activation("post")
    assert neurons.shape == (n_layers, 3, 7, 29) and torch.equal(neurons[1], cache["blocks.1.mlp.hook_post"])
    _, plain = encoder.run_with_cache(tokens[:1], return_cache_object=False, remove_batch_dim=True)
    assert type(plain) is dict and plain["hook_embed"].shape == (7, d_embed)


# Weights


def test_weights_in_transformer_lens_shapes_rebuild_the_activations(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    n_layers = encoder.cfg.n_layers
    assert encoder.W_in.shape == (n_layers, 16, 29) and encoder.W_out.shape == (n_layers, 29, 16)
    assert encoder.W_Q.shape == (n_layers, 2, 16, 8) and encoder.W_O.shape == (n_layers, 2, 8, 16)
    logits, cache = encoder.run_with_cache(tokens, mask)
    for layer in range(n_layers):
        for kind in "QKV":
            weight, bias = getattr(encoder, f"W_{kind}")[layer], getattr(encoder, f"b_{kind}")[layer]
            read, _ = reads(encoder, cache, layer)
            value = einsum(read, weight, "b p d_model, h d_model d_head -> b p h d_head") + bias
            torch.testing.assert_close(value, cache[kind.lower(), layer], **CLOSE)
        attn = einsum(cache["z", layer], encoder.W_O[layer], "b p h d_head, h d_head d_model -> b p d_model")
        torch.testing.assert_close(attn + encoder.b_O[layer], cache["attn_out", layer], **CLOSE)
        mid, linear = reads(encoder, cache, layer)[1], "pre"
        if encoder.cfg.gated_mlp:
            linear = "pre_linear"
            gate = mid @ encoder.W_gate[layer] + encoder.b_gate[layer]
            torch.testing.assert_close(gate, cache["pre", layer], **CLOSE)
            gated = encoder.blocks[layer].mlp.activation(cache["pre", layer]) * cache["pre_linear", layer]
            torch.testing.assert_close(gated, cache["post", layer], **CLOSE)
        torch.testing.assert_close(mid @ encoder.W_in[layer] + encoder.b_in[layer], cache[linear, layer], **CLOSE)
        out = cache["post", layer] @ encoder.W_out[layer] + encoder.b_out[layer]
        torch.testing.assert_close(out, cache["mlp_out", layer], **CLOSE)
    torch.testing.assert_close(encoder.W_E[tokens], cache["hook_embed"], **CLOSE)
    final = encoder.read_out(final_stream(encoder, cache))
    torch.testing.assert_close(final @ encoder.W_U + encoder.b_U, logits, **CLOSE)
    assert torch.equal(encoder.tokens_to_residual_directions(torch.tensor([7, 11])), encoder.W_U.T[[7, 11]])


def test_the_pattern_weighs_the_values(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    _, cache = encoder.run_with_cache(tokens, mask)
    value = rearrange(cache["v", 1], "b key h d_head -> b h key d_head")
    z = rearrange(cache["pattern", 1] @ value, "b h query d_head -> b query h d_head")
    torch.testing.assert_close(z, cache["z", 1], **CLOSE)
    assert float(cache["pattern", 1][1, :, :3, 3:].max()) == 0


def test_the_fingerprint_changes_with_any_weight_and_only_then(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("roberta"))
    first = encoder.fingerprint()
    assert len(first) == 16 and HookedEncoder.from_hf(build_hf("roberta")).fingerprint() == first
    tokens = torch.tensor([[0, 7, 2]])
    encoder.run_with_cache(tokens)
    assert encoder.train().eval().fingerprint() == first
    for name, parameter in encoder.named_parameters():
        kept = parameter.detach().clone()
        parameter.data.view(-1)[-1] += 1e-3  # which torch's version counter does not see
        assert encoder.fingerprint() != first, name
        with torch.no_grad():
            parameter.copy_(kept)
        assert encoder.fingerprint() == first, name
    assert encoder.half().float().fingerprint() != first


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "relu"}, {"num_attention_heads": 4}, {"layer_norm_eps": 1e-3}, {"pad_token_id": 0}],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_tells_apart_what_the_same_weights_are_used_for(build_hf, change):
    first, other = HookedEncoder.from_hf(build_hf("roberta")), HookedEncoder.from_hf(build_hf("roberta", **change))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert other.fingerprint() != first.fingerprint()


def test_the_fingerprint_does_not_depend_on_names_or_on_how_a_model_was_trained(build_hf, roberta_tokenizer):
    first = HookedEncoder.from_hf(build_hf("roberta"))
    other = HookedEncoder.from_hf(build_hf("roberta", hidden_dropout_prob=0.3), roberta_tokenizer)
    other.cfg.source, other.cfg.revision = "elsewhere", "1234"
    assert other.fingerprint() == first.fingerprint()


def test_the_configuration_follows_the_weights_to_another_dtype(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("roberta"))
    assert encoder.cfg.dtype == torch.float32 and encoder.cfg.device == "cpu"
    assert encoder.to(torch.float64).cfg.dtype == encoder.dtype == torch.float64


def test_converting_leaves_the_hugging_face_model_and_its_memory_alone(build_hf):
    model = build_hf("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoder = HookedEncoder.from_hf(model)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Text


def test_texts_become_right_padded_tokens_and_come_back(tiny_model):
    tokens = tiny_model.to_tokens([" a lovely film", " great"])
    assert tokens[1].tolist()[-2:] == [1, 1] and tokens[:, 0].tolist() == [0, 0]
    assert tiny_model.attention_mask(tokens).sum(1).tolist() == [5, 3]
    assert tiny_model.to_string(tokens[0]) == "<s> a lovely film</s>"
    assert tiny_model.to_string(tokens)[1].startswith("<s> great</s>")
    assert tiny_model.to_string(int(tokens[1, 1])) == tiny_model.to_string(tokens[1, 1]) == " great"
    assert tiny_model.to_str_tokens(" a great") == tiny_model.to_str_tokens(tiny_model.to_tokens(" a great"))
    assert tiny_model.to_str_tokens(" a great") == ["<s>", " a", " great", "</s>"]
    assert tiny_model.to_str_tokens([" a great", " great"])[1] == ["<s>", " great", "</s>"]
    assert tiny_model.to_str_tokens(tokens[1, 1:2].numpy()) == [" great"]
    with pytest.raises(ValueError, match=r"shape is \(2, 5\)"):
        tiny_model.to_str_tokens(tokens)
    great = tiny_model.tokens_to_residual_directions(" great")
    assert torch.equal(great, tiny_model.W_U[:, tokens[1, 1]])
    assert torch.equal(great, tiny_model.tokens_to_residual_directions(int(tokens[1, 1])))
    assert tiny_model.tokens_to_residual_directions(tokens).shape == (2, 5, 16)
    with pytest.raises(ValueError, match="run from -1 to 7"):
        tiny_model.tokens_to_residual_directions([7, -1])
    assert tiny_model.to_single_token(" great") == tokens[1, 1]
    with pytest.raises(ValueError, match=r"' xyz' needs to be one token, but is \d"):
        tiny_model.to_single_token(" xyz")
    long = " the" * 100
    assert tiny_model.to_tokens(long).shape == (1, tiny_model.cfg.n_ctx)
    assert tiny_model.to_tokens(long, truncate=False).shape == (1, 102)


def test_text_in_place_of_tokens_is_tokenized_and_its_padding_masked(tiny_model):
    texts = [" a lovely film", " great"]
    tokens = tiny_model.to_tokens(texts)
    expected = tiny_model(tokens, tiny_model.attention_mask(tokens))
    assert torch.equal(tiny_model(texts), expected)
    assert torch.equal(tiny_model(texts[0], logits_at=0), tiny_model(tokens[:1], logits_at=0))
    _, cache = tiny_model.run_with_cache(texts)
    torch.testing.assert_close(cache["blocks.1.hook_normalized_resid_post"], tiny_model(texts, stop_at_layer=2))
    for wrong in ({"attention_mask": torch.ones(2, 5).long()}, {"start_at_layer": 1}):
        with pytest.raises(ValueError, match="comes without"):
            tiny_model(texts, **wrong)


def test_text_without_a_tokenizer_is_an_error(encoder):
    with pytest.raises(ValueError, match=r"HookedEncoder.from_hf\(hf_model, tokenizer\)"):
        encoder.to_tokens("a film")


# Errors of the forward pass

TOKENS = torch.tensor([[0, 7, 11, 2], [0, 13, 2, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input": TOKENS}, r"padding \(id 1\) but no `attention_mask`"),
        ({"input": TOKENS, "attention_mask": MASK.flip(1)}, "padding before a token, or nothing else, in row 1"),
        ({"input": TOKENS, "attention_mask": MASK.flip(1).bool()}, "in row 1"),
        ({"input": TOKENS, "attention_mask": MASK * torch.tensor([[0], [1]])}, "nothing else, in row 0"),
        ({"input": TOKENS, "attention_mask": MASK[:, :3]}, r"\(2, 4\), but has \(2, 3\)"),
        ({"input": TOKENS + 49}, "0 to 52, but run from 49 to 62"),
        ({"input": TOKENS - 1, "attention_mask": MASK}, "0 to 52, but run from -1 to 12"),
        ({"input": torch.full((1, 40), 7)}, "has 40 positions, but the model has 39"),
        ({"input": torch.zeros(2, 4)}, r"torch.float32 of shape \(2, 4\)"),
        ({"input": torch.zeros(2, 4, 16)}, "pass `start_at_layer`"),
        ({"input": TOKENS, "attention_mask": MASK, "start_at_layer": 1}, r"\[batch, pos, 16\].*\(2, 4\)"),
        ({"input": torch.zeros(2, 4, 17), "start_at_layer": 1}, r"\[batch, pos, 16\].*\(2, 4, 17\)"),
        ({"input": torch.zeros(2, 5, 16), "attention_mask": MASK, "start_at_layer": 1}, r"\(2, 5\), but has \(2, 4\)"),
        ({"input": torch.zeros(2, 4, 16), "start_at_layer": 2}, "`start_at_layer` is 2.*layers 0 to 1"),
        ({"input": torch.zeros(2, 4, 16), "start_at_layer": -3}, "`start_at_layer` is -3"),
        ({"input": torch.zeros(2, 4, 16), "start_at_layer": 1, "stop_at_layer": 0}, "is 0, before .* which is 1"),
        ({"input": TOKENS, "attention_mask": MASK, "stop_at_layer": 3}, "`stop_at_layer` is 3"),
        ({"input": TOKENS, "attention_mask": MASK, "stop_at_layer": 2, "logits_at": 0}, "`stop_at_layer` .2."),
        ({"input": TOKENS, "attention_mask": MASK, "logits_at": 4}, "`logits_at` is 4.*0 to 3"),
        ({"input": TOKENS, "attention_mask": MASK, "logits_at": -1}, "`logits_at` is -1.*0 to 3"),
        ({"input": TOKENS, "attention_mask": MASK, "logits_at": torch.tensor([0, -2])}, "from -2 to 0.*0 to 3"),
        (
            {"input": TOKENS, "attention_mask": MASK, "logits_at": torch.tensor([0, 2]), "last_block_to": 2},
            "from 0 to 2.*0 to 1",
        ),
        ({"input": TOKENS, "attention_mask": MASK, "logits_for": [7, 53]}, r"0 to 52, but has \[7, 53\]"),
        ({"input": TOKENS, "attention_mask": MASK, "logits_at": 2, "last_block_to": 2}, r"is 2.*`logits_at` \(2\)"),
        ({"input": TOKENS, "attention_mask": MASK, "last_block_to": 5}, "is 5.*4 positions"),
        ({"input": TOKENS, "attention_mask": MASK, "last_block_to": 0}, "is 0"),
    ],
)
def test_a_wrong_input_is_named(build_hf, unchecked_types, inputs, message):
    with pytest.raises(ValueError, match=message):
        HookedEncoder.from_hf(build_hf("roberta"))(**inputs)
