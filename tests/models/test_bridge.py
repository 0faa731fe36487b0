"""A TransformerBridge in the place of a HookedEncoder: encoders against ours, decoders against Hugging Face."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
import transformers
from helpers import Tolerance, unchecked
from transformer_lens.model_bridge import TransformerBridge

from skillneurons import (
    Classifier,
    HookedEncoder,
    NeuronSet,
    SoftPrompt,
    TuningConfig,
    Verbalizer,
    collect,
    evaluate,
    find_skill_neurons,
    perturbation_curve,
    random_prompt,
    rival_scores,
    tune_prompt,
    written_prompt,
    zero,
)
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import TextSums
from skillneurons.classifiers.prompts import Layout
from skillneurons.findings import localization
from skillneurons.interventions.hooks import mean
from skillneurons.interventions.sweep import logits_many
from skillneurons.models.bridge import BridgedModel, as_classifiable
from skillneurons.runs import FindSettings, find

# Two implementations of one computation in float32, through two layers.
CLOSE: Tolerance = {"rtol": 2e-5, "atol": 2e-5}
# The same computation with another number of rows, whose matrix products are summed in another order.
ROUNDING: Tolerance = {"rtol": 1e-5, "atol": 5e-6}
N_PROMPT = 3
ROWS = [
    {"text": " a lovely film", "label": 1},
    {"text": " boring", "label": 0},
    {"text": " the story was clever and moving", "label": 1},
    {"text": " a clumsy scene", "label": 0},
    {"text": " dreadful", "label": 0},
]
PAIRS = [{"text_a": " a film", "text_b": " it was good", "label": 1}, {"text_a": " bad", "text_b": " a", "label": 0}]

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 29}
SIZES |= {"max_position_embeddings": 41, "bos_token_id": 0, "eos_token_id": 2}
GROUPED = SIZES | {"num_key_value_heads": 1}
DECODERS = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 41, "n_inner": 29}),
    "pythia": ("GPTNeoXForCausalLM", SIZES),
    "llama": ("LlamaForCausalLM", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "gemma2": ("Gemma2ForCausalLM", GROUPED | {"head_dim": 8}),
}
GATED = ("llama", "qwen2", "gemma2")


def make_decoder(name, n_vocab):
    """A random decoder, its weights far from where initialisation puts them."""
    class_name, options = DECODERS[name]
    model_class = getattr(transformers, class_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(model_class.config_class(vocab_size=n_vocab, attn_implementation="eager", **options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.3 if parameter.ndim > 1 else 0.1) * torch.randn(parameter.shape, generator=generator))
    return model


def boot(hf_model, tokenizer, folder):
    """Saved and read again: booting changes the model in place, and needs a tokenizer's folder."""
    hf_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), device="cpu")


@pytest.fixture(scope="module", params=["roberta", "bert"])
def encoders(request, build_hf, roberta_tokenizer, bert_tokenizer, tmp_path_factory):
    """Ours and the bridge, of the same weights."""
    tokenizer = {"roberta": roberta_tokenizer, "bert": bert_tokenizer}[request.param]
    hf_model = build_hf(request.param, vocab_size=len(tokenizer))
    ours = HookedEncoder.from_hf(hf_model, tokenizer)
    return ours, as_classifiable(boot(hf_model, tokenizer, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def booted(roberta_tokenizer, tmp_path_factory):
    """Name -> (Hugging Face's decoder, a checked bridge of its weights); each made once."""
    made = {}

    def get(name):
        if name not in made:
            hf_model = make_decoder(name, len(roberta_tokenizer))
            made[name] = hf_model, as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp(name)))
        return made[name]

    return get


@pytest.fixture(params=DECODERS)
def decoder(request, booted):
    return booted(request.param)


@pytest.fixture
def gpt2(booted):
    return booted("gpt2")[1]


def make_classifier(model, seed=0, n_prompt=N_PROMPT):
    words = Verbalizer.from_words(model.tokenizer, ["terrible", "great"])
    return Classifier(model, random_prompt(model, n_prompt, seed), words, ("negative", "positive"))


def mean_loss(classifier, rows):
    return F.cross_entropy(classifier.logits(rows), torch.tensor([row["label"] for row in rows])).item()


def both(encoders):
    """One classifier on ours and one on the bridge, with the same prompt."""
    ours, bridged = encoders
    one = make_classifier(ours)
    prompt = SoftPrompt(one.prompt.vectors, bridged.fingerprint(), "random", 0)
    return one, Classifier(bridged, prompt, one.verbalizer, one.labels)


def every_neuron(model):
    return NeuronSet(torch.ones(model.cfg.n_layers, model.cfg.d_mlp, dtype=torch.bool))


# Encoders: the same numbers as ours


def test_an_encoder_through_the_bridge_has_our_shape(encoders):
    ours, bridged = encoders
    for name in ("n_layers", "d_model", "d_mlps", "d_vocab", "n_ctx", "d_token_types", "pad_token_id"):
        assert getattr(bridged.cfg, name) == getattr(ours.cfg, name), name
    for row in (ROWS[2]["text"], ("a", "film")):
        texts = row if isinstance(row, tuple) else (row,)
        assert bridged.tokenizer(*texts)["input_ids"] == ours.tokenizer(*texts)["input_ids"]
    assert torch.equal(bridged.W_E, ours.W_E) and not bridged.cfg.after_text
    assert bridged.device == ours.device and bridged.dtype == ours.dtype
    assert torch.equal(random_prompt(bridged, 5, seed=3).vectors, random_prompt(ours, 5, seed=3).vectors)


@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["texts", "pairs"])
def test_an_encoder_through_the_bridge_answers_as_ours_does(encoders, rows):
    one, other = both(encoders)
    assert other.layout == one.layout
    assert next(one.batches(rows)).mask is not None  # some row is padded
    torch.testing.assert_close(other.logits(rows), one.logits(rows), **CLOSE)
    for positions in ("prompt", "mask"):
        parts = [collect(c, rows, Examples(len(rows)), positions=positions).values for c in (one, other)]
        torch.testing.assert_close(parts[1], parts[0], **CLOSE)
    words = [collect(c, rows, TextSums(), positions="text").mean for c in (one, other)]
    torch.testing.assert_close(words[1], words[0], **CLOSE)


def test_interventions_and_sweeps_through_the_bridge_do_as_on_ours(encoders):
    one, other = both(encoders)
    neurons = NeuronSet.from_pairs([(0, 3), (0, 17), (1, 5)], n_layers=2, d_mlp=29)
    where = one.layout.positions("prompt")
    values = collect(one, ROWS, Examples(len(ROWS))).values.mean(0)
    sweep = [[], zero(neurons, positions=where), mean(neurons, values, positions=where)]
    swept = [logits_many(c, ROWS, sweep) for c in (one, other)]
    torch.testing.assert_close(swept[1], swept[0], **CLOSE)
    assert (swept[1][1] - swept[1][0]).abs().max() > 1e-3
    assert torch.equal(swept[1][0], other.logits(ROWS))


# Decoders: text, then prompt, the label at the last position


def hf_reference(hf_model, classifier, row, hook=None):
    """Label logits and each MLP's neurons at the prompt, from Hugging Face and embeddings put together by hand."""
    tokens = torch.tensor(classifier.model.tokenizer(row["text"])["input_ids"])
    base = hf_model.base_model
    blocks = next(m for m in base.children() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    outputs = [next(m for n, m in b.named_modules() if n.endswith(("c_proj", "4h_to_h", "down_proj")) and "mlp" in n)
               for b in blocks]  # fmt: skip
    seen = []

    def look(module, args):
        inputs = args[0] if hook is None else hook(args[0])
        seen.append(inputs)
        return (inputs, *args[1:])

    handles = [module.register_forward_pre_hook(look) for module in outputs]
    embed = hf_model.get_input_embeddings()(tokens[None])
    embeds = torch.cat([embed, classifier.prompt.vectors[None]], dim=1)
    with torch.no_grad():
        logits = hf_model(inputs_embeds=embeds).logits[0, -1, list(classifier.verbalizer.token_ids)]
    for handle in handles:
        handle.remove()
    return logits, torch.stack([part[0, -N_PROMPT:] for part in seen], dim=1)


def test_a_decoder_reads_text_then_prompt_and_answers_at_the_end(decoder):
    hf_model, model = decoder
    classifier = make_classifier(model)
    logits, neurons = zip(*(hf_reference(hf_model, classifier, row) for row in ROWS), strict=True)
    torch.testing.assert_close(classifier.logits(ROWS), torch.stack(logits), **CLOSE)
    collected = collect(classifier, ROWS, Examples(len(ROWS))).values
    torch.testing.assert_close(collected, torch.stack(neurons), **CLOSE)
    assert collected.shape == (len(ROWS), N_PROMPT, 2, 29) == (5, 3, 2, *model.cfg.d_mlps[:1])


def test_interventions_on_a_decoder_act_at_its_prompt(decoder):
    hf_model, model = decoder
    classifier = make_classifier(model)
    hooks = zero(every_neuron(model), positions=classifier.layout.positions("prompt"))

    def silence(neurons):
        return torch.cat([neurons[:, :-N_PROMPT], torch.zeros_like(neurons[:, -N_PROMPT:])], dim=1)

    expected = torch.stack([hf_reference(hf_model, classifier, row, silence)[0] for row in ROWS])
    torch.testing.assert_close(classifier.logits(ROWS, hooks), expected, **CLOSE)
    assert (expected - classifier.logits(ROWS)).abs().max() > 1e-3


def test_the_result_of_a_row_does_not_depend_on_its_batch(decoder):
    classifier = make_classifier(decoder[1])
    together, collected = classifier.logits(ROWS), collect(classifier, ROWS, Examples(len(ROWS))).values
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(classifier.logits([row])[0], together[i], **ROUNDING)
        alone = collect(classifier, [row], Examples(1)).values[0]
        torch.testing.assert_close(alone, collected[i], **ROUNDING)


def test_a_decoders_batches_have_one_length_and_hold_each_row_once(gpt2):
    classifier = make_classifier(gpt2)
    encoded = classifier.encode(ROWS)
    assert len(set(encoded.lengths.tolist())) > 1
    batches = list(classifier.batches(encoded))
    assert sorted(i for batch in batches for i in batch.index.tolist()) == list(range(len(ROWS)))
    for batch in batches:
        assert batch.mask is None and batch.labels.tolist() == sorted(batch.labels.tolist())
        for tokens, i in zip(batch.tokens, batch.index, strict=True):
            start, stop = encoded.offsets[i : i + 2].tolist()
            assert tokens[:-N_PROMPT].tolist() == encoded.tokens[start:stop].tolist()


@pytest.mark.parametrize("name", GATED)
def test_neurons_of_a_gated_mlp_are_gate_times_linear(booted, name):
    hf_model, model = booted(name)
    act = F.silu if name != "gemma2" else (lambda x: F.gelu(x, approximate="tanh"))
    _, cache = model.run_with_cache(torch.tensor([[0, 5, 7]]))
    mlp = hf_model.model.layers[1].mlp
    inputs = cache["blocks.1.mlp.hook_in"]
    expected = act(mlp.gate_proj(inputs)) * mlp.up_proj(inputs)
    torch.testing.assert_close(cache["blocks.1.mlp.hook_post"], expected, **CLOSE)


def test_prompts_are_in_the_space_that_words_enter_in(booted):
    # Gemma multiplies word embeddings by the root of the width.
    hf_model, model = booted("gemma2")
    assert model.embed_scale == pytest.approx(4.0, rel=1e-3) and booted("llama")[1].embed_scale == 1
    prompt = written_prompt(model, " the film")
    tokens = torch.tensor(model.tokenizer(" the film", add_special_tokens=False)["input_ids"])
    expected = hf_model.get_input_embeddings()(tokens)
    torch.testing.assert_close(prompt.vectors, expected.detach(), **CLOSE)
    classifier = make_classifier(model).with_prompt(prompt)
    ids = [*model.tokenizer(ROWS[0]["text"])["input_ids"], *tokens.tolist()]
    assert isinstance(classifier.verbalizer, Verbalizer)
    with torch.no_grad():
        as_words = hf_model(torch.tensor([ids])).logits[0, -1, list(classifier.verbalizer.token_ids)]
    torch.testing.assert_close(classifier.logits(ROWS[:1])[0], as_words, **CLOSE)


def test_positions_of_a_prompt_behind_the_text_count_from_the_end():
    layout, positions = Layout(3, after_text=True), list(range(9))
    assert positions[layout.positions("prompt")] == [6, 7, 8] and positions[layout.positions("text")] == [*range(6)]
    assert positions[layout.positions("all")] == positions
    assert positions[layout.start] == 6 and positions[layout.label_position] == 8
    assert (layout.n_prefix, layout.n_added, Layout(3).n_added) == (0, 3, 4)
    assert layout.varies("text") and not layout.varies("prompt")
    with pytest.raises(ValueError, match="'text', 'all' for a prompt behind the text, not 'mask'"):
        layout.positions("mask")


# Is it the place of the skill?

FEW: dict = {"n_rows": 40, "n_random": 2, "n_random_layers": 2, "n_bootstrap": 3, "n_shuffles": 2, "shares": (0.4,)}


def test_a_localization_through_the_bridge_says_what_it_says_on_ours(encoders, tiny_task):
    tables = []
    for classifier in both(encoders):
        scores = find_skill_neurons(classifier, tiny_task, progress=False)
        neurons = NeuronSet.from_pairs([(0, 3), (0, 5), (1, 2)], n_layers=2, d_mlp=scores.predictivity.shape[1])
        tables.append(localization(classifier, tiny_task, scores, neurons=neurons, **FEW).to_dataframe())
    ours, bridged = (table.set_index(["question", "measure"]) for table in tables)
    assert ours.index.equals(bridged.index) and {"what is left", "writers", "causal"} <= {q for q, _ in ours.index}
    # Counts may differ by a row that lies on its baseline up to rounding.
    one, other = (torch.tensor(table.value.to_numpy()) for table in (ours, bridged))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=0.04, equal_nan=True)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_set_from_elsewhere_is_judged_in_a_decoder_by_the_score_that_ranks_it(booted, tiny_task, name):
    model = booted(name)[1]
    classifier = make_classifier(model)
    scores = find_skill_neurons(classifier, tiny_task, progress=False)
    contribution = rival_scores(classifier, tiny_task, ["cett"], progress=False).values["cett"]
    neurons = replace(NeuronSet.from_pairs([(0, 3), (0, 5), (1, 2)], n_layers=2, d_mlp=29), score=contribution)
    found = localization(classifier, tiny_task, scores, neurons=neurons, **FEW)
    assert found.address == max(neurons, key=lambda one: contribution[one].item())
    assert set(found.to_dataframe().question) >= {"redundancy", "what is left", "one signal", "writers", "causal"}
    # One of its numbers by hand: the three at their means wherever the prompt is, and what becomes of the answers.
    at_prompt = collect(classifier, tiny_task.subset(40, splits=("train",)).train, LabelSums(2)).mean
    with model.bridge.hooks(fwd_hooks=mean(neurons, at_prompt, positions=classifier.layout.positions("prompt"))):
        answers = classifier.logits(tiny_task.test).argmax(1)
    right = (answers == torch.tensor([row["label"] for row in tiny_task.test])).double().mean().item()
    table = found.to_dataframe().set_index("measure").value
    assert table["accuracy with the chosen held"] == pytest.approx(right)


# The whole path


@pytest.mark.filterwarnings("ignore::skillneurons.tuning.TuningWarning")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_bridge_goes_the_whole_way(booted, tiny_task, name, tmp_path):
    model = booted(name)[1]
    before, mine = model.fingerprint(), []
    config = TuningConfig(steps=12, batch_size=16, eval_every=6, lr=3e-2)
    with model.bridge.hooks(fwd_hooks=[("hook_embed", lambda x, hook=None: mine.append(len(x)))]):
        classifier = tune_prompt(model.bridge, tiny_task, n_prompt=N_PROMPT, config=config, progress=False)
        n_seen = len(mine)
        evaluate(classifier, tiny_task.test)
        assert len(mine) > n_seen > 0  # the user's own hook still runs
    assert model.fingerprint() == before and all(p.requires_grad for p in model.parameters())
    assert not any(point.has_hooks() for point in model.hook_dict.values())
    assert classifier.prompt.seed is not None
    start = make_classifier(model, seed=classifier.prompt.seed)
    assert mean_loss(classifier, tiny_task.train) < mean_loss(start, tiny_task.train) - 0.02
    again = tune_prompt(model, tiny_task, n_prompt=N_PROMPT, config=config, progress=False)
    assert torch.equal(again.prompt.vectors, classifier.prompt.vectors)

    scores = find_skill_neurons(classifier, tiny_task)
    assert scores.predictivity.shape == (2, 29) and scores.meta["model"] == before
    for positions in ("prompt", "all"):
        curve = perturbation_curve(classifier, tiny_task, scores, fractions=(0.2,), n_random=2, positions=positions)
        assert curve.unperturbed == evaluate(classifier, tiny_task.test)
        assert curve.skill_margin[0] != curve.unperturbed.margin

    classifier.save(tmp_path / "classifier")
    loaded = Classifier.load(tmp_path / "classifier", model.bridge)
    assert torch.equal(loaded.logits(ROWS), classifier.logits(ROWS))


def test_a_bridge_is_not_copied_to_tune_in_another_precision(gpt2, tiny_task, tmp_path):
    config = TuningConfig(steps=1, tune_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"a TransformerBridge in float32, .* Load it with `dtype='bfloat16'`"):
        tune_prompt(gpt2, tiny_task, n_prompt=N_PROMPT, config=config, progress=False)
    with pytest.raises(ValueError, match="TransformerBridge in float32"):
        find(gpt2, tiny_task, tmp_path, FindSettings(tuning=config))
    assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::skillneurons.tuning.TuningWarning")
def test_one_step_of_tuning_follows_the_mean_loss_of_rows_of_all_lengths(gpt2, tiny_task):
    start = random_prompt(gpt2, N_PROMPT, 0)
    config = TuningConfig(steps=1, batch_size=62, lr=1e-2)  # all training rows at once
    moved = tune_prompt(gpt2, tiny_task, start=start, config=config, progress=False).prompt.vectors
    vectors = start.vectors.clone().requires_grad_()
    words = Verbalizer.from_words(gpt2.tokenizer, tiny_task.label_words).token_ids
    losses = []
    for row in tiny_task.train:
        tokens = torch.tensor([gpt2.tokenizer(row["text"])["input_ids"]])
        embeds = torch.cat([gpt2.W_E[tokens[0]], vectors])[None]
        logits = gpt2.bridge(embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long))[0, -1, list(words)]
        losses.append(F.cross_entropy(logits[None], torch.tensor([row["label"]])))
    torch.stack(losses).mean().backward()
    gpt2.bridge.original_model.zero_grad()
    optimizer = torch.optim.AdamW([vectors], lr=1e-2, weight_decay=0.0)
    optimizer.step()
    torch.testing.assert_close(moved, vectors.detach(), rtol=1e-4, atol=1e-4)
    assert (moved - start.vectors).abs().max() > 5e-3


def test_the_fingerprint_is_that_of_the_weights_and_of_their_use(gpt2, monkeypatch):
    first, parameter = gpt2.fingerprint(), next(iter(gpt2.parameters()))
    assert as_classifiable(gpt2.bridge).fingerprint() == first and len(first) == 16
    with torch.no_grad():
        parameter[0, 0] += 1
        assert gpt2.fingerprint() != first
        parameter[0, 0] -= 1
    config = gpt2.bridge.original_model.config
    behaviour = {"activation_function": "relu", "n_head": 4, "layer_norm_epsilon": 1e-3, "scale_attn_weights": False}
    beside = {"_name_or_path": "elsewhere", "transformers_version": "9", "attn_pdrop": 0.3, "architectures": ["GPT2"]}
    for changes, same in ((behaviour, False), (beside, True)):
        for key, value in changes.items():
            with monkeypatch.context() as patch:
                patch.setattr(config, key, value)
                assert (gpt2.fingerprint() == first) == same, key


# What is refused


def test_what_is_checked_once_is_not_checked_again(gpt2, tiny_model):
    assert as_classifiable(gpt2) is gpt2 and as_classifiable(tiny_model) is tiny_model
    assert isinstance(make_classifier(gpt2.bridge).model, BridgedModel)
    assert "neurons: 2 layers of 29\n" in repr(gpt2) and gpt2.cfg.source in repr(make_classifier(gpt2))


def test_anything_else_is_refused_by_its_type(unchecked_types):
    with pytest.raises(TypeError, match="not Linear"):
        as_classifiable(unchecked(torch.nn.Linear(2, 3)))


def test_a_bridge_in_train_mode_is_refused(gpt2):
    gpt2.bridge.train()
    try:
        with pytest.raises(ValueError, match="train mode"):
            as_classifiable(gpt2.bridge)
        with pytest.raises(ValueError, match="train mode"):
            make_classifier(gpt2).logits(ROWS)
    finally:
        gpt2.bridge.eval()


def test_hooks_layers_and_tokens_that_are_not_there_are_named(gpt2):
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel\) has no hook point 'blocks.7.mlp.hook_post'. Nearest: blo"):
        gpt2.hooks(fwd_hooks=[("blocks.7.mlp.hook_post", lambda x, hook=None: x)])
    with pytest.raises(ValueError, match=r"no hook point 'blocks\.0\.mlp\.hook_nothing'"):
        collect(make_classifier(gpt2), ROWS, Examples(len(ROWS)), hook="mlp.hook_nothing")
    with pytest.raises(ValueError, match="`start_at_layer` is 1"):
        gpt2(torch.tensor([[0, 5]]), start_at_layer=1)
    n = gpt2.cfg.d_vocab
    with pytest.raises(ValueError, match=rf"from 0 to {n - 1}, but has \(4, {n}\)"):
        gpt2(torch.tensor([[0, 5]]), logits_for=(4, n))
    with pytest.raises(ValueError, match="not 'mask'"):
        collect(make_classifier(gpt2), ROWS, Examples(len(ROWS)), positions="mask")


REFUSED = {
    "MixtralForCausalLM": (GROUPED | {"num_local_experts": 2}, r"`blocks.0.mlp.hook_post` .* \(MixtralForCausalLM\)"),
    "MambaForCausalLM": (
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        r"\(MambaForCausalLM\) has no hook point 'blocks.0.mlp.hook_post'",
    ),
    "BertModel": (
        {key: size for key, size in SIZES.items() if "token" not in key},
        "holds a BertModel, and the BertForMaskedLM made of it has a random",
    ),
    "BertLMHeadModel": (
        {key: size for key, size in SIZES.items() if "token" not in key} | {"is_decoder": True},
        r"`is_decoder=True`.* the mask would see nothing",
    ),
}


@pytest.mark.parametrize("class_name", REFUSED)
def test_a_model_without_what_is_needed_is_refused_by_name(class_name, roberta_tokenizer, tmp_path):
    options, message = REFUSED[class_name]
    model_class = getattr(transformers, class_name)
    hf_model = model_class(model_class.config_class(vocab_size=len(roberta_tokenizer), **options)).eval()
    bridge = boot(hf_model, roberta_tokenizer, tmp_path)
    with pytest.raises(ValueError, match=message):
        as_classifiable(bridge)


def test_a_tokenizer_that_lacks_something_is_named(encoders, monkeypatch):
    bridge = encoders[1].bridge
    with monkeypatch.context() as patch:
        patch.setattr("skillneurons.models.bridge._own_tokenizer", lambda bridge: SimpleNamespace(mask_token_id=None))
        with pytest.raises(ValueError, match="needs a mask token"):
            as_classifiable(bridge)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoTokenizer.from_pretrained", Mock(side_effect=OSError))
        with pytest.raises(ValueError, match=rf"cannot be read again from {encoders[1].cfg.source!r}"):
            as_classifiable(bridge)
    monkeypatch.setattr(TransformerBridge, "tokenizer", None)
    with pytest.raises(ValueError, match="has no tokenizer"):
        as_classifiable(bridge)
