"""Findings that perturb: against one intervention at a time, and on planted neurons."""

import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import unchecked
from planted import N_SIGNALS, planted_classifier
from scipy import stats

from skillneurons import evaluate, find_skill_neurons, mean, perturbation_curve, zero
from skillneurons.activations._collect import collect
from skillneurons.activations.sums import LabelSums
from skillneurons.applications._pruning_report import pruning_report
from skillneurons.applications.steering import steering_curve
from skillneurons.findings import (
    cross_perturbation,
    label_word_selectivity,
    necessity,
    serves,
    several_classes,
    survives_retuning,
)
from skillneurons.findings.necessity import Scope
from skillneurons.findings.score_comparison import compare_scores
from skillneurons.interventions.gaps import half_width
from skillneurons.interventions.sweep import logits_many
from skillneurons.neurons.other_scores.table import RivalScores
from skillneurons.plots import plot_cross_perturbation, plot_necessity, plot_necessity_by_layer, plot_serves

FOUR_OF_ALL = 4 / 87


@pytest.fixture(scope="module")
def planted():
    return [planted_classifier(k, flip=0.1, n_train=53, n_validation=97, n_test=67) for k in range(N_SIGNALS)]


@pytest.fixture(scope="module")
def scores(planted):
    return [find_skill_neurons(one.classifier, one.task) for one in planted]


@pytest.fixture
def no_pass(monkeypatch):
    """Fails a test in which a model is run."""

    def refuse(*args, **options):
        raise AssertionError("a pass began")

    monkeypatch.setattr("skillneurons.classifiers.classifier.label_logits", refuse)
    for module in ("activations._collect", "interventions._logits_many"):
        monkeypatch.setattr(f"skillneurons.{module}.label_logits", refuse)


@pytest.fixture(scope="module")
def result(planted, scores):
    return necessity(
        planted[0].classifier,
        planted[0].task,
        scores[0],
        fractions=(FOUR_OF_ALL, 0.2),
        per_layer=False,
        n_random=5,
        rivals={"selective": planted[0].selective.mask.float()},
        sigma=0.5,
    )


def test_necessity_is_that_of_one_intervention_at_a_time(planted, scores, result):
    classifier, task = planted[0].classifier, planted[0].task
    where = classifier.layout.positions("prompt")
    values = collect(classifier, task.train, LabelSums(2)).mean.float()
    for f, fraction in enumerate(result.fractions):
        skill = scores[0].top(fraction, per_layer=False)
        for kind, perturb in (
            ("zero", lambda s: zero(s, positions=where)),
            ("mean", lambda s: mean(s, values, positions=where)),
        ):
            k = result.kinds.index(kind)
            alone = evaluate(classifier, task.test, perturb(skill))
            assert result.accuracy[0, k, 0, f] == pytest.approx(alone.accuracy)
            assert result.margin[0, k, 0, f] == pytest.approx(alone.margin, rel=1e-4, abs=1e-4)
            random = [evaluate(classifier, task.test, perturb(skill.random_like(seed=draw))) for draw in range(5)]
            assert result.random_accuracy[k, 0, f] == pytest.approx(np.mean([one.accuracy for one in random]))
            assert result.random_margin[k, 0, f] == pytest.approx(np.mean([one.margin for one in random]), rel=1e-4)
            gap = result.margin[0, k, 0, f] - result.random_margin[k, 0, f]
            assert result.margin_gap[0, k, 0, f, 0] == pytest.approx(gap.item(), rel=1e-4, abs=1e-4)


def test_planted_neurons_are_necessary_and_rivals_are_not(result):
    kinds = [result.kinds.index(kind) for kind in ("mean", "zero", "resample")]
    assert (result.accuracy_gap[0, kinds, 0, 0, 2] < -0.2).all()
    assert (result.accuracy_gap[1, kinds, 0, 0, 1] > -0.1).all()
    gaussian = result.kinds.index("gaussian")
    assert abs(result.accuracy_gap[0, gaussian, 0, 0, 0]) < 0.1
    assert result.unperturbed.accuracy > 0.85


def test_table_and_figures_hold_every_cell(result):
    table = result.to_dataframe()
    assert len(table) == 2 * 4 * 1 * 2 and set(table["group"]) == {"skill", "selective"}
    assert bool((table["accuracy_gap_low"] <= table["accuracy_gap"]).all())
    row = table.query("group == 'selective' and kind == 'zero'").iloc[1]
    assert row["margin"] == pytest.approx(result.margin[1, result.kinds.index("zero"), 0, 1].item())
    ax = plot_necessity(result)
    assert len(ax.containers) == len(result.kinds) and "prompt positions" in ax.get_title(loc="left")
    with pytest.raises(ValueError, match="'skill', 'selective', not 'nobody'"):
        plot_necessity(result, group="nobody")
    plt.close("all")


def test_single_and_cumulative_scopes_are_sets_of_their_layers(planted, scores):
    classifier, task = planted[0].classifier, planted[0].task
    where = classifier.layout.positions("prompt")
    skill = scores[0].top(0.1)
    scopes: dict[Scope, list[tuple[int, ...]]]
    scopes = {"single": [(0,), (1,), (2,)], "cumulative": [(0,), (0, 1), (0, 1, 2)]}
    for scope, layers in scopes.items():
        result = necessity(classifier, task, scores[0], kinds=("zero",), fractions=(0.1,), scope=scope, n_random=2)
        for s, chosen in enumerate(layers):
            alone = evaluate(classifier, task.test, zero(skill.layers(*chosen), positions=where))
            assert result.margin[0, 0, s, 0] == pytest.approx(alone.margin, rel=1e-4, abs=1e-4)
        # Prompt positions of the last layer feed nothing that the mask reads.
        if scope == "single":
            assert result.margin[0, 0, 2, 0] == pytest.approx(result.unperturbed.margin, rel=1e-5)
        assert plot_necessity_by_layer(result).get_xlabel().startswith("layer")
        plt.close("all")


def test_random_draws_stop_once_they_agree(planted, scores):
    arguments = {"kinds": ("zero",), "fractions": (FOUR_OF_ALL, 0.3), "n_random": 11, "per_layer": False}
    patient = necessity(planted[0].classifier, planted[0].task, scores[0], width=0.02, **arguments)
    every = necessity(planted[0].classifier, planted[0].task, scores[0], **arguments)
    assert patient.n_draws[0, 0, 0] == 4 and every.n_draws.tolist() == [[[11, 11]]]
    assert patient.accuracy.equal(every.accuracy)
    again = necessity(planted[0].classifier, planted[0].task, scores[0], width=0.02, **arguments)
    assert again.random_accuracy.equal(patient.random_accuracy) and again.n_draws.equal(patient.n_draws)


def test_half_width_is_students():
    values = torch.tensor([0.5, 0.7, 0.4, 0.9])
    low, high = stats.t.interval(0.95, 3, loc=values.mean().item(), scale=stats.sem(values.numpy()))
    assert half_width(values) == pytest.approx((high - low) / 2, rel=1e-5)


def test_label_word_neurons_are_no_rival_here(planted, scores):
    rival = label_word_selectivity(planted[1].model, planted[1].classifier.verbalizer)
    result = necessity(
        planted[1].classifier,
        planted[1].task,
        scores[1],
        kinds=("mean",),
        fractions=(FOUR_OF_ALL,),
        per_layer=False,
        n_random=4,
        rivals={"label words": rival},
    )
    assert result.accuracy_gap[0, 0, 0, 0, 2] < -0.2 < result.accuracy_gap[1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("blur",)}, r"not \('blur',\)"),
        ({"fractions": (0.6,)}, r"are \(0.6,\)"),
        ({"fractions": ()}, "`fractions` needs one or more"),
        ({"scope": "some"}, "not 'some'"),
        ({"n_random": 1}, "is 1"),
        ({"rivals": {"wide": torch.zeros(3, 31)}}, r"'wide'.*\(3, 29\).*\(3, 31\)"),
        ({"rivals": {"holes": torch.full((3, 29), torch.nan)}}, "'holes' holds NaN"),
        ({"rows": [{"text": "word1"}, {"text": "word2", "label": 1}]}, "run from -1 to 1"),
        ({"rows": [{"text": "word1", "label": 7}, {"text": "word2", "label": 1}]}, "run from 1 to 7"),
        ({"rows": [{"text": "word1", "label": 1}]}, "two rows or more"),
    ],
)
def test_bad_settings_are_refused_before_any_work(planted, scores, changes, message, unchecked_types, no_pass):
    with pytest.raises(ValueError, match=message):
        necessity(planted[0].classifier, planted[0].task, scores[0], **changes)


def test_too_few_neurons_left_to_draw_from_are_seen_before_any_work(planted, scores, no_pass):
    one_layer = replace(scores[0], above=scores[0].above.clone())
    one_layer.above[:, :, :, (0, 2)] = one_layer.n[None, :, None, None, None] // 2
    with pytest.raises(ValueError, match="disjoint random set needs 26 neurons"):
        necessity(planted[0].classifier, planted[0].task, one_layer, fractions=(0.3,), per_layer=False)


@pytest.mark.parametrize("n_random", [4, 7])
def test_a_sweep_costs_the_passes_that_it_says(planted, scores, n_random, monkeypatch):
    """1 + kinds x fractions x (1 + rivals + draws), each pass over all rows; likewise a curve, without rivals."""
    counted = []

    def count(classifier, rows, interventions, **options):
        counted.append(len(interventions))
        return logits_many(classifier, rows, interventions, **options)

    monkeypatch.setattr("skillneurons.interventions.sweep.logits_many", count)
    settings = {"fractions": (0.1, 0.2, 0.3), "n_random": n_random}
    classifier, task = planted[0].classifier, planted[0].task
    rivals = {"selective": planted[0].selective.mask.float()}
    found = necessity(classifier, task, scores[0], kinds=("zero", "mean"), rivals=rivals, **settings)
    assert sum(counted) == 1 + 2 * 3 * (1 + 1 + n_random)
    counted.clear()
    curve = perturbation_curve(classifier, task, scores[0], kind="zero", **settings)
    assert sum(counted) == 1 + 3 * (1 + n_random)
    plain = evaluate(classifier, task.test)
    assert curve.unperturbed == plain and found.unperturbed == plain


def test_scores_of_another_model_are_refused(planted, scores):
    foreign = replace(scores[0], meta=scores[0].meta | {"model": "another"})
    with pytest.raises(ValueError, match="of another"):
        necessity(planted[0].classifier, planted[0].task, foreign)


# Specificity, causally


@pytest.fixture(scope="module")
def cross(planted, scores):
    names = [f"task{k}" for k in range(N_SIGNALS)]
    return cross_perturbation(
        {name: one.classifier for name, one in zip(names, planted, strict=True)},
        {name: one.task for name, one in zip(names, planted, strict=True)},
        dict(zip(names, scores, strict=True)),
        fraction=FOUR_OF_ALL,
        kind="zero",
        per_layer=False,
        n_random=4,
    )


def test_each_task_loses_by_its_own_neurons_only(planted, scores, cross):
    for i in range(N_SIGNALS):
        for j in range(N_SIGNALS):
            where = planted[j].classifier.layout.positions("prompt")
            skill = scores[i].top(FOUR_OF_ALL, per_layer=False)
            alone = evaluate(planted[j].classifier, planted[j].task.test, zero(skill, positions=where))
            assert cross.accuracy[i, j] == pytest.approx(alone.accuracy)
            assert (cross.accuracy_gap[i, j, 2] < -0.2) == (i == j)
    assert (cross.own_minus_other < -1).all()
    slow = cross.margin_gap[0, 0, 0] - (cross.margin_gap[1, 0, 0] + cross.margin_gap[2, 0, 0]) / 2
    assert cross.own_minus_other[0] == pytest.approx(slow.item())
    assert len(cross.to_dataframe()) == 9
    ax = plot_cross_perturbation(cross)
    assert [text.get_text().endswith("*") for text in ax.texts] == [i == j for i in range(3) for j in range(3)]
    plt.close("all")


def test_cross_perturbation_needs_the_same_tasks_everywhere(planted, scores):
    with pytest.raises(ValueError, match=r"`tasks` are \('a', 'b'\), `classifiers` \('a', 'c'\)"):
        cross_perturbation(
            {"a": planted[0].classifier, "c": planted[1].classifier},
            {"a": planted[0].task, "b": planted[1].task},
            {"a": scores[0], "b": scores[1]},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swap": True}, "Scores of 'signal0' .* are needed, but came for 'signal1'"),
        ({"fraction": 0.0}, r"are \(0.0,\)"),
    ],
)
def test_cross_perturbation_refuses_what_would_measure_nothing(planted, scores, changes, message, no_pass):
    pair = {"a": planted[0], "b": planted[1]}
    order = (1, 0) if changes.pop("swap", False) else (0, 1)
    with pytest.raises(ValueError, match=message):
        cross_perturbation(
            {name: one.classifier for name, one in pair.items()},
            {name: one.task for name, one in pair.items()},
            {"a": scores[order[0]], "b": scores[order[1]]},
            **changes,
        )


def test_each_subtasks_neurons_serve_its_class():
    topics = planted_classifier("topics", n_train=53, n_validation=97, n_test=67)
    found = several_classes(topics.classifier, topics.task, fraction=3 * FOUR_OF_ALL, per_layer=False)
    result = serves(topics.classifier, topics.task, found, fraction=FOUR_OF_ALL, n_random=4)
    for i in range(N_SIGNALS):
        for j in range(N_SIGNALS):
            assert (result.logit_gap[i, j, 2] < -3) == (i == j)
    where = topics.classifier.layout.positions("prompt")
    values = collect(topics.classifier, topics.task.train, LabelSums(3)).mean.float()
    rows = [row for row in topics.task.test if row["label"] == 1]
    skill = found.scores[0].top(FOUR_OF_ALL, per_layer=False)
    logits = topics.classifier.logits(rows, mean(skill, values, positions=where))
    assert result.recall[0, 1] == pytest.approx((logits.argmax(1) == 1).double().mean().item())
    assert len(result.to_dataframe()) == 9 and len(plot_serves(result).texts) == 9
    with pytest.raises(ValueError, match=r"are \(0.0,\)"):
        serves(topics.classifier, topics.task, found, fraction=0.0)
    plt.close("all")


# Sweeps that go on, and what they refuse


def test_an_interrupted_sweep_goes_on_at_the_draws_where_it_stopped(planted, scores, tmp_path):
    arguments = {"kinds": ("gaussian", "zero"), "fractions": (FOUR_OF_ALL, 0.3), "n_random": 10, "per_layer": False}
    settings = {"rivals": {"selective": planted[0].selective.mask.float()}, "sigma": 0.5}
    whole = necessity(planted[0].classifier, planted[0].task, scores[0], **arguments, **settings)
    sweeps_done = []

    def stop(what, done, total):
        sweeps_done.extend([done] * (done == total))
        if len(sweeps_done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        necessity(
            planted[0].classifier,
            planted[0].task,
            scores[0],
            **arguments,
            **settings,
            resume_in=tmp_path,
            progress=stop,
        )
    assert sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.glob("*.json")) == ["chosen", "draws-0"]
    again = []
    resumed = necessity(
        planted[0].classifier,
        planted[0].task,
        scores[0],
        **arguments,
        **settings,
        resume_in=tmp_path,
        progress=lambda what, *done: again.append(done),
    )
    assert again.count((67, 67)) == 2
    assert resumed.margin_gap.equal(whole.margin_gap) and resumed.random_accuracy.equal(whole.random_accuracy)
    # Another scope has other sets.
    settings |= {"scope": "single", "resume_in": tmp_path, "progress": lambda what, *done: again.append(done)}
    again.clear()
    necessity(planted[0].classifier, planted[0].task, scores[0], **arguments, **settings)
    assert (67, 67) in again


def test_rivals_have_as_many_neurons_in_each_layer_as_skill(planted, scores):
    classifier, task = planted[0].classifier, planted[0].task
    rival = torch.rand(3, 29, generator=torch.Generator().manual_seed(1))
    rival[2] += 1
    result = necessity(
        classifier,
        task,
        scores[0],
        kinds=("zero",),
        fractions=(0.1,),
        per_layer=False,
        rivals={"late": rival},
        n_random=2,
    )
    skill = scores[0].top(0.1, per_layer=False)
    mask = torch.zeros(3, 29).bool()
    for layer, n in enumerate(skill.per_layer.tolist()):
        mask[layer, sorted(range(29), key=lambda i: -rival[layer, i].item())[:n]] = True
    where = classifier.layout.positions("prompt")
    alone = evaluate(classifier, task.test, zero(replace(skill, mask=mask), positions=where))
    assert result.margin[1, 0, 0, 0] == pytest.approx(alone.margin, rel=1e-4, abs=1e-4)


def test_a_layer_without_chosen_neurons_is_told_apart_from_one_without_effect(planted, scores):
    result = necessity(
        planted[0].classifier,
        planted[0].task,
        scores[0],
        kinds=("zero",),
        fractions=(FOUR_OF_ALL, 0.3),
        scope="single",
        per_layer=False,
        n_random=2,
    )
    for s, (_, part) in enumerate(result.to_dataframe().groupby("scope", sort=False)):
        expected = [len(scores[0].top(fraction, per_layer=False).layers(s)) for fraction in result.fractions]
        assert part["n_neurons"].tolist() == expected
    assert 0 in result.to_dataframe()["n_neurons"].tolist()


def test_a_classifier_of_other_classes_is_refused_wherever_a_task_is_measured(planted, scores, unchecked_types):
    topics = planted_classifier("topics", n_train=53, n_validation=97, n_test=67)
    view = topics.task.one_vs_rest("first")
    message = r"has \('rest', 'first'\) and the classifier answers \('first', 'second', 'third'\)"
    found = find_skill_neurons(topics.classifier, view)
    with pytest.raises(ValueError, match=message):
        necessity(topics.classifier, view, found)
    with pytest.raises(ValueError, match=message):
        steering_curve(topics.classifier, view, found.top(0.1), "first")
    with pytest.raises(ValueError, match=message):
        pruning_report(topics.classifier, view, found)
    with pytest.raises(ValueError, match=message):
        compare_scores(topics.classifier, view, RivalScores({"one": found.predictivity}))
    with pytest.raises(ValueError, match=message):
        cross_perturbation(
            {"a": planted[0].classifier, "b": topics.classifier},
            {"a": planted[0].task, "b": view},
            {"a": scores[0], "b": found},
        )
    classes = several_classes(topics.classifier, topics.task)
    with pytest.raises(ValueError, match=message):
        serves(topics.classifier, view, classes)
    few = replace(topics.task, test=[row for row in topics.task.test if row["label"] < 2])
    with pytest.raises(ValueError, match="two test rows, but 'third' has fewer"):
        serves(topics.classifier, few, classes)
    # The same classes by their words will do.
    unnamed = replace(planted[0].classifier, labels=("no0", "yes0"))
    assert (
        necessity(unnamed, planted[0].task, scores[0], kinds=("zero",), fractions=(0.1,), n_random=2).unperturbed.n
        == 67
    )


def test_settings_of_retuned_classifiers_are_refused_before_any_tuning(planted, scores, monkeypatch, unchecked_types):
    monkeypatch.setattr(
        sys.modules["skillneurons.findings.origin"], "tune_bitfit", lambda *a, **k: pytest.fail("tuned")
    )
    model, task = planted[0].classifier.model, planted[0].task
    for changes, message in (({"kinds": ("blur",)}, "blur"), ({"fractions": (0.6,)}, "0.6"), ({"n_random": 1}, "is 1")):
        with pytest.raises(ValueError, match=message):
            survives_retuning(model, task, scores[0], methods=("bitfit",), **unchecked(changes))
