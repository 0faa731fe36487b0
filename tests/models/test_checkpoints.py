"""Checkpoints on disk and in memory: what goes in comes out, and what should be refused is refused by name."""

import json
from collections import Counter

import pytest
import torch
import transformers

from skillneurons.models.checkpoints import ARCHITECTURES, weight_names
from skillneurons.models.encoder import HookedEncoder

TOKENS = torch.tensor([[5, 7, 11, 2]])


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same_weights(ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_every_architecture_is_given_back_weight_for_weight(hf_model, encoder):
    back = encoder.to_hf()
    assert type(back) is type(hf_model) and back.dtype == torch.float64 and not back.training
    assert same_weights(back, hf_model) == []
    torch.testing.assert_close(back(TOKENS)[0], hf_model(TOKENS)[0])  # fused attention rounds otherwise
    assert HookedEncoder.from_hf(back).fingerprint() == encoder.fingerprint()


def test_a_pooler_is_kept_and_one_that_is_not_there_is_not_made_up(build_hf):
    with_pooler = build_hf("bert-headless")
    back = HookedEncoder.from_hf(with_pooler).to_hf()
    assert torch.equal(back.pooler.dense.weight, with_pooler.pooler.dense.weight)
    without = transformers.BertModel(with_pooler.config, add_pooling_layer=False)
    assert HookedEncoder.from_hf(without).to_hf().pooler is None


def test_what_is_given_back_is_a_copy(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("roberta"))
    before = encoder.fingerprint()
    with torch.no_grad():
        for parameter in encoder.to_hf().parameters():
            parameter.zero_()
    assert encoder.fingerprint() == before


def test_every_parameter_has_a_name_at_hugging_face(encoder):
    assert set(weight_names(encoder.cfg)) == {name for name, _ in encoder.named_parameters()}
    shared = {name for name, n in Counter(weight_names(encoder.cfg).values()).items() if n > 1}
    assert all(name.split(".")[-2] in ("Wqkv", "Wi") for name in shared)  # ModernBERT's, of which ours are parts


def test_a_saved_folder_loads_as_the_same_model(hf_model, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hf_model.save_pretrained(tmp_path)
    loaded = HookedEncoder.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.fingerprint() == encoder.fingerprint()
    assert loaded.cfg.source == str(tmp_path) and loaded.tokenizer is None
    assert torch.equal(loaded(TOKENS), encoder(TOKENS))


def test_the_tokenizer_comes_from_the_folder(tiny_model, tiny_bert, tmp_path):
    for model in (tiny_model, tiny_bert):
        folder = tmp_path / model.cfg.hf_class
        model.to_hf().save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        loaded = HookedEncoder.from_pretrained(folder)
        text = " a lovely film"
        assert torch.equal(loaded.to_tokens(text), model.to_tokens(text))
        assert torch.equal(loaded(loaded.to_tokens(text)), model(model.to_tokens(text)))


def test_another_models_tokenizer_is_refused(tiny_model, tiny_bert, tmp_path):
    tiny_model.to_hf().save_pretrained(tmp_path)
    tiny_bert.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pads with id 0, but the model with 1\."):
        HookedEncoder.from_pretrained(tmp_path)


def test_a_folder_of_shards_loads_as_the_same_model(build_hf, tmp_path):
    model = build_hf("roberta")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert HookedEncoder.from_pretrained(tmp_path).fingerprint() == HookedEncoder.from_hf(model).fingerprint()


def test_float16_weights_load_and_can_be_widened(build_hf, tmp_path):
    half = build_hf("bert", torch.float16)
    half.save_pretrained(tmp_path)
    wide = HookedEncoder.from_pretrained(tmp_path)
    assert wide.dtype == wide.cfg.dtype == torch.float32
    assert torch.equal(wide.W_in[1], half.bert.encoder.layer[1].intermediate.dense.weight.T.float())
    narrow = HookedEncoder.from_pretrained(tmp_path, dtype=torch.float16)
    assert narrow.cfg.dtype == torch.float16 and same_weights(narrow.to_hf(), half) == []


@pytest.mark.parametrize("model_type", ["roberta", "planted"])
def test_a_checkpoints_own_code_is_refused_and_never_run(build_hf, tmp_path, model_type):
    build_hf("roberta").save_pretrained(tmp_path)
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    classes = {"AutoConfig": "planted.Config", "AutoModelForMaskedLM": "planted.Model"}
    edit_config(tmp_path, auto_map=classes, model_type=model_type)
    with pytest.raises(ValueError, match=f"{tmp_path.name}' asks to run code of its own"):
        HookedEncoder.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizers_own_code_is_never_run(tiny_model, tmp_path):
    tiny_model.to_hf().save_pretrained(tmp_path)
    tiny_model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    settings = tmp_path / "tokenizer_config.json"
    planted = {"auto_map": {"AutoTokenizer": ["planted.Tokenizer", None]}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | planted))
    loaded = HookedEncoder.from_pretrained(tmp_path).tokenizer
    assert loaded(" a lovely film")["input_ids"] == tiny_model.tokenizer(" a lovely film")["input_ids"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(build_hf, bad):
    model = build_hf("roberta")
    with torch.no_grad():
        model.roberta.encoder.layer[1].output.dense.weight[3, 5] = bad
    with pytest.raises(ValueError, match=r"NaN or infinite: roberta\.encoder\.layer\.1\.output\.dense\.weight\.$"):
        HookedEncoder.from_hf(model)


def test_other_architectures_are_refused_by_name(build_hf, tmp_path):
    config = build_hf("roberta").config
    classifier = transformers.RobertaForQuestionAnswering(config)
    with pytest.raises(ValueError, match=r"is a RobertaForQuestionAnswering\. .* `transformers\.RobertaModel\."):
        HookedEncoder.from_hf(classifier)
    classifier.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a RobertaForQuestionAnswering\. .*`load_model`"):
        HookedEncoder.from_pretrained(tmp_path)
    edit_config(tmp_path, architectures=None)
    with pytest.raises(ValueError, match=r"holds a \(none\)"):
        HookedEncoder.from_pretrained(tmp_path)


def test_decoders_and_relative_positions_are_refused(build_hf):
    with pytest.raises(ValueError, match="is_decoder=True"):
        HookedEncoder.from_hf(build_hf("roberta", is_decoder=True))
    model = build_hf("bert")
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(ValueError, match="'relative_key'"):
        HookedEncoder.from_hf(model)


HEADED = {"mpnet": "MPNetForMaskedLM", "roberta": "RobertaForMaskedLM", "distilbert": "DistilBertForMaskedLM"}
HEADED |= {"electra": "ElectraForMaskedLM", "ernie": "ErnieForMaskedLM", "data2vec": "Data2VecTextForMaskedLM"}
HEADED |= {"deberta": "DebertaV2ForMaskedLM", "esm": "EsmForMaskedLM", "modernbert": "ModernBertForMaskedLM"}


@pytest.mark.parametrize(("headless", "named"), HEADED.items())
def test_a_checkpoint_without_its_head_is_read_out_by_its_words_and_says_so(build_hf, tmp_path, named, headless):
    base = build_hf(f"{headless}-headless")
    base.save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=[named])
    with pytest.warns(UserWarning, match=f"says it is a {named} but has no weights of its head.*'tied'"):
        encoder = HookedEncoder.from_pretrained(tmp_path)
    assert encoder.cfg.read_out == "tied" and encoder.fingerprint() == HookedEncoder.from_hf(base).fingerprint()


def test_a_checkpoint_that_lacks_a_part_of_its_head_is_refused(build_hf, tmp_path):
    model = build_hf("mpnet")
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.dense.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"says it is a MPNetForMaskedLM but lacks 1 of its weights, 'lm_head.dense"):
        HookedEncoder.from_pretrained(tmp_path)


def test_an_mpnet_that_hugging_face_itself_runs_otherwise_than_it_says_is_refused(build_hf):
    with pytest.raises(ValueError, match=r"by padding id 1, but this model pads with 3\."):
        HookedEncoder.from_hf(build_hf("mpnet", pad_token_id=3))
    with pytest.raises(ValueError, match="32 buckets, but this model's table has 31"):
        HookedEncoder.from_hf(build_hf("mpnet", relative_attention_num_buckets=31))


def test_parts_that_an_encoder_lacks_are_refused_by_name(build_hf):
    with pytest.raises(ValueError, match=r"ErnieForMaskedLM that adds a task's vector .*`use_task_id`"):
        HookedEncoder.from_hf(build_hf("ernie", use_task_id=True))


def test_rotary_positions_that_are_scaled_and_masks_without_an_id_are_refused(build_hf):
    with pytest.raises(ValueError, match=r"`mask_token_id`, whose embedding it leaves out, .* has None"):
        HookedEncoder.from_hf(build_hf("esm", mask_token_id=None))
    with pytest.raises(ValueError, match="Positions must be absolute, but this model's are 'rotary'"):
        HookedEncoder.from_hf(build_hf("esm", position_embedding_type="rotary"))
    model = build_hf("modernbert")
    model.config.rope_parameters["full_attention"]["rope_type"] = "linear"
    with pytest.raises(ValueError, match="scales them by 'linear'"):
        HookedEncoder.from_hf(model)


def test_windows_and_angles_are_those_of_the_configuration(build_hf):
    angles = {kind: {"rope_type": "default", "rope_theta": 100.0} for kind in ("full_attention", "sliding_attention")}
    first = HookedEncoder.from_hf(build_hf("modernbert"))
    assert first.cfg.rotary_bases == (160000.0, 10000.0, 160000.0) and first.cfg.windows == (0, 2, 0)
    wider = HookedEncoder.from_hf(build_hf("modernbert", local_attention=8))
    turned = HookedEncoder.from_hf(build_hf("modernbert", rope_parameters=angles))
    assert wider.cfg.windows == (0, 4, 0) and turned.cfg.rotary_bases == (100.0,) * 3
    assert len({first.fingerprint(), wider.fingerprint(), turned.fingerprint()}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_kernel_size": 3}, r"a convolution beside its first block \(`conv_kernel_size`\)"),
        ({"embedding_size": 8}, "embeddings of another width"),
        ({"attention_head_size": 4}, "heads of another width"),
        ({"relative_attention": False}, "`pos_att_type` without `relative_attention`"),
    ],
)
def test_what_a_deberta_may_have_and_no_encoder_has_is_refused(build_hf, change, message):
    with pytest.raises(ValueError, match=f"This DeBERTa has {message}"):
        HookedEncoder.from_hf(build_hf("deberta", **change))


def test_biases_that_pruning_makes_are_asked_for(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("modernbert"))
    assert not encoder.to_hf().config.mlp_bias
    with torch.no_grad():
        encoder.blocks[1].mlp.output.bias += 0.5
    back = encoder.to_hf()
    assert back.config.mlp_bias and not back.config.attention_bias
    assert HookedEncoder.from_hf(back).b_out[1].tolist() == [0.5] * 16


def test_a_distilbert_that_was_changed_in_place_is_refused(build_hf):
    model = build_hf("distilbert")
    model.distilbert.transformer.layer[1].ffn.activation = torch.nn.ReLU()
    with pytest.raises(ValueError, match=r"`distilbert\.transformer\.layer\.1\.ffn\.activation`.* is ReLU"):
        HookedEncoder.from_hf(model)


def test_a_missing_folder_says_what_can_be_passed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for location in (tmp_path / "nothing", tmp_path, "no-such-owner/no-such-model"):
        with pytest.raises(FileNotFoundError, match=f"{location}'.*'bundled'"):
            HookedEncoder.from_pretrained(location)


def test_layers_of_different_width_cannot_go_to_hugging_face(build_hf):
    encoder = HookedEncoder.from_hf(build_hf("roberta"))
    encoder.cfg.d_mlps = (29, 23)
    with pytest.raises(ValueError, match=r"\(29, 23\)"):
        encoder.to_hf()


def test_the_supported_architectures_are_those_of_transformers():
    assert all(hasattr(transformers, name) for name in ARCHITECTURES)
