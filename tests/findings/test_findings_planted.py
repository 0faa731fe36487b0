"""The planted model is what the other tests take it for."""

import pytest
import torch
from planted import planted_classifier

from skillneurons import evaluate, find_skill_neurons, zero


@pytest.mark.parametrize("which", [0, 1, 2])
def test_search_finds_the_planted_neurons_and_no_others(which):
    planted = planted_classifier(which)
    scores = find_skill_neurons(planted.classifier, planted.task)
    found = scores.top(len(planted.neurons) / planted.neurons.mask.numel(), per_layer=False)
    assert found == planted.neurons
    assert scores.predictivity[planted.neurons.mask].min() > 0.97
    assert scores.predictivity[~planted.neurons.mask].max() < 0.75


@pytest.mark.parametrize("which", [0, "topics"])
def test_only_the_planted_neurons_are_needed_at_the_prompt(which):
    planted = planted_classifier(which)
    where = planted.classifier.layout.positions("prompt")
    assert evaluate(planted.classifier, planted.task.test).accuracy == 1
    without = evaluate(planted.classifier, planted.task.test, zero(planted.neurons, positions=where))
    assert without.accuracy < 1.3 / planted.task.n_labels
    alone = evaluate(planted.classifier, planted.task.test, zero(~planted.neurons, positions=where))
    assert alone.accuracy > 0.99


def test_the_model_is_the_same_for_every_task_and_seed():
    one, two = planted_classifier(0, seed=0), planted_classifier("topics", seed=1)
    assert one.model.fingerprint() == two.model.fingerprint()
    assert not torch.equal(one.classifier.prompt.vectors, two.classifier.prompt.vectors)
