"""The streaming pass against all activations at once, and its laws."""

from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted_classifier

from skillneurons import AboveCounts, Examples, LabelSums, accuracy, baseline_activation, collect, random_prompt
from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.text import Pooled
from skillneurons.neurons._predictivity import accuracy_from_counts
from skillneurons.tasks.batching import Batch


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0)


def by_hand(planted, rows):
    """Every row alone, through TransformerLens's cache: no batching, no padding."""
    classifier, result = planted.classifier, []
    encoded = classifier.encode(rows)
    prefix = classifier.layout.prefix(planted.model.tokenizer)
    for i in range(len(rows)):
        text = encoded.tokens[encoded.offsets[i] : encoded.offsets[i + 1]]
        with planted.model.hooks(fwd_hooks=classifier.fwd_hooks):
            _, cache = planted.model.run_with_cache(torch.cat([prefix, text])[None])
        layers = [cache["post", layer][0, 1 : 1 + len(classifier.prompt)] for layer in range(3)]
        result.append(torch.stack(layers, dim=1))
    return torch.stack(result).detach()


def test_collected_examples_are_those_of_each_row_alone(planted):
    rows = planted.task.test[:23]
    collected = collect(planted.classifier, rows, Examples(23)).values
    torch.testing.assert_close(collected, by_hand(planted, rows), atol=2e-6, rtol=1e-5)


def test_streamed_baseline_and_accuracy_are_those_of_all_activations_at_once(planted):
    train, validation = planted.task.train, planted.task.validation
    baseline = collect(planted.classifier, train, LabelSums(2)).mean
    at_once = baseline_activation(collect(planted.classifier, train, Examples(len(train))).values)
    torch.testing.assert_close(baseline.float(), at_once, atol=1e-6, rtol=1e-5)

    counts = collect(planted.classifier, validation, AboveCounts(baseline, 2))
    examples = collect(planted.classifier, validation, Examples(len(validation))).values
    labels = torch.tensor(validation.labels)
    streamed = accuracy_from_counts(counts.above, counts.n).float()
    assert torch.equal(streamed, accuracy(examples, labels, baseline.float()))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 102), st.sampled_from([64, 300, 2048]))
def test_two_passes_add_up_to_one_however_rows_are_split(cut, tokens_per_batch):
    planted = planted_classifier(0)
    rows = planted.task.validation
    baseline = torch.zeros(5, 3, 29)
    whole = collect(planted.classifier, rows, AboveCounts(baseline, 2))
    parts = [
        collect(planted.classifier, part, AboveCounts(baseline, 2), tokens_per_batch=tokens_per_batch)
        for part in (rows[:cut], rows[cut:])
    ]
    merged = parts[0].merge(parts[1])
    assert torch.equal(merged.above, whole.above)
    assert torch.equal(merged.n, whole.n)


def test_means_by_label_weigh_up_to_the_mean(planted):
    sums = collect(planted.classifier, planted.task.train, LabelSums(2))
    weights = (sums.n.double() / sums.n.sum())[:, None, None, None]
    torch.testing.assert_close((sums.label_mean * weights).sum(0), sums.mean)


def test_counts_are_right_beyond_a_byte():
    planted = planted_classifier(0, n_validation=701)
    rows = planted.task.validation
    counts = collect(planted.classifier, rows, AboveCounts(torch.full((5, 3, 29), -1e9), 2), tokens_per_batch=10**6)
    assert (counts.above == counts.n[:, None, None, None]).all()


def test_one_neuron_is_its_slice_of_all(planted):
    rows = planted.task.test
    single = collect(planted.classifier, rows, OneNeuron(len(rows), layer=1, neuron=7, position=3))
    everything = collect(planted.classifier, rows, Examples(len(rows))).values
    assert torch.equal(single.values, everything[:, 3, 1, 7])


def test_mask_position_is_left_out_unless_asked_for(planted):
    rows = planted.task.test[:9]
    prompt, mask, both = (
        collect(planted.classifier, rows, Examples(9), positions=which).values
        for which in ("prompt", "mask", "mask_and_prompt")
    )
    assert prompt.shape[1] == 5
    torch.testing.assert_close(torch.cat([mask, prompt], dim=1), both)


def test_the_pass_leaves_no_hooks_also_after_an_error(planted):
    class Failing:
        def update(self, layer, activations, batch, counts):
            raise RuntimeError("stop here")

        def finish(self):
            pass

    with pytest.raises(RuntimeError, match="stop here"):
        collect(planted.classifier, planted.task.test, Failing())
    assert not any(point.has_hooks() for point in planted.model.hook_points())


def test_bad_input_to_a_pass_is_named(planted):
    classifier, rows = planted.classifier, planted.task.test[:5]
    with pytest.raises(ValueError, match="integer 'label'"):
        collect(classifier, [{"text": "good0"}], LabelSums(2))
    with pytest.raises(ValueError, match=r"hook_pots.*hook_post"):
        collect(classifier, rows, LabelSums(2), hook="mlp.hook_pots")
    with pytest.raises(ValueError, match=r"\(4, 29\).*\(5, 29\)"):
        collect(classifier, rows, AboveCounts(torch.zeros(4, 3, 29), 2))
    with pytest.raises(ValueError, match="'somewhere'"):
        collect(classifier, rows, LabelSums(2), positions="somewhere")
    third = [*rows, {"text": "good0", "label": 2}]
    for statistic in (LabelSums(2), AboveCounts(torch.zeros(5, 3, 29), 2), Pooled(LabelSums(2))):
        with pytest.raises(ValueError, match="0 to 1, but run from 0 to 2"):
            collect(classifier, third, statistic)
    assert collect(classifier, third, LabelSums(3)).n[2] == 1
    planted.model.train()
    try:
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            collect(classifier, rows, LabelSums(2))
    finally:
        planted.model.eval()


def test_classes_without_rows_are_counted_in_a_pooled_statistic_too(planted):
    rows = [row for row in planted.task.test[:9] if row["label"] == 0]
    pooled = collect(planted.classifier, rows, Pooled(LabelSums(2)), positions="text")
    assert pooled.inner.n.tolist() == [len(rows), 0]


@pytest.mark.filterwarnings("ignore:.*their ends are cut")
def test_rows_encoded_for_a_shorter_prompt_are_refused_where_they_do_not_fit(planted):
    short, rows = planted.classifier, [{"text": "good0 " * 99, "label": 1}]
    encoded = short.encode(rows)
    longer = short.with_prompt(random_prompt(short.model, 7))
    room = short.model.cfg.n_ctx - 6
    with pytest.raises(ValueError, match=rf"up to {room} tokens, but beside this prompt of 7 vectors {room - 2} fit"):
        collect(longer, encoded, LabelSums(2))
    fitting = short.encode(planted.task.test[:3])
    assert longer.encode(fitting) is fitting


def test_nan_in_activations_is_named():
    planted = planted_classifier(0)
    with torch.no_grad():
        planted.model.blocks[1].mlp.input.bias[3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"layer 1.*NaN"):
        collect(planted.classifier, planted.task.test, LabelSums(2))


@pytest.mark.parametrize("statistic", ["sums", "counts"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_are_refused_whatever_is_counted(planted, statistic, value):
    """NaN is not above a threshold: without a check it would count as below."""
    rows = planted.task.test[:7]
    baseline = collect(planted.classifier, rows, LabelSums(2)).mean

    def spoil(activations, hook=None):
        activations = activations.clone()
        activations[0, 2, 3] = value
        return activations

    made = LabelSums(2) if statistic == "sums" else AboveCounts(baseline, 2)
    with (
        planted.model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", spoil)]),
        pytest.raises(FloatingPointError, match="activations of layer 1"),
    ):
        collect(planted.classifier, rows, made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_activations_are_compared_with_thresholds_in_float32(dtype, unchecked_types):
    """A threshold rounded to the activations' precision falls on one of them, and moves whole counts."""
    generator = torch.Generator().manual_seed(0)
    activations = (0.5 + 0.02 * torch.randn(40, 3, 5, generator=generator)).to(dtype)
    baseline = activations.float().mean(dim=0)[:, None]
    counts = AboveCounts(baseline, 2)
    counts.update(0, activations, Mock(spec=Batch), [20, 20])
    counts.finish()
    slow = torch.stack([(part.float() > baseline[:, 0]).sum(dim=0) for part in activations.split(20)])
    assert counts.above[:, :, 0].equal(slow)
    rounded = torch.stack([(part > baseline[:, 0].to(dtype)).sum(dim=0) for part in activations.split(20)])
    assert not rounded.equal(slow)  # so that this test can fail
