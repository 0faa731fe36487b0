"""Skill neurons of pretrained transformers: find them, test them, use them.

What the package offers is imported when it is first asked for.
"""

import typing as _typing
from functools import partial as _partial
from importlib import import_module as _import_module
from importlib.metadata import version as _version

from skillneurons.utilities import lazy as _lazy
from skillneurons.utilities.lazy import MovedModules as _MovedModules

if _typing.TYPE_CHECKING:
    from skillneurons.activations._collect import collect as collect
    from skillneurons.activations.cached import collect_cached as collect_cached
    from skillneurons.activations.decisions import Decisions as Decisions
    from skillneurons.activations.disk import StoredActivations as StoredActivations
    from skillneurons.activations.disk import activations_size as activations_size
    from skillneurons.activations.disk import write_activations as write_activations
    from skillneurons.activations.examples import Examples as Examples
    from skillneurons.activations.sums import AboveCounts as AboveCounts
    from skillneurons.activations.sums import LabelSums as LabelSums
    from skillneurons.applications._pruning_report import PruningReport as PruningReport
    from skillneurons.applications._pruning_report import pruning_report as pruning_report
    from skillneurons.applications.indicators import IndicatorTest as IndicatorTest
    from skillneurons.applications.indicators import indicator_test as indicator_test
    from skillneurons.applications.indicators import transfer_indicators as transfer_indicators
    from skillneurons.applications.one_neuron import NeuronCard as NeuronCard
    from skillneurons.applications.one_neuron import neuron_card as neuron_card
    from skillneurons.applications.pruning import prune as prune
    from skillneurons.applications.steering import SteeringCurve as SteeringCurve
    from skillneurons.applications.steering import label_direction as label_direction
    from skillneurons.applications.steering import steering_curve as steering_curve
    from skillneurons.applications.text_heat import TextHeat as TextHeat
    from skillneurons.applications.text_heat import text_heat as text_heat
    from skillneurons.applications.transfer import TransferMatrix as TransferMatrix
    from skillneurons.applications.transfer import WarmStart as WarmStart
    from skillneurons.applications.transfer import transfer_matrix as transfer_matrix
    from skillneurons.applications.transfer import warm_start as warm_start
    from skillneurons.classifiers._load_example import load_example as load_example
    from skillneurons.classifiers.bitfit_and_adapters import tune_adapter as tune_adapter
    from skillneurons.classifiers.bitfit_and_adapters import tune_bitfit as tune_bitfit
    from skillneurons.classifiers.classifier import Classifier as Classifier
    from skillneurons.classifiers.evaluation import Evaluation as Evaluation
    from skillneurons.classifiers.evaluation import evaluate as evaluate
    from skillneurons.classifiers.peft import load_peft as load_peft
    from skillneurons.classifiers.peft import save_peft as save_peft
    from skillneurons.classifiers.prompts import Layout as Layout
    from skillneurons.classifiers.prompts import SoftPrompt as SoftPrompt
    from skillneurons.classifiers.prompts import Verbalizer as Verbalizer
    from skillneurons.classifiers.prompts import random_prompt as random_prompt
    from skillneurons.classifiers.prompts import written_prompt as written_prompt
    from skillneurons.classifiers.tuning import TuningConfig as TuningConfig
    from skillneurons.classifiers.tuning import TuningWarning as TuningWarning
    from skillneurons.classifiers.tuning import tune_prompt as tune_prompt
    from skillneurons.findings import cross_perturbation as cross_perturbation
    from skillneurons.findings import localization as localization
    from skillneurons.findings import necessity as necessity
    from skillneurons.findings import task_similarity as task_similarity
    from skillneurons.findings.score_comparison import ScoreComparison as ScoreComparison
    from skillneurons.findings.score_comparison import compare_scores as compare_scores
    from skillneurons.interventions.curve import PerturbationCurve as PerturbationCurve
    from skillneurons.interventions.curve import perturbation_curve as perturbation_curve
    from skillneurons.interventions.hooks import gaussian as gaussian
    from skillneurons.interventions.hooks import mean as mean
    from skillneurons.interventions.hooks import resample as resample
    from skillneurons.interventions.hooks import steer as steer
    from skillneurons.interventions.hooks import zero as zero
    from skillneurons.models._load_model import load_model as load_model
    from skillneurons.models.bridge import as_classifiable as as_classifiable
    from skillneurons.models.config import EncoderConfig as EncoderConfig
    from skillneurons.models.encoder import HookedEncoder as HookedEncoder
    from skillneurons.models.encoder_parts.class_head import Head as Head
    from skillneurons.neurons._permutation_test import PermutationTest as PermutationTest
    from skillneurons.neurons._permutation_test import permutation_test as permutation_test
    from skillneurons.neurons._predictivity import accuracy as accuracy
    from skillneurons.neurons._predictivity import baseline_activation as baseline_activation
    from skillneurons.neurons._predictivity import predictivity as predictivity
    from skillneurons.neurons.controls import against_random as against_random
    from skillneurons.neurons.controls import claims as claims
    from skillneurons.neurons.controls import selectivity as selectivity
    from skillneurons.neurons.neuron_set import NeuronSet as NeuronSet
    from skillneurons.neurons.neuron_set import top_neurons as top_neurons
    from skillneurons.neurons.other_scores.attribution import gradient_attribution as gradient_attribution
    from skillneurons.neurons.other_scores.attribution import integrated_gradients as integrated_gradients
    from skillneurons.neurons.other_scores.table import RivalScores as RivalScores
    from skillneurons.neurons.other_scores.table import rival_scores as rival_scores
    from skillneurons.neurons.scores import NeuronScores as NeuronScores
    from skillneurons.neurons.scores import find_skill_neurons as find_skill_neurons
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
    from skillneurons.runs.hub import RunFiles as RunFiles
    from skillneurons.runs.hub import pull_run as pull_run
    from skillneurons.runs.hub import push_run as push_run
    from skillneurons.tasks._control_task import control_task as control_task
    from skillneurons.tasks._load_task import bundled_tasks as bundled_tasks
    from skillneurons.tasks._load_task import load_task as load_task
    from skillneurons.tasks.task import Task as Task

__version__ = _version("skillneurons")

# Where the modules of 0.1 are now.
_MOVED = {
    "activation_store": ("activations.disk",),
    "batching": ("tasks.batching",),
    "blocks": ("models.blocks",),
    "bridge": ("models.bridge",),
    "bridge_blocks": ("models.bridge_blocks",),
    "checkpoints": ("models.checkpoints",),
    "classifier": ("classifiers.classifier",),
    "config": ("models.config",),
    "controls": ("tasks._control_task", "neurons.controls"),
    "decisions": ("activations.decisions", "neurons._permutation_test"),
    "delta": ("classifiers.bitfit_and_adapters",),
    "devices": ("utilities.devices",),
    "display": ("utilities.results",),
    "distributed": ("activations.distributed",),
    "encoder": ("models.encoder",),
    "encoder_checks": ("models.encoder_parts.input_checks",),
    "encoder_files": ("models.encoder_parts.files",),
    "evaluation": (
        "classifiers.evaluation",
        "utilities.intervals",
        "interventions.perturbation",
        "interventions.curve",
    ),
    "example": ("classifiers._load_example",),
    "findings.selectivity": ("findings.words",),
    "finished": ("runs._open_run",),
    "identity": ("utilities.fingerprints",),
    "interop": (
        "classifiers.peft:save_peft",
        "classifiers.peft:load_peft",
        "activations.cached:collect_cached",
        "runs.hub:RunFiles",
        "runs.hub:push_run",
        "runs.hub:pull_run",
    ),
    "interop.cache": ("activations.cached",),
    "interop.hub": ("runs.hub",),
    "interop.peft": ("classifiers.peft",),
    "jobs": ("runs.jobs",),
    "loading": ("tasks._load_task",),
    "one_neuron": ("applications.one_neuron", "applications.text_heat"),
    "pooling": ("activations.text",),
    "predictivity": ("neurons._predictivity",),
    "prompts": ("classifiers.prompts",),
    "pruning": ("applications.pruning",),
    "pruning_report": ("applications._pruning_report",),
    "report": ("runs.report",),
    "reproduce": ("runs._reproduce",),
    "reproduce_applications": ("findings.record",),
    "reproduce_findings": ("findings.record",),
    "reproduce_summary": ("runs._summary", "findings.common:difference"),
    "rivals": (
        "neurons.other_scores",
        "findings.score_comparison:ScoreComparison",
        "findings.score_comparison:compare_scores",
    ),
    "rivals.attribution": ("neurons.other_scores.attribution",),
    "rivals.compare": ("findings.score_comparison",),
    "rivals.measures": ("neurons.other_scores.measures",),
    "rivals.probes": ("neurons.other_scores.probes",),
    "rivals.streams": ("neurons.other_scores.moments",),
    "rivals.table": ("neurons.other_scores.table",),
    "runs.reproduce_findings": ("findings.record",),
    "scores": ("neurons.scores",),
    "statistics": ("neurons.p_values",),
    "steering": ("applications.steering",),
    "store": ("utilities.store",),
    "sweeps": ("interventions.sweep",),
    "terminal": ("cli.terminal",),
    "transfer": ("applications.transfer",),
    "transfer_indicators": ("applications.indicators",),
    "trials": ("runs.trials",),
    "tuning": ("classifiers.tuning",),
    "types": ("utilities.types",),
}
_MovedModules("skillneurons", _MOVED, silent=[name for name in _MOVED if name.startswith("rivals")]).install()

_NAMES = _lazy.deferred_imports(__file__)
_FOLDERS = (
    *("activations", "applications", "classifiers", "cli", "findings", "interventions", "models", "neurons"),
    *("plots", "rivals", "runs", "tasks", "utilities"),
)
_lazy.FIGURES.load = _partial(_import_module, f"{__name__}.plots")

__getattr__ = _lazy.lazy_getattr(globals(), _NAMES, _FOLDERS)


def __dir__() -> list[str]:
    return sorted([*_NAMES, "findings", "plots", "rivals"])


# Of `from skillneurons import *`: no submodules, whose names (`scores`, `types`, …) readers use for their own.
__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]
