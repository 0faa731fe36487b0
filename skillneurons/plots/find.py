"""Figures of the main job: the best neuron by class, predictivity by layer, the perturbation curve."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from skillneurons.interventions.curve import PerturbationCurve
from skillneurons.neurons.scores import NeuronScores
from skillneurons.plots.style import (
    LABEL_COLOURS,
    RANDOM,
    REFERENCE,
    SEQUENTIAL,
    SKILL,
    axes_or_new,
    legend_below,
    style,
    styled,
)

FORMATS = ("png", "svg", "pdf")


@styled
def plot_activation_histogram(
    activations: Float[Tensor, " batch"],
    labels: Int[Tensor, " batch"],
    baseline: float,
    label_names: Sequence[str],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One neuron's activation at one position, split by class, with its baseline (Wang et al. 2022, figure 1).

    Args:
        activations: On held-out rows.
        labels: Class of each row.
        baseline: The decision threshold: mean activation on train.
        label_names: Names of the classes.
        title: Which neuron, position and seed.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example
        >>> from skillneurons import plot_activation_histogram
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> best = findings.existence([classifier], task, scores, probe=False)
        >>> ax = plot_activation_histogram(
        ...     best.activations, best.labels, best.baseline, task.labels
        ... )
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['negative (n = 16)', 'positive (n = 16)', 'baseline activation']
    """
    ax = axes_or_new(ax)
    values, classes = activations.numpy(), labels.numpy()
    low, high = np.quantile(values, [0.002, 0.998])
    bins = np.linspace(low, high, 41)
    for label, name in enumerate(label_names):
        chosen = np.clip(values[classes == label], low, high)
        share = np.full(len(chosen), 1 / len(chosen))
        colour = LABEL_COLOURS[label]
        ax.hist(chosen, bins, weights=share, color=colour, alpha=0.35)
        ax.hist(
            chosen,
            bins,
            weights=share,
            color=colour,
            histtype="step",
            label=f"{name} (n = {len(chosen)})",
            linestyle=("-", "--", "-.", ":")[label % 4],
        )
    ax.axvline(baseline, color=REFERENCE, linewidth=1, linestyle=":", label="baseline activation")
    ax.set(xlabel="activation", ylabel="share of the class", title=title)
    ax.legend()
    return ax


@styled
def plot_predictivity_by_layer(scores: NeuronScores, *, n_ranks: int = 200, ax: Axes | None = None) -> Axes:
    """Predictivity of each layer's neurons in order of rank: where in the model the skill is.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons import plot_predictivity_by_layer
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> ax = plot_predictivity_by_layer(scores, n_ranks=50)
        >>> ax.get_ylabel(), ax.images[0].get_array().shape
        ('layer', (4, 50))
    """
    ax = axes_or_new(ax)
    ranked = scores.predictivity.sort(dim=1, descending=True).values[:, :n_ranks].numpy()
    extent = (0.5, ranked.shape[1] + 0.5, len(ranked) - 0.5, -0.5)
    image = ax.imshow(ranked, aspect="auto", cmap=SEQUENTIAL, interpolation="nearest", extent=extent)
    bar = ax.figure.colorbar(image, ax=ax, label="predictivity on validation")
    bar.outline.set_visible(False)
    seeds = len(scores.seeds)
    ax.set(
        xlabel="rank within the layer",
        ylabel="layer",
        yticks=range(len(ranked)),
        title=f"{scores.meta['task']}, mean of {seeds} seed{'s' if seeds > 1 else ''}",
    )
    return ax


@styled
def plot_perturbation(curve: PerturbationCurve, *, quantity: str = "accuracy", ax: Axes | None = None) -> Axes:
    """Accuracy (or the label's logit margin) against the share of neurons perturbed, with the band of random sets.

    Args:
        curve: From `perturbation_curve`.
        quantity: `"accuracy"` or `"margin"`.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons import perturbation_curve, plot_perturbation
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> curve = perturbation_curve(
        ...     classifier, task, scores, fractions=(0.1, 0.3), n_random=2
        ... )
        >>> ax = plot_perturbation(curve, quantity="margin")
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['2 random sets, lowest to highest', 'random sets, mean', 'skill neurons', 'unperturbed']
    """
    if quantity not in ("accuracy", "margin"):
        raise ValueError(f"`quantity` is 'accuracy' or 'margin', not {quantity!r}.")
    ax = axes_or_new(ax)
    margin = quantity == "margin"
    skill = (curve.skill_margin if margin else curve.skill).numpy()
    random = (curve.random_margin if margin else curve.random).numpy()
    x = 100 * np.array(curve.fractions)
    ax.fill_between(
        x,
        random.min(0),
        random.max(0),
        color=RANDOM,
        alpha=0.3,
        linewidth=0,
        label=f"{len(random)} random sets, lowest to highest",
    )
    ax.plot(x, random.mean(0), color=RANDOM, linestyle="--", label="random sets, mean")
    ax.plot(x, skill, color=SKILL, marker="o", markersize=3.5, label="skill neurons")
    ax.axhline(
        curve.unperturbed.margin if margin else curve.unperturbed.accuracy,
        color=REFERENCE,
        linewidth=0.8,
        linestyle=":",
        label="unperturbed",
    )
    if not margin and min(skill.min(), random.min()) < curve.unperturbed.majority + 0.05:
        ax.axhline(curve.unperturbed.majority, color=REFERENCE, linewidth=0.8, linestyle="-.", label="majority class")
    kind = curve.meta["kind"] + (f", sigma {curve.meta['sigma']}" if "sigma" in curve.meta else "")
    if len(x) < 9:
        ax.set_xticks(x)
    ax.set(
        xlabel=f"neurons perturbed in {'each layer' if curve.meta['per_layer'] else 'the model'} (%)",
        ylabel="logit margin of the right label" if margin else f"accuracy on {curve.meta['n_rows']} test rows",
        title=f"{kind}, at {curve.meta['positions'].replace('_', ' ')} positions, seed {curve.meta['classifier_seed']}",
    )
    legend_below(ax)
    return ax


def save_figure(ax: Axes | Figure, stem: str | Path, *, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the figure that is or holds `ax` in each format, and close it.

    Args:
        ax: What a `plot_…` function gave.
        stem: Path without an ending; its folder is made.
        formats: Endings: vectors for a paper (`pdf`), vectors for a page (`svg`), pixels (`png`).

    Returns:
        The files.

    Example:
        >>> import tempfile
        >>> from skillneurons import plots
        >>> ax = plots.plot_false_positives({"permutations": (3, 50)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in plots.save_figure(ax, f"{folder}/rates")]
        ['rates.png', 'rates.svg', 'rates.pdf']
    """
    figure = ax if isinstance(ax, Figure) else ax.get_figure(root=True)
    if figure is None:
        raise ValueError("`ax` belongs to no figure, as after `ax.remove()`. Draw it again.")
    if isinstance(formats, str) or not set(formats) <= set(FORMATS):
        raise ValueError(f"`formats` are some of {', '.join(map(repr, FORMATS))}, but are {formats!r}.")
    paths = [Path(f"{stem}.{ending}") for ending in formats]
    with style():
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
    plt.close(figure)
    return paths
