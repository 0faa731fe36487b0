"""Weights of linear probes over all neurons at once, sparse or dense (scikit-learn).

Memory: each row's activations averaged over the prompt's positions, in float32, and again scaled in float64: 12 bytes
for each row and neuron, of train and of validation.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from skillneurons.utilities.types import Json


class DidNotConverge(ValueError):
    """A probe's solver ran out of steps. `rival_scores` leaves such a score out and keeps the others."""


def probe_weights(
    train: Float[Tensor, "batch layer neuron"],
    train_labels: Int[Tensor, " batch"],
    validation: Float[Tensor, "row layer neuron"],
    validation_labels: Int[Tensor, " row"],
    *,
    l1_ratio: float = 1.0,
    strengths: tuple[float, ...] = (0.01, 0.1, 1.0),
    max_iter: int = 1000,
    seed: int = 0,
) -> tuple[Float[Tensor, "layer neuron"], dict[str, Json]]:
    """Absolute weights of a logistic regression on all neurons, each in units of its standard deviation.

    Neurons that say the same share or steal each other's weight, so a weight is not a neuron's own merit. Source:
    Dalvi et al. 2019 (elastic net over neurons).

    Args:
        train: What the probe is fitted on.
        train_labels: 0 or 1.
        validation: Chooses the penalty.
        validation_labels: 0 or 1.
        l1_ratio: 1 for lasso, between 0 and 1 for elastic net, 0 for ridge.
        strengths: Inverse penalties to choose from (scikit-learn's `C`); of equals the strongest penalty.
        max_iter: Of the solver.
        seed: Of its order of rows.

    Returns:
        The weights, and the chosen `C`, validation accuracy and number of neurons with a weight.

    Raises:
        DidNotConverge: The solver has used up `max_iter` steps.
    """
    centre, scale = train.mean(0), train.std(0)
    # A constant neuron, dead for instance, says nothing and gets no weight.
    scale = torch.where(scale > 1e-6 * (centre.abs() + 1e-6), scale, torch.inf)
    x, x_validation = (((part - centre) / scale).flatten(1).double().numpy() for part in (train, validation))
    y, y_validation = train_labels.numpy(), validation_labels.numpy()
    best: tuple[float, float, np.ndarray] | None = None
    for strength in strengths:
        probe = LogisticRegression(**_penalty(l1_ratio), C=strength, tol=1e-3, max_iter=max_iter, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                probe.fit(x, y)
            except ConvergenceWarning as error:
                raise DidNotConverge(
                    f"The probe with C = {strength} and l1_ratio {l1_ratio} did not converge in {max_iter} steps. "
                    "Raise `max_iter` or use smaller `strengths`."
                ) from error
        accuracy = float(probe.score(x_validation, y_validation))
        if best is None or accuracy > best[0]:
            best = accuracy, strength, np.abs(probe.coef_[0])
    assert best is not None
    weights = torch.from_numpy(best[2]).float().reshape(train.shape[1:])
    return weights, {"C": best[1], "validation_accuracy": best[0], "n_weights": int((weights > 0).sum())}


def _penalty(l1_ratio: float) -> dict[str, Json]:
    """What scikit-learn calls the penalty: `penalty` up to 1.7, only `l1_ratio` from 1.8 on."""
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"`l1_ratio` is 1 for lasso, 0 for ridge, or between for elastic net, not {l1_ratio}.")
    solver = {"solver": {0.0: "lbfgs", 1.0: "liblinear"}.get(l1_ratio, "saga")}
    if LogisticRegression().penalty == "deprecated":
        return solver | {"l1_ratio": l1_ratio}
    if l1_ratio in (0, 1):
        return solver | {"penalty": ("l2", "l1")[int(l1_ratio)]}
    return solver | {"penalty": "elasticnet", "l1_ratio": l1_ratio}
