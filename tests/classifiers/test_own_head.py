"""Fine-tuned models that answer by their own head: as Hugging Face's, and with everything that prompts have."""

import pytest
import torch
from fine_tuned import fine_tuned, fine_tuned_folder
from planted import planted_classifier, planted_neurons, planted_task
from transformers import ModernBertForSequenceClassification

from skillneurons import (
    Classifier,
    HookedEncoder,
    LabelSums,
    NeuronSet,
    TuningConfig,
    collect,
    evaluate,
    find_skill_neurons,
    gradient_attribution,
    integrated_gradients,
    mean,
    necessity,
    neuron_card,
    perturbation_curve,
    prune,
    pruning_report,
    random_prompt,
    rival_scores,
    save_peft,
    steering_curve,
    text_heat,
    tune_prompt,
    write_activations,
    zero,
)
from skillneurons.applications.transfer import transferred
from skillneurons.classifiers.prompts import Layout, SoftPrompt, Verbalizer, no_prompt
from skillneurons.interventions.sweep import SweepSettings, sweep
from skillneurons.models.encoder_parts.class_head import Head

NAMES = ["roberta-classes", "bert-classes", "mpnet-classes", "distilbert-classes", "electra-classes", "ernie-classes"]
SINGLES = [" a lovely film", " the story was dreadful and clumsy and it was a boring scene", " clever", " it is a film"]
PAIRS = [
    (" a lovely film", " the story was dreadful"),
    (" clever", " it is"),
    (" the film is boring and a film", " good"),
]


@pytest.fixture(scope="module")
def classifier():
    return Classifier.from_head(*fine_tuned())


@pytest.fixture(scope="module")
def task():
    return planted_task()


@pytest.fixture(scope="module")
def scores(classifier, task):
    return find_skill_neurons(classifier, task)


# Parity


@pytest.mark.parametrize("texts", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("architecture", NAMES)
def test_logits_are_hugging_faces_on_padded_batches(build_hf, roberta_tokenizer, bert_tokenizer, architecture, texts):
    bert_like = architecture.split("-")[0] in ("bert", "distilbert", "electra", "ernie")
    tokenizer = bert_tokenizer if bert_like else roberta_tokenizer
    hf = build_hf(architecture, vocab_size=len(tokenizer), max_position_embeddings=80)
    classifier = Classifier.from_head(hf, tokenizer)
    firsts, seconds = (texts, None) if texts is SINGLES else (list(one) for one in zip(*texts, strict=True))
    segments = architecture in ("bert-classes", "electra-classes", "ernie-classes")
    inputs = tokenizer(firsts, seconds, padding=True, return_tensors="pt", return_token_type_ids=segments)
    with torch.no_grad():
        expected = hf(**inputs).logits
    ours = classifier.logits(texts)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    assert ours.std() > 0.01 and torch.equal(classifier.predict(texts), expected.argmax(dim=1))


def test_a_folder_an_encoder_and_a_model_in_memory_are_the_same_classifier(classifier, task, tmp_path):
    folder = fine_tuned_folder(tmp_path)
    expected = classifier.logits(task.test)
    for same in (folder, str(folder), HookedEncoder.from_pretrained(folder)):
        again = Classifier.from_head(same)
        assert torch.equal(again.logits(task.test), expected) and again.labels == ("bad", "good")
        assert (
            again.fingerprint == classifier.fingerprint and again.verbalizer.identity == classifier.verbalizer.identity
        )


# Where the skill is


def test_the_planted_neurons_are_found_at_the_first_token(classifier, task, scores):
    assert evaluate(classifier, task.test).accuracy == 1
    assert scores.accuracy.shape[1] == 1  # one position
    planted = planted_neurons(0)
    assert scores.predictivity[planted.mask].min() > 0.97
    assert scores.top(len(planted) / scores.predictivity.numel(), per_layer=False).mask.equal(planted.mask)


def test_ablating_them_takes_the_answer_away_and_ablating_others_does_not(classifier, task, scores):
    planted = NeuronSet(planted_neurons(0).mask, classifier.fingerprint)
    hooks = zero(planted, positions=classifier.layout.positions("first"))
    assert evaluate(classifier, task.test, hooks).accuracy < 0.6
    for other in planted.random_sets(5, seed=0):
        other = NeuronSet((other - planted).mask, classifier.fingerprint)
        assert evaluate(classifier, task.test, zero(other, positions=slice(0, 1))).accuracy > 0.95
    # At the words it is not these neurons that the head reads.
    assert evaluate(classifier, task.test, zero(planted, positions=classifier.layout.positions("text"))).accuracy > 0.95


def test_a_sweep_finds_them_necessary_at_every_name_of_the_position(classifier, task, scores):
    for positions in ("prompt", "first", "all"):
        curve = perturbation_curve(
            classifier, task, scores, kind="mean", fractions=(0.1,), n_random=3, positions=positions, progress=False
        )
        assert curve.unperturbed.accuracy == 1
        assert curve.skill[0] < 0.7 < 0.9 < curve.random.min()
    result = necessity(classifier, task, scores, kinds=("zero",), fractions=(0.1,), n_random=3, progress=False)
    assert len(result.to_dataframe())


def test_the_last_layer_can_act_on_the_answer_at_the_first_token(build_hf, roberta_tokenizer, tiny_task):
    hf = build_hf("roberta-two-classes", vocab_size=len(roberta_tokenizer))
    classifier = Classifier.from_head(hf, roberta_tokenizer, labels=tiny_task.labels)
    attribution = gradient_attribution(classifier, tiny_task.test)
    assert attribution.shape[0] == 1 and attribution[:, -1].abs().max() > 0
    before = classifier.logits(tiny_task.test)
    everything = NeuronSet(torch.ones(2, 29, dtype=torch.bool))
    last = zero(everything.layers(1), positions=slice(0, 1))
    assert (classifier.logits(tiny_task.test, last) - before).abs().max() > 0.01
    # A layer's contributions add up to what its ablation costs.
    steps = integrated_gradients(classifier, tiny_task.test, n_steps=20)
    costs = evaluate(classifier, tiny_task.test).margin - evaluate(classifier, tiny_task.test, last).margin
    assert abs(steps[:, 1].sum().item() - costs) < 0.01


def test_statistics_are_of_the_first_token_and_of_what_follows(classifier, task):
    rows = task.test[:7]
    tokens = classifier.model.to_tokens([row["text"] for row in rows])
    mask = classifier.model.attention_mask(tokens)
    _, cache = classifier.model.run_with_cache(tokens, mask)
    expected = torch.stack([cache[f"blocks.{layer}.mlp.hook_post"][:, 0] for layer in range(3)], dim=1).mean(0)
    for positions in ("prompt", "first"):
        ours = collect(classifier, rows, LabelSums(2), positions=positions).mean
        torch.testing.assert_close(ours[0].float(), expected, rtol=1e-5, atol=1e-6)


# With everything else


def test_it_is_saved_with_its_head_and_loads_onto_its_model_only(classifier, task, tmp_path):
    again = Classifier.load(classifier.save(tmp_path / "own"), classifier.model)
    assert torch.equal(again.logits(task.test), classifier.logits(task.test)) and again.labels == classifier.labels
    assert isinstance(again.verbalizer, Head) and len(again.prompt) == 0
    other = Classifier.from_head(*fine_tuned()).model
    with torch.no_grad():
        other.blocks[0].mlp.input.bias += 1
    with pytest.raises(ValueError, match="was made for a model with fingerprint"):
        Classifier.load(tmp_path / "own", other)


def test_kept_points_are_of_one_head(classifier, task, tmp_path):
    other = Classifier.from_head(*fine_tuned(which=1))
    assert other.fingerprint == classifier.fingerprint  # one encoder
    settings = SweepSettings(resume_in=tmp_path, n_random=1, progress=False)
    rows = classifier.encode(task.test)
    ablate = settings.perturbation("zero").of(classifier, task)
    points = [(ablate, NeuronSet(planted_neurons(0).mask))]
    first, second = (sweep(one, rows, points, settings).logits for one in (classifier, other))
    assert not torch.allclose(first, second)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert torch.equal(sweep(classifier, rows, points, settings).logits, first)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_pruning_keeps_the_head_and_what_it_reads(classifier, task, scores):
    baseline = collect(classifier, task.train, LabelSums(2)).mean.float()
    kept = scores.top(0.2)
    pruned = prune(classifier, kept, baseline)
    assert pruned.model.cfg.d_mlps == (6, 6, 6) and evaluate(pruned, task.test).accuracy == 1
    held = mean(NeuronSet(~kept.mask), baseline[0], positions=None)
    torch.testing.assert_close(pruned.logits(task.test), classifier.logits(task.test, held), rtol=1e-4, atol=1e-5)
    assert Classifier.from_head(pruned.model).verbalizer.identity == classifier.verbalizer.identity
    report = pruning_report(classifier, task, scores, fractions=(0.2,), n_random=1)
    assert report.pruned[0, 0] == 1
    with pytest.raises(TypeError, match="tunes the prompt again, needs label words"):
        pruning_report(classifier, task, scores, fractions=(0.2,), n_random=1, retune=TuningConfig())


def test_cards_heat_rivals_steering_and_raw_activations(classifier, task, scores, tmp_path):
    layer, neuron = (int(scores.best(1)[key].iloc[0]) for key in ("layer", "neuron"))
    card = neuron_card(classifier, task, scores, (layer, neuron))
    assert (card.held_out, len(card.to_dataframe())) == (scores.held_out[layer, neuron].item(), len(task.test))
    heat = text_heat(classifier, ["good0 word1", "word2 word3 bad0"], (layer, neuron))
    tokens = classifier.model.to_tokens(["good0 word1"])
    _, cache = classifier.model.run_with_cache(tokens)
    expected = cache[f"blocks.{layer}.mlp.hook_post"][0, 1:3, neuron]
    assert heat.words[0] == ("good0", " word1")
    torch.testing.assert_close(heat.values[0], expected)
    rivals = rival_scores(classifier, task, ["auroc", "mean_difference", "l2_probe", "gradient_attribution"])
    for name in ("auroc", "mean_difference", "gradient_attribution"):
        assert rivals.top(name, 0.05).overlap(planted_neurons(0)), name
    steered = steering_curve(classifier, task, scores.top(0.05), "good", strengths=(0.0, 2.0), n_random=2)
    assert len(steered.to_dataframe())
    stored = write_activations(classifier, task.test, tmp_path / "raw")
    assert stored.layer(0, slice(0, 3)).shape == (3, 1, 29)


def test_it_shows_itself(classifier):
    assert "its own head" in repr(classifier) and "bad, good" in repr(classifier)
    assert classifier.to_dataframe().columns.tolist() == ["class", "head"]
    assert classifier.answers(["good0 word1 bad1 word2"]).names == ("good",)
    assert classifier.prompt.to_dataframe()["n_prompt"].tolist() == [0]


# Classes


def test_classes_go_by_their_names_in_whatever_order(task):
    plain = Classifier.from_head(*fine_tuned())
    turned = Classifier.from_head(*fine_tuned(labels=("GOOD", "BAD"), flip=True), labels=task.labels)
    assert turned.labels == ("bad", "good")
    torch.testing.assert_close(turned.logits(task.test), plain.logits(task.test), rtol=0, atol=1e-6)
    renamed = Classifier.from_head(*fine_tuned(labels=("LABEL_0", "LABEL_1")), labels=task.labels)
    assert renamed.labels == ("bad", "good") and evaluate(renamed, task.test).accuracy == 1


@pytest.mark.parametrize("labels", [("bad", "best"), ("no", "yes", "maybe"), ("best",)])
def test_labels_that_are_neither_names_nor_as_many_are_refused(labels):
    with pytest.raises(ValueError, match=r"names of the head's classes, \('bad', 'good'\)"):
        Classifier.from_head(*fine_tuned(), labels=labels)


def test_some_classes_of_several_answer_a_task_of_them(build_hf, roberta_tokenizer, tiny_task):
    names = dict(enumerate(("neutral", "negative", "positive")))
    hf = build_hf("roberta-classes", vocab_size=len(roberta_tokenizer), id2label=names)
    three = Classifier.from_head(hf, roberta_tokenizer)
    two = Classifier.from_head(hf, roberta_tokenizer, labels=tiny_task.labels)
    assert torch.equal(two.logits(tiny_task.test), three.logits(tiny_task.test)[:, [1, 2]])
    other = transferred(three, tiny_task)
    assert other is not None and torch.equal(other.logits(tiny_task.test), two.logits(tiny_task.test))
    assert len(find_skill_neurons(three, tiny_task, progress=False).best(1))


# What it is not


def test_what_has_no_head_for_classes_is_refused(tiny_model, build_hf, roberta_tokenizer):
    with pytest.raises(ValueError, match=r"a RobertaForMaskedLM, has none\. Pass a sequence classifier"):
        Classifier.from_head(tiny_model)
    modern = ModernBertForSequenceClassification(build_hf("modernbert", vocab_size=len(roberta_tokenizer)).config)
    with pytest.raises(ValueError, match=r"a ModernBertForSequenceClassification, has one of another form\."):
        Classifier.from_head(modern.eval(), roberta_tokenizer)
    with pytest.raises(ValueError, match="a RobertaForTokenClassification, has none"):
        Classifier.from_head(build_hf("roberta-tokens", vocab_size=len(roberta_tokenizer)), roberta_tokenizer)
    with pytest.raises(ValueError, match="regression is not what this is for"):
        Classifier.from_head(build_hf("roberta-classes", num_labels=1), roberta_tokenizer)
    with pytest.raises(TypeError, match=r"a sequence classifier of Hugging Face, .* not a int"):
        Classifier.from_head(3)


def test_words_need_a_prompt_and_a_head_needs_the_first_token(classifier, tiny_model):
    model = classifier.model
    words = Verbalizer.from_words(model.tokenizer, ["no0", "yes0"])
    with pytest.raises(ValueError, match="Label words are read at a mask"):
        Classifier(model, no_prompt(model), words)
    with pytest.raises(ValueError, match="but this prompt puts a mask there"):
        Classifier(model, random_prompt(model, 2), classifier.verbalizer)
    with pytest.raises(ValueError, match=r"reads a stream of 32 features, but .* has 16"):
        Classifier(tiny_model, no_prompt(tiny_model), classifier.verbalizer)
    in_front = SoftPrompt(random_prompt(model, 2).vectors, model.fingerprint(), "random", in_front=True)
    assert Classifier(model, in_front, classifier.verbalizer).logits(["good0"]).shape == (1, 2)


def test_what_looks_at_label_words_says_that_there_are_none(classifier, tmp_path):
    with pytest.raises(TypeError, match=r"PEFT's prompt tuning needs label words, .* \('bad', 'good'\)"):
        save_peft(classifier, tmp_path)


def test_a_prompt_can_be_tuned_on_the_encoder_all_the_same(task):
    hf, tokenizer = fine_tuned()
    tuned = tune_prompt(HookedEncoder.from_hf(hf, tokenizer), task, n_prompt=2, config=TuningConfig(lr=0.05, steps=5))
    assert isinstance(tuned.verbalizer, Verbalizer)


def test_the_layout_without_a_vector_has_the_first_token_in_the_prompts_place():
    layout = Layout(0, in_front=True)
    assert layout.positions("prompt") == layout.positions("first") == slice(0, 1)
    assert (layout.positions("text"), layout.positions("all")) == (slice(1, None), slice(0, None))
    assert (layout.n_added, layout.label_position, layout.added) == (0, 0, "prompt")
    with pytest.raises(ValueError, match="'first', 'prompt', 'text', 'all'"):
        layout.positions("mask")


def test_words_behind_prompts_are_read_as_before(tmp_path):
    planted = planted_classifier()
    loaded = Classifier.load(planted.classifier.save(tmp_path / "words"), planted.model)
    assert loaded.verbalizer == planted.classifier.verbalizer
