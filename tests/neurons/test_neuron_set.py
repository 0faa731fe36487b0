"""NeuronSet: algebra against Python sets, choice, matched random sets, files."""

import pytest
import torch
from helpers import unchecked
from hypothesis import given, settings
from hypothesis import strategies as st

from skillneurons import NeuronSet, top_neurons

L, M = 3, 7
ADDRESSES = st.sets(st.tuples(st.integers(0, L - 1), st.integers(0, M - 1)))


def neuron_set(pairs, model=None):
    return NeuronSet.from_pairs(sorted(pairs), n_layers=L, d_mlp=M, model=model)


@settings(deadline=None)
@given(ADDRESSES, ADDRESSES)
def test_set_algebra_is_that_of_python_sets(a, b):
    x, y = neuron_set(a), neuron_set(b)
    everything = {(layer, neuron) for layer in range(L) for neuron in range(M)}
    for ours, theirs in ((x | y, a | b), (x & y, a & b), (x - y, a - b), (~x, everything - a)):
        assert set(ours) == theirs
        assert len(ours) == len(theirs)
    assert (x == y) == (a == b)
    assert all((address in x) == (address in a) for address in everything)
    if a and b:
        assert x.overlap(y) == len(a & b) / min(len(a), len(b))


@settings(deadline=None)
@given(ADDRESSES, st.integers(0, 99))
def test_random_sets_are_disjoint_and_matched_by_layer(pairs, seed):
    chosen = neuron_set(pairs)
    if (chosen.per_layer > M // 2).any():
        with pytest.raises(ValueError, match=r"needs \d+ neurons in layer \d, but only \d are left"):
            chosen.random_like(seed=seed)
        return
    random = chosen.random_like(seed=seed)
    assert not set(random) & set(chosen)
    assert torch.equal(random.per_layer, chosen.per_layer)
    assert random == chosen.random_like(seed=seed)


def test_random_sets_are_uniform_over_the_free_neurons():
    chosen = neuron_set({(1, 0), (1, 1)})
    draws = torch.stack([chosen.random_like(seed=seed).mask for seed in range(600)]).float().mean(0)
    assert draws[1, :2].sum() == 0
    assert draws[0].sum() == 0
    torch.testing.assert_close(draws[1, 2:], torch.full((5,), 2 / 5), atol=0.08, rtol=0)


def test_random_sets_leave_out_what_they_are_told_to():
    chosen, taken = neuron_set({(0, 0)}), neuron_set({(0, i) for i in range(1, 6)})
    assert set(chosen.random_like(seed=0, exclude=taken)) == {(0, 6)}
    assert len(chosen.random_like(seed=0, match="none")) == 1


def test_random_sets_matched_by_value_are_close_in_it():
    score = torch.arange(200.0).reshape(2, 100)
    chosen = NeuronSet.from_pairs([(0, 50), (1, 3)], n_layers=2, d_mlp=100)
    for seed in range(5):
        drawn = sorted(chosen.random_like(seed=seed, match=score))
        assert [layer for layer, _ in drawn] == [0, 1]
        assert abs(drawn[0][1] - 50) <= 6
        assert abs(drawn[1][1] - 3) <= 10


def test_top_neurons_per_layer_and_overall():
    score = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    assert list(top_neurons(score, 0.5)) == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert list(top_neurons(score, 0.5, per_layer=False)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert len(top_neurons(score, 0.0)) == 0
    assert len(top_neurons(score, 0.001)) == 2
    assert len(top_neurons(score, 1.0)) == 8


def test_ties_go_to_the_lower_address():
    assert list(top_neurons(torch.zeros(2, 5), 0.2, per_layer=False)) == [(0, 0), (0, 1)]


def test_a_set_survives_a_file(tmp_path):
    chosen = NeuronSet(neuron_set({(0, 1), (2, 6)}).mask, "abc", {"seeds": [0, 1], "task": "movies"})
    chosen.save(tmp_path / "skill")
    loaded = NeuronSet.load(tmp_path / "skill")
    assert loaded == chosen
    assert (loaded.model, loaded.meta) == (chosen.model, chosen.meta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neuron_set({(0, 0)}, "aa") | neuron_set({(0, 0)}, "bb"), "aa.*bb"),
        (lambda: neuron_set({(0, 0)}) & NeuronSet(torch.zeros(2, 2, dtype=torch.bool)), r"\(3, 7\).*\(2, 2\)"),
        (lambda: NeuronSet.from_pairs([(3, 0)], n_layers=L, d_mlp=M), r"\(3, 0\)"),
        (lambda: top_neurons(torch.zeros(2, 2), 2.0), "2.0"),
        (lambda: top_neurons(torch.full((2, 2), torch.nan), 0.5), "NaN"),
        (lambda: neuron_set({(0, 0)}).random_like(seed=0, match=unchecked("depth")), "depth"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_overlap_with_an_empty_set_is_not_a_number():
    assert neuron_set({(0, 0)}).overlap(neuron_set(set())) != 0
    assert neuron_set(set()).overlap(neuron_set(set())) != neuron_set(set()).overlap(neuron_set(set()))
