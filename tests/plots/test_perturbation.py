"""Figures of perturbations: where they begin, what their bars are, and that columns compare."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import legend_of
from planted import planted_classifier
from scipy import stats

from skillneurons import find_skill_neurons, perturbation_curve, plots
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.interventions.curve import PerturbationCurve
from skillneurons.interventions.perturbation import Perturbation
from skillneurons.utilities.intervals import clopper_pearson

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def planted():
    return planted_classifier()


@pytest.fixture(scope="module")
def curves(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    return [
        perturbation_curve(
            planted.classifier, planted.task, scores, kind=kind, fractions=(0.2, 0.1), n_random=3, positions="all"
        )
        for kind in ("mean", "gaussian")
    ]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_bars_are_intervals_over_rows(planted, curves, tmp_path):
    scores = find_skill_neurons(planted.classifier, planted.task)
    hooks = Perturbation("mean", "all").of(planted.classifier, planted.task)(scores.top(0.2))
    logits = planted.classifier.logits(planted.task.test, hooks)
    labels = torch.tensor([row["label"] for row in planted.task.test])
    margins, right = label_margin(logits, labels).double(), (logits.argmax(1) == labels).sum().item()
    n = len(labels)
    expected = stats.t.interval(0.95, n - 1, margins.mean().item(), stats.sem(margins.numpy()))
    assert curves[0].skill_margin_ends[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert curves[0].skill_ends[0].tolist() == pytest.approx(clopper_pearson(right, n))
    loaded = PerturbationCurve.load(curves[0].save(tmp_path / "curve"))
    assert loaded.skill_margin_ends is not None
    assert torch.equal(loaded.skill_margin_ends, curves[0].skill_margin_ends)


@pytest.mark.parametrize("quantity", ["accuracy", "margin"])
def test_lines_begin_where_nothing_is_perturbed_and_go_on_in_order(curves, quantity):
    ax = plots.plot_perturbation(curves[0], quantity=quantity)
    lines = {line.get_label(): line for line in ax.get_lines()}
    skill = lines["skill neurons, 95 % over rows"]
    values = curves[0].skill_margin if quantity == "margin" else curves[0].skill
    assert np.asarray(skill.get_xdata()).tolist() == [0, 10, 20]
    begin, random_sets = getattr(curves[0].unperturbed, quantity), np.asarray(lines["random sets, mean"].get_ydata())
    assert np.asarray(skill.get_ydata()).tolist() == [begin, *values.flip(0).tolist()]
    assert random_sets[0] == pytest.approx(begin)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "10", "20"]
    assert ax.get_title("left") == "Set to their means, at all positions, seed 0"


def test_a_curve_of_an_earlier_version_is_drawn_without_bars(curves):
    old = replace(curves[0], skill_ends=None, skill_margin_ends=None)
    ax = plots.plot_perturbation(old)
    assert "skill neurons" in legend_of(ax)


def test_columns_compare_and_nothing_overlaps(curves):
    figure = plots.plot_perturbations(curves)
    panels = np.array(figure.axes).reshape(2, 2)
    for row in panels:
        assert row[0].get_ylim() == row[1].get_ylim() and row[0].get_xlim() == row[1].get_xlim()
    assert panels[0, 1].get_title("left") == "with Gaussian noise of 0.1"
    figure.canvas.draw()
    (legend,) = figure.legends
    boxes = [box for one in (*figure.axes, legend) if (box := one.get_tightbbox()) is not None]
    assert len(boxes) == 5
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert not one.overlaps(other)
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width + 1 and box.y0 >= -1
    with pytest.raises(ValueError, match="`curves` is empty"):
        plots.plot_perturbations([])


def test_a_figure_or_its_axes_are_written_in_each_format(curves, tmp_path):
    for i, drawn in enumerate((plots.plot_perturbation(curves[0]), plots.plot_perturbations(curves))):
        written = plots.save_figure(drawn, tmp_path / "new" / f"curve-0.{i}")
        assert [path.name for path in written] == [f"curve-0.{i}.{ending}" for ending in ("png", "svg", "pdf")]
        assert all(path.stat().st_size > 1000 for path in written)
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="`formats` of `save_figure` needs"):
        plots.save_figure(plots.plot_perturbation(curves[0]), tmp_path / "a", formats="pdf")
    with pytest.raises(ValueError, match=r"\['gif'\]"):
        plots.save_figure(plots.plot_perturbation(curves[0]), tmp_path / "a", formats=["gif"])
