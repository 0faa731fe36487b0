"""CETT and LAPE against slow loops, and on neurons whose truth is known."""

import math

import pytest
import torch
from planted import planted_classifier, planted_neurons, planted_task

from skillneurons import AboveCounts, HookedEncoder, collect, rival_scores
from skillneurons.activations.examples import Examples
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.neurons.other_scores.from_decoders import (
    Contributions,
    activation_entropy,
    class_specificity,
    output_of,
)


@pytest.fixture
def classifier(tiny_model):
    return make_classifier(tiny_model)


def make_classifier(model, n_prompt=3):
    words = Verbalizer.from_words(model.tokenizer, ["terrible", "great"])
    return Classifier(model, random_prompt(model, n_prompt, 0), words, ("negative", "positive"))


def raw(classifier, rows):
    return collect(classifier, rows, Examples(len(rows))).values.double()


# CETT


def contributions_by_hand(classifier, rows):
    """One neuron, one position and one row at a time, from the layer's own output."""
    seen = {}

    def look(activations, hook):
        seen[hook.name] = activations.detach().double()

    model, values = classifier.model, raw(classifier, rows)
    totals = torch.zeros(values.shape[1:], dtype=torch.float64)
    n_layers = model.cfg.n_layers
    hooks = [(f"blocks.{layer}.hook_mlp_out", look) for layer in range(n_layers)]
    for i, row in enumerate(rows):
        # The whole last block, so that its output is there at every position of the prompt.
        (batch,) = classifier.batches([row])
        with torch.no_grad(), model.hooks(fwd_hooks=[*classifier.fwd_hooks, *hooks]):
            model(batch.tokens, batch.mask)
        for layer in range(n_layers):
            out = seen[f"blocks.{layer}.hook_mlp_out"][0, classifier.layout.positions("prompt")]
            for position in range(out.shape[0]):
                for neuron in range(values.shape[3]):
                    written = values[i, position, layer, neuron] * output_of(model, layer)[0][neuron].double()
                    totals[position, layer, neuron] += written.norm() / out[position].norm()
    return totals.detach() / len(rows)


@pytest.mark.parametrize("which", ["tiny_model", "tiny_bert"])
def test_contributions_are_those_of_a_slow_loop(which, request, tiny_task):
    classifier = make_classifier(request.getfixturevalue(which))
    rows = tiny_task.validation[:7]
    ours = collect(classifier, rows, Contributions(classifier.model)).mean
    expected = contributions_by_hand(classifier, rows)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    values = rival_scores(classifier, tiny_task, ["cett", "predictivity"]).values
    whole = collect(classifier, tiny_task.validation, Contributions(classifier.model)).mean
    torch.testing.assert_close(values["cett"], whole.amax(0).float())


def test_contributions_add_up_over_passes_and_batches(classifier, tiny_task):
    rows = tiny_task.validation
    whole = collect(classifier, rows, Contributions(classifier.model), tokens_per_batch=50)
    parts = [collect(classifier, part, Contributions(classifier.model)) for part in (rows[:11], rows[11:])]
    # In other batches, activations in float32 differ by rounding, which is as large near zero as elsewhere.
    rounding = 1e-6 * whole.mean.max().item()
    torch.testing.assert_close(parts[0].merge(parts[1]).mean, whole.mean, rtol=1e-5, atol=rounding)


def test_a_neuron_that_writes_twice_as_much_has_a_larger_share_and_a_silent_one_none(tiny_model, tiny_task):
    rows = tiny_task.validation
    before = collect(make_classifier(tiny_model), rows, Contributions(tiny_model)).mean
    louder = HookedEncoder.from_weights(
        tiny_model.cfg, dict(tiny_model.named_parameters()), tokenizer=tiny_model.tokenizer
    )
    with torch.no_grad():
        louder.blocks[0].mlp.output.weight[:, 3] *= 2
        louder.blocks[0].mlp.output.weight[:, 5] = 0
    after = collect(make_classifier(louder), rows, Contributions(louder)).mean
    assert (after[:, 0, 3] > before[:, 0, 3]).all() and (after[:, 0, 5] == 0).all() and (before[:, 0, 5] > 0).all()


# LAPE


def entropy_by_hand(active, n):
    result = torch.zeros(active.shape[1:], dtype=torch.float64)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in active.shape[1:])).tolist():
        p = [active[(label, *index)].item() / n[label].item() for label in range(len(n))]
        q = [one / sum(p) for one in p] if sum(p) else [1 / len(p)] * len(p)
        result[tuple(index)] = -sum(one * math.log(one) for one in q if one)
    return result


@pytest.mark.parametrize("n_labels", [2, 3, 5])
def test_entropy_is_that_of_a_slow_loop(n_labels):
    generator = torch.Generator().manual_seed(n_labels)
    n = torch.randint(5, 20, (n_labels,), generator=generator)
    active = (torch.rand(n_labels, 3, 2, 7, generator=generator) * (n[:, None, None, None] + 1)).long()
    active[:, 0, 0, 0] = 0  # never active
    active[1:, 0, 1, 0] = 0  # on one class alone
    expected = entropy_by_hand(active, n)
    torch.testing.assert_close(activation_entropy(active, n), expected)
    torch.testing.assert_close(
        class_specificity(active, n, filtered=0.0), (1 - expected / math.log(n_labels)).clamp(0, 1)
    )


def test_what_is_counted_is_how_often_a_neuron_is_above_zero(classifier, tiny_task):
    rows = tiny_task.validation
    values, labels = raw(classifier, rows), torch.tensor([row["label"] for row in rows])
    active = torch.stack([(values[labels == label] > 0).sum(0) for label in range(2)])
    n = labels.bincount()
    counted = collect(classifier, rows, AboveCounts(torch.zeros(values.shape[1:]), 2))
    assert torch.equal(counted.above, active)
    expected = class_specificity(active, n).amax(0).float()
    torch.testing.assert_close(rival_scores(classifier, tiny_task, ["lape"]).values["lape"], expected)


def test_rare_activity_is_left_out_as_in_the_paper():
    n = torch.tensor([20, 20])
    active = torch.full((2, 1, 1, 40), 10)
    active[:, 0, 0, 0] = torch.tensor([1, 0])  # on one row: of one class by luck
    active[:, 0, 0, 1] = torch.tensor([18, 2])
    active[:, 0, 0, 2] = torch.tensor([19, 19])
    everything = class_specificity(active, n, filtered=0.0)[0, 0]
    kept = class_specificity(active, n)[0, 0]
    assert everything.argmax() == 0 and everything[0] == 1
    assert kept.argmax() == 1 and kept[0] == 0 and kept[1] == everything[1] and kept[2] < 1e-12


def test_planted_neurons_are_of_one_class_each():
    found = planted_classifier(0)
    scores = rival_scores(found.classifier, planted_task(0), ["lape"])
    assert scores.values["lape"].shape == (3, 29)
    counts = collect(found.classifier, found.task.validation, AboveCounts(torch.zeros(5, 3, 29), 2))
    specific = class_specificity(counts.above, counts.n, filtered=0.0).amax(0)
    assert specific[planted_neurons(0).mask].min() > 0.9 > specific[~planted_neurons(0).mask].median()


def test_classes_without_rows_are_refused():
    with pytest.raises(ValueError, match=r"the classes hold \[3, 0\]"):
        activation_entropy(torch.zeros(2, 1, 1, 1, dtype=torch.long), torch.tensor([3, 0]))
    with pytest.raises(ValueError, match=r"the classes hold \[3\]"):
        class_specificity(torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.tensor([3]))
