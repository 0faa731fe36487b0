"""Figures of what skill neurons are good for: pruning, transfer, steering."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from skillneurons.applications._pruning_report import PruningReport
from skillneurons.applications.indicators import IndicatorTest
from skillneurons.applications.steering import SteeringCurve
from skillneurons.applications.transfer import TransferMatrix, WarmStart
from skillneurons.plots.style import COLOURS, RANDOM, REFERENCE, SEQUENTIAL, SKILL, axes_or_new, styled
from skillneurons.utilities.arguments import checked

MARKERS = "sD^vP"


@checked
@styled
def plot_pruning(
    report: PruningReport, *, when: Literal["pruned", "retuned"] | None = None, ax: Axes | None = None
) -> Axes:
    """Accuracy against the share of neurons kept, for each way to choose them.

    Args:
        report: From `pruning_report`.
        when: Right after pruning, or after the prompt was tuned again; by default the latter where the report has it.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons import plot_pruning, pruning_report
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> report = pruning_report(classifier, task, scores, fractions=(0.3,), n_random=2)
        >>> ax = plot_pruning(report)
        >>> ax.get_title(loc="left"), ax.get_ylabel()
        ('movies, right after pruning', 'accuracy on 32 test rows')
    """
    has_retuned = not bool(report.retuned.isnan().all())
    when = when or ("retuned" if has_retuned else "pruned")
    if when not in ("pruned", "retuned") or (when == "retuned" and not has_retuned):
        raise ValueError(f"`when` is 'pruned', or 'retuned' where the report was made with `retune`, not {when!r}.")
    ax = axes_or_new(ax)
    table = report.to_dataframe()
    x = np.arange(len(report.fractions))
    colours = iter(COLOURS)
    markers = iter(MARKERS * len(report.sets))
    for choice in dict.fromkeys(report.sets):
        values = table[table.choice == choice].pivot(index="draw", columns="kept", values=when)[list(report.fractions)]
        mean = values.mean(axis=0).to_numpy()
        if choice == "random":
            low, high = values.min(axis=0).to_numpy(), values.max(axis=0).to_numpy()
            ax.fill_between(x, low, high, color=RANDOM, alpha=0.3, linewidth=0)
            ax.plot(x, mean, color=RANDOM, linestyle="--", label=f"random, {len(values)} sets (mean, range)")
        elif choice == "skill":
            rows = table[table.choice == choice]
            errors = np.abs(np.asarray(rows[[f"{when}_low", f"{when}_high"]]).T - mean)
            ax.errorbar(
                x, mean, errors, color=SKILL, marker="o", markersize=4, capsize=2, label="skill (95 % interval)"
            )
        else:
            ax.plot(x, mean, color=next(colours), marker=next(markers), markersize=3.5, label=choice)
    ax.axhline(report.before.accuracy, color=REFERENCE, linewidth=0.8, linestyle=":", label="before pruning")
    if report.nothing is not None:
        without = report.nothing.accuracy if when == "pruned" else report.nothing_retuned
        ax.axhline(without, color=REFERENCE, linewidth=0.8, linestyle="--", label="nothing kept")
    if float(np.nanmin(table[when])) < report.before.majority + 0.05:
        ax.axhline(report.before.majority, color=REFERENCE, linewidth=0.8, linestyle="-.", label="majority class")
    ticks = [
        f"{100 * kept:g}\n({100 * share:.0f})"
        for kept, share in zip(report.fractions, report.parameter_share.tolist(), strict=True)
    ]
    layers = report.meta["layers"]
    ax.set_xticks(x, ticks)
    ax.set(
        xlabel=f"neurons kept in layers {layers[0]} to {layers[-1]}, %\n(weights kept in the whole model, %)",
        ylabel=f"accuracy on {report.before.n} test rows",
        title=f"{report.meta['task']}, " + ("right after pruning" if when == "pruned" else "prompt tuned again"),
    )
    ax.legend()
    return ax


@checked
@styled
def plot_steering(
    curve: SteeringCurve, *, quantity: Literal["flips", "shift"] = "flips", ax: Axes | None = None
) -> Axes:
    """Flip rate (or rise of the label's logit) against steering strength, with the band of random sets.

    Args:
        curve: From `steering_curve`.
        quantity: `"flips"`: answers that turn to the label right of 0, and away from it left of 0; or `"shift"`.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons import plot_steering, steering_curve
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> curve = steering_curve(
        ...     classifier, task, skill, "positive", strengths=(-4.0, 4.0), n_random=2
        ... )
        >>> ax = plot_steering(curve)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['2 random sets (mean, range)', 'skill neurons']
    """
    if quantity not in ("flips", "shift"):
        raise ValueError(f"`quantity` is 'flips' or 'shift', not {quantity!r}.")
    ax = axes_or_new(ax)
    flips = quantity == "flips"
    table = curve.to_dataframe().sort_values("strength")
    name = "flips" if flips else "shift"
    x = np.asarray(table["strength"])
    # Flips to the label and away from it are different things: no line joins them.
    parts = [x < 0, x > 0] if flips else [np.full(len(x), True)]
    for i, part in enumerate(parts):
        rows, draws = table[part], len(curve.random)
        labels = [f"{draws} random sets (mean, range)", "skill neurons"] if i == 0 else [None, None]
        ax.fill_between(
            x[part], rows[f"random_{name}_low"], rows[f"random_{name}_high"], color=RANDOM, alpha=0.3, linewidth=0
        )
        ax.plot(x[part], rows[f"random_{name}"], color=RANDOM, linestyle="--", label=labels[0])
        skill = np.asarray(rows[f"skill_{name}"])
        errors = [skill - rows.low, rows.high - skill] if flips else None
        ax.errorbar(x[part], skill, errors, color=SKILL, marker="o", markersize=3.5, capsize=2, label=labels[1])
    ax.axvline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
    if flips:
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(f"← away from {curve.label!r} ({curve.n_label} answers), towards it ({curve.n_other} answers) →")
    else:
        ax.axhline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
        ax.set_title(f"{curve.meta['n_neurons']} neurons at {curve.meta['positions'].replace('_', ' ')} positions")
    ax.set(
        xlabel="strength (mean differences between the classes)",
        ylabel="answers that flip" if flips else f"rise of the logit of {curve.label!r} over the others",
    )
    ax.legend()
    return ax


@checked
@styled
def plot_transfer(
    transfer: TransferMatrix, *, quantity: Literal["relative", "accuracy"] = "relative", ax: Axes | None = None
) -> Axes:
    """Zero-shot transfer of each task's prompt (row) to each task (column), mean over seeds; crossed if undefined.

    Example:
        >>> from skillneurons import load_example, plot_transfer, transfer_matrix
        >>> examples = [load_example("movies"), load_example("products")]
        >>> classifiers = {task.name: [classifier] for classifier, task in examples}
        >>> ax = plot_transfer(transfer_matrix(classifiers, [task for _, task in examples]))
        >>> ax.texts[1].get_text()  # two classes cannot answer three
        '×'
    """
    if quantity not in ("relative", "accuracy"):
        raise ValueError(f"`quantity` is 'relative' or 'accuracy', not {quantity!r}.")
    ax = axes_or_new(ax)
    values = getattr(transfer, quantity).mean(dim=2).numpy()
    top = max(1.0, float(np.nanmax(values)))
    image = ax.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=top)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            dark = np.isnan(value) or float(value) > 0.6 * top
            text = "×" if np.isnan(value) else f"{value:.2f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color="black" if dark else "white")
    names = [name.replace("_", " ") for name in transfer.tasks]
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    label = "accuracy, share of the own prompt's" if quantity == "relative" else "accuracy on test"
    ax.figure.colorbar(image, ax=ax, label=label).outline.set_visible(False)
    n = transfer.accuracy.shape[2]
    ax.set(ylabel="prompt tuned on", xlabel="used on", title=f"Mean of {n} seed{'s' if n > 1 else ''}")
    return ax


@checked
@styled
def plot_indicators(test: IndicatorTest, *, ax: Axes | None = None) -> Axes:
    """Rank correlation of each indicator with transfer, with its bootstrap interval and p-value.

    Example:
        >>> from skillneurons import find_skill_neurons, indicator_test, load_example
        >>> from skillneurons import plots, transfer_indicators, transfer_matrix
        >>> loaded = [load_example(name) for name in ("movies", "restaurants", "products")]
        >>> tuned = {task.name: [classifier] for classifier, task in loaded}
        >>> skill = {
        ...     task.name: find_skill_neurons(
        ...         classifier, task.binary("negative", "positive")
        ...     ).top(0.05)
        ...     for classifier, task in loaded
        ... }
        >>> moved = transfer_matrix(tuned, [task for _, task in loaded])
        >>> test = indicator_test(moved, transfer_indicators(tuned, skill), n_bootstrap=99)
        >>> ax = plots.plot_indicators(test)
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['shared skill neurons', 'activated skill neurons', 'activated neurons', 'Euclidean', 'cosine']
    """
    ax = axes_or_new(ax)
    n_seeds = test.meta["n_seeds"]
    table = test.to_dataframe().iloc[::-1]
    y = np.arange(len(table))
    centre, low, high = (np.asarray(table[name]) for name in ("correlation", "low", "high"))
    ax.hlines(y, low, high, color=REFERENCE, linewidth=1)
    colours = [SKILL if "skill" in name else COLOURS[0] for name in table["indicator"]]
    ax.scatter(centre, y, c=colours, s=26, zorder=3)
    for at, (value, p) in enumerate(zip(centre, table["p_value"], strict=True)):
        ax.annotate(f"{value:.2f} (p = {p:.3f})", (1.02, at), va="center", fontsize=8, annotation_clip=False)
    ax.axvline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
    ax.set_yticks(y, list(table["indicator"]))
    ax.set(
        xlim=(-1, 1),
        ylim=(-0.6, len(y) - 0.4),
        xlabel=f"Spearman correlation with transfer\n(95 % bootstrap over {len(test.tasks)} tasks and seeds)",
        title=f"{test.meta['n_pairs']} pairs of tasks, {n_seeds} seed{'s' if n_seeds > 1 else ''}",
    )
    return ax


@checked
@styled
def plot_warm_start(result: WarmStart, *, ax: Axes | None = None) -> Axes:
    """Validation accuracy while tuning from other tasks' prompts and from random ones: means over seeds, and range.

    Example:
        >>> from skillneurons import TuningConfig, load_example, plots, warm_start
        >>> (_, task), (source, _) = load_example("movies"), load_example("restaurants")
        >>> config = TuningConfig(steps=2, eval_every=2)
        >>> curves = warm_start({"restaurants": [source]}, task, level=0.8, config=config)
        >>> ax = plots.plot_warm_start(curves)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['random start', 'restaurants', 'level to reach']
    """
    ax = axes_or_new(ax)
    colours, markers = iter(COLOURS), iter(MARKERS * len(result.sources))
    # A tuning that stopped early keeps the best accuracy it had reached.
    best = result.accuracy.nan_to_num(-1).cummax(dim=2).values.numpy()
    for source, curves in zip(result.sources, best, strict=True):
        plain = source == result.sources[0]
        colour = RANDOM if plain else next(colours)
        ax.fill_between(result.steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
        line = ax.plot(result.steps, curves.mean(0), color=colour, label=source.replace("_", " "), markersize=3)[0]
        line.set(linestyle="--") if plain else line.set(marker=next(markers))
    ax.axhline(result.level, color=REFERENCE, linewidth=0.8, linestyle=":", label="level to reach")
    n = result.accuracy.shape[1]
    ax.set(
        xlabel="steps",
        ylabel="best validation accuracy so far",
        title=f"{result.meta['task']}, tuned from, {n} seed{'s' if n > 1 else ''}",
    )
    ax.legend()
    return ax
