"""What runs tell while they work, and what they say beforehand that they will cost."""

import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from helpers import first_group
from planted import planted_model, planted_task

from skillneurons import TuningConfig
from skillneurons.runs import FindSettings, find
from skillneurons.runs.progress import cost
from skillneurons.utilities.progress import lines, told

SMALL = FindSettings(
    (0,), 3, TuningConfig(steps=4, eval_every=2, lr=0.05), 0.1, (0.1,), ("mean",), n_random=2, n_perturb_rows=30
)
pytestmark = pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning")


def test_lines_come_at_the_start_the_end_and_every_so_often():
    said, now = [], [0.0]
    say = lines(said.append, every=10.0, clock=lambda: now[0])
    for second in range(1, 101):
        now[0] = float(second)
        say("tune", second, 100)
    now[0] = 101.0
    say("score", 1, 3)
    assert said[0] == "0:01  tune: 1 of 100" and "1:40  tune: 100 of 100" in said and said[-1] == "1:41  score: 1 of 3"
    times = [int(line[0]) * 60 + int(line[2:4]) for line in said[:-2]]
    assert all(later - earlier == 10 for earlier, later in zip(times, times[1:], strict=False))


def test_a_run_tells_where_output_is_a_file_and_is_silent_where_asked(tmp_path, capfd):
    model, task = planted_model(), planted_task(0, n_train=64, n_validation=32, n_test=40)
    find(model, task, tmp_path / "a", SMALL)
    err = capfd.readouterr().err
    for what in ("tune prompt, seed 0: 4 of 4", "score neurons, seed 0, test: 40 of 40", "perturb"):
        assert what in err
    assert all(re.match(r"\d+:\d\d  ", line) for line in err.splitlines() if line)
    find(model, task, tmp_path / "b", SMALL, progress=False)
    assert capfd.readouterr().err == ""
    steps = []
    find(model, task, tmp_path / "c", SMALL, progress=lambda *step: steps.append(step))
    assert ("tune prompt, seed 0", 4, 4) in steps and capfd.readouterr().err == ""
    assert told(print) is print


def test_what_a_run_will_cost_counts_what_it_does(tmp_path):
    model, task = planted_model(), planted_task(0, n_train=64, n_validation=32, n_test=40)
    settings = FindSettings(
        (0, 1), 3, TuningConfig(steps=40, eval_every=20, lr=0.05), 0.1, (0.1, 0.2), ("mean", "zero"), n_random=2
    )
    said = cost(model, task, settings, tmp_path / "run")
    assert said.startswith("2 prompts of at most 40 steps, 6 passes to score, 14 perturbations of 40 rows: at most")
    began = time.monotonic()
    find(model, task, tmp_path / "run", settings, progress=False)
    took, number = time.monotonic() - began, int(first_group(r"about (\d+) s", said))
    assert number < 20 * took + 5  # of the right order; figures and files are not in it


class Board:
    """Stands in for a tracker's writer, with no more than the recipes use of it."""

    def __init__(self, *args, **options):
        self.logged = {}

    def add_scalar(self, name, value, step):
        self.logged.setdefault(name, []).append(value)

    def log(self, values):
        for name, value in values.items():
            self.logged.setdefault(name, []).append(value)


PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
RECIPES = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "progress=" in block]


@pytest.mark.parametrize("recipe", RECIPES, ids=["tensorboard", "wandb"])
def test_a_tracker_sees_all_of_a_run_by_the_lines_of_the_page(recipe, tmp_path, monkeypatch):
    stand_ins = {"torch.utils.tensorboard": {"SummaryWriter": Board}, "wandb": {"init": Board}}
    for name, content in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("skillneurons.load_model", lambda name: planted_model())
    monkeypatch.setattr("skillneurons.load_task", lambda name: planted_task(0, n_train=64, n_validation=32, n_test=40))
    monkeypatch.setattr(
        "skillneurons.runs.find", lambda model, task, out, progress: find(model, task, out, SMALL, progress=progress)
    )
    names = {}
    exec(compile(recipe, "page", "exec"), names)
    logged = names["board"].logged
    assert [round(share, 2) for share in logged["tune prompt, seed 0"]] == [0.25, 0.5, 0.75, 1.0]
    assert logged["perturb (mean)"][-1] == 1.0
    assert {f"score neurons, seed 0, {split}" for split in ("train", "validation", "test")} < set(logged)
    assert logged["validation, seed 0"] == [
        one["validation_accuracy"] for one in names["result"].classifiers[0].history
    ]
    lines_of_code = [line for line in recipe.splitlines() if line.strip()]
    assert len(lines_of_code) <= 14
