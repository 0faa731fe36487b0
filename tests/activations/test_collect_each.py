"""Passes under several interventions that share what lies below them."""

from dataclasses import replace

import pytest
import torch

from skillneurons import AboveCounts, LabelSums, collect, find_skill_neurons, gaussian, load_example, zero
from skillneurons.activations._collect import collect_each
from skillneurons.interventions import logits_many


@pytest.fixture(scope="module")
def scored():
    classifier, task = load_example()
    return classifier, task, find_skill_neurons(classifier, task, progress=False)


def hooks_of(layer, scores, seeds=2):
    skill = scores.top(0.05).layers(layer)
    return [zero(skill), *(zero(skill.random_like(seed=seed)) for seed in range(seeds)), []]


@pytest.mark.parametrize("positions", ["prompt", "mask", "text, mean"])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_each_is_to_the_bit_as_of_a_pass_of_its_own(scored, layer, positions):
    classifier, task, scores = scored
    rows = classifier.encode(task.test)
    hooks = hooks_of(layer, scores)
    found = collect_each(classifier, rows, [(one, LabelSums(2)) for one in hooks], positions=positions)
    for one, sums in zip(hooks, found, strict=True):
        alone = collect(replace(classifier, extra_hooks=one), rows, LabelSums(2), positions=positions)
        assert torch.equal(sums.mean, alone.mean)
        assert torch.equal(sums.n, alone.n)
    assert not torch.equal(found[0].mean, found[-1].mean)


def test_what_lies_below_is_computed_once(scored, monkeypatch):
    classifier, task, scores = scored
    seen = []
    for layer, block in enumerate(classifier.model.blocks):
        monkeypatch.setattr(
            block,
            "forward",
            lambda *given, layer=layer, was=block.forward, **rest: (seen.append(layer), was(*given, **rest))[1],
        )
    rows = classifier.encode(task.test[:4])
    collect_each(classifier, rows, [(one, LabelSums(2)) for one in hooks_of(2, scores)])
    assert [seen.count(layer) for layer in range(4)] == [1, 1, 4, 4]


def test_a_classifiers_own_noise_below_is_the_rows_own(scored):
    classifier, task, scores = scored
    noisy = replace(classifier, extra_hooks=gaussian(scores.top(0.2).layers(1), sigma=1.0, seed=0))
    rows, held = classifier.encode(task.test), zero(scores.top(0.05).layers(2))
    alone = replace(noisy, extra_hooks=[*noisy.extra_hooks, *held])
    # Two, so that what lies below is shared.
    sums = collect_each(noisy, rows, [(held, LabelSums(2)), ([], LabelSums(2))])[0]
    assert torch.equal(sums.mean, collect(alone, rows, LabelSums(2)).mean)
    torch.testing.assert_close(logits_many(noisy, rows, [held])[0], alone.logits(rows), rtol=1e-5, atol=1e-5)


def test_wrong_calls_are_refused(scored):
    classifier, task, _ = scored
    rows, baseline = classifier.encode(task.test), torch.zeros(16, 4, 768)
    with pytest.raises(ValueError, match="differ in length"):
        collect_each(classifier, rows, [([], AboveCounts(baseline, 2))], positions="text")
    with pytest.raises(ValueError, match="label"):
        collect_each(classifier, rows, [([], LabelSums(2)), ([], LabelSums(1))])
