"""Runs compared: with themselves, with runs on other rows and of several classes, and what is refused."""

import shutil
from importlib import import_module
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from helpers import scipys_spearman
from typer.testing import CliRunner

from skillneurons import HookedEncoder, TuningConfig, collect, load_task
from skillneurons.cli.commands import app
from skillneurons.neurons.scores import union_of_top
from skillneurons.runs import FindSettings, RunComparison, compare_runs, find
from skillneurons.runs.progress import of_comparison

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning")

QUICK = FindSettings(
    seeds=(0,), n_prompt=2, tuning=TuningConfig(steps=3, eval_every=3), fractions=(0.1,), kinds=("zero",), n_random=1
)


@pytest.fixture(scope="module")
def model():
    return HookedEncoder.from_pretrained("bundled")


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """Of two binary tasks and of one of several classes."""
    folder = tmp_path_factory.mktemp("runs")
    return [find(model, load_task(name).subset(32), folder / name, QUICK) for name in ("movies", "replies", "news")]


@pytest.fixture(scope="module")
def result(runs, model):
    return compare_runs([run.folder for run in runs], fraction=0.05, n_draws=19, model=model)


def run_command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_what_two_runs_share_is_what_their_scores_share(runs, result):
    table = result.to_dataframe()
    assert result.runs == ("movies", "replies", "news") and len(table) == 3 * 5
    for i, j in combinations(range(3), 2):
        one, other = (torch.stack([s.predictivity for s in runs[k].scores]).mean(0) for k in (i, j))
        sets = [union_of_top(runs[k].scores, 0.05) for k in (i, j)]
        rows = table[(table.run == result.runs[i]) & (table.other_run == result.runs[j])].set_index("layer")
        expected = scipys_spearman(one.flatten(), other.flatten())
        assert rows.loc["all", "correlation"] == pytest.approx(expected)
        assert rows.loc[2, "correlation"] == pytest.approx(scipys_spearman(one[2], other[2]))
        assert rows.loc["all", "overlap"] == sets[0].overlap(sets[1])
        shared = (sets[0].mask[3] & sets[1].mask[3]).sum().item()
        smaller = min(sets[0].mask[3].sum().item(), sets[1].mask[3].sum().item())
        assert rows.loc[3, "overlap"] == shared / smaller
    for name in ("correlation", "overlap"):
        assert ((table[f"{name}_low"] <= table[name]) & (table[name] <= table[f"{name}_high"])).all()
        assert table[f"{name}_p"].between(1 / 20, 1).all()


def test_a_run_agrees_with_itself_whatever_the_labels(runs, model, tmp_path):
    copy = shutil.copytree(runs[0].folder, tmp_path / "copy")
    same = compare_runs([runs[0].folder, copy], fraction=0.05, n_draws=19, model=model)
    row = same.to_dataframe().iloc[0]
    assert row.correlation == pytest.approx(1) and row.overlap == 1
    # The same rows have the same draws: so does the null, and this says nothing.
    assert row.correlation_null == pytest.approx(1) and row.overlap_null == 1 and row.overlap_p == 1


def test_a_comparison_comes_back_from_disk_and_says_who_was_compared(result, tmp_path):
    loaded = RunComparison.load(result.save(tmp_path / "comparison"))
    pd.testing.assert_frame_equal(loaded.to_dataframe(), result.to_dataframe())
    assert "movies / news" in repr(result) and loaded.meta["model"] is not None


def test_the_figure_shows_every_pair_with_its_layers(result):
    figure = result.plot()
    panels = [ax for ax in figure.axes if ax.get_title("left")]
    assert len(panels) == 9 and panels[0].get_xlabel().endswith("movies") and panels[0].get_ylabel().endswith("replies")
    assert [tick.get_text() for tick in panels[1].get_xticklabels()] == ["all", "0", "1", "2", "3"]
    points = sum(len(one.get_offsets()) for one in panels[0].collections)
    # Those of no set are thinned where there are many.
    assert points == 4 * 768
    plt.close(figure)


def test_the_command_saves_a_table_and_a_figure(runs, tmp_path):
    done = run_command("compare", runs[0].folder, runs[2].folder, "--draws", 19, "--out", tmp_path)
    assert "2 runs, for each 1 pass over" in " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "comparison.csv")
    assert {"comparison.json", "comparison.pdf", "comparison.svg"} <= {path.name for path in tmp_path.iterdir()}
    assert f"{table.correlation[0]:.3f}" in done.output and "…" not in done.output
    table = [line for line in done.output.splitlines() if not line.startswith("Table and figure")]
    assert max(map(len, table[:-1])) <= 80 and "movies / news" in done.output


def test_a_comparison_says_beforehand_what_it_does(runs, model, monkeypatch):
    several = runs[2]
    said = of_comparison(several.scores, several.classifiers[0], several.task, 2, 19)
    seen = []

    def counting(classifier, rows, *given, **how):
        seen.append(rows)
        return collect(classifier, rows, *given, **how)

    monkeypatch.setattr(import_module("skillneurons.findings.stability"), "collect", counting)
    compare_runs([several.folder, runs[0].folder], n_draws=19, model=model)
    n = len(several.scores) * len(several.scores[0].seeds)
    assert len(seen) == n + 1
    assert said.parts == ("2 runs", f"for each {n} passes over {len(seen[0])} rows and 38 redraws")
    assert said.seconds > 0


def test_runs_that_cannot_be_compared_are_refused_in_one_line(runs, tmp_path):
    other = shutil.copytree(runs[0].folder, tmp_path / "other")
    alone = run_command("compare", runs[0].folder)
    assert alone.exit_code == 1 and "at least two folders" in alone.output
    with pytest.raises(FileNotFoundError, match="needs a finished run"):
        compare_runs([runs[0].folder, tmp_path])
    changed = HookedEncoder.from_pretrained("bundled")
    changed.cfg.source = "another"
    with torch.no_grad():
        changed.W_E[7, 3] += 1
    find(changed, load_task("movies").subset(32), tmp_path / "changed", QUICK)
    with pytest.raises(ValueError, match=r"Runs of one model are compared, but .*bundled.*another") as caught:
        compare_runs([other, tmp_path / "changed"])
    assert "\n" not in str(caught.value)
