"""Notebooks run from top to bottom, with every check in them, and the files hold what they show: the present code's."""

import base64
import io
import re
import tempfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from helpers import module_at
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
AGAIN = "Run `python notebooks/store_outputs.py`."


@pytest.fixture(scope="module")
def storing():
    pytest.importorskip("nbclient", reason="the test extra is not installed")
    return module_at(FOLDER / "store_outputs.py")


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def shown(notebook):
    """What each cell of code shows, output by output: kind and content."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            data = [output.get("data") or {output.get("name", "error"): output.get("text")} for output in cell.outputs]
            parts.append([(kind, content) for one in data for kind, content in sorted(one.items())])
    return parts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_paired_notebook_has_the_same_cells_and_what_they_showed(script, storing):
    paired = jupytext.read(script.with_suffix(".ipynb"))
    assert cells(paired) == cells(jupytext.read(script)), "Run `jupytext --sync notebooks/[0-9]*.py`."
    assert storing.is_stored(script), f"These are not the outputs of this code. {AGAIN}"
    assert any(shown(paired)) and nbformat.validate(paired) is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_and_without_noise(script):
    path = script.with_suffix(".ipynb")
    assert path.stat().st_size < 1_000_000
    paired = nbformat.read(path, 4)
    assert not any(cell.get("execution_count") or cell.metadata.get("execution") for cell in paired.cells)
    for kind, content in (output for cell in shown(paired) for output in cell):
        assert kind in {"stdout", "text/plain", "text/html", "text/markdown", "image/png"}
        if kind == "image/png":
            assert len(content) < 130_000  # in base64: a figure below 100 kB
        else:
            noise = r"0x[0-9a-f]{6,}|\d(?:it/s|%\|)|\bin \d[\d.]* (?:s|seconds|ms)\b|T_[0-9a-f]{5}|/(?:tmp|home|root)/"
            assert re.findall(noise, content) == []
    drawn = [cell for cell in paired.cells if re.search(r"\bplot_\w+\(|\.plot\(", cell.source)]
    drawn = [cell for cell in drawn if cell.cell_type == "code"]
    assert all("image/png" in {kind for output in cell.outputs for kind in output.get("data", {})} for cell in drawn)


def test_what_changes_from_run_to_run_is_not_stored(storing):
    picture = io.BytesIO()
    Image.effect_noise((1500, 300), 90).save(picture, "PNG")
    png = base64.b64encode(picture.getvalue()).decode()
    new = nbformat.v4
    styled = '<style>#T_1a2b3_row0 {}</style><table id="T_1a2b3"></table><table id="T_0cafe">'
    data = {"image/png": png, "text/plain": "<Figure size>", "application/widget": "x"}
    outputs = [
        new.new_output("stream", name="stderr", text="100%|####| 3.1it/s"),
        new.new_output("execute_result", {"text/html": styled}, execution_count=7),
        new.new_output("stream", text=f"{FOLDER}/here, {tempfile.gettempdir()}/tmpa_1/there"),
        new.new_output("display_data", data, metadata={"needs_background": "light"}),
    ]
    cell = new.new_code_cell("1 + 1", outputs=outputs, execution_count=7, metadata={"execution": {"busy": "now"}})
    notebook = storing.cleaned(
        new.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.9"}})
    )
    again = storing.cleaned(nbformat.reads(nbformat.writes(notebook), 4))
    assert again == notebook and notebook.cells[0].id == "cell-00"
    html, paths, figure = shown(notebook)[0]
    assert paths == ("stdout", "…/notebooks/here, …/there")
    assert html[1] == styled.replace("T_1a2b3", "T_0").replace("T_0cafe", "T_1")
    assert figure[0] == "image/png" and Image.open(io.BytesIO(base64.b64decode(figure[1]))).width == 1400
    assert notebook.cells[0].execution_count is None and not notebook.cells[0].metadata
    changed = nbformat.reads(nbformat.writes(notebook).replace("1 + 1", "1 + 2"), 4)
    assert storing.digest(changed) != notebook.metadata["stored"]["code"] == storing.digest(notebook)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_ends_on_a_checked_number(script):
    code = [cell.source for cell in jupytext.read(script).cells if cell.cell_type == "code"]
    assert "\nassert " in code[-1]
    assert not any(line.startswith(("def ", "class ")) for source in code for line in source.splitlines())


@pytest.mark.notebooks
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(script, tmp_path, storing):
    """Numbers may differ from one machine to another in their last digits; what they stand in may not."""
    now, stored = shown(storing.run(script, tmp_path)), shown(jupytext.read(script.with_suffix(".ipynb")))
    assert [[kind for kind, _ in cell] for cell in now] == [[kind for kind, _ in cell] for cell in stored], AGAIN
    for mine, theirs in zip(now, stored, strict=True):
        for (kind, content), (_, before) in zip(mine, theirs, strict=True):
            if kind == "stdout":
                words = [re.findall(r"[A-Za-z]{3,}", text) for text in (content, before)]
                assert words[0] == words[1], AGAIN
