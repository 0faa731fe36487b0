"""Other scores to rank neurons by: correlations, information, probes, attributions."""

from skillneurons.neurons.other_scores.attribution import gradient_attribution as gradient_attribution
from skillneurons.neurons.other_scores.attribution import integrated_gradients as integrated_gradients
from skillneurons.neurons.other_scores.table import SCORES as SCORES
from skillneurons.neurons.other_scores.table import RivalScores as RivalScores
from skillneurons.neurons.other_scores.table import rival_scores as rival_scores
