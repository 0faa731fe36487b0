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
from skillneurons.utilities.arguments import checked

FORMATS = ("png", "svg", "pdf")


@checked
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
    ax.set_ylim(0, (1.2 + 0.1 * len(label_names)) * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper right")
    return ax


@checked
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


SPOKEN = {
    "mean": "set to their means",
    "zero": "set to zero",
    "gaussian": "with Gaussian noise",
    "gaussian_sd": "with noise as wide as their spread",
    "resample": "taken from other texts",
}
"""What became of the neurons, for titles."""


@checked
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
        ['2 random sets, lowest to highest', 'random sets, mean', 'skill neurons, 95 % over rows', 'unperturbed']
    """
    if quantity not in ("accuracy", "margin"):
        raise ValueError(f"`quantity` is 'accuracy' or 'margin', not {quantity!r}.")
    ax = axes_or_new(ax)
    margin = quantity == "margin"
    skill = (curve.skill_margin if margin else curve.skill).numpy()
    random = (curve.random_margin if margin else curve.random).numpy()
    ends = curve.skill_margin_ends if margin else curve.skill_ends
    before = curve.unperturbed.margin if margin else curve.unperturbed.accuracy
    # From where nothing is perturbed, and in order.
    order = np.argsort(curve.fractions)
    x = np.concatenate([[0.0], 100 * np.array(curve.fractions)[order]])
    random = np.concatenate([np.full((len(random), 1), before), random[:, order]], axis=1)
    label = f"{len(random)} random sets, lowest to highest"
    ax.fill_between(x, random.min(0), random.max(0), color=RANDOM, alpha=0.3, linewidth=0, label=label)
    ax.plot(x, random.mean(0), color=RANDOM, linestyle="--", label="random sets, mean")
    label = "skill neurons" + ("" if ends is None else ", 95 % over rows")
    ax.plot(x, np.concatenate([[before], skill[order]]), color=SKILL, marker="o", markersize=3.5, label=label)
    if ends is not None:
        errors = np.nan_to_num(np.abs(ends.numpy().T - skill)[:, order], posinf=0.0)
        ax.errorbar(x[1:], skill[order], errors, fmt="none", ecolor=SKILL, elinewidth=0.8, capsize=2, alpha=0.7)
    ax.axhline(before, color=REFERENCE, linewidth=0.8, linestyle=":", label="unperturbed")
    if not margin and min(skill.min(), random.min()) < curve.unperturbed.majority + 0.05:
        ax.axhline(curve.unperturbed.majority, color=REFERENCE, linewidth=0.8, linestyle="-.", label="majority class")
    if len(x) < 9:
        ax.set_xticks(x, [f"{one:.3g}" for one in x])
    where = f"at {curve.meta['positions'].replace('_', ' ')} positions, seed {curve.meta['classifier_seed']}"
    ax.set(
        xlabel=f"neurons perturbed in {'each layer' if curve.meta['per_layer'] else 'the model'} (%)",
        ylabel="logit margin of the right label" if margin else f"accuracy on {curve.meta['n_rows']} test rows",
        title=f"{_done_to(curve)[:1].upper()}{_done_to(curve)[1:]}, {where}",
    )
    legend_below(ax)
    return ax


def _done_to(curve: PerturbationCurve) -> str:
    kind = str(curve.meta["kind"])
    return SPOKEN.get(kind, kind) + (f" of {curve.meta['sigma']:g}" if "sigma" in curve.meta else "")


@styled
def plot_perturbations(curves: Sequence[PerturbationCurve]) -> Figure:
    """Several perturbations of one prompt's classifier in one figure: a column for each, accuracy above margin.

    Axes are shared, so that columns compare, and each curve begins where nothing is perturbed.

    Args:
        curves: On the same rows.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, perturbation_curve, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> options = {"fractions": (0.1, 0.3), "n_random": 2}
        >>> curves = [perturbation_curve(classifier, task, scores, kind=kind, **options) for kind in ("mean", "zero")]
        >>> figure = plots.plot_perturbations(curves)
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['set to their means', 'set to zero', '', '']
    """
    if not curves:
        raise ValueError("`curves` is empty; pass one curve or more, from `perturbation_curve`.")
    size = max(4.6, 1.2 + 2.1 * len(curves)), 4.6
    figure, panels = plt.subplots(
        2, len(curves), figsize=size, sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for column, curve in zip(panels.T, curves, strict=True):
        for ax, quantity in zip(column, ("accuracy", "margin"), strict=True):
            plot_perturbation(curve, quantity=quantity, ax=ax)
            ax.get_legend().remove()
            ax.set(title=_done_to(curve) if quantity == "accuracy" else "", xlabel="", ylabel="")
    first = curves[0].meta
    panels[0, 0].set_ylabel(f"accuracy, {first['n_rows']} test rows")
    panels[1, 0].set_ylabel("logit margin")
    for ax in panels[1]:
        ax.set_xlabel(f"neurons of {'each layer' if first['per_layer'] else 'the model'} (%)")
    where = f"{first['positions'].replace('_', ' ')} positions"
    figure.suptitle(f"Neurons perturbed at {where}, {first['task']}, seed {first['classifier_seed']}", fontsize=10)
    entries = {text: one for ax in panels.flat for one, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2 if len(curves) < 3 else 3)
    return figure


@checked
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
