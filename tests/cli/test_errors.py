"""Whatever happens on the command line ends in one message: wrong input, bugs, interrupts, closed pipes, odd names."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skillneurons.cli import terminal
from skillneurons.cli.commands import app

COMMAND = [sys.executable, "-c", "from skillneurons.cli import main; main()"]


@pytest.mark.parametrize("delay", [0.1, 0.4, 1.0, 2.0, 3.5])
def test_an_interrupt_is_one_line_also_while_modules_are_imported(tmp_path: Path, delay: float) -> None:
    begun = "from skillneurons.cli import main; print('begun', flush=True); main()"
    command = [sys.executable, "-c", begun, "find", "movies", "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said and said.count("Interrupted.") == 1
    assert said.strip().splitlines()[-1].startswith("Interrupted.")


def test_an_interrupt_of_the_parser_itself_is_told_once() -> None:
    """Which leaves with a status of its own."""
    stopped = (
        "import os, signal, sys\nfrom skillneurons.cli import errors\nerrors.notice_interrupts()\n"
        "with errors.reported_errors():\n    with errors.reported_errors():\n        try:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n            signal.pause()\n"
        "        except KeyboardInterrupt:\n            sys.exit(130)\n"
    )
    done = subprocess.run([sys.executable, "-c", stopped], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr.count("Interrupted.") == 1


@pytest.mark.parametrize("error", [RuntimeError("the [bold]engine[/x] stopped"), KeyError("layer"), AssertionError()])
def test_a_bug_is_one_line_that_says_where_its_traceback_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("skillneurons.runs.report.write_report", fail)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert f"{type(error).__name__}: {error}" in done.output
    found = re.search(r"traceback in (\S+\.txt)\)", done.output)
    assert found and "in fail" in (text := Path(found[1]).read_text()) and type(error).__name__ in text
    Path(found[1]).unlink()


@pytest.mark.parametrize("name", ["x[/x]", "mo[bold]vies", ":smile:", "[link=x]y"])
def test_odd_names_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = CliRunner().invoke(app, ["find", name])
    assert done.exit_code == 1 and name in done.output
    terminal.print_table(f"Table of {name}", (name, "b"), [(name, name)])
    assert capsys.readouterr().out.count(name) == 4


def test_output_that_nobody_reads_any_more_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "from skillneurons.cli import main; main()" --help | true'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_usage_is_the_parsers_own_message() -> None:
    done = CliRunner().invoke(app, ["find", "--seeds", "many"])
    assert done.exit_code == 2 and "--seeds" in done.output and "traceback" not in done.output
