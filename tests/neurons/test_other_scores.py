"""Rival scores against scikit-learn, scipy and slow loops; attributions against differences; scores compared."""

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import unchecked
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted_classifier
from scipy import stats
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import LabelSums
from skillneurons.applications.pruning import prune
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.findings.score_comparison import agreement, compare_scores, trapezoid_weights
from skillneurons.interventions.hooks import mean, zero
from skillneurons.interventions.perturbation import PERTURBATIONS
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.other_scores.attribution import gradient_attribution, integrated_gradients
from skillneurons.neurons.other_scores.measures import auroc, average_precision, balanced_accuracy, mutual_information
from skillneurons.neurons.other_scores.moments import (
    GaussianHits,
    LabelMoments,
    PositionMeans,
    mean_difference,
    point_biserial,
)
from skillneurons.neurons.other_scores.probes import _penalty, probe_weights
from skillneurons.neurons.other_scores.table import SCORES, USUAL, RivalScores, rival_scores
from skillneurons.neurons.scores import find_skill_neurons
from skillneurons.plots.statistics import plot_score_agreement, plot_score_effects

MEASURES = (auroc, average_precision, balanced_accuracy, mutual_information)


def examples(n=47, n_prompt=3, d_mlp=5, seed=0, ties=True):
    """Activations of one layer, some of them tied, one constant, and labels of unequal classes."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, n_prompt, d_mlp))
    values = np.round(2 * values) / 2 if ties else values
    labels = (rng.random(n) < 0.35).astype(np.int64)
    values[:, 1] += labels[:, None] * np.linspace(-2, 2, d_mlp)
    values[:, 0, 0] = 1.5
    return torch.from_numpy(values), torch.from_numpy(labels)


def loop(values, function):
    """`function(one unit's activations)` for every unit."""
    result = torch.empty(values.shape[1:], dtype=torch.float64)
    for index in np.ndindex(result.shape):
        result[index] = float(function(values[(slice(None), *index)].numpy()))
    return result


# From the activations


def test_auroc_is_scikit_learns():
    values, labels = examples()

    def expected(a):
        area = metrics.roc_auc_score(labels, a)
        return max(area, 1 - area)

    torch.testing.assert_close(auroc(values, labels), loop(values, expected))


def test_average_precision_is_scikit_learns():
    values, labels = examples()
    expected = loop(values, lambda a: max(metrics.average_precision_score(labels, s * a) for s in (1, -1)))
    torch.testing.assert_close(average_precision(values, labels), expected)


def test_balanced_accuracy_is_the_best_over_all_thresholds():
    values, labels = examples(23, 2, 3)

    def expected(a):
        found = [metrics.balanced_accuracy_score(labels, a > threshold) for threshold in (*a, a.min() - 1)]
        return max(max(found), 1 - min(found))

    torch.testing.assert_close(balanced_accuracy(values, labels), loop(values, expected))


@pytest.mark.parametrize("ties", [True, False])
def test_mutual_information_is_scikit_learns_on_the_same_bins(ties):
    values, labels = examples(ties=ties)

    def expected(a):
        below = (a[None] < a[:, None]).sum(1)
        return metrics.mutual_info_score(labels, below * 4 // len(a)) / np.log(2)

    ours = mutual_information(values, labels, n_bins=4)
    torch.testing.assert_close(ours, loop(values, expected), atol=1e-12, rtol=1e-9)
    if not ties:
        below = (values[None, :, 1, 1] < values[:, None, 1, 1]).sum(1)
        assert set((below * 4 // 47).bincount().tolist()) <= {11, 12}


def test_a_constant_neuron_scores_what_chance_does():
    values, labels = examples()
    chance = {auroc: 0.5, balanced_accuracy: 0.5, mutual_information: 0.0}
    chance[average_precision] = labels.double().mean().item()
    for measure, expected in chance.items():
        assert measure(values, labels)[0, 0].item() == pytest.approx(expected)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_measures_depend_on_the_order_of_the_activations_only(seed):
    values, labels = examples(23, 2, 3, seed)
    labels[:2] = torch.tensor([0, 1])
    for measure in MEASURES:
        torch.testing.assert_close(measure(values, labels), measure(torch.exp(values), labels))
    for measure in (auroc, balanced_accuracy, average_precision):
        torch.testing.assert_close(measure(values, labels), measure(-values, labels))
    for measure in (auroc, balanced_accuracy):
        torch.testing.assert_close(measure(values, labels), measure(values, 1 - labels))


def test_measures_in_blocks_are_those_all_at_once(monkeypatch):
    values, labels = examples()
    whole = auroc(values, labels)
    for at_once in (4 * 47, 5):  # four units, less than one
        monkeypatch.setattr("skillneurons.neurons.other_scores.measures.VALUES_PER_BLOCK", at_once)
        assert torch.equal(auroc(values, labels), whole)


@pytest.mark.parametrize("measure", MEASURES)
def test_one_unit_may_come_without_an_axis_and_in_half_precision(measure):
    values, labels = examples()
    one = values[:, 1, 2]
    torch.testing.assert_close(measure(one, labels), measure(values, labels)[1, 2])
    # Tied values in steps of 1/2 are exact in half precision; what they score is not.
    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(measure(values[:, :1].to(dtype), labels), measure(values[:, :1].float(), labels))


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_of_nan_or_of_other_rows_than_the_labels_are_refused(measure, unchecked_types):
    values, labels = examples()
    with pytest.raises(ValueError, match="of 46 examples, but there are 47"):
        measure(values[1:], labels)
    values[3, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="hold NaN"):
        measure(values, labels)


def test_measures_need_two_classes_and_bins(unchecked_types):
    values, labels = examples()
    with pytest.raises(ValueError, match=r"\[0, 1, 2\]"):
        auroc(values, torch.arange(47) % 3)
    with pytest.raises(ValueError, match=r"hold \[0\]"):
        balanced_accuracy(values, torch.zeros(47, dtype=torch.long))
    with pytest.raises(ValueError, match="`n_bins` is 1"):
        mutual_information(values, labels, n_bins=1)


# Streamed, on a model


@pytest.fixture
def tiny_classifier(tiny_model, tiny_task):
    words = Verbalizer.from_words(tiny_model.tokenizer, tiny_task.label_words)
    return Classifier(tiny_model, random_prompt(tiny_model, 5), words)


@pytest.fixture
def validation(tiny_classifier, tiny_task):
    rows = tiny_task.validation
    return collect(tiny_classifier, rows, Examples(len(rows)), tokens_per_batch=64).values, torch.tensor(
        [row["label"] for row in rows]
    )


def test_correlations_and_mean_differences_are_those_of_the_activations(tiny_classifier, tiny_task, validation):
    values, labels = validation
    moments = collect(tiny_classifier, tiny_task.validation, LabelMoments(), tokens_per_batch=64)
    r = loop(values.double(), lambda a: abs(unchecked(stats.pointbiserialr(labels.numpy(), a)).statistic))
    torch.testing.assert_close(point_biserial(moments), r, atol=1e-6, rtol=1e-5)
    difference = (values[labels == 1].double().mean(0) - values[labels == 0].double().mean(0)).abs()
    torch.testing.assert_close(mean_difference(moments), difference, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moments.mean, values.double().mean(0), atol=1e-6, rtol=1e-5)
    variance = values[labels == 1].double().var(0, correction=0)
    torch.testing.assert_close(moments.label_variance[1], variance, atol=1e-6, rtol=1e-5)


def test_merged_moments_are_those_of_one_pass(tiny_classifier, tiny_task):
    rows = tiny_task.validation
    whole = collect(tiny_classifier, rows, LabelMoments())
    halves = [collect(tiny_classifier, part, LabelMoments()) for part in (rows[:13], rows[13:])]
    # Activations round differently in batches of other shapes, which shows where a neuron hardly varies.
    torch.testing.assert_close(point_biserial(halves[0].merge(halves[1])), point_biserial(whole), atol=1e-3, rtol=1e-3)


def test_a_constant_activation_has_no_correlation():
    moments = LabelMoments(2, [torch.full((2, 1, 1), 0.3) * 10], squares=[torch.full((2, 1, 1), 0.09) * 10])
    moments.totals, moments.squares = [moments.totals[0].double()], [moments.squares[0].double()]
    moments.n = torch.tensor([10, 10])
    assert point_biserial(moments).item() == 0
    moments.n = torch.tensor([20, 0])
    with pytest.raises(ValueError, match=r"\[20, 0\]"):
        point_biserial(moments)


def test_the_gaussian_probe_is_scikit_learns_naive_bayes(tiny_classifier, tiny_task, validation):
    values, labels = validation
    fitted = collect(tiny_classifier, tiny_task.train, LabelMoments())
    ours = collect(tiny_classifier, tiny_task.validation, GaussianHits(fitted), tokens_per_batch=64).accuracy
    train = collect(tiny_classifier, tiny_task.train, Examples(len(tiny_task.train))).values.double()
    train_labels = [row["label"] for row in tiny_task.train]
    for index in np.ndindex(2, 2, 11):
        probe = GaussianNB(var_smoothing=0).fit(train[(slice(None), *index)][:, None], train_labels)
        expected = probe.score(values[(slice(None), *index)][:, None].double(), labels)
        assert ours[index].item() == pytest.approx(expected)


def test_the_gaussian_probe_in_half_precision_does_not_round_its_densities_to_it(tiny_classifier, tiny_task):
    tiny_classifier.model.bfloat16()
    fitted = collect(tiny_classifier, tiny_task.train, LabelMoments())
    ours = collect(tiny_classifier, tiny_task.validation, GaussianHits(fitted))
    values = collect(tiny_classifier, tiny_task.validation, Examples(34)).values
    is_one = torch.tensor([row["label"] == 1 for row in tiny_task.validation])[:, None, None]
    for layer in range(2):
        agrees = (ours.log_odds(layer, values[:, :, layer]) > 0) == is_one
        assert torch.equal(ours.accuracy[:, layer], agrees.double().mean(0))


def test_a_gaussian_probe_of_activations_that_are_nan_is_refused(tiny_classifier, tiny_task):
    def broken(activations, hook=None):
        return activations.masked_fill(activations == activations.max(), torch.nan)

    fitted = collect(tiny_classifier, tiny_task.train, LabelMoments())
    classifier = replace(tiny_classifier, extra_hooks=[("blocks.1.mlp.hook_post", broken)])
    with pytest.raises(FloatingPointError, match="layer 1"):
        collect(classifier, tiny_task.validation, GaussianHits(fitted))


# Probes


def test_probe_weights_are_those_of_scikit_learn_at_the_chosen_penalty():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2, 7)) * rng.uniform(0.1, 10, size=(2, 7))
    y = (x[:, 1, 3] / x[:, 1, 3].std() + 0.5 * rng.normal(size=120) > 0).astype(np.int64)
    x[:, 0, 0] = 3.0
    parts = torch.from_numpy(x[:80]).float(), torch.from_numpy(y[:80]), torch.from_numpy(x[80:]).float()
    for l1_ratio in (1.0, 0.5, 0.0):
        weights, chosen = probe_weights(*parts, torch.from_numpy(y[80:]), l1_ratio=l1_ratio)
        assert weights.argmax() == 10 and weights[0, 0] == 0 and 0 < chosen["n_weights"] < 14
        scaled = StandardScaler().fit(x[:80].reshape(80, -1))
        probe = LogisticRegression(**_penalty(l1_ratio), C=chosen["C"], tol=1e-6, max_iter=5000, random_state=0)
        probe.fit(scaled.transform(x[:80].reshape(80, -1)), y[:80])
        assert probe.score(scaled.transform(x[80:].reshape(40, -1)), y[80:]) == chosen["validation_accuracy"]
        # Ours divides by the standard deviation with n - 1, and stops a little earlier.
        np.testing.assert_allclose(weights.flatten(), np.abs(probe.coef_[0]), atol=0.02)


def test_a_probe_that_does_not_converge_or_has_no_penalty_is_an_error():
    x, y = torch.randn(30, 1, 50, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    with pytest.raises(ValueError, match=r"C = 1.0 and l1_ratio 0.5 did not converge in 2 steps"):
        probe_weights(x, y, x, y, l1_ratio=0.5, strengths=(1.0,), max_iter=2)
    with pytest.raises(ValueError, match=r"not -0.5"):
        probe_weights(x, y, x, y, l1_ratio=-0.5)


def test_a_probe_that_does_not_converge_costs_no_other_score(planted, monkeypatch):
    found, scores = planted
    hasty = replace(SCORES["elastic_net_probe"], compute=partial(probe_weights, l1_ratio=0.5, max_iter=1))
    monkeypatch.setitem(SCORES, "elastic_net_probe", hasty)
    names = ["predictivity", "elastic_net_probe", "point_biserial"]
    with pytest.warns(UserWarning, match=r"'elastic_net_probe' is left out.*did not converge in 1 steps"):
        kept = rival_scores(found.classifier, found.task, names)
    assert kept.names == ("predictivity", "point_biserial") and list(kept.meta["failed"]) == ["elastic_net_probe"]
    assert all(torch.equal(kept.values[name], scores.values[name]) for name in kept.names)
    with pytest.raises(ValueError, match="did not converge in 1 steps"):
        rival_scores(found.classifier, found.task, ["elastic_net_probe"])


# Attributions


def margin_with(classifier, rows, hooks=()):
    encoded = classifier.encode(rows)
    return label_margin(classifier.logits(encoded, hooks).double(), encoded.labels).mean().item()


@pytest.fixture
def double_classifier(tiny_model, tiny_task):
    """In float64, for finite differences."""
    model = tiny_model.double()
    words = Verbalizer.from_words(model.tokenizer, tiny_task.label_words)
    return Classifier(model, random_prompt(model, 3), words)


def test_gradient_attribution_is_the_slope_of_the_margin(double_classifier, tiny_task):
    rows = tiny_task.validation[:9]
    # One attribution at a baseline far enough for a slope to show: (a - b) g with b = a - 1 is the sum of slopes.
    ours = gradient_attribution(double_classifier, rows)
    shifted = gradient_attribution(double_classifier, rows, baseline=torch.ones(3, 2, 29, dtype=torch.float64))
    slope = ours - shifted  # mean over rows of dm/da
    where = double_classifier.layout.positions("prompt")
    step = 1e-3
    for layer, neuron in [(0, 3), (0, 17), (1, 5)]:
        for position in range(3):

            def nudge(activations, hook=None, by=step, position=position, neuron=neuron):
                changed = activations.clone()
                changed[:, where.start + position, neuron] += by
                return changed

            name = f"blocks.{layer}.mlp.hook_post"
            up = margin_with(double_classifier, rows, [(name, nudge)])
            down = margin_with(double_classifier, rows, [(name, lambda a, hook=None, f=nudge: f(a, by=-step))])
            # Logits come back in float32.
            assert slope[position, layer, neuron].item() == pytest.approx((up - down) / (2 * step), abs=2e-3)
    assert (ours[:, 1] == 0).all() and (ours[:, 0] != 0).any()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_attributions_in_half_precision_are_those_in_single(tiny_model, tiny_task, dtype, error):
    words = Verbalizer.from_words(tiny_model.tokenizer, tiny_task.label_words)
    single = Classifier(tiny_model, random_prompt(tiny_model, 3), words)
    rows, ways = tiny_task.validation, (gradient_attribution, partial(integrated_gradients, n_steps=2))
    baseline = collect(single, tiny_task.train, LabelSums(2)).mean
    expected = [way(single, rows, baseline=baseline) for way in ways]
    model = tiny_model.to(dtype)
    half = Classifier(model, replace(single.prompt, model=model.fingerprint()), words)
    for way, one in zip(ways, expected, strict=True):
        other = way(half, rows, baseline=baseline)
        assert other.dtype == torch.float32 and (other - one).norm() < error * one.norm()


def test_integrated_gradients_of_a_layer_sum_to_the_effect_of_ablating_it(double_classifier, tiny_task):
    rows = tiny_task.validation[:9]
    baseline = collect(double_classifier, tiny_task.train, LabelSums(2)).mean
    ours = integrated_gradients(double_classifier, rows, baseline=baseline, n_steps=12)
    where = double_classifier.layout.positions("prompt")
    layer_0 = NeuronSet(torch.tensor([True, False])[:, None].expand(2, 29).clone())
    ablated = margin_with(double_classifier, rows, mean(layer_0, baseline, positions=where))
    total = margin_with(double_classifier, rows) - ablated
    assert ours[:, 0].sum().item() == pytest.approx(total, abs=2e-6) and abs(total) > 1e-4
    assert (ours[:, 1] == 0).all()


def test_integrated_gradients_agree_with_a_fine_sum_over_the_way(double_classifier, tiny_task):
    """With one neuron moving at a time gradients differ; here the whole layer moves, as the definition says."""
    rows = tiny_task.validation[:3]
    fine = integrated_gradients(double_classifier, rows, n_steps=16)
    coarse = integrated_gradients(double_classifier, rows, n_steps=5)
    torch.testing.assert_close(coarse, fine, atol=1e-3, rtol=1e-2)
    assert not torch.allclose(fine, gradient_attribution(double_classifier, rows), atol=1e-2)


def test_attributions_leave_nothing_behind(tiny_classifier, tiny_task, unchecked_types):
    rows, model = tiny_task.validation[:5], tiny_classifier.model
    before = tiny_classifier.logits(rows)
    gradient_attribution(tiny_classifier, rows)
    integrated_gradients(tiny_classifier, rows, n_steps=2)
    assert torch.equal(tiny_classifier.logits(rows), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(point.has_hooks() for point in model.hook_dict.values())
    with pytest.raises(ValueError, match=r"\(4, 29\).*\(5, 29\)"):
        gradient_attribution(tiny_classifier, rows, baseline=torch.zeros(4, 2, 29))
    with pytest.raises(ValueError, match=r"`n_steps` is .*, not 0"):
        integrated_gradients(tiny_classifier, rows, n_steps=0)


# One interface


@pytest.fixture(scope="module")
def planted():
    found = planted_classifier(0, flip=0.1, n_validation=101, n_test=101)
    return found, rival_scores(found.classifier, found.task)


def test_every_score_in_the_table_has_a_value_for_every_neuron(planted):
    _, scores = planted
    assert scores.names == USUAL and set(SCORES) - set(USUAL) == {"cett", "lape"}
    assert all(value.shape == (3, 29) and value.isfinite().all() for value in scores.values.values())
    assert scores.to_dataframe().shape == (87, 2 + len(USUAL))


def test_predictivity_on_this_pass_is_that_of_find_skill_neurons(planted):
    found, scores = planted
    expected = find_skill_neurons(found.classifier, found.task).predictivity
    torch.testing.assert_close(scores.values["predictivity"], expected.float())


def test_scores_of_the_table_are_those_of_their_functions(planted):
    found, scores = planted
    rows = found.task.validation
    values = collect(found.classifier, rows, Examples(len(rows))).values
    labels = torch.tensor([row["label"] for row in rows])
    for name, measure in (("auroc", auroc), ("average_precision", average_precision)):
        torch.testing.assert_close(scores.values[name], measure(values, labels).amax(0))
    pooled = collect(found.classifier, rows, PositionMeans(len(rows)))
    torch.testing.assert_close(pooled.values, values.mean(1))
    assert torch.equal(pooled.labels, labels)


def test_scores_do_not_depend_on_how_many_layers_are_held_at_once(planted):
    found, scores = planted
    passes = []

    def passed(what, done, total):
        if done == total:
            passes.append(what.rpartition(", ")[2])

    names = ["auroc", "predictivity", "point_biserial"]
    again = rival_scores(found.classifier, found.task, names, max_bytes=1, progress=passed)
    assert passes == ["train", "validation", "validation", "validation"]
    for name in names:
        torch.testing.assert_close(again.values[name], scores.values[name])
    passes.clear()
    rival_scores(found.classifier, found.task, names[1:], max_bytes=1, progress=passed)
    assert passes == ["train", "validation"]


def test_several_classifiers_are_averaged(planted):
    found, scores = planted
    twice = rival_scores([found.classifier, found.classifier], found.task, ["mean_difference"])
    torch.testing.assert_close(twice.values["mean_difference"], scores.values["mean_difference"])
    assert len(twice.meta["seeds"]) == 2


def test_rival_scores_come_back_from_disk(planted, tmp_path):
    scores = planted[1]
    again = RivalScores.load(scores.save(tmp_path / "scores"))
    assert again.names == scores.names and again.meta["seeds"] == scores.meta["seeds"]
    assert all(torch.equal(again.values[name], scores.values[name]) for name in scores.names)


def test_equal_scores_are_ranked_in_random_order():
    scores = RivalScores({"flat": torch.zeros(2, 50), "peak": torch.zeros(2, 50)})
    scores.values["peak"][1, 7] = 1.0
    chosen = scores.top("flat", 0.2, seed=0)
    assert chosen.per_layer.tolist() == [10, 10] and chosen != scores.top("flat", 0.2, seed=1)
    assert chosen.indices(0).tolist() != list(range(10))
    assert (1, 7) in scores.top("peak", 0.02)
    assert len(scores.top("flat", 0.1, seed=0) - chosen) == 0


def test_scores_that_cannot_be_ranked_or_compared_are_refused(unchecked_types):
    good = torch.tensor([[0.1, 0.9]])
    with pytest.raises(ValueError, match="'b' is NaN for 1 neurons"):
        RivalScores({"a": good, "b": torch.tensor([[0.1, torch.nan]])})
    with pytest.raises(ValueError, match=r"'a' has shape \(1, 2\) and 'b' \(2, 1\)"):
        RivalScores({"a": good, "b": good.T})
    with pytest.raises(ValueError, match="`values` is empty"):
        RivalScores({})


def test_rival_scores_say_what_is_wrong(planted, tiny_task):
    found, scores = planted
    with pytest.raises(ValueError, match=r"'roc'.*auroc"):
        rival_scores(found.classifier, found.task, ["roc"])
    with pytest.raises(ValueError, match="'topics' has 3: first"):
        rival_scores(found.classifier, planted_classifier("topics").task)
    with pytest.raises(ValueError, match="`classifiers` needs one or more"):
        rival_scores([], found.task)
    with pytest.raises(ValueError, match="'roc'"):
        scores.top("roc", 0.1)


# The comparison


@pytest.fixture(scope="module")
def comparison(planted):
    found, scores = planted
    generator = torch.Generator().manual_seed(5)
    values = scores.values | {"noise": torch.rand(3, 29, generator=generator)}
    return compare_scores(
        found.classifier,
        found.task,
        RivalScores(values, scores.meta),
        fractions=[0.04, 0.1, 0.3],
        n_random=5,
        n_bootstrap=300,
    )


def test_scores_that_find_the_planted_neurons_predict_the_effect_of_ablation(comparison):
    table = comparison.to_dataframe().set_index("score")
    for name in ("predictivity", "auroc", "gradient_attribution", "integrated_gradients"):
        assert table.above_random[name] and table.low[name] > 0
    assert not table.above_random["noise"] and comparison.best != "noise"
    assert table.area["noise"] == table.area.min()
    assert comparison.best_share.sum().item() == pytest.approx(1)
    assert (table.low <= table.area).all() and (table.area <= table.high).all()


def test_a_score_that_ranks_at_random_is_seldom_said_to_matter(planted, monkeypatch):
    """On an imagined model: each neuron holds a share of the margin, and ablation takes it away, up to noise."""
    found, _ = planted
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(3, 29, generator=generator)

    def logits_many(classifier, encoded, sets, **options):
        lost = torch.stack([share[hooks[0][1](None).mask].sum() if hooks else torch.zeros(()) for hooks in sets])
        margin = 0.3 * torch.randn(len(sets), len(encoded), generator=generator) - lost[:, None]
        return margin[..., None] * torch.nn.functional.one_hot(encoded.labels, 2)

    monkeypatch.setattr("skillneurons.interventions.sweep.logits_many", logits_many)
    monkeypatch.setitem(PERTURBATIONS, "mean", lambda *a: lambda chosen: [("neurons", lambda *a, hook=None: chosen)])
    apart, above, repetitions, n_random = 0, 0, 300, 7
    rows = found.classifier.encode(found.task.test)
    for seed in range(repetitions):
        noise = RivalScores({"noise": torch.rand(3, 29, generator=generator)})
        settings = {"fractions": (0.1, 0.3), "n_random": n_random, "n_bootstrap": 200, "seed": seed}
        result = compare_scores(found.classifier, found.task, noise, rows=rows, **settings)
        low, high = result.area_interval[:, 0].tolist()
        apart += not low <= 0 <= high
        above += bool(result.to_dataframe().above_random[0])
    assert binomtest(apart, repetitions, 0.05).pvalue > 0.01
    assert binomtest(above, repetitions, 1 / (n_random + 1), alternative="greater").pvalue > 0.01 and above > 0


def test_agreement_is_spearmans(comparison, planted):
    scores = planted[1]
    for i, a in enumerate(scores.names):
        for j, b in enumerate(scores.names):
            expected = stats.spearmanr(scores.values[a].flatten(), scores.values[b].flatten())[0]
            assert comparison.agreement[i, j].item() == pytest.approx(expected)
    flat = RivalScores({"a": torch.rand(2, 3), "b": torch.zeros(2, 3)})
    assert agreement(flat)[0, 1].isnan() and agreement(flat)[0, 0].item() == pytest.approx(1)


def test_areas_are_those_under_the_curves(comparison):
    knots = np.array([0, *comparison.fractions])

    def area(random, mine):
        gap = np.concatenate([[0], (random - mine).numpy()])
        return np.trapezoid(gap, knots) / knots[-1]

    for i in range(len(comparison.names)):
        expected = area(comparison.random_margin.mean(0), comparison.margin[i])
        assert comparison.area[i].item() == pytest.approx(expected)
        expected = area(comparison.random_accuracy.mean(0), comparison.accuracy[i])
        assert comparison.accuracy_area[i].item() == pytest.approx(expected)
    others = torch.cat([comparison.random_margin[:2], comparison.random_margin[3:]]).mean(0)
    assert comparison.random_area[2].item() == pytest.approx(area(others, comparison.random_margin[2]))
    assert trapezoid_weights([0.1, 0.3]).sum().item() == pytest.approx(1 - 0.1 / 2 / 0.3)


@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_the_margin_is_that_of_one_ablation_at_a_time_at_the_positions_asked_for(planted, positions):
    found, scores = planted
    one = RivalScores({"auroc": scores.values["auroc"]}, scores.meta)
    result = compare_scores(
        found.classifier, found.task, one, fractions=[0.1, 0.3], kind="zero", n_random=2, positions=positions
    )
    where = found.classifier.layout.positions(positions)
    rows = found.classifier.encode(found.task.test)
    for f, fraction in enumerate(result.fractions):
        logits = found.classifier.logits(rows, zero(one.top("auroc", fraction), positions=where))
        signs = 2.0 * rows.labels - 1
        expected = ((logits[:, 1] - logits[:, 0]) * signs).mean().item()
        assert result.margin[0, f].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert result.meta["positions"] == positions


def test_a_comparison_says_what_is_wrong(planted):
    found, scores = planted
    with pytest.raises(ValueError, match=r"\(0.3, 0.1\)"):
        compare_scores(found.classifier, found.task, scores, fractions=[0.3, 0.1])
    with pytest.raises(ValueError, match="`n_random` is 1"):
        compare_scores(found.classifier, found.task, scores, n_random=1)
    foreign = RivalScores(scores.values, {"model": "other"})
    with pytest.raises(ValueError, match="of model other"):
        compare_scores(found.classifier, found.task, foreign)


def test_figures_order_the_scores_by_their_effect(comparison):
    ax = plot_score_effects(comparison)
    areas = np.asarray(ax.lines[1].get_xdata())
    assert areas.tolist() == sorted(comparison.area.tolist(), reverse=True)
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "noise"
    ax = plot_score_agreement(comparison)
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), comparison.agreement)
    plt.close("all")


def test_scores_of_a_pruned_model_are_refused_before_any_pass(planted, monkeypatch):
    found, _ = planted
    keep = NeuronSet(torch.rand(3, 29, generator=torch.Generator().manual_seed(0)) < torch.tensor([[0.2], [0.5], [1]]))
    ragged = prune(found.classifier, keep, torch.zeros(3, 29))
    monkeypatch.setattr(
        "skillneurons.neurons.other_scores.table.collect", lambda *a, **k: pytest.fail("a pass was made")
    )
    widths = ", ".join(map(str, keep.per_layer.tolist()))
    with pytest.raises(ValueError, match=rf"different numbers of neurons, \[{widths}\]"):
        rival_scores(ragged, found.task, ["auroc"])


def test_equally_pruned_layers_can_be_scored(planted):
    found, _ = planted
    keep = NeuronSet(torch.arange(29).expand(3, 29) < 20)
    even = prune(found.classifier, keep, torch.zeros(3, 29))
    assert rival_scores(even, found.task, ["auroc", "point_biserial"]).values["auroc"].shape == (3, 20)
