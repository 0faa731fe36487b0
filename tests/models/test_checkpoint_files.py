"""Files of checkpoints: weights without a place are named, and damaged files end in one line that says which."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from skillneurons import HookedEncoder, load_model
from skillneurons.models.checkpoint_files import short
from skillneurons.utilities.devices import check_device

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add_weights(folder, without=(), **tensors):
    path = folder / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if name not in without} | tensors
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def folder(build_hf, tmp_path):
    """A function: a folder with a model of this architecture."""

    def make(architecture="roberta", **changes):
        build_hf(architecture, **changes).save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return make


@pytest.mark.parametrize("architecture", ["roberta", "bert", "mpnet", "bert-headless", "roberta-headless", "camembert"])
def test_layers_beyond_the_configuration_are_refused(folder, architecture):
    path = folder(architecture, num_hidden_layers=3)
    edit_config(path, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"has weights of 3 layers, but its config\.json says 1"):
        HookedEncoder.from_pretrained(path)


@pytest.mark.parametrize("architecture", ["modernbert", "modernbert-headless"])
def test_layers_of_modernbert_beyond_the_configuration_are_refused(folder, architecture):
    path = folder(architecture, num_hidden_layers=3)
    edit_config(path, num_hidden_layers=1, layer_types=["full_attention"])
    with pytest.raises(ValueError, match=r"has weights of 3 layers, but its config\.json says 1"):
        HookedEncoder.from_pretrained(path)


@pytest.mark.parametrize(
    ("architecture", "base"), [("roberta", "RobertaModel"), ("bert", "BertModel"), ("mpnet", "MPNetModel")]
)
def test_a_base_class_named_for_a_file_with_a_head_is_refused(folder, architecture, base):
    path = folder(architecture)
    edit_config(path, architectures=[base])
    with pytest.raises(ValueError, match=rf"read as a {base}, .* has [57] weights of a head .*'(lm_head|cls)\."):
        HookedEncoder.from_pretrained(path)


@pytest.mark.parametrize("name", ["classifier.dense.weight", "qa_outputs.bias", "classifier.weight"])
def test_another_head_in_the_file_is_refused(folder, name):
    path = folder()
    add_weights(path, **{name: torch.zeros(3)})
    with pytest.raises(ValueError, match=f"1 weights of a head .*'{name}'"):
        HookedEncoder.from_pretrained(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roberta.encoder.layer.0.attention.self.query.lora_A.default.weight", "a PEFT adapter"),
        ("roberta.encoder.layer.1.output.adapters.task.down.weight", "an adapter beside its layers"),
        ("roberta.encoder.layer.1.output.dense.weight_mask", "a pruning mask"),
        ("roberta.encoder.layer.0.attention.self.distance_embedding.weight", "no place for 1 weights of its encoder"),
        ("roberta.encoder.relative_attention_bias.weight", "no place for 1 weights of its encoder"),
        ("roberta.embeddings.embed_proj.weight", "no place for 1 weights of its encoder"),
    ],
)
def test_parts_of_the_encoder_without_a_place_are_refused(folder, name, message):
    path = folder()
    add_weights(path, **{name: torch.zeros(3)})
    with pytest.raises(ValueError, match=message) as caught:
        HookedEncoder.from_pretrained(path)
    assert name in str(caught.value)


def test_an_adapter_stored_beside_a_model_is_refused(folder):
    path = folder()
    (path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x", "r": 2}')
    for load in (HookedEncoder.from_pretrained, load_model):
        with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\)"):
            load(path)


@pytest.mark.parametrize("prefix", ["roberta.", "bert."])
def test_what_no_masked_language_model_uses_is_left_out_in_silence(folder, prefix):
    path = folder(prefix[:-1])
    before = HookedEncoder.from_pretrained(path).fingerprint()
    tensors = {"embeddings.position_ids": torch.arange(41)[None], "pooler.dense.weight": torch.zeros(16, 16)}
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    add_weights(path, **tensors, **{"cls.seq_relationship.weight": torch.zeros(2, 16)})
    assert HookedEncoder.from_pretrained(path).fingerprint() == before


def test_weights_of_no_known_use_are_named_in_a_warning(folder):
    path = folder()
    before = HookedEncoder.from_pretrained(path).fingerprint()
    add_weights(path, log_temperature=torch.zeros(1))
    with pytest.warns(UserWarning, match="no use for 1 of its weights: log_temperature"):
        assert HookedEncoder.from_pretrained(path).fingerprint() == before


@pytest.mark.parametrize("architecture", ["roberta-headless", "bert-headless", "mpnet-headless"])
def test_a_pooler_that_the_file_lacks_is_not_given_back(folder, architecture):
    path = folder(architecture)
    assert any("pooler" in name for name in HookedEncoder.from_pretrained(path).unused_weights)
    add_weights(path, without={"pooler.dense.weight", "pooler.dense.bias"})
    encoder = HookedEncoder.from_pretrained(path)
    assert encoder.unused_weights == {} and encoder.to_hf().pooler is None


def test_half_a_pooler_and_none_where_one_is_needed_are_refused(folder):
    path = folder("bert-headless")
    add_weights(path, without={"pooler.dense.bias"})
    with pytest.raises(ValueError, match=r"lacks 1 of its weights, 'pooler\.dense\.bias'"):
        HookedEncoder.from_pretrained(path)
    path = folder("bert-pretraining")
    add_weights(path, without={"bert.pooler.dense.weight", "bert.pooler.dense.bias"})
    with pytest.raises(ValueError, match=r"lacks 2 of its weights, 'bert\.pooler\.dense\.bias'"):
        HookedEncoder.from_pretrained(path)


def one_line(path, *errors):
    """The message, the same for both ways to load."""
    messages = []
    for load in (HookedEncoder.from_pretrained, load_model):
        with pytest.raises(errors or ValueError) as caught:
            load(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and len(messages[0]) < 600 and "\n" not in messages[0]
    return messages[0]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_pointers_of_git_lfs_are_told(folder, name):
    path = folder()
    (path / name).write_bytes(POINTER)
    message = one_line(path)
    assert f"{name}' is a pointer of Git LFS" in message and "git lfs pull" in message


@pytest.mark.parametrize("n_bytes", [0, 5, 300, 5000])
def test_truncated_weights_are_told(folder, n_bytes):
    path = folder()
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:n_bytes])
    assert "weights at" in one_line(path) and str(path) in one_line(path)


def test_a_folder_without_weights_is_told(folder):
    path = folder()
    (path / "model.safetensors").unlink()
    assert "No weights of a RobertaForMaskedLM can be read" in one_line(path, FileNotFoundError)


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"vocab_size": 59}, {"intermediate_size": 31}])
def test_weights_of_other_sizes_are_told_with_both(folder, change):
    path = folder()
    edit_config(path, **change)
    message = one_line(path)
    assert "have other sizes than its config.json says" in message and str(next(iter(change.values()))) in message


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"x"', "null", "{}", '{"model_type": "no-such"}', '{"a": 1}'])
def test_a_broken_configuration_is_not_called_absent(folder, content):
    path = folder()
    (path / "config.json").write_text(content)
    message = one_line(path)
    assert "config.json" in message and "No checkpoint" not in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token_id": None}, "needs a `pad_token_id`.*None"),
        ({"hidden_act": "no_such"}, "'no_such' .*which transformers does not know"),
        ({"num_attention_heads": 3}, "16 for 3"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` to be 1 or more, but .* 0"),
        ({"hidden_size": "wide"}, "wide|hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_configurations_that_no_encoder_can_be_made_of_are_told(folder, change, message, architecture):
    path = folder(architecture)
    edit_config(path, **change)
    with pytest.raises(ValueError, match=message):
        HookedEncoder.from_pretrained(path)
    one_line(path)


def test_a_model_in_memory_without_padding_is_told(build_hf):
    model = build_hf("bert")
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="`hf_model`, a BertForMaskedLM, needs a `pad_token_id`"):
        HookedEncoder.from_hf(model)


def test_a_damaged_tokenizer_is_told(tiny_model, tmp_path):
    tiny_model.to_hf().save_pretrained(tmp_path)
    tiny_model.tokenizer.save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text[: len(text) // 2])
    assert "The tokenizer in" in one_line(tmp_path)


def test_what_no_library_can_load_is_told_in_a_short_message(build_hf, tmp_path):
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=["NoSuchForMaskedLM"])
    with pytest.raises(ValueError, match="holds a NoSuchForMaskedLM, of which no HookedEncoder") as caught:
        load_model(tmp_path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("device", ["mps", "mps:0", "meta"])
def test_devices_on_which_nothing_can_be_summed_are_refused(device):
    with pytest.raises(ValueError, match=rf"`device` is '{device}'.*Pass 'cpu'"):
        check_device(device)


def test_a_message_is_cut_to_its_first_line():
    assert short(ValueError("\n one \n two")) == "one" and short(KeyError()) == "KeyError"
    assert len(short(ValueError("x" * 5000))) == 200


def test_a_whole_folder_is_taken(folder, tmp_path):
    path = folder("roberta")
    shutil.copytree(path, tmp_path / "copy")
    assert HookedEncoder.from_pretrained(tmp_path / "copy").fingerprint() == load_model(path).fingerprint()
