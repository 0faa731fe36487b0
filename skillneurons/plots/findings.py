"""Figures of the findings that measure: existence, stability, prompts, similarity, words, origin, robustness."""

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from skillneurons.findings.existence import Existence
from skillneurons.findings.origin import Origin
from skillneurons.findings.prompts import PromptComparison
from skillneurons.findings.robustness import Robustness
from skillneurons.findings.several_classes import SeveralClasses
from skillneurons.findings.specificity import TaskSimilarity
from skillneurons.findings.stability import Stability
from skillneurons.findings.words import WordSelectivity
from skillneurons.plots.style import (
    COLOURS,
    DIVERGING,
    PATTERNS,
    RANDOM,
    REFERENCE,
    SKILL,
    axes_or_new,
    legend_below,
    styled,
)
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import Library


@checked
@styled
def plot_existence(result: Existence, *, ax: Axes | None = None) -> Axes:
    """The best neuron's held-out accuracy beside prompt tuning and a probe of all neurons, for each seed (F1).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> found = findings.existence([classifier], task, scores, n_permutations=2)
        >>> ax = plots.plot_existence(found)
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['tuned prompt', 'probe of all neurons', 'best neuron']
    """
    ax = axes_or_new(ax)
    table = result.to_dataframe()
    names = {"prompt_accuracy": "tuned prompt", "probe_accuracy": "probe of all neurons", "held_out": "best neuron"}
    names = {column: name for column, name in names.items() if bool(table[column].notna().to_numpy().all())}
    for place, (column, name) in enumerate(names.items()):
        colour = SKILL if column == "held_out" else COLOURS[place]
        ax.bar(place, table[column].mean(), color=colour, width=0.6, alpha=0.55, label=name)
        offsets = np.linspace(-0.15, 0.15, len(table)) if len(table) > 1 else np.zeros(1)
        errors = None
        if column == "held_out":
            errors = np.stack([table[column] - table["held_out_low"], table["held_out_high"] - table[column]])
        ax.errorbar(place + offsets, table[column], yerr=errors, fmt="o", color=REFERENCE, markersize=3, linewidth=0.8)
    ax.axhline(result.meta["majority"], color=REFERENCE, linewidth=0.8, linestyle="-.", label="majority class")
    ax.set_xticks(range(len(names)), list(names.values()))
    ax.set(
        ylabel=f"accuracy on {result.meta['n_test']:,} test rows",
        ylim=(0, 1.03),
        title=f"{result.meta['task']}: points are {_seeds(len(result.seeds))}, with 95 % intervals for neurons",
    )
    ax.legend(handles=[ax.lines[-1]], loc="upper right")
    return ax


@checked
@styled
def plot_existence_null(result: Existence, *, ax: Axes | None = None) -> Axes:
    """Predictivities of all neurons on validation, and the same under shuffled labels (F1).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> found = findings.existence([classifier], task, scores, probe=False)
        >>> ax = plots.plot_existence_null(found)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['labels shuffled', 'seed 0', '95 % of best neurons by chance lie below']
    """
    ax = axes_or_new(ax)
    observed, null = result.predictivity.flatten().numpy(), result.null.flatten().numpy()
    bins = np.linspace(0.5, max(observed.max(), result.null_max.max().item()) + 0.01, 60)
    ax.hist(null, bins, color=RANDOM, alpha=0.5, label="labels shuffled")
    ax.hist(observed, bins, color=SKILL, histtype="step", linewidth=1.5, label=f"seed {result.seeds[0]}")
    bar = result.bar
    ax.axvline(bar, color=REFERENCE, linestyle=":", linewidth=1, label="95 % of best neurons by chance lie below")
    ax.set(
        xlabel=f"predictivity on {result.meta['n_validation']:,} validation rows",
        ylabel="neurons",
        yscale="log",
        title=f"{result.meta['task']}, {len(observed):,} neurons",
    )
    legend_below(ax)
    return ax


@checked
@styled
def plot_stability(result: Stability, *, ax: Axes | None = None) -> Axes:
    """Overlap of top neurons between every two seeds, with the overlap by chance (F2).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> (first, task), (second, _) = load_example(), load_example(seed=1)
        >>> scores = find_skill_neurons([first, second], task)
        >>> ax = plots.plot_stability(findings.stability(scores, fraction=0.05))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['rank correlation, all neurons', 'top 5 %', 'by chance (random sets)']
    """
    ax = axes_or_new(ax)
    table = result.to_dataframe()
    places = np.arange(len(table))
    ax.bar(places - 0.2, table["overlap"], width=0.38, color=SKILL, label=f"top {100 * result.meta['fraction']:.3g} %")
    ax.bar(
        places + 0.2,
        table["expected_overlap"],
        width=0.38,
        color=RANDOM,
        label=f"by chance ({table['chance'].iloc[0]})",
    )
    ax.plot(places, table["correlation"], "D", color=COLOURS[0], markersize=4, label="rank correlation, all neurons")
    ax.set_xticks(places, [f"{a}, {b}" for a, b in zip(table["seed"], table["other_seed"], strict=True)])
    low = min(0.0, table["correlation"].min() - 0.05)
    ax.set(xlabel="two seeds", ylabel="share of neurons in common", ylim=(low, 1.03), title=f"{result.meta['task']}")
    legend_below(ax)
    return ax


@checked
@styled
def plot_places(result: PromptComparison, *, ax: Axes | None = None) -> Axes:
    """Held-out accuracy of the best and of the top neurons, read at each place (F3).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> ax = plots.plot_places(findings.compare_places(classifier, task, scores=scores))
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['soft prompt, best position', 'soft prompt, mean', 'mask', 'words, mean', 'words, maximum']
    """
    table = result.to_dataframe()
    title = f"{result.meta['task']}, {_seeds(len(result.meta['seeds']), 'mean of ')}"
    return _dots(table, "place", result.fraction, title, axes_or_new(ax))


@checked
@styled
def plot_origin(result: Origin, *, ax: Axes | None = None) -> Axes:
    """Held-out accuracy of the best and of the top neurons under each condition (F7).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> names = ["tuned prompt", "random prompt"]
        >>> found = findings.origin([classifier], task, scores=scores, conditions=names)
        >>> ax = plots.plot_origin(found)
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['tuned prompt', 'random prompt']
    """
    ax = axes_or_new(ax)
    title = f"{result.meta['task']}, {_seeds(len(result.meta['seeds']), 'mean of ')}"
    ax = _dots(result.to_dataframe(), "condition", result.fraction, title, ax)
    ax.axvline(result.majority, color=REFERENCE, linewidth=0.8, linestyle="-.", label="majority class")
    legend_below(ax)
    return ax


def _dots(table: pd.DataFrame, column: str, fraction: float, title: str, ax: Axes) -> Axes:
    """One line for each row: best neuron on validation (open) and held out (filled), top neurons held out."""
    places = np.arange(len(table))[::-1]
    ax.hlines(places, table["best_held_out"], table["best_validation"], color=SKILL, linewidth=0.8)
    ax.plot(
        table["best_validation"], places, "o", color=SKILL, markerfacecolor="white", label="best neuron, on validation"
    )
    ends = abs(table[["best_held_out_low", "best_held_out_high"]].sub(table["best_held_out"], axis=0)).to_numpy().T
    label = "best neuron, held out (95 % interval)"
    ax.errorbar(table["best_held_out"], places, xerr=ends, fmt="o", color=SKILL, elinewidth=2.2, alpha=0.9, label=label)
    ax.plot(
        table["top_held_out"],
        places,
        "s",
        color=COLOURS[0],
        markersize=4,
        label=f"top {100 * fraction:.3g} %, held out",
    )
    ax.set_yticks(places, table[column])
    ax.set(xlabel="accuracy", title=title, ylim=(-0.6, len(table) - 0.4))
    legend_below(ax)
    return ax


@checked
@styled
def plot_task_similarity(result: TaskSimilarity, *, layer: int | None = None, ax: Axes | None = None) -> Axes:
    """Rank correlation of predictivities between tasks, similar tasks side by side (F5).

    Args:
        result: From `task_similarity`.
        layer: One layer only; all by default.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> examples = [load_example("movies"), load_example("restaurants")]
        >>> scores = {task.name: find_skill_neurons(one, task) for one, task in examples}
        >>> ax = plots.plot_task_similarity(findings.task_similarity(scores))
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['movies', 'restaurants']
    """
    ax = axes_or_new(ax, figsize=_square(len(result.tasks)))
    values = result.correlation if layer is None else result.layer_correlation[layer]
    order = result.order
    names = [result.tasks[i] for i in order]
    where = "all layers" if layer is None else f"layer {layer}"
    title = f"{where}, {_seeds(result.meta['seeds'], 'mean of ')} for each task"
    return matrix(values[order][:, order], names, names, "Spearman correlation", title, ax, limit=1.0)


@checked
@styled
def plot_several_classes(result: SeveralClasses, *, ax: Axes | None = None) -> Axes:
    """How many neurons of each layer serve each subtask best.

    Example:
        >>> from skillneurons import findings, load_example, plots
        >>> classifier, task = load_example("news")
        >>> ax = plots.plot_several_classes(findings.several_classes(classifier, task))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['sports vs rest', 'business vs rest', 'science vs rest', 'politics vs rest']
    """
    ax = axes_or_new(ax)
    table, n_layers = result.to_dataframe(), result.member.shape[1]
    bottom = np.zeros(n_layers)
    for i, name in enumerate(result.subtasks):
        n = np.bincount(table.loc[table["serves"] == name, "layer"], minlength=n_layers)
        # With more subtasks than colours, patterns tell them apart.
        colour, pattern = COLOURS[i % len(COLOURS)], PATTERNS[i // len(COLOURS) % len(PATTERNS)]
        bars = ax.bar(range(n_layers), n, bottom=bottom, color=colour, edgecolor="white", linewidth=0, hatch=pattern)
        bars.set_label(name.replace("-", " "))
        bottom = bottom + n
    ax.set_xticks(range(n_layers))
    ax.set(
        xlabel="layer",
        ylabel="skill neurons",
        title=f"{result.meta['task']}: subtask served best (validation), {_seeds(len(result.scores[0].seeds))}",
    )
    legend_below(ax)
    return ax


@checked
@styled
def plot_word_selectivity(result: WordSelectivity, *, ax: Axes | None = None) -> Axes:
    """Cosine of each skill neuron's input and output weights with the nearest word's embedding (F6).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> model, label_words = classifier.model, classifier.verbalizer
        >>> nearest = findings.word_selectivity(model, scores, label_words)
        >>> ax = plots.plot_word_selectivity(nearest)
        >>> ax.get_xlabel()
        "largest absolute cosine with a word's embedding"
    """
    ax = axes_or_new(ax)
    size = result.cosine[..., 0].abs().numpy()
    bins = np.linspace(0, max(0.5, size.max() + 0.02), 30).tolist()
    for values, name, colour, line in zip(size, ("input", "output"), (COLOURS[0], SKILL), ("-", "--"), strict=True):
        ax.hist(values, bins, histtype="step", color=colour, linestyle=line, label=f"{name} weights", linewidth=1.5)
    shared = result.overlap
    ax.set(
        xlabel="largest absolute cosine with a word's embedding",
        ylabel="skill neurons",
        title=f"{result.meta['task']}, {_seeds(len(result.meta['seeds']))}: overlap with label-word neurons "
        f"{shared['overlap']:.2f}, by chance {shared['expected']:.2f}",
    )
    ax.legend()
    return ax


@checked
@styled
def plot_robustness(result: Robustness, *, ax: Axes | None = None) -> Axes:
    """Accuracy of classifier and neurons on clean and on adversarial rows (F10).

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> ax = plots.plot_robustness(findings.robustness([classifier], task, scores))
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['clean (n = 32)', 'adversarial (n = 400)']
    """
    ax = axes_or_new(ax)
    table = result.to_dataframe()
    names = {"classifier_accuracy": "tuned prompt", "best_neuron": "best neuron"}
    names["skill_neurons"] = f"top {100 * result.fraction:.3g} % of neurons"
    styles = (("o", "-", COLOURS[0]), ("s", "-", SKILL), ("D", "--", COLOURS[2]))
    for (column, name), (marker, line, colour) in zip(names.items(), styles, strict=True):
        ax.plot([0, 1], table[column], marker=marker, linestyle=line, color=colour, label=name)
    ax.vlines([0, 1], table["best_neuron_low"], table["best_neuron_high"], color=SKILL, linewidth=1.2)
    majorities = [result.clean_accuracy[0].majority, result.adversarial_accuracy[0].majority]
    ax.plot([0, 1], majorities, color=REFERENCE, linewidth=0.8, linestyle=":", label="majority class")
    ax.set_xticks([0, 1], [f"{row} (n = {n:,})" for row, n in zip(table["rows"], table["n"], strict=True)])
    ax.set(
        xlim=(-0.25, 1.25),
        ylabel="accuracy",
        title=f"{result.meta['task']}, {_seeds(len(result.seeds))}: top neurons that are top ones there too:\n"
        f"{table['overlap'][1]:.2f} on adversarial rows, {table['overlap'][0]:.2f} on clean ones",
    )
    ax.legend()
    return ax


def matrix(
    values: Float[Tensor, "row column"],
    rows: list[str],
    columns: list[str],
    label: str,
    title: str,
    ax: Axes,
    *,
    limit: float | None = None,
    marks: list[list[str]] | None = None,
) -> Axes:
    """A matrix with its numbers written in the cells, colours centred on zero.

    Args:
        values: The numbers.
        rows: Names of the rows.
        columns: Names of the columns.
        label: Of the colour bar.
        title: Of the axes.
        ax: Where to draw.
        limit: Value of the strongest colour; the largest absolute value by default.
        marks: Text behind each number.
    """
    limit = limit or max(float(values[torch.isfinite(values)].abs().max()), 1e-6)
    image = ax.imshow(values.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    digits = max(2, 1 - math.floor(math.log10(limit)))  # two that tell of the largest
    for i in range(len(rows)):
        for j in range(len(columns)):
            value = float(values[i, j])
            text = f"{value:.{digits}f}{marks[i][j] if marks else ''}"
            colour = "white" if abs(value) > 0.7 * limit else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    # Inside the axes' own frame: square cells may leave much of the room for the axes empty.
    bar: Library = ax.figure.colorbar(image, cax=ax.inset_axes((1.05, 0.1, 0.05, 0.8)), label=label)
    bar.outline.set_visible(False)
    return ax


def _square(n: int) -> tuple[float, float]:
    return 2.4 + 0.55 * n, 1.7 + 0.5 * n


def _seeds(n: int, before: str = "") -> str:
    return f"{before}{n} seeds" if n > 1 else "1 seed"
