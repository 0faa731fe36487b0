"""Skill neurons of pretrained transformers: find them, test them, use them."""

from importlib.metadata import version as _version

from skillneurons.activation_store import StoredActivations as StoredActivations
from skillneurons.activation_store import activations_size as activations_size
from skillneurons.activation_store import write_activations as write_activations
from skillneurons.activations import AboveCounts as AboveCounts
from skillneurons.activations import Examples as Examples
from skillneurons.activations import LabelSums as LabelSums
from skillneurons.activations import collect as collect
from skillneurons.bridge import as_classifiable as as_classifiable
from skillneurons.classifier import Classifier as Classifier
from skillneurons.config import EncoderConfig as EncoderConfig
from skillneurons.controls import against_random as against_random
from skillneurons.controls import claims as claims
from skillneurons.controls import control_task as control_task
from skillneurons.controls import selectivity as selectivity
from skillneurons.decisions import Decisions as Decisions
from skillneurons.decisions import PermutationTest as PermutationTest
from skillneurons.decisions import permutation_test as permutation_test
from skillneurons.delta import tune_adapter as tune_adapter
from skillneurons.delta import tune_bitfit as tune_bitfit
from skillneurons.display import public_names as _public_names
from skillneurons.encoder import HookedEncoder as HookedEncoder
from skillneurons.evaluation import Evaluation as Evaluation
from skillneurons.evaluation import PerturbationCurve as PerturbationCurve
from skillneurons.evaluation import evaluate as evaluate
from skillneurons.evaluation import perturbation_curve as perturbation_curve
from skillneurons.example import load_example as load_example
from skillneurons.findings import cross_perturbation as cross_perturbation
from skillneurons.findings import necessity as necessity
from skillneurons.findings import task_similarity as task_similarity
from skillneurons.interop import RunFiles as RunFiles
from skillneurons.interop import collect_cached as collect_cached
from skillneurons.interop import load_peft as load_peft
from skillneurons.interop import pull_run as pull_run
from skillneurons.interop import push_run as push_run
from skillneurons.interop import save_peft as save_peft
from skillneurons.interventions import gaussian as gaussian
from skillneurons.interventions import mean as mean
from skillneurons.interventions import resample as resample
from skillneurons.interventions import steer as steer
from skillneurons.interventions import zero as zero
from skillneurons.loading import bundled_tasks as bundled_tasks
from skillneurons.loading import load_task as load_task
from skillneurons.models import load_model as load_model
from skillneurons.neurons import NeuronSet as NeuronSet
from skillneurons.neurons import top_neurons as top_neurons
from skillneurons.one_neuron import NeuronCard as NeuronCard
from skillneurons.one_neuron import TextHeat as TextHeat
from skillneurons.one_neuron import neuron_card as neuron_card
from skillneurons.one_neuron import text_heat as text_heat
from skillneurons.plots import plot_activation_histogram as plot_activation_histogram
from skillneurons.plots import plot_claims as plot_claims
from skillneurons.plots import plot_indicators as plot_indicators
from skillneurons.plots import plot_null as plot_null
from skillneurons.plots import plot_perturbation as plot_perturbation
from skillneurons.plots import plot_predictivity_by_layer as plot_predictivity_by_layer
from skillneurons.plots import plot_pruning as plot_pruning
from skillneurons.plots import plot_score_agreement as plot_score_agreement
from skillneurons.plots import plot_score_effects as plot_score_effects
from skillneurons.plots import plot_steering as plot_steering
from skillneurons.plots import plot_transfer as plot_transfer
from skillneurons.plots import plot_warm_start as plot_warm_start
from skillneurons.predictivity import accuracy as accuracy
from skillneurons.predictivity import baseline_activation as baseline_activation
from skillneurons.predictivity import predictivity as predictivity
from skillneurons.prompts import Layout as Layout
from skillneurons.prompts import SoftPrompt as SoftPrompt
from skillneurons.prompts import Verbalizer as Verbalizer
from skillneurons.prompts import random_prompt as random_prompt
from skillneurons.prompts import written_prompt as written_prompt
from skillneurons.pruning import prune as prune
from skillneurons.pruning_report import PruningReport as PruningReport
from skillneurons.pruning_report import pruning_report as pruning_report
from skillneurons.rivals import RivalScores as RivalScores
from skillneurons.rivals import ScoreComparison as ScoreComparison
from skillneurons.rivals import compare_scores as compare_scores
from skillneurons.rivals import gradient_attribution as gradient_attribution
from skillneurons.rivals import integrated_gradients as integrated_gradients
from skillneurons.rivals import rival_scores as rival_scores
from skillneurons.scores import NeuronScores as NeuronScores
from skillneurons.scores import find_skill_neurons as find_skill_neurons
from skillneurons.steering import SteeringCurve as SteeringCurve
from skillneurons.steering import label_direction as label_direction
from skillneurons.steering import steering_curve as steering_curve
from skillneurons.tasks import Task as Task
from skillneurons.transfer import TransferMatrix as TransferMatrix
from skillneurons.transfer import WarmStart as WarmStart
from skillneurons.transfer import transfer_matrix as transfer_matrix
from skillneurons.transfer import warm_start as warm_start
from skillneurons.transfer_indicators import IndicatorTest as IndicatorTest
from skillneurons.transfer_indicators import indicator_test as indicator_test
from skillneurons.transfer_indicators import transfer_indicators as transfer_indicators
from skillneurons.tuning import TuningConfig as TuningConfig
from skillneurons.tuning import TuningWarning as TuningWarning
from skillneurons.tuning import tune_prompt as tune_prompt

__version__ = _version("skillneurons")


def __dir__() -> list[str]:
    return _public_names(globals(), "findings", "plots", "rivals")


# Of `from skillneurons import *`: no submodules, whose names (`scores`, `types`, …) readers use for their own.
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]
