"""What a classifier answers to texts: names of labels, with each label's probability."""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from skillneurons.utilities.results import Result, as_text


@dataclass(frozen=True, eq=False, repr=False)
class Answers(Result):
    """Answers to several texts; made by `classifier.answers`.

    Args:
        probabilities: What each label has of the label words' probability.
        labels: Names of the classes.
        texts: What was answered, pairs as one text; empty for rows that were tokenized before.

    Example:
        >>> import torch
        >>> Answers(torch.tensor([[0.25, 0.75]]), ("bad", "good"), ("A great film.",))
                 text answer  p(bad)  p(good)
        A great film.   good   0.250    0.750
    """

    probabilities: Float[Tensor, "batch label"]
    labels: tuple[str, ...]
    texts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The likeliest label of each text."""
        return tuple(self.labels[i] for i in self.probabilities.argmax(dim=1).tolist())

    def __len__(self) -> int:
        return len(self.probabilities)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each text: the answer, and the probability of each label."""
        columns = {"text": self.texts} if self.texts else {}
        shares = {f"p({label})": self.probabilities[:, i].numpy() for i, label in enumerate(self.labels)}
        return pd.DataFrame(columns | {"answer": self.names} | shares)

    def __repr__(self) -> str:
        return as_text(self.to_dataframe())

    def _title(self) -> str:
        return f"{len(self)} answers"
