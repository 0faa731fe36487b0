"""A TransformerBridge where analyses take a model: what they give on one, and what they say where it will not do."""

import pytest
import torch
from test_bridge import N_PROMPT, ROWS, boot, both, every_neuron, make_classifier, make_decoder
from test_bridge_t5 import make_seq2seq

from skillneurons import (
    HookedEncoder,
    LabelSums,
    NeuronSet,
    TuningConfig,
    collect,
    findings,
    gradient_attribution,
    integrated_gradients,
    prune,
    rival_scores,
    tune_adapter,
    tune_bitfit,
    zero,
)
from skillneurons.activations.cached import collect_cached
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.models.bridge import as_classifiable
from skillneurons.neurons.other_scores.from_decoders import output_of
from skillneurons.plots import plot_places
from skillneurons.runs._find import FindSettings, find
from skillneurons.runs._open_run import open_run

# Three steps are no tuning.
pytestmark = pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning")

QUICK = TuningConfig(steps=3, eval_every=3)
SETTINGS = FindSettings(
    seeds=(0, 3), n_prompt=2, tuning=QUICK, fraction=0.1, fractions=(0.1,), kinds=("zero",), n_random=1
)


@pytest.fixture(scope="module")
def roberta(build_hf, roberta_tokenizer, tmp_path_factory):
    """Ours and the bridge, of the same weights."""
    hf_model = build_hf("roberta", vocab_size=len(roberta_tokenizer))
    ours = HookedEncoder.from_hf(hf_model, roberta_tokenizer)
    return ours, as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp("roberta")))


@pytest.fixture(scope="module")
def gpt2(roberta_tokenizer, tmp_path_factory):
    hf_model = make_decoder("gpt2", len(roberta_tokenizer))
    return as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="module")
def t5(roberta_tokenizer, tmp_path_factory):
    # Its GELU is smooth: over the kinks of a ReLU, quadrature takes hundreds of points.
    hf_model = make_seq2seq("t5-gated-untied", len(roberta_tokenizer))
    return as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp("t5")))


# Attribution


def margin(classifier, hooks=(), rows=ROWS):
    encoded = classifier.encode(rows)
    return label_margin(classifier.logits(encoded, hooks).double(), encoded.labels).mean().item()


def moved(neuron, position, by):
    def hook_fn(activations, hook=None):
        changed = activations.clone()
        changed[:, position - N_PROMPT, neuron] += by
        return changed

    return hook_fn


@pytest.mark.parametrize("attribution", [gradient_attribution, integrated_gradients])
def test_attributions_through_the_bridge_are_those_on_our_encoder(roberta, attribution):
    one, other = both(roberta)
    expected = attribution(one, ROWS)
    torch.testing.assert_close(attribution(other, ROWS), expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 1e-2


def test_gradient_attribution_of_a_decoder_is_the_slope_of_the_margin(gpt2):
    classifier, step = make_classifier(gpt2), 0.02
    # `(a - b) dm/da` with b at zero, less that with b at one, is the slope.
    ones = torch.ones(N_PROMPT, 2, 29)
    slope = gradient_attribution(classifier, ROWS) - gradient_attribution(classifier, ROWS, baseline=ones)
    for layer, neuron, position in [(0, 3, 0), (0, 17, 2), (1, 5, 2), (1, 5, 1)]:
        name = f"blocks.{layer}.mlp.hook_post"
        up, down = (margin(classifier, [(name, moved(neuron, position, by))]) for by in (step, -step))
        assert slope[position, layer, neuron].item() == pytest.approx((up - down) / (2 * step), abs=2e-3)
    # What the last layer does at the last position is what the label is read from; elsewhere nothing reads it.
    assert slope[-1, 1].abs().min() > 0 and (slope[:-1, 1] == 0).all() and slope[:, 0].abs().min() > 0


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_integrated_gradients_of_a_layer_sum_to_the_effect_of_silencing_it(name, request):
    classifier, rows = make_classifier(request.getfixturevalue(name)), ROWS[:1]
    ours, where = integrated_gradients(classifier, rows, n_steps=20), classifier.layout.positions("prompt")
    whole = every_neuron(classifier.model).mask
    for layer in range(len(whole)):
        silenced = NeuronSet(whole & (torch.arange(len(whole)) == layer)[:, None])
        effect = margin(classifier, (), rows) - margin(classifier, zero(silenced, positions=where), rows)
        assert ours[:, layer].sum().item() == pytest.approx(effect, abs=1e-4, rel=1e-3) and abs(effect) > 1e-3


def test_every_rival_score_of_a_decoders_neurons_is_there(gpt2, tiny_task):
    values = rival_scores(make_classifier(gpt2), tiny_task, n_gradient_rows=8).values
    assert all(value.shape == (2, 29) and bool(value.isfinite().all()) for value in values.values())


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_what_neurons_of_a_bridge_write_adds_up_to_their_layers_output(name, request, tiny_task):
    model = request.getfixturevalue(name)
    tokens = torch.tensor([[5, 7, 11]])
    kept = []

    def keep(activations, hook=None):
        kept.append(activations.detach())

    hooks = [(f"blocks.0.{point}", keep) for point in ("mlp.hook_post", "hook_mlp_out")]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens)
    post, out = kept
    weight, bias = output_of(model, 0)
    torch.testing.assert_close(post @ weight + (0 if bias is None else bias), out, rtol=1e-4, atol=1e-5)
    values = rival_scores(make_classifier(model), tiny_task, ["cett", "lape"]).values
    assert all(bool(value.isfinite().all()) and value.max() > 0 for value in values.values())


# Findings


def test_a_decoder_has_no_mask_among_its_places(gpt2, tiny_task):
    result = findings.compare_places(make_classifier(gpt2), tiny_task)
    assert result.held_out.shape == (4, 2, 29) and "mask" not in result.places
    assert list(result.to_dataframe()["place"]) == list(result.places)
    assert len(plot_places(result).get_yticks()) == 4


# Runs


def test_a_run_on_a_bridge_is_found_and_opened_again_with_it(gpt2, tiny_model, tiny_task, tmp_path):
    found = find(gpt2.bridge, tiny_task, tmp_path / "run", SETTINGS)
    opened = open_run(found.folder, model=gpt2.bridge)
    assert torch.equal(opened.classifier(3).logits(ROWS), found.classifiers[1].logits(ROWS))
    assert len(find(gpt2, tiny_task, tmp_path / "run", SETTINGS).reused) == 5
    with pytest.raises(ValueError, match=rf"{gpt2.fingerprint()}.*{tiny_model.fingerprint()}"):
        open_run(found.folder, model=tiny_model)


# What needs weights or hook points that bridges lack


def test_an_adapter_is_tuned_on_a_bridge(gpt2, tiny_task):
    tuned = tune_adapter(gpt2.bridge, tiny_task, config=QUICK, progress=False)
    assert len(tuned.extra_hooks) == 2 * gpt2.cfg.n_layers


def test_what_needs_our_encoder_says_whether_there_is_one(gpt2, roberta, tiny_task):
    possible = {gpt2: r"GPT2LMHeadModel\. That cannot be one", roberta[1]: "Load it by `HookedEncoder.from_pretrained`"}
    for model, message in possible.items():
        classifier, whole = make_classifier(model), every_neuron(model)
        with pytest.raises(TypeError, match=f"Pruning.*{message}"):
            prune(classifier, whole, collect(classifier, ROWS, LabelSums(2)).mean)
        with pytest.raises(TypeError, match=f"BitFit.*{message}"):
            tune_bitfit(model.bridge, tiny_task, progress=False)


def test_a_cache_of_two_stacks_is_refused_by_name(t5):
    _, cache = t5.bridge.run_with_cache(torch.tensor([[4, 5, 7]]), decoder_input=torch.tensor([[7]]))
    with pytest.raises(ValueError, match=r"encoder-decoder.* `collect`"):
        collect_cached([(cache, torch.tensor([1]))], LabelSums(2), positions=[0])
