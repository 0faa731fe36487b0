"""No option does nothing: each of `find`, `reproduce` and `perturb` reaches what it names."""

import pytest
import typer
from typer.testing import CliRunner

import skillneurons.runs as runs
from skillneurons.cli.commands import app

FIND = {
    "--seeds": ("2", "seeds", (0, 1)),
    "--seed-list": ("3,5", "seeds", (3, 5)),
    "--n-prompt": ("4", "n_prompt", 4),
    "--steps": ("7", "tuning.steps", 7),
    "--lr": ("0.5", "tuning.lr", 0.5),
    "--batch-size": ("5", "tuning.batch_size", 5),
    "--tune-dtype": ("bfloat16", "tuning.tune_dtype", "bfloat16"),
    "--fraction": ("0.05", "fraction", 0.05),
    "--measure": ("balanced_accuracy", "measure", "balanced_accuracy"),
    "--kinds": ("zero", "kinds", ("zero",)),
    "--fractions": ("0.2,0.4", "fractions", (0.2, 0.4)),
    "--positions": ("prompt", "positions", "prompt"),
    "--n-random": ("3", "n_random", 3),
    "--sigma": ("0.7", "sigma", 0.7),
    "--sweep-rows": ("20", "n_perturb_rows", 20),
    "--sweep-seeds": (None, "sweep_seeds", True),
}
REPRODUCE = {
    "--n-prompt": ("4", "n_prompt", 4),
    "--steps": ("7", "tuning.steps", 7),
    "--lr": ("0.5", "tuning.lr", 0.5),
    "--batch-size": ("5", "tuning.batch_size", 5),
    "--tune-dtype": ("bfloat16", "tuning.tune_dtype", "bfloat16"),
    "--kinds": ("zero", "kinds", ("zero",)),
    "--fractions": ("0.2,0.4", "fractions", (0.2, 0.4)),
    "--n-random": ("3", "n_random", 3),
    "--sweep-rows": ("20", "n_rows", 20),
}


def asked(monkeypatch, name, command, option, value):
    """The settings with which a command would have run."""
    seen = []

    def instead(*args, **options):
        seen.extend(one for one in (*args, *options.values()) if type(one).__name__.endswith("Settings"))
        raise typer.Exit

    monkeypatch.setattr(runs, name, instead)
    monkeypatch.setattr("skillneurons.runs.progress.cost", lambda *args, **rest: "")
    done = CliRunner().invoke(app, [*command, option, *([] if value is None else [value])])
    assert len(seen) == 1, done.output
    return seen[0]


def read(settings, path):
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings


@pytest.mark.parametrize("option", FIND)
def test_every_option_of_find_reaches_its_setting(option, monkeypatch, tmp_path):
    value, path, expected = FIND[option]
    settings = asked(monkeypatch, "find", ["find", "--rows", "40", "--out", str(tmp_path)], option, value)
    assert read(settings, path) == expected != read(runs.FindSettings(), path)


@pytest.mark.parametrize("option", REPRODUCE)
def test_every_option_of_reproduce_reaches_its_setting(option, monkeypatch, tmp_path):
    value, path, expected = REPRODUCE[option]
    command = ["reproduce", "--tasks", "movies", "--rows", "40", "--out", str(tmp_path)]
    assert read(asked(monkeypatch, "reproduce", command, option, value), path) == expected


def test_folders_of_one_name_do_not_share_a_run(monkeypatch, tmp_path):
    """The default folder of a model in a folder tells by its weights which it is."""
    from skillneurons.cli.commands import _default_folder

    (tmp_path / "model").mkdir()
    names = {_default_folder(str(tmp_path / "model"), digest, "movies") for digest in ("aaaaaaaa", "bbbbbbbb")}
    assert len(names) == 2 and _default_folder("bundled", "aaaaaaaa", "movies").name == "bundled-movies"
    seen = []
    monkeypatch.setattr(runs, "find", lambda model, task, out, settings, **rest: seen.append(out) or 1 / 0)
    monkeypatch.setattr("skillneurons.runs.progress.cost", lambda *args, **rest: "")
    CliRunner().invoke(app, ["find", "--rows", "40"])
    assert [path.as_posix() for path in seen] == ["runs/bundled-movies"]
