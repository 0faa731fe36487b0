"""What a classifier answers to texts, by name and probability, and what classifiers and models show of themselves."""

import numpy as np
import pytest
import torch
from helpers import unchecked
from transformer_lens.model_bridge import TransformerBridge

from skillneurons import Classifier, Verbalizer, as_classifiable, load_example, random_prompt, zero
from skillneurons.classifiers.answers import Answers
from skillneurons.neurons.neuron_set import NeuronSet

TEXTS = ["a lovely film", "dreadful", "the story was moving and clever"]


def classifier_of(model):
    words = Verbalizer.from_words(model.tokenizer, ["terrible", "great"])
    return Classifier(model, random_prompt(model, 3), words, ("negative", "positive"))


@pytest.fixture
def classifier(tiny_model):
    return classifier_of(tiny_model)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_texts_are_answered_as_rows_with_them_are(classifier, kind, unchecked_types):
    expected = classifier.logits([{"text": text} for text in TEXTS])
    assert torch.equal(classifier.logits(kind(TEXTS)), expected)
    assert torch.equal(classifier.predict(kind(TEXTS)), expected.argmax(1))


def test_pairs_of_texts_are_answered_as_rows_with_them_are(tiny_bert, unchecked_types):
    classifier = classifier_of(tiny_bert)
    expected = classifier.logits([{"text_a": "a film", "text_b": "it was"}, {"text_a": "a", "text_b": "scene"}])
    assert torch.equal(classifier.logits(unchecked([("a film", "it was"), ["a", "scene"]])), expected)
    assert classifier.answers([("a film", "it was")]).texts == ("a film / it was",)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("a film", TypeError, r"one text, 'a film'. Pass \['a film'\]"),
        ([3], TypeError, "there is 3"),
        ([("a", "b", "c")], TypeError, r"there is \('a', 'b', 'c'\)"),
        (["a", ("b", "c")], ValueError, "both are there"),
        ([], ValueError, "empty"),
    ],
)
def test_what_is_no_text_is_refused(classifier, rows, error, message, unchecked_types):
    with pytest.raises(error, match=message):
        classifier.predict(rows)


def test_answers_are_names_and_the_softmax_of_the_label_words(classifier):
    logits = classifier.logits(TEXTS)
    answers = classifier.answers(TEXTS)
    torch.testing.assert_close(answers.probabilities, logits.exp() / logits.exp().sum(1, keepdim=True))
    assert answers.names == tuple(("negative", "positive")[i] for i in logits.argmax(1))
    assert torch.equal(classifier.probabilities(TEXTS), answers.probabilities)
    table = answers.to_dataframe()
    assert table.columns.tolist() == ["text", "answer", "p(negative)", "p(positive)"]
    assert table["text"].tolist() == TEXTS
    assert "text" not in classifier.answers(classifier.encode(TEXTS)).to_dataframe()
    for text, name in zip(TEXTS, answers.names, strict=True):
        line = next(line for line in repr(answers).splitlines() if text in line)
        assert name in line and f"{answers.probabilities.max(1).values[answers.texts.index(text)]:.3f}" in line


def test_answers_come_back_from_disk(classifier, tmp_path):
    answers = classifier.answers(TEXTS)
    loaded = Answers.load(answers.save(tmp_path / "answers"))
    assert loaded.names == answers.names and torch.equal(loaded.probabilities, answers.probabilities)


def test_interventions_change_answers(classifier):
    every = NeuronSet(torch.ones(2, 29, dtype=torch.bool))
    changed = classifier.answers(TEXTS, zero(every))
    torch.testing.assert_close(changed.probabilities, classifier.logits(TEXTS, zero(every)).softmax(1))
    assert not torch.equal(changed.probabilities, classifier.answers(TEXTS).probabilities)


def test_a_classifier_shows_its_words_and_how_well_it_was_tuned(classifier):
    tuned, _ = load_example()
    first, words, tuning = repr(tuned).splitlines()
    assert "16 vectors" in first and words.split() == ["negative", "→", "terrible,", "positive", "→", "great"]
    assert f"{max(one['validation_accuracy'] for one in tuned.history):.3f}" in tuning
    assert len(repr(classifier).splitlines()) == 2  # not tuned
    own = Classifier(classifier.model, classifier.prompt, classifier.verbalizer, extra_hooks=[("hook_embed", print)])
    assert "hook_embed" in repr(own)
    assert all(f"<td>{word}</td>" in tuned._repr_html_() for word in ("positive", "great"))


def test_a_model_shows_its_sizes_not_its_modules(tiny_model, tmp_path):
    tiny_model.to_hf().save_pretrained(tmp_path)
    tiny_model.tokenizer.save_pretrained(tmp_path)
    bridge = as_classifiable(TransformerBridge.boot_transformers(str(tmp_path), device="cpu"))
    n_parameters = sum(one.numel() for one in tiny_model.parameters())
    for model in (tiny_model, bridge):
        shown = repr(model)
        assert "2 layers of 29" in shown and "float32 on cpu" in shown and "HookPoint" not in shown
        assert len(shown.splitlines()) < 8 and "2 layers of 29" in model._repr_html_()
    assert f"parameters: {n_parameters:,}" in repr(tiny_model)
    tiny_model.train()
    assert "train mode" in repr(tiny_model)


def test_a_pruned_model_shows_the_range_of_its_widths(tiny_model):
    tiny_model.cfg.d_mlps = (3, 29)
    assert "2 layers of 3 to 29" in repr(tiny_model)
