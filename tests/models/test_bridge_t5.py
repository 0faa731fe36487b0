"""Encoder-decoders through a TransformerBridge: T5's two stacks against Hugging Face."""

import pytest
import torch
import transformers
from test_bridge import CLOSE, N_PROMPT, ROWS, boot, make_classifier, mean_loss

from skillneurons import (
    NeuronSet,
    TuningConfig,
    collect,
    evaluate,
    find_skill_neurons,
    perturbation_curve,
    tune_prompt,
    zero,
)
from skillneurons.activations.examples import Examples
from skillneurons.activations.text import TextSums
from skillneurons.models.bridge import as_classifiable

N_ENCODER, N_DECODER, START = 2, 3, 7
T5 = {"d_model": 16, "d_ff": 29, "num_layers": N_ENCODER, "num_decoder_layers": N_DECODER, "num_heads": 2, "d_kv": 8}
T5 |= {"decoder_start_token_id": START, "pad_token_id": 1, "eos_token_id": 2}
MODELS = {
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-gated-untied": (
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}


def make_seq2seq(name, n_vocab):
    """A random encoder-decoder, its weights far from where initialisation puts them."""
    class_name, options = MODELS[name]
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(vocab_size=n_vocab, **options)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            is_scale = float(parameter.ndim == 1)
            parameter.copy_(is_scale + (0.3 - 0.2 * is_scale) * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=MODELS)
def pair(request, roberta_tokenizer, tmp_path_factory):
    """Hugging Face's model, and the checked bridge of its weights."""
    hf_model = make_seq2seq(request.param, len(roberta_tokenizer))
    bridge = boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp(request.param))
    return hf_model, as_classifiable(bridge)


@pytest.fixture(scope="module")
def t5(roberta_tokenizer, tmp_path_factory):
    hf_model = make_seq2seq("t5", len(roberta_tokenizer))
    return as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp("t5")))


def hf_reference(hf_model, classifier, row, change=lambda layer, neurons: neurons):
    """Label logits behind the start token, and each block's neurons, from embeddings put together by hand."""
    tokens = torch.tensor(classifier.model.tokenizer(row["text"])["input_ids"])
    outputs = [m for n, m in hf_model.named_modules() if n.endswith("DenseReluDense.wo")]
    assert len(outputs) == N_ENCODER + N_DECODER
    seen = {}

    def look(layer):
        def hook(module, args):
            seen[layer] = change(layer, args[0])
            return (seen[layer], *args[1:])

        return hook

    handles = [module.register_forward_pre_hook(look(layer)) for layer, module in enumerate(outputs)]
    embeds = torch.cat([hf_model.get_input_embeddings()(tokens), classifier.prompt.vectors])[None]
    with torch.no_grad():
        answer = hf_model(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[START]]))
    for handle in handles:
        handle.remove()
    encoder = [seen[layer][0, -N_PROMPT:] for layer in range(N_ENCODER)]
    decoder = [seen[N_ENCODER + layer][0].expand(N_PROMPT, -1) for layer in range(N_DECODER)]
    return answer.logits[0, 0, list(classifier.verbalizer.token_ids)], torch.stack([*encoder, *decoder], dim=1)


def test_an_encoder_decoder_answers_behind_its_start_token_as_hugging_face_does(pair):
    hf_model, model = pair
    classifier = make_classifier(model)
    logits, neurons = zip(*(hf_reference(hf_model, classifier, row) for row in ROWS), strict=True)
    torch.testing.assert_close(classifier.logits(ROWS), torch.stack(logits), **CLOSE)
    collected = collect(classifier, ROWS, Examples(len(ROWS))).values
    torch.testing.assert_close(collected, torch.stack(neurons), **CLOSE)
    assert collected.shape == (len(ROWS), N_PROMPT, N_ENCODER + N_DECODER, 29)
    assert model.cfg.d_mlps == (29,) * (N_ENCODER + N_DECODER)


@pytest.mark.parametrize("layer", range(N_ENCODER + N_DECODER))
def test_silencing_a_layer_of_either_stack_does_as_in_hugging_face(pair, layer):
    hf_model, model = pair
    classifier = make_classifier(model)
    mask = torch.zeros(N_ENCODER + N_DECODER, 29, dtype=torch.bool)
    mask[layer] = True
    hooks = zero(NeuronSet(mask), positions=classifier.layout.positions("prompt"))

    def silence(at, neurons):
        n = N_PROMPT if layer < N_ENCODER else 1
        return torch.cat([neurons[:, :-n], torch.zeros_like(neurons[:, -n:])], dim=1) if at == layer else neurons

    expected = torch.stack([hf_reference(hf_model, classifier, row, silence)[0] for row in ROWS])
    torch.testing.assert_close(classifier.logits(ROWS, hooks), expected, **CLOSE)
    assert (expected - classifier.logits(ROWS)).abs().max() > 1e-3


def test_an_intervention_on_the_text_alone_leaves_the_decoder_as_it_is(t5):
    classifier = make_classifier(t5)
    before, where = classifier.logits(ROWS), classifier.layout.positions("text")
    for layer, moves in ((0, True), (N_ENCODER, False)):
        mask = torch.zeros(N_ENCODER + N_DECODER, 29, dtype=torch.bool)
        mask[layer] = True
        after = classifier.logits(ROWS, zero(NeuronSet(mask), positions=where))
        assert bool((after - before).abs().max() > 1e-3) == moves


def test_the_result_of_a_row_does_not_depend_on_its_batch(pair):
    classifier = make_classifier(pair[1])
    together, collected = classifier.logits(ROWS), collect(classifier, ROWS, Examples(len(ROWS))).values
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(classifier.logits([row])[0], together[i], **CLOSE)
        torch.testing.assert_close(collect(classifier, [row], Examples(1)).values[0], collected[i], **CLOSE)


def test_means_over_the_text_see_the_decoders_position_as_often_as_the_text_is_long(t5):
    classifier = make_classifier(t5)
    means = collect(classifier, ROWS[:1], TextSums(), positions="text").mean
    one = collect(classifier, ROWS[:1], Examples(1)).values[0, 0]
    torch.testing.assert_close(means[N_ENCODER:], one[N_ENCODER:].double(), **CLOSE)


@pytest.mark.filterwarnings("ignore::skillneurons.tuning.TuningWarning")
def test_t5_goes_the_whole_way(t5, tiny_task):
    before = t5.fingerprint()
    config = TuningConfig(steps=12, batch_size=16, eval_every=6, lr=3e-2)
    classifier = tune_prompt(t5.bridge, tiny_task, n_prompt=N_PROMPT, config=config, progress=False)
    assert classifier.prompt.seed is not None
    start = make_classifier(t5, seed=classifier.prompt.seed)
    assert mean_loss(classifier, tiny_task.train) < mean_loss(start, tiny_task.train) - 0.02
    assert t5.fingerprint() == before
    assert not any(point.has_hooks() for point in t5.hook_dict.values())
    scores = find_skill_neurons(classifier, tiny_task)
    assert scores.predictivity.shape == (N_ENCODER + N_DECODER, 29)
    for positions in ("prompt", "all"):
        curve = perturbation_curve(classifier, tiny_task, scores, fractions=(0.2,), n_random=2, positions=positions)
        assert curve.unperturbed == evaluate(classifier, tiny_task.test)
        assert curve.skill_margin[0] != curve.unperturbed.margin


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.5.mlp.hook_post", r"T5ForConditionalGeneration\) has no hook point 'blocks.5.mlp.hook_post'"),
        ("blocks.4.mlp.hook_nothing", "no hook point 'decoder_blocks.2.mlp.hook_nothing'"),
    ],
)
def test_a_hook_that_neither_stack_has_is_named(t5, hook, message):
    with pytest.raises(ValueError, match=message):
        t5.hooks(fwd_hooks=[(hook, lambda x, hook=None: x)])


def test_a_decoder_without_a_start_token_is_refused(t5, monkeypatch):
    monkeypatch.setattr(t5.bridge.original_model.config, "decoder_start_token_id", None)
    with pytest.raises(ValueError, match="has no `decoder_start_token_id`"):
        as_classifiable(t5.bridge)


def test_a_bridge_that_bypasses_its_stacks_is_refused(t5, monkeypatch):
    monkeypatch.setattr(t5.bridge.original_model.config, "is_encoder_decoder", False)
    with pytest.raises(ValueError, match=r"has no hook point 'blocks\.0\.mlp\.hook_post'"):
        as_classifiable(t5.bridge)
