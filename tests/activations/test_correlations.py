"""Correlations from sums against numpy's, with all activations at once."""

import numpy as np
import pytest
import torch
from planted import planted_classifier

from skillneurons import Examples, collect, collect_cached
from skillneurons.activations.correlations import AtOwnPosition, Correlations
from skillneurons.activations.text import Pooled


def by_numpy(values, position, chosen, labels=None):
    """`[chosen layer neuron]`, from `[batch prompt layer neuron]`: each pair by itself."""
    own = torch.gather(values.double(), 1, position.expand(len(values), 1, *position.shape))[:, 0].flatten(1).numpy()
    if labels is not None:
        for label in (0, 1):
            own[labels == label] -= own[labels == label].mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(own.T)[chosen.flatten().numpy()].reshape(-1, *position.shape)


@pytest.fixture(scope="module")
def collected():
    planted = planted_classifier(0)
    generator = torch.Generator().manual_seed(0)
    position = torch.randint(5, (3, 29), generator=generator)
    chosen = torch.rand(3, 29, generator=generator) < 0.2
    rows = planted.task.test
    values = collect(planted.classifier, rows, Examples(len(rows))).values
    return planted, rows, values, chosen, position


@pytest.mark.parametrize("tokens_per_batch", [40, 4096])
def test_correlations_are_numpys(collected, tokens_per_batch):
    planted, rows, values, chosen, position = collected
    statistic = Correlations(chosen, position, values.mean(0).gather(0, position[None])[0])
    found = collect(planted.classifier, rows, statistic, tokens_per_batch=tokens_per_batch)
    np.testing.assert_allclose(found.correlation, by_numpy(values, position, chosen), atol=1e-5)
    labels = np.array(rows.labels)
    np.testing.assert_allclose(found.within, by_numpy(values, position, chosen, labels), atol=1e-4)
    own = values.double().gather(1, position.expand(len(values), 1, 3, 29))[:, 0]
    np.testing.assert_allclose(found.mean, own.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.variance, own.var(0, correction=0), atol=1e-5)


def test_two_passes_merge_to_one(collected):
    planted, rows, _, chosen, position = collected
    centre = torch.zeros(3, 29)
    whole = collect(planted.classifier, rows, Correlations(chosen, position, centre))
    parts = [
        collect(planted.classifier, some, Correlations(chosen, position, centre)) for some in (rows[:31], rows[31:])
    ]
    merged = parts[0].merge(parts[1])
    # In other batches, activations in float32 may differ by rounding.
    torch.testing.assert_close(merged.correlation, whole.correlation, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.within, whole.within, atol=1e-6, rtol=0)
    assert torch.equal(merged.n, whole.n)


def cached(values, labels, statistic):
    """The statistic of activations `[batch prompt layer neuron]`."""
    cache = {f"blocks.{layer}.mlp.hook_post": values[:, :, layer] for layer in range(values.shape[2])}
    return collect_cached([(cache, labels)], statistic, positions=slice(0, values.shape[1]))


def test_large_means_and_constant_neurons_do_no_harm():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(50, 1, 2, 5, generator=generator, dtype=torch.float64) + 3000
    values[:, 0, 1, 4] = 0.1
    labels, position = torch.arange(50) % 2, torch.zeros(2, 5, dtype=torch.long)
    chosen = torch.tensor([[True, False, False, True, False], [False, True, False, False, True]])
    for centre in (torch.zeros(2, 5), torch.full((2, 5), 2999.0)):
        found = cached(values, labels, Correlations(chosen, position, centre)).correlation
        expected = by_numpy(values, position, chosen)
        expected[3], expected[:, 1, 4] = 0, 0  # says nothing; numpy correlates its rounding
        np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-8)
        assert found[3].abs().max() == 0  # says nothing
        assert found[:, 1, 4].abs().max() == 0


def test_words_are_correlated_by_their_means():
    planted = planted_classifier(0)
    position, chosen = torch.zeros(3, 29, dtype=torch.long), torch.eye(3, 29).bool()
    statistic = Pooled(Correlations(chosen, position, torch.zeros(3, 29)), "mean")
    found = collect(planted.classifier, planted.task.test, statistic, positions="text").inner
    assert found.correlation[0, 0, 0] == pytest.approx(1)


@pytest.mark.parametrize(("n_prompt", "width"), [(2, 5), (3, 4)])
def test_positions_of_another_prompt_are_refused(n_prompt, width):
    position = torch.full((1, 5), 2)
    with pytest.raises(ValueError, match=rf"of 5 neurons, up to position 2.*{width} at {n_prompt} positions"):
        AtOwnPosition(position, torch.zeros(1, 5)).complete(0, torch.zeros(7, n_prompt, width))
