"""Statistics at the text's positions, and interventions there, against slow loops over single rows."""

import pytest
import torch
from helpers import unchecked
from planted import planted_classifier

from skillneurons import LabelSums, NeuronSet, collect, evaluate
from skillneurons.activations.text import Pooled, TextExamples, TextSums, pool_positions
from skillneurons.interventions.hooks import resample_words
from skillneurons.interventions.perturbation import intervention
from skillneurons.interventions.sweep import logits_many


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0, n_train=31, n_validation=17, n_test=23)


def text_activations(classifier, rows):
    """For each row by itself, with no padding: activations at the text's positions, [pos layer neuron]."""
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(classifier.model.cfg.n_layers)]
    result = []
    for row in rows:
        (batch,) = classifier.batches([row])
        with classifier.model.hooks(fwd_hooks=classifier.fwd_hooks):
            _, cache = classifier.model.run_with_cache(batch.tokens, names_filter=names)
        result.append(torch.stack([cache[name][0, classifier.layout.n_prefix :] for name in names], dim=1))
    return result


def test_text_mean_is_that_of_all_words_without_padding(planted):
    single = text_activations(planted.classifier, planted.task.train)
    assert len({len(one) for one in single}) > 1
    sums = collect(planted.classifier, planted.task.train, TextSums(), positions="text", tokens_per_batch=100)
    assert sums.n == sum(len(one) for one in single)
    torch.testing.assert_close(sums.mean.float(), torch.cat(single).mean(0), rtol=1e-4, atol=1e-5)


def test_text_sums_of_two_passes_add_up(planted):
    rows = planted.task.train
    whole = collect(planted.classifier, rows, TextSums(), positions="text")
    parts = [collect(planted.classifier, part, TextSums(), positions="text") for part in (rows[:13], rows[13:])]
    merged = parts[0].merge(parts[1])
    assert merged.n == whole.n
    # In other batches, activations in float32 may differ by rounding.
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooled_activations_are_those_of_each_row_alone(planted, how):
    single = text_activations(planted.classifier, planted.task.train)
    wanted = torch.stack([one.mean(0) if how == "mean" else one.amax(0) for one in single])
    labels = torch.tensor(planted.task.train.labels)
    sums = Pooled(LabelSums(2), how)
    got = collect(planted.classifier, planted.task.train, sums, positions="text", tokens_per_batch=100).inner.label_mean
    for label in (0, 1):
        torch.testing.assert_close(got[label, 0].float(), wanted[labels == label].mean(0), rtol=1e-4, atol=1e-5)


def test_sampled_words_are_words_of_the_text(planted):
    rows = planted.task.train
    words = torch.cat(text_activations(planted.classifier, rows))
    sample = collect(planted.classifier, rows, TextExamples(7, seed=3), positions="text").values
    distance = (sample[:, None] - words[None]).abs().amax(dim=(2, 3)).amin(dim=1)
    assert sample.shape == (7, *words.shape[1:]) and distance.max() < 1e-5
    again = collect(planted.classifier, rows, TextExamples(7, seed=3), positions="text").values
    other = collect(planted.classifier, rows, TextExamples(7, seed=4), positions="text").values
    assert torch.equal(sample, again) and not torch.equal(sample, other)


def test_mean_everywhere_puts_each_position_at_its_own_mean(planted):
    classifier, task = planted.classifier, planted.task
    hooks = intervention("mean", classifier, task, positions="all")(planted.neurons)
    front = collect(classifier, task.train, LabelSums(2), positions="mask_and_prompt").mean.float()
    text = collect(classifier, task.train, TextSums(), positions="text").mean.float()
    (batch,) = classifier.batches(task.test[:1])
    chosen = planted.neurons.indices(1)
    with classifier.model.hooks(fwd_hooks=[*classifier.fwd_hooks, *hooks]):
        _, cache = classifier.model.run_with_cache(batch.tokens)
    n_prefix = classifier.layout.n_prefix
    assert torch.equal(cache["post", 1][0, :n_prefix][:, chosen], front[:, 1, chosen])
    assert torch.equal(cache["post", 1][0, n_prefix:][0, chosen], text[1, chosen])
    others = (~planted.neurons).indices(0)
    with classifier.model.hooks(fwd_hooks=classifier.fwd_hooks):
        _, before = classifier.model.run_with_cache(batch.tokens)
    torch.testing.assert_close(cache["post", 0][..., others], before["post", 0][..., others])


@pytest.mark.parametrize("kind", ["mean", "zero", "gaussian", "resample"])
@pytest.mark.parametrize("positions", ["prompt", "text", "all"])
def test_every_kind_works_at_every_position_and_leaves_no_trace(planted, kind, positions):
    classifier, rows = planted.classifier, planted.task.test
    perturb = intervention(kind, classifier, planted.task, positions=positions, sigma=2.0, seed=1, n_source=10)
    before = classifier.logits(rows)
    with_hooks = classifier.logits(rows, perturb(planted.neurons))
    assert not torch.equal(before, with_hooks)
    assert torch.equal(before, classifier.logits(rows))
    if kind != "gaussian":
        accuracy = evaluate(classifier, rows, perturb(planted.neurons)).accuracy
        # Words carry the signal too, but only the prompt's neurons are read.
        assert accuracy > 0.9 if positions == "text" else accuracy < 0.8


def test_the_last_layers_prompt_positions_feed_nothing_the_mask_reads(planted):
    classifier, n_layers = planted.classifier, planted.classifier.model.cfg.n_layers
    last = NeuronSet(torch.ones_like(planted.neurons.mask), planted.neurons.model).layers(n_layers - 1)
    stop = classifier.layout.positions("prompt").stop
    prompt, everywhere = (
        intervention("zero", classifier, planted.task, positions=where)(last) for where in ("prompt", "all")
    )
    before, at_prompt = logits_many(classifier, planted.task.test, [[], prompt], last_block_to=stop)
    torch.testing.assert_close(at_prompt, before, rtol=1e-5, atol=1e-5)
    changed = logits_many(classifier, planted.task.test, [everywhere])[0]
    assert (changed - before).abs().max() > 1e-2


def test_resampled_words_come_from_one_source_word_for_each_position():
    neurons = NeuronSet.from_pairs([(0, 1), (0, 2)], n_layers=1, d_mlp=3)
    source = torch.arange(5 * 3.0).reshape(5, 1, 3)
    ((_, hook),) = resample_words(neurons, source, seed=0, positions=slice(1, None))
    before = torch.full((7, 11, 3), -1.0)
    after = hook(before)
    assert after is not None
    assert bool((after[:, 0] == -1).all()) and bool((after[..., 0] == -1).all())
    assert torch.equal(after[:, 1:, 2] - after[:, 1:, 1], torch.ones(7, 10))
    assert len(after[:, 1:, 1].unique()) == 5 and len(after[0, 1:, 1].unique()) > 1


def test_errors_say_what_came(planted, unchecked_types):
    with pytest.raises(ValueError, match=r"LabelSums needs the same positions.*'text'"):
        collect(planted.classifier, planted.task.train, LabelSums(2), positions="text")
    with pytest.raises(ValueError, match="not 'median'"):
        pool_positions(torch.ones(2, 3, 5), torch.ones(2, 3, dtype=torch.bool), unchecked("median"))
    with pytest.raises(ValueError, match="Row 1 has padding only"):
        pool_positions(torch.ones(2, 3, 5), torch.tensor([[True] * 3, [False] * 3]), "mean")
    with pytest.raises(ValueError, match="not 'words'"):
        planted.classifier.layout.positions("words")
