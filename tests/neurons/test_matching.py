"""Sets from elsewhere with what ranks them, and random sets as like the chosen ones as a critic could wish."""

import pytest
import torch

from skillneurons import NeuronSet
from skillneurons.neurons.matching import Activity, Crowd, Nearness, Value

L, M = 2, 101


@pytest.fixture
def chosen():
    return NeuronSet.from_pairs([(0, 50), (1, 3), (1, 90)], n_layers=L, d_mlp=M, score=[0.1, 0.9, 0.5])


def test_a_score_ranks_a_set_and_survives_a_file(chosen, tmp_path):
    assert chosen.ranked() == [(1, 3), (1, 90), (0, 50)]
    chosen.save(tmp_path / "set")
    loaded = NeuronSet.load(tmp_path / "set")
    assert loaded.ranked() == chosen.ranked()
    assert loaded == NeuronSet(chosen.mask)  # what ranks a set is no part of which neurons it has
    assert NeuronSet(chosen.mask).ranked() == list(chosen)
    assert chosen.layers(1).ranked() == [(1, 3), (1, 90)]


def test_sets_of_other_neurons_have_no_score(chosen):
    for other in (~chosen, chosen | chosen, chosen.random_like(seed=0), chosen.random_like(seed=0, match="none")):
        assert other.score is None


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeuronSet.from_pairs([(0, 1), (0, 1)], n_layers=1, d_mlp=3, score=[1, 2]), "2 pairs of 1 neurons"),
        (lambda: NeuronSet.from_pairs([(0, 1)], n_layers=1, d_mlp=3, score=[1, 2]), "2 numbers for 1 pairs"),
        (lambda: NeuronSet(torch.ones(1, 2, dtype=torch.bool), score=torch.tensor([[0.0, torch.nan]])), "for 1 of"),
        (lambda: NeuronSet(torch.ones(1, 2, dtype=torch.bool), score=torch.zeros(2, 1)), r"\(1, 2\).*\(2, 1\)"),
        (lambda: Crowd(torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 1, 2)), r"\(2, 1, 2\).*\(1, 1, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_outside_the_set_may_be_unknown():
    score = torch.tensor([[0.5, torch.nan]])
    assert NeuronSet(torch.tensor([[True, False]]), score=score).ranked() == [(0, 0)]


def test_sets_matched_by_activity_are_as_large_and_as_spread(chosen):
    generator = torch.Generator().manual_seed(0)
    mean, spread = torch.randn(L, M, generator=generator), torch.rand(L, M, generator=generator)
    match = Activity(mean, spread)

    def away(drawn):
        """Distance of the set's means and of its spreads from the chosen ones', by layer."""
        distances = [
            (value[layer][drawn.mask[layer]].mean() - value[layer][chosen.mask[layer]].mean()).abs()
            for value in (mean, spread)
            for layer in range(L)
        ]
        return torch.stack(distances).sum()

    matched, free = (
        [away(one) for one in chosen.random_sets(20, seed=0, **how)] for how in ({"match": match}, {"match": "layer"})
    )
    assert max(matched) < min(torch.stack(free).median(), 1.5)
    assert torch.stack(matched).mean() < torch.stack(free).mean() / 2


def test_activity_matches_each_neuron_as_a_slow_loop_does():
    generator = torch.Generator().manual_seed(3)
    mean, spread = 100 * torch.randn(1, 13, generator=generator), torch.rand(1, 13, generator=generator)
    distance = Activity(mean, spread).distance(0, 5)
    for other in range(13):
        parts = [(one[0, other] - one[0, 5]) / one[0].std() for one in (mean.double(), spread.double())]
        assert distance[other] == pytest.approx(float(parts[0] ** 2 + parts[1] ** 2) ** 0.5)
    # Neurons that all have one mean are told apart by the other value.
    assert Activity(torch.zeros(1, 13), spread).distance(0, 5).argmin() == 5


def test_a_crowd_is_drawn_from_what_correlates_either_way(chosen):
    correlation = torch.zeros(len(chosen), L, M)
    rows = {address: i for i, address in enumerate(chosen)}
    crowds = {(0, 50): range(0, 10), (1, 3): range(20, 30), (1, 90): range(30, 40)}
    for address, members in crowds.items():
        correlation[rows[address], address[0], list(members)] = torch.tensor([-0.9, 0.8]).repeat(5)
    # Neurons of other layers may correlate even more, but do not take a neuron's place.
    correlation[rows[0, 50], 1] = 1.0
    match = Crowd(chosen.mask, correlation)
    for drawn in chosen.random_sets(15, seed=1, match=match):
        assert not drawn.mask.logical_and(chosen.mask).any()
        assert drawn.per_layer.tolist() == chosen.per_layer.tolist()
        for layer, neuron in drawn:
            assert any(home == layer and neuron in members for (home, _), members in crowds.items())
    # A part of the set has the same crowd.
    assert all(neuron in range(10) for _, neuron in chosen.layers(0).random_like(seed=0, match=match))


def test_a_crowd_of_other_neurons_is_refused(chosen):
    match = Crowd(chosen.mask, torch.zeros(len(chosen), L, M))
    with pytest.raises(ValueError, match=r"neuron \(0, 0\) are not known"):
        NeuronSet.from_pairs([(0, 0)], n_layers=L, d_mlp=M).random_like(seed=0, match=match)


def test_a_value_of_each_neuron_is_a_nearness_like_any_other(chosen):
    value = torch.arange(float(L * M)).reshape(L, M)
    assert isinstance(Value(value), Nearness)
    assert chosen.random_like(seed=4, match=value) == chosen.random_like(seed=4, match=Value(value))
