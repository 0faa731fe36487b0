"""Run notebooks and store what they show, without what changes from run to run.

python notebooks/store_outputs.py                             # those whose script has changed since they were run
python notebooks/store_outputs.py notebooks/01_*.py           # these, whatever has changed

A notebook's file then holds the cells of its script, what each of them showed, and a digest of the cells, by which a
test knows whether they are still those that were run. Figures are PNGs of some tens of kilobytes each.
"""

import hashlib
import io
import os
import re
import sys
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
KEPT = ("text/plain", "text/html", "text/markdown", "image/png")
MANY_BYTES, MOST_WIDTH = 80_000, 1400


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of the code, cell by cell: words may change without a run."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(repr(code).encode()).hexdigest()[:16]


def run(script: Path, folder: Path) -> nbformat.NotebookNode:
    """The script's notebook with what it shows, run in `folder`."""
    notebook = jupytext.read(script)
    os.environ["MPLBACKEND"] = (
        "module://matplotlib_inline.backend_inline"  # for the kernel: others show no figures
    )
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources=where
    ).execute()
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without counts, times, loading bars, widgets and ids that are drawn anew each time."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [
                output for output in cell.outputs if output.get("name") != "stderr"
            ]
            for output in cell.outputs:
                _clean(output)
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        "stored": {"code": digest(notebook)},
    }
    return notebook


def _clean(output: nbformat.NotebookNode) -> None:
    if "text" in output:
        output.text = _steady(output.text)
    if "execution_count" in output:
        output.execution_count = None
    if "metadata" in output:
        output.metadata = {}
    if "data" in output:
        for kind in [kind for kind in output.data if kind not in KEPT]:
            del output.data[kind]
        for kind in [kind for kind in output.data if kind.startswith("text/")]:
            output.data[kind] = _steady(output.data[kind])
        if "image/png" in output.data:
            output.data["image/png"] = smaller(output.data["image/png"])
            output.data.pop("text/plain", None)  # `<Figure size ...>`


def _steady(text: str) -> str:
    """Without where this repository lies, folders for a while, and the ids that pandas draws for a styled table."""
    ids = {
        name: f"T_{i}"
        for i, name in enumerate(dict.fromkeys(re.findall(r"T_[0-9a-f]{5}", text)))
    }
    text = re.sub(r"T_[0-9a-f]{5}", lambda found: ids[found[0]], text)
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/[\w-]+", "…", text)
    return text.replace(str(FOLDER.parent), "…")


def smaller(png: str) -> str:
    """A figure no wider than a page needs, and in few colours where it is large."""
    image = Image.open(io.BytesIO(b64decode(png))).convert("RGB")
    if image.width > MOST_WIDTH:
        image = image.resize(
            (MOST_WIDTH, round(image.height * MOST_WIDTH / image.width)),
            Image.Resampling.LANCZOS,
        )
    content = _written(image)
    if len(content) > MANY_BYTES:
        content = _written(image.quantize(64, dither=Image.Dither.NONE))
    return b64encode(content).decode()


def _written(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def is_stored(script: Path) -> bool:
    """Whether the notebook beside the script holds what the script's present code showed."""
    path = script.with_suffix(".ipynb")
    stored = jupytext.read(path).metadata.get("stored", {}) if path.is_file() else {}
    return stored.get("code") == digest(jupytext.read(script))


def main(scripts: list[Path]) -> None:
    for script in scripts or [
        path for path in sorted(FOLDER.glob("[0-9]*.py")) if not is_stored(path)
    ]:
        print(script.name, flush=True)
        nbformat.write(run(script, script.parent), script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
