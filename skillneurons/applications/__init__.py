"""What skill neurons are good for: pruning, steering, transfer; and one neuron looked at closely."""

from skillneurons.applications._pruning_controls import PruningControls as PruningControls
from skillneurons.applications._pruning_controls import pruning_controls as pruning_controls
from skillneurons.applications._pruning_report import PruningReport as PruningReport
from skillneurons.applications._pruning_report import pruning_report as pruning_report
from skillneurons.applications.indicators import IndicatorTest as IndicatorTest
from skillneurons.applications.indicators import indicator_test as indicator_test
from skillneurons.applications.indicators import transfer_indicators as transfer_indicators
from skillneurons.applications.one_neuron import NeuronCard as NeuronCard
from skillneurons.applications.one_neuron import neuron_card as neuron_card
from skillneurons.applications.pruning import forward_flops as forward_flops
from skillneurons.applications.pruning import n_parameters as n_parameters
from skillneurons.applications.pruning import prune as prune
from skillneurons.applications.pruning import weight_magnitude as weight_magnitude
from skillneurons.applications.steering import SteeringCurve as SteeringCurve
from skillneurons.applications.steering import label_direction as label_direction
from skillneurons.applications.steering import steering_curve as steering_curve
from skillneurons.applications.text_heat import TextHeat as TextHeat
from skillneurons.applications.text_heat import text_heat as text_heat
from skillneurons.applications.transfer import TransferMatrix as TransferMatrix
from skillneurons.applications.transfer import WarmStart as WarmStart
from skillneurons.applications.transfer import transfer_matrix as transfer_matrix
from skillneurons.applications.transfer import transferred as transferred
from skillneurons.applications.transfer import warm_start as warm_start
