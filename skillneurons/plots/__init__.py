"""Figures: results in, matplotlib Axes out."""

from skillneurons.plots.find import plot_activation_histogram as plot_activation_histogram
from skillneurons.plots.find import plot_perturbation as plot_perturbation
from skillneurons.plots.find import plot_predictivity_by_layer as plot_predictivity_by_layer
from skillneurons.plots.find import save_figure as save_figure
from skillneurons.plots.style import style as style
