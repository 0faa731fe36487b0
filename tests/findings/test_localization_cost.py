"""What a localization says that it will cost, against the rows that pass through the model."""

import pytest

from skillneurons import HookedEncoder, find_skill_neurons, load_example
from skillneurons.findings.localization import LocalizationSettings, expected_rows, localization

FEW: dict = {"n_bootstrap": 3, "n_shuffles": 2, "n_random": 2, "n_random_layers": 2, "shares": (0.2, 0.6)}


@pytest.mark.parametrize("question", ["remaining", "signal", "writers", "causal", None])
def test_no_more_rows_pass_than_it_says_and_most_of_them_do(question, monkeypatch):
    classifier, task = load_example()
    scores = find_skill_neurons(classifier, task, progress=False)
    passed, told, forward = [], [], HookedEncoder.forward

    def counting(model, tokens, *given, **how):
        # A pass that stops at a block is the lower part of others.
        passed.append(0 if how.get("stop_at_layer") else len(tokens))
        return forward(model, tokens, *given, **how)

    monkeypatch.setattr(HookedEncoder, "forward", counting)
    asked = () if question is None else (question,)
    how = {**FEW, "questions": asked, "n_rows": 20}
    localization(classifier, task, scores, progress=lambda *one: told.append(one), **how)
    settings = LocalizationSettings(**{**how, "shares": FEW["shares"]})
    total = expected_rows(settings, task, n_prompts=1, n_layers=4)
    # Holding neurons at their mean takes a pass over training rows for the means.
    assert 0.6 * total <= sum(passed) <= total + 2 * 20
    done = [n for _, n, _ in told]
    assert {(what, n) for what, _, n in told} == {("localization", total)}
    assert done == sorted(done) and done[-1] == total and len(done) > 3
