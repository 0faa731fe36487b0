"""One pass over examples, and the statistics that it fills."""

from skillneurons.activations._collect import collect as collect
from skillneurons.activations.cached import collect_cached as collect_cached
from skillneurons.activations.decisions import Decisions as Decisions
from skillneurons.activations.disk import StoredActivations as StoredActivations
from skillneurons.activations.disk import activations_size as activations_size
from skillneurons.activations.disk import write_activations as write_activations
from skillneurons.activations.examples import Examples as Examples
from skillneurons.activations.examples import OneNeuron as OneNeuron
from skillneurons.activations.statistic import Statistic as Statistic
from skillneurons.activations.statistic import add_sum as add_sum
from skillneurons.activations.statistic import check_activations as check_activations
from skillneurons.activations.statistic import check_even_layers as check_even_layers
from skillneurons.activations.statistic import check_n_labels as check_n_labels
from skillneurons.activations.statistic import stack_layers as stack_layers
from skillneurons.activations.statistic import widened as widened
from skillneurons.activations.sums import AboveCounts as AboveCounts
from skillneurons.activations.sums import LabelSums as LabelSums
from skillneurons.activations.text import Pool as Pool
from skillneurons.activations.text import Pooled as Pooled
