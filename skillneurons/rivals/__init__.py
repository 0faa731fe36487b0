"""Other ways to score neurons, beside predictivity, and which of them finds the neurons that matter."""

from skillneurons.display import public_names as _public_names
from skillneurons.rivals.attribution import gradient_attribution as gradient_attribution
from skillneurons.rivals.attribution import integrated_gradients as integrated_gradients
from skillneurons.rivals.compare import ScoreComparison as ScoreComparison
from skillneurons.rivals.compare import compare_scores as compare_scores
from skillneurons.rivals.table import SCORES as SCORES
from skillneurons.rivals.table import RivalScores as RivalScores
from skillneurons.rivals.table import rival_scores as rival_scores


def __dir__() -> list[str]:
    return _public_names(globals())
