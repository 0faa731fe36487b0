"""A run's localization: in its folder, its report and what is shared, and read again while it holds."""

import json
import re
from dataclasses import replace
from functools import partial

import pytest
from planted import planted_model, planted_task
from small_runs import SMALL_RUN
from typer.testing import CliRunner

from skillneurons.cli.commands import app
from skillneurons.runs import localize_run, write_report
from skillneurons.runs._find import find
from skillneurons.runs.finished_runs import _localize
from skillneurons.runs.hub import run_files

LOCALIZE = partial(localize_run, n_random=3, n_bootstrap=5, n_shuffles=2, rankings=[], questions=["writers", "causal"])
SETTINGS = replace(SMALL_RUN, seeds=(0,))


@pytest.fixture(scope="module")
def task():
    return planted_task(0, n_train=32, n_validation=32, n_test=40)


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    return find(planted_model(), task, tmp_path_factory.mktemp("run") / "a", SETTINGS).folder


@pytest.fixture(scope="module")
def found(folder, task):
    return LOCALIZE(folder, task=task, model=planted_model())


def test_the_run_and_its_report_have_it(folder, found):
    told = json.loads((folder / "run.json").read_text())["localization"]
    assert told["verdict"] == found.verdict
    assert len(told["rows"]) == len(found.to_dataframe())
    assert {"localization.svg", "writers.png"} <= {path.name for path in (folder / "figures").iterdir()}
    page = write_report(folder).read_text()
    assert "Localization" in page
    assert "which are conventions" in page
    assert re.search(r'<img alt="writers"', page)
    for format in ("md", "latex", "csv"):
        path = write_report(folder, format=format)
        text = (path / "localization.csv").read_text() if format == "csv" else path.read_text()
        assert "Jaccard of choices on other rows" in text


def test_what_is_shared_has_it(folder, found):
    assert {"localization.json", "localization.safetensors", "figures/localization.svg"} <= set(run_files(folder))


def test_it_is_read_again_while_nothing_else_is_asked(folder, found, task, monkeypatch):
    monkeypatch.setattr(_localize, "localization", lambda *args, **kwargs: pytest.fail("computed again"))
    again = LOCALIZE(folder, task=task, model=planted_model())
    assert again.verdict == found.verdict
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        LOCALIZE(folder, task=task, model=planted_model(), n_random=4)


def test_it_stays_where_a_run_is_asked_for_again_or_perturbs_more(task, tmp_path):
    model = planted_model()
    folder = find(model, task, tmp_path / "run", SETTINGS).folder
    verdict = LOCALIZE(folder, task=task, model=model, questions=[]).verdict
    for settings in (SETTINGS, replace(SETTINGS, kinds=(*SETTINGS.kinds, "resample"))):
        find(model, task, folder, settings)
        assert json.loads((folder / "run.json").read_text())["localization"]["verdict"] == verdict
        assert "localization.json" in run_files(folder)
        assert "Localization" in write_report(folder).read_text()


def test_a_run_that_grows_leaves_it_behind(task, tmp_path):
    small = {"n_random": 2, "n_bootstrap": 2, "n_shuffles": 1, "questions": []}
    model = planted_model()
    folder = find(model, task, tmp_path / "run", SETTINGS).folder
    localize_run(folder, task=task, model=model, **small)
    find(model, task, folder, replace(SETTINGS, fraction=0.2))
    assert "localization" not in json.loads((folder / "run.json").read_text())
    assert "localization.json" not in run_files(folder)
    grown = localize_run(folder, task=task, model=model, **small)
    assert grown.meta["fraction"] == 0.2


def test_the_command_asks_for_two_classes_before_it_begins(tmp_path):
    arguments = ["find", "topics", "--localization", "--out", str(tmp_path / "run")]
    rows = [{"text": f"word {i}", "label": ("a", "b", "c")[i % 3]} for i in range(60)]
    (tmp_path / "topics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--label-words", "a=good,b=bad,c=fine", "--source", str(tmp_path / "topics.jsonl")]
    result = CliRunner().invoke(app, [*arguments, *words])
    assert result.exit_code == 1
    assert "has 3" in " ".join((result.output + str(result.exception)).split())
    assert not (tmp_path / "run").exists()
