"""Runs that grow: what is reused, what is computed anew, what is refused, and what interrupts leave whole."""

import json
import re
import shutil
from dataclasses import replace

import matplotlib
import pandas as pd
import pytest
import torch
from planted import unsealed
from scipy import stats
from small_runs import SMALL_RUN
from typer.testing import CliRunner

from skillneurons import PerturbationCurve, load_task
from skillneurons.cli.commands import _default_folder, app
from skillneurons.interventions import sweep
from skillneurons.interventions.curve import over_seeds
from skillneurons.runs import RunFolderError, find, open_run, perturb_run, trials
from skillneurons.runs.finished_runs._perturb import perturbing
from skillneurons.runs.hub import run_files
from skillneurons.runs.progress import cost

matplotlib.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning")

SMALL = replace(SMALL_RUN, tuning=replace(SMALL_RUN.tuning, eval_every=2))


def n_prompts(said):
    return int((re.search(r"(\d+) prompts? of", said) or [0, 0])[1])


def n_perturbations(said):
    return int((re.search(r"(\d+) perturbations? of", said) or [0, 0])[1])


@pytest.fixture(scope="module")
def finished(model, task, tmp_path_factory):
    return find(model, task, tmp_path_factory.mktemp("run") / "a", SMALL)


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "copy")


@pytest.fixture
def computed(monkeypatch):
    """What tunes, and how many interventions are swept, while a test runs."""
    found = {"tuned": [], "swept": 0}
    tune, many = trials.tune_prompt, sweep.logits_many

    def tuned(*args, seed, **kwargs):
        found["tuned"].append(seed)
        return tune(*args, seed=seed, **kwargs)

    def swept(classifier, rows, hooks, **kwargs):
        found["swept"] += len(hooks)
        return many(classifier, rows, hooks, **kwargs)

    monkeypatch.setattr(trials, "tune_prompt", tuned)
    monkeypatch.setattr(sweep, "logits_many", swept)
    return found


@pytest.mark.parametrize(
    ("change", "tuned", "swept"),
    [
        # One curve is the classifier as it is, skill neurons, and two random sets.
        ({"kinds": ("mean", "zero")}, [], 4),
        ({"fractions": (0.1, 0.3)}, [], 3),
        ({"fractions": (0.2, 0.1)}, [], 4),
        ({"n_random": 5}, [], 3),
        ({"fraction": 0.2}, [], 0),
        ({"n_perturb_rows": 35}, [], 4),
        ({"sweep_seeds": True}, [], 4),
        ({"seeds": (0, 1, 2)}, [2], 3),
        ({}, [], 0),
    ],
    ids=str,
)
def test_a_finished_run_is_extended_and_is_then_what_it_would_have_been(
    folder, model, task, tmp_path, computed, change, tuned, swept
):
    wanted = replace(SMALL, **change)
    said = cost(model, task, wanted, folder)
    grown = find(model, task, folder, wanted)
    assert [n_prompts(said), n_perturbations(said)] == [len(tuned), swept + bool(tuned)]  # as it is: of the prompt only
    assert cost(model, task, wanted, folder) == ""
    assert computed == {"tuned": tuned, "swept": swept}
    fresh = find(model, task, tmp_path / "fresh", wanted)
    assert grown.skill == fresh.skill and grown.evaluations == fresh.evaluations
    assert torch.equal(grown.scores[0].above, fresh.scores[0].above)
    for kind, curves in fresh.seed_curves.items():
        for one, other in zip(curves, grown.seed_curves[kind], strict=True):
            assert one.fractions == other.fractions and torch.equal(one.random, other.random)
            torch.testing.assert_close(one.skill_margin, other.skill_margin, atol=1e-6, rtol=1e-5)
    # It is whole: opened, listed for sharing, and read again.
    assert run_files(folder) == run_files(tmp_path / "fresh")
    assert open_run(folder, model=model).settings == open_run(tmp_path / "fresh", model=model).settings
    computed.update(tuned=[], swept=0)
    find(model, task, folder, wanted)
    assert computed == {"tuned": [], "swept": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0,)}, r"seeds: \[0, 1\] there, \[0\] asked for"),
        ({"kinds": ("zero",)}, "kinds"),
        ({"fractions": (0.2,)}, r"fractions: \[0.1\] there"),
        ({"n_random": 1}, "n_random: 2 there, 1 asked for"),
        ({"n_perturb_rows": 20}, "n_perturb_rows"),
        ({"n_prompt": 4}, r"settings.n_prompt: 3 there, 4 asked for\), whose numbers would change.*--out.*`n_prompt`"),
        ({"positions": "prompt"}, "settings.positions"),
        ({"sigma": 0.2}, "settings.sigma"),
    ],
    ids=str,
)
def test_what_changes_or_loses_finished_numbers_is_refused_with_the_way_out(finished, model, task, change, message):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*.json")}
    with pytest.raises(RunFolderError, match=message) as caught:
        find(model, task, finished.folder, replace(SMALL, **change))
    assert "--out" in str(caught.value)
    assert before == {path: path.read_bytes() for path in finished.folder.rglob("*.json")}


def test_a_run_that_is_interrupted_while_it_grows_is_what_it_was(folder, model, task, monkeypatch):
    before = run_files(folder), (folder / "run.json").read_bytes()

    def stop(what, done, total):
        if what.startswith("perturb"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(model, task, folder, replace(SMALL, seeds=(0, 1, 2)), progress=stop)
    assert (run_files(folder), (folder / "run.json").read_bytes()) == before
    assert open_run(folder, model=model).scores[0].seeds == [0, 1]
    assert find(model, task, folder, replace(SMALL, seeds=(0, 1, 2))).scores[0].seeds == [0, 1, 2]


def test_an_unfinished_run_may_become_smaller(model, task, tmp_path):
    def stop(what, done, total):
        if what.endswith("seed 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(model, task, tmp_path / "run", SMALL, progress=stop)
    assert find(model, task, tmp_path / "run", replace(SMALL, seeds=(0,))).scores[0].seeds == [0]


def test_a_run_of_an_earlier_version_grows(folder, model, task):
    """Which had no name for itself, no such setting, no points, and no seeds in its curves."""
    settings = unsealed(folder / "settings.json")
    del settings["settings"]["sweep_seeds"], settings["run"]
    (folder / "settings.json").write_text(json.dumps(settings))
    curve = PerturbationCurve.load(folder / "curve-mean")
    replace(curve, meta={key: value for key, value in curve.meta.items() if key != "seeds"}).save(folder / "curve-mean")
    shutil.rmtree(folder / "points")
    assert "curve-mean" in find(model, task, folder, SMALL).reused
    again = find(model, task, folder, replace(SMALL, seeds=(0, 1, 2)))
    assert again.curves["mean"].meta["seeds"] == [0, 1, 2] and "curve-mean" not in again.reused


def test_the_interval_over_seeds_is_students(finished, model, task, tmp_path):
    result = find(model, task, tmp_path / "run", replace(SMALL, seeds=(0, 1, 2), sweep_seeds=True))
    (curves,) = result.seed_curves.values()
    assert [one.meta["classifier_seed"] for one in curves] == [0, 1, 2]
    gaps = [(one.skill_margin - one.random_margin.mean(0))[0].item() for one in curves]
    low, high = stats.t.interval(0.95, 2, sum(gaps) / 3, stats.sem(gaps))
    row = over_seeds(curves).iloc[0]
    assert (row.margin_gap, row.margin_gap_low, row.margin_gap_high) == pytest.approx((sum(gaps) / 3, low, high))
    numbers = json.loads((tmp_path / "run" / "run.json").read_text())
    assert numbers["perturbation_over_seeds"]["mean"][0]["margin_gap"] == row.margin_gap
    assert over_seeds(curves[:1]).accuracy_gap_high[0] == float("inf")
    with pytest.raises(ValueError, match="one kind"):
        over_seeds([curves[0], finished.curves["mean"], replace(curves[1], fractions=(0.2,))])


def test_perturbing_again_does_what_the_run_did_for_every_prompt(folder, finished, model, task, computed, monkeypatch):
    monkeypatch.setattr("skillneurons.runs.OpenedRun.task", lambda self, source=None: task)
    opened = open_run(folder, model=model)
    assert str(perturbing(opened)).startswith("4 perturbations of 30 rows: at most about 1 s")
    found = perturb_run(opened)
    assert str(perturbing(opened)) == ""
    lacking = [
        ({"kinds": ("mean", "zero")}, 8),
        ({"n_random": 5}, 6),
        ({"positions": "prompt"}, 8),
        ({"sigma": 1.0}, 0),
    ]
    for options, n in [*lacking, ({"fractions": (0.1, 0.2), "seeds": (1,)}, 3)]:
        assert n_perturbations(str(perturbing(opened, **options))) == n
    assert n_perturbations(str(perturbing(opened, folder.parent / "other"))) == 8  # where no points are
    assert list(found.curves) == ["mean"] and [one.meta["classifier_seed"] for one in found.curves["mean"]] == [0, 1]
    assert computed["swept"] == 4  # of the second prompt only
    assert torch.equal(found.curves["mean"][0].random_margin, finished.curves["mean"].random_margin)
    table = pd.read_csv(folder / "perturb" / "over-seeds.csv")
    assert table.n_seeds.tolist() == [2] and table.kind.tolist() == ["mean"]
    other = perturb_run(folder, folder.parent / "other", model=model, kinds=("zero",), fractions=(0.2,), seeds=(1,))
    assert other.curves["zero"][0].fractions == (0.2,) and (folder.parent / "other" / "over-seeds.csv").exists()
    with pytest.raises(ValueError, match="`seed` is 7"):
        perturb_run(folder, model=model, seeds=(7,))
    assert run_files(folder)


def test_without_its_points_a_curve_that_grows_is_made_anew(folder, model, task, computed):
    shutil.rmtree(folder / "points")
    assert cost(model, task, SMALL, folder) == ""
    said = cost(model, task, replace(SMALL, n_random=5), folder)
    find(model, task, folder, replace(SMALL, n_random=5))
    assert n_perturbations(said) == computed["swept"] == 7


def test_a_run_remembers_where_its_rows_came_from(tmp_path):
    table = pd.DataFrame(
        [{"text": row["text"], "label": ["neg", "pos"][row["label"]]} for row in load_task("movies").train[:90]]
    )
    table.to_csv(tmp_path / "mine.csv", index=False)
    words = ["--label-words", "neg=terrible,pos=great", "--n-random", "1", "--kinds", "mean", "--steps", "3"]
    run = tmp_path / "run"
    arguments = ["find", "mine", "--source", str(tmp_path / "mine.csv"), "--seeds", "1", "--out", str(run), *words]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert str(tmp_path) not in "".join(path.read_text() for path in run.rglob("*.json") if path.name != "origin.json")
    assert not [name for name in run_files(run) if "origin" in name]
    again = CliRunner().invoke(app, ["perturb", str(run), "--fractions", "0.05"])
    assert again.exit_code == 0, again.output
    more = CliRunner().invoke(app, [*arguments, "--seeds", "2", "--sweep-seeds"])
    assert more.exit_code == 0, more.output
    assert "mean of 2 seeds" in more.output
    shutil.move(tmp_path / "mine.csv", tmp_path / "moved.csv")
    gone = CliRunner().invoke(app, ["perturb", str(run)])
    assert gone.exit_code == 1 and "source" in " ".join(gone.output.split())
    assert CliRunner().invoke(app, ["perturb", str(run), "--source", str(tmp_path / "moved.csv")]).exit_code == 0
    inside = CliRunner().invoke(app, ["prune", str(run), "--out", str(run / "pruned")])
    assert inside.exit_code == 1 and "outside the run's" in " ".join(inside.output.split())
    assert not (run / "pruned").exists()


def test_models_in_folders_of_one_name_have_runs_of_their_own(tmp_path, model, monkeypatch):
    for name in ("a", "b"):
        model.save(tmp_path / name / "model")
    one, other = (
        _default_folder(str(tmp_path / name / "model"), digest, "movies")
        for name, digest in (("a", "123456789"), ("b", "abcdef123"))
    )
    assert one != other and one.name == "model-123456-movies"
    assert _default_folder("bundled", "123456789", "movies").as_posix() == "runs/bundled-movies"
    assert _default_folder("FacebookAI/roberta-base", "1", "owner/name").as_posix() == "runs/roberta-base-owner-name"
