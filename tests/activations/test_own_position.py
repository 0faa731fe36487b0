"""Sums and residuals of each neuron at its own position, against all activations at once."""

import numpy as np
import pytest
import torch

from skillneurons import collect_cached
from skillneurons.activations.own_position import Curve, CurveSums, OwnRows, Projections, ResidualCounts

N, P, L, M = 31, 3, 2, 13


@pytest.fixture(scope="module")
def values():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (N,), generator=generator)
    return torch.randn(N, P, L, M, generator=generator), labels, torch.randint(P, (L, M), generator=generator)


def filled(values, statistic, rows=slice(None)):
    activations, labels, _ = values
    parts = [
        {f"blocks.{layer}.mlp.hook_post": activations[rows][:, :, layer] for layer in range(L)},
    ]
    return collect_cached([(parts[0], labels[rows])], statistic, positions=slice(0, P))


def own(values):
    activations, _, position = values
    return activations.double().gather(1, position.expand(N, 1, L, M))[:, 0]


def test_rows_and_projections_are_those_of_each_neurons_position(values):
    centre = torch.arange(L * M).reshape(L, M) / 10
    rows = filled(values, OwnRows(N, values[2], centre))
    torch.testing.assert_close(torch.stack(rows.parts, 1).double(), own(values) - centre, atol=1e-6, rtol=0)
    weights = torch.randn(5, L, M, generator=torch.Generator().manual_seed(1))
    found = filled(values, Projections(N, values[2], centre, weights)).values
    slow = torch.einsum("bln,kln->bk", own(values) - centre, weights.double())
    torch.testing.assert_close(found, slow, atol=1e-5, rtol=0)


def test_residuals_are_those_of_numpys_least_squares_and_merge(values):
    centre, direction = own(values).mean(0), torch.randn(L, M, generator=torch.Generator().manual_seed(2)).double()
    curve = Curve(direction, torch.tensor([-1.0, 0.5]).double())
    sums = filled(values, CurveSums(values[2], centre, curve))
    x = (own(values) - centre).flatten(1).numpy()
    signal = x @ direction.flatten().numpy()
    terms = np.column_stack([np.ones(N), signal, np.maximum(signal + 1, 0), np.maximum(signal - 0.5, 0)])
    slow, *_ = np.linalg.lstsq(terms, x, rcond=None)
    np.testing.assert_allclose(sums.coefficients.flatten(1), slow, atol=1e-6)
    left = ((x - terms @ slow) ** 2).sum(0) / (x**2).sum(0)
    np.testing.assert_allclose(sums.left.flatten(), left, atol=1e-6)

    halves = [filled(values, CurveSums(values[2], centre, curve), part) for part in (slice(0, 11), slice(11, None))]
    merged = halves[0].merge(halves[1])
    torch.testing.assert_close(merged.coefficients, sums.coefficients, atol=1e-6, rtol=0)

    counted = filled(values, ResidualCounts(values[2], centre, curve, sums.coefficients, 2))
    above = (x - terms @ slow > 0).reshape(N, L, M)
    for label in (0, 1):
        assert np.array_equal(counted.above[label, 0].numpy(), above[values[1].numpy() == label].sum(0))
    assert counted.n.tolist() == values[1].bincount().tolist()
