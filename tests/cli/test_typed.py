"""Every option does what it says: what is typed reaches the library."""

import ast
import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skillneurons.cli import commands
from skillneurons.runs import open_run

TREE = ast.parse(inspect.getsource(commands))
COMMANDS = {
    node.name: node
    for node in TREE.body
    if isinstance(node, ast.FunctionDef) and any("app.command" in ast.unparse(one) for one in node.decorator_list)
}
RUN = ["--rows", "24", "--steps", "2", "--lr", "0.02", "--kinds", "mean", "--n-random", "2", "--n-prompt", "2"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_option_is_declared_and_never_read(name):
    command = COMMANDS[name]
    arguments = {argument.arg for argument in [*command.args.args, *command.args.kwonlyargs]}
    read = {node.id for node in ast.walk(command) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert len(COMMANDS) > 8 and sorted(arguments - read) == []


@pytest.mark.filterwarnings("ignore:.*collapsed", "ignore:.*cut to 6 words")
def test_find_sweeps_as_asked_and_cuts_texts_also_where_the_run_is_opened_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--sweep-rows", "11", "--sweep-seeds", "--seeds", "2", "--fractions", "0.2", "--words", "6"]
    done = CliRunner().invoke(commands.app, ["find", "movies", *RUN, *asked])
    assert done.exit_code == 0, done.output
    folder = Path("runs/bundled-movies")
    settings = json.loads((folder / "settings.json").read_text())["settings"]
    assert (settings["n_perturb_rows"], settings["sweep_seeds"], settings["fractions"]) == (11, True, [0.2])
    task = open_run(folder).task()
    lengths = [len(row["text"].split()) for row in [*task.train, *task.test]]
    assert max(lengths) == 6 and len(task.train) == 24
