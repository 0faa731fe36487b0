"""Keywords shared between functions: each function takes its own, and refuses those that would do nothing."""

import pytest

from skillneurons import (
    cross_perturbation,
    find_skill_neurons,
    load_example,
    necessity,
    neuron_card,
    perturbation_curve,
    pruning_report,
    steering_curve,
)
from skillneurons.findings import origin, survives_retuning


@pytest.fixture(scope="module")
def example():
    classifier, task = load_example()
    return classifier, task, find_skill_neurons(classifier, task)


@pytest.mark.parametrize(
    ("function", "option"),
    [
        (lambda c, t, s, **o: perturbation_curve(c, t, s, **o), "n_randm"),
        (lambda c, t, s, **o: necessity(c, t, s, **o), "kind"),
        (lambda c, t, s, **o: steering_curve(c, t, s.top(0.1), "positive", **o), "sigma"),
        (lambda c, t, s, **o: cross_perturbation({"a": c, "b": c}, {"a": t, "b": t}, {"a": s, "b": s}, **o), "rows"),
        (lambda c, t, s, **o: neuron_card(c, t, s, **o), "per_layer"),
        (lambda c, t, s, **o: pruning_report(c, t, s, **o), "tokens_per_batch"),
        (lambda c, t, s, **o: origin([c], t, **o), "n_random"),
        (lambda c, t, s, **o: survives_retuning(c.model, t, s, **o), "retune"),
    ],
)
def test_a_keyword_that_would_do_nothing_is_refused(example, function, option):
    with pytest.raises(TypeError, match=f"no argument `{option}`"):
        function(*example, **{option: 1})
