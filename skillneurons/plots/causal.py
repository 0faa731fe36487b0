"""Figures of the findings that perturb: necessity, cross-perturbation, which class a subtask's neurons serve."""

import numpy as np
from matplotlib.axes import Axes

from skillneurons.findings.necessity import Necessity
from skillneurons.findings.several_classes import Serves
from skillneurons.findings.specificity import CrossPerturbation
from skillneurons.plots.findings import matrix
from skillneurons.plots.style import COLOURS, REFERENCE, SKILL, axes_or_new, legend_below, styled
from skillneurons.utilities.arguments import checked

MARKERS = ("o", "s", "D", "^")


@checked
@styled
def plot_necessity(
    result: Necessity,
    *,
    quantity: str = "margin",
    group: str = "skill",
    scope: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What perturbing the group's neurons costs beyond random ones, against the share perturbed (F4).

    Below zero, the group's neurons matter more than as many random neurons of the same layers.

    Args:
        result: From `necessity`.
        quantity: `"accuracy"` or `"margin"`.
        group: `"skill"`, or the name of a rival.
        scope: One of `result.scopes`; the last by default.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> effects = findings.necessity(
        ...     classifier, task, scores, kinds=("mean",), fractions=(0.1, 0.3), n_random=2
        ... )
        >>> ax = plots.plot_necessity(effects)
        >>> ax.get_ylabel()
        'logit margin: skill minus random'
    """
    ax = axes_or_new(ax)
    gap = _gap(result, quantity)[_index(result.groups, group, "group")]
    scope = scope or result.scopes[-1]
    gap = gap[:, _index(result.scopes, scope, "scope")].numpy()
    x = 100 * np.array(result.fractions)
    for i, kind in enumerate(result.kinds):
        name = f"{kind}, sigma {result.meta['sigma']:g}" if kind == "gaussian" else kind
        # Shifted a little, so that intervals do not hide each other.
        shifted = x * (1 + 0.03 * (i - (len(result.kinds) - 1) / 2))
        errors = np.abs(gap[i, :, 1:] - gap[i, :, :1]).T
        ax.errorbar(
            shifted, gap[i, :, 0], yerr=errors, color=COLOURS[i], marker=MARKERS[i % 4], markersize=3.5, label=name
        )
    ax.axhline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.minorticks_off()
    what = "logit margin" if quantity == "margin" else "accuracy"
    ax.set(
        xlabel=f"neurons perturbed in {'each layer' if result.meta['per_layer'] else 'the model'}, {scope} (%)",
        ylabel=f"{what}: {group} minus random",
        title=f"{result.meta['task']}, {result.meta['positions'].replace('_', ' ')} positions, "
        f"{result.meta['n_rows']:,} test rows, 1 seed",
    )
    legend_below(ax)
    return ax


@checked
@styled
def plot_necessity_by_layer(
    result: Necessity, *, kind: str | None = None, quantity: str = "margin", ax: Axes | None = None
) -> Axes:
    """The same for each layer, or for layers up to each, at every fraction (F4).

    Args:
        result: From `necessity` with `scope` `"single"` or `"cumulative"`.
        kind: One of `result.kinds`; the first by default.
        quantity: `"accuracy"` or `"margin"`.
        ax: Where to draw.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> few = {"kinds": ("mean",), "fractions": (0.1,), "n_random": 2}
        >>> effects = findings.necessity(classifier, task, scores, scope="single", **few)
        >>> ax = plots.plot_necessity_by_layer(effects)
        >>> bool(abs(ax.lines[0].get_ydata()[-1]) < 1e-6)  # the last layer has no say
        True
    """
    ax = axes_or_new(ax)
    kind = kind or result.kinds[0]
    gap = _gap(result, quantity)[result.groups.index("skill"), _index(result.kinds, kind, "kind")].numpy()
    places = np.arange(len(result.scopes))
    shades = np.linspace(0.35, 1, len(result.fractions))
    for i, fraction in enumerate(result.fractions):
        errors = np.abs(gap[:, i, 1:] - gap[:, i, :1]).T
        shift = 0.12 * (i - (len(result.fractions) - 1) / 2)
        ax.errorbar(
            places + shift,
            gap[:, i, 0],
            yerr=errors,
            fmt=MARKERS[i % 4],
            color=SKILL,
            alpha=shades[i],
            markersize=4,
            label=f"{100 * fraction:.3g} % of the layer's neurons",
        )
    ax.axhline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
    names = [scope.removeprefix("layers ").removeprefix("layer ") for scope in result.scopes]
    ax.set_xticks(places, names)
    ax.set(
        xlabel="layers perturbed" if "-" in names[-1] else "layer perturbed",
        ylabel=f"{'logit margin' if quantity == 'margin' else 'accuracy'}: skill minus random",
        title=f"{result.meta['task']}, {kind}, {result.meta['positions'].replace('_', ' ')} positions, 1 seed",
    )
    legend_below(ax)
    return ax


@checked
@styled
def plot_cross_perturbation(result: CrossPerturbation, *, quantity: str = "margin", ax: Axes | None = None) -> Axes:
    """What each task loses, beyond random neurons, under each task's perturbation (F5).

    A star marks an interval that lies below zero.

    Example:
        >>> from skillneurons import find_skill_neurons, findings, load_example, plots
        >>> examples = {name: load_example(name) for name in ("movies", "restaurants")}
        >>> tuned = {name: classifier for name, (classifier, _) in examples.items()}
        >>> tasks = {name: task for name, (_, task) in examples.items()}
        >>> scores = {name: find_skill_neurons(tuned[name], tasks[name]) for name in tasks}
        >>> lost = findings.cross_perturbation(tuned, tasks, scores, n_random=2, n_rows=16)
        >>> ax = plots.plot_cross_perturbation(lost)
        >>> ax.get_ylabel(), ax.get_xlabel()
        ('neurons of', 'task measured')
    """
    n = len(result.tasks)
    ax = axes_or_new(ax, figsize=(2.8 + 0.6 * n, 1.9 + 0.5 * n))
    gap = _gap(result, quantity)
    marks = [["*" if gap[i, j, 2] < 0 else "" for j in range(n)] for i in range(n)]
    unit = "margin, skill minus random (sd)" if quantity == "margin" else "accuracy, skill minus random"
    title = f"top {100 * result.meta['fraction']:.3g} % perturbed ({result.meta['kind']}), 1 seed"
    title += "" if result.meta["n_rows"] is None else f", at most {result.meta['n_rows']:,} test rows"
    ax = matrix(gap[..., 0], list(result.tasks), list(result.tasks), unit, title, ax, marks=marks)
    ax.set(xlabel="task measured", ylabel="neurons of")
    return ax


@checked
@styled
def plot_serves(result: Serves, *, ax: Axes | None = None) -> Axes:
    """What each class's logit loses, beyond random neurons, when each subtask's neurons are perturbed.

    Example:
        >>> from skillneurons import findings, load_example, plots
        >>> classifier, task = load_example("news", n_rows=16)
        >>> found = findings.several_classes(classifier, task)
        >>> ax = plots.plot_serves(findings.serves(classifier, task, found, n_random=2))
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['sports', 'business', 'science', 'politics']
    """
    ax = axes_or_new(ax, figsize=(3.0 + 0.6 * len(result.labels), 1.9 + 0.5 * len(result.subtasks)))
    marks = [["*" if one[2] < 0 else "" for one in row] for row in result.logit_gap.tolist()]
    names = [name.replace("-", " ") for name in result.subtasks]
    title = (
        f"{result.meta['task']}: top {100 * result.meta['fraction']:.3g} % perturbed ({result.meta['kind']}), 1 seed"
    )
    ax = matrix(
        result.logit_gap[..., 0], names, list(result.labels), "own logit, skill minus random", title, ax, marks=marks
    )
    ax.set(xlabel="class measured", ylabel="neurons of")
    return ax


def _gap(result: Necessity | CrossPerturbation, quantity: str):
    if quantity not in ("accuracy", "margin"):
        raise ValueError(f"`quantity` is 'accuracy' or 'margin', not {quantity!r}.")
    return result.margin_gap if quantity == "margin" else result.accuracy_gap


def _index(names: tuple[str, ...], name: str, argument: str) -> int:
    if name not in names:
        raise ValueError(f"`{argument}` is one of {', '.join(map(repr, names))}, not {name!r}.")
    return names.index(name)
