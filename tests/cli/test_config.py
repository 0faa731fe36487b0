"""Options in a file: what a run writes another one reads, what is typed decides, and what is wrong is named."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from skillneurons.cli.commands import app

QUICK = ["--rows", "40", "--steps", "3", "--n-random", "1", "--kinds", "mean", "--lr", "0.02"]
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed")


def settings(folder):
    return json.loads((folder / "settings.json").read_text())


def test_what_a_run_writes_another_one_reads_and_what_is_typed_decides(tmp_path):
    first = CliRunner().invoke(app, ["find", "replies", *QUICK, "--seed-list", "2", "--out", str(tmp_path / "a")])
    assert first.exit_code == 0, first.output
    written = tmp_path / "a" / "config.toml"
    options = tomllib.loads(written.read_text())
    assert options["task"] == "replies" and options["seed_list"] == "2" and options["lr"] == 0.02
    assert "out" not in options
    again = ["find", "--config", str(written), "--n-prompt", "5", "--out", str(tmp_path / "b")]
    second = CliRunner().invoke(app, again)
    assert second.exit_code == 0, second.output
    one, other = settings(tmp_path / "a"), settings(tmp_path / "b")
    assert one["task"] == other["task"] and one["settings"]["seeds"] == [2]
    assert other["settings"] == one["settings"] | {"n_prompt": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "none.toml"), ("task = ", "needs a file of options in TOML"), ("bleach = 3", "'bleach'")],
)
def test_a_file_that_is_none_is_named(tmp_path, text, message):
    path = tmp_path / "none.toml"
    if text is not None:
        path.write_text(text)
    done = CliRunner().invoke(app, ["find", "--config", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1 and not (tmp_path / "run").exists()
    assert message in " ".join(done.output.split()) or message in str(done.exception)
