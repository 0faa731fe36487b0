"""A report of a run: one self-contained HTML page with sortable tables and figures, or Markdown, LaTeX, CSV.

Reads `run.json` and the figures that `runs.find` wrote; no model is needed. The page is about as large as its figures.
"""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal, TypeAlias
from urllib.parse import quote

from skillneurons.runs.finished_runs.report_sections import Section, latex, markdown, sections
from skillneurons.runs.folder import RunFolder
from skillneurons.tasks.class_words import pairing
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import as_page, counted
from skillneurons.utilities.types import Json

# Figure file's stem -> what it shows. Others in the folder come last, under their names.
CAPTIONS = {
    "top-neuron": "Activation of the most predictive neuron on test rows, by class. The dotted line is its baseline, "
    "the mean over training rows.",
    "predictivity": "Predictivity of each layer's neurons on validation rows, in order of rank.",
    "perturbation": "Skill neurons perturbed, beside random sets of the same size in each layer; a column for each "
    "way to perturb them. The grey band holds the random sets: a few, so that a point just below it may be chance. "
    "Bars are 95 % intervals over rows.",
    "localization": "What is known of the claim that these neurons hold the skill: shares measured, beside what chance "
    "gives and where a study draws its lines, which are conventions.",
    "writers": "What the chosen neurons of each layer know less where those of another are held at their mean, beyond "
    "random neurons of that layer.",
}
MIME = {".svg": "image/svg+xml", ".png": "image/png"}


Format: TypeAlias = Literal["html", "md", "latex", "csv"]
FORMATS: dict[str, str] = {"html": "report.html", "md": "report.md", "latex": "report.tex", "csv": "report"}
"""Where a report is written by default: a file, or for CSV a folder of them."""


@checked
def write_report(folder: str | Path, *, path: str | Path | None = None, format: Format = "html") -> Path:
    """Write a report of a run that `runs.find` finished.

    Args:
        folder: The run's folder.
        path: Where to write; `report.html` (`.md`, `.tex`; `report` for CSV) in the folder by default.
        format: `"html"`: one page with tables to sort and figures in it. `"md"`: Markdown, figures by their paths.
            `"latex"`: tables to input into a paper. `"csv"`: a folder with a file for each table, numbers in full.

    Returns:
        The file's or folder's path.

    Raises:
        FileNotFoundError: The folder has no `run.json`, as when the run was not finished.
        StoreError: `run.json` is damaged, or lacks what a run writes.
        ValueError: There is no such format.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import TuningConfig, load_example
        >>> from skillneurons.runs.report import write_report
        >>> from skillneurons.runs._find import FindSettings, find
        >>> classifier, task = load_example()
        >>> tuning = TuningConfig(lr=0.05, steps=10)
        >>> small = FindSettings((0,), 2, tuning, kinds=("mean",), n_random=2)
        >>> with TemporaryDirectory() as folder:
        ...     result = find(classifier.model, task, folder, small)
        ...     page = write_report(folder)
        ...     print(page.name, "Top neurons of movies" in page.read_text())
        ...     print(write_report(folder, format="latex").read_text().count("toprule"))
        report.html True
        3
    """
    if format not in FORMATS:
        raise ValueError(f"`format` is one of {', '.join(map(repr, FORMATS))}, not {format!r}.")
    folder, run = Path(folder), RunFolder(Path(folder))
    numbers = run.finished("A report")
    path = folder / FORMATS[format] if path is None else Path(path)
    try:
        title, lines = _title(numbers), [*_found(numbers), _lead(numbers)]
        parts = sections(numbers)
        if format == "csv":
            content = {path / f"{part.stem}.csv": part.exact.to_csv(index=False) for part in parts}
        elif format == "md":
            drawn = {os.path.relpath(one, path.parent): _caption(one.stem) for one in _figures(run.drawn())}
            content = {path: markdown(title, lines, parts, drawn)}
        elif format == "latex":
            content = {path: latex(title, lines, parts)}
        else:
            content = {path: _page(numbers, parts, run, path)}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise store.StoreError(
            f"{run.run_file} is damaged or of another release ({type(error).__name__}: {error}). Run it again."
        ) from error
    for file, text in content.items():
        store.write_atomically(file, text.encode())
    return path


def _title(run: Mapping[str, Json]) -> str:
    return f"{run['task']['name']} on {run['model']['source']}"


def _found(run: Mapping[str, Json]) -> list[str]:
    localized = [f"Localization: {run['localization']['verdict']}"] if "localization" in run else []
    return [*run.get("verdict", ()), *localized, *(f"Warning: {line}" for line in run.get("warnings", ()))]


def _lead(run: Mapping[str, Json]) -> str:
    task, model, n_prompt = run["task"], run["model"], run["settings"]["n_prompt"]
    own = "Its own head, and no prompt"
    prompts = f"{counted(len(run['prompts']), 'prompt')} of {counted(n_prompt, 'vector')}" if n_prompt else own
    return (
        f"{model['source']} ({model['fingerprint']}) on {task['name']}: "
        f"{pairing(task['labels'], task['label_words'])}. {prompts}; "
        f"{task['rows']['train']:,} training, {task['rows']['validation']:,} validation and {task['rows']['test']:,} "
        "test rows."
    )


def _page(run: Mapping[str, Json], parts: Sequence[Section], folder: RunFolder, path: Path) -> str:
    template = Template((files("skillneurons.runs") / "report_page.html").read_text())
    figures = "\n".join(_figure(one) for one in _figures(folder.drawn()))
    details = {
        key: run[key] for key in ("settings", "versions", "threads", "truncated_rows", "skill_neurons") if key in run
    }
    rest = template.substitute(
        title=html.escape(_title(run)),
        found=_lines(_found(run)),
        lead=html.escape(_lead(run)) + _explorer_link(folder.path, path),
        sections="\n".join(_section(part) for part in parts),
        figures=figures or "<p>This run has no figures.</p>",
        details=html.escape(json.dumps(details | {"task": run["task"], "model": run["model"]}, indent=1)),
    )
    return as_page(f"skillneurons: {_title(run)}", rest)


def _explorer_link(folder: Path, page: Path) -> str:
    """To the explorer beside the page, where one was written; else how to write it."""
    explorer = folder / "explorer.html"
    if not explorer.exists():
        return f" To look at single neurons: <code>skillneurons explore {html.escape(str(folder))}</code>."
    where = quote(Path(os.path.relpath(explorer, page.parent)).as_posix())
    return f' <a href="{where}">Explore the neurons</a>.'


def _lines(sentences: Sequence[str]) -> str:
    """The first in bold, warnings marked."""
    kinds = ["warning" if one.startswith("Warning: ") else "also" for one in sentences]
    kinds[:1] = ["verdict"] if kinds else []
    return "".join(f'<p class="{kind}">{html.escape(one)}</p>' for kind, one in zip(kinds, sentences, strict=True))


def _section(part: Section) -> str:
    """A table whose cells carry the exact value to sort by, and show three decimals."""
    head = "".join(f'<th scope="col"><button type="button">{html.escape(name)}</button></th>' for name in part.columns)
    body = "".join("<tr>" + "".join(_cell(*cell) for cell in row) + "</tr>" for row in part.rows)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<section><h2>{html.escape(part.title)}</h2><p>{html.escape(part.text)}</p>{table}</section>"


def _cell(value: object, shown: str) -> str:
    kind = "" if isinstance(value, str) else ' class="number"'
    return f'<td{kind} data-value="{html.escape(str(value))}">{html.escape(shown)}</td>'


def _figures(drawn: Sequence[Path]) -> list[Path]:
    """One file for each figure, SVG before PNG, in the order of `CAPTIONS`."""
    best: dict[str, Path] = {}
    for path in sorted(drawn, key=lambda path: path.suffix):
        if path.suffix in MIME:
            best[path.stem] = path  # ".svg" sorts after ".png"
    order = list(CAPTIONS)
    known = {stem: next((i for i, name in enumerate(order) if stem.startswith(name)), len(order)) for stem in best}
    return [best[stem] for stem in sorted(best, key=lambda stem: (known[stem], stem))]


def _caption(stem: str) -> str:
    return next((text for name, text in CAPTIONS.items() if stem.startswith(name)), stem)


def _figure(path: Path) -> str:
    caption = _caption(path.stem)
    encoded = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    # As an image rather than inline SVG: the files share ids, which would get in each other's way on one page.
    return (
        f'<figure><img alt="{name}" src="data:{MIME[path.suffix]};base64,{encoded}">'
        f"<figcaption><b>{name}</b>: {html.escape(caption)}</figcaption></figure>"
    )
