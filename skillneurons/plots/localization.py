"""Figures of a localization: the shares it measured beside what chance gives, and who writes for whom."""

import numpy as np
from matplotlib.axes import Axes

from skillneurons.findings.localization_parts.told import Localization
from skillneurons.plots.style import DIVERGING, RANDOM, REFERENCE, SKILL, axes_or_new, styled
from skillneurons.utilities.arguments import checked

DRAWN = (
    "accuracy of the first neuron",
    "share with a double",
    "median |r| with the double",
    "Jaccard",
    "overlap",
    "accuracy of the best neuron, without",
    "accuracy of a linear probe, without",
    "accuracy without the chosen",
    "accuracy with the chosen only",
    "variance",
    "accuracy of the best neuron beyond",
    "share taken",
)
"""How measures begin that are drawn; they lie between 0 and 1."""
GAP = 0.5
"""Between questions, in lines."""


@checked
@styled
def plot_localization(result: Localization, *, ax: Axes | None = None) -> Axes:
    """The shares and accuracies of a localization, beside what chance gives and where a study draws its lines.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, plots
        >>> from skillneurons.findings import localization
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> found = localization(classifier, task, scores, n_bootstrap=5, n_shuffles=2, questions=())
        >>> plots.plot_localization(found).get_xlabel()
        'share (32 test rows)'
    """
    rows = [row for row in result.rows if row.measure.startswith(DRAWN)]
    changes = [i > 0 and row.question != rows[i - 1].question for i, row in enumerate(rows)]
    places = np.arange(len(rows)) + GAP * np.cumsum(changes)
    ax = axes_or_new(ax, (6.4, 1.3 + 0.2 * places[-1]))
    value, chance, line = (np.array([getattr(row, name) for row in rows]) for name in ("value", "chance", "convention"))
    ends = np.array([[row.value - row.low, row.high - row.value] for row in rows]).T
    ax.errorbar(value, places, xerr=np.nan_to_num(ends), fmt="none", ecolor=SKILL, linewidth=1)
    ax.plot(value, places, "o", color=SKILL, markersize=4.5, label="measured")
    ax.plot(chance, places, "|", color=RANDOM, markersize=9, markeredgewidth=2, label="chance")
    ax.plot(line, places, "d", color=REFERENCE, markersize=4, fillstyle="none", label="convention")
    ax.set_yticks(places, [row.measure for row in rows])
    ax.set(xlim=(0, 1), ylim=(places[-1] + 0.7, -0.7), xlabel=f"share ({result.meta['n_test']:,} test rows)")
    ax.set_title(f"{result.meta['task']}, {int(result.chosen.sum()):,} neurons: {', '.join(result.names)}", loc="right")
    ax.grid(axis="x", linewidth=0.4, alpha=0.5)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="upper right", bbox_to_anchor=(-0.03, 0.0), ncols=1, borderaxespad=0.0)
    return ax


@checked
@styled
def plot_writers(result: Localization, *, ax: Axes | None = None) -> Axes:
    """What each layer knows less where the chosen neurons of another are held at their mean, beyond random neurons.

    Raises:
        ValueError: It was not asked who writes.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, plots
        >>> from skillneurons.findings import localization
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> few = {"n_bootstrap": 5, "n_shuffles": 2, "n_random_layers": 2, "questions": ["writers"]}
        >>> plots.plot_writers(localization(classifier, task, scores, **few)).get_ylabel()
        'layer held at its mean'
    """
    if result.writers is None:
        raise ValueError(
            "It needs to be known who writes, but `result` was not asked. Leave 'writers' among the `questions`."
        )
    ax = axes_or_new(ax, (4.8, 3.8))
    table = (result.writers.after - result.writers.random).numpy()
    largest = max(float(np.nanmax(np.abs(table))) if np.isfinite(table).any() else 0.0, 0.05)
    image = ax.imshow(table, cmap=DIVERGING, vmin=-largest, vmax=largest)
    for held, read in np.argwhere(np.isfinite(table)):
        strong = abs(table[held, read]) > 0.6 * largest
        text = f"{round(float(table[held, read]), 2) + 0.0:+.2f}".replace("0.", ".", 1).replace("+.00", ".00")
        if len(table) <= 12:
            ax.text(read, held, text, ha="center", va="center", fontsize=7, color="white" if strong else "black")
    writing = {*result.writers.writing}
    ticks = range(len(table))
    ax.set_xticks(ticks)
    ax.set_yticks(ticks, [f"{layer} writes" if layer in writing else str(layer) for layer in ticks])
    ax.set(xlabel="layer read", ylabel="layer held at its mean")
    ax.set_title(
        f"{result.meta['task']}: accuracy of the layer's chosen neurons,\nchosen ones held less random ones held"
    )
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.set_label("accuracy, difference")
    return ax
