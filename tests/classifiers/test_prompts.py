"""Soft prompts, their place in the input, label words; and the classifier they make with a model."""

import pytest
import torch
from conftest import make_hf
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Layout, SoftPrompt, Verbalizer, random_prompt, splice, written_prompt
from skillneurons.models.encoder import HookedEncoder
from skillneurons.utilities.store import StoreError

ROWS = [{"text": " a lovely film"}, {"text": " boring"}, {"text": " the story was clever and moving"}]


@pytest.fixture
def classifier(tiny_model):
    words = Verbalizer.from_words(tiny_model.tokenizer, ["terrible", "great"])
    return Classifier(tiny_model, random_prompt(tiny_model, 3, seed=0), words, ("negative", "positive"))


# Where things go


def test_mask_prompt_and_text_follow_each_other(roberta_tokenizer):
    layout, positions = Layout(3), list(range(9))
    assert positions[layout.positions("mask")] == [0]
    assert positions[layout.positions()] == positions[layout.positions("prompt")] == [1, 2, 3]
    assert positions[layout.positions("mask_and_prompt")] == [0, 1, 2, 3]
    assert layout.n_prefix == 4 and layout.prefix(roberta_tokenizer).tolist() == [4] * 4
    with pytest.raises(ValueError, match=", not 'nowhere'"):
        layout.positions("nowhere")
    with pytest.raises(ValueError, match="needs a mask token"):
        layout.prefix(None)


def test_splicing_replaces_the_prompts_positions_and_nothing_else():
    embed, vectors = torch.randn(2, 7, 5), torch.randn(3, 5)
    name, hook = splice(vectors)
    before = embed.clone()
    spliced, further = hook(embed), splice(vectors, start=4)[1](embed)
    assert spliced is not None and further is not None
    assert name == "hook_embed" and torch.equal(embed, before)
    assert torch.equal(spliced[:, 1:4], vectors.expand(2, 3, 5))
    assert torch.equal(spliced[:, :1], embed[:, :1]) and torch.equal(spliced[:, 4:], embed[:, 4:])
    assert torch.equal(further[:, 4:], vectors.expand(2, 3, 5))


@pytest.mark.parametrize("embed", [torch.zeros(2, 3, 5), torch.zeros(2, 7, 3)])
def test_a_prompt_that_does_not_fit_is_refused_with_both_shapes(unchecked_types, embed):
    with pytest.raises(ValueError, match=rf"\(3, 5\) goes to positions 1 to 3, .* \(2, {embed.shape[1]}, "):
        splice(torch.zeros(3, 5))[1](embed)


# Prompts


def test_random_prompts_are_word_vectors_drawn_by_the_seed(tiny_model):
    state = torch.get_rng_state()
    one, same, other = (random_prompt(tiny_model, 7, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.vectors, same.vectors) and not torch.equal(one.vectors, other.vectors)
    rows = (one.vectors[:, None] == tiny_model.W_E[None]).all(-1).nonzero()[:, 1]
    assert len(rows) == len(set(rows.tolist())) == 7
    assert one.origin == "random" and one.seed == 0 and one.model == tiny_model.fingerprint()
    with torch.no_grad():
        one.vectors.zero_()
    assert not torch.equal(tiny_model.W_E[rows[0]], one.vectors[0])
    for n_prompt in (0, len(tiny_model.W_E) + 1):
        with pytest.raises(ValueError, match=rf"from 1 to {len(tiny_model.W_E)}, not {n_prompt}"):
            random_prompt(tiny_model, n_prompt)


def test_a_written_prompt_is_its_words_vectors(tiny_model, classifier):
    prompt = written_prompt(tiny_model, " the film was")
    ids = tiny_model.tokenizer(" the film was", add_special_tokens=False)["input_ids"]
    assert torch.equal(prompt.vectors, tiny_model.W_E[ids]) and prompt.origin == "written:  the film was"
    # Reading it through the hook is the same as reading the words.
    batch = next(classifier.with_prompt(prompt).batches(ROWS[:1]))
    with tiny_model.hooks(fwd_hooks=[splice(prompt.vectors)]):
        through_hook = tiny_model(batch.tokens)
    batch.tokens[:, 1 : 1 + len(ids)] = torch.tensor(ids)
    assert torch.equal(through_hook, tiny_model(batch.tokens))
    with pytest.raises(ValueError, match="no tokens"):
        written_prompt(tiny_model, "")


def test_a_prompt_comes_back_from_disk(tiny_model, tmp_path):
    prompt = random_prompt(tiny_model, 3, seed=5)
    loaded = SoftPrompt.load(prompt.save(tmp_path / "prompt"))
    assert torch.equal(loaded.vectors, prompt.vectors)
    assert (loaded.model, loaded.origin, loaded.seed) == (prompt.model, "random", 5)
    assert repr(loaded) == "SoftPrompt(3 vectors of 16, random, seed 5)"


def test_prompts_that_are_no_prompts_are_refused(unchecked_types):
    with pytest.raises(ValueError, match=r"\(0, 16\)"):
        SoftPrompt(torch.zeros(0, 16), "model", "random")
    with pytest.raises(ValueError, match=r"\(16,\)"):
        SoftPrompt(torch.zeros(16), "model", "random")
    with pytest.raises(FloatingPointError, match="`vectors` has 1 values"):
        SoftPrompt(torch.tensor([[0.0, float("nan")]]), "model", "random")


# Label words


def test_label_words_are_looked_up_as_words(roberta_tokenizer, bert_tokenizer):
    for tokenizer, spelt in ((roberta_tokenizer, "Ġgreat"), (bert_tokenizer, "great")):
        for word in ("great", " great"):
            found = Verbalizer.from_words(tokenizer, [word, "bad"])
            assert tokenizer.convert_ids_to_tokens(found.token_ids[0]) == spelt
        assert found.words == (" great", "bad")


def test_label_words_are_found_where_the_tokenizer_puts_a_space_in_front_by_itself():
    """As Llama 2's does, whose fast class may be loaded as a generic one."""
    pieces = ["<unk>", "▁great", "▁bad", "▁", *"greatbdly"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))], 0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert tokenizer.tokenize(" great") == ["▁", "▁great"]
    for word in ("great", " great"):
        assert Verbalizer.from_words(tokenizer, [word, "bad"]).token_ids == (1, 2)
    with pytest.raises(ValueError, match=r"'greatly' .* but is 3: .* one token: great, bad\."):
        Verbalizer.from_words(tokenizer, ["greatly", "bad"])


@pytest.mark.parametrize("word", ["greatly", "zebra"])
def test_a_word_of_several_tokens_is_named_beside_words_that_can_be_used(roberta_tokenizer, bert_tokenizer, word):
    for tokenizer in (roberta_tokenizer, bert_tokenizer):
        with pytest.raises(ValueError, match=rf"Label word '{word}' .* but is \d+: \[") as caught:
            Verbalizer.from_words(tokenizer, ["bad", word])
        suggested = str(caught.value).rpartition(": ")[2].rstrip(".").split(", ")
        assert "great" in suggested and len(set(suggested)) == len(suggested)
        Verbalizer.from_words(tokenizer, suggested)


def test_words_that_are_no_tokens_are_named_all_at_once_beside_words_that_mean_the_same(bert_tokenizer):
    with pytest.raises(ValueError, match="'greatly'") as caught:
        Verbalizer.from_words(bert_tokenizer, ["greatly", "bad", "zebra"], ["positive", "negative", "other"])
    first, second = str(caught.value).splitlines()
    assert "class 'positive'" in first and "bad" not in first.rpartition(": ")[2] and "great" in first
    assert "'zebra' of class 'other'" in second


@pytest.mark.parametrize(
    ("words", "ids", "message"),
    [
        (("no", "yes"), (5, 5), "`token_ids` .* 5 is there twice"),
        (("no", "no"), (5, 6), "`words` .* 'no' is there twice"),
        (("no", "yes"), (5,), r"one word for each token id, but has .* for \(5,\)"),
        ("no", (5, 6), "not 'no'"),
    ],
)
def test_a_verbalizer_that_cannot_tell_classes_apart_is_refused(words, ids, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        Verbalizer(words, ids)


def test_label_words_that_are_the_same_token_are_refused(bert_tokenizer):
    with pytest.raises(ValueError, match=r"\('great', 'Great'\) are \((\d+), \1\)"):
        Verbalizer.from_words(bert_tokenizer, ["great", "Great"])
    with pytest.raises(ValueError, match="no tokenizer"):
        Verbalizer.from_words(None, ["great", "bad"])


# The classifier


@pytest.mark.parametrize("tokens_per_batch", [1, 29, 2048])
def test_logits_come_in_the_order_of_the_rows_whatever_the_batches(classifier, tokens_per_batch):
    expected = torch.cat([classifier.logits([row]) for row in ROWS])
    logits = classifier.logits(ROWS, tokens_per_batch=tokens_per_batch)
    torch.testing.assert_close(logits, expected)  # padding changes the order of sums in float32
    assert not torch.allclose(expected[0], expected[1])
    assert torch.equal(classifier.predict(classifier.encode(ROWS)), logits.argmax(-1))


def test_logits_are_the_label_words_at_the_mask_of_the_whole_model(classifier):
    model = classifier.model
    [batch] = list(classifier.batches(ROWS[:1]))
    with model.hooks(fwd_hooks=[splice(classifier.prompt.vectors)]):
        full = model(batch.tokens, batch.mask)
    torch.testing.assert_close(classifier.logits(ROWS[:1]), full[:, 0, list(classifier.verbalizer.token_ids)])


def test_bert_is_told_the_segments_of_a_pair(tiny_bert):
    words = Verbalizer.from_words(tiny_bert.tokenizer, ["bad", "good"])
    classifier = Classifier(tiny_bert, random_prompt(tiny_bert, 2), words)
    seen = []

    def keep(embed, hook):
        seen.append(embed)

    classifier.logits([{"text_a": "a film", "text_b": "it was"}], [("hook_token_type_embed", keep)])
    kinds = [0] * 3 + [0] * 4 + [1] * 3
    assert torch.equal(seen[0][0], tiny_bert.embed.token_type.weight[kinds])


def test_interventions_run_after_the_prompt_and_leave_no_trace(classifier):
    before = classifier.logits(ROWS)
    changed = classifier.logits(ROWS, [("hook_embed", lambda embed, hook: embed * 0)])
    assert not torch.allclose(changed[0], before[0])
    shuffled = classifier.with_prompt(random_prompt(classifier.model, 3, seed=1))
    assert torch.equal(shuffled.logits(ROWS, [("hook_embed", lambda embed, hook: embed * 0)]), changed)
    assert not torch.allclose(shuffled.logits(ROWS), before)
    assert torch.equal(classifier.logits(ROWS), before)
    assert classifier.model.W_E.grad is None


def test_a_classifier_refuses_what_would_make_its_numbers_wrong(classifier):
    model, vectors = classifier.model, classifier.prompt.vectors
    with pytest.raises(
        ValueError, match=rf"fingerprint 0123, but this one \(in-memory model\) has {model.fingerprint()}"
    ):
        classifier.with_prompt(SoftPrompt(vectors, "0123", "tuned"))
    with pytest.raises(ValueError, match=r"\('a',\) and label words \('terrible', 'great'\)"):
        Classifier(model, classifier.prompt, classifier.verbalizer, ("a",))
    with pytest.raises(FloatingPointError, match="`logits` has 6 values"):
        classifier.logits(ROWS, [("blocks.1.hook_mlp_out", lambda x, hook: x * float("nan"))])
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        classifier.logits(ROWS)
    assert model.training


def test_a_classifier_says_how_many_texts_it_cuts(classifier):
    rows = [*ROWS, {"text": " film" * 60, "label": 1}]
    with pytest.warns(UserWarning, match=rf"1 of {len(rows)} texts have more than the 35 tokens that fit"):
        encoded = classifier.encode(rows)
    assert encoded.lengths.max() == 35


def test_texts_of_another_models_tokenizer_are_refused(roberta_tokenizer):
    small = HookedEncoder.from_hf(make_hf("roberta", vocab_size=60), roberta_tokenizer)
    foreign = Classifier(small, random_prompt(small, 3, seed=0), Verbalizer(("no", "yes"), (5, 6)))
    with pytest.raises(ValueError, match=r"ids must lie in 0 to 59.*Was another model's tokenizer used\?"):
        foreign.encode(ROWS)


def test_a_classifier_comes_back_from_disk_onto_its_own_model(classifier, tmp_path):
    path = classifier.save(tmp_path / "classifier")
    loaded = Classifier.load(path, classifier.model)
    assert torch.equal(loaded.logits(ROWS), classifier.logits(ROWS))
    assert loaded.labels == ("negative", "positive") and loaded.verbalizer == classifier.verbalizer
    with pytest.raises(StoreError, match="holds a Classifier, but a SoftPrompt"):
        SoftPrompt.load(path)
    with torch.no_grad():
        classifier.model.W_E[7, 3] += 1
    with pytest.raises(ValueError, match="fingerprint"):
        Classifier.load(path, classifier.model)


def test_a_classifier_with_hooks_of_its_own_cannot_be_saved(classifier, tmp_path):
    hook = ("hook_embed", lambda embed, hook: embed)
    hooked = Classifier(classifier.model, classifier.prompt, classifier.verbalizer, extra_hooks=(hook,))
    with pytest.raises(ValueError, match="hooks of its own"):
        hooked.save(tmp_path / "classifier")
    assert not list(tmp_path.iterdir())
