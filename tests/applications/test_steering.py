"""Steering against slow loops, and on a model whose neurons that matter are known."""

import pytest
import torch
from helpers import unchecked
from hypothesis import given
from hypothesis import strategies as st
from planted import planted_classifier

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import Examples
from skillneurons.applications.steering import SteeringCurve, flip_rate, label_direction, shift_ratio, steering_curve
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.interventions.hooks import steer
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.plots import plot_steering

STRENGTHS = (-6.0, -1.0, 0.0, 1.0, 6.0)


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0)


@pytest.fixture(scope="module")
def curve(planted):
    return steering_curve(
        planted.classifier, planted.task, planted.neurons, "good", strengths=STRENGTHS, n_random=5, seed=3
    )


# Pieces


@given(before=st.lists(st.integers(0, 2), min_size=1, max_size=12), seed=st.integers(0, 9), label=st.integers(0, 2))
def test_flip_rate_is_that_of_a_loop_over_answers(before, seed, label):
    after = torch.randint(3, (len(before),), generator=torch.Generator().manual_seed(seed))
    for towards in (True, False):
        able = [(b, a) for b, a in zip(before, after.tolist(), strict=True) if (b == label) != towards]
        flipped = sum((a == label) == towards for _, a in able)
        rate = flip_rate(torch.tensor(before), after, label, towards=towards)
        assert rate == pytest.approx(flipped / len(able) if able else float("nan"), nan_ok=True)


def test_direction_is_the_difference_of_the_classes_means_in_a_loop(planted):
    rows = planted.task.train
    values = collect(planted.classifier, rows, Examples(len(rows))).values
    own = [values[i] for i, row in enumerate(rows) if row["label"] == 1]
    rest = [values[i] for i, row in enumerate(rows) if row["label"] != 1]
    expected = sum(own) / len(own) - sum(rest) / len(rest)
    direction = label_direction(planted.classifier, rows, 1)
    torch.testing.assert_close(direction.float(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(label_direction(planted.classifier, rows, 0), -direction)
    with pytest.raises(ValueError, match=r"examples of class 1 and of others, but the classes hold \[2, 0\]"):
        label_direction(planted.classifier, [{"text": "good0", "label": 0}] * 2, 1)
    for label in (-1, 2):
        with pytest.raises(ValueError, match=rf"`label` is an index of bad, good, from 0, not {label}"):
            label_direction(planted.classifier, rows, label)


def test_direction_of_one_of_three_classes_is_against_all_others():
    topics = planted_classifier("topics")
    rows = topics.task.train
    values = collect(topics.classifier, rows, Examples(len(rows))).values
    of_class = torch.tensor([row["label"] == 2 for row in rows])
    expected = values[of_class].mean(dim=0) - values[~of_class].mean(dim=0)
    torch.testing.assert_close(label_direction(topics.classifier, rows, 2).float(), expected, rtol=1e-4, atol=1e-5)


def test_matched_random_neurons_move_as_far_in_each_layer(planted):
    direction = label_direction(planted.classifier, planted.task.train, 1)
    others = planted.neurons.random_like(seed=0)
    ratio = shift_ratio(direction, planted.neurons, others)
    for layer in range(3):
        length = [
            sum(direction[p, layer, n].item() ** 2 for p in range(5) for n in chosen.indices(layer).tolist()) ** 0.5
            for chosen in (planted.neurons, others)
        ]
        assert ratio[layer].item() * length[1] == pytest.approx(length[0])
    assert ratio[0] > 1
    assert shift_ratio(torch.zeros(5, 3, 29), planted.neurons, others).tolist() == [0, 0, 0]


# The whole


def test_curve_is_that_of_a_loop_over_sets_and_strengths(planted, curve):
    classifier, rows = planted.classifier, planted.task.test
    direction, where = label_direction(classifier, planted.task.train, 1), classifier.layout.positions("prompt")
    before = classifier.logits(rows)
    ones = torch.ones(len(rows), dtype=torch.long)
    for draw in (None, 0, 4):
        chosen = planted.neurons if draw is None else planted.neurons.random_like(seed=3 * 10_007 + draw)
        scale = shift_ratio(direction, planted.neurons, chosen)[:, None]
        for i, strength in enumerate(STRENGTHS):
            after = classifier.logits(rows, steer(chosen, strength * direction * scale, positions=where))
            flips, shifts = (
                (curve.skill, curve.skill_shift) if draw is None else (curve.random[draw], curve.random_shift[draw])
            )
            expected = flip_rate(before.argmax(1), after.argmax(1), 1, towards=strength >= 0)
            assert flips[i].item() == pytest.approx(expected)
            rise = (label_margin(after, ones) - label_margin(before, ones)).mean().item()
            assert shifts[i].item() == pytest.approx(rise, abs=1e-4)


def test_planted_neurons_steer_answers_and_matched_random_ones_do_not(planted, curve):
    assert curve.n_other + curve.n_label == len(planted.task.test)
    assert curve.skill[0] > 0.95 and curve.skill[-1] > 0.95
    assert curve.random.max() < 0.2
    assert bool((curve.skill_shift.diff() > 0).all())
    assert curve.skill[2] == 0 and curve.skill_shift[2] == 0 and not curve.random_shift[:, 2].any()


def test_random_neurons_by_their_own_difference_move_less(planted, curve):
    own = steering_curve(
        planted.classifier,
        planted.task,
        planted.neurons,
        "good",
        strengths=STRENGTHS,
        n_random=5,
        seed=3,
        match="own",
    )
    assert torch.equal(own.skill_shift, curve.skill_shift)
    assert own.random_shift.abs().sum() < curve.random_shift.abs().sum()


def test_curve_can_be_read_stored_and_drawn(planted, curve, tmp_path):
    table = curve.to_dataframe()
    assert table.strength.tolist() == list(STRENGTHS)
    assert table.n_rows.tolist() == [curve.n_label] * 2 + [curve.n_other] * 3
    assert ((table.low <= table.skill_flips) & (table.skill_flips <= table.high)).all()
    assert table.random_shift_high.tolist() == curve.random_shift.amax(dim=0).tolist()
    curve.save(tmp_path / "curve")
    again = SteeringCurve.load(tmp_path / "curve")
    assert again.to_dataframe().equals(table) and again.label == "good" and again.meta == curve.meta
    assert "away from 'good'" in plot_steering(curve).get_title(loc="left")
    assert "rise of the logit of 'good'" in plot_steering(curve, quantity="shift").get_ylabel()


def test_settings_that_make_no_sense_are_refused(planted, curve, unchecked_types):
    def run(label="good", neurons=planted.neurons, **options):
        return steering_curve(planted.classifier, planted.task, neurons, label, **options)

    with pytest.raises(ValueError, match="one of 'bad', 'good', not 'better'"):
        run("better")
    with pytest.raises(ValueError, match="got 0 and 10 random sets"):
        run(neurons=NeuronSet(torch.zeros(3, 29).bool()))
    with pytest.raises(ValueError, match="from 1 to 100,000, not 0"):
        run(n_random=0)
    with pytest.raises(ValueError, match="not 'size'"):
        run(match="size")
    with pytest.raises(ValueError, match="not 'logits'"):
        plot_steering(curve, quantity=unchecked("logits"))


def test_flips_stand_beside_how_often_random_sets_flip_as_many():
    random = torch.tensor([[0.1, 0.5, torch.nan], [0.2, 0.6, torch.nan], [0.3, 0.1, torch.nan]])
    skill = torch.tensor([0.9, 0.5, torch.nan])
    curve = SteeringCurve((1.0, 2.0, -1.0), skill, random, torch.zeros(3), torch.zeros(3, 3), 10, 0, "good")
    p = curve.to_dataframe().p_flips.tolist()
    assert p[:2] == [0.25, 0.75] and p[2] != p[2]
