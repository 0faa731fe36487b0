"""Fine-tuned classifiers: their encoder and their head are Hugging Face's."""

import pytest
import torch
from conftest import CLASSIFIERS
from test_encoder import batch_of, close_to

from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.class_head import Head, class_head_of

OF_TEXTS = [name for name in CLASSIFIERS if name.endswith("classes")]


def head_of(encoder):
    return class_head_of(encoder.cfg, encoder.unused_weights)


def two_classes(d_model=3, n=2):
    return Head(
        ("no", "yes")[:n], torch.eye(d_model), torch.zeros(d_model), torch.ones(n, d_model), torch.zeros(n), "relu"
    )


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_the_encoder_of_a_classifier_is_hugging_faces_and_its_head_comes_back(build_hf, architecture):
    hf = build_hf(architecture, torch.float64)
    encoder = HookedEncoder.from_hf(hf)
    tokens, mask = batch_of(hf)
    with torch.no_grad():
        streams = hf(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
    ours = encoder.read_out.final(encoder(tokens, mask, stop_at_layer=2))
    torch.testing.assert_close(ours[mask.bool()], streams[-1][mask.bool()], **close_to(hf))
    again, back = hf.state_dict(), encoder.to_hf().state_dict()
    assert again.keys() == back.keys() and all(torch.equal(again[name], back[name]) for name in again)
    assert encoder.cfg.read_out == "tied"


@pytest.mark.parametrize("architecture", OF_TEXTS)
def test_a_head_gives_hugging_faces_logits_on_padded_batches(build_hf, architecture):
    hf = build_hf(architecture, torch.float64)
    encoder = HookedEncoder.from_hf(hf)
    tokens, mask = batch_of(hf)
    with torch.no_grad():
        expected = hf(tokens, attention_mask=mask).logits
    head = head_of(encoder)
    assert head is not None
    torch.testing.assert_close(encoder(tokens, mask, logits_at=0, **head.asks), expected, **close_to(hf))
    assert expected.shape == (len(tokens), len(head.words))
    # Dropout off, and one part of it only.
    torch.testing.assert_close(
        head.of([1, 0])(encoder.read_out.final(encoder(tokens, mask, stop_at_layer=2))[:, 0]),
        expected[:, [1, 0]],
        **close_to(hf),
    )


def test_a_head_of_other_making_is_refused(build_hf):
    hf = build_hf("electra-classes")
    hf.classifier.activation = torch.nn.ReLU()
    with pytest.raises(ValueError, match="first in the head for classes"):
        HookedEncoder.from_hf(hf)


@pytest.mark.parametrize("architecture", ["roberta", "bert-pretraining", "roberta-headless", "bert-tokens"])
def test_models_without_a_head_for_classes_have_none(build_hf, architecture):
    assert head_of(HookedEncoder.from_hf(build_hf(architecture))) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_labels": 1},
            r"\(RobertaForSequenceClassification\) gives 1 number\. .*regression is not what this is for",
        ),
        ({"problem_type": "regression"}, r"gives 3 numbers\. .*regression is not what this is for"),
        ({"problem_type": "multi_label_classification"}, "several labels at once. One row has several labels"),
    ],
)
def test_what_skill_neurons_are_not_for_is_refused_and_the_encoder_taken_all_the_same(build_hf, changes, words):
    encoder = HookedEncoder.from_hf(build_hf("roberta-classes", **changes))
    with pytest.raises(ValueError, match=words):
        head_of(encoder)


def test_classes_are_named_by_the_configuration(build_hf):
    names = {0: "neg", 1: "pos"}
    encoder = HookedEncoder.from_hf(build_hf("bert-classes", id2label=names, label2id={v: k for k, v in names.items()}))
    named, plain = head_of(encoder), head_of(HookedEncoder.from_hf(build_hf("bert-classes")))
    assert named is not None and named.words == ("neg", "pos")
    assert plain is not None and plain.words == ("LABEL_0", "LABEL_1")


def test_a_saved_encoder_keeps_its_head(build_hf, tmp_path):
    encoder = HookedEncoder.from_hf(build_hf("mpnet-classes"))
    again = HookedEncoder.from_pretrained(encoder.save(tmp_path))
    before, after = head_of(encoder), head_of(again)
    assert before is not None and after is not None and after.identity == before.identity


def test_the_identity_is_of_weights_and_what_they_are_used_in_not_of_names():
    head = two_classes()
    same = Head(("a", "b"), head.dense_weight.clone(), head.dense_bias, head.weight, head.bias, "relu")
    assert head.identity == same.identity
    assert head.identity != head.of([1, 0]).identity or torch.equal(head.weight[0], head.weight[1])
    tanh = Head(head.words, head.dense_weight, head.dense_bias, head.weight, head.bias, "tanh")
    other = Head(head.words, head.dense_weight, head.dense_bias + 1e-6, head.weight, head.bias, "relu")
    assert len({head.identity, tanh.identity, other.identity}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"words": ("no",)}, r"needs weights .*\[1, hidden\]"),
        ({"words": ("no", "no")}, "needs to differ from class to class"),
        ({"words": ("no", "yes", "so")}, r"A head for 3 classes"),
        ({"bias": torch.tensor([0.0, torch.nan])}, "NaN or infinite: bias"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(change, words):
    head = two_classes()
    fields = {name: getattr(head, name) for name in ("words", *head.tensor_names(), "act_fn")}
    with pytest.raises(ValueError, match=words):
        Head(**(fields | change))


def test_a_stream_is_read_by_words_or_by_a_head_not_by_both(tiny_model):
    with pytest.raises(ValueError, match="`read_by` reads the stream in place of the words"):
        tiny_model(torch.tensor([[0, 5, 2]]), logits_at=0, logits_for=[5], read_by=two_classes())
