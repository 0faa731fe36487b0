"""Scores of neurons, sets of the best, and how sure one can be of them."""

from skillneurons.neurons._permutation_test import PermutationTest as PermutationTest
from skillneurons.neurons._permutation_test import permutation_test as permutation_test
from skillneurons.neurons._predictivity import accuracy as accuracy
from skillneurons.neurons._predictivity import baseline_activation as baseline_activation
from skillneurons.neurons._predictivity import best_position as best_position
from skillneurons.neurons._predictivity import held_out_accuracy as held_out_accuracy
from skillneurons.neurons._predictivity import predictivity as predictivity
from skillneurons.neurons.controls import against_random as against_random
from skillneurons.neurons.controls import claims as claims
from skillneurons.neurons.controls import selectivity as selectivity
from skillneurons.neurons.neuron_set import NeuronSet as NeuronSet
from skillneurons.neurons.neuron_set import top_like as top_like
from skillneurons.neurons.neuron_set import top_neurons as top_neurons
from skillneurons.neurons.p_values import adjusted as adjusted
from skillneurons.neurons.p_values import association_p_values as association_p_values
from skillneurons.neurons.p_values import binomial_intervals as binomial_intervals
from skillneurons.neurons.p_values import combine_seeds as combine_seeds
from skillneurons.neurons.p_values import held_out_intervals as held_out_intervals
from skillneurons.neurons.p_values import held_out_p_values as held_out_p_values
from skillneurons.neurons.p_values import neuron_p_values as neuron_p_values
from skillneurons.neurons.scores import NeuronScores as NeuronScores
from skillneurons.neurons.scores import find_skill_neurons as find_skill_neurons
