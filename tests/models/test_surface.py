"""What TransformerLens's tools ask of a model beyond a forward pass: weights, text, optional hooks, patching."""

import re
from pathlib import Path

import pytest
import torch
from helpers import Tolerance
from test_encoder import batch_of, reads
from transformer_lens import patching
from transformer_lens.head_detector import detect_head
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.SVDInterpreter import SVDInterpreter
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
from transformer_lens.tools.analysis.interchange import reinitialized

from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.next_sentence import NextSentencePrediction

CLOSE: Tolerance = {"rtol": 1e-10, "atol": 1e-10}
MIGRATING = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"
OPTIONAL = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input")


def ask_for_all(encoder):
    encoder.set_use_attn_result(True)
    encoder.set_use_split_qkv_input(True)
    encoder.set_use_hook_mlp_in(True)
    return encoder


# Weights and text


def test_factored_circuits_and_the_joint_basis_are_products_of_the_weights(encoder):
    torch.testing.assert_close(encoder.QK.AB, encoder.W_Q @ encoder.W_K.mT, **CLOSE)
    torch.testing.assert_close(encoder.OV.AB, encoder.W_V @ encoder.W_O, **CLOSE)
    assert torch.equal(encoder.W_E_pos, torch.cat([encoder.W_E, encoder.W_pos]))
    assert encoder.config is encoder.cfg and encoder.mlm_head is encoder.read_out


def test_parameters_by_transformer_lens_names_are_the_weights_and_all_of_them(encoder):
    named = encoder.tl_parameters()
    assert torch.equal(named["blocks.1.attn.W_Q"], encoder.W_Q[1])
    assert torch.equal(named["blocks.0.mlp.b_in"], encoder.b_in[0])
    inside = {parameter.data_ptr() for parameter in named.values()}
    left_out = [name for name, parameter in encoder.named_parameters() if parameter.data_ptr() not in inside]
    assert set(left_out) <= {"embed.position.weight"}  # whose first rows belong to padding
    # `W_U` multiplies what the head gives; SVDInterpreter needs that as wide as the stream.
    for layer in range(encoder.cfg.n_layers if len(encoder.W_U) == encoder.cfg.d_model else 0):
        with torch.no_grad():
            vectors = SVDInterpreter(encoder).get_singular_vectors("w_out", layer, num_vectors=3)
            _, _, v = torch.linalg.svd(encoder.W_out[layer])
        torch.testing.assert_close(vectors[:, 0].abs(), (encoder.W_U.T @ v[:3].T).abs(), rtol=1e-6, atol=1e-6)
        assert SVDInterpreter(encoder).get_singular_vectors("OV", layer, 3, head_index=1).shape == (53, 1, 3)


def test_tables_of_the_embedding_go_by_transformer_lens_names(encoder):
    assert encoder.embed.embed.W_E is encoder.W_E
    if encoder.embed.position is not None:
        assert torch.equal(encoder.embed.pos_embed.W_pos, encoder.W_pos) and len(encoder.W_pos) == encoder.cfg.n_ctx
    if encoder.embed.token_type is not None:
        assert encoder.embed.token_type_embed.W_token_type is encoder.embed.token_type.weight


def test_every_parameter_can_start_anew(encoder):
    fresh = reinitialized(encoder, seed=3)
    same = [
        name
        for (name, old), new in zip(encoder.named_parameters(), fresh.parameters(), strict=True)
        if torch.equal(old, new) and bool(old.any())  # a bias that a checkpoint has not is zeros
    ]
    assert same == [] and fresh(torch.tensor([[5, 7, 2]])).isfinite().all()


def test_an_encoder_of_ones_own_takes_its_size_from_a_tokenizer(tmp_path, roberta_tokenizer):
    sizes = {"n_layers": 1, "d_model": 8, "d_head": 4, "n_ctx": 16, "act_fn": "gelu"}
    encoder = HookedEncoder(EncoderConfig(**sizes), roberta_tokenizer)
    assert encoder.cfg.d_vocab == len(roberta_tokenizer) == encoder.W_E.shape[0]
    roberta_tokenizer.save_pretrained(tmp_path)
    named = HookedEncoder(EncoderConfig(**sizes, tokenizer_name=str(tmp_path)))
    assert named.cfg.d_vocab == encoder.cfg.d_vocab and named.to_str_tokens(" great")[1] == " great"
    with pytest.raises(ValueError, match=r"`cfg.d_vocab` is -1"):
        HookedEncoder(EncoderConfig(**sizes))


def test_where_the_tokenizer_lay_is_not_saved(tmp_path, tiny_model):
    tiny_model.cfg.tokenizer_name = "/somewhere/else"
    ask_for_all(tiny_model)
    assert "/somewhere" not in (tiny_model.save(tmp_path / "saved") / "encoder.json").read_text()
    read = HookedEncoder.from_pretrained(tmp_path / "saved")
    assert not read.cfg.use_attn_result and read.cfg.tokenizer_name == str(tmp_path / "saved")


def test_predictions_are_the_likeliest_words_at_the_masks(tiny_model):
    texts = [" a<mask> film", " the<mask> is<mask>"]
    tokens = tiny_model.to_tokens(texts)
    logits = tiny_model(texts)
    expected = [tiny_model.to_string(logits[i, j].argmax()) for i, j in (tokens == 4).nonzero().tolist()]
    assert tiny_model(texts, return_type="predictions") == expected and len(expected) == 3
    assert tiny_model(texts[0], return_type="predictions") == expected[0]
    assert tiny_model(tokens[:1, :5], return_type="predictions") == expected[0]
    seen = []
    with tiny_model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: seen.append(1))]):
        assert tiny_model(texts, return_type=None) is None and seen == [1]
    with pytest.raises(ValueError, match=r"there is none. Put '<mask>'"):
        tiny_model(" a film", return_type="predictions")
    with pytest.raises(ValueError, match=r"these are \(1, 400\)|these are \(1, \d+\)"):
        tiny_model(texts[0], return_type="predictions", logits_at=0)
    with pytest.raises(ValueError, match="not 'loss'"):
        tiny_model(texts, return_type="loss")


def test_transformer_lens_names_of_arguments_work(build_hf, tmp_path, roberta_tokenizer, hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    assert torch.equal(encoder(tokens, one_zero_attention_mask=mask), encoder(tokens, mask))
    with pytest.raises(ValueError, match="by another name"):
        encoder(tokens, mask, one_zero_attention_mask=mask)
    model = build_hf("roberta", vocab_size=len(roberta_tokenizer))
    with pytest.warns(DeprecationWarning, match=r"HookedEncoder.from_hf\(hf_model, tokenizer\)"):
        one = HookedEncoder.from_pretrained("any name", hf_model=model, tokenizer=roberta_tokenizer)
    other = HookedEncoder.from_hf(model, roberta_tokenizer)
    assert one.fingerprint() == other.fingerprint() and one.cfg.source == "any name"
    half = HookedEncoder.from_pretrained(other.save(tmp_path), torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_next_sentences_are_told_as_hugging_face_tells_them(build_hf, bert_tokenizer):
    model = build_hf("bert-pretraining", torch.float64, vocab_size=len(bert_tokenizer))
    follows = NextSentencePrediction(HookedEncoder.from_hf(model, bert_tokenizer))
    texts = ("a lovely film", "the story")
    encoded = bert_tokenizer(*texts, return_tensors="pt", return_token_type_ids=True)
    expected = model(**encoded).seq_relationship_logits
    torch.testing.assert_close(follows(texts), expected, **CLOSE)
    logits, cache = follows.run_with_cache(texts)
    torch.testing.assert_close(logits, expected, **CLOSE)
    assert torch.equal(cache["nsp_head.hook_nsp_out"], logits) and "pooler.hook_pooler_out" in cache
    with pytest.raises(ValueError, match="exactly two sentences, but there are 3"):
        follows(("a", "b", "c"))
    with pytest.raises(ValueError, match="without specifying token_type_ids"):
        follows(encoded["input_ids"])
    with pytest.raises(ValueError, match=r"\(BertForMaskedLM\) lacks them"):
        NextSentencePrediction(HookedEncoder.from_hf(build_hf("bert")))


# Optional hooks


def test_what_is_not_asked_for_has_no_name_and_says_how_to_ask(hf_model, encoder):
    names = set(encoder.hook_dict)
    assert not [name for name in names if name.endswith((*OPTIONAL, "hook_mlp_in"))]
    for name in ("blocks.0.attn.hook_result", "blocks.1.hook_q_input", "blocks.0.hook_mlp_in"):
        with pytest.raises(ValueError, match=rf"{name}.*Call model.set_use_\w+\(True\)"):
            encoder.add_hook(name, lambda x, hook: x)
    ask_for_all(encoder)
    more = set(encoder.hook_dict) - names
    assert more == {f"blocks.{i}.attn.{name}" for i in range(encoder.cfg.n_layers) for name in OPTIONAL} | {
        f"blocks.{i}.hook_mlp_in" for i in range(encoder.cfg.n_layers)
    }
    encoder.add_hook("blocks.0.attn.hook_result", lambda x, hook: x * 0)
    encoder.set_use_attn_result(False)
    encoder.reset_hooks()
    encoder.set_use_attn_result(True)
    assert not encoder.hook_dict["blocks.0.attn.hook_result"].has_hooks()
    with pytest.raises(ValueError, match="hook_attn_in"):
        encoder.set_use_attn_in(True)


def test_hooks_that_only_look_change_no_bit(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    ask_for_all(encoder)
    names = [name for name in encoder.hook_dict if "hook_pattern" not in name and "attn_scores" not in name]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            plain = encoder(tokens, mask)
            seen, cache = encoder.run_with_cache(tokens, mask, names_filter=names)
        assert torch.equal(plain, seen) and set(cache) == set(names)
    norms = [name for name in names if name.endswith(("hook_scale", "hook_normalized"))]
    cfg, expected = encoder.cfg, 2 * encoder.cfg.n_layers - (not encoder.cfg.first_norm)
    assert len(norms) == 2 * (expected + cfg.embed_norm + cfg.pre_norm + (cfg.read_out == "mlm"))
    assert torch.equal(encoder.run_with_cache(tokens, mask, names_filter=norms)[0], encoder(tokens, mask))


def test_optional_hooks_have_what_they_say(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    with torch.no_grad():
        _, cache = ask_for_all(encoder).run_with_cache(tokens, mask)
    for layer, block in enumerate(encoder.blocks):
        torch.testing.assert_close(cache["result", layer].sum(2) + block.attn.b_O, cache["attn_out", layer], **CLOSE)
        attn_reads, mlp_reads = reads(encoder, cache, layer)
        for kind in "qkv":
            assert torch.equal(cache[f"{kind}_input", layer][:, :, 1], attn_reads)
        mid, name = cache["resid_mid", layer], "ln2" if encoder.cfg.pre_norm else "ln1"
        torch.testing.assert_close(
            cache["scale", layer, name], (mid.var(-1, keepdim=True, unbiased=False) + encoder.cfg.eps).sqrt(), **CLOSE
        )
        norm = getattr(block, name)
        torch.testing.assert_close(cache["normalized", layer, name] * norm.weight + norm.bias, mlp_reads, **CLOSE)
        assert torch.equal(cache["mlp_in", layer], mid if encoder.cfg.pre_norm else mlp_reads)
    assert torch.equal(cache["embed.hook_embed"], cache["hook_embed"]) and "embed.hook_pos_embed" in cache
    if encoder.cfg.read_out == "mlm":
        assert "mlm_head.ln.hook_normalized" in cache


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", "qkv")
def test_a_heads_own_input_is_changed_for_that_head_alone(build_hf, mode, in_place, kind):
    model = build_hf("bert", torch.float64)
    encoder = ask_for_all(HookedEncoder.from_hf(model))
    tokens, mask = batch_of(model)

    def shift(copies, hook):
        changed = copies if in_place else copies.clone()
        changed[:, :, 1] += torch.arange(16)
        return None if in_place else changed

    with mode(), torch.no_grad() if in_place else mode():
        _, plain = encoder.run_with_cache(tokens, mask)
        with encoder.hooks(fwd_hooks=[(f"blocks.1.hook_{kind}_input", shift)]):
            _, cache = encoder.run_with_cache(tokens, mask)
    torch.testing.assert_close(cache[kind, 1][:, :, 0], plain[kind, 1][:, :, 0], **CLOSE)
    weight, bias = getattr(encoder, f"W_{kind.upper()}")[1, 1], getattr(encoder, f"b_{kind.upper()}")[1, 1]
    expected = (plain["resid_pre", 1] + torch.arange(16)) @ weight + bias
    torch.testing.assert_close(cache[kind, 1][:, :, 1], expected, **CLOSE)


def test_changed_results_scales_and_inputs_of_the_mlp_reach_the_rest(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    ask_for_all(encoder)
    _, plain = encoder.run_with_cache(tokens, mask)

    def without_head_0(result, hook):
        return result * torch.tensor([0.0, 1.0], dtype=result.dtype)[:, None]

    with encoder.hooks(fwd_hooks=[("blocks.0.attn.hook_result", without_head_0)]):
        _, cache = encoder.run_with_cache(tokens, mask)
    plain.compute_head_results()
    expected = plain["result", 0][:, :, 1] + encoder.b_O[0]
    torch.testing.assert_close(cache["attn_out", 0], expected, **CLOSE)
    cfg, block = encoder.cfg, encoder.blocks[0]
    pre = block.mlp.gate if cfg.gated_mlp else block.mlp.input
    b_in = pre.bias
    name = "ln2" if cfg.pre_norm else "ln1"  # the norm that the MLP reads
    for point in ("hook_scale", "hook_normalized"):
        with encoder.hooks(fwd_hooks=[(f"blocks.0.{name}.{point}", lambda x, hook: x * 2)]):
            _, cache = encoder.run_with_cache(tokens, mask)
        before = plain["normalized", 0, name] * (0.5 if point == "hook_scale" else 2)
        expected = before * getattr(block, name).weight + getattr(block, name).bias
        torch.testing.assert_close(cache["pre", 0], pre(expected), **CLOSE)
    with encoder.hooks(fwd_hooks=[("blocks.0.hook_mlp_in", lambda x, hook: x * 0)]):
        _, cache = encoder.run_with_cache(tokens, mask)
    assert torch.equal(cache["resid_mid", 0], plain["resid_mid", 0])
    read = block.ln2.bias @ pre.weight.T if cfg.pre_norm else 0  # of nothing, normalized
    torch.testing.assert_close(cache["pre", 0], (read + b_in).expand_as(cache["pre", 0]), **CLOSE)
    mid = plain["resid_mid", 0] if cfg.pre_norm else plain["blocks.0.hook_normalized_resid_mid"]
    torch.testing.assert_close(cache["resid_post", 0], mid + cache["mlp_out", 0], **CLOSE)


def test_gradients_pass_the_optional_points(build_hf):
    model = build_hf("roberta", torch.float64)
    encoder = ask_for_all(HookedEncoder.from_hf(model))
    tokens, mask = batch_of(model)
    seen = {}
    names = [f"blocks.0.attn.{name}" for name in OPTIONAL] + ["blocks.0.hook_mlp_in", "blocks.0.ln1.hook_scale"]
    names += ["blocks.0.hook_resid_pre", "blocks.0.hook_attn_out"]

    def keep(gradient, hook):
        seen[hook.name] = gradient

    with encoder.hooks(bwd_hooks=[(name, keep) for name in names]):
        encoder(tokens, mask)[..., 7].sum().backward()
    assert set(seen) == set(names)
    results = seen["blocks.0.attn.hook_result"]
    torch.testing.assert_close(results[:, :, 0], seen["blocks.0.hook_attn_out"], **CLOSE)
    through_heads = sum(seen[f"blocks.0.attn.hook_{kind}_input"].sum(2) for kind in "qkv")
    # The stream's gradient is what comes back through the heads and past them.
    torch.testing.assert_close(seen["blocks.0.hook_resid_pre"], through_heads + results[:, :, 0], **CLOSE)


def test_an_unknown_name_lists_the_nearest_wherever_it_is_given(encoder):
    for call in (lambda name: encoder.add_hook(name, print), lambda name: encoder.add_perma_hook(name, print)):
        with pytest.raises(ValueError, match=r"no hook point 'nope'. Nearest: \w"):
            call("nope")
        with pytest.raises(ValueError, match=r"'blocks.0.mlp.hook_pots'.*blocks.0.mlp.hook_post"):
            call("blocks.0.mlp.hook_pots")


# Tools


SWEEPS = [name for name in dir(patching) if name.startswith("get_act_patch") and "direct_path" not in name]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_patching_sweep_runs_on_padded_batches_under_a_bound_mask(build_hf, name):
    model = build_hf("bert", torch.float64)
    encoder = HookedEncoder.from_hf(model)
    (clean, mask), (corrupted, _) = batch_of(model), batch_of(model, seed=1)
    _, cache = encoder.run_with_cache(clean, mask)

    def metric(logits):
        return logits[:, 1, 7].mean()

    with encoder.masked(mask), torch.no_grad():
        result = getattr(patching, name)(encoder, corrupted, cache, metric)
        base = float(metric(encoder(corrupted)))
    assert result.isfinite().all() and not torch.allclose(result, torch.full_like(result, base))
    assert encoder.bound_mask is None
    if name == "get_act_patch_resid_pre":
        # Every position's stream entering block 0 but one: by hand.
        def patch(resid, hook):
            return torch.cat([resid[:, :2], cache[hook.name][:, 2:3], resid[:, 3:]], 1)

        with encoder.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", patch)]):
            by_hand = metric(encoder(corrupted, mask))
        torch.testing.assert_close(result[0, 2].double(), by_hand.detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no `attention_mask`"):
        getattr(patching, name)(encoder, corrupted, cache, metric)


def test_a_bound_mask_is_of_the_same_shape_and_gives_way_to_another(hf_model, encoder):
    tokens, mask = batch_of(hf_model)
    expected = encoder(tokens, mask)
    full = torch.ones_like(mask)
    with encoder.masked(mask):
        assert torch.equal(encoder(tokens), expected)
        assert torch.equal(encoder(tokens, full), encoder(tokens, full)) and not torch.equal(
            encoder(tokens, full), expected
        )
        with pytest.raises(ValueError, match=r"\(2, 7\), but has \(3, 7\)"):
            encoder(tokens[:2])
        with pytest.raises(RuntimeError), encoder.masked(full):
            raise RuntimeError
        assert torch.equal(encoder(tokens), expected)
    assert encoder.bound_mask is None


def test_edges_between_heads_are_refused_since_norms_lie_between(build_hf):
    model = build_hf("bert", torch.float64)
    encoder = HookedEncoder.from_hf(model)
    tokens = torch.tensor([[5, 7, 11, 2]])
    _, cache = encoder.run_with_cache(tokens)
    with pytest.raises(ValueError, match=r"hook_attn_out reads ln1.hook_normalized, after the head sum"):
        patching.get_act_patch_direct_path(encoder, tokens, cache, cache, lambda x: x.sum(), src_layer=0, src_head=0)


def test_attribution_of_nodes_is_the_slope_of_patching_them(build_hf):
    model = build_hf("bert", torch.float64)
    encoder = HookedEncoder.from_hf(model)
    clean, corrupted = torch.tensor([[5, 7, 11, 6]]), torch.tensor([[5, 7, 12, 6]])

    def metric(logits):
        return logits[:, 1, 7].sum()

    scores = attribution_patch(encoder, clean, corrupted, metric, EdgeAttributionConfig(granularity="node")).node_scores
    _, cache = encoder.run_with_cache(clean)
    assert len(scores) >= 2 * encoder.cfg.n_layers
    step = 1e-5  # of the way to the clean activation
    for layer in range(encoder.cfg.n_layers):
        name = f"blocks.{layer}.hook_mlp_out"
        hook = (name, lambda x, hook: x + step * (cache[hook.name] - x))
        moved = metric(encoder.run_with_hooks(corrupted, fwd_hooks=[hook])) - metric(encoder(corrupted))
        score = sum(float(score) for node, score in scores.items() if (node.kind, node.layer) == ("mlp_out", layer))
        assert abs(float(moved.detach()) / step - score) < 1e-3 * (1 + abs(score))


def test_the_table_of_names_says_which_tensor_a_bridge_gives_under_each(tiny_bert, tmp_path):
    rows = re.findall(r"^\| `([\w.]+)` \| .* \| .* \| `([\w.]+)` \|$", MIGRATING.read_text(), flags=re.MULTILINE)
    assert len(rows) == 6
    tiny_bert.to_hf().save_pretrained(tmp_path)
    tiny_bert.tokenizer.save_pretrained(tmp_path)
    tokens = torch.tensor([[5, 7, 11, 6, 9]])
    _, bridged = TransformerBridge.boot_transformers(str(tmp_path), device="cpu").run_with_cache(tokens)
    with torch.no_grad():
        _, ours = ask_for_all(tiny_bert).run_with_cache(tokens)
    for name, here in rows:
        torch.testing.assert_close(bridged[name], ours[here], rtol=1e-4, atol=1e-4)
        assert name == here or not torch.allclose(bridged[name], ours[name], rtol=1e-2, atol=1e-2), name
    # And of all names that both have, there are no others.
    differ = {
        name
        for name in set(bridged) & set(ours)
        if name.startswith(("hook_", "blocks.0."))
        and not torch.allclose(bridged[name], ours[name], rtol=1e-3, atol=1e-3)
    }
    assert differ == {name for name, here in rows if name != here}


def test_heads_are_detected_by_products_while_differences_ask_for_causal_attention(tiny_model):
    text = " a lovely film"
    scores = detect_head(tiny_model, text, "previous_token_head", exclude_bos=False, error_measure="mul")
    _, cache = tiny_model.run_with_cache(text)
    for layer in range(2):
        share = cache["pattern", layer][0].diagonal(-1, dim1=-2, dim2=-1).sum(-1) / 5
        torch.testing.assert_close(scores[layer], share.detach())
    with pytest.raises(AssertionError):
        detect_head(tiny_model, text, "previous_token_head", exclude_bos=False, error_measure="abs")
