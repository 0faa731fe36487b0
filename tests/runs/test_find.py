"""The main job as a run in a folder, and its command line: what is written, resumed, refused and kept."""

import json
import shutil
from dataclasses import replace

import matplotlib
import pytest
import torch
from planted import planted_task, unsealed
from typer.testing import CliRunner

from skillneurons import NeuronScores, NeuronSet, TuningConfig, load_model, load_task
from skillneurons.cli.commands import app
from skillneurons.cli.terminal import print_find
from skillneurons.models._load_model import load_tokenizer
from skillneurons.runs import _find, trials
from skillneurons.runs._find import FindSettings, RunFolderError, find
from skillneurons.runs._reproduce import reproduce
from skillneurons.runs.report import write_report
from skillneurons.utilities.store import StoreError

matplotlib.use("Agg")

SETTINGS = FindSettings(
    seeds=(0, 1),
    n_prompt=3,
    tuning=TuningConfig(steps=6, eval_every=3, lr=0.05),
    fraction=0.1,
    fractions=(0.1, 0.3),
    kinds=("mean", "gaussian"),
    n_random=2,
    n_perturb_rows=30,
)


@pytest.fixture(scope="module")
def finished(model, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return find(model, task, folder / "a", SETTINGS)


def test_a_run_writes_what_it_promises(finished, model):
    written = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    parts = ["seed-0/classifier", "seed-1/scores", "scores", "skill", "curve-mean", "curve-gaussian"]
    assert {f"{part}{ending}" for part in parts for ending in (".json", ".safetensors")} <= written
    figures = ["top-neuron", "predictivity", "perturbation"]
    assert {f"figures/{figure}{ending}" for figure in figures for ending in (".png", ".svg")} <= written
    numbers = json.loads((finished.folder / "run.json").read_text())
    assert numbers["model"]["fingerprint"] == model.fingerprint()
    assert numbers["classes"] == {"bad": "no0", "good": "yes0"}
    assert numbers["prompts"]["1"]["accuracy"] == finished.evaluations[1].accuracy
    assert len(numbers["top_neurons"]["signal0"]) == 10
    assert NeuronSet.load(finished.folder / "skill") == finished.skill
    assert NeuronScores.load(finished.folder / "scores").seeds == [0, 1]


NUMBERS = ("prompts", "top_neurons", "search", "majority", "truncated_rows", "skill_neurons", "perturbation")


def test_a_run_gives_the_numbers_that_it_gave(finished, compared_with_golden):
    run = json.loads((finished.folder / "run.json").read_text())
    compared_with_golden("find-planted", {name: run[name] for name in NUMBERS})


@pytest.mark.golden
def test_find_without_arguments_gives_the_numbers_that_it_gave(tmp_path, monkeypatch, compared_with_golden):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["find"])
    assert done.exit_code == 0, done.output
    run = json.loads((tmp_path / "runs" / "bundled-movies" / "run.json").read_text())
    compared_with_golden("find", {name: run[name] for name in NUMBERS})


def test_a_run_says_first_what_it_found_and_what_luck_gives(finished):
    run = json.loads((finished.folder / "run.json").read_text())
    assert next(iter(run)) == "verdict" and run["verdict"][0].startswith("signal0: ")
    assert run["verdict"] == list(finished.verdict)
    search = run["search"]["signal0"]
    assert search["n_significant"] == len(finished.scores[0].significant()) > 0
    assert search["n_on_test"] == len(finished.scores[0].significant(rows="test"))
    assert search["n_neurons"] == 87 and not search["nothing"] and 0.5 < search["luck"] <= search["luck_95"] < 1
    best = run["top_neurons"]["signal0"][0]
    assert (
        best["predictivity_low"] < best["predictivity"] <= best["predictivity_high"] and best["low"] < best["held_out"]
    )
    assert {"p_adjusted", "majority", "luck"} <= set(best)


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_where_nothing_is_found_the_first_line_says_so_everywhere(model, tmp_path, capsys):
    noise = planted_task(0, n_train=64, n_validation=32, n_test=40, flip=0.5)
    result = find(model, noise, tmp_path / "run", replace(SETTINGS, seeds=(0,), kinds=("mean",)))
    print_find(result)
    assert capsys.readouterr().out.startswith("Nothing found on signal0: none of 87 neurons")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["verdict"][0].startswith("Nothing found on signal0") and run["search"]["signal0"]["nothing"]
    # The tuning's warning is known to a second run, which reads the prompt.
    assert run["warnings"] == list(find(model, noise, tmp_path / "run", result.settings).warnings)
    assert "collapsed" in run["warnings"][0]
    assert any(line.startswith("The prompt of seed 0 answers no better") for line in run["verdict"])
    assert any(line.startswith("Perturbing says nothing about accuracy") for line in run["verdict"])
    page = write_report(tmp_path / "run").read_text()
    body = page[page.index("</h1>") :]
    assert body.index("Nothing found on signal0") < body.index("1 prompt of 3 vectors")
    assert "collapsed" in page


def test_running_again_reuses_everything_and_gives_the_same(finished, model, task, monkeypatch):
    monkeypatch.setattr(trials, "tune_prompt", lambda *args, **kwargs: pytest.fail("tuned again"))
    monkeypatch.setattr(trials, "find_skill_neurons", lambda *args, **kwargs: pytest.fail("scored again"))
    monkeypatch.setattr(_find, "perturbation_curve", lambda *args, **kwargs: pytest.fail("perturbed again"))
    again = find(model, task, finished.folder, SETTINGS)
    assert set(again.reused) == {
        *(f"seed-{seed}/{part}" for seed in (0, 1) for part in ("classifier", "scores")),
        "curve-mean",
        "curve-gaussian",
    }
    assert again.evaluations == finished.evaluations
    assert torch.equal(again.curves["mean"].random, finished.curves["mean"].random)


def test_the_same_seeds_give_bit_equal_results(finished, model, task, tmp_path):
    other = find(model, task, tmp_path / "b", SETTINGS)
    assert not other.reused
    assert torch.equal(other.scores[0].above, finished.scores[0].above)
    assert torch.equal(other.classifiers[1].prompt.vectors, finished.classifiers[1].prompt.vectors)
    assert torch.equal(other.curves["gaussian"].skill_margin, finished.curves["gaussian"].skill_margin)


def test_an_interrupted_run_goes_on_where_it_stopped(model, task, tmp_path, monkeypatch):
    tune = trials.tune_prompt

    def interrupted(*args, seed, **kwargs):
        if seed == 1:
            raise KeyboardInterrupt
        return tune(*args, seed=seed, **kwargs)

    monkeypatch.setattr(trials, "tune_prompt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find(model, task, tmp_path / "c", SETTINGS)
    monkeypatch.setattr(trials, "tune_prompt", tune)
    assert find(model, task, tmp_path / "c", SETTINGS).reused == ("seed-0/classifier", "seed-0/scores")


def test_an_interrupted_curve_goes_on_at_the_fraction_where_it_stopped(finished, model, task, tmp_path):
    def stop(what, done, total):
        if what == "perturb (mean)" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(model, task, tmp_path / "f", SETTINGS, progress=stop)
    assert len(list((tmp_path / "f" / "points").glob("*.json"))) == 1
    steps = []
    again = find(model, task, tmp_path / "f", SETTINGS, progress=lambda *step: steps.append(step))
    assert min(done for what, done, _ in steps if what == "perturb (mean)") > 30
    assert torch.equal(again.curves["mean"].random_margin, finished.curves["mean"].random_margin)


def test_a_damaged_part_is_computed_anew_with_a_warning(finished, model, task, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(finished.folder, folder)
    (folder / "seed-0" / "scores.safetensors").write_bytes(b"not tensors")
    with pytest.warns(UserWarning, match=r"scores\.safetensors.*computed anew"):
        result = find(model, task, folder, SETTINGS)
    assert "seed-0/scores" not in result.reused
    assert torch.equal(result.scores[0].above, finished.scores[0].above)


def test_a_part_of_another_seed_is_computed_anew(finished, model, task, tmp_path, monkeypatch):
    folder = tmp_path / "d"
    shutil.copytree(finished.folder, folder)
    for path in (folder / "seed-1").iterdir():
        shutil.copy(path, folder / "seed-0")
    monkeypatch.setattr(_find, "save_figure", lambda axes, path, **options: None)
    with pytest.warns(UserWarning, match="computed anew") as warned:
        result = find(model, task, folder, SETTINGS)
    messages = " ".join(str(warning.message) for warning in warned)
    assert (
        "seed-0/classifier.json needs to be seed-0/classifier of this run, but is seed-1/classifier of it." in messages
    )
    assert "seed-0/scores.json needs to be seed-0/scores of this run, but is seed-1/scores of it." in messages
    assert result.scores[0].seeds == [0, 1]
    assert torch.equal(result.scores[0].above, finished.scores[0].above)


@pytest.mark.parametrize(
    ("content", "message"), [(b"[]", "holds a list"), (b"\xff", "not valid JSON"), (b"{}", "has no 'model'")]
)
def test_a_damaged_note_of_which_run_it_is_is_named(model, task, tmp_path, content, message):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(StoreError, match=rf"settings\.json .*{message}"):
        find(model, task, tmp_path, SETTINGS)


def test_a_folder_of_another_run_is_refused_by_what_differs(finished, model, task, tmp_path):
    from dataclasses import replace

    with pytest.raises(RunFolderError, match=r"settings\.n_prompt: 3 there, 4 asked for"):
        find(model, task, finished.folder, replace(SETTINGS, n_prompt=4))
    with pytest.raises(RunFolderError, match=r"task\.name: 'signal0' there, 'signal1' asked for"):
        find(model, planted_task(1), finished.folder, SETTINGS)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not a run's"):
        find(model, task, tmp_path, SETTINGS)


def test_a_run_written_before_a_setting_existed_is_read_again(finished, model, task, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "old")
    old = unsealed(folder / "settings.json")
    assert old["settings"]["tuning"].pop("tune_dtype", "absent") is None
    (folder / "settings.json").write_text(json.dumps(old))
    assert len(find(model, task, folder, SETTINGS).reused) == 6
    other = replace(SETTINGS, tuning=replace(SETTINGS.tuning, tune_dtype="bfloat16"))
    with pytest.raises(RunFolderError, match=r"settings\.tuning: .*'tune_dtype': None.*'tune_dtype': 'bfloat16'"):
        find(model, task, folder, other)


def test_a_task_of_several_classes_is_scored_by_its_subtasks(model, tmp_path):
    topics = planted_task("topics", n_train=66, n_validation=33, n_test=36)
    result = find(model, topics, tmp_path / "e", SETTINGS)
    assert [scores.meta["task"] for scores in result.scores] == [subtask.name for subtask in topics.subtasks()]
    assert (tmp_path / "e" / "figures" / "top-neuron-2.png").exists()


@pytest.mark.usefixtures("unchecked_types")
def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"\(0, 0\)"):
        FindSettings(seeds=(0, 0))
    with pytest.raises(ValueError, match="bleach"):
        FindSettings(kinds=("bleach",))


@pytest.mark.filterwarnings("ignore:.*collapsed")
def test_the_command_runs_on_the_bundled_model_and_resumes(tmp_path):
    arguments = ["find", "--rows", "40", "--seeds", "1", "--steps", "3", "--n-random", "1", "--kinds", "mean"]
    arguments += ["--out", str(tmp_path / "run")]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "Top neurons of movies" in first.output
    second = CliRunner().invoke(app, arguments)
    assert "Reused from an earlier run: seed-0/classifier, seed-0/scores" in second.output


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["movis"], "Did you mean 'movies'"),
        (["movies", "--model", "nowhere/at-all-here"], "nowhere/at-all-here"),
        (["movies", "--label-words", "abysmally,great"], "abysmally"),
        (["movies", "--kinds", "bleach"], "bleach"),
        (["mine", "--source", "no-such-folder"], "no-such-folder"),
    ],
)
def test_a_users_mistake_is_one_message_and_status_1(arguments, message, tmp_path):
    result = CliRunner().invoke(app, ["find", *arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_all_words_that_are_no_tokens_are_named_before_the_model_is_loaded(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the model was loaded")

    monkeypatch.setattr("skillneurons.models._load_model.load_model", refuse)
    words = "positive=marvellously,negative=abysmally"
    result = CliRunner().invoke(app, ["find", "movies", "--label-words", words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1 and not (tmp_path / "run").exists()
    said = " ".join(result.output.split())
    assert "'marvellously' of class 'positive'" in said and "'abysmally' of class 'negative'" in said
    monkeypatch.setattr("skillneurons.runs._reproduce.load_model", refuse)
    tasks = [replace(load_task(name), label_words=("abysmally", "great")) for name in ("movies", "restaurants")]
    with pytest.raises(ValueError, match=r"movies: .*'abysmally'(.|\n)*restaurants: .*'abysmally'"):
        reproduce(tasks, model="bundled", seeds=2, out=tmp_path / "all")


def test_a_tokenizer_alone_is_the_models(tmp_path):
    encoder = load_model("bundled")
    encoder.save(tmp_path / "saved")
    assert encoder.tokenizer is not None
    for where in ("bundled", tmp_path / "saved"):
        alone = load_tokenizer(where)
        assert alone is not None
        assert alone(" A clever film.")["input_ids"] == encoder.tokenizer(" A clever film.")["input_ids"]
    assert load_tokenizer(tmp_path / "nowhere") is None
    (tmp_path / "saved" / "tokenizer.json").write_text("{")
    assert load_tokenizer(tmp_path / "saved") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "every"}, "not 'every'"),
        ({"sigma": -1.0}, "`sigma` is a finite number from 0 on"),
        ({"n_random": 0}, "and 0"),
        ({"fractions": (0.5,)}, r"below 0\.5"),
    ],
)
def test_settings_that_a_run_would_come_to_last_are_refused_first(changes, message):
    with pytest.raises(ValueError, match=message):
        FindSettings(**changes)


def test_label_words_that_are_no_tokens_leave_the_folder_to_the_next_run(model, task, tmp_path):
    typo = replace(task, label_words=("no0", "terible"), labels=task.labels)
    with pytest.raises(ValueError, match="terible"):
        find(model, typo, tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_measure_ranks_and_is_told_everywhere(model, task, tmp_path):
    settings = replace(SETTINGS, seeds=(0,), kinds=("mean",), measure="balanced_accuracy")
    result = find(model, task, tmp_path / "run", settings)
    scores = result.scores[0]
    assert scores.measure == "balanced_accuracy" and torch.equal(scores.ranking, scores.balanced_predictivity)
    assert result.skill == scores.top(0.1)
    numbers = json.loads((tmp_path / "run" / "run.json").read_text())
    assert numbers["search"]["signal0"]["measure"] == "balanced_accuracy"
    assert any("ranked by balanced accuracy" in line for line in numbers["verdict"])
    assert "ranked by balanced accuracy" in write_report(tmp_path / "run").read_text()
    with pytest.raises(RunFolderError, match="measure"):
        find(model, task, tmp_path / "run", replace(settings, measure="predictivity"))


def test_a_run_without_a_measure_is_that_of_earlier_versions(finished):
    assert "measure" not in json.loads((finished.folder / "settings.json").read_text())["settings"]
    assert finished.scores[0].measure == "predictivity"


def test_verdicts_of_perturbations_are_one_family_on_screen_in_numbers_and_report(finished, capsys):
    from skillneurons.interventions.curve import verdicts

    said = verdicts(list(finished.curves.values()))
    numbers = json.loads((finished.folder / "run.json").read_text())["perturbation"]
    assert [[row["verdict"] for row in one["rows"]] for one in numbers.values()] == said
    print_find(finished)
    assert "verdict" in capsys.readouterr().out
    assert "beside random sets" in write_report(finished.folder).read_text()
