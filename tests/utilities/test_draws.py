"""Draws depend on what they are for: each coordinate, and nothing else; and they are normal, uniform and unrelated."""

import pytest
import torch
from scipy import stats

from skillneurons.utilities.draws import current_rows, integers, normals, rows_in_pass

ROWS, NEURONS = torch.arange(97), torch.arange(101)


def test_a_draw_is_that_of_its_row_position_and_neuron_whatever_else_is_drawn():
    whole = normals(3, ROWS, 7, NEURONS)
    rows, neurons = torch.tensor([90, 2, 41]), torch.tensor([100, 5])
    assert normals(3, rows, 5, neurons).equal(whole[rows][:, :5][..., neurons])
    places = integers(50, 3, ROWS, 7)
    assert integers(50, 3, rows, 5).equal(places[rows][:, :5])
    assert integers(50, 3, rows).equal(integers(50, 3, ROWS)[rows])


def test_normals_are_normal_and_unrelated_along_every_axis():
    whole = normals(0, ROWS, 17, NEURONS)
    assert stats.kstest(whole.flatten().numpy(), "norm").pvalue > 0.001
    for axis in range(3):
        flat = whole.movedim(axis, 0).flatten(1)
        related = torch.corrcoef(flat).fill_diagonal_(0) * flat.shape[1] ** 0.5
        n = related.numel() / 2
        assert related.abs().max() < stats.norm.ppf(1 - 0.001 / (2 * n))
    for other in (1, 1009, 2**40):
        assert (
            abs(torch.corrcoef(torch.stack([whole.flatten(), normals(other, ROWS, 17, NEURONS).flatten()]))[0, 1])
            < 0.01
        )


@pytest.mark.parametrize("n_pos", [None, 11])
def test_integers_are_uniform(n_pos):
    drawn = integers(13, 5, torch.arange(20_000), n_pos)
    assert stats.chisquare(drawn.flatten().bincount(minlength=13).numpy()).pvalue > 0.001
    assert int(drawn.min()) == 0 and int(drawn.max()) == 12


def test_rows_of_a_pass_are_those_that_were_said_until_it_ends():
    def stops():
        with rows_in_pass(torch.tensor([4, 2])):
            assert current_rows(2).tolist() == [4, 2]
            assert current_rows(3).tolist() == [0, 1, 2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stops()
    assert current_rows(2).tolist() == [0, 1]
