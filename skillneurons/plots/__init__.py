"""Figures: results in, matplotlib Axes out."""

from skillneurons.plots.applications import plot_indicators as plot_indicators
from skillneurons.plots.applications import plot_pruning as plot_pruning
from skillneurons.plots.applications import plot_steering as plot_steering
from skillneurons.plots.applications import plot_transfer as plot_transfer
from skillneurons.plots.applications import plot_warm_start as plot_warm_start
from skillneurons.plots.causal import plot_cross_perturbation as plot_cross_perturbation
from skillneurons.plots.causal import plot_necessity as plot_necessity
from skillneurons.plots.causal import plot_necessity_by_layer as plot_necessity_by_layer
from skillneurons.plots.causal import plot_serves as plot_serves
from skillneurons.plots.comparison import plot_run_comparison as plot_run_comparison
from skillneurons.plots.explorer import Explorer as Explorer
from skillneurons.plots.explorer import ExplorerSettings as ExplorerSettings
from skillneurons.plots.explorer import explore_scores as explore_scores
from skillneurons.plots.find import plot_activation_histogram as plot_activation_histogram
from skillneurons.plots.find import plot_perturbation as plot_perturbation
from skillneurons.plots.find import plot_perturbations as plot_perturbations
from skillneurons.plots.find import plot_predictivity_by_layer as plot_predictivity_by_layer
from skillneurons.plots.find import save_figure as save_figure
from skillneurons.plots.findings import plot_existence as plot_existence
from skillneurons.plots.findings import plot_existence_null as plot_existence_null
from skillneurons.plots.findings import plot_origin as plot_origin
from skillneurons.plots.findings import plot_places as plot_places
from skillneurons.plots.findings import plot_robustness as plot_robustness
from skillneurons.plots.findings import plot_several_classes as plot_several_classes
from skillneurons.plots.findings import plot_stability as plot_stability
from skillneurons.plots.findings import plot_task_similarity as plot_task_similarity
from skillneurons.plots.findings import plot_word_selectivity as plot_word_selectivity
from skillneurons.plots.localization import plot_localization as plot_localization
from skillneurons.plots.localization import plot_writers as plot_writers
from skillneurons.plots.neuron import plot_neuron_card as plot_neuron_card
from skillneurons.plots.neuron import plot_text_heat as plot_text_heat
from skillneurons.plots.statistics import plot_claims as plot_claims
from skillneurons.plots.statistics import plot_false_positives as plot_false_positives
from skillneurons.plots.statistics import plot_null as plot_null
from skillneurons.plots.statistics import plot_score_agreement as plot_score_agreement
from skillneurons.plots.statistics import plot_score_effects as plot_score_effects
from skillneurons.plots.statistics import plot_summary as plot_summary
from skillneurons.plots.style import style as style
from skillneurons.utilities.lazy import FIGURES as _FIGURES
from skillneurons.utilities.lazy import public_names as _public_names


def __dir__() -> list[str]:
    return _public_names(globals())


_FIGURES.update({name: value for name, value in list(globals().items()) if name.startswith(("plot_", "explore_"))})
