"""The paper's findings, one file per claim: classifiers and scores in, a small result with named axes out.

| | claim | function | figure |
|---|---|---|---|
| F1 | skill neurons exist | `existence` | `plot_existence`, `plot_existence_null` |
| F2 | they emerge stably | `stability` | `plot_stability` |
| F3 | prompts reveal them | `compare_places` | `plot_places` |
| F4 | they are necessary | `necessity` | `plot_necessity` |
| F5 | they are task-specific | `task_similarity`, `cross_perturbation` | `plot_task_similarity`, `plot_cross_…` |
| F6 | they are not word selectivity | `word_selectivity` | `plot_word_selectivity` |
| F7 | they come from pre-training | `origin`, `survives_retuning` | `plot_origin`, `plot_necessity` |
| F10 | they hold on adversarial text | `robustness` | `plot_robustness` |
| | are they the ones, or any of many alike? | `localization` | `plot_localization`, `plot_writers` |
| | several classes | `several_classes`, `serves` | `plot_several_classes` |
"""

from skillneurons.findings.existence import Existence as Existence
from skillneurons.findings.existence import existence as existence
from skillneurons.findings.localization import Localization as Localization
from skillneurons.findings.localization import LocalizationSettings as LocalizationSettings
from skillneurons.findings.localization import localization as localization
from skillneurons.findings.necessity import Necessity as Necessity
from skillneurons.findings.necessity import necessity as necessity
from skillneurons.findings.origin import Origin as Origin
from skillneurons.findings.origin import origin as origin
from skillneurons.findings.origin import random_model as random_model
from skillneurons.findings.origin import shuffled_task as shuffled_task
from skillneurons.findings.origin import survives_retuning as survives_retuning
from skillneurons.findings.prompts import PromptComparison as PromptComparison
from skillneurons.findings.prompts import compare_places as compare_places
from skillneurons.findings.robustness import Robustness as Robustness
from skillneurons.findings.robustness import robustness as robustness
from skillneurons.findings.score_comparison import ScoreComparison as ScoreComparison
from skillneurons.findings.score_comparison import compare_scores as compare_scores
from skillneurons.findings.several_classes import Serves as Serves
from skillneurons.findings.several_classes import SeveralClasses as SeveralClasses
from skillneurons.findings.several_classes import serves as serves
from skillneurons.findings.several_classes import several_classes as several_classes
from skillneurons.findings.specificity import CrossPerturbation as CrossPerturbation
from skillneurons.findings.specificity import TaskSimilarity as TaskSimilarity
from skillneurons.findings.specificity import cross_perturbation as cross_perturbation
from skillneurons.findings.specificity import task_similarity as task_similarity
from skillneurons.findings.stability import Stability as Stability
from skillneurons.findings.stability import stability as stability
from skillneurons.findings.stability import validation_decisions as validation_decisions
from skillneurons.findings.words import WordSelectivity as WordSelectivity
from skillneurons.findings.words import label_word_selectivity as label_word_selectivity
from skillneurons.findings.words import nearest_tokens as nearest_tokens
from skillneurons.findings.words import word_selectivity as word_selectivity
from skillneurons.utilities.lazy import public_names as _public_names


def __dir__() -> list[str]:
    return _public_names(globals())
