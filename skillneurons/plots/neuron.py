"""Figures of one neuron: its card, and its activation over the words of texts."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from skillneurons.applications.one_neuron import NeuronCard
from skillneurons.applications.text_heat import HEAT, TextHeat
from skillneurons.plots.find import plot_activation_histogram
from skillneurons.plots.style import COLOURS, LABEL_COLOURS, RANDOM, REFERENCE, SKILL, axes_or_new, styled
from skillneurons.utilities.arguments import checked

HEAT_MAP = LinearSegmentedColormap.from_list("heat", ["white", tuple(part / 255 for part in HEAT)])
# Width of a character of a monospaced font, in units of the font size: DejaVu Sans Mono, and nearly all others.
CHARACTER = 0.602


@checked
@styled
def plot_neuron_card(card: NeuronCard, *, n_examples: int = 5) -> Figure:
    """One neuron on one page: activation by class, accuracy by position, ablation, examples, nearest words.

    Args:
        card: From `neuron_card`.
        n_examples: Texts of highest and of lowest activation.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, neuron_card, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> card = neuron_card(classifier, task, scores, (3, 287), n_random=2)
        >>> figure = plots.plot_neuron_card(card, n_examples=2)
        >>> figure.get_suptitle()
        'movies: layer 3, neuron 287, prompt of seed 0'
    """
    n_examples = min(n_examples, len(card.texts) // 2)
    figure = plt.figure(figsize=(9.6, 3.2 + 0.36 * n_examples), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[2.4, 0.5 + 0.36 * n_examples])
    above = grid[0].subgridspec(1, 3, width_ratios=[1.15, 1, 1])
    below = grid[1].subgridspec(1, 2, width_ratios=[2.5, 1])
    labels = tuple(card.meta["labels"])
    histogram = figure.add_subplot(above[0])
    plot_activation_histogram(card.activations, card.labels, card.baseline, labels, ax=histogram)
    histogram.set_title(f"at prompt position {card.position}")
    _by_position(card, figure.add_subplot(above[1]))
    _ablated(card, figure.add_subplot(above[2]))
    _examples(card, n_examples, figure.add_subplot(below[0]))
    _words(card, 2 * n_examples + 2, figure.add_subplot(below[1]))
    figure.suptitle(
        f"{card.meta['task']}: layer {card.layer}, neuron {card.neuron}, prompt of seed {card.meta['classifier_seed']}",
        x=0.01,
        ha="left",
        fontsize=10.5,
        fontweight="bold",
    )
    return figure


def _by_position(card: NeuronCard, ax: Axes) -> None:
    places = np.arange(len(card.accuracy))
    ax.plot(places, card.accuracy, "--", color=COLOURS[0], marker="o", markersize=3, label="validation, where chosen")
    ax.plot(places, card.test_accuracy, color=SKILL, marker="s", markersize=3, label="test")
    ax.axhline(0.5, color=REFERENCE, linewidth=0.8, linestyle=":")
    ax.axvline(card.position, color=RANDOM, linewidth=5, alpha=0.25)
    step = -(-len(places) // 8)
    ax.set(
        xlabel="prompt position",
        ylabel="accuracy",
        xticks=places[::step],
        title=f"“above” as {card.meta['labels'][1]}: held out {card.held_out:.3f}",
    )
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))
    ax.legend(loc="upper center")


def _ablated(card: NeuronCard, ax: Axes) -> None:
    """Change of the margin on all rows and on each class's: this neuron with its interval over rows, and others."""
    groups = {"all rows": np.full(len(card.labels), True)}
    groups |= {name: (card.labels == i).numpy() for i, name in enumerate(card.meta["labels"])}
    change, others = card.margin_change.double().numpy(), card.random_change.double().numpy()
    for place, chosen in zip(range(len(groups) - 1, -1, -1), groups.values(), strict=True):
        own, n = change[chosen], int(chosen.sum())
        half = stats.t.ppf(0.975, n - 1) * own.std(ddof=1) / n**0.5 if n > 1 else 0.0
        means = others[:, chosen].mean(axis=1)
        ax.plot(means, np.full(len(means), place - 0.18), "|", color=RANDOM, markersize=8)
        ax.errorbar(own.mean(), place + 0.12, xerr=half, fmt="o", color=SKILL, markersize=5, capsize=2)
    ax.axvline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
    where = card.meta["positions"].replace("_", " ")
    ax.set(
        yticks=range(len(groups)),
        yticklabels=list(groups)[::-1],
        ylim=(-0.6, len(groups) - 0.1),
        xlabel=f"change of the logit margin, {len(change)} rows\n({card.meta['kind']}, {where} positions)",
        title=f"ablated (●); {len(others)} others (|)",
    )
    ax.locator_params(axis="x", nbins=5)


def _examples(card: NeuronCard, n_examples: int, ax: Axes) -> None:
    ax.axis("off")
    table = card.to_dataframe()
    width = max(len(name) for name in card.meta["labels"])
    lines: list[tuple[str, str | None]] = [("highest activation", None)]
    shown = pd.concat([table.head(n_examples), table.tail(n_examples)])
    for i, (text, label, activation) in enumerate(zip(shown.text, shown.label, shown.activation, strict=True)):
        if i == n_examples:
            lines.append(("lowest activation", None))
        one_line = _cut(" ".join(str(text).split()), 96 - width)
        lines.append((f"{activation:7.3f}  {label:<{width}}  {one_line}", str(label)))
    for place, (line, label) in enumerate(lines):
        y = 1 - (place + 0.5) / len(lines)
        if label is None:
            ax.text(0, y, line, fontsize=9, va="center", transform=ax.transAxes)
            continue
        colour = LABEL_COLOURS[card.meta["labels"].index(label)]
        ax.add_patch(
            Rectangle((0, y - 0.4 / len(lines)), 0.008, 0.8 / len(lines), color=colour, transform=ax.transAxes)
        )
        ax.text(0.012, y, line, fontsize=6.8, va="center", family="monospace", transform=ax.transAxes, parse_math=False)


def _words(card: NeuronCard, n_lines: int, ax: Axes) -> None:
    ax.axis("off")
    if not card.words:
        return
    for x, (side, words) in zip((0.0, 0.52), card.words.items(), strict=True):
        ax.text(x, 1 - 0.5 / n_lines, f"words near {side}", fontsize=8, va="center", transform=ax.transAxes)
        for i, (word, cosine) in enumerate(words[: n_lines - 1]):
            ax.text(
                x,
                1 - (i + 1.5) / n_lines,
                f"{cosine:+.2f} {_cut(word, 10)}",
                fontsize=6.8,
                va="center",
                family="monospace",
                transform=ax.transAxes,
                parse_math=False,
            )


def _cut(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"


@checked
@styled
def plot_text_heat(heat: TextHeat, *, width: int = 80, ax: Axes | None = None) -> Axes:
    """Texts with each word coloured by a neuron's activation there, on one scale.

    Args:
        heat: From `text_heat`.
        width: Characters in a line.
        ax: Where to draw.

    Example:
        >>> from skillneurons import load_example, plots, text_heat
        >>> classifier, _ = load_example()
        >>> ax = plots.plot_text_heat(text_heat(classifier, ["A fine film."], (3, 287)))
        >>> [word.get_text() for word in ax.texts]
        ['A', 'fine', 'film', '.']
    """
    boxes: list[tuple[float, float, str, float]] = []  # column, line, word, shade
    line = 0.0
    margin = 2 + max((len(name) for name in heat.labels), default=-2)
    titles: list[tuple[float, str]] = []
    for i, words in enumerate(heat.words):
        if heat.labels:
            titles.append((line, heat.labels[i]))
        column = margin
        for word, shade in zip(words, heat.shades(i).tolist(), strict=True):
            body = word.lstrip()
            start = column + len(word) - len(body)
            if start + len(body) > width and column > margin:
                line, start = line + 1, margin
            boxes.append((start, line, body, shade))
            column = start + len(body)
        line += 1.5
    size = 8.0
    inch = CHARACTER * size / 72
    if ax is None:
        ax = axes_or_new(ax, figsize=(width * inch + 0.9, 0.24 * line + 0.4))
    for start, row, body, shade in boxes:
        ax.add_patch(Rectangle((start, row - 0.42), len(body), 0.84, facecolor=HEAT_MAP(shade), linewidth=0))
        # A monospaced text is as wide as its box; where fonts differ, it is stretched neither way.
        ax.text(start, row, body, fontsize=size, family="monospace", va="center", parse_math=False)
    for row, label in titles:
        ax.text(0, row, label, fontsize=size, va="center", style="italic", parse_math=False)
    ax.set(xlim=(0, width), ylim=(line - 0.9, -0.6), xticks=[], yticks=[])
    ax.set_title(f"layer {heat.layer}, neuron {heat.neuron}")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(
        ScalarMappable(Normalize(*heat.limits), HEAT_MAP), ax=ax, label="activation", pad=0.01, fraction=0.03
    )
    bar.outline.set_linewidth(0.5)
    return ax
