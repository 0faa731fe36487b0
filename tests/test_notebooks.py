"""Notebooks run from top to bottom, with every check in them, and the two files of each say the same."""

from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_paired_notebook_has_the_same_cells_and_no_output(script):
    paired = jupytext.read(script.with_suffix(".ipynb"))
    assert cells(paired) == cells(jupytext.read(script)), "Run `jupytext --sync notebooks/*.py`."
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in paired.cells)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_ends_on_a_checked_number(script):
    code = [cell.source for cell in jupytext.read(script).cells if cell.cell_type == "code"]
    assert "\nassert " in code[-1]
    assert not any(line.startswith(("def ", "class ")) for source in code for line in source.splitlines())


@pytest.mark.notebooks
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_runs(script, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="the test extra is not installed")
    notebook = jupytext.read(script)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
