"""What one does with an encoder, on one of each kind whose layout is not BERT's: it works, or is refused by name."""

import pytest
import torch

from skillneurons import (
    Classifier,
    LabelSums,
    NeuronSet,
    SoftPrompt,
    TuningConfig,
    Verbalizer,
    collect,
    find_skill_neurons,
    load_model,
    mean,
    prune,
    random_prompt,
    tune_adapter,
    tune_prompt,
    zero,
)
from skillneurons.classifiers.bitfit_and_adapters import tune_bitfit
from skillneurons.findings.words import label_word_selectivity, nearest_tokens
from skillneurons.interventions import logits_many
from skillneurons.models.encoder import HookedEncoder

# Four steps need not lead anywhere.
pytestmark = pytest.mark.filterwarnings("ignore:Tuning on .* collapsed")

QUICK = TuningConfig(steps=4, lr=0.05)
KINDS = ("electra-narrow", "electra-narrow-discriminator", "esm", "modernbert", "modernbert-headless", "deberta")


@pytest.fixture(params=KINDS)
def hf_model(request, build_hf, tokenizer):
    return build_hf(request.param, vocab_size=len(tokenizer))


@pytest.fixture
def tokenizer(request, bert_tokenizer, roberta_tokenizer):
    return bert_tokenizer if "electra" in request.node.name or "deberta" in request.node.name else roberta_tokenizer


@pytest.fixture
def model(hf_model, tokenizer):
    return HookedEncoder.from_hf(hf_model, tokenizer)


@pytest.fixture
def classifier(model, tiny_task):
    words = Verbalizer.from_words(model.tokenizer, tiny_task.label_words)
    return Classifier(model, random_prompt(model, 3, seed=1), words, tiny_task.labels)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_a_prompt_is_tuned_and_every_neuron_scored(model, tiny_task, tmp_path):
    before = model.fingerprint()
    tuned = tune_prompt(model, tiny_task, n_prompt=3, config=QUICK, progress=False)
    assert model.fingerprint() == before
    assert not torch.equal(tuned.prompt.vectors, random_prompt(model, 3, seed=0).vectors)
    tuned.prompt.save(tmp_path / "prompt")
    again = tuned.with_prompt(SoftPrompt.load(tmp_path / "prompt"))
    assert torch.equal(again.logits(tiny_task.test), tuned.logits(tiny_task.test))
    scores = find_skill_neurons(tuned, tiny_task)
    assert scores.predictivity.shape == (model.cfg.n_layers, 29) and len(scores.top(0.1)) > 0


def test_sweeps_that_enter_at_a_layer_give_what_whole_passes_do(classifier, tiny_task):
    scores = find_skill_neurons(classifier, tiny_task)
    sets = [scores.top(0.3), scores.top(0.3).random_like(seed=0)]
    hooks = [[], *(zero(chosen) for chosen in sets), zero(sets[0])[1:]]
    many = logits_many(classifier, tiny_task.test, hooks)
    for one, alone in zip(hooks, many, strict=True):
        close(alone, classifier.logits(tiny_task.test, one))
    assert not torch.allclose(many[0], many[1])


def test_a_pruned_model_is_the_ablated_one_and_goes_to_disk_and_back(classifier, tiny_task, tmp_path):
    keep = find_skill_neurons(classifier, tiny_task).top(0.4)
    baseline = collect(classifier, tiny_task.train, LabelSums(2)).mean
    pruned = prune(classifier, keep, baseline)
    expected = classifier.logits(tiny_task.test, mean(~keep, baseline.mean(dim=0)))
    torch.testing.assert_close(pruned.logits(tiny_task.test), expected, rtol=0, atol=1e-4)
    saved = HookedEncoder.from_pretrained(pruned.model.save(tmp_path / "pruned"))
    assert saved.fingerprint() == pruned.model.fingerprint()
    tokens = saved.to_tokens([" a lovely film", " boring"])
    assert torch.equal(saved([" a lovely film", " boring"]), pruned.model(tokens, pruned.model.attention_mask(tokens)))
    back = pruned.model.to_hf()
    mask = saved.attention_mask(tokens)
    close(HookedEncoder.from_hf(back)(tokens, mask), saved(tokens, mask))
    whole = prune(classifier, keep, baseline, layers=[1]).model
    with pytest.raises(ValueError, match="needs one MLP width"):
        whole.to_hf()


def test_it_loads_by_name_with_its_tokenizer(hf_model, model, tmp_path):
    hf_model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert type(loaded) is HookedEncoder and loaded.fingerprint() == model.fingerprint()


def test_weights_are_compared_with_words_in_the_stream(classifier):
    model = classifier.model
    selectivity = label_word_selectivity(model, classifier.verbalizer)
    assert selectivity.shape == (model.cfg.n_layers, 29) and bool((selectivity <= 1).all())
    chosen = NeuronSet.from_pairs([(0, 3), (1, 7)], n_layers=model.cfg.n_layers, d_mlp=29, model=model.fingerprint())
    tokens, cosine = nearest_tokens(model, chosen, "output", 2)
    words = model.word_directions()[tokens[0, 0]].detach()
    layer, neuron = chosen.mask.nonzero()[0].tolist()
    expected = torch.cosine_similarity(words, model.W_out[layer, neuron].detach(), dim=0)
    torch.testing.assert_close(cosine[0, 0], expected.float())


def test_adapters_and_biases_are_tuned_or_refused(model, tiny_task):
    adapted = tune_adapter(model, tiny_task, d_bottleneck=2, config=QUICK, progress=False)
    biased = tune_bitfit(model, tiny_task, config=QUICK, progress=False)
    for tuned in (adapted, biased):
        assert tuned.logits(tiny_task.test).shape == (26, 2)


def test_parity_holds_in_float32(hf_model, model):
    tokens = model.to_tokens([" a lovely film", " boring", " the story was clever and moving"])
    mask = model.attention_mask(tokens)
    ours = model(tokens, mask, stop_at_layer=model.cfg.n_layers)
    ours = ours if model.read_out.ln_final is None else model.read_out.ln_final(ours)
    theirs = hf_model.base_model(input_ids=tokens, attention_mask=mask)[0]
    close(ours[mask.bool()], theirs[mask.bool()])
