"""Figures of what chance gives: the null, held-out accuracy, rival scores compared, and what became of claims."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skillneurons.findings.score_comparison import ScoreComparison
from skillneurons.neurons._permutation_test import PermutationTest
from skillneurons.neurons.other_scores.table import SCORES
from skillneurons.plots.style import COLOURS, DIVERGING, RANDOM, REFERENCE, SKILL, axes_or_new, styled
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.intervals import clopper_pearson
from skillneurons.utilities.types import Json

# How `plot_summary` shows verdicts: told apart by shape and by fill, not by colour alone.
HELD: dict[str, dict[str, Json]] = {
    "yes": {"marker": "s", "color": SKILL, "markersize": 8},
    "open": {"marker": "s", "color": RANDOM, "markersize": 7.5, "markerfacecolor": "none", "markeredgewidth": 0.9},
    "no": {"marker": "X", "color": REFERENCE, "markersize": 8, "markeredgewidth": 0},
}
HELD_LABELS = ("held", "open", "the opposite held")


@checked
@styled
def plot_null(test: PermutationTest, *, alpha: float = 0.05, ax: Axes | None = None) -> Axes:
    """All neurons' observed measure beside the best neuron's under permuted labels, with the threshold between.

    Args:
        test: From `permutation_test`.
        alpha: Family-wise error rate of the threshold.
        ax: Where to draw.

    Example:
        >>> from skillneurons import Decisions, collect, find_skill_neurons, load_example
        >>> from skillneurons import permutation_test, plots
        >>> classifier, task = load_example()
        >>> baseline = find_skill_neurons(classifier, task).baseline[0]
        >>> decisions = collect(classifier, task.validation, Decisions(baseline, 32))
        >>> ax = plots.plot_null(permutation_test(decisions, n_permutations=99))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['3,072 neurons', 'best of them, 99 permutations', 'family-wise 5 %: ... neurons lie above']
    """
    ax = axes_or_new(ax)
    observed, null = test.observed.flatten().numpy(), test.null_max.numpy()
    # Accuracies come in steps of one row, and a bin must hold the same number of steps as the next.
    step = 1 / (test.meta["rows"] * test.meta["n_seeds"])
    low, high = min(observed.min(), null.min()), max(observed.max(), null.max())
    width = step * max(1, round((high - low) / 40 / step))
    bins = np.arange(low - step / 2, high + width, width)
    n_found = len(test.significant(alpha))
    ax.hist(
        observed,
        bins,
        weights=np.full(observed.shape, 1 / len(observed)),
        color=SKILL,
        alpha=0.6,
        label=f"{len(observed):,} neurons",
    )
    ax.hist(
        null,
        bins,
        weights=np.full(null.shape, 1 / len(null)),
        color=REFERENCE,
        histtype="step",
        label=f"best of them, {len(null):,} permutations",
    )
    threshold = test.threshold(alpha)
    label = f"family-wise {100 * alpha:g} %: {n_found:,} neurons lie above"
    ax.axvline(threshold, color=REFERENCE, linestyle=":", linewidth=1, label=label)
    measure = test.meta["measure"].replace("_", " ")
    seeds = test.meta["n_seeds"]
    title = f"{test.meta['rows']} rows, " + (f"mean of {seeds} seeds" if seeds > 1 else "one seed")
    ax.set(xlabel=f"{measure} (best position and direction)", ylabel="share", title=title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return ax


@checked
@styled
def plot_claims(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The best neurons' accuracy where they were chosen and on test rows, with intervals.

    Args:
        table: From `controls.claims`.
        ax: Where to draw.

    Example:
        >>> from skillneurons import claims, find_skill_neurons, load_example, plots
        >>> classifier, task = load_example()
        >>> ax = plots.plot_claims(claims(find_skill_neurons(classifier, task), 3))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['validation, where chosen', 'majority class', 'test, with interval']
    """
    ax = axes_or_new(ax)
    y = np.arange(len(table))[::-1]
    held_out = table.held_out.to_numpy()
    errors = np.abs(np.stack([held_out - table.low, table.high - held_out]))
    ax.errorbar(
        held_out, y, xerr=errors, fmt="o", color=SKILL, markersize=4, linewidth=1.2, label="test, with interval"
    )
    ax.plot(table.predictivity, y, "|", color=REFERENCE, markersize=9, label="validation, where chosen")
    ax.axvline(table.majority.iloc[0], color=RANDOM, linestyle="--", linewidth=1, label="majority class")
    ax.set(
        yticks=y,
        yticklabels=[f"{layer}.{neuron}" for layer, neuron in zip(table.layer, table.neuron, strict=True)],
        xlabel="accuracy",
        ylabel="layer.neuron",
        ylim=(-0.7, len(table) - 0.3),
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, columnspacing=1, handletextpad=0.4)
    return ax


@checked
@styled
def plot_summary(summaries: Mapping[str, pd.DataFrame]) -> Figure:
    """What became of each claim: filled squares where it held, one for each task and claim.

    Args:
        summaries: From `runs.summary`, by what their columns are to be called.

    Returns:
        The figure: a column of squares for each summary, a row for each finding.

    Raises:
        ValueError: No summary.

    Example:
        >>> import pandas as pd
        >>> from skillneurons import plots
        >>> held = pd.DataFrame({"finding": ["F1-existence"] * 2 + ["F3-prompts"], "held": ["open", "yes", "open"]})
        >>> figure = plots.plot_summary({"my model": held})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['F1 existence', 'F3 prompts']
    """
    if not summaries:
        raise ValueError("`summaries` needs one at least, but is empty. Pass what `runs.summary` returns, by a name.")
    findings = list(dict.fromkeys(name for table in summaries.values() for name in table.finding))
    most = [max(table.finding.value_counts(), default=1) for table in summaries.values()]
    figure, panels = plt.subplots(
        1,
        len(summaries),
        figsize=(2.4 + 0.2 * sum(most), 0.9 + 0.24 * len(findings)),
        layout="constrained",
        squeeze=False,
        sharey=True,
        width_ratios=most,
    )
    for ax, width, (name, table) in zip(panels[0], most, summaries.items(), strict=True):
        for y, finding in enumerate(findings):
            held = sorted(table.held[table.finding == finding], key=list(HELD).index)
            for x, verdict in enumerate(held):
                ax.plot(x, y, **HELD[verdict], linestyle="none")
        ax.set(xlim=(-0.7, width - 0.3), ylim=(len(findings) - 0.4, -0.6), xticks=[], title=name)
        ax.set_yticks(range(len(findings)), [finding.replace("-", " ", 1) for finding in findings])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.hlines(np.arange(len(findings)) + 0.5, -0.7, width - 0.3, color=RANDOM, linewidth=0.3, alpha=0.5)
    marks = [Line2D([], [], **look, linestyle="none") for look in HELD.values()]
    figure.legend(marks, HELD_LABELS, loc="outside lower center", ncols=3, handletextpad=0.3)
    return figure


@checked
@styled
def plot_score_effects(comparison: ScoreComparison, *, ax: Axes | None = None) -> Axes:
    """For each score, how much more its top neurons' ablation hurts than random ones', the best on top.

    Example:
        >>> from skillneurons import compare_scores, load_example, plots, rival_scores
        >>> classifier, task = load_example()
        >>> scores = rival_scores(classifier, task, ["predictivity", "auroc"])
        >>> few = {"fractions": (0.1,), "n_random": 2}
        >>> comparison = compare_scores(classifier, task, scores, **few)
        >>> ax = plots.plot_score_effects(comparison)
        >>> ax.get_xlabel().splitlines()
        ['mean extra fall of the logit margin', '32 test rows']
    """
    ax = axes_or_new(ax, figsize=(5.2, 3.8))
    table = comparison.to_dataframe()
    y = np.arange(len(table))[::-1]
    random = comparison.random_area.numpy()
    label = f"{len(random)} random rankings"
    ax.axvspan(random.min(), random.max(), color=RANDOM, alpha=0.3, linewidth=0, label=label)
    ax.axvline(0, color=REFERENCE, linewidth=0.7)
    errors = np.abs(np.stack([table.area - table.low, table.high - table.area]))
    ax.errorbar(
        table.area,
        y,
        xerr=errors,
        fmt="o",
        color=SKILL,
        markersize=4,
        linewidth=1.2,
        label="score, 95 % over rows and rankings",
    )
    ax.set(
        yticks=y,
        yticklabels=[_what(name) for name in table.score],
        xlabel=f"mean extra fall of the logit margin\n{comparison.meta['n_rows']} test rows",
        title=f"{comparison.meta['task']}, {comparison.meta['kind']} at {comparison.meta['positions']} positions, "
        f"seed {comparison.meta['classifier_seed']}",
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.3, -0.24), ncols=2)
    return ax


@checked
@styled
def plot_score_agreement(comparison: ScoreComparison, *, ax: Axes | None = None) -> Axes:
    """Spearman correlation of each two scores over all neurons.

    Example:
        >>> from skillneurons import compare_scores, load_example, plots, rival_scores
        >>> classifier, task = load_example()
        >>> scores = rival_scores(classifier, task, ["predictivity", "auroc"])
        >>> few = {"fractions": (0.1,), "n_random": 2}
        >>> comparison = compare_scores(classifier, task, scores, **few)
        >>> ax = plots.plot_score_agreement(comparison)
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['predictivity', 'AUROC']
    """
    ax = axes_or_new(ax, figsize=(5.6, 4.6))
    values = comparison.agreement.numpy()
    image = ax.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1)
    names = [_what(name) for name in comparison.names]
    ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    ax.set_xticklabels(names, rotation=90)
    for i, j in np.ndindex(values.shape):
        shade = "white" if abs(values[i, j]) > 0.7 else "black"
        ax.text(j, i, f"{values[i, j]:.1f}".replace("-0.0", "0.0"), ha="center", va="center", fontsize=6.5, color=shade)
    bar = ax.figure.colorbar(image, ax=ax, label="Spearman correlation over neurons", shrink=0.8)
    bar.outline.set_visible(False)
    ax.spines[:].set_visible(False)
    return ax


@checked
@styled
def plot_false_positives(rates: dict[str, tuple[int, int]], *, alpha: float = 0.05, ax: Axes | None = None) -> Axes:
    """How often data without signal yield a claim, for each method, against the rate it promises.

    Args:
        rates: For each method, data sets with a claim and data sets.
        alpha: The promised rate.
        ax: Where to draw.

    Example:
        >>> import torch
        >>> from skillneurons import Decisions, permutation_test, plots
        >>> labels, flips = torch.arange(30) % 2, torch.Generator().manual_seed(0)
        >>> coins = torch.rand(50, 30, 1, 1, 9, generator=flips) > 0.5
        >>> sets = [Decisions.of(above, labels) for above in coins]
        >>> n_claimed = sum(
        ...     len(permutation_test(one, n_permutations=99).significant()) > 0
        ...     for one in sets
        ... )
        >>> ax = plots.plot_false_positives({"permutations": (n_claimed, 50)})
        >>> ax.get_xlabel()
        'share of 50 data sets without signal that yield a claim'
    """
    ax = axes_or_new(ax)
    y = np.arange(len(rates))[::-1]
    share = np.array([hits / n for hits, n in rates.values()])
    ends = np.array([clopper_pearson(hits, n) for hits, n in rates.values()])
    errors = np.abs(np.stack([share - ends[:, 0], ends[:, 1] - share]))
    ax.errorbar(share, y, xerr=errors, fmt="o", color=COLOURS[0], markersize=4, linewidth=1.2)
    ax.axvline(alpha, color=REFERENCE, linestyle=":", linewidth=1, label=f"promised: at most {alpha:g}")
    n = next(iter(rates.values()))[1]
    ax.set(yticks=y, yticklabels=list(rates), ylim=(-0.6, len(rates) - 0.4), xlim=(0, None))
    ax.set_xlabel(f"share of {n:,} data sets without signal that yield a claim")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return ax


def _what(name: str) -> str:
    return SCORES[name].what if name in SCORES else name.replace("_", " ")
