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
    found = summary({"F4-necessity": pd.DataFrame(lines, columns=columns).assign(n_draws=20)})
    assert found["held"].tolist() == ["yes", "open", "no"]
    assert found[["effect", "low", "high"]].to_numpy().tolist()[0] == pytest.approx([0.5, 0.3, 0.7])


def test_the_words_are_compared_with_the_prompts_best_position():
    places = ("soft prompt, best position", "soft prompt, mean", "mask", "words, mean", "words, maximum")
    leads = ((0.0, -0.02, 0.02), (0.39, 0.3, 0.5), (0.39, 0.3, 0.5), (-0.25, -0.3, -0.2), (0.39, 0.3, 0.5))
    lines = [("t", place, *lead) for place, lead in zip(places, leads, strict=True)]
    columns = ["task", "place", "lead", "lead_low", "lead_high"]
    table = pd.DataFrame(lines, columns=columns).assign(
        best_held_out=0.5, best_held_out_low=0.4, best_held_out_high=0.6
    )
    found = summary({"F3-prompts": table})
    assert found["effect"].tolist() == [-0.25] and found["held"].tolist() == ["no"]


def test_a_table_of_an_earlier_version_is_compared_without_pairs():
    lines = [
        ("t", place, *ends(hits, 100)) for place, hits in (("soft prompt, best position", 60), ("words, mean", 85))
    ]
    table = pd.DataFrame(lines, columns=["task", "place", "best_held_out", "best_held_out_low", "best_held_out_high"])
    found = summary({"F3-prompts": table})
    assert found[["effect", "low", "high"]].to_numpy()[0].tolist() == pytest.approx(
        difference(ends(60, 100), ends(85, 100))
    )


def test_claims_of_a_finding_pay_for_their_number():
    """One of ten claims, at p = .02 by itself, is open beside nine others and holds alone."""
    half = 1.96 / 2.33
    columns = {"held_out_low": 0.5 + 0.1 * (1 - half), "held_out_high": 0.5 + 0.1 * (1 + half), "majority": 0.5}
    table = pd.DataFrame({"task": [f"t{i}" for i in range(10)], "held_out": [0.6] + [0.5] * 9} | columns)
    together, alone = summary({"F1-existence": table}), summary({"F1-existence": table.head(1)})
    assert together.family.unique().tolist() == [10] and together.held.unique().tolist() == ["open"]
    assert alone.held.tolist() == ["yes"] and alone.p.item() == pytest.approx(0.02, abs=2e-3)
    assert together.p_adjusted[0] == pytest.approx(10 * together.p[0])


def test_no_more_than_one_summary_in_twenty_calls_anything_settled_where_nothing_is():
    rng, settled = np.random.default_rng(0), 0
    for _ in range(300):
        effects = rng.normal(size=12) / 10
        ends = {"held_out": 0.5 + effects, "held_out_low": 0.304 + effects, "held_out_high": 0.696 + effects}
        table = pd.DataFrame({"task": [f"t{i}" for i in range(12)]} | ends).assign(majority=0.5)
        settled += (summary({"F1-existence": table}).held != "open").any()
    assert settled / 300 <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_seeds_that_share_no_more_than_chance_are_open_whatever_the_range_of_pairs():
    lines = [("t", 0, 1, 0.1, 0.076, p) for p in (0.058, 0.01)]
    tables = [
        pd.DataFrame([line], columns=["task", "seed", "other_seed", "overlap", "expected_overlap", "p"])
        for line in lines
    ]
    assert [summary({"F2-stability": table})["held"].item() for table in tables] == ["open", "yes"]


def test_a_tasks_own_neurons_are_compared_with_the_others_mean():
    columns = ["perturbed", "measured", "margin_gap", "margin_gap_low", "margin_gap_high", "n_random"]
    lines = [("a", "a", -0.5, -0.6, -0.4, 20), ("b", "a", -0.1, -0.2, 0.0, 20), ("c", "a", -0.3, -0.4, -0.2, 20)]
    lines += [(one, "b", -0.1, -0.3, 0.1, 20) for one in "abc"]
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
    found = summary({"F7-retuning": pd.DataFrame(lines, columns=columns).assign(n_draws=20)})
    assert found["claim"].item().startswith("bitfit, mean, top 30%") and found["held"].item() == "yes"


def test_nothing_measured_is_an_empty_table():
    assert summary({}).empty and "held" in summary({"F6-selectivity": pd.DataFrame()})
    assert sum(finding.claims is not None for finding in registered().values()) == 13


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


def test_steering_holds_where_skill_neurons_flip_more_of_the_same_rows():
    gaps = [(-4, 0.6, 0.5, 0.7), (2, 0.1, -0.1, 0.3), (4, 0.6, 0.4, 0.8)]
    columns = ["strength", "flips_gap", "flips_gap_low", "flips_gap_high"]
    flips = {"skill_flips": 0.8, "low": 0.7, "high": 0.9, "random_flips": 0.2, "random_flips_low": 0.0}
    table = pd.DataFrame(gaps, columns=columns).assign(task="t", n_random=10, random_flips_high=0.9, **flips)
    found = summary({"steering": table})
    assert found["held"].tolist() == ["open", "yes"]  # the negative strength steers away, which is not the claim
    assert found[["effect", "low", "high"]].to_numpy()[1].tolist() == [0.6, 0.4, 0.8]
