"""Sphinx settings. Build with `sphinx-build -W docs docs/_build`; code on pages runs at every build, errors are fatal.

Tutorials are shown as they are stored, outputs and all: that they run, and show this, is what `make notebooks` checks.
`DOCS_EXECUTE=off` leaves other pages unrun too, for work on words; `cache` runs only those whose text has changed.
"""

import importlib.metadata
import os
import re
import shutil
from pathlib import Path

import jupytext
from sphinx.errors import ExtensionError
from sphinx.ext import napoleon

HERE = Path(__file__).parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # for the kernels, which inherit it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Whatever the caller draws with: pages would come out without figures, and without a warning.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

project = "skillneurons"
author = "The skillneurons developers"
copyright = "2026, the skillneurons developers"
release = importlib.metadata.version("skillneurons")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache", "results", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"skillneurons {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
templates_path = []

default_role = "code"  # single backticks in docstrings
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("DOCS_EXECUTE", "force")
nb_execution_excludepatterns = ["tutorials/*"]
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # loading bars
suppress_warnings = ["mystnb.unknown_mime_type"]


def tutorials_from_notebooks() -> None:
    """Put the notebooks into `docs/tutorials`, where Sphinx can read them."""
    folder = HERE / "tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sorted((HERE.parent / "notebooks").glob("[0-9]*.ipynb")):
        notebook = jupytext.read(path)
        for cell in notebook.cells:
            # In the repository a notebook's links lead to ../docs; here the docs are one folder up.
            cell.source = cell.source.replace("](../docs/", "](../")
        jupytext.write(notebook, folder / path.name)


tutorials_from_notebooks()


class PropertiesAsProse(napoleon.GoogleDocstring):
    """Docstrings of properties read as those of methods are: as attributes', `Pred(n): ...` would be a type."""

    def __init__(self, docstring, config=None, app=None, what="", *rest):
        super().__init__(docstring, config, app, "method" if what == "property" else what, *rest)


napoleon.GoogleDocstring = PropertiesAsProse


def plain_signature(app, what, name, obj, options, signature, return_annotation):
    """Types of dataclass fields without their modules, and `...` for a default that is made anew each time."""
    if signature is None:
        return None
    return re.sub(r"~(?:jaxtyping|typing|numpy)\.", "", signature).replace("<factory>", "..."), return_annotation


def links_to_notebooks(app, docname, source):
    """In the repository a page's links lead to ../notebooks; here notebooks are in `tutorials`."""
    source[0] = re.sub(r"\]\(\.\./notebooks/(\w+\.ipynb)", r"](tutorials/\1", source[0])


def check_figures(app, error):
    """Fail where a page that was run and draws has no figure."""
    if error is not None or app.builder.name != "html":
        return
    without = []
    for page in sorted(app.env.found_docs):
        if nb_execution_mode == "off" and not page.startswith("tutorials/"):
            continue
        source = Path(app.env.doc2path(page))
        draws = re.search(r"\bplot_\w+\(|\.plot\(", source.read_text(encoding="utf-8"))
        if draws and (source.suffix == ".ipynb" or "{code-cell}" in source.read_text(encoding="utf-8")):
            html = (Path(app.outdir) / app.builder.get_target_uri(page)).read_text(encoding="utf-8")
            without += [page] * ("<img" not in html.partition("<article")[2])
    if without:
        raise ExtensionError(f"These pages draw, but have no figure: {', '.join(without)}.")


def setup(app):
    app.connect("source-read", links_to_notebooks)
    app.connect("build-finished", check_figures)
    app.connect("autodoc-process-signature", plain_signature)
