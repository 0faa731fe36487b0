"""One self-contained HTML page of a run: numbers as sortable tables, figures inline, nothing loaded from anywhere.

Reads `run.json` and the figures that `runs.find` wrote; no model is needed. The page is about as large as its figures.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from skillneurons.runs.folder import RunFolder
from skillneurons.tasks.class_words import pairing
from skillneurons.utilities import store

# Figure file's stem -> what it shows. Others in the folder come last, under their names.
CAPTIONS = {
    "top-neuron": "Activation of the most predictive neuron on test rows, by class. The dotted line is its baseline, "
    "the mean over training rows.",
    "predictivity": "Predictivity of each layer's neurons on validation rows, in order of rank.",
    "perturbation": "Skill neurons perturbed, beside random sets of the same size in each layer. The grey band holds "
    "the random sets: a few, so that a point just below it may be chance.",
}
MIME = {".svg": "image/svg+xml", ".png": "image/png"}


def write_report(folder: str | Path, *, path: str | Path | None = None) -> Path:
    """Write one HTML page of a run that `runs.find` finished.

    Args:
        folder: The run's folder.
        path: Where to write; `report.html` in the folder by default.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: The folder has no `run.json`, as when the run was not finished.
        StoreError: `run.json` is damaged, or lacks what a run writes.

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
        report.html True
    """
    folder, run = Path(folder), RunFolder(Path(folder))
    numbers = run.finished("A report")
    try:
        content = _page(numbers, run)
    except (KeyError, TypeError, IndexError) as error:
        raise store.StoreError(
            f"{run.run_file} is damaged or of another release ({type(error).__name__}: {error}). Run it again."
        ) from error
    path = folder / "report.html" if path is None else Path(path)
    store.write_atomically(path, content.encode())
    return path


def _page(run: Mapping[str, Any], folder: RunFolder) -> str:
    task, model, settings = run["task"], run["model"], run["settings"]
    template = Template((files("skillneurons.runs") / "report_page.html").read_text())
    prompts = list(run["prompts"].values())
    lead = (
        f"{model['source']} ({model['fingerprint']}) on {task['name']}: "
        f"{pairing(task['labels'], task['label_words'])}. {len(prompts)} prompts of {settings['n_prompt']} vectors; "
        f"{task['rows']['train']:,} training, {task['rows']['validation']:,} validation and {task['rows']['test']:,} "
        "test rows."
    )
    found = [*run.get("verdict", ()), *(f"Warning: {line}" for line in run.get("warnings", ()))]
    sections = [
        _prompts(run["prompts"]),
        *(_top_neurons(name, best, run["majority"][name]) for name, best in run["top_neurons"].items()),
        *(_perturbation(kind, curve) for kind, curve in run["perturbation"].items()),
    ]
    figures = "\n".join(_figure(path) for path in _figures(folder.drawn()))
    details = {
        key: run[key] for key in ("settings", "versions", "threads", "truncated_rows", "skill_neurons") if key in run
    }
    return template.substitute(
        title=html.escape(f"{task['name']} on {model['source']}"),
        found=_lines(found),
        lead=html.escape(lead),
        sections="\n".join(sections),
        figures=figures or "<p>This run has no figures.</p>",
        details=html.escape(json.dumps(details | {"task": task, "model": model}, indent=1)),
    )


def _prompts(prompts: Mapping[str, Any]) -> str:
    columns = ("accuracy", "low", "high", "balanced", "majority", "margin", "rows")
    rows = [
        (
            int(seed),
            one["accuracy"],
            *one["interval"],
            one["balanced_accuracy"],
            one["majority"],
            one["margin"],
            one["n"],
        )
        for seed, one in prompts.items()
    ]
    what = "Accuracy on test rows, with its 95 % interval over rows (Clopper-Pearson)."
    return _section("Prompts", what, _table(("seed", *columns), rows))


def _top_neurons(name: str, best: Sequence[Mapping[str, Any]], majority: float) -> str:
    columns = tuple(best[0])
    what = (
        "Ranked by predictivity on validation rows, which flatters: its interval pays for the choice, and “luck” is "
        "what the best of as many neurons reaches there in half of all cases where labels mean nothing. “Held out” is "
        "accuracy on untouched test rows, at the position and in the direction chosen on validation, with its "
        f"interval. Adjusted p-values pay for all neurons. The majority class has {majority:.3f} of the test rows."
    )
    rows = [tuple(row[column] for column in columns) for row in best]
    return _section(f"Top neurons of {name}", what, _table(tuple(map(_spoken, columns)), rows))


def _perturbation(kind: str, curve: Mapping[str, Any]) -> str:
    before, columns = curve["unperturbed"], tuple(curve["rows"][0])
    what = (
        f"Unperturbed, on {before['n']:,} test rows: accuracy {before['accuracy']:.3f}, margin "
        f"{before['margin']:.3f}. The last column says which of accuracy and margin fell below that of every random "
        "set. With R random sets, chance alone brings that about for each once in R + 1 times or more."
    )
    rows = [(*(row[column] for column in columns), _below(row)) for row in curve["rows"]]
    return _section(f"Perturbation: {kind}", what, _table((*map(_spoken, columns), "below all random sets"), rows))


def _spoken(column: str) -> str:
    return column.replace("_", " ")


def _lines(sentences: Sequence[str]) -> str:
    return "".join(
        f"<p><b>{html.escape(one)}</b></p>" if not i else f"<p>{html.escape(one)}</p>"
        for i, one in enumerate(sentences)
    )


def _section(title: str, text: str, table: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{table}</section>"


def _below(row: Mapping[str, Any]) -> str:
    below = [name for name in ("accuracy", "margin") if row[f"skill_{name}"] < row[f"random_{name}_low"]]
    return " and ".join(below) or "neither"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose cells carry the exact value to sort by, and show three decimals."""
    head = "".join(f'<th scope="col"><button type="button">{html.escape(name)}</button></th>' for name in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    shown = f"{value:.3f}" if isinstance(value, float) else str(value)
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


def _figure(path: Path) -> str:
    caption = next((text for name, text in CAPTIONS.items() if path.stem.startswith(name)), path.stem)
    encoded = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    # As an image rather than inline SVG: the files share ids, which would get in each other's way on one page.
    return (
        f'<figure><img alt="{name}" src="data:{MIME[path.suffix]};base64,{encoded}">'
        f"<figcaption><b>{name}</b>: {html.escape(caption)}</figcaption></figure>"
    )
