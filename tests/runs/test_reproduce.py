"""All findings in one folder: what is written, what is read again, and what is refused."""

import json
import shutil
import warnings
from dataclasses import replace

import golden
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from planted import planted_task
from typer.testing import CliRunner

from skillneurons import TuningConfig, find_skill_neurons
from skillneurons.cli.commands import app
from skillneurons.findings.record import Measured, registered
from skillneurons.runs import ReproduceSettings
from skillneurons.runs._find import RunFolderError
from skillneurons.runs._reproduce import reproduce
from skillneurons.runs.trials import Trial, run_trial
from skillneurons.utilities.store import StoreError

SETTINGS = ReproduceSettings(
    n_prompt=3,
    tuning=TuningConfig(lr=1e-2, steps=6, eval_every=6),
    fraction=0.05,
    fractions=(0.2,),
    kinds=("mean",),
    n_rows=23,
    n_random=4,
)
SIZES = {"n_train": 47, "n_validation": 43, "n_test": 41}


@pytest.fixture(scope="module")
def tasks():
    return [planted_task(0, **SIZES), planted_task("topics", **SIZES)]


@pytest.fixture(scope="module", autouse=True)
def _small_figures():
    """Figures are drawn as they are, and written small: encoding them would take most of the time."""

    def save(ax, stem, formats):
        ax.figure.savefig(f"{stem}.png", dpi=25)
        plt.close(ax.figure)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("skillneurons.runs._reproduce.save_figure", save)
        yield


@pytest.fixture(scope="module")
def finished(tasks, model, tmp_path_factory):
    """The folder of all findings, those on request too, their tables, and what was said on the way."""
    folder, events, table = tmp_path_factory.mktemp("reproduce"), [], Measured.table
    on_request = [name for name, finding in registered().items() if finding.on_request]
    what = {"model": model, "seeds": 2, "out": folder, "settings": SETTINGS, "on_event": events.append}

    def through_a_file(self):
        path = self.result.save(tmp_path_factory.mktemp("result") / "result")
        loaded = replace(self, result=type(self.result).load(path))
        pd.testing.assert_frame_equal(table(loaded), table(self))
        return table(loaded)

    # Each result goes through a file before its table is made.
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        patched.setattr(Measured, "table", through_a_file)
        warnings.filterwarnings("ignore", "Tuning on")
        tables = reproduce(tasks, **what)
        return folder, tables, reproduce(tasks, **what, findings=on_request), events


def test_every_finding_has_a_table_and_a_figure(finished):
    folder, tables, asked_for, events = finished
    claimed = {name for name, finding in registered().items() if finding.claims is not None}
    assert set(tables) == set(registered()) - set(asked_for) - {"F9-indicators"}  # two tasks are too few to correlate
    assert set(asked_for) == {name for name, finding in registered().items() if finding.on_request}
    tables = tables | asked_for
    for name, table in tables.items():
        assert len(table) and (folder / f"{name}.csv").exists()
        assert (folder / f"{name}.png").stat().st_size > 1000
    assert any("signal0" in event and event.endswith("bad → no0, good → yes0") for event in events)
    classes = json.loads((folder / "reproduction.json").read_text())["classes"]
    assert classes["signal0"] == {"bad": "no0", "good": "yes0"}
    assert sum(event.endswith(": tuning") for event in events) == 4
    (said,) = (event for event in events if "at most about" in event)
    assert said.startswith(f"4 prompts of at most {SETTINGS.tuning.steps} steps, 24 passes to score: at most")
    assert events.index(said) < next(i for i, event in enumerate(events) if event.endswith(": tuning"))
    assert set(tables["F4-necessity"]["positions"]) == {"prompt", "all"}
    assert set(tables["F4-necessity"]["group"]) == {"skill", "label words"}
    assert set(tables["several-classes"]["task"]) == {"topics"} == set(tables["several-classes-serve"]["task"])
    assert "label_words_overlap" in tables["F6-selectivity"]
    assert set(tables["F1-existence"]["task"]) == {"signal0"}
    claims = pd.read_csv(folder / "summary.csv")
    assert set(claims["finding"]) == claimed & set(tables) and claims.effect.notna().all()
    assert (claims.low <= claims.effect).all() and (claims.effect <= claims.high).all()


def test_findings_give_the_numbers_that_they_gave(finished, compared_with_golden):
    folder, tables, asked_for, _ = finished
    summary = {"summary": pd.read_csv(folder / "summary.csv")}
    compared_with_golden(
        "reproduce", {name: golden.columns(one) for name, one in (tables | asked_for | summary).items()}
    )


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_one_callback_hears_every_step_and_false_is_silent(tasks, model, tmp_path, capfd):
    heard: list[tuple[str, int, int]] = []
    what = {"model": model, "seeds": 1, "settings": SETTINGS, "findings": ["F1-existence", "F4-layers"]}
    reproduce(tasks[:2], **what, out=tmp_path / "heard", progress=lambda *step: heard.append(step))
    names = {name for name, _, _ in heard}
    assert {"signal0: tune prompt, seed 0", "findings"} <= names and any(name.startswith("sweep") for name in names)
    assert heard[-1] == ("findings", 2, 2) and all(done <= total for _, done, total in heard)
    reproduce(tasks[:2], **what, out=tmp_path / "silent", progress=False)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_a_finished_part_is_read_and_a_lost_or_damaged_one_computed_anew(finished, tasks, model, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    tables, events, claims = finished[1], [], pd.read_csv(tmp_path / "summary.csv")
    (tmp_path / "F2-stability.csv").unlink()
    (tmp_path / "signal0" / "seed-0" / "scores.json").unlink()
    (tmp_path / "signal0" / "seed-1" / "classifier.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"classifier.safetensors is damaged"):
        again = reproduce(tasks, model=model, seeds=2, out=tmp_path, settings=SETTINGS, on_event=events.append)
    assert [event for event in events if event.endswith(": tuning")] == ["signal0, seed 1: tuning"]
    said = "\n".join(events)
    # Beforehand, as the files' names have it: that one is damaged shows when it is read.
    assert any(event.startswith("3 passes to score: at most about") for event in events)
    assert "2 findings to measure (F2-stability, F9-indicators); some perturb and tune anew, whose time" in said
    assert [event for event in events if event.endswith(": computing")] == [
        "F2-stability: computing",
        "F9-indicators: computing",  # nothing of it was there to read
    ]
    for name, table in tables.items():
        assert again[name].shape == table.shape
        assert again[name]["task"].tolist() == table["task"].tolist() if "task" in table else True
    assert again["F2-stability"].equals(tables["F2-stability"])

    with pytest.raises(RunFolderError, match=r"seeds \[0, 1\], but \[0, 2\]"):
        reproduce(tasks, model=model, seeds=(0, 2), out=tmp_path, settings=SETTINGS)

    # Adversarial rows are not in a task's fingerprint, but F10 depends on them.
    turned = [dict(row) | {"label": 1 - row["label"]} for row in tasks[0].adversarial]
    with pytest.raises(RunFolderError, match="holds results with adversarial"):
        reproduce(
            [replace(tasks[0], adversarial=turned), tasks[1]], model=model, seeds=2, out=tmp_path, settings=SETTINGS
        )

    kept = (tmp_path / "reproduction.json").read_bytes()
    (tmp_path / "reproduction.json").write_bytes(kept[:-40])
    with pytest.raises(StoreError, match=r"reproduction.json is not valid JSON.*Choose a new folder"):
        reproduce(tasks, model=model, seeds=2, out=tmp_path, settings=SETTINGS)
    (tmp_path / "reproduction.json").write_bytes(kept)

    # The summary is of everything in the folder, whichever findings are asked for.
    events.clear()
    asked = {"findings": ("F3-prompts",), "on_event": events.append}
    reproduce(tasks, model=model, seeds=2, out=tmp_path, settings=SETTINGS, **asked)
    assert events[-1].startswith("F3-prompts: read from") and not any(
        "at most" in event or "to measure" in event for event in events
    )
    (tmp_path / "F3-prompts.csv").unlink()
    reproduce(tasks, model=model, seeds=2, out=tmp_path, settings=SETTINGS, **asked)
    assert any(event.startswith("1 finding to measure; some") for event in events)
    assert pd.read_csv(tmp_path / "summary.csv").equals(claims)


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_scores_of_other_rows_are_not_read_again(model, tmp_path):
    """A trial's folder whose subtask has other rows now, as after a change of how subtasks are cut."""
    task = planted_task("topics", **SIZES)
    trial = Trial(task, 0, tmp_path, SETTINGS.n_prompt, SETTINGS.tuning)
    first = run_trial(trial, model)
    find_skill_neurons(first.classifier, task.subtasks(balance=False)[1]).save(tmp_path / "scores-1")
    with pytest.warns(UserWarning, match="scores-1 holds scores with task_fingerprint"):
        again = run_trial(trial, model)
    assert again.reused == ("classifier", "scores-0", "scores-2")
    assert again.scores[1].above.equal(first.scores[1].above)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, r"`seeds` is \(0,\)"),
        ({"findings": ("F5-cross",), "tasks": ("movies",)}, "F5-cross compares tasks, but there is 1"),
        ({"findings": ("F9",)}, r"not \['F9'\]"),
        ({"seeds": (1, 1)}, r"\(1, 1\)"),
        ({"tasks": ("movies", "movies"), "findings": ("F1-existence",)}, r"\['movies', 'movies'\]"),
        ({"findings": ("several-classes",)}, r"several-classes needs a task of three .* movies \(2 classes\), rest"),
        ({"findings": ("F7-origin",), "tasks": ("news",)}, r"F7-origin needs a task of two .* news \(4 classes\)"),
    ],
)
def test_too_little_for_a_finding_is_refused_before_any_work(tmp_path, changes, message):
    arguments = {"tasks": ("movies", "restaurants"), "model": "bundled", "seeds": 2, "out": tmp_path / "new"} | changes
    with pytest.raises(ValueError, match=message):
        reproduce(**arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ()}, "one or more of mean"),
        ({"fractions": ()}, "`fractions` needs one"),
        ({"fractions": (0.1, 0.7)}, "0.7"),
    ],
)
def test_settings_that_no_sweep_takes_are_refused_before_anything_is_tuned(options, message):
    with pytest.raises(ValueError, match=message):
        ReproduceSettings(**options)


def test_the_command_passes_its_options_on(tmp_path, monkeypatch):
    seen = {}

    def record(tasks, **options):
        seen.update(options, tasks=tasks)
        return {}

    monkeypatch.setattr("skillneurons.runs.reproduce", record)
    command = [
        "reproduce",
        "--tasks",
        "movies,news",
        "--rows",
        "24",
        "--words",
        "2",
        "--steps",
        "7",
        "--lr",
        "0.5",
        "--n-prompt",
        "3",
    ]
    command += ["--kinds", "zero,mean", "--fractions", "0.2", "--n-random", "5", "--sweep-rows", "9"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert [(task.name, len(task.train)) for task in seen["tasks"]] == [("movies", 24), ("news", 24)]
    assert max(len(row["text"].split()) for task in seen["tasks"] for row in task.test) == 2
    settings = seen["settings"]
    assert (settings.n_prompt, settings.tuning.steps, settings.tuning.lr) == (3, 7, 0.5)
    assert (settings.kinds, settings.fractions) == (("zero", "mean"), (0.2,))
    assert (settings.n_random, settings.n_rows) == (5, 9)
    wrong = CliRunner().invoke(app, ["reproduce", "--fractions", "0.7", "--out", str(tmp_path)])
    assert wrong.exit_code == 1 and "0.7" in wrong.output
