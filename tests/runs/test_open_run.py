"""A finished run opened again, and the commands that go on from one: perturb, prune, compare."""

import json
import shutil
from dataclasses import replace

import matplotlib
import pytest
import torch
from planted import unsealed
from typer.testing import CliRunner

from skillneurons import (
    Classifier,
    HookedEncoder,
    NeuronScores,
    PerturbationCurve,
    TuningConfig,
    load_task,
    perturbation_curve,
)
from skillneurons.applications._pruning_controls import PruningControls
from skillneurons.cli.commands import app
from skillneurons.runs import _find
from skillneurons.runs._find import FindSettings, find
from skillneurons.runs._open_run import open_run
from skillneurons.utilities.store import StoreError

matplotlib.use("Agg")

# Three steps are no tuning.
pytestmark = pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning")

QUICK = FindSettings(
    seeds=(0, 3), n_prompt=2, tuning=TuningConfig(steps=3, eval_every=3), fractions=(0.1,), kinds=("zero",), n_random=1
)


@pytest.fixture(scope="module")
def task():
    return load_task("movies").subset(32)


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    return find(HookedEncoder.from_pretrained("bundled"), task, tmp_path_factory.mktemp("run") / "a", QUICK)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "copy")


def run_command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "140"})


def test_an_opened_run_is_the_run(finished, task):
    opened = open_run(finished.folder)
    assert opened.task().fingerprint == task.fingerprint
    assert torch.equal(opened.classifier(3).prompt.vectors, finished.classifiers[1].prompt.vectors)
    assert torch.equal(opened.binary_scores().predictivity, finished.scores[0].predictivity)
    assert torch.equal(opened.classifier(0).logits(task.test), finished.classifiers[0].logits(task.test))


def test_scores_of_ten_subtasks_and_more_keep_their_order(copied):
    for ending in (".json", ".safetensors"):
        whole = (copied / "scores").with_suffix(ending)
        for i in range(11):
            shutil.copy(whole, copied / f"scores-{i}{ending}")
        whole.unlink()
    for i in range(11):
        scores = NeuronScores.load(copied / f"scores-{i}")
        replace(scores, meta=scores.meta | {"task": str(i)}).save(copied / f"scores-{i}")
    opened = open_run(copied)
    assert [scores.meta["task"] for scores in opened.scores] == [str(i) for i in range(11)]
    with pytest.raises(ValueError, match="task of two classes"):
        opened.binary_scores()


def test_what_is_missing_or_changed_is_said(copied, tmp_path):
    with pytest.raises(ValueError, match=r"`seed` is 1, but the run in .* has \[0, 3\]"):
        open_run(copied).classifier(1)
    with pytest.raises(FileNotFoundError, match=r"no run\.json"):
        open_run(tmp_path)
    settings = unsealed(copied / "settings.json")
    changed = settings | {"task": settings["task"] | {"fingerprint": "another"}}
    (copied / "settings.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="with fingerprint another, but the rows found have"):
        open_run(copied).task()
    (copied / "settings.json").write_text(json.dumps(settings | {"model": settings["model"] | {"fingerprint": "f"}}))
    with pytest.raises(ValueError, match="with fingerprint f, but the model found now"):
        open_run(copied)


def test_a_run_in_another_precision_is_opened_in_it(finished, task, tmp_path, monkeypatch):
    monkeypatch.setattr(_find, "save_figure", lambda *args, **options: None)
    model = HookedEncoder.from_pretrained("bundled", dtype=torch.bfloat16)
    run = find(model, task, tmp_path / "half", replace(QUICK, seeds=(0,)))
    opened = open_run(run.folder)
    assert opened.model.dtype == torch.bfloat16
    assert torch.equal(opened.classifier(0).logits(task.test), run.classifiers[0].logits(task.test))


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        (None, [], "json needs to hold an object, but holds a list"),
        ("model", None, "its 'model' is a NoneType"),
        ("model", {"source": "bundled", "revision": None}, "json is damaged .*'fingerprint'"),
        ("model", {"source": "", "revision": "", "fingerprint": "", "dtype": "torch.load"}, "json is damaged .*load"),
        ("settings", {}, "json is damaged .*'seeds'"),
    ],
)
def test_damaged_settings_are_named(copied, group, change, message):
    path = copied / "settings.json"
    settings = unsealed(path)
    path.write_text(json.dumps(change if group is None else settings | {group: change}))
    with pytest.raises(StoreError, match=message):
        open_run(copied)


def test_parts_of_other_seeds_are_named(copied):
    for ending in (".json", ".safetensors"):
        shutil.copy(copied / "seed-3" / f"scores{ending}", copied / f"scores{ending}")
    with pytest.raises(StoreError, match=r"scores\.json needs to be scores of this run, but is seed-3/scores of it"):
        open_run(copied)
    shutil.copytree(copied / "seed-0", copied / "seed-3", dirs_exist_ok=True)
    with pytest.raises(StoreError, match="needs to be seed-3/classifier of this run, but is seed-0/classifier of it"):
        open_run(copied)


def test_perturb_writes_the_curve_the_library_gives(finished, task, tmp_path):
    done = run_command(
        "perturb", finished.folder, "--kinds", "mean,zero", "--fractions", "0.2,0.4", "--n-random", 2, "--rows", 12,
        "--seed", 3, "--positions", "prompt", "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    written = PerturbationCurve.load(tmp_path / "curve-mean-prompt-seed-3")
    expected = perturbation_curve(
        finished.classifiers[1],
        task,
        finished.scores,
        kind="mean",
        fractions=(0.2, 0.4),
        n_random=2,
        rows=task.subset(12, splits=("test",)).test,
    )
    assert torch.equal(written.skill_margin, expected.skill_margin)
    assert torch.equal(written.random_margin, expected.random_margin)
    assert (tmp_path / "mean-zero-prompt-seed-3.svg").stat().st_size > 1000
    assert "Perturbed at prompt positions, seed 3, 12 test rows" in done.output


def test_prune_saves_a_classifier_that_answers_as_it_says(finished, task, tmp_path):
    done = run_command("prune", finished.folder, "--fraction", 0.25, "--layers", "1,2", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    model = HookedEncoder.from_pretrained(tmp_path / "model")
    assert model.cfg.d_mlps == (768, 192, 192, 768)
    pruned = Classifier.load(tmp_path / "classifier", model)
    labels = torch.tensor([row["label"] for row in task.test])
    accuracy = (pruned.predict(task.test) == labels).double().mean().item()
    assert f"{accuracy:.3f} after" in done.output
    assert "with 10 random sets of as many" in done.output and "with no neuron kept" in done.output
    beside = PruningControls.load(tmp_path / "controls")
    assert beside.pruned.accuracy == accuracy and f"{beside.nothing.accuracy:.3f} with no neuron kept" in done.output
