"""Arguments that make no sense are refused where they come in, by name."""

from dataclasses import replace

import pytest
import torch
from helpers import unchecked

from skillneurons import (
    Decisions,
    Examples,
    NeuronSet,
    Task,
    TuningConfig,
    accuracy,
    against_random,
    claims,
    collect,
    compare_scores,
    evaluate,
    find_skill_neurons,
    gaussian,
    load_example,
    neuron_card,
    perturbation_curve,
    random_prompt,
    rival_scores,
    steer,
    text_heat,
    top_neurons,
    zero,
)
from skillneurons.activations.examples import OneNeuron

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture(scope="module")
def example():
    classifier, task = load_example()
    return classifier, task, find_skill_neurons(classifier, task)


NUMBERS = [
    ("n", lambda c, t, s, bad: t.subset(bad)),
    ("seed", lambda c, t, s, bad: t.subset(10, bad)),
    ("seed", lambda c, t, s, bad: t.balanced(bad)),
    ("n_words", lambda c, t, s, bad: t.shortened(bad)),
    ("n_prompt", lambda c, t, s, bad: random_prompt(c.model, bad)),
    ("seed", lambda c, t, s, bad: random_prompt(c.model, 2, bad)),
    ("n_random", lambda c, t, s, bad: perturbation_curve(c, t, s, n_random=bad)),
    ("seed", lambda c, t, s, bad: perturbation_curve(c, t, s, seed=bad)),
    ("sigma", lambda c, t, s, bad: perturbation_curve(c, t, s, sigma=bad)),
    ("tokens_per_batch", lambda c, t, s, bad: perturbation_curve(c, t, s, tokens_per_batch=bad)),
    ("n_random", lambda c, t, s, bad: neuron_card(c, t, s, n_random=bad)),
    ("n_words", lambda c, t, s, bad: neuron_card(c, t, s, n_words=bad)),
    ("n_draws", lambda c, t, s, bad: against_random(s.held_out, s.top(0.1), n_draws=bad)),
    ("n", lambda c, t, s, bad: claims(s, bad)),
    ("level", lambda c, t, s, bad: claims(s, 2, level=bad)),
    ("fraction", lambda c, t, s, bad: top_neurons(s.predictivity, bad)),
    ("sigma", lambda c, t, s, bad: gaussian(s.top(0.1), bad, seed=0)),
    ("seed", lambda c, t, s, bad: s.top(0.1).random_like(seed=bad)),
    *(
        (name, lambda c, t, s, bad, name=name: TuningConfig(**{name: bad}))
        for name in ("lr", "steps", "batch_size", "warm_up", "eval_every", "patience")
    ),
]


@pytest.mark.parametrize("bad", [-1, float("nan"), "three", None, [], True], ids=str)
@pytest.mark.parametrize(("name", "call"), NUMBERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_that_is_none_is_refused_by_name(example, name, call, bad):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        call(*example, bad)


@pytest.mark.parametrize(("name", "call"), [one for one in NUMBERS if one[0] in ("n_random", "n_draws", "n_bootstrap")])
def test_numbers_that_would_never_end_are_refused(example, name, call):
    with pytest.raises(ValueError, match=f"`{name}`.*not 1000000000000"):
        call(*example, 10**12)


def test_shares_are_no_numbers_of_steps():
    with pytest.raises(ValueError, match="`warm_up` lies between 0 and 1, not 50"):
        TuningConfig(warm_up=50)


def test_a_statistic_for_another_number_of_rows_is_refused(example):
    classifier, task, scores = example
    baseline = scores.baseline[0].permute(0, 1, 2)
    for statistic in (Examples(99), OneNeuron(99, 0, 0, 0), Decisions(baseline, 99)):
        with pytest.raises(ValueError, match=f"made for 99 rows, but {len(task.test)} come"):
            collect(classifier, task.test, statistic)


def test_accuracies_of_integer_activations_are_no_integers_and_shapes_must_fit():
    activations = torch.tensor([1, 3, 5]).reshape(3, 1, 1, 1)
    labels, baseline = torch.tensor([0, 1, 0]), torch.full((1, 1, 1), 2)
    assert accuracy(activations, labels, baseline).item() == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"these are \(2,\) and \(1, 1, 1\)"):
        accuracy(activations, labels[:2], baseline)
    with pytest.raises(ValueError, match=r"these are \(3,\) and \(1, 1, 7\)"):
        accuracy(activations, labels, torch.zeros(1, 1, 7))


def test_neurons_of_another_model_are_refused_in_hooks_and_comparisons(example):
    classifier, task, scores = example
    foreign = replace(scores.top(0.1), model="another")
    with pytest.raises(ValueError, match="neurons of model another"):
        evaluate(classifier, task.test, zero(foreign))
    with pytest.raises(ValueError, match=r"for each neuron of `chosen`, \(2, 5\)"):
        against_random(scores.held_out, NeuronSet(torch.ones(2, 5).bool()))


def test_a_direction_belongs_to_its_positions(example):
    classifier, task, scores = example
    direction = torch.zeros(16, *scores.predictivity.shape)
    with pytest.raises(ValueError, match="shifts of 16 positions; say which"):
        steer(scores.top(0.1), direction)
    with pytest.raises(ValueError, match="shifts of 16 positions, but `positions` are 3"):
        evaluate(classifier, task.test, steer(scores.top(0.1), direction, positions=slice(1, 4)))


def test_one_text_is_no_list_of_letters(example):
    with pytest.raises(TypeError, match=r"`texts` of `text_heat` needs to be .*, not 'text'"):
        text_heat(example[0], "text", (0, 5))


def test_resamples_of_a_comparison_are_counted(example):
    classifier, task, _ = example
    scores = rival_scores(classifier, task, ["predictivity"])
    with pytest.raises(ValueError, match="`n_bootstrap`"):
        compare_scores(classifier, task, scores, n_bootstrap=10**12)


def test_a_task_is_a_task():
    rows = [{"text": str(i), "label": i % 2} for i in range(4)]
    with pytest.raises(TypeError, match="`n`"):
        Task("mine", rows, rows, rows, ["a", "b"]).subset(unchecked("two"))
