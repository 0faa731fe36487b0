"""No host waits for the device inside a pass: on `meta`, where tensors have no values, reading one raises."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_rows

from skillneurons import (
    AboveCounts,
    Classifier,
    LabelSums,
    NeuronSet,
    Verbalizer,
    collect,
    mean,
    random_prompt,
    resample,
    steer,
    zero,
)
from skillneurons.activations.text import Moments, TextSums
from skillneurons.classifiers.classifier import label_logits
from skillneurons.classifiers.prompts import splice
from skillneurons.classifiers.tuning import frozen
from skillneurons.interventions.hooks import Positions, resample_words
from skillneurons.neurons.other_scores.moments import LabelMoments
from skillneurons.tasks.batching import Encoded

CHOSEN = NeuronSet(torch.arange(58).reshape(2, 29) % 3 == 0)


@pytest.fixture
def elsewhere(tiny_model):
    """A classifier whose weights and prompt are on a device that cannot be read from."""
    words = Verbalizer.from_words(tiny_model.tokenizer, ("terrible", "great"))
    classifier = Classifier(tiny_model, random_prompt(tiny_model, 3), words)
    tiny_model.to("meta")
    object.__setattr__(classifier.prompt, "vectors", classifier.prompt.vectors.to("meta"))
    return classifier


@pytest.fixture
def rows(elsewhere) -> Encoded:
    return elsewhere.encode(make_rows(40, 0))


@pytest.mark.parametrize(
    ("statistic", "positions"),
    [
        (lambda: LabelSums(2), "prompt"),
        (lambda: LabelMoments(2), "prompt"),
        (lambda: AboveCounts(torch.zeros(3, 2, 29), 2), "prompt"),
        (lambda: TextSums(), "text"),
        (lambda: Moments(), "all"),
    ],
)
def test_a_probing_pass_reads_nothing_back(elsewhere, rows, statistic, positions, monkeypatch):
    filled = statistic()
    monkeypatch.setattr(type(filled), "finish", lambda self: None)  # the one place that fetches
    collect(elsewhere, rows, filled, positions=positions, tokens_per_batch=100)
    assert len(filled.totals) == 2 and filled.totals[0].device.type == "meta"


WHERE: Positions = slice(1, 4)


@pytest.mark.parametrize(
    "hooks",
    [
        [],
        zero(CHOSEN),
        zero(CHOSEN, positions=WHERE),
        mean(CHOSEN, torch.ones(3, 2, 29), positions=WHERE),
        steer(CHOSEN, torch.ones(2, 29), positions=WHERE),
        resample(CHOSEN, torch.ones(7, 3, 2, 29), seed=0, positions=WHERE),
        resample_words(CHOSEN, torch.ones(7, 2, 29), seed=0, positions=slice(4, None)),
    ],
)
def test_an_intervention_reads_nothing_back(elsewhere, rows, hooks):
    with torch.no_grad(), elsewhere.model.hooks(fwd_hooks=[*elsewhere.fwd_hooks, *hooks]):
        for batch in elsewhere.batches(rows, tokens_per_batch=100):
            assert label_logits(elsewhere, batch).shape == (len(batch), 2)


def test_a_tuning_step_reads_nothing_back(elsewhere, rows):
    vectors = elsewhere.prompt.vectors.clone().requires_grad_()
    [batch] = elsewhere.collate(rows, torch.arange(20))
    with frozen(elsewhere.model), elsewhere.model.hooks(fwd_hooks=[splice(vectors)]):
        F.cross_entropy(label_logits(elsewhere, batch), batch.labels).backward()
    assert vectors.grad is not None and vectors.grad.shape == vectors.shape


def test_checking_what_is_passed_in_by_hand_does_read(elsewhere, rows):
    batch = next(iter(elsewhere.batches(rows)))
    with pytest.raises(RuntimeError, match="meta"):
        elsewhere.model(batch.tokens, batch.mask)
    assert elsewhere.model(batch.tokens, batch.mask, check_input=False).device.type == "meta"
