"""Pruning against mean ablation, against slow loops, and on a model whose neurons that matter are known."""

import dataclasses
import sys
import warnings

import pytest
import torch
from helpers import legend_of, unchecked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import planted_classifier
from torch.utils.flop_counter import FlopCounterMode

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import Moments
from skillneurons.applications._pruning_controls import PruningControls, pruning_controls
from skillneurons.applications._pruning_report import PruningReport, pruning_report
from skillneurons.applications.pruning import forward_flops, n_parameters, prune, weight_magnitude
from skillneurons.classifiers.classifier import Classifier, label_logits
from skillneurons.classifiers.evaluation import evaluate
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.classifiers.tuning import TuningConfig, TuningWarning, tune_prompt
from skillneurons.interventions.hooks import mean, zero
from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import find_skill_neurons
from skillneurons.plots import plot_pruning
from skillneurons.utilities.store import StoreError

N_LAYERS, D_MLP = 2, 29


def classifier_of(model, task, n_prompt=3):
    words = Verbalizer.from_words(model.tokenizer, task.label_words)
    return Classifier(model, random_prompt(model, n_prompt, seed=1), words, task.labels)


@pytest.fixture
def classifier(tiny_model, tiny_task):
    return classifier_of(tiny_model, tiny_task)


@pytest.fixture
def baseline(classifier, tiny_task):
    return collect(classifier, tiny_task.train, LabelSums(2)).mean


def neuron_set(seed, *shares):
    """A random set that holds about the given share of each layer."""
    draw = torch.rand(len(shares), D_MLP, generator=torch.Generator().manual_seed(seed))
    return NeuronSet(draw < torch.tensor(shares)[:, None])


# Pruned equals mean-ablated


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), first=st.sampled_from([0, 0.1, 0.6, 1]), last=st.sampled_from([0, 0.1, 0.6, 1]))
def test_pruned_logits_are_those_of_ablating_the_removed_neurons_everywhere(
    classifier, baseline, tiny_task, seed, first, last
):
    keep, rows = neuron_set(seed, first, last), tiny_task.test
    pruned = prune(classifier, keep, baseline)
    expected = classifier.logits(rows, mean(~keep, baseline.mean(dim=0)))
    torch.testing.assert_close(pruned.logits(rows), expected, rtol=0, atol=1e-4)
    assert pruned.model.cfg.d_mlps == tuple(keep.per_layer.tolist())


def test_ablating_the_kept_neurons_instead_is_something_else(classifier, baseline, tiny_task):
    keep = neuron_set(0, 0.5, 0.5)
    ablated = classifier.logits(tiny_task.test, mean(keep, baseline.mean(dim=0)))
    assert (prune(classifier, keep, baseline).logits(tiny_task.test) - ablated).abs().max() > 0.1


def test_folded_bias_is_that_of_a_loop_over_the_removed_neurons(classifier, baseline):
    keep, layer = neuron_set(3, 0.3, 0.7), 1
    pruned = prune(classifier, keep, baseline).model.blocks[layer].mlp
    old = classifier.model.blocks[layer].mlp
    for d in range(16):
        value = old.output.bias[d].item()
        for neuron in range(D_MLP):
            if (layer, neuron) not in keep:
                value += old.output.weight[d, neuron].item() * baseline[:, layer, neuron].mean().item()
        assert pruned.output.bias[d].item() == pytest.approx(value, abs=1e-5)
    for new, neuron in enumerate(keep.indices(layer).tolist()):
        assert torch.equal(pruned.input.weight[new], old.input.weight[neuron])
        assert pruned.input.bias[new] == old.input.bias[neuron]
        assert torch.equal(pruned.output.weight[:, new], old.output.weight[:, neuron])


def test_keeping_all_neurons_gives_the_same_model(classifier, baseline, tiny_task):
    pruned = prune(classifier, neuron_set(0, 1, 1), baseline)
    assert pruned.model.fingerprint() == classifier.model.fingerprint()
    assert torch.equal(pruned.logits(tiny_task.test), classifier.logits(tiny_task.test))
    assert pruned.model.cfg.source == classifier.model.cfg.source


def test_keeping_none_leaves_layers_of_no_neurons_that_still_pass_gradients(classifier, baseline, tiny_task):
    pruned = prune(classifier, neuron_set(0, 0, 0), baseline)
    assert pruned.model.cfg.d_mlps == (0, 0)
    config = TuningConfig(steps=2, eval_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        tuned = tune_prompt(pruned.model, tiny_task, start=pruned.prompt, config=config, progress=False)
    assert not torch.equal(tuned.prompt.vectors, pruned.prompt.vectors)


def test_only_the_layers_asked_for_are_pruned(classifier, baseline):
    keep = neuron_set(0, 0.5, 0.5)
    pruned = prune(classifier, keep, baseline, layers=[1]).model
    assert pruned.cfg.d_mlps == (D_MLP, int(keep.per_layer[1]))
    assert torch.equal(pruned.blocks[0].mlp.output.bias, classifier.model.blocks[0].mlp.output.bias)


def test_pruning_twice_is_pruning_once(classifier, baseline, tiny_task):
    first, values = neuron_set(1, 0.7, 0.7), baseline.mean(dim=0)
    once = prune(classifier, first & neuron_set(2, 0.5, 1), values)
    half = prune(classifier, first, values)
    # The second set and the means in the addresses of the model that the first pruning left.
    widths, mask = half.model.cfg.d_mlps, torch.zeros(N_LAYERS, max(half.model.cfg.d_mlps)).bool()
    moved = torch.zeros(mask.shape, dtype=values.dtype)
    for layer in range(N_LAYERS):
        kept = first.indices(layer)
        mask[layer, : len(kept)] = neuron_set(2, 0.5, 1).mask[layer, kept]
        moved[layer, : len(kept)] = values[layer, kept]
    twice = prune(half, NeuronSet(mask, d_mlps=widths), moved)
    torch.testing.assert_close(twice.logits(tiny_task.test), once.logits(tiny_task.test), rtol=0, atol=1e-4)
    assert twice.model.cfg.d_mlps == once.model.cfg.d_mlps


def test_the_old_classifier_stays_and_the_prompt_names_the_new_model(classifier, baseline, tiny_task):
    before, logits = classifier.model.fingerprint(), classifier.logits(tiny_task.test)
    pruned = prune(classifier, neuron_set(0, 0.5, 0.5), baseline)
    assert classifier.model.fingerprint() == before and torch.equal(classifier.logits(tiny_task.test), logits)
    assert pruned.prompt.model == pruned.model.fingerprint() != before
    with torch.no_grad():
        pruned.model.embed.word.weight.zero_()
        pruned.prompt.vectors.zero_()
    assert classifier.model.fingerprint() == before and torch.equal(classifier.logits(tiny_task.test), logits)


def test_pruning_draws_no_random_numbers(classifier, baseline):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    prune(classifier, neuron_set(0, 0.5, 0.5), baseline)
    assert torch.equal(torch.rand(2), expected)


# Errors


def test_sets_means_and_layers_of_another_model_are_refused(classifier, baseline, unchecked_types):
    keep = neuron_set(0, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"\(28, 28\) neurons per layer, but the model has \(29, 29\)"):
        prune(classifier, NeuronSet(keep.mask[:, 1:]), baseline)
    with pytest.raises(ValueError, match=f"fingerprint abc, but the classifier's has {classifier.prompt.model}"):
        prune(classifier, dataclasses.replace(keep, model="abc"), baseline)
    with pytest.raises(ValueError, match=r"\(2, 29\) at the end, but has \(3, 2, 28\)"):
        prune(classifier, keep, baseline[..., 1:])
    with pytest.raises(ValueError, match="`layers` has 2, but the model has layers 0 to 1"):
        prune(classifier, keep, baseline, layers=[0, 2])
    with pytest.raises(ValueError, match="NaN or infinite in layer 1"):
        prune(classifier, keep, torch.where(torch.arange(2)[:, None] == 1, torch.nan, baseline))


def test_own_hooks_on_pruned_neurons_are_refused_and_others_kept(classifier, baseline, tiny_task):
    keep = neuron_set(0, 1, 0.5)
    with_hook = dataclasses.replace(classifier, extra_hooks=zero(NeuronSet.from_pairs([(1, 4)], n_layers=2, d_mlp=29)))
    with pytest.raises(ValueError, match=r"hook of its own on blocks\.1\.mlp\.hook_post"):
        prune(with_hook, keep, baseline)
    elsewhere = dataclasses.replace(classifier, extra_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: x + 0.5)])
    expected = elsewhere.logits(tiny_task.test, mean(~keep, baseline.mean(dim=0)))
    torch.testing.assert_close(prune(elsewhere, keep, baseline).logits(tiny_task.test), expected, rtol=0, atol=1e-4)


# Files and Hugging Face


@pytest.mark.parametrize("shares", [(0.3, 0.8), (0, 0.5), (1, 1)])
def test_a_pruned_encoder_and_its_classifier_come_back_from_a_folder(classifier, baseline, tiny_task, tmp_path, shares):
    pruned = prune(classifier, neuron_set(4, *shares), baseline)
    pruned.model.save(tmp_path / "model")
    pruned.save(tmp_path / "classifier")
    model = HookedEncoder.from_pretrained(tmp_path / "model")
    again = Classifier.load(tmp_path / "classifier", model)
    assert torch.equal(again.logits(tiny_task.test), pruned.logits(tiny_task.test))
    assert model.cfg == dataclasses.replace(
        pruned.model.cfg, hf_config=model.cfg.hf_config, source=str(tmp_path / "model")
    )
    assert model.tokenizer.get_vocab() == pruned.model.tokenizer.get_vocab()


def test_a_saved_encoder_keeps_weights_without_a_use_and_does_without_a_tokenizer(build_hf, tmp_path):
    model = HookedEncoder.from_hf(build_hf("bert-headless"))
    assert model.unused_weights
    again = HookedEncoder.from_pretrained(model.save(tmp_path))
    assert again.tokenizer is None and again.unused_weights.keys() == model.unused_weights.keys()
    theirs, ours = again.to_hf().state_dict(), model.to_hf().state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_damaged_folder_is_refused(tiny_model, tmp_path):
    tiny_model.save(tmp_path)
    weights = tmp_path / "encoder.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StoreError, match=r"encoder\.safetensors is damaged"):
        HookedEncoder.from_pretrained(tmp_path)
    described = tmp_path / "encoder.json"
    tiny_model.save(tmp_path)
    text = described.read_text().replace('"d_mlps"', '"d_new"').replace('"format_version": 2', '"format_version": 1')
    described.write_text(text.replace('"digest"', '"unchecked"'))
    with pytest.raises(StoreError, match="an encoder with 'd_new'"):
        HookedEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("architecture", ["roberta", "bert", "bert-untied", "roberta-headless"])
def test_uniform_widths_export_to_hugging_face(build_hf, architecture):
    model = HookedEncoder.from_hf(build_hf(architecture))
    prompt = random_prompt(model, 3)
    classifier = Classifier(model, prompt, Verbalizer(("a", "b"), (7, 11)))
    mask = torch.zeros(N_LAYERS, D_MLP).bool()
    mask[:, 5:12] = True
    pruned = prune(classifier, NeuronSet(mask), torch.ones(N_LAYERS, D_MLP)).model
    assert isinstance(pruned, HookedEncoder)
    assert pruned.cfg.d_mlp == pruned.cfg.hf_config["intermediate_size"] == 7
    exported = pruned.to_hf()
    assert exported.config.intermediate_size == 7
    tokens = torch.tensor([[5, 8, 13, 21, 34]])
    back = HookedEncoder.from_hf(exported)
    assert back.fingerprint() == pruned.fingerprint() and torch.equal(back(tokens), pruned(tokens))


def test_different_widths_do_not_export_and_the_error_names_them(classifier, baseline):
    keep = NeuronSet.from_pairs([(0, 3), (1, 4), (1, 5)], n_layers=2, d_mlp=29)
    pruned = prune(classifier, keep, baseline).model
    with pytest.raises(ValueError, match=r"this pruned encoder has \(1, 2\)"):
        pruned.to_hf()
    with pytest.raises(ValueError, match=r"different widths \(1, 2\)"):
        _ = pruned.W_in


# Sets, interventions and statistics on layers of different widths


@pytest.fixture
def ragged(classifier, baseline):
    mask = torch.zeros(N_LAYERS, D_MLP).bool()
    mask[0, :5], mask[1, 4:15] = True, True
    return prune(classifier, NeuronSet(mask), baseline)


def test_sets_of_a_ragged_model_hold_only_neurons_that_exist(ragged, tmp_path):
    widths = ragged.model.cfg.d_mlps
    chosen = NeuronSet.from_pairs([(0, 4), (1, 10)], n_layers=2, d_mlp=widths)
    assert widths == (5, 11) and chosen.mask.shape == (2, 11)
    assert len(~chosen) == 14 and len(chosen | ~chosen) == 16 and (~chosen).per_layer.tolist() == [4, 10]
    for match in ("layer", "none", torch.zeros(2, 11)):
        drawn = chosen.random_like(seed=3, match=match)
        assert len(drawn) == 2 and not len(drawn & chosen) and bool(drawn.exists[drawn.mask].all())
    chosen.save(tmp_path / "set")
    assert NeuronSet.load(tmp_path / "set").d_mlps == widths
    with pytest.raises(ValueError, match=r"neuron \(0, 7\), but layer 0 has 5"):
        NeuronSet(torch.arange(11) == torch.tensor([[7], [3]]), d_mlps=widths)
    with pytest.raises(ValueError, match=r"no neuron \(0, 5\)"):
        NeuronSet.from_pairs([(0, 5)], n_layers=2, d_mlp=widths)


def test_interventions_reach_a_ragged_model_and_refuse_sets_of_another(ragged, tiny_task):
    chosen = NeuronSet.from_pairs([(0, 4), (1, 10)], n_layers=2, d_mlp=ragged.model.cfg.d_mlps)
    rows = tiny_task.test
    assert not torch.equal(ragged.logits(rows, zero(chosen)), ragged.logits(rows))
    with pytest.raises(ValueError, match="`neurons` has 29 neurons in layer 0, but this model has 5"):
        ragged.logits(rows, zero(neuron_set(0, 0.5, 0.5)))
    with pytest.raises(ValueError, match="`neurons` has 11 neurons in layer 0, but this model has 5"):
        ragged.logits(rows, zero(NeuronSet(chosen.mask)))


def test_statistics_of_a_ragged_model_come_layer_by_layer(ragged, tiny_task):
    sums = collect(ragged, tiny_task.train, LabelSums(2))
    assert [tuple(total.shape) for total in sums.totals] == [(2, 3, 5), (2, 3, 11)]
    for read in (
        lambda: sums.mean,
        lambda: sums.label_mean,
        lambda: collect(ragged, tiny_task.test, Examples(len(tiny_task.test))).values,
        lambda: find_skill_neurons(ragged, tiny_task),
        lambda: collect(ragged, tiny_task.test, Moments(), positions="all").sd,
    ):
        with pytest.raises(ValueError, match=r"different numbers of neurons, \[5, 11\]"):
            read()


# Costs


def test_flops_are_those_that_torch_counts(classifier, baseline, tiny_task):
    for subject in (classifier, prune(classifier, neuron_set(1, 0.4, 0.2), baseline)):
        batch = next(subject.batches(tiny_task.test[:1]))
        # Torch counts the products of attention only where they are not fused.
        scores = [(f"blocks.{layer}.attn.hook_attn_scores", lambda x, hook: x) for layer in range(N_LAYERS)]
        assert isinstance(subject.model, HookedEncoder)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), subject.model.hooks(fwd_hooks=[*subject.fwd_hooks, *scores]), counter:
            label_logits(subject, batch, last_block_to=1)
        assert forward_flops(subject.model.cfg, batch.tokens.shape[1], 2) == counter.get_total_flops()


def test_moments_are_those_of_a_loop_over_tokens(classifier, tiny_task):
    moments = collect(classifier, tiny_task.test, Moments(), positions="all")
    values = []
    for row in tiny_task.test:
        (batch,) = classifier.batches([row])
        with classifier.model.hooks(fwd_hooks=classifier.fwd_hooks):
            _, cache = classifier.model.run_with_cache(batch.tokens, batch.mask)
        values.append(torch.stack([cache["post", layer][0] for layer in range(N_LAYERS)], dim=1))
    values = torch.cat(values).double()
    assert moments.n == len(values)
    torch.testing.assert_close(moments.mean, values.mean(dim=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.sd, values.std(dim=0, correction=0), rtol=1e-4, atol=1e-5)


def test_magnitude_is_the_product_of_a_neurons_two_norms(tiny_model):
    mlp = tiny_model.blocks[1].mlp
    expected = mlp.input.weight[17].norm() * mlp.output.weight[:, 17].norm()
    assert weight_magnitude(tiny_model)[1, 17].item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_kept_are_those_of_roberta_base_in_the_paper():
    cfg = EncoderConfig(
        d_model=768, d_head=64, n_heads=12, n_layers=12, n_ctx=512, d_vocab=50265, d_mlp=3072, act_fn="gelu"
    )
    kept = round(0.02 * 3072)
    with torch.device("meta"):
        whole = HookedEncoder(cfg)
        pruned = HookedEncoder(dataclasses.replace(cfg, d_mlps=(3072,) * 3 + (kept,) * 9))
    assert n_parameters(pruned) / n_parameters(whole) == pytest.approx(0.666, abs=5e-4)


# Where the truth is known


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0)


@pytest.fixture(scope="module")
def planted_scores(planted):
    return find_skill_neurons(planted.classifier, planted.task)


def test_the_planted_neurons_alone_carry_the_accuracy(planted):
    classifier, rows = planted.classifier, planted.task.test
    means = collect(classifier, planted.task.train, LabelSums(2)).mean
    before = evaluate(classifier, rows).accuracy
    without = prune(classifier, ~planted.neurons, means)
    assert before > 0.95
    assert evaluate(prune(classifier, planted.neurons, means), rows).accuracy > 0.95
    assert evaluate(without, rows).accuracy < 0.65


def test_the_report_tells_skill_from_magnitude_and_chance(planted, planted_scores):
    fraction = 2 / 29
    report = pruning_report(
        planted.classifier, planted.task, planted_scores, fractions=(fraction, 1.0), layers=[0, 1], n_random=2
    )
    assert report.sets == ("skill", "magnitude", "output variance", "random", "random")
    assert report.pruned[0, 0] > 0.95 and report.pruned[3:, 0].max() < 0.75
    assert report.retuned.isnan().all()
    # Nothing is removed where everything is kept, by whatever choice.
    assert torch.equal(report.pruned[:, 1], torch.full((5,), report.before.accuracy).double())
    assert report.parameters[1] == report.full_parameters and report.flops[1] == report.full_flops
    # Two neurons of 29 in two layers: 54 columns, rows and biases go.
    d_model = planted.model.cfg.d_model
    assert report.full_parameters - report.parameters[0].item() == 2 * 27 * (2 * d_model + 1)


def test_the_report_tunes_the_prompt_on_each_pruned_model(planted, planted_scores, tmp_path):
    done = []
    report = pruning_report(
        planted.classifier,
        planted.task.subset(20),
        planted_scores,
        fractions=(0.1,),
        fold="everywhere",
        rank_by={"index": torch.arange(29).expand(3, 29).float()},
        n_random=1,
        retune=TuningConfig(steps=2, eval_every=1),
        progress=lambda what, *progress: done.append(progress),
    )
    assert done == [(i, 5) for i in range(1, 6)] and report.meta["layers"] == [0, 1, 2]
    assert not report.retuned.isnan().any()
    table = report.to_dataframe()
    assert table.choice.tolist() == ["skill", "magnitude", "output variance", "index", "random"]
    assert (table.pruned_low <= table.pruned).all() and (table.retuned <= table.retuned_high).all()
    report.save(tmp_path / "report")
    again = PruningReport.load(tmp_path / "report")
    assert again.to_dataframe().equals(table) and again.meta == report.meta and again.before == report.before
    for ax, wanted in (
        (plot_pruning(report), "prompt tuned again"),
        (plot_pruning(report, when="pruned"), "right after pruning"),
    ):
        assert wanted in ax.get_title(loc="left") and "layers 0 to 2" in ax.get_xlabel()


def test_a_report_without_retuning_has_no_such_figure(planted, planted_scores, unchecked_types):
    report = pruning_report(planted.classifier, planted.task.subset(8), planted_scores, fractions=(0.2,), n_random=0)
    assert "right after pruning" in plot_pruning(report).get_title(loc="left")
    for when in ("later", "retuned"):
        with pytest.raises(ValueError, match=f"not '{when}'"):
            plot_pruning(report, when=unchecked(when))


def test_report_settings_that_make_no_sense_are_refused(planted, planted_scores, unchecked_types):
    with pytest.raises(ValueError, match="not 'nowhere'"):
        pruning_report(planted.classifier, planted.task, planted_scores, fold=unchecked("nowhere"))
    with pytest.raises(ValueError, match="`rank_by` has 'magnitude'"):
        pruning_report(planted.classifier, planted.task, planted_scores, rank_by={"magnitude": torch.zeros(3, 29)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [3]}, "`layers` has 3"),
        ({"layers": []}, r"`layers` \[\]"),
        ({"fractions": ()}, "`fractions` needs one or more"),
        ({"fractions": (0.1, 1.1)}, "not 1.1"),
        ({"fold": "nowhere"}, "'nowhere'"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_any_pass(
    planted, planted_scores, monkeypatch, unchecked_types, changes, message
):
    module = sys.modules["skillneurons.applications._pruning_report"]
    monkeypatch.setattr(module, "collect", lambda *a, **k: pytest.fail("a pass was made"))
    with pytest.raises(ValueError, match=message):
        pruning_report(planted.classifier, planted.task, planted_scores, **changes)
    foreign = dataclasses.replace(planted_scores, meta=planted_scores.meta | {"model": "another"})
    with pytest.raises(ValueError, match="fingerprint another"):
        pruning_report(planted.classifier, planted.task, foreign)


# What a pruned classifier's accuracy is worth


def test_a_classifier_that_needs_neurons_is_told_from_one_that_needs_none(planted, planted_scores, tmp_path):
    means, rows = planted_scores.baseline[0], planted.task.test
    asked = {"n_random": 3, "seed": 1}
    needs = pruning_controls(planted.classifier, planted.neurons, means, rows, layers=[0, 1], **asked)
    assert not needs.needs_none and needs.pruned.accuracy > 0.95 and needs.nothing.accuracy < 0.75
    assert needs.lost[0] == pytest.approx(needs.before.accuracy - needs.nothing.accuracy) and needs.lost[1] > 0.1
    assert len(needs.random) == 3 and all(one.margin < needs.pruned.margin for one in needs.random)
    assert "needs none" not in str(needs) and f"{needs.nothing.accuracy:.3f} with no neuron kept" in str(needs)
    # At the prompt nothing of the last layer is read, and the planted model's is silent at the mask too.
    none = pruning_controls(planted.classifier, planted.neurons, means, rows, layers=[2], **asked)
    assert none.needs_none and none.nothing.accuracy > 0.95 and "It needs none of these layers' neurons" in str(none)
    assert PruningControls.load(none.save(tmp_path / "controls")) == none
    by_hand = prune(planted.classifier, planted.neurons - planted.neurons, means, layers=[0, 1])
    assert needs.nothing.accuracy == evaluate(by_hand, rows).accuracy and needs.nothing.margin < needs.before.margin


def test_the_report_says_what_is_left_with_nothing_kept(planted, planted_scores, tmp_path):
    report = pruning_report(
        planted.classifier, planted.task, planted_scores, fractions=(0.1,), layers=[0, 1], n_random=1
    )
    table = report.to_dataframe()
    assert report.nothing is not None
    assert report.nothing.accuracy < 0.75 and not report.needs_none and (table.nothing == report.nothing.accuracy).all()
    assert table.margin[0] > table.nothing_margin[0] and table.before_margin[0] == report.before.margin
    assert f"nothing kept {report.nothing.accuracy:.3f}" in repr(report)
    last = pruning_report(planted.classifier, planted.task, planted_scores, fractions=(0.1,), layers=[2], n_random=1)
    assert last.needs_none and "It needs none" in repr(last)
    assert "nothing kept" in legend_of(plot_pruning(last))
    again = PruningReport.load(report.save(tmp_path / "report"))
    assert again.to_dataframe().equals(table) and again.lost == report.lost
