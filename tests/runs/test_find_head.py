"""Runs of a fine-tuned model with its own head: found, perturbed again, opened, reported, explored."""

import json

import pytest
import torch
from fine_tuned import fine_tuned_folder
from planted import planted_neurons, planted_task
from typer.testing import CliRunner

from skillneurons import Classifier, load_model
from skillneurons.cli.commands import app
from skillneurons.models.encoder_parts.class_head import Head
from skillneurons.runs import FindSettings, find, open_run, write_report
from skillneurons.runs._find import RunFolderError

QUICK = {"kinds": ("zero",), "fractions": (0.1,), "n_random": 3, "fraction": 0.05}
HEAD = FindSettings(seeds=(0,), head=True, **QUICK)


@pytest.fixture(scope="module")
def task():
    return planted_task(0, n_train=64, n_validation=32, n_test=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fine_tuned_folder(tmp_path_factory.mktemp("fine-tuned"), labels=("good", "bad"), flip=True)


@pytest.fixture(scope="module")
def run(folder, task, tmp_path_factory):
    return find(load_model(folder), task, tmp_path_factory.mktemp("run") / "run", HEAD, progress=False)


def test_a_run_finds_the_planted_neurons_and_that_they_matter(run, task):
    (classifier,) = run.classifiers
    assert isinstance(classifier.verbalizer, Head) and classifier.labels == ("bad", "good")
    assert run.evaluations[0].accuracy == 1 and run.skill.overlap(planted_neurons(0))
    curve = run.curves["zero"]
    assert curve.skill[0] < 0.7 < 0.9 < curve.random.min()
    settings = json.loads((run.folder / "settings.json").read_text())["settings"]
    assert (settings["n_prompt"], settings["head"]) == (0, classifier.verbalizer.identity)


def test_it_is_read_again_and_opened(run, folder, task):
    again = find(load_model(folder), task, run.folder, HEAD, progress=False)
    assert {"seed-0/classifier", "seed-0/scores", "curve-zero"} <= set(again.reused)
    opened = open_run(run.folder)
    assert torch.equal(opened.classifier(0).logits(task.test), run.classifiers[0].logits(task.test))


def test_another_head_on_the_same_encoder_is_another_run(run, task, tmp_path):
    other = load_model(fine_tuned_folder(tmp_path, which=1))
    assert other.fingerprint() == run.classifiers[0].fingerprint
    with pytest.raises(RunFolderError, match=r"settings\.head"):
        find(other, task, run.folder, HEAD, progress=False)


def test_a_report_says_that_there_was_no_prompt(run, tmp_path):
    page = write_report(run.folder, path=tmp_path / "report.html").read_text()
    assert "Its own head, and no prompt" in page and "prompts of" not in page


def test_settings_of_prompts_are_written_as_before(run):
    with pytest.raises(ValueError, match=r"one classifier, .*\(0, 1, 2\)"):
        FindSettings(head=True)
    with pytest.raises(ValueError, match="'first', 'prompt', 'text', 'all'"):
        FindSettings(seeds=(0,), head=True, positions="mask")


def test_classes_that_the_head_does_not_name_are_not_guessed(task, tmp_path):
    model = load_model(fine_tuned_folder(tmp_path / "model", labels=("LABEL_0", "LABEL_1")))
    with pytest.raises(ValueError, match=r"names LABEL_0, LABEL_1, and 'bad' is none of them.*id2label"):
        find(model, task, tmp_path / "run", HEAD, progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"has none\. Pass a sequence classifier"):
        find(load_model("bundled"), task, tmp_path / "run", HEAD, progress=False)


def test_the_command_line_takes_a_fine_tuned_folder(folder, task, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "validation", "test"):
        lines = [json.dumps(row | {"label": task.labels[row["label"]]}) for row in getattr(task, split)]
        (rows / f"{split}.jsonl").write_text("\n".join(lines))
    out = tmp_path / "run"
    common = ["--source", str(rows), "--label-words", "bad=no0,good=yes0"]
    options = ["--kinds", "zero", "--n-random", "2", "--sweep-rows", "12", "--out", str(out)]
    done = CliRunner().invoke(app, ["find", "mine", "--model", str(folder), "--head", *common, *options])
    assert done.exit_code == 0, done.output
    assert "The model as it is" in done.output
    assert json.loads((out / "settings.json").read_text())["settings"]["n_perturb_rows"] == 12
    done = CliRunner().invoke(app, ["perturb", str(out), "--kinds", "mean", "--source", str(rows)])
    assert done.exit_code == 0, done.output
    assert Classifier.load(out / "seed-0" / "classifier", load_model(folder)).labels == ("bad", "good")
    assert (out / "perturb").is_dir()
    done = CliRunner().invoke(app, ["explore", str(out), "--source", str(rows), "--cards", "1"])
    assert done.exit_code == 0, done.output
