"""The summary of claims: signs, intervals, and who is compared with whom."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from skillneurons.cli import terminal
from skillneurons.findings.common import difference
from skillneurons.findings.record import registered
from skillneurons.runs._summary import summary
from skillneurons.utilities.intervals import clopper_pearson


def ends(hits, n):
    return (hits / n, *clopper_pearson(hits, n))


@given(st.integers(0, 40), st.integers(0, 60))
def test_a_difference_lies_in_its_interval_and_turns_round_with_its_sides(a, b):
    one, other = ends(a, 40), ends(b, 60)
    effect, low, high = difference(one, other)
    assert low <= effect <= high and effect == pytest.approx(a / 40 - b / 60)
    assert difference(other, one) == pytest.approx((-effect, -high, -low))


def test_intervals_of_differences_cover_what_they_should():
    rng, covered = np.random.default_rng(0), 0
    for a, b in zip(rng.binomial(60, 0.8, 400), rng.binomial(60, 0.65, 400), strict=True):
        _, low, high = difference(ends(int(a), 60), ends(int(b), 60))
        covered += low <= 0.15 <= high
    assert 0.94 <= covered / 400 <= 1


def test_a_claim_holds_only_where_the_whole_interval_speaks_for_it():
    columns = ["task", "group", "kind", "positions", "fraction", "margin_gap", "margin_gap_low", "margin_gap_high"]
    lines = [
        ("t", "skill", "mean", "all", 0.1, 9.0, 8.0, 10.0),  # a smaller share: left out
        ("t", "skill", "mean", "all", 0.3, -0.5, -0.7, -0.3),
        ("t", "label words", "mean", "all", 0.3, -9.0, -9.1, -8.9),  # a rival: left out
        ("t", "skill", "zero", "all", 0.3, -0.1, -0.3, 0.1),
        ("t", "skill", "gaussian", "all", 0.3, 0.2, 0.1, 0.3),
    ]
    found = summary({"F4-necessity": pd.DataFrame(lines, columns=columns)})
    assert found["held"].tolist() == ["yes", "open", "no"]
    assert found[["effect", "low", "high"]].to_numpy().tolist()[0] == pytest.approx([0.5, 0.3, 0.7])


def test_the_words_are_compared_with_the_prompts_best_position():
    places = ("soft prompt, best position", "soft prompt, mean", "mask", "words, mean", "words, maximum")
    lines = [("t", place, *ends(hits, 100)) for place, hits in zip(places, (60, 99, 99, 85, 99), strict=True)]
    columns = ["task", "place", "best_held_out", "best_held_out_low", "best_held_out_high"]
    found = summary({"F3-prompts": pd.DataFrame(lines, columns=columns)})
    assert found["effect"].tolist() == pytest.approx([-0.25]) and found["held"].tolist() == ["no"]


def test_seeds_that_share_no_more_than_chance_are_open_whatever_the_range_of_pairs():
    lines = [("t", 0, 1, 0.1, 0.076, p) for p in (0.058, 0.01)]
    tables = [
        pd.DataFrame([line], columns=["task", "seed", "other_seed", "overlap", "expected_overlap", "p"])
        for line in lines
    ]
    assert [summary({"F2-stability": table})["held"].item() for table in tables] == ["open", "yes"]


def test_a_tasks_own_neurons_are_compared_with_the_others_mean():
    columns = ["perturbed", "measured", "margin_gap", "margin_gap_low", "margin_gap_high"]
    lines = [("a", "a", -0.5, -0.6, -0.4), ("b", "a", -0.1, -0.2, 0.0), ("c", "a", -0.3, -0.4, -0.2)]
    lines += [(one, "b", -0.1, -0.3, 0.1) for one in "abc"]
    found = summary({"F5-cross": pd.DataFrame(lines, columns=columns)})
    half = (0.1**2 + 0.1**2) ** 0.5
    assert found[["effect", "low", "high"]].to_numpy()[0].tolist() == pytest.approx([0.3, 0.3 - half, 0.3 + half])
    assert found["held"].tolist() == ["yes", "open"]


def test_retuned_classifiers_are_named_by_method():
    columns = ["task", "method", "kind", "group", "fraction", "margin_gap", "margin_gap_low", "margin_gap_high"]
    lines = [
        ("t", "bitfit", "mean", "skill", 0.1, 9.0, 8.0, 10.0),
        ("t", "bitfit", "mean", "skill", 0.3, -2.0, -3.0, -1.0),
    ]
    found = summary({"F7-retuning": pd.DataFrame(lines, columns=columns)})
    assert found["claim"].item().startswith("bitfit, mean, top 30%") and found["held"].item() == "yes"


def test_nothing_measured_is_an_empty_table():
    assert summary({}).empty and "held" in summary({"F6-selectivity": pd.DataFrame()})
    assert sum(finding.claims is not None for finding in registered().values()) == 12


def test_an_indicator_holds_only_where_the_permutation_test_agrees():
    one = {"indicator": "cosine", "correlation": 0.6, "low": 0.1, "high": 0.9, "n_pairs": 4}
    tables = [pd.DataFrame([{**one, "p_value": p}]) for p in (0.67, 0.05, 0.04)]
    assert [summary({"F9-indicators": table}).held.item() for table in tables] == ["open", "open", "yes"]
    worse = pd.DataFrame([{**one, "low": -0.9, "high": -0.1, "p_value": 0.04}])
    assert summary({"F9-indicators": worse}).held.item() == "no"


def test_the_printed_summary_names_every_claim_in_a_narrow_window(capsys, monkeypatch):
    table = pd.DataFrame({"task": ["films", "food"], "held_out": 0.8, "held_out_low": 0.7, "held_out_high": 0.9})
    claims = summary({"F1-existence": table.assign(majority=0.5)})
    monkeypatch.setattr(terminal, "console", Console(width=60))
    terminal.print_summary(claims)
    printed = capsys.readouterr().out
    assert printed.count("+0.200 to +0.400") == 2 and printed.count("yes") == 2
    assert "F1-existence, films" in printed and "F1-existence, food" in printed
    assert max(map(len, printed.splitlines())) <= 60


def test_steering_holds_where_every_random_set_flips_less():
    flips = {"skill_flips": 0.8, "low": 0.7, "high": 0.9, "random_flips": 0.2, "random_flips_low": 0.0}
    lines = [
        {"task": "t", "strength": s, **flips, "random_flips_high": most} for s, most in ((-4, 0), (2, 0.75), (4, 0.6))
    ]
    found = summary({"steering": pd.DataFrame(lines)})
    assert found["held"].tolist() == ["open", "yes"]  # the negative strength steers away, which is not the claim
    assert found[["effect", "low", "high"]].to_numpy()[1].tolist() == pytest.approx([0.6, 0.1, 0.9])
