"""Figure of runs compared: a scatter of predictivities, and agreement by layer beside what shuffled labels give."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skillneurons.findings.run_agreement import RunComparison
from skillneurons.plots.style import COLOURS, RANDOM, REFERENCE, SKILL, styled
from skillneurons.utilities.arguments import checked

MOST_POINTS = 20_000


@checked
@styled
def plot_run_comparison(result: RunComparison) -> Figure:
    """For every two runs: predictivity under both, and rank correlation and overlap in each layer.

    Returns:
        The figure: a row of three panels for each pair.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, plots
        >>> from skillneurons.findings.run_agreement import compared, ranked
        >>> examples = {name: load_example(name) for name in ("movies", "restaurants")}
        >>> found = [
        ...     ranked([classifier], task, [find_skill_neurons(classifier, task)], 0.05, n_draws=9)
        ...     for classifier, task in examples.values()
        ... ]
        >>> result = compared(list(examples), list(examples), found, {"fraction": 0.05})
        >>> [ax.get_xlabel() for ax in plots.plot_run_comparison(result).axes]
        ['predictivity, movies', 'layer', 'layer']
    """
    n = len(result.pairs)
    figure, panels = plt.subplots(
        n, 3, figsize=(8.4, 2.7 * n + 0.3), layout="constrained", squeeze=False, width_ratios=(1.15, 1, 1)
    )
    for i, row in enumerate(panels):
        _scatter(result, i, row[0])
        _by_layer(result, i, "correlation", row[1], "rank correlation")
        _by_layer(result, i, "overlap", row[2], f"shared of the top {100 * result.meta['fraction']:.3g} %")
    handles, labels = panels[0, 2].get_legend_handles_labels()
    first = dict(zip(*panels[0, 0].get_legend_handles_labels()[::-1], strict=True))
    entries = {**first, **dict(zip(labels, handles, strict=True))}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
    return figure


def _scatter(result: RunComparison, pair: int, ax: Axes) -> None:
    one, other = result.pairs[pair]
    x, y = (result.predictivity[i].flatten().numpy() for i in (one, other))
    a, b = (result.chosen[i].flatten().numpy() for i in (one, other))
    groups: list[tuple[np.ndarray, str, str, float]] = [
        (~(a | b), "other neurons", RANDOM, 0.35),
        (a ^ b, "in one top set", COLOURS[0], 0.8),
        (a & b, "in both", SKILL, 1.0),
    ]
    for which, label, colour, alpha in groups:
        places = np.flatnonzero(which)
        places = places[:: max(1, len(places) // MOST_POINTS)]
        ax.scatter(x[places], y[places], s=5, color=colour, alpha=alpha, linewidths=0, label=label, rasterized=True)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color=REFERENCE, linewidth=0.6, linestyle=":")
    ax.set(xlabel=f"predictivity, {result.runs[one]}", ylabel=f"predictivity, {result.runs[other]}")
    low, high = result.correlation_ends[pair, 0].tolist()
    ax.set_title(f"rank correlation {result.correlation[pair, 0]:.2f} ({low:.2f} to {high:.2f})")


def _by_layer(result: RunComparison, pair: int, name: str, ax: Axes, title: str) -> None:
    value, null = getattr(result, name)[pair], getattr(result, f"{name}_null")[pair]
    ends = getattr(result, f"{name}_ends")[pair]
    places = np.arange(len(value))
    low, high = (null.quantile(q, dim=1).numpy() for q in (0.025, 0.975))
    ax.bar(places, high - low, 0.7, bottom=low, color=RANDOM, alpha=0.4, label="labels shuffled, 95 %")
    errors = np.stack([(value - ends[:, 0]).numpy(), (ends[:, 1] - value).numpy()]).clip(0)
    ax.errorbar(
        places, value.numpy(), errors, fmt="o", color=SKILL, markersize=4, linewidth=1, label="true labels, 95 %"
    )
    if name == "overlap":
        expected = result.overlap_expected[pair].numpy()
        ax.plot(places, expected, "_", color=REFERENCE, markersize=12, label="random sets")
    ax.axvline(0.5, color=RANDOM, linewidth=0.5)
    ax.set_xticks(places, ["all", *(str(layer) for layer in range(len(value) - 1))])
    ax.set(xlabel="layer", title=title, ylim=(min(-0.05, float(low.min()), float(ends.min())), 1.05))
