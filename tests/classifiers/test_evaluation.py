"""Evaluations against loops, and of rows that belong together."""

from dataclasses import asdict

import pytest
import torch

from skillneurons.classifiers._load_example import load_example
from skillneurons.classifiers.evaluation import evaluate, evaluation_of
from skillneurons.utilities.intervals import clopper_pearson, proportion
from skillneurons.utilities.row_groups import groups_of


def rows_alone(task):
    """Test rows that share nothing."""
    return [{key: value for key, value in row.items() if key != "group"} for row in task.test]


def test_an_evaluation_pays_for_rows_that_belong_together():
    classifier, task = load_example()
    together = [dict(row, group=f"film {i // 4}") for i, row in enumerate(task.test)]
    alone, result = evaluate(classifier, rows_alone(task)), evaluate(classifier, together)
    right = classifier.logits(task.test).argmax(1) == torch.tensor([row["label"] for row in task.test])
    expected = proportion(right, groups_of([row["group"] for row in together]))
    assert result.interval == (expected.low, expected.high) and result.design_effect == expected.design_effect
    assert (result.accuracy, result.margin, result.n) == (alone.accuracy, alone.margin, alone.n)
    assert result.interval[1] - result.interval[0] > alone.interval[1] - alone.interval[0]
    assert f", 8 groups, design effect {expected.design_effect:.1f}; majority" in repr(result)
    assert result.to_dataframe().columns[-4:].tolist() == ["n_groups", "design_effect", "low", "high"]


@pytest.mark.parametrize("group", [lambda i: i, lambda i: None, lambda i: [i, -i - 1]])
def test_groups_of_one_row_change_nothing(group):
    classifier, task = load_example()
    alone = evaluate(classifier, rows_alone(task))
    assert evaluate(classifier, [dict(row, group=group(i)) for i, row in enumerate(task.test)]) == alone
    assert alone.interval == clopper_pearson(round(alone.accuracy * 32), 32) and "group" not in repr(alone)
    assert [name for name, value in asdict(alone).items() if value is None] == ["n_groups", "design_effect"]
    assert "n_groups" not in alone.to_dataframe()


def test_groups_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="of 3 rows, but 4"):
        evaluation_of(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), groups_of(["a", "a", "b"]))
