"""How to add something, as docs/extending.md has it: the page's code, in a module of its own, used by a run."""

import re
import sys
import warnings
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from planted import planted_classifier, planted_model, planted_task

from skillneurons import TuningConfig, collect, rival_scores
from skillneurons.activations.statistic import settings_of
from skillneurons.findings import record
from skillneurons.findings.record import Finding, register, registered
from skillneurons.interventions import perturbation
from skillneurons.interventions.perturbation import PERTURBATIONS
from skillneurons.models.checkpoints import ARCHITECTURES
from skillneurons.neurons.other_scores import table
from skillneurons.runs import FindSettings, ReproduceSettings, find, reproduce

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SETTINGS = ReproduceSettings(n_prompt=3, tuning=TuningConfig(lr=1e-2, steps=6, eval_every=6), fraction=0.05)
SIZES = {"n_train": 47, "n_validation": 43, "n_test": 41}


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch):
    monkeypatch.setattr(record, "_FINDINGS", dict(record._FINDINGS))


def example(heading):
    """The first Python block of a section."""
    return blocks(heading)[0]


def blocks(heading):
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def ran(heading):
    """What a section's blocks define, one after the other."""
    names: dict[str, Any] = {"__name__": "extension"}
    for block in blocks(heading):
        exec(compile(block, heading, "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_a_finding_is_one_module_that_registers_itself(tmp_path, monkeypatch):
    (tmp_path / "my_depth.py").write_text(example("Add a finding"))
    monkeypatch.syspath_prepend(tmp_path)
    module, model = import_module("my_depth"), planted_model()
    monkeypatch.delitem(sys.modules, "my_depth")
    tasks = [planted_task(0, **SIZES), planted_task("topics", **SIZES)]
    reproduced = partial(
        reproduce, tasks, model=model, seeds=2, out=tmp_path / "run", settings=SETTINGS, findings=["depth"]
    )
    tables = reproduced()
    assert list(tables) == ["depth"] and set(tables["depth"]["task"]) == {"signal0"}  # the other has three classes
    assert (tmp_path / "run" / "depth.png").stat().st_size > 1000
    claims = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert claims["finding"].tolist() == ["depth"] and claims["task"].tolist() == ["signal0"]
    assert claims["effect"].item() == pytest.approx(tables["depth"]["depth"].mean() - 0.5)
    told = []
    reproduced(on_event=told.append)
    assert any(line.startswith("depth: read from") for line in told)
    with pytest.raises(ValueError, match=r"depth compares seeds, but `seeds` is \(0,\)"):
        reproduced(seeds=1)
    assert list(registered())[-1] == "depth"
    register(Finding("depth", module.measure))  # a cell that is run again


@pytest.mark.parametrize("name", ["F1-existence", "summary", "../mine", "", "a/b"])
def test_a_name_that_is_taken_or_no_files_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        register(Finding(name, lambda studies, settings: []))


def test_an_intervention_is_one_function_that_a_run_can_name(tmp_path, monkeypatch):
    monkeypatch.setattr(perturbation, "PERTURBATIONS", dict(PERTURBATIONS))
    ran("Add an intervention")
    planted = planted_classifier(0, **SIZES)
    settings = FindSettings(
        seeds=(0,), n_prompt=3, tuning=TuningConfig(lr=1e-2, steps=6, eval_every=6), kinds=("other class",), n_random=2
    )
    settings = replace(settings, positions="prompt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find(planted.classifier.model, planted.task, tmp_path / "run", settings, progress=lambda *a: None)
    assert set(found.curves) == {"other class"}
    assert (tmp_path / "run" / "curve-other class.json").exists()


def test_a_neuron_score_is_one_entry(monkeypatch):
    monkeypatch.setattr(table, "SCORES", dict(table.SCORES))
    fisher = ran("Add a neuron score")["fisher"]
    monkeypatch.setitem(table.SCORES, "fisher", table.Score("moments", fisher, "Fisher's ratio"))
    planted = planted_classifier(0)
    scores = rival_scores(planted.classifier, planted.task, ["predictivity", "fisher"])
    assert set(scores.top("fisher", 2 / 29)) & set(planted.neurons)


def test_a_statistic_is_one_class_that_declares_its_sums():
    names = ran("Add a statistic")
    active, classifier, task = names["Active"], names["classifier"], names["task"]
    rows = [*task.train, *task.test]
    together = collect(classifier, rows, active(0.0))
    assert names["whole"].n == together.n == len(rows)
    for one, other in zip(names["whole"].totals, together.totals, strict=True):
        assert one.equal(other)
    assert settings_of(together) == {"above": 0.0}


def test_an_architecture_is_one_entry(monkeypatch):
    table = dict(ARCHITECTURES)
    for module in ("architectures", "checkpoints"):
        monkeypatch.setattr(f"skillneurons.models.{module}.ARCHITECTURES", table)
    names = ran("Add an architecture")
    assert names["model"].cfg.n_layers == 2 and names["model"].cfg.hf_class == "BertLMHeadModel"
