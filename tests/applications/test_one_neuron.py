"""A neuron's card and heat strip: against hooks by hand, on a planted neuron, and as they are drawn."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
import transformers
from matplotlib.patches import Rectangle
from planted import planted_classifier
from transformer_lens.model_bridge import TransformerBridge

from skillneurons import Classifier, Verbalizer, find_skill_neurons, mean, neuron_card, random_prompt, text_heat
from skillneurons.activations._collect import collect
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import LabelSums
from skillneurons.applications.one_neuron import neuron_cards
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.findings import nearest_tokens
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.plots import plot_neuron_card, plot_text_heat, save_figure

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def planted():
    return planted_classifier()


@pytest.fixture(scope="module")
def scores(planted):
    return find_skill_neurons(planted.classifier, planted.task)


@pytest.fixture(scope="module")
def card(planted, scores):
    return neuron_card(planted.classifier, planted.task, scores, positions="prompt", n_random=7, n_words=3)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def on_words(model, task):
    return Classifier(model, random_prompt(model, 3), Verbalizer.from_words(model.tokenizer, task.label_words))


# The card


def test_the_card_is_of_the_best_neuron_and_repeats_its_scores(card, planted, scores):
    best = divmod(int(scores.predictivity.argmax()), scores.predictivity.shape[1])
    assert (card.layer, card.neuron) == best in planted.neurons
    assert (card.position, card.upward) == scores.position_of(card.layer, card.neuron)
    assert torch.equal(card.accuracy, scores.accuracy[0, :, card.layer, card.neuron])
    assert torch.equal(card.test_accuracy, scores.test_accuracy[0, :, card.layer, card.neuron])
    assert card.held_out == pytest.approx(scores.held_out[best].item())


def test_a_neuron_that_is_low_for_the_second_class_is_read_downwards(planted, scores):
    down = [one for one in planted.neurons if not scores.position_of(*one)[1]]
    card = neuron_card(planted.classifier, planted.task, scores, down[0], positions="prompt", n_random=1)
    assert not card.upward and card.held_out > 0.9 and "means 'bad'" in repr(card)


def test_examples_are_the_rows_in_order_of_an_activation_taken_by_hand(card, planted):
    rows = planted.task.test
    values = collect(planted.classifier, rows, Examples(len(rows))).values[:, card.position, card.layer, card.neuron]
    assert torch.equal(card.activations, values)
    table = card.to_dataframe()
    assert table.activation.is_monotonic_decreasing
    for row in (table.iloc[0], table.iloc[-1]):
        i = card.texts.index(row.text)
        assert row.activation == values[i].item() and row.label == planted.task.labels[rows[i]["label"]]


def test_the_effect_is_that_of_the_means_set_by_hand(card, planted):
    classifier, rows = planted.classifier, planted.task.test
    values = collect(classifier, planted.task.train, LabelSums(2)).mean.float()
    one = NeuronSet.from_pairs([(card.layer, card.neuron)], n_layers=3, d_mlp=29)
    hooks = mean(one, values, positions=classifier.layout.positions("prompt"))
    labels = torch.tensor(rows.labels)
    by_hand = label_margin(classifier.logits(rows, hooks), labels) - label_margin(classifier.logits(rows), labels)
    torch.testing.assert_close(card.margin_change, by_hand, rtol=0, atol=1e-5)


def test_a_planted_neuron_costs_more_than_neurons_that_know_nothing(planted, scores):
    others = 29 - 1
    card = neuron_card(planted.classifier, planted.task, scores, positions="prompt", n_random=100)
    means = card.random_change.mean(dim=1)
    assert len(means) == others  # each other neuron of the layer once, never the neuron itself
    assert card.margin_change.mean() < -0.05
    # Its partner in the pair costs as much; no other neuron does.
    assert (means < 0.5 * card.margin_change.mean()).sum() == 1


def test_cards_of_several_neurons_are_those_of_each_with_the_passes_of_one(planted, scores, monkeypatch):
    neurons = [(1, 7), (0, 3), (1, 2)]
    alone = [neuron_card(planted.classifier, planted.task, scores, one, n_random=3) for one in neurons]
    seen = []
    batches = Classifier.batches
    monkeypatch.setattr(
        Classifier, "batches", lambda self, rows, **how: (seen.append(len(rows)), batches(self, rows, **how))[1]
    )
    together = neuron_cards(planted.classifier, planted.task, scores, neurons, n_random=3)
    train, test = len(planted.task.train), len(planted.task.test)
    assert sorted(seen) == [train, train, test, test]  # means of the prompt's positions and of the words'
    for one, other in zip(alone, together, strict=True):
        assert (one.layer, one.neuron, one.position, one.held_out, one.words) == (
            other.layer,
            other.neuron,
            other.position,
            other.held_out,
            other.words,
        )
        assert torch.equal(one.activations, other.activations)
        torch.testing.assert_close(one.margin_change, other.margin_change, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.random_change, other.random_change, rtol=1e-5, atol=1e-5)


def test_words_are_the_nearest_tokens_with_their_cosines(card, planted):
    one = NeuronSet.from_pairs([(card.layer, card.neuron)], n_layers=3, d_mlp=29)
    for side in ("input", "output"):
        tokens, cosine = nearest_tokens(planted.model, one, side, 3)
        assert [word for word, _ in card.words[side]] == planted.model.tokenizer.convert_ids_to_tokens(tokens[0])
        assert [value for _, value in card.words[side]] == cosine[0].tolist()


def test_classifier_task_and_scores_must_belong_together(planted, scores):
    other = planted_classifier(1)
    with pytest.raises(ValueError, match="has seed 0, but `scores` are of \\[5\\]"):
        neuron_card(planted.classifier, planted.task, replace(scores, meta=scores.meta | {"seeds": [5]}))
    with pytest.raises(ValueError, match="`scores` are of 'signal0', `task` is Task\\('signal1'"):
        neuron_card(other.classifier, other.task, scores)
    with pytest.raises(ValueError, match="no neuron \\(1, 29\\) among 3 layers of 29"):
        neuron_card(planted.classifier, planted.task, scores, (1, 29))


# The strip


def by_hand(classifier, text, neuron):
    """The neuron's activation at every token of one text, special ones included, without any padding."""
    seen = {}
    hook = (f"blocks.{neuron[0]}.mlp.hook_post", lambda activations, hook: seen.update(values=activations.clone()))
    classifier.logits([{"text": text}], [hook])
    start = classifier.layout.positions("text").start
    return seen["values"][0, start:, neuron[1]]


def test_a_strip_has_the_activation_at_each_word_whatever_the_padding(planted):
    texts = ["good0 word3", "word1 bad0 good1 word2 word2 bad0", "bad2"]
    heat = text_heat(planted.classifier, texts, (0, 7))
    for i, text in enumerate(texts):
        assert [word.strip() for word in heat.words[i]] == text.split()
        expected = by_hand(planted.classifier, text, (0, 7))[1:-1]
        torch.testing.assert_close(heat.values[i], expected, rtol=1e-5, atol=1e-6)
    assert heat.to_dataframe().activation.tolist() == torch.cat(heat.values).tolist()


def test_a_word_of_several_tokens_has_their_mean(tiny_model, tiny_task):
    classifier = on_words(tiny_model, tiny_task)
    text = " a lovelyclumsy film , dreadfully"
    tokens = tiny_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    heat = text_heat(classifier, [text], (1, 11))
    assert "".join(heat.words[0]) == text and len(heat.words[0]) < len(tokens)
    each, start = by_hand(classifier, text, (1, 11))[1:-1], 0
    for word, value in zip(heat.words[0], heat.values[0], strict=True):
        n = len(tiny_model.tokenizer(word, add_special_tokens=False)["input_ids"])
        assert value.item() == pytest.approx(each[start : start + n].mean().item(), abs=1e-6)
        start += n
    assert start == len(tokens)


def test_a_pair_is_one_strip_and_rows_show_their_labels(tiny_bert, tiny_task):
    rows = [{"text_a": "a film", "text_b": "it was good", "label": 1}]
    heat = text_heat(on_words(tiny_bert, tiny_task), rows, (0, 1))
    assert heat.words == (("a", " film", " / it", " was", " good"),)
    assert heat.labels == ("great",)
    assert "<b>great</b>: <span" in heat._repr_html_()


def test_a_decoder_has_strips_and_a_card_without_words(roberta_tokenizer, tiny_task, tmp_path):
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=41, n_inner=29, vocab_size=len(roberta_tokenizer)
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    roberta_tokenizer.save_pretrained(tmp_path)
    classifier = on_words(TransformerBridge.boot_transformers(str(tmp_path), device="cpu"), tiny_task)
    texts = [" a lovely film", " boring"]
    heat = text_heat(classifier, texts, (1, 28))
    assert ["".join(words) for words in heat.words] == texts
    task = replace(tiny_task, labels=classifier.labels)
    card = neuron_card(classifier, task, find_skill_neurons(classifier, task), n_random=2)
    assert card.words == {} and len(plot_neuron_card(card).axes) == 5


def test_the_html_shades_by_activation_and_escapes_words(planted):
    heat = text_heat(planted.classifier, ["<b> good0 bad0 &"], (0, 7))
    shown = heat._repr_html_()
    assert "&lt;b&gt;" in shown and "&amp;</span>" in shown and "<b>" not in shown
    strongest, weakest = int(heat.values[0].argmax()), int(heat.values[0].argmin())
    spans = shown.split("<span ")[1:]
    assert "rgb(213,94,0)" in spans[strongest] and "rgb(255,255,255)" in spans[weakest]
    assert shown.count("rgb(213,94,0)") == int((heat.values[0] == heat.values[0].max()).sum()) < 4


def test_a_strip_needs_a_neuron_that_exists_and_texts_that_fit(planted):
    with pytest.raises(ValueError, match="no neuron \\(3, 0\\) among 3 layers"):
        text_heat(planted.classifier, ["good0"], (3, 0))
    with pytest.raises(ValueError, match="1 of `texts` have more than the 58 tokens"):
        text_heat(planted.classifier, ["good0", "good0 " * 60], (0, 0))


# As drawn


def test_the_drawn_card_shows_every_part_and_text_as_it_is(card, tmp_path):
    odd = replace(card, texts=tuple(f"costs $5_{i} or \\frac{{1}}" for i in range(len(card.texts))))
    figure = plot_neuron_card(odd, n_examples=2)
    histogram, by_position, ablated, examples, words = figure.axes
    assert histogram.get_xlabel() == "activation" and "held out" in by_position.get_title(loc="left")
    assert [tick.get_text() for tick in ablated.get_yticklabels()] == ["good", "bad", "all rows"]
    assert len(examples.texts) == 2 + 2 * 2 and len(words.texts) == 2 + 2 * 3
    save_figure(histogram, tmp_path / "card")
    assert "costs $5_" in (tmp_path / "card.svg").read_text()


def test_drawn_words_stand_inside_the_lines_one_box_each(planted):
    texts = ["good0 word3 word4 word5 word6", "bad0"]
    heat = text_heat(planted.classifier, texts, (0, 2))
    ax = plot_text_heat(replace(heat, labels=("good", "bad")), width=24)
    drawn = {text.get_text() for text in ax.texts}
    assert drawn == {"good", "bad", *texts[0].split(), *texts[1].split()}
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == 6
    for box in boxes:
        assert box.get_x() >= 6 and box.get_x() + box.get_width() <= 24
    assert len({box.get_y() for box in boxes}) == 3  # the first text takes two lines
