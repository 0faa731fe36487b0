"""The command line: `skillneurons find` and its siblings. Thin: it parses, calls the library and prints."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any  # Any: of the library's settings and executors: their modules are heavy to import

import typer
from rich.text import Text
from typer.core import TyperGroup

from skillneurons.cli.config import read_config, write_config
from skillneurons.cli.errors import reported_errors
from skillneurons.cli.terminal import (
    bar_updater,
    console,
    print_curves,
    print_find,
    print_over_seeds,
    print_summary,
    print_table,
    progress_bars,
    quiet_libraries,
)


class _Commands(TyperGroup):
    """Each command ends in one message."""

    def invoke(self, ctx: Any) -> Any:
        with reported_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Find, test and use skill neurons in pretrained transformers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Options that several commands have.
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts, or A,B for pairs; usual names are found.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the classes; usual names are found.")]
GroupColumn = Annotated[str | None, typer.Option(help="Column of what rows share: a premise, document or author.")]
NPrompt = Annotated[int, typer.Option(min=1, help="Soft vectors in a prompt.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Most tuning steps for each prompt.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Examples in a tuning step.")]
Rows = Annotated[int | None, typer.Option(min=8, help="Use at most this many rows of each split.")]
Words = Annotated[int | None, typer.Option(min=1, help="Use at most this many words of each text.")]
Kinds = Annotated[str, typer.Option(help="Interventions, comma-separated.")]
Fractions = Annotated[str, typer.Option(help="Shares of neurons, comma-separated.")]
NRandom = Annotated[int, typer.Option(min=1, help="Random sets for each fraction.")]
Sigma = Annotated[float, typer.Option(help="Standard deviation of Gaussian noise.")]
Positions = Annotated[str, typer.Option(help="Where to intervene: all, prompt, or mask_and_prompt.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Dtype = Annotated[str, typer.Option(help="Of the model: float32, bfloat16, float16 or float64.")]
TuneDtype = Annotated[
    str | None, typer.Option(help="Tune on a copy of the model in this precision, score in the model's.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Tune this many prompts at a time, each in a process of its own.")]
Slurm = Annotated[
    str | None, typer.Option(help="Tune on a Slurm cluster, with these options: slurm_partition=gpu,timeout_min=240,…")
]


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(version("skillneurons"))
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find, test and use skill neurons in pretrained transformers."""


@app.command()
def find(
    task: Annotated[
        str, typer.Argument(help="A bundled task, one of the paper's, OWNER/NAME on the hub, or a name in --source.")
    ] = "movies",
    model: Annotated[str, typer.Option(help='"bundled", a hub id, or a folder.')] = "bundled",
    source: Annotated[Path | None, typer.Option(help="A file of rows, or a folder of them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; runs/MODEL-TASK by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Prompts to tune, with seeds 0, 1, …")] = 3,
    seed_list: Annotated[str | None, typer.Option(help="These seeds instead: 0,3,7.")] = None,
    n_prompt: NPrompt = 16,
    steps: Steps = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    label_words: Annotated[str | None, typer.Option(help="Words for the classes: neg=terrible,pos=great.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="FILE.toml: options, as a run writes them. Or a configuration on the hub.",
            is_eager=True,
            callback=read_config,
        ),
    ] = None,
    rows: Rows = None,
    words: Words = None,
    fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of neurons in the saved set.")] = 0.02,
    measure: Annotated[
        str | None,
        typer.Option(help="Rank neurons by predictivity or balanced_accuracy; by default as classes are unequal."),
    ] = None,
    kinds: Kinds = "mean,zero,gaussian",
    fractions: Fractions = "0.1,0.3",
    positions: Positions = "all",
    n_random: NRandom = 10,
    sigma: Sigma = 0.1,
    sweep_rows: Annotated[int, typer.Option(min=8, help="Most test rows to perturb on.")] = 150,
    sweep_seeds: Annotated[bool, typer.Option("--sweep-seeds", help="Perturb every prompt, not the first.")] = False,
    localization: Annotated[
        bool, typer.Option("--localization", help="Ask too whether these are the neurons, or any of many alike.")
    ] = False,
    head: Annotated[bool, typer.Option("--head", help="The fine-tuned model's own head; no prompts.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    tune_dtype: TuneDtype = None,
    jobs: Jobs = 1,
    slurm: Slurm = None,
) -> None:
    """Tune prompts, find the skill neurons, test them causally, and write tables and figures.

    Run again with the same arguments, it reuses what is finished; with more seeds, kinds, fractions, random sets or
    rows of the sweep, it extends the run.
    """
    options = dict(locals())
    quiet_libraries()
    from skillneurons import runs
    from skillneurons.classifiers.prompts import check_label_words
    from skillneurons.models._load_model import load_model, load_tokenizer
    from skillneurons.runs.progress import cost
    from skillneurons.tasks._load_task import load_task
    from skillneurons.tasks.class_words import pairing

    data = load_task(
        task,
        source=source,
        config=config,
        label_words=_words(label_words) if label_words else None,
        text=_columns(text_column),
        label=label_column,
        group=group_column,
    )
    if rows is not None:
        data = data.subset(rows)
    if words is not None:
        data = data.shortened(words)
    if localization and data.n_labels != 2:
        raise ValueError(f"`--localization` needs a task of two classes, but {data.name!r} has {data.n_labels}.")
    if not head:
        check_label_words(load_tokenizer(model), [data])
    loaded = load_model(model, device=device, dtype=dtype)
    settings = runs.FindSettings(
        seeds=tuple(int(one) for one in seed_list.split(",")) if seed_list else tuple(range(1 if head else seeds)),
        head=head,
        n_prompt=n_prompt,
        tuning=_tuning(steps, lr, batch_size, tune_dtype),
        fraction=fraction,
        fractions=_numbers(fractions),
        kinds=tuple(kinds.split(",")),  # type: ignore[arg-type]
        positions=positions,
        n_random=n_random,
        sigma=sigma,
        n_perturb_rows=sweep_rows,
        sweep_seeds=sweep_seeds,
        measure=measure,  # type: ignore[arg-type]
    )
    folder = out or _default_folder(model, loaded.fingerprint(), task)
    console.print(Text(str(data), style="bold"))
    console.print(", ".join(data.labels) if head else pairing(data.labels, data.label_words))
    console.print(f"model {model} ({loaded.fingerprint()}), results in {folder}")
    if left := cost(loaded, data, settings, folder, jobs, localization=localization):
        console.print(left)
    executor = _executor(folder, slurm, jobs)
    with progress_bars() as bars:
        result = runs.find(
            loaded,
            data,
            folder,
            settings,
            progress=bar_updater(bars),
            jobs=jobs,
            executor=executor,
            device=device,
        )
    write_config(folder / "config.toml", options)
    print_find(result)
    if localization:
        with progress_bars() as bars:
            told = runs.localize_run(folder, task=data, model=loaded, progress=bar_updater(bars))
        console.print(Text(f"Localization: {told.verdict}"))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    out: Annotated[Path | None, typer.Option(help="The file, or folder of CSV; RUN/report.… by default.")] = None,
    format: Annotated[str, typer.Option(help="html, md (Markdown), latex (tables) or csv (a folder).")] = "html",
) -> None:
    """Write a report of a run: one HTML page, no network; or its tables in Markdown, LaTeX or CSV."""
    from skillneurons.runs.report import write_report

    console.print(f"Written: {write_report(run, path=out, format=format)}")  # type: ignore[arg-type]


@app.command()
def explore(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    out: Annotated[Path | None, typer.Option(help="The page; RUN/explorer.html by default.")] = None,
    cards: Annotated[int, typer.Option(min=1, help="Neurons of each subtask with a card.")] = 6,
    source: Annotated[Path | None, typer.Option(help="Folder with the task's files, if the run had one.")] = None,
    device: Device = "cpu",
) -> None:
    """Write one self-contained HTML page to explore a run's neurons: a map, a table and cards, no network."""
    quiet_libraries()
    from skillneurons import runs
    from skillneurons.plots import ExplorerSettings
    from skillneurons.runs.progress import of_pages

    settings, opened = ExplorerSettings(n_cards=cards), runs.open_run(run, device=device)
    console.print(str(of_pages(opened.classifiers[0], opened.task(source), len(opened.scores), settings)))
    page = runs.explore(opened, source=source, settings=settings)
    console.print(f"Written: {page.save(out or run / 'explorer.html')}")


@app.command()
def reproduce(
    tasks: Annotated[str, typer.Option(help="Names, comma-separated.")] = "movies,restaurants,products",
    model: Annotated[str, typer.Option(help='"bundled", a hub id, or a folder.')] = "bundled",
    source: Annotated[Path | None, typer.Option(help="Folder with the tasks' files.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Prompts to tune for each task.")] = 3,
    findings: Annotated[str | None, typer.Option(help="Only these, comma-separated.")] = None,
    n_prompt: NPrompt = 16,
    steps: Steps = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    rows: Rows = None,
    words: Words = None,
    sweep_rows: Annotated[int, typer.Option(min=8, help="Most test rows in a sweep.")] = 250,
    kinds: Kinds = "mean,resample,zero,gaussian",
    fractions: Fractions = "0.03,0.1,0.3",
    n_random: NRandom = 10,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("runs/reproduce"),
    device: Device = "cpu",
    dtype: Dtype = "float32",
    tune_dtype: TuneDtype = None,
    jobs: Jobs = 1,
    slurm: Slurm = None,
) -> None:
    """Measure each of the paper's findings on several tasks: one table and one figure for each.

    Resumable by task and seed: run again, it goes on where it stopped.
    """
    quiet_libraries()
    from skillneurons import runs
    from skillneurons.runs._summary import summary
    from skillneurons.tasks._load_task import load_task

    loaded = [load_task(name, source=source) for name in tasks.split(",")]
    if rows is not None:
        loaded = [task.subset(rows) for task in loaded]
    if words is not None:
        loaded = [task.shortened(words) for task in loaded]
    settings = runs.ReproduceSettings(
        n_prompt=n_prompt,
        tuning=_tuning(steps, lr, batch_size, tune_dtype),
        n_rows=sweep_rows,
        kinds=tuple(kinds.split(",")),  # type: ignore[arg-type]
        fractions=_numbers(fractions),
        n_random=n_random,
    )
    with progress_bars() as bars:
        tables = runs.reproduce(
            loaded,
            model=model,
            seeds=seeds,
            out=out,
            settings=settings,
            findings=findings.split(",") if findings else None,
            on_event=console.print,
            progress=bar_updater(bars),
            device=device,
            dtype=dtype,
            jobs=jobs,
            executor=_executor(out, slurm, jobs),
        )
    print_summary(summary(tables))
    console.print(f"Tables and figures: {out}")


@app.command()
def prune(
    run: Annotated[Path, typer.Argument(help="A folder that `skillneurons find` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruned model and its prompt.")],
    fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of each layer's neurons to keep.")] = 0.02,
    layers: Annotated[str | None, typer.Option(help="Layers to prune, comma-separated; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Which of the run's prompts.")] = 0,
    source: Annotated[Path | None, typer.Option(help="Folder with the task's files, if the run had one.")] = None,
    n_random: Annotated[int, typer.Option(min=0, help="Random sets of as many neurons to compare with.")] = 10,
    device: Device = "cpu",
) -> None:
    """Keep a run's skill neurons only, fold the mean of the others into the biases, and save the smaller model."""
    quiet_libraries()
    from skillneurons import prune as prune_classifier
    from skillneurons.applications._pruning_controls import pruning_controls
    from skillneurons.applications.pruning import n_parameters
    from skillneurons.models.bridge import as_encoder
    from skillneurons.runs._open_run import open_run

    if out.resolve() == run.resolve() or run.resolve() in out.resolve().parents:
        raise ValueError(f"`--out` needs a folder outside the run's, which stays as it is, but is {out} in {run}.")
    opened = open_run(run, device=device)
    classifier, scores, rows = opened.classifier(seed), opened.binary_scores(), opened.task(source).test
    n_layers = opened.model.cfg.n_layers
    chosen = [int(layer) for layer in layers.split(",")] if layers else list(range(n_layers))
    baseline = scores.baseline[scores.seeds.index(seed)]
    keep = scores.top(fraction)
    pruned = prune_classifier(classifier, keep, baseline, layers=chosen)
    pruned.model.save(out / "model")
    pruned.save(out / "classifier")
    kept = n_parameters(as_encoder(pruned.model, "Pruning")) / n_parameters(as_encoder(opened.model, "Pruning"))
    console.print(f"{kept:.1%} of the parameters kept, in {out}")
    compared = pruning_controls(classifier, keep, baseline, rows, layers=chosen, n_random=n_random)
    compared.save(out / "controls")
    console.print(str(compared))


@app.command()
def perturb(
    run: Annotated[Path, typer.Argument(help="A folder that `skillneurons find` wrote.")],
    kinds: Annotated[str | None, typer.Option(help="Interventions, comma-separated; the run's by default.")] = None,
    positions: Annotated[str | None, typer.Option(help="Where to intervene; as the run did by default.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Shares of neurons; the run's by default.")] = None,
    n_random: Annotated[int | None, typer.Option(min=1, help="Random sets; as many as the run by default.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Of Gaussian noise; the run's by default.")] = None,
    rows: Annotated[int | None, typer.Option(min=8, help="Most test rows; as many as the run by default.")] = None,
    seed: Annotated[
        str | None, typer.Option(help="Which of the run's prompts, comma-separated; all by default.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Where the task's rows are now, if they were moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for curves and figures; RUN/perturb by default.")] = None,
    device: Device = "cpu",
) -> None:
    """Perturb the skill neurons of a finished run's prompts: as the run did, or in other ways, places and shares."""
    quiet_libraries()
    from skillneurons.runs import open_run
    from skillneurons.runs.finished_runs._perturb import perturb_run, perturbing

    opened = open_run(run, device=device)
    asked = {
        "kinds": kinds and tuple(kinds.split(",")),
        "positions": positions,
        "fractions": fractions and _numbers(fractions),
        "n_random": n_random,
        "sigma": sigma,
        "n_perturb_rows": rows,
        "seeds": seed and tuple(int(one) for one in seed.split(",")),
    }
    if left := str(perturbing(opened, out, source=source, **asked)):
        console.print(left)
    with progress_bars() as bars:
        found = perturb_run(opened, out, source=source, progress=bar_updater(bars), **asked)
    for curves in zip(*found.curves.values(), strict=True):
        print_curves(dict(zip(found.curves, curves, strict=True)))
    print_over_seeds(found.over_seeds)
    console.print(f"Curves and figures: {found.folder}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `skillneurons find` wrote, on one model.")],
    fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of neurons in the compared sets.")] = 0.02,
    draws: Annotated[int, typer.Option(min=19, help="Shuffles of the labels, and resamples of the rows.")] = 199,
    source: Annotated[Path | None, typer.Option(help="Folder with the tasks' files, if the runs had one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table and figure; compare-RUN1-RUN2 by default.")] = None,
    device: Device = "cpu",
) -> None:
    """Do two or more runs rely on the same neurons? Rank correlation and overlap of top sets, against chance."""
    quiet_libraries()
    from skillneurons.plots import plot_run_comparison, save_figure
    from skillneurons.runs import compare_runs, open_run
    from skillneurons.runs.finished_runs._compare import check_comparable
    from skillneurons.runs.progress import of_comparison

    check_comparable(runs)
    first = open_run(runs[0], device=device)
    console.print(str(of_comparison(first.scores, first.classifiers[0], first.task(source), len(runs), draws)))
    with progress_bars() as bars:
        result = compare_runs(
            [first, *runs[1:]],
            fraction=fraction,
            n_draws=draws,
            source=source,
            device=device,
            progress=bar_updater(bars),
        )
    folder = out or Path(f"compare-{'-'.join(Path(run).name for run in result.runs)}")
    result.save(folder / "comparison")
    result.to_dataframe().to_csv(folder / "comparison.csv", index=False)
    save_figure(plot_run_comparison(result), folder / "comparison")
    for runs_of_pair, table in result.in_short().groupby("runs", sort=False):
        print_table(
            f"{runs_of_pair}: rank correlation, and overlap of the top {100 * fraction:.3g} %, with 95 % "
            "intervals; beside each what 95 of 100 shuffles of the labels stay below",
            tuple(table.columns[1:]),
            [tuple(map(str, row)) for row in table.iloc[:, 1:].itertuples(index=False)],
        )
    console.print(f"Table and figure: {folder}/comparison.csv, {folder}/comparison.svg")


@app.command()
def share(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    repo: Annotated[str, typer.Argument(help="Data set repository on the hub: USER/NAME.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Of a new repository; private otherwise.")] = False,
) -> None:
    """Upload a finished run, and nothing else in its folder, to the Hugging Face hub."""
    from skillneurons.runs.hub import push_run

    files = push_run(run, repo, dry_run=dry_run, private=not public)
    sizes = [(name, f"{size:,}") for name, size in files.sizes.items()]
    print_table(f"{len(sizes)} files for {repo}", ("file", "bytes"), [*sizes, ("all", f"{files.n_bytes:,}")])
    if files.left_out:
        console.print(f"Left out: {', '.join(files.left_out)}")
    console.print("Nothing was sent." if dry_run else f"Uploaded: {files.url}")


@app.command()
def fetch(
    repo: Annotated[str, typer.Argument(help="Data set repository on the hub: USER/NAME.")],
    out: Annotated[Path, typer.Option(help="A new folder for the run.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download a run that `share` uploaded, and check it."""
    from skillneurons.runs.hub import pull_run

    console.print(f"Downloaded: {pull_run(repo, out, revision=revision)}")


def _default_folder(model: str, fingerprint: str, task: str) -> Path:
    """`runs/MODEL-TASK`; a folder's name tells no models apart, so that some digits of the weights' digest go along."""
    name = f"{Path(model).resolve().name}-{fingerprint[:6]}" if Path(model).is_dir() else Path(model).name
    return Path("runs") / f"{name}-{task.replace('/', '-')}"


def _tuning(steps: int | None, lr: float | None, batch_size: int | None, tune_dtype: str | None) -> Any:
    from skillneurons.classifiers.tuning import TuningConfig

    asked = {"steps": steps, "lr": lr, "batch_size": batch_size, "tune_dtype": tune_dtype}
    return TuningConfig(**{key: value for key, value in asked.items() if value is not None})


def _columns(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _words(text: str) -> list[str] | dict[str, str]:
    """`terrible,great`, or `neg=terrible,pos=great`."""
    parts = [part.strip() for part in text.split(",")]
    if not any("=" in part for part in parts):
        return parts
    halves = [part.rpartition("=") for part in parts]
    pairs = [(label.strip(), word.strip()) for label, _, word in halves]
    labels = [label for label, _ in pairs]
    if not all(label and word for label, word in pairs) or len(set(labels)) < len(labels):
        raise ValueError(f"`--label-words` needs one CLASS=WORD for each class, comma-separated, but is {text!r}.")
    return dict(pairs)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _executor(folder: Path, slurm: str | None, jobs: int) -> Any:
    from skillneurons.runs.jobs import slurm_executor

    return None if slurm is None else slurm_executor(folder / "slurm", slurm, n_at_once=jobs if jobs > 1 else None)


if __name__ == "__main__":
    app()
