"""Changes of neurons as hooks, and sweeps over many of them."""

from skillneurons.interventions._logits_many import logits_many as logits_many
from skillneurons.interventions.curve import PerturbationCurve as PerturbationCurve
from skillneurons.interventions.curve import perturbation_curve as perturbation_curve
from skillneurons.interventions.hooks import Change as Change
from skillneurons.interventions.hooks import Positions as Positions
from skillneurons.interventions.hooks import gaussian as gaussian
from skillneurons.interventions.hooks import mean as mean
from skillneurons.interventions.hooks import resample as resample
from skillneurons.interventions.hooks import resample_words as resample_words
from skillneurons.interventions.hooks import steer as steer
from skillneurons.interventions.hooks import zero as zero
from skillneurons.interventions.perturbation import Intervention as Intervention
from skillneurons.interventions.perturbation import Perturbation as Perturbation
from skillneurons.interventions.perturbation import intervention as intervention
from skillneurons.interventions.perturbation import perturbs as perturbs
from skillneurons.interventions.sweep import SweepSettings as SweepSettings
from skillneurons.interventions.sweep import Swept as Swept
