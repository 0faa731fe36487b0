"""How to add something, as docs/extending.md has it: the page's code, in a module of its own, used by a run."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from planted import planted_model, planted_task

from skillneurons import TuningConfig
from skillneurons.findings import record
from skillneurons.findings.record import Finding, register, registered
from skillneurons.runs import ReproduceSettings, reproduce

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SETTINGS = ReproduceSettings(n_prompt=3, tuning=TuningConfig(lr=1e-2, steps=6, eval_every=6), fraction=0.05)
SIZES = {"n_train": 47, "n_validation": 43, "n_test": 41}


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch):
    monkeypatch.setattr(record, "_FINDINGS", dict(record._FINDINGS))


def example(heading):
    """The first Python block of a section."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_a_finding_is_one_module_that_registers_itself(tmp_path, monkeypatch):
    (tmp_path / "my_depth.py").write_text(example("Add a finding"))
    monkeypatch.syspath_prepend(tmp_path)
    module, model = import_module("my_depth"), planted_model()
    monkeypatch.delitem(sys.modules, "my_depth")
    tasks = [planted_task(0, **SIZES), planted_task("topics", **SIZES)]
    what = {"model": model, "seeds": 2, "out": tmp_path / "run", "settings": SETTINGS, "findings": ["depth"]}
    tables = reproduce(tasks, **what)
    assert list(tables) == ["depth"] and set(tables["depth"]["task"]) == {"signal0"}  # the other has three classes
    assert (tmp_path / "run" / "depth.png").stat().st_size > 1000
    claims = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert claims["finding"].tolist() == ["depth"] and claims["task"].tolist() == ["signal0"]
    assert claims["effect"].item() == pytest.approx(tables["depth"]["depth"].mean() - 0.5)
    told = []
    reproduce(tasks, **what, on_event=told.append)
    assert any(line.startswith("depth: read from") for line in told)
    with pytest.raises(ValueError, match=r"depth compares seeds, but `seeds` is \(0,\)"):
        reproduce(tasks, **what | {"seeds": 1})
    assert list(registered())[-1] == "depth"
    register(Finding("depth", module.measure))  # a cell that is run again


@pytest.mark.parametrize("name", ["F1-existence", "summary", "../mine", "", "a/b"])
def test_a_name_that_is_taken_or_no_files_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        register(Finding(name, lambda studies, settings: []))
