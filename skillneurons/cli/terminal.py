"""What the command line shows: tables and progress bars. All text is shown as it is, `[brackets]` included."""

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any  # Any: of the library's results: their modules are heavy to import

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

# Names of tasks, folders and columns are the user's: nothing in them is markup.
console = Console(markup=False, emoji=False, highlight=False)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_find(result: Any) -> None:
    from skillneurons.interventions.curve import over_seeds
    from skillneurons.utilities.results import counted

    for line in result.verdict:
        console.print(line)
    for line in result.warnings:
        console.print(warning(line))
    if result.reused:
        console.print(f"Reused from an earlier run: {', '.join(result.reused)}")
    print_table(
        f"Prompts on {result.task.name}, {result.evaluations[0].n} test rows",
        ("seed", "accuracy", "from", "to (95 %)", "balanced", "majority"),
        [
            (str(c.prompt.seed), *(f"{x:.3f}" for x in (e.accuracy, *e.interval, e.balanced_accuracy, e.majority)))
            for c, e in zip(result.classifiers, result.evaluations, strict=True)
        ],
    )
    for search, best in zip(result.searches, result.best, strict=True):
        print_table(
            f"Top neurons of {search.task}, mean of {counted(len(result.classifiers), 'seed')}, chosen on validation. "
            f"Best by luck there: {search.luck:.3f}; majority on test: {search.majority:.3f}",
            ("layer", "neuron", "chosen", "95 %", "held out", "95 %", "p, adj."),
            [
                (
                    str(row.layer),
                    str(row.neuron),
                    f"{row.predictivity:.3f}",
                    _range(row.predictivity_low, row.predictivity_high),
                    f"{row.held_out:.3f}",
                    _range(row.low, row.high),
                    f"{row.p_adjusted:.2g}",
                )
                for row in best.head(5).itertuples()
            ],
        )
    print_curves(result.curves)
    swept = {kind: over_seeds(curves) for kind, curves in result.seed_curves.items() if len(curves) > 1}
    print_over_seeds(swept)
    if not swept and len(result.classifiers) > 1:
        console.print("Only the first prompt was perturbed; --sweep-seeds perturbs every one.")
    console.print(f"Figures and numbers: {result.folder}/figures, {result.folder}/run.json")


def print_curves(curves: dict[str, Any]) -> None:
    from skillneurons.interventions.curve import verdicts

    curve = next(iter(curves.values()))
    said = verdicts(list(curves.values()))
    tables = {kind: one.in_short(of) for (kind, one), of in zip(curves.items(), said, strict=True)}
    rows = [("none", *next(iter(tables.values())).iloc[0])]
    rows += [(kind, *row) for kind, table in tables.items() for row in table.iloc[1:].itertuples(index=False)]
    print_table(
        f"Perturbed at {curve.meta['positions'].replace('_', ' ')} positions, seed {curve.meta['classifier_seed']}, "
        f"{curve.unperturbed.n} test rows, {len(curve.random)} random sets",
        ("perturbed", *next(iter(tables.values())).columns),
        rows,
    )


def print_over_seeds(tables: Mapping[str, Any]) -> None:
    """Of `over_seeds`, for each kind; nothing where there is one seed."""
    rows = [
        (
            kind,
            f"{100 * row['fraction']:.3g} %",
            *(
                f"{row[f'{name}_gap']:+.3f} ({row[f'{name}_gap_low']:+.3f} to {row[f'{name}_gap_high']:+.3f})"
                for name in ("accuracy", "margin")
            ),
        )
        for kind, table in tables.items()
        for row in table.to_dict("records")
        if row["n_seeds"] > 1
    ]
    if rows:
        n = next(iter(tables.values()))["n_seeds"].iloc[0]
        title = f"Skill less random neurons, mean of {n} seeds with 95 % intervals over them"
        print_table(title, ("perturbed", "share", "accuracy", "margin"), rows)


def _range(low: float, high: float) -> str:
    return f"{low:.3f}–{high:.3f}"


def print_summary(claims: Any) -> None:
    """Of `runs.summary`."""
    rows = []
    for (finding, task), group in claims.groupby(["finding", "task"], sort=False):
        rows.append((Text(f"{finding}, {task}", style="bold"), "", "", ""))
        for row in group.itertuples():
            rows.append((row.claim, f"{row.effect:+.3f}", f"{row.low:+.3f} to {row.high:+.3f}", row.held))
    title = "Effects, positive where they speak for the claim"
    print_table(title, ("claim", "effect", "95 % interval", "held"), rows, wrapped=("claim",))


def print_table(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str | Text, ...]], *, wrapped: tuple[str, ...] = ()
) -> None:
    """Numbers to the right on one line each; columns in `wrapped`, of words, take as many lines as they need."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        words = column in wrapped
        table.add_column(column, justify="left" if words else "right", no_wrap=not words)
    for row in rows:
        table.add_row(*row)
    # Wider than the terminal, a table is left to wrap: nothing is cut out of it.
    needed = Measurement.get(console, console.options.update(width=10_000), table).maximum
    if wrapped or needed <= console.width:
        console.print(table)
    else:
        wide = Console(file=io.StringIO(), width=needed, markup=False, emoji=False, highlight=False)
        wide.print(table)
        console.print(Text(wide.file.getvalue()), soft_wrap=True)  # type: ignore[attr-defined]


def quiet_libraries() -> None:
    """Only our own messages: loading bars of the libraries below say nothing about the run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from skillneurons.tasks.task import TaskWarning

    # Of each task, not only of the first one with as many rows.
    warnings.simplefilter("always", TaskWarning)
    warnings.showwarning = lambda message, *_, **__: errors.print(warning(str(message)))


def warning(line: str) -> Text:
    return Text.assemble(("Warning:", "yellow"), " ", line)


def progress_bars() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def bar_updater(bars: Progress) -> Any:
    """A callback that keeps one bar for each thing being done; plain lines with times where output is no terminal."""
    if not console.is_terminal:
        from skillneurons.utilities.progress import lines

        return lines(console.print)
    tasks: dict[str, Any] = {}

    def update(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    return update
