"""What is left, and one signal or many: against numpy and scikit-learn, and against what was planted."""

import numpy as np
import pytest
import torch
from planted import planted_classifier
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge

from skillneurons import Examples, LabelSums, NeuronSet, collect, find_skill_neurons, mean
from skillneurons.findings.localization_parts.known import known
from skillneurons.findings.localization_parts.measured import claim_of
from skillneurons.findings.localization_parts.one_signal import one_signal_of
from skillneurons.findings.localization_parts.remaining import PENALTIES, left_under, remaining_of, ridge
from skillneurons.interventions.perturbation import Perturbation
from skillneurons.utilities.row_groups import groups_of


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0, flip=0.05)


@pytest.fixture(scope="module")
def claim(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    return claim_of(planted.classifier, planted.task, planted.neurons, scores, n_rows=1000)


@pytest.fixture(scope="module")
def ablate(claim):
    return Perturbation("mean", claim.positions).of(claim.classifier, claim.task)


def own(claim, split, hooks=()):
    """Activations `[batch layer neuron]` at each neuron's position, by the slow way."""
    rows = getattr(claim, split)
    with claim.classifier.model.hooks(fwd_hooks=list(hooks)):
        each = collect(claim.classifier, rows, Examples(len(rows))).values.double()
    return each.gather(1, claim.position.expand(len(rows), 1, 3, 29))[:, 0]


def test_an_accuracy_is_known_with_the_interval_of_its_rows():
    labels = torch.tensor([0] * 30 + [1] * 10)
    always = known(torch.zeros(40).bool(), labels)
    assert (always.accuracy, always.nothing, always.tells) == (0.75, 0.75, False)
    balanced = known(torch.zeros(40).bool(), labels, "balanced_accuracy")
    assert (balanced.accuracy, balanced.tells) == (0.5, False)
    right = known(labels == 1, labels, "balanced_accuracy")
    assert right.accuracy == 1
    assert 0.9 < right.low < 1
    assert right.tells
    says = torch.rand(40, generator=torch.Generator().manual_seed(0)) > 0.5
    ids = [i // 4 for i in range(40)]
    for measure in ("predictivity", "balanced_accuracy"):
        alone = known(says.repeat_interleave(4), labels.repeat_interleave(4), measure)
        together = known(
            says.repeat_interleave(4), labels.repeat_interleave(4), measure, groups_of([i // 4 for i in range(160)])
        )
        assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert known(labels == 1, labels, groups=groups_of(ids)).low < known(labels == 1, labels).low


def test_balanced_intervals_cover_what_they_should():
    generator, inside = torch.Generator().manual_seed(0), 0
    labels = (torch.arange(120) % 4 == 0).long()
    for _ in range(400):
        says = torch.rand(120, generator=generator) < torch.where(labels == 1, 0.6, 0.3)
        found = known(says, labels, "balanced_accuracy")
        inside += found.low <= 0.65 <= found.high
    assert 0.92 <= inside / 400 <= 0.99


@pytest.mark.parametrize("penalty", range(len(PENALTIES)))
def test_the_probe_is_scikit_learns_ridge(penalty):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(31) % 2
    parts = [torch.randn(31, 23, generator=generator) for _ in range(2)]
    parts[0][:, 3] += labels
    parts[1][:, 5] = 2.5  # constant
    stay = torch.ones(2, 23).bool()
    stay[0, 7] = False
    weights, offset = ridge(parts, stay, labels)
    x = torch.cat(parts, 1).double().numpy()
    used = stay.flatten().numpy() & (x.std(0) > 0)
    scaled = (x[:, used] - x[:, used].mean(0)) / x[:, used].std(0, ddof=1)
    strength = PENALTIES[penalty] * np.square(scaled).sum(1).mean()
    slow = Ridge(alpha=strength, fit_intercept=False).fit(scaled, np.where(labels == 1, 0.5, -0.5))
    found = weights[penalty].flatten().numpy()
    np.testing.assert_allclose(found[used] * x[:, used].std(0, ddof=1), slow.coef_, atol=1e-8)
    assert np.all(found[~used] == 0)
    answers = x @ found
    assert offset[penalty].item() == pytest.approx((answers[labels == 0].mean() + answers[labels == 1].mean()) / 2)


def test_without_the_planted_neurons_nothing_knows_their_signal_above_them(claim, ablate, planted):
    """Layer 0's attention spreads the signal, so only layer 1's and 0's planted neurons read it; noise is left."""
    none = NeuronSet(torch.zeros(3, 29).bool())
    before, without = left_under(claim, none, ablate), left_under(claim, planted.neurons, ablate)
    assert before.best.accuracy > 0.9
    assert before.probe.accuracy > 0.9
    assert before.best.tells
    assert before.address in planted.neurons
    assert not without.best.tells
    assert without.address not in planted.neurons
    assert without.best.accuracy < 0.65
    assert without.share == pytest.approx(len(planted.neurons) / 87)


def test_the_best_remaining_neuron_is_that_of_a_slow_loop(claim, ablate, planted):
    gone = NeuronSet(planted.neurons.mask & (torch.arange(3) == 1)[:, None])
    values = collect(claim.classifier, claim.train, LabelSums(2)).mean.float()
    hooks = mean(gone, values, positions=claim.classifier.layout.positions("prompt"))
    found, seen = left_under(claim, gone, ablate), {}
    for split in ("train", "validation", "test"):
        rows = getattr(claim, split)
        model = claim.classifier.model
        with model.hooks(fwd_hooks=[]):
            seen[split] = claim.collect(rows, Examples(len(rows)), hooks).values.double().numpy()
    base = seen["train"].mean(0)
    best, at = 0.0, None
    labels = claim.validation.labels.numpy()
    for layer in range(3):
        for neuron in range(29):
            if (layer, neuron) in gone:
                continue
            for position in range(seen["test"].shape[1]):
                above = seen["validation"][:, position, layer, neuron] > base[position, layer, neuron]
                score = (above == labels).mean()
                if max(score, 1 - score) > best + 1e-12:
                    best, at = max(score, 1 - score), (position, layer, neuron, score >= 0.5)
    assert at is not None
    position, layer, neuron, upward = at
    above = seen["test"][:, position, layer, neuron] > base[position, layer, neuron]
    hits = (above == upward) == (claim.test.labels.numpy() == 1)
    assert found.best.accuracy == pytest.approx(hits.mean(), abs=0.02)


def test_what_remains_is_told_in_steps_and_by_the_answers(claim, ablate, planted):
    found = remaining_of(claim, ablate, shares=(0.1, 0.5), n_random=3)
    assert found.plain.accuracy > 0.9
    assert found.lost.accuracy < 0.7
    assert found.only.accuracy > 0.9
    assert found.only_random < 0.8
    assert found.none.accuracy < 0.7
    if not found.without.probe.tells:
        assert found.smallest == found.without.share
        assert found.more == ()


def test_one_signal_is_that_of_numpy(claim):
    found = one_signal_of(claim, claim.correlations(claim.train))
    x = {split: own(claim, split).flatten(1).numpy() for split in ("train", "validation", "test")}
    mask = claim.neurons.mask.flatten().numpy()
    centre, spread = x["train"].mean(0), x["train"].std(0)
    scaled = {split: (one - centre)[:, mask] / spread[mask] for split, one in x.items()}
    pca = PCA().fit(scaled["train"])
    assert found.share == pytest.approx(pca.explained_variance_ratio_[0], abs=1e-5)
    assert pca.components_ is not None
    signal = {split: one @ pca.components_[0] for split, one in scaled.items()}
    knots = np.quantile(signal["train"], [0.2, 0.4, 0.6, 0.8])
    terms = {
        split: np.column_stack([one, *(np.maximum(one - knot, 0) for knot in knots)]) for split, one in signal.items()
    }
    fit = LinearRegression().fit(terms["train"], x["train"] - centre)
    residual = {split: x[split] - centre - fit.predict(terms[split]) for split in x}
    accuracies = []
    for split in ("validation", "test"):
        labels = getattr(claim, split).labels.numpy() == 1
        accuracies.append(((residual[split] > 0) == labels[:, None]).mean(0))
    slow = np.where(accuracies[0] >= 0.5, accuracies[1], 1 - accuracies[1])
    clear = ~(np.abs(residual["test"]) < 1e-6).any(0)
    np.testing.assert_allclose(found.left.flatten().numpy()[clear], slow[clear], atol=0.021)
    score = np.maximum(accuracies[0], 1 - accuracies[0])
    layer, neuron = found.address
    assert score[layer * 29 + neuron] >= score[clear].max() - 0.02
    assert found.best.accuracy == pytest.approx(found.left[found.address].item(), abs=1e-9)
    assert found.signal.accuracy > 0.9


def test_once_the_signal_is_gone_no_neuron_knows_more(claim):
    found = one_signal_of(claim, claim.correlations(claim.train))
    assert found.share > 0.7
    assert found.signal.accuracy > 0.9
    assert found.best.accuracy < 0.65
    alone = claim_of(
        claim.classifier,
        claim.task,
        NeuronSet.from_pairs([claim.first], n_layers=3, d_mlp=29),
        claim.scores,
        n_rows=999,
    )
    itself = one_signal_of(alone, alone.correlations(alone.train))
    assert itself.share == pytest.approx(1)
    assert itself.left[claim.first] == 0.5


def test_a_neuron_that_knows_what_the_chosen_do_not_is_found(claim, planted):
    ignorant = claim.scores.held_out.masked_fill(planted.neurons.mask, 1.0).flatten().argsort()[:6]
    chosen = NeuronSet.from_pairs([divmod(one, 29) for one in ignorant.tolist()], n_layers=3, d_mlp=29)
    other = claim_of(claim.classifier, claim.task, chosen, claim.scores, n_rows=999)
    found = one_signal_of(other, other.correlations(other.train))
    assert not found.signal.tells
    assert found.best.accuracy > 0.9
    assert found.best.tells
    assert found.address in planted.neurons
